//! Kafka brokers of a test's own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::Path;

/// Brokers of a test's own, which it may kill.
pub struct Cluster {
    dir: tempfile::TempDir,
    pub brokers: String,
}

impl Cluster {
    fn run(dir: &Path, command: &[&str]) -> std::process::Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/cluster");
        let done = std::process::Command::new(script).arg(command[0]).arg(dir).args(&command[1..]).output().unwrap();
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
        done
    }

    pub fn start(nodes: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Below the ports that the system gives out, and above those of the shared broker.
        let port = (30_000 + u32::from(rand::random::<u16>()) % 2_700).to_string();
        let said = Self::run(dir.path(), &["up", "--nodes", &nodes.to_string(), "--port", &port]).stdout;
        Self { dir, brokers: String::from_utf8(said).unwrap().trim().to_owned() }
    }

    pub fn broker(&self, command: &str, number: usize) {
        Self::run(self.dir.path(), &[command, &number.to_string()]);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        Self::run(self.dir.path(), &["down"]);
    }
}
