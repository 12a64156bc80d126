//! What arrives: some hours of simulated companies, as often as wanted, each time as other accounts that live later.

use anyhow::Context;
use callsieve::event::{AccountId, Event, Millis, SnapshotCompleted, Verdict, encode_event};
use callsieve::judge::number::Country;
use callsieve::log::kafka::{KafkaSettings, TopicSettings, create};
use callsieve::log::now;
use callsieve::log::{Topic, partition_of};
use callsieve::ringcentral::documents::{Asked, read_document};
use callsieve::simulate::{AccountLists, Company, CompanyConfig};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Partitions of every topic.
pub const PARTITIONS: u32 = 12;
const COMPANIES: u64 = 8;
const HOURS: u32 = 8;
const CALLS_PER_HOUR: u32 = 600;
const DAY: Millis = 86_400_000;
const HOUR: Millis = DAY / 24;

/// One round of the companies' lives.
pub struct Prepared {
    start: Millis,
    /// Numbers and open gates.
    snapshot: Vec<Event>,
    /// In the order in which they arrive.
    legs: Vec<(Millis, Event)>,
    /// Of each account's sessions.
    truth: BTreeMap<(AccountId, String), Verdict>,
}

fn account_of(event: &mut Event) -> Option<&mut AccountId> {
    match event {
        Event::CallLegs(e) => Some(&mut e.account_id),
        Event::NumbersObserved(e) => Some(&mut e.account_id),
        Event::SnapshotCompleted(e) => Some(&mut e.account_id),
        Event::AccountSettings(e) => Some(&mut e.account_id),
        _ => None,
    }
}

/// The account that an account is in a later round.
fn renamed(account: &AccountId, round: u32) -> anyhow::Result<AccountId> {
    Ok(AccountId::parse(&format!("{account}{round:04}"))?)
}

impl Prepared {
    pub fn new() -> anyhow::Result<Self> {
        // Ahead of the clock, so that records move time on and nothing else, and retention drops none.
        let start = (now() / HOUR + 24) * HOUR;
        let config = CompanyConfig { users: 120, changes_per_week: 0, start: start - 10 * DAY, ..CompanyConfig::default() };
        let mut prepared = Self { start, snapshot: Vec::new(), legs: Vec::new(), truth: BTreeMap::new() };
        for seed in 1..=COMPANIES {
            let company = Company::generate(seed, &config);
            let account = AccountId::parse(&company.account_id.to_string())?;
            let asked = |received_at, history| Asked { account: Some(&account), received_at: Some(received_at), country: Country::DEFAULT, history };
            for document in (AccountLists { company: &company, base: "https://platform.example", at: start }).all() {
                prepared.snapshot.extend(read_document(&serde_json::to_vec(&document)?, &asked(start, true)).context("a list")?.events);
            }
            let completed = SnapshotCompleted { account_id: account.clone(), sync_id: "1".into(), completed_at: start, numbers_seen: 0 };
            prepared.snapshot.push(Event::SnapshotCompleted(completed));
            for call in company.hours(start, HOURS, CALLS_PER_HOUR) {
                for session in &call.truth.sessions {
                    let verdict = if session.external { Verdict::External } else { Verdict::Internal };
                    prepared.truth.insert((account.clone(), session.session.clone()), verdict);
                }
                for notification in &call.notifications {
                    let mut json = String::new();
                    notification.write_for("sub-1", "101", &mut json);
                    let read = read_document(json.as_bytes(), &asked(notification.due, false)).context("a notification")?;
                    prepared.legs.extend(read.events.into_iter().map(|event| (notification.due, event)));
                }
            }
        }
        prepared.legs.sort_by_key(|(due, _)| *due);
        Ok(prepared)
    }

    /// When the first round begins.
    pub fn start(&self) -> Millis {
        self.start
    }

    /// Legs of a round.
    pub fn legs(&self) -> usize {
        self.legs.len()
    }

    /// What becomes of the calls of so many rounds, by the key of their verdicts.
    pub fn truth(&self, rounds: u32) -> anyhow::Result<BTreeMap<String, Verdict>> {
        let mut truth = BTreeMap::new();
        for round in 0..rounds {
            for ((account, session), verdict) in &self.truth {
                truth.insert(format!("{}/{session}", renamed(account, round)?), *verdict);
            }
        }
        Ok(truth)
    }

    /// Gives each event of a round with its time to `take`: the numbers, or the legs.
    fn each(
        events: impl Iterator<Item = (Millis, Event)>,
        round: u32,
        mut take: impl FnMut(Millis, Event) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut names: BTreeMap<AccountId, AccountId> = BTreeMap::new();
        for (at, mut event) in events {
            if let Some(account) = account_of(&mut event) {
                if !names.contains_key(account) {
                    names.insert(account.clone(), renamed(account, round)?);
                }
                *account = names[account].clone();
            }
            take(at + Millis::from(round) * Millis::from(HOURS) * HOUR, event)?;
        }
        Ok(())
    }

    pub fn numbers_of(&self, round: u32, take: impl FnMut(Millis, Event) -> anyhow::Result<()>) -> anyhow::Result<()> {
        Self::each(self.snapshot.iter().map(|event| (self.start, event.clone())), round, take)
    }

    pub fn legs_of(&self, round: u32, take: impl FnMut(Millis, Event) -> anyhow::Result<()>) -> anyhow::Result<()> {
        Self::each(self.legs.iter().cloned(), round, take)
    }

    /// When the last deadline of so many rounds has passed.
    pub fn end(&self, rounds: u32) -> Millis {
        self.start + Millis::from(rounds) * Millis::from(HOURS) * HOUR + 2 * DAY
    }
}

/// Topics of their own for a part of the benchmark.
pub fn fresh(brokers: &str, what: &str) -> anyhow::Result<KafkaSettings> {
    let name = format!("bench-{what}-{:08x}", rand::random::<u32>());
    let settings = KafkaSettings { brokers: brokers.to_owned(), topic_prefix: format!("{name}."), group: name, ..KafkaSettings::default() };
    // The companies' time is in their records.
    let over = [("message.timestamp.type", "CreateTime"), ("message.timestamp.after.max.ms", "9223372036854775807")];
    let over = over.map(|(name, value)| (Topic::Events, name.to_owned(), value.to_owned())).to_vec();
    create(&settings, &TopicSettings { partitions: PARTITIONS, over, ..TopicSettings::default() })?;
    Ok(settings)
}

/// When each record was to be handed to the client, and its own time, by partition and offset.
#[derive(Default)]
pub struct SentAt(Mutex<BTreeMap<(i32, i64), (Instant, Millis)>>);

impl SentAt {
    /// When the record was sent that moved a partition's time to `time`: the first that did, from an offset on.
    pub fn of(&self, partition: i32, offset: i64, time: Millis) -> Option<Instant> {
        let sent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sent.range((partition, offset)..(partition + 1, 0)).find(|(_, (_, at))| *at >= time).map(|(_, (sent, _))| *sent)
    }
}

struct Noting(Arc<SentAt>);

impl rdkafka::ClientContext for Noting {}

impl ProducerContext for Noting {
    type DeliveryOpaque = Box<(Instant, Millis)>;

    fn delivery(&self, result: &DeliveryResult<'_>, sent: Box<(Instant, Millis)>) {
        match result {
            Ok(message) => {
                self.0.0.lock().unwrap_or_else(PoisonError::into_inner).insert((message.partition(), message.offset()), *sent);
            }
            Err((error, _)) => eprintln!("a record was not appended: {error}"),
        }
    }
}

/// Appends to the input.
pub struct Ingress {
    producer: ThreadedProducer<Noting>,
    events: String,
    sent: Arc<SentAt>,
}

impl Ingress {
    pub fn new(settings: &KafkaSettings, linger_ms: u32) -> anyhow::Result<Self> {
        let sent = Arc::new(SentAt::default());
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &settings.brokers)
            .set("socket.nagle.disable", "true")
            .set("enable.idempotence", "true")
            .set("linger.ms", linger_ms.to_string())
            .set("batch.size", "500000")
            .set("queue.buffering.max.messages", "200000")
            .set("compression.type", "lz4")
            .create_with_context(Noting(sent.clone()))?;
        Ok(Self { producer, events: settings.topic(Topic::Events), sent })
    }

    pub fn sent_at(&self) -> &SentAt {
        &self.sent
    }

    pub fn append(&self, at: Millis, event: &Event) -> anyhow::Result<()> {
        self.append_due(at, event, Instant::now())
    }

    /// The same, which was to be sent at a moment: a sender that is late counts as late.
    pub fn append_due(&self, at: Millis, event: &Event, due: Instant) -> anyhow::Result<()> {
        let account = event.account_id().context("an event without an account")?;
        let partition = i32::try_from(partition_of(account.as_str(), PARTITIONS))?;
        self.append_to(partition, account.as_str(), at, &encode_event(event), due)
    }

    pub fn append_to(&self, partition: i32, key: &str, at: Millis, value: &[u8], due: Instant) -> anyhow::Result<()> {
        let mut record = BaseRecord::with_opaque_to(&self.events, Box::new((due, at))).partition(partition).key(key).payload(value).timestamp(at);
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    pub fn flush(&self) -> anyhow::Result<()> {
        Ok(self.producer.flush(Duration::from_secs(120))?)
    }
}
