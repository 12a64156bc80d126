//! A service under test: the binary as a process, with a disk of its own where the system lets us make one.

use crate::common::TOKEN;
use crate::common::clock::Clock;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Room for the states of a run and for what is set aside of them.
const DISK_BYTES: u64 = 256 << 20;

/// A disk that can be filled without harm to others: a memory file system, which takes the right to mount one.
pub struct Disk {
    pub dir: PathBuf,
    pub is_own: bool,
}

impl Disk {
    pub fn make(dir: PathBuf) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={DISK_BYTES}"), "none"]).arg(&dir).stderr(Stdio::null()).status();
        Self { dir, is_own: mount.is_ok_and(|status| status.success()) }
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    /// Leaves no byte free.
    pub fn fill(&self) {
        assert!(self.is_own, "only a disk of its own is filled");
        let mut file = std::fs::File::create(self.ballast()).unwrap();
        let piece = vec![0; 1 << 20];
        while file.write_all(&piece).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
    }

    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_own {
            let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
        }
    }
}

/// What starts it and where what it says goes.
pub struct Service {
    pub name: &'static str,
    pub disk: Disk,
    arguments: Vec<String>,
    /// Records of a commit at most, where not as many as otherwise.
    batch: Option<usize>,
    pub clock: Clock,
    log: PathBuf,
    child: Option<Child>,
    /// Where it is reached, for whoever sends.
    base: Arc<Mutex<String>>,
    /// What it has said since it was started, and when.
    said: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Service {
    pub fn new(name: &'static str, folder: &Path, log: PathBuf, arguments: Vec<String>, batch: Option<usize>) -> Self {
        let (clock, disk) = (Clock::new(folder.join(format!("clock-{name}"))), Disk::make(folder.join(name)));
        Self { name, disk, arguments, batch, clock, log, child: None, base: Arc::default(), said: Arc::default() }
    }

    pub fn data_dir(&self) -> PathBuf {
        self.disk.dir.join("data")
    }

    pub fn states(&self) -> PathBuf {
        self.data_dir().join("state")
    }

    pub fn base(&self) -> Arc<Mutex<String>> {
        self.base.clone()
    }

    /// What `/metrics` says of each of `names`; `None` of what isn't there, and of all while it doesn't answer.
    async fn metrics<const N: usize>(&self, names: [&str; N]) -> [Option<f64>; N] {
        let metrics = format!("{}/metrics", self.base.lock().unwrap());
        let Ok(answer) = reqwest::get(metrics).await else { return [None; N] };
        let metrics = answer.text().await.unwrap_or_default();
        names.map(|name| metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()))
    }

    /// Whether the group has left it without partitions, so that it has nothing to bring up either.
    pub async fn holds_nothing(&self) -> bool {
        self.metrics(["callsieve_partitions", "callsieve_bring_up_partitions"]).await == [Some(0.0); 2]
    }

    /// Records that it has stepped and committed since it was started.
    pub async fn committed(&self) -> f64 {
        // There is no such figure before the first.
        self.metrics(["callsieve_records_total"]).await[0].unwrap_or(0.0)
    }

    pub async fn is_ready(&self) -> bool {
        let ready = format!("{}/readyz", self.base.lock().unwrap());
        reqwest::get(ready).await.is_ok_and(|answer| answer.status() == 200)
    }

    /// Its errors since it was started.
    pub fn errors(&self) -> Vec<String> {
        let said = self.said.lock().unwrap();
        said.iter().filter(|(_, line)| !line.contains("\"INFO\"") && !line.contains("\"WARN\"")).map(|(_, line)| line.clone()).collect()
    }

    /// When it last said something since it was started.
    pub fn has_said(&self, what: &str) -> Option<Instant> {
        let said = self.said.lock().unwrap();
        said.iter().rev().find(|(_, line)| line.to_lowercase().contains(what)).map(|(when, _)| *when)
    }

    /// Starts it, and waits until it serves, or has ended: then with what it said.
    pub fn start(&mut self, points: Option<&str>) -> Result<(), String> {
        assert!(self.child.is_none(), "{} runs", self.name);
        // What was said before is about another run, also where this one ends before it serves.
        self.said.lock().unwrap().clear();
        let mut command = Command::new(env!("CARGO_BIN_EXE_callsieve"));
        command.args(["run", "--listen", "127.0.0.1:0", "--log-format", "json", "--verification-token", TOKEN, "--data-dir"]).arg(self.data_dir());
        command.args(&self.arguments).env("RUST_LOG", "info").stderr(Stdio::piped()).stdout(Stdio::null());
        if let Some(points) = points {
            command.env("FAILPOINTS", points);
        }
        if let Some(batch) = self.batch {
            command.env("CALLSIEVE_TEST_BATCH", batch.to_string());
        }
        self.clock.show(&mut command);
        let mut child = command.spawn().unwrap();
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log).unwrap();
        writeln!(log, "---- {:?} starts {} with {points:?}", jiff::Timestamp::now(), self.name).unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut before = Vec::new();
        loop {
            let Some(Ok(line)) = lines.next() else {
                let code = child.wait().unwrap();
                return Err(format!("{code}: {}", before.join("\n")));
            };
            writeln!(log, "{line}").unwrap();
            let entry: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
            if entry["message"] == "serving" {
                *self.base.lock().unwrap() = format!("http://{}", entry["address"].as_str().unwrap());
                break;
            }
            before.push(line.clone());
            self.said.lock().unwrap().push((Instant::now(), line));
        }
        let said = self.said.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                writeln!(log, "{line}").unwrap();
                said.lock().unwrap().push((Instant::now(), line));
            }
        });
        self.child = Some(child);
        Ok(())
    }

    pub fn signal(&self, signal: &str) {
        let child = self.child.as_ref().unwrap();
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    }

    /// SIGKILL, until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal("-TERM");
        self.child.take().unwrap().wait().unwrap().code()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Waits until it ends by itself. Returns whether it did.
    pub async fn ended(&mut self, patience: Duration) -> bool {
        let begun = Instant::now();
        while !self.has_ended() {
            if begun.elapsed() > patience {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.kill();
    }
}
