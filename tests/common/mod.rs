//! What the tests of the running service share: the binary as a process, a company in its data directory, and a reader of streams.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![allow(dead_code, reason = "each test file uses a part")]

pub mod clock;
pub mod copy;
mod preload;

use callsieve::event::{AccountId, Event, SnapshotCompleted};
use callsieve::judge::number::Country;
use callsieve::log::Appender;
use callsieve::log::embedded::{EmbeddedLog, EmbeddedOptions, Retention};
use callsieve::log::system_clock;
use callsieve::ringcentral::documents::{Asked, read_document};
use callsieve::roles::service::log_dir;
use callsieve::roles::sync;
use callsieve::simulate::{AccountLists, Company, CompanyConfig, HOUR_MS, Notification};
use callsieve::state::database::{DatabaseOptions, Engine};
use clock::Clock;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub const TOKEN: &str = "a-secret";

pub use callsieve::log::now;

/// A company of which nothing changes, so that its lists say all.
pub fn company(seed: u64) -> Company {
    Company::generate(seed, &CompanyConfig { users: 12, start: now() - 30 * HOUR_MS, changes_per_week: 0, ..CompanyConfig::default() })
}

pub fn account(company: &Company) -> AccountId {
    AccountId::parse(&company.account_id_text).unwrap()
}

/// Puts a company's numbers into a data directory that no service uses, and opens its gate.
pub async fn synchronise(data_dir: &Path, company: &Company) {
    let options = EmbeddedOptions { partitions: 1, retention: Retention::default(), clock: system_clock() };
    let dir = log_dir(data_dir);
    std::fs::create_dir_all(&dir).unwrap();
    let log = EmbeddedLog::open(&dir, &Engine::new(&DatabaseOptions::default()), &options).unwrap();
    append_numbers(&log.appender(), company).await;
}

/// What a company's lists of numbers say.
pub fn numbers(company: &Company) -> Vec<Event> {
    let account = account(company);
    let asked = Asked { account: Some(&account), received_at: Some(now()), country: Country::DEFAULT, history: false };
    let lists = AccountLists { company, base: "https://platform.ringcentral.com", at: now() }.all();
    lists.into_iter().filter_map(|list| read_document(list.to_string().as_bytes(), &asked).ok()).flat_map(|document| document.events).collect()
}

/// That they are all.
pub fn completed(company: &Company) -> Event {
    Event::SnapshotCompleted(SnapshotCompleted { account_id: account(company), sync_id: "test".into(), completed_at: now(), numbers_seen: 0 })
}

/// Appends a company's numbers, and that they are all.
pub async fn append_numbers(appender: &dyn Appender, company: &Company) {
    let events = [numbers(company), vec![completed(company)]].concat();
    sync::append(appender, &account(company), &events).await.unwrap();
}

/// The service as a process; killed when dropped.
pub struct Running {
    pub child: Child,
    pub base: String,
}

impl Running {
    /// Starts it on a free port, and waits until it listens.
    pub fn start(data_dir: &Path, more: &[&str]) -> Self {
        Self::start_as(Command::new(env!("CARGO_BIN_EXE_callsieve")), data_dir, more)
    }

    /// One that has a clock of its own.
    pub fn start_by(clock: &Clock, data_dir: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callsieve"));
        clock.show(&mut command);
        Self::start_as(command, data_dir, more)
    }

    /// One whose disk can't be read in some places (`disk.c`).
    pub fn start_on_bad_disk(data_dir: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_callsieve"));
        command.env("LD_PRELOAD", preload::compiled("disk"));
        Self::start_as(command, data_dir, more)
    }

    fn start_as(mut command: Command, data_dir: &Path, more: &[&str]) -> Self {
        let mut child = command
            .args(["run", "--listen", "127.0.0.1:0", "--log-format", "json", "--verification-token", TOKEN, "--data-dir"])
            .arg(data_dir)
            .args(more)
            .env("RUST_LOG", std::env::var("CALLSIEVE_TEST_LOG").as_deref().unwrap_or("info"))
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut said = Vec::new();
        let address = loop {
            let Some(Ok(line)) = lines.next() else { panic!("the service did not start: {said:#?}") };
            let entry: Value = serde_json::from_str(&line).unwrap_or(Value::Null);
            if entry["message"] == "serving" {
                break entry["address"].as_str().unwrap().to_owned();
            }
            said.push(line);
        };
        // Read to the end, so that it never waits for us. With CALLSIEVE_TEST_LOGS, a folder, each service's log is kept there.
        let kept = std::env::var("CALLSIEVE_TEST_LOGS").map(|folder| Path::new(&folder).join(format!("{:09}.log", child.id())));
        let mut kept = kept.ok().map(|path| std::fs::File::create(path).unwrap());
        std::thread::spawn(move || {
            for line in said.into_iter().map(Ok).chain(lines).map_while(Result::ok) {
                if let Some(kept) = &mut kept {
                    writeln!(kept, "{line}").unwrap();
                }
                if line.contains("\"ERROR\"") {
                    eprintln!("{line}");
                }
            }
        });
        Self { child, base: format!("http://{address}") }
    }

    pub async fn ready(&self) {
        let url = format!("{}/readyz", self.base);
        until("the service is ready", async || reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 200)).await;
    }

    /// Sends SIGTERM, and gives the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        self.signal("-TERM");
        self.child.wait().unwrap().code()
    }

    pub fn signal(&self, signal: &str) {
        // The child is not waited for yet, so its id is its own.
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Sends SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long a condition is waited for.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Waits for a condition, and says which it was when it doesn't come.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What waits for the network, or for a disk, on a thread of its own.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

/// Two hours of a company's calls: of each `account/session` whether its call is external, and the notifications in the order in which they come.
pub fn calls(company: &Company, per_hour: u32) -> (BTreeMap<String, bool>, Vec<Value>) {
    let account = account(company).to_string();
    let calls = company.hours(now() - 3 * HOUR_MS, 2, per_hour);
    let truth = calls.iter().flat_map(|call| &call.truth.sessions).map(|s| (format!("{account}/{}", s.session), s.external)).collect();
    let mut notifications: Vec<Notification> = calls.into_iter().flat_map(|call| call.notifications).collect();
    notifications.sort_by_key(|notification| notification.due);
    let envelope = |n: &Notification| n.document("1423e408-e25c-4421-8dd1-5f754e2f5648", &account).unwrap();
    (truth, notifications.iter().map(envelope).collect())
}

/// A JSON body with its status.
pub async fn get(url: &str) -> (u16, Value) {
    let answer = reqwest::get(url).await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or(Value::Null))
}

/// A text in a path.
pub fn escaped(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() || b"-._~".contains(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A server-sent event.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    pub id: String,
    pub event: String,
    pub data: Value,
}

/// A stream of server-sent events.
pub struct Stream {
    answer: reqwest::Response,
    text: String,
}

impl Stream {
    pub async fn open(url: &str, last: Option<&str>) -> Self {
        let mut request = reqwest::Client::new().get(url);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Self { answer, text: String::new() }
    }

    /// The next event; `None` when the stream ends, or none comes within `patience`. (Comments come as long as the connection lives.)
    pub async fn next(&mut self, patience: Duration) -> Option<Sent> {
        tokio::time::timeout(patience, self.wait()).await.ok()?
    }

    async fn wait(&mut self) -> Option<Sent> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
                let sent = Sent { id: field("id: "), event: field("event: "), data: serde_json::from_str(&field("data: ")).unwrap_or(Value::Null) };
                self.text = rest.to_owned();
                if sent.event.is_empty() {
                    continue;
                }
                return Some(sent);
            }
            let part = self.answer.chunk().await.ok()??;
            self.text.push_str(std::str::from_utf8(&part).unwrap());
        }
    }
}

/// Opening and writing many small databases is about the state, not about the disk.
pub fn shared_memory() -> std::path::PathBuf {
    let shared = Path::new("/dev/shm");
    if shared.is_dir() { shared.to_path_buf() } else { std::env::temp_dir() }
}
