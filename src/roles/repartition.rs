//! Moving to another number of partitions: the topics are copied to a new prefix, each account into its new partition (design §4).
//!
//! The old group's processor has stopped, so its positions are final, and so is what it published; the ingress goes on. In this order:
//!
//! 1. The compacted topics are copied. Revisions stay; `position`, an offset in the old log, becomes one before the new log begins, in the same
//!    order.
//! 2. From each old partition's low-water mark up to its position the facts (`CallLegs`) are copied: the beginning of the new log.
//! 3. The new group gets its first positions: the new log is stepped from the end of those facts on. So a new instance is brought up from nothing as
//!    any other.
//! 4. Everything but Ticks from the old positions on is copied, also what still comes.
//!
//! How far it is stands in the offsets of a group that nobody joins, and on each copied event where it comes from: interrupted, it goes on from
//! there, and nothing is there twice. The new dead letters' topic is made after step 3, as the last: without it no service starts on the new topics,
//! so none starts too early.

use super::bring_up::{OUTPUTS, published_on};
use super::partition::partition_time;
use super::replay::until_interrupted;
use crate::event::{AccountId, AccountState, CallVerdict, CompanyNumber, Decoded, Event, OpenCall, decode, decode_event, encode};
use crate::log::kafka::{self, Copied, Copier, Done, Kafka, KafkaReader, KafkaSettings, TopicSettings};
use crate::log::{Committed, LogError, Place, Position, Reader, Record, Topic, each_record, partition_of};
use anyhow::{Context, bail};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// On each copied event: where the original stands.
const COPIED_FROM: &str = "callsieve.copied_from";
/// Records of one transaction, at most.
const CHUNK: usize = 5_000;
/// How often the old log is looked at for more, and the old group's positions.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const CHECK_EVERY: Duration = Duration::from_secs(5);
/// How often it is said once more how far the log is copied, where nothing comes.
const KEEP_EVERY: Duration = Duration::from_secs(3_600);
/// How long brokers that are away are waited for.
const PATIENCE: Duration = Duration::from_secs(60);
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// From where to where.
#[derive(Debug, Clone)]
pub struct Repartition {
    /// The topics as they are, and the group that has judged them.
    pub from: KafkaSettings,
    /// The topics that are to be made, and the group that is to judge them.
    pub to: KafkaSettings,
    /// How many partitions those are to have.
    pub partitions: u32,
    /// Whether brokers may be older than Kafka 4.0.
    pub allow_old_brokers: bool,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything is copied that was there when it was interrupted, or looked last; so many records of the log by this run, no fewer.
    Finished(u64),
    /// By a signal, before the new topics were ready.
    Interrupted,
}

/// What is told while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// So many records of the compacted topics are copied by this run.
    Outputs(u64),
    /// So many records of the log.
    Events(u64),
    /// New instances may start.
    Ready,
    /// The old group has judged on since the copy was begun, which concerns nobody once that is ready.
    WentOn,
}

/// A part of the old log, as it is copied.
struct Part {
    /// Offset of what is copied next, and of what is read next.
    next: i64,
    read_to: i64,
    until: i64,
    buffer: VecDeque<Record>,
}

/// Parts of old partitions as one sequence, by the time of the records: so no partition's time runs ahead of another's that ends up in the same.
struct Merged {
    parts: Vec<Part>,
}

impl Merged {
    fn new(next: &[i64]) -> Self {
        Self { parts: next.iter().map(|next| Part { next: *next, read_to: *next, until: *next, buffer: VecDeque::new() }).collect() }
    }

    fn take(&mut self, reader: &dyn Reader, most: usize) -> Result<Vec<(u32, Record)>, LogError> {
        let mut taken = Vec::new();
        while taken.len() < most {
            for (partition, part) in (0..).zip(&mut self.parts) {
                while part.buffer.is_empty() && part.read_to < part.until {
                    let read = reader.read(Topic::Events, partition, part.read_to, CHUNK)?;
                    part.buffer.extend(read.records.into_iter().filter(|record| record.offset < part.until));
                    part.read_to = read.next.min(part.until);
                }
                if part.buffer.is_empty() {
                    part.next = part.read_to;
                }
            }
            let heads = self.parts.iter().enumerate().filter_map(|(n, part)| Some((part.buffer.front()?.timestamp, n)));
            let Some((_, n)) = heads.min() else { break };
            let part = &mut self.parts[n];
            if let Some(record) = part.buffer.pop_front() {
                part.next = record.offset + 1;
                taken.push((u32::try_from(n).unwrap_or(u32::MAX), record));
            }
        }
        Ok(taken)
    }
}

impl Repartition {
    /// Copies until it is interrupted, or with `once` until all is copied that is there.
    ///
    /// # Errors
    /// If the old group has members or went on before the copy was ready, if there is something on the new topics that isn't from here, and if the
    /// cluster refuses or stays away.
    pub fn run(&self, once: bool, tell: &mut dyn FnMut(Told)) -> anyhow::Result<Ended> {
        let stop = until_interrupted()?;
        if self.from.topic_prefix == self.to.topic_prefix || self.from.group == self.to.group {
            bail!("the new topics need another prefix, and another group: those that are there stay as they are");
        }
        let mut failing: Option<Instant> = None;
        let mut events = 0;
        loop {
            let mut copied = false;
            let ended = self.attempt(&stop, once, &mut events, &mut |told| {
                copied = true;
                tell(told);
            });
            let error = match ended {
                Err(error) if error.downcast_ref::<LogError>().is_some_and(LogError::passes_by_itself) => error,
                ended => return ended,
            };
            if copied || failing.is_none() {
                failing = Some(Instant::now());
            }
            if stop.load(Ordering::Acquire) || failing.is_some_and(|since| since.elapsed() >= PATIENCE) {
                return Err(error);
            }
            tracing::warn!("going on from what is copied: {error:#}");
            std::thread::sleep(TRY_AGAIN);
        }
    }

    fn attempt(&self, stop: &AtomicBool, once: bool, events: &mut u64, tell: &mut dyn FnMut(Told)) -> anyhow::Result<Ended> {
        kafka::enter(&mut self.from.clone(), self.allow_old_brokers)?;
        let old = Kafka::connect(self.from.clone())?;
        let new = Kafka::with(self.to.clone(), self.partitions)?;
        let mut copier = Copier::new(&self.from, &self.to, old.partitions())?;
        self.make_topics(&mut copier)?;
        let starts = self.starts(&old, &new, &mut copier)?;
        let copied = copied(&new.reader(), self.partitions, |partition| copier.done(Topic::Events, partition).map_or(i64::MIN, |done| done.next))?;
        let mut run = Run { of: self, old: old.reader(), new: new.reader(), copier, starts, copied, events, old_kafka: &old };
        if !self.is_ready()? {
            run.check()?;
            if !run.copy_outputs(stop, tell)? || !run.copy_facts(stop, tell)? {
                return Ok(Ended::Interrupted);
            }
            run.check()?;
            run.begin(&new)?;
            kafka::create_some(&self.to, &self.settings_of_topics()?, &[Topic::DeadLetters])?;
        }
        tell(Told::Ready);
        run.follow(stop, once, tell)?;
        Ok(Ended::Finished(*events))
    }

    /// Whether the new topics are all there, which is the last thing that is done before they may be used.
    fn is_ready(&self) -> anyhow::Result<bool> {
        Ok(kafka::describe(&self.to)?.iter().any(|topic| topic.topic == Topic::DeadLetters && topic.partitions > 0))
    }

    /// The new topics are as the old ones, but for their partitions.
    fn settings_of_topics(&self) -> anyhow::Result<TopicSettings> {
        let described = kafka::describe(&self.from)?;
        let replicas = described.iter().map(|topic| topic.replicas).min().and_then(|replicas| u32::try_from(replicas).ok());
        let mut over = Vec::new();
        for topic in described {
            for name in ["max.message.bytes", "min.insync.replicas", "retention.ms", "message.timestamp.type"] {
                let is_meant = !topic.topic.is_compacted() || name != "retention.ms";
                over.extend(topic.settings.get(name).filter(|_| is_meant).map(|value| (topic.topic, name.to_owned(), value.clone())));
            }
        }
        Ok(TopicSettings { partitions: self.partitions, replication: replicas, over, ..TopicSettings::default() })
    }

    fn make_topics(&self, copier: &mut Copier) -> anyhow::Result<()> {
        let there = kafka::describe(&self.to)?;
        for topic in there.iter().filter(|topic| topic.partitions > 0) {
            if topic.partitions != self.partitions as usize {
                bail!(
                    "the topic {} is there, with {} partitions, not {}: a copy that was begun goes on with as many --partitions; for another, choose another --to-prefix",
                    topic.name,
                    topic.partitions,
                    self.partitions
                );
            }
        }
        let first: Vec<Topic> = Topic::ALL.into_iter().filter(|topic| *topic != Topic::DeadLetters).collect();
        if there.iter().any(|topic| topic.partitions == 0 && topic.topic != Topic::DeadLetters) {
            // The answers say what was there: a broker that was away shows topics late.
            let made = kafka::create_some(&self.to, &self.settings_of_topics()?, &first)?;
            if copier.is_begun() && made > 0 {
                // Nothing is copied before they are there, so they were deleted.
                if made < first.len() || self.is_ready()? {
                    bail!(
                        "some of the topics {}* were deleted after something was copied to them: delete them all, and begin anew",
                        self.to.topic_prefix
                    );
                }
                copier.forget()?;
            }
        }
        Ok(())
    }

    /// The positions that the old group had when this began, which stay what they are.
    fn starts(&self, old: &Kafka, new: &Kafka, copier: &mut Copier) -> anyhow::Result<Vec<Position>> {
        let known: Option<Vec<&Done>> = (0..old.partitions()).map(|partition| copier.done(Topic::Events, partition)).collect();
        if let Some(known) = known {
            let read = |done: &Done| done.note.parse::<Position>().context("reading where the copy began");
            let starts = known.into_iter().map(read).collect::<anyhow::Result<_>>()?;
            copier.keep()?;
            return Ok(starts);
        }
        if self.is_ready()? {
            bail!(
                "the topics {}* are complete, and it isn't known how far {} is copied to them: they aren't from here, or the offsets of the group {} have expired, which are \
                 kept for offsets.retention.minutes (a week by default) after the last run. Leave them as they are, they may be in use: what is from here has \
                 everything up to the last run. Only what old instances have taken in since isn't copied; if you wanted other topics, choose another --to-prefix",
                self.to.topic_prefix,
                self.from.topic(Topic::Events),
                Copier::group_of(&self.to)
            );
        }
        // Nothing was begun: the first transaction has all of them.
        let reader = new.reader();
        for topic in Topic::ALL.into_iter().filter(|topic| *topic != Topic::DeadLetters) {
            for partition in 0..self.partitions {
                if reader.end(topic, partition)? > 0 {
                    bail!(
                        "there is something on {}, which isn't from here, or from a copy that was left for longer than Kafka keeps how far it is (a week by default); \
                         choose another --to-prefix, or delete the topics {}*",
                        self.to.topic(topic),
                        self.to.topic_prefix
                    );
                }
            }
        }
        if new.positions()?.iter().any(Option::is_some) {
            bail!("the group {} is in use already; choose another --to-group", self.to.group);
        }
        self.check_idle()?;
        let mut starts = Vec::new();
        for (partition, committed) in (0..).zip(old.positions()?) {
            starts.push(committed.map_or_else(|| self.unjudged(&old.reader(), partition), Ok)?);
        }
        let mut begun = Vec::new();
        for (partition, start) in (0..).zip(&starts) {
            let from = start.low_water.max(old.reader().start(Topic::Events, partition)?);
            begun.push(Done { topic: Topic::Events, partition, next: from, note: start.to_string() });
        }
        copier.copy(Vec::new(), &begun)?;
        Ok(starts)
    }

    /// The position of a partition that nobody has judged: where the old log begins. What was judged has one.
    fn unjudged(&self, old: &KafkaReader, partition: u32) -> anyhow::Result<Position> {
        if let Some(topic) = published_on(old, partition)? {
            bail!(
                "the group {} has no position in partition {partition} of {}, though something is published on {}: name the group that has judged it by --group. If it \
                 is this one, its positions have expired (where it has no members, after offsets.retention.minutes), and nobody knows how far it was: begin with \
                 topics of another --topic-prefix and another --group",
                self.from.group,
                self.from.topic(Topic::Events),
                self.from.topic(topic)
            );
        }
        let start = old.start(Topic::Events, partition)?;
        Ok(Position { next: start, partition_time: i64::MIN, low_water: start, low_water_time: i64::MIN })
    }

    fn check_idle(&self) -> anyhow::Result<()> {
        if kafka::has_members(&self.from, &self.to.topic(Topic::Events))? {
            bail!(
                "the group {} has members, so what it publishes isn't final: stop its instances, or restart them with --workers 0 to go on taking webhooks in. \
                 One that was killed, or that has an --instance, is missed by the brokers after a minute or so",
                self.from.group
            );
        }
        Ok(())
    }
}

/// A run under way.
struct Run<'a> {
    of: &'a Repartition,
    old_kafka: &'a Kafka,
    old: KafkaReader,
    new: KafkaReader,
    copier: Copier,
    /// By old partition.
    starts: Vec<Position>,
    copied: CopiedEvents,
    /// Records of the log that were copied, also by attempts before.
    events: &'a mut u64,
}

impl Run<'_> {
    /// Sees to it that the old group has stopped, and stands where it stood: until the copy is ready, what it publishes would be missing there.
    fn check(&self) -> anyhow::Result<()> {
        self.of.check_idle()?;
        for (committed, start) in self.old_kafka.positions()?.into_iter().zip(&self.starts) {
            if committed.is_some_and(|committed| committed != *start) {
                bail!(
                    "the group {} went on after the copy had begun, and has published what the copy lacks. Delete the topics {}*, and begin anew",
                    self.of.from.group,
                    self.of.to.topic_prefix
                );
            }
        }
        Ok(())
    }

    /// Whether the old group has judged on, as far as the brokers say so at once.
    fn went_on(&self) -> bool {
        let moved = |(committed, start): (Option<Committed>, &Position)| committed.is_some_and(|committed| committed.position != *start);
        self.old.committed_so_far().is_ok_and(|committed| committed.into_iter().zip(&self.starts).any(moved))
    }

    /// Copies the compacted topics; false when it was interrupted.
    fn copy_outputs(&mut self, stop: &AtomicBool, tell: &mut dyn FnMut(Told)) -> anyhow::Result<bool> {
        let partitions = self.old_kafka.partitions();
        let mut copied = 0;
        for topic in OUTPUTS {
            for partition in 0..partitions {
                let mut next = match self.copier.done(topic, partition) {
                    Some(done) => done.next,
                    None => self.old.start(topic, partition)?,
                };
                let end = self.old.end(topic, partition)?;
                while next < end {
                    if stop.load(Ordering::Acquire) {
                        return Ok(false);
                    }
                    let read = self.old.read(topic, partition, next, CHUNK)?;
                    let copies = read.records.iter().map(|record| self.output(topic, partition, record)).collect::<anyhow::Result<Vec<Copied>>>()?;
                    copied += copies.len() as u64;
                    self.copier.copy(copies, &[Done { topic, partition, next: read.next, note: String::new() }])?;
                    next = read.next;
                    tell(Told::Outputs(copied));
                }
            }
        }
        Ok(true)
    }

    /// A record of a compacted topic, for its new partition.
    fn output(&self, topic: Topic, partition: u32, record: &Record) -> anyhow::Result<Copied> {
        let of = || format!("copying {} partition {partition} offset {}", self.of.from.topic(topic), record.offset);
        let key = std::str::from_utf8(&record.key).with_context(of)?;
        let account = AccountId::parse(key.split_once('/').map_or(key, |(account, _)| account)).with_context(of)?;
        let start = self.starts[partition as usize].next;
        let value = record.value.as_deref().map(|value| moved(topic, value, start)).transpose().with_context(of)?;
        let partition = partition_of(account.as_str(), self.of.partitions);
        let (key, headers) = (record.key.to_vec(), record.headers.clone());
        Ok(Copied { topic, partition, key, value, headers, timestamp: record.timestamp })
    }

    /// Copies the facts that may not be published yet; false when it was interrupted.
    fn copy_facts(&mut self, stop: &AtomicBool, tell: &mut dyn FnMut(Told)) -> anyhow::Result<bool> {
        let removed = self.removed()?;
        let mut merged = self.merged()?;
        for (part, start) in merged.parts.iter_mut().zip(&self.starts) {
            part.until = start.next.max(part.next);
        }
        let is_wanted = |record: &Record, event: Option<&Event>| match event {
            // Facts from before its account's removal are gone.
            Some(Event::CallLegs(legs)) => removed.get(&legs.account_id).is_none_or(|removed| record.offset > *removed),
            _ => false,
        };
        while self.copy_events(&mut merged, &is_wanted, tell)? {
            if stop.load(Ordering::Acquire) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The accounts that were removed, and the offsets of that.
    fn removed(&self) -> anyhow::Result<BTreeMap<AccountId, i64>> {
        let mut removed = BTreeMap::new();
        for partition in 0..self.old_kafka.partitions() {
            each_record(&self.old, Topic::AccountStates, partition, |record| {
                if let Some(value) = record.value {
                    let state: AccountState = decode(&value)?;
                    removed.extend(state.removed_position.map(|position| (state.account_id, position)));
                }
                anyhow::Ok(())
            })?;
        }
        Ok(removed)
    }

    /// The old log from where it is copied.
    fn merged(&self) -> anyhow::Result<Merged> {
        let next: Option<Vec<i64>> =
            (0..self.old_kafka.partitions()).map(|partition| Some(self.copier.done(Topic::Events, partition)?.next)).collect();
        Ok(Merged::new(&next.context("how far the log is copied isn't known any more")?))
    }

    /// Copies a chunk of the log; false when there is no more.
    fn copy_events(
        &mut self,
        merged: &mut Merged,
        is_wanted: &dyn Fn(&Record, Option<&Event>) -> bool,
        tell: &mut dyn FnMut(Told),
    ) -> anyhow::Result<bool> {
        let before: Vec<i64> = merged.parts.iter().map(|part| part.next).collect();
        let taken = merged.take(&self.old, CHUNK)?;
        let mut copies = Vec::with_capacity(taken.len());
        for (partition, mut record) in taken {
            let event = record.value.as_deref().and_then(|value| decode_event(value).ok());
            if !is_wanted(&record, event.as_ref()) {
                continue;
            }
            let account =
                event.as_ref().and_then(Event::account_id).map_or_else(|| String::from_utf8_lossy(&record.key).into_owned(), ToString::to_string);
            let from = Place { partition, offset: record.offset };
            let partition = partition_of(&account, self.of.partitions);
            if self.copied.contains(&(from.partition, from.offset)) {
                continue;
            }
            record.headers.retain(|(name, _)| name != COPIED_FROM);
            record.headers.push((COPIED_FROM.into(), from.to_string().into_bytes()));
            let Record { timestamp, key, value, headers, .. } = record;
            copies.push(Copied { topic: Topic::Events, partition, key: key.to_vec(), value: value.map(|value| value.to_vec()), headers, timestamp });
        }
        let parts = (0..).zip(&merged.parts).zip(&before).zip(&self.starts);
        let done: Vec<Done> = parts
            .filter(|(((_, part), before), _)| part.next != **before)
            .map(|(((partition, part), _), start)| Done { topic: Topic::Events, partition, next: part.next, note: start.to_string() })
            .collect();
        if done.is_empty() {
            return Ok(false);
        }
        // Before, since some may be there also when it fails.
        *self.events += copies.len() as u64;
        self.copier.append(&copies)?;
        self.copier.copy(Vec::new(), &done)?;
        tell(Told::Events(*self.events));
        Ok(true)
    }

    /// Commits where the new group begins: behind the facts, which a copy of the state takes in when it is brought up.
    fn begin(&self, new: &Kafka) -> anyhow::Result<()> {
        if kafka::has_members(&self.of.to, &self.of.from.topic(Topic::Events))? {
            bail!("the group {} has members already; stop them: the new topics are not ready", self.of.to.group);
        }
        // Accounts of any old partition may be in any new one.
        let time = self.starts.iter().map(|start| start.partition_time).max().unwrap_or(i64::MIN);
        let low_water_time = self.starts.iter().map(|start| start.low_water_time).min().unwrap_or(i64::MIN);
        for partition in 0..self.of.partitions {
            let end = self.new.end(Topic::Events, partition)?;
            let mut position = Position { next: end, partition_time: time, low_water: 0, low_water_time };
            each_record(&self.new, Topic::Events, partition, |record| {
                if copied_from(&record).is_none() {
                    bail!("somebody appends to {} already, before it is ready; begin anew with another prefix", self.of.to.topic(Topic::Events));
                }
                // With the broker's time they were dated anew.
                position.partition_time = partition_time(position.partition_time, &record);
                Ok(())
            })?;
            let ends = OUTPUTS.into_iter().map(|topic| Ok((topic, self.new.end(topic, partition)?))).collect::<Result<Vec<_>, LogError>>()?;
            new.begin(partition, position, &ends)?;
        }
        Ok(())
    }

    /// Copies what is there and what comes, until it is interrupted; with `once` until all is copied.
    fn follow(&mut self, stop: &AtomicBool, once: bool, tell: &mut dyn FnMut(Told)) -> anyhow::Result<()> {
        let mut merged = self.merged()?;
        let (mut looked_at, mut went_on, mut kept_at) = (None::<Instant>, false, Instant::now());
        let is_wanted = |_: &Record, event: Option<&Event>| !matches!(event, Some(Event::Tick(_)));
        loop {
            // Looked at first: what was there when it was interrupted is copied.
            let is_last = once || stop.load(Ordering::Acquire);
            for (partition, part) in (0..).zip(&mut merged.parts) {
                part.until = self.old.end(Topic::Events, partition)?.max(part.until);
            }
            while self.copy_events(&mut merged, &is_wanted, tell)? {}
            if !went_on && (is_last || looked_at.is_none_or(|at| at.elapsed() >= CHECK_EVERY)) {
                (looked_at, went_on) = (Some(Instant::now()), self.went_on());
                if went_on {
                    tell(Told::WentOn);
                }
            }
            if is_last {
                return Ok(());
            }
            if kept_at.elapsed() >= KEEP_EVERY {
                self.copier.keep()?;
                kept_at = Instant::now();
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Events that are copied, by their old partition and offset.
type CopiedEvents = BTreeSet<(u32, i64)>;

fn copied_from(record: &Record) -> Option<Place> {
    let (_, place) = record.headers.iter().find(|(name, _)| name == COPIED_FROM)?;
    std::str::from_utf8(place).ok()?.parse().ok()
}

/// What is copied already beyond what is said to be, if it was cut off in between. There may be gaps: what failed was sent with what came after it.
fn copied(new: &KafkaReader, partitions: u32, done: impl Fn(u32) -> i64) -> Result<CopiedEvents, LogError> {
    let mut copied = CopiedEvents::new();
    for partition in 0..partitions {
        each_record(new, Topic::Events, partition, |record| {
            copied.extend(copied_from(&record).filter(|from| from.offset >= done(from.partition)).map(|from| (from.partition, from.offset)));
            Ok::<_, LogError>(())
        })?;
    }
    Ok(copied)
}

/// A position in the old log as one before the new one begins. What comes first there comes first here.
fn before(position: i64, start: i64) -> i64 {
    position.saturating_sub(start).saturating_sub(1)
}

/// A record of a compacted topic as it stands on the new one. `start` is where the old log is stepped no more.
fn moved(topic: Topic, value: &[u8], start: i64) -> anyhow::Result<Vec<u8>> {
    fn with<T: Decoded>(value: &[u8], change: impl FnOnce(&mut T)) -> anyhow::Result<Vec<u8>> {
        let mut row: T = decode(value)?;
        change(&mut row);
        Ok(encode(&row))
    }
    match topic {
        Topic::AccountStates => with(value, |row: &mut AccountState| {
            row.position = before(row.position, start);
            row.removed_position = row.removed_position.map(|position| before(position, start));
        }),
        Topic::CompanyNumbers => with(value, |row: &mut CompanyNumber| row.position = before(row.position, start)),
        Topic::CallVerdicts => with(value, |row: &mut CallVerdict| row.position = before(row.position, start)),
        Topic::OpenCalls => with(value, |row: &mut OpenCall| row.position = before(row.position, start)),
        Topic::Events | Topic::DeadLetters => bail!("{topic} has no rows"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_from_before_come_before_the_new_log_and_keep_their_order() {
        let moved: Vec<i64> = [-3, -1, 0, 41, 99].into_iter().map(|position| before(position, 100)).collect();
        assert_eq!(moved, [-104, -102, -101, -60, -2]);
        assert_eq!(before(i64::MIN, 100), i64::MIN);
    }

    #[test]
    fn where_an_event_was_copied_from_stands_on_it() {
        let from = Place { partition: 3, offset: 1_234 };
        let record = |value: &str| Record {
            offset: 0,
            timestamp: 0,
            key: bytes::Bytes::new(),
            value: None,
            headers: vec![(COPIED_FROM.into(), value.as_bytes().to_vec())],
            came: crate::log::Came::AsItIs,
        };
        assert_eq!(copied_from(&record(&from.to_string())), Some(from));
        assert_eq!(copied_from(&record("3")), None);
        assert_eq!(copied_from(&Record { headers: Vec::new(), ..record("") }), None);
    }
}
