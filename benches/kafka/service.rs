//! The service as a process, and what the system says of it.

use anyhow::{Context, bail};
use callsieve::log::Topic;
use callsieve::log::kafka::KafkaSettings;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, TopicPartitionList};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::input::PARTITIONS;

pub struct Service {
    child: Child,
    base: String,
}

impl Service {
    /// Starts it; a name of its own in the group lets it get its partitions back after a kill.
    pub fn start(settings: &KafkaSettings, data_dir: &Path, workers: u32) -> anyhow::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let listen = format!("127.0.0.1:{port}");
        let log = std::fs::File::options().create(true).append(true).open(data_dir.with_extension("log"))?;
        let child = Command::new(env!("CARGO_BIN_EXE_callsieve"))
            .args(["run", "--listen", &listen, "--brokers", &settings.brokers, "--topic-prefix", &settings.topic_prefix, "--group", &settings.group])
            .args(["--workers", &workers.to_string(), "--instance", "bench", "--kafka", "group.protocol=classic", "--data-dir"])
            .arg(data_dir)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("starting callsieve")?;
        Ok(Self { child, base: format!("http://{listen}") })
    }

    /// Waits until it has all partitions up; how long that took.
    pub fn ready(&mut self) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        let all = format!("callsieve_partitions {PARTITIONS}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build()?;
        let get = |path: &str| {
            runtime.block_on(async {
                let answer = http.get(format!("{}{path}", self.base)).send().await.ok()?;
                (answer.status() == 200).then_some(answer.text().await.ok()?)
            })
        };
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("callsieve ended: {status}");
            }
            if get("/readyz").is_some() && get("/metrics").is_some_and(|metrics| metrics.lines().any(|line| line == all)) {
                return Ok(begun.elapsed());
            }
            anyhow::ensure!(begun.elapsed() < Duration::from_secs(1_800), "callsieve isn't ready within half an hour");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until it is at rest: RocksDB has merged what was written.
    pub fn settled(&self) -> anyhow::Result<()> {
        let second = Duration::from_secs(1);
        for _ in 0..600 {
            let before = self.usage()?.core;
            std::thread::sleep(second);
            if self.usage()?.core - before < second / 10 {
                return Ok(());
            }
        }
        bail!("callsieve doesn't come to rest");
    }

    pub fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    pub fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(self.child.id())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a process has used.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// On a core, all threads.
    pub core: Duration,
    /// The most memory that it ever had, in bytes.
    pub memory: u64,
}

impl Usage {
    /// Of a process, as Linux tells it in hundredths of a second.
    pub fn of(process: u32) -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields.get(11..13).context("a short stat")?.iter().map(|ticks| ticks.parse::<u64>().unwrap_or(0)).sum();
        let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
        let memory = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(Self { core: Duration::from_millis(ticks * 10), memory: memory.unwrap_or(0) * 1024 })
    }
}

/// The broker's process, which shares the machine: the Java process that listens where the brokers are said to be.
pub fn broker() -> Option<u32> {
    let processes = std::fs::read_dir("/proc").ok()?;
    let mut java = processes.flatten().filter_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        let cluster = std::env::var("CALLSIEVE_TEST_CLUSTER").ok()?;
        (line.contains("kafka.Kafka") && line.contains(&cluster)).then_some(id)
    });
    java.next()
}

/// What the threads of the broker's compiler have used on a core, by thread.
pub fn compiled() -> BTreeMap<String, Duration> {
    let Some(threads) = broker().and_then(|broker| std::fs::read_dir(format!("/proc/{broker}/task")).ok()) else { return BTreeMap::new() };
    let used = |thread: std::fs::DirEntry| {
        let name = std::fs::read_to_string(thread.path().join("comm")).ok()?;
        let times = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let nanos = times.split_whitespace().next()?.parse().ok()?;
        name.contains("CompilerThre").then_some((thread.file_name().to_str()?.to_owned(), Duration::from_nanos(nanos)))
    };
    threads.flatten().filter_map(used).collect()
}

/// How many partitions of the first topic a member has: behind a version, the number of topics and the first one's name.
fn share(assignment: &[u8]) -> Option<u32> {
    let (name, rest) = assignment.get(6..)?.split_first_chunk()?;
    let count = rest.get(usize::from(u16::from_be_bytes(*name))..)?.first_chunk()?;
    Some(u32::from_be_bytes(*count))
}

/// Looks how far a group is.
pub struct Progress {
    client: BaseConsumer,
    group: String,
    events: String,
}

impl Progress {
    pub fn new(settings: &KafkaSettings) -> anyhow::Result<Self> {
        let client = ClientConfig::new()
            .set("bootstrap.servers", &settings.brokers)
            .set("socket.nagle.disable", "true")
            .set("group.id", &settings.group)
            .create()?;
        Ok(Self { client, group: settings.group.clone(), events: settings.topic(Topic::Events) })
    }

    /// Waits until the group has so many members, each with its share of the partitions.
    pub fn shared(&self, members: u32) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let groups = self.client.fetch_group_list(Some(&self.group), Duration::from_secs(10))?;
            let shares = groups.groups().iter().filter(|group| group.state() == "Stable").flat_map(|group| group.members());
            let shares: Vec<u32> = shares.map(|member| member.assignment().and_then(share).unwrap_or(0)).collect();
            if shares == vec![PARTITIONS / members; members as usize] {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < until, "the group hasn't shared its partitions within a minute: {shares:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Records that are committed, of all partitions.
    pub fn committed(&self) -> anyhow::Result<i64> {
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(&self.events, 0, i32::try_from(PARTITIONS)? - 1);
        let found = self.client.committed_offsets(asked, Duration::from_secs(10))?;
        Ok(found.elements().iter().filter_map(|element| element.offset().to_raw()).filter(|offset| *offset > 0).sum())
    }

    /// Waits until so many are; how many were when first any were, and how long the rest took.
    pub fn until(&self, all: i64) -> anyhow::Result<(i64, Duration)> {
        let mut first: Option<(i64, Instant)> = None;
        let begun = Instant::now();
        loop {
            // A busy broker may lose its place for a moment; who gives no answer is asked again.
            let committed = self.committed().unwrap_or(0);
            if let (None, 1..) = (first, committed) {
                first = Some((committed, Instant::now()));
            }
            if let (Some((at_first, since)), true) = (first, committed >= all) {
                return Ok((at_first, since.elapsed()));
            }
            if begun.elapsed() > Duration::from_secs(900) {
                bail!("{committed} of {all} records are committed after 15 minutes");
            }
            // Each question costs the broker as much as some hundred legs.
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
