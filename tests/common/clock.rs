//! A process's own clock, which its test sets.

use super::preload;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

static LIBRARY: LazyLock<PathBuf> = LazyLock::new(|| preload::compiled("clock"));

pub struct Clock {
    /// Seconds, as `clock.c` reads them.
    file: PathBuf,
}

impl Clock {
    /// The true time.
    pub fn new(file: PathBuf) -> Self {
        let clock = Self { file };
        clock.set(0);
        clock
    }

    /// Lets it be so many seconds ahead of the true time, or behind it.
    pub fn set(&self, ahead: i64) {
        // Written over: who has it in memory must not find it shorter.
        let mut file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&self.file).unwrap();
        file.write_all(&ahead.to_ne_bytes()).unwrap();
    }

    /// Lets a process that is to be started have it.
    pub fn show(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &*LIBRARY).env("CALLSIEVE_TEST_CLOCK", &self.file);
    }
}
