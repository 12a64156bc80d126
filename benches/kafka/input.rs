//! What arrives: some hours of simulated companies, as often as wanted, each time as other accounts that live later.

use anyhow::Context;
use callsieve::event::{AccountId, Event, Millis, SnapshotCompleted, Verdict, encode_event};
use callsieve::judge::number::Country;
use callsieve::log::kafka::{Kafka, KafkaSettings, TopicSettings, create};
use callsieve::log::{Topic, each_record, now, partition_of};
use callsieve::ringcentral::documents::{Asked, read_document};
use callsieve::simulate::{AccountLists, Company, CompanyConfig};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Partitions of every topic.
pub const PARTITIONS: u32 = 12;
const COMPANIES: u64 = 8;
/// Digits of the round at the end of an account's id.
const ROUND_DIGITS: usize = 4;
const HOURS: u32 = 8;
const CALLS_PER_HOUR: u32 = 600;
const DAY: Millis = 86_400_000;
const HOUR: Millis = DAY / 24;

/// A record of the input, as it is of the first round.
struct Template {
    at: Millis,
    /// Which of the companies it is of.
    company: usize,
    value: Vec<u8>,
    /// Where the round stands in the value, at the end of the account's id.
    round_at: usize,
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

impl Template {
    fn new(at: Millis, company: usize, account: &str, mut event: Event) -> anyhow::Result<Self> {
        *account_of(&mut event).context("an event without an account")? = AccountId::parse(account)?;
        let value = encode_event(&event);
        let mut places = value.windows(account.len()).enumerate().filter(|(_, bytes)| *bytes == account.as_bytes());
        let (place, _) = places.next().context("a record without its account's id")?;
        anyhow::ensure!(places.next().is_none(), "a record that has its account's id twice");
        Ok(Self { at, company, round_at: place + account.len() - ROUND_DIGITS, value })
    }
}

/// A record to be sent.
pub struct Sent<'a> {
    pub partition: i32,
    pub key: &'a str,
    pub at: Millis,
    pub value: &'a [u8],
}

/// One round of the companies' lives.
pub struct Prepared {
    start: Millis,
    /// The companies' ids, which those of their accounts begin with.
    companies: Vec<String>,
    /// Numbers and open gates.
    snapshot: Vec<Template>,
    /// In the order in which they arrive.
    legs: Vec<Template>,
    /// Of the sessions of each company.
    truth: BTreeMap<(usize, String), Verdict>,
}

/// A company's account in a round.
fn account_in(company: &str, round: u32) -> String {
    format!("{company}{round:0ROUND_DIGITS$}")
}

impl Prepared {
    pub fn new() -> anyhow::Result<Self> {
        // Ahead of the clock, so that records move time on and nothing else, and retention drops none.
        let start = (now() / HOUR + 24) * HOUR;
        let config = CompanyConfig { users: 120, changes_per_week: 0, start: start - 10 * DAY, ..CompanyConfig::default() };
        let mut prepared = Self { start, companies: Vec::new(), snapshot: Vec::new(), legs: Vec::new(), truth: BTreeMap::new() };
        for (number, seed) in (1..=COMPANIES).enumerate() {
            let company = Company::generate(seed, &config);
            let id = company.account_id.to_string();
            let (account, first) = (AccountId::parse(&id)?, account_in(&id, 0));
            let asked = |received_at, history| Asked { account: Some(&account), received_at: Some(received_at), country: Country::DEFAULT, history };
            let mut snapshot = Vec::new();
            for document in (AccountLists { company: &company, base: "https://platform.example", at: start }).all() {
                snapshot.extend(read_document(&serde_json::to_vec(&document)?, &asked(start, true)).context("a list")?.events);
            }
            let completed = SnapshotCompleted { account_id: account.clone(), sync_id: "1".into(), completed_at: start, numbers_seen: 0 };
            snapshot.push(Event::SnapshotCompleted(completed));
            for event in snapshot {
                prepared.snapshot.push(Template::new(start, number, &first, event)?);
            }
            for call in company.hours(start, HOURS, CALLS_PER_HOUR) {
                for session in &call.truth.sessions {
                    let verdict = if session.external { Verdict::External } else { Verdict::Internal };
                    prepared.truth.insert((number, session.session.clone()), verdict);
                }
                for notification in &call.notifications {
                    let mut json = String::new();
                    notification.write_for("sub-1", "101", &mut json);
                    let read = read_document(json.as_bytes(), &asked(notification.due, false)).context("a notification")?;
                    for event in read.events {
                        prepared.legs.push(Template::new(notification.due, number, &first, event)?);
                    }
                }
            }
            prepared.companies.push(id);
        }
        prepared.legs.sort_by_key(|leg| leg.at);
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
    pub fn truth(&self, rounds: u32) -> BTreeMap<String, Verdict> {
        let of_round = |round| {
            self.truth
                .iter()
                .map(move |((company, session), verdict)| (format!("{}/{session}", account_in(&self.companies[*company], round)), *verdict))
        };
        (0..rounds).flat_map(of_round).collect()
    }

    /// Gives each record of a round to `take`, made from what was encoded once: the sender is to cost as little as it can.
    fn each(&self, templates: &[Template], round: u32, mut take: impl FnMut(&Sent<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        anyhow::ensure!(round < 10_u32.pow(ROUND_DIGITS as u32), "there are no ids for so many rounds");
        let accounts: Vec<String> = self.companies.iter().map(|company| account_in(company, round)).collect();
        let partitions = accounts.iter().map(|account| i32::try_from(partition_of(account, PARTITIONS))).collect::<Result<Vec<_>, _>>()?;
        let later = Millis::from(round) * Millis::from(HOURS) * HOUR;
        let mut value = Vec::new();
        for template in templates {
            let key = accounts[template.company].as_str();
            value.clear();
            value.extend_from_slice(&template.value);
            value[template.round_at..][..ROUND_DIGITS].copy_from_slice(&key.as_bytes()[key.len() - ROUND_DIGITS..]);
            take(&Sent { partition: partitions[template.company], key, at: template.at + later, value: &value })?;
        }
        Ok(())
    }

    pub fn numbers_of(&self, round: u32, take: impl FnMut(&Sent<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.each(&self.snapshot, round, take)
    }

    pub fn legs_of(&self, round: u32, take: impl FnMut(&Sent<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        self.each(&self.legs, round, take)
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

/// When each record was to be handed to the client, with its offset and its own time, by partition.
pub struct SentAt([Vec<(i64, Instant, Millis)>; PARTITIONS as usize]);

impl SentAt {
    /// When the record was sent that moved a partition's time to `time`: the first that did, from an offset on.
    pub fn of(&self, partition: u32, offset: i64, time: Millis) -> Option<Instant> {
        let sent = &self.0[partition as usize];
        let from = sent.partition_point(|(at, _, _)| *at < offset);
        sent[from..].iter().find(|(_, _, at)| *at >= time).map(|(_, sent, _)| *sent)
    }
}

/// Keeps the first failure to append.
#[derive(Default)]
struct Failing(Mutex<Option<KafkaError>>);

impl rdkafka::ClientContext for Failing {}

impl ProducerContext for Failing {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        }
    }
}

/// Appends to the input.
pub struct Ingress {
    producer: ThreadedProducer<Failing>,
    settings: KafkaSettings,
    events: String,
    /// Of each partition what was sent, in order: when it was to be, and its own time.
    sent: [Vec<(Instant, Millis)>; PARTITIONS as usize],
}

impl Ingress {
    pub fn new(settings: &KafkaSettings, linger_ms: u32) -> anyhow::Result<Self> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", &settings.brokers)
            .set("socket.nagle.disable", "true")
            .set("enable.idempotence", "true")
            .set("linger.ms", linger_ms.to_string())
            .set("batch.size", "500000")
            .set("queue.buffering.max.messages", "200000")
            .set("compression.type", "lz4")
            .set("delivery.report.only.error", "true")
            .create_with_context(Failing::default())?;
        Ok(Self { producer, settings: settings.clone(), events: settings.topic(Topic::Events), sent: Default::default() })
    }

    /// Of what was sent, once all of it is appended: they are read once more, since the service appends ticks, which have no key, in between.
    pub fn sent_at(&self) -> anyhow::Result<SentAt> {
        let reader = Kafka::connect(self.settings.clone())?.reader();
        let mut found = SentAt(Default::default());
        for ((partition, sent), found) in (0..).zip(&self.sent).zip(&mut found.0) {
            let mut sent = sent.iter();
            each_record(&reader, Topic::Events, partition, |record| {
                if !record.key.is_empty() {
                    let (due, at) = sent.next().context("somebody else has written to the input")?;
                    anyhow::ensure!(record.timestamp == *at, "offset {} of partition {partition} isn't what was sent", record.offset);
                    found.push((record.offset, *due, *at));
                }
                anyhow::Ok(())
            })?;
            anyhow::ensure!(sent.next().is_none(), "{} records of partition {partition} weren't appended", sent.len() + 1);
        }
        Ok(found)
    }

    pub fn append(&mut self, record: &Sent<'_>) -> anyhow::Result<()> {
        self.append_due(record, Instant::now())
    }

    /// The same, which was to be sent at a moment: a sender that is late counts as late.
    pub fn append_due(&mut self, record: &Sent<'_>, due: Instant) -> anyhow::Result<()> {
        self.sent[usize::try_from(record.partition)?].push((due, record.at));
        let mut record = BaseRecord::to(&self.events).partition(record.partition).key(record.key).payload(record.value).timestamp(record.at);
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
        self.producer.flush(Duration::from_secs(120))?;
        let failure = self.producer.context().0.lock().unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), |error| Err(error).context("a record was not appended"))
    }
}
