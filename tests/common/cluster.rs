//! Kafka brokers of a test's own, and what stands on them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(dead_code, reason = "each test file uses a part")]

use callsieve::event::{CallVerdict, decode};
use callsieve::log::kafka::{KafkaReader, KafkaSettings};
use callsieve::log::{LogError, Reader, Topic};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long is waited for what comes in the end.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// What `make kafka-test` tells.
pub fn environment(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} isn't set: run these tests by make kafka-test"))
}

/// The brokers that all tests share.
pub fn shared_brokers() -> String {
    environment("CALLSIEVE_TEST_BROKERS")
}

/// Names of a test's own, on some brokers.
pub fn named(brokers: &str) -> KafkaSettings {
    let name = format!("test-{:016x}", rand::random::<u64>());
    KafkaSettings { brokers: brokers.to_owned(), topic_prefix: format!("{name}."), group: name, ..KafkaSettings::default() }
}

/// Waits on this thread until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Brokers of a test's own, which it may kill.
pub struct Cluster {
    dir: tempfile::TempDir,
    pub brokers: String,
    /// Where proxies lead to, for each list of their ports.
    pub behind: Vec<Vec<String>>,
}

impl Cluster {
    fn run(dir: &Path, command: &[&str]) -> std::process::Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kafka/cluster");
        let done = std::process::Command::new(script).arg(command[0]).arg(dir).args(&command[1..]).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        // A test that fails says why it does; a second panic would end those beside it.
        if std::thread::panicking() && !done.status.success() {
            eprintln!("{command:?}: {said}");
        } else {
            assert!(done.status.success(), "{command:?}: {said}");
        }
        done
    }

    pub fn start(nodes: u32) -> Self {
        Self::with(nodes, &[])
    }

    /// A broker that has the classic group protocol alone.
    pub fn classic() -> Self {
        Self::with(1, &["--classic".into()])
    }

    /// Brokers that clients reach through proxies too: each list has a proxy's port per broker.
    pub fn through(nodes: u32, proxies: &[Vec<u16>]) -> Self {
        let ports = |ports: &Vec<u16>| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let options: Vec<String> = proxies.iter().flat_map(|proxies| ["--through".into(), ports(proxies)]).collect();
        Self::with(nodes, &options)
    }

    fn with(nodes: u32, options: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Below the ports that the system gives out, and above those of the shared broker.
        let port = (30_000 + u32::from(rand::random::<u16>()) % 2_700).to_string();
        let mut command = vec!["up".to_owned(), "--nodes".into(), nodes.to_string(), "--port".into(), port];
        command.extend_from_slice(options);
        let said = Self::run(dir.path(), &command.iter().map(String::as_str).collect::<Vec<_>>()).stdout;
        let said = String::from_utf8(said).unwrap();
        let mut lines = said.lines();
        let brokers = lines.next().unwrap().to_owned();
        Self { dir, brokers, behind: lines.map(|line| line.split(',').map(str::to_owned).collect()).collect() }
    }

    /// Where a broker has its partitions.
    pub fn data(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("node-{number}/data"))
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

/// Asks until brokers that change leaders have an answer.
pub fn asked<T>(mut ask: impl FnMut() -> Result<T, LogError>) -> T {
    let begun = Instant::now();
    loop {
        match ask() {
            Err(error) if error.is_passing() && begun.elapsed() < Duration::from_secs(60) => std::thread::sleep(Duration::from_millis(100)),
            answer => return answer.unwrap(),
        }
    }
}

/// The newest verdicts, as read_committed readers see them. No revision is missing, none is there twice.
pub fn newest(reader: &KafkaReader, partitions: u32) -> BTreeMap<String, CallVerdict> {
    let mut newest: BTreeMap<String, CallVerdict> = BTreeMap::new();
    for partition in 0..partitions {
        let (mut next, end) = (0, asked(|| reader.end(Topic::CallVerdicts, partition)));
        while next < end {
            let read = asked(|| reader.read(Topic::CallVerdicts, partition, next, 10_000));
            for record in read.records {
                let verdict: CallVerdict = decode(&record.value.expect("nothing is forgotten")).unwrap();
                let key = format!("{}/{}", verdict.account_id, verdict.session_id);
                assert_eq!(record.key, key.as_bytes());
                let known = newest.get(&key).map_or(0, |known| known.revision);
                assert_eq!(verdict.revision, known + 1, "revisions of {key} at partition {partition} offset {}", record.offset);
                newest.insert(key, verdict);
            }
            next = read.next;
        }
    }
    newest
}
