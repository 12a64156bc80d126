//! A worker on Kafka: a member of the consumer group, with a transactional producer.
//!
//! Rebalances arrive while the consumer is polled, and are only noted then. A poll that learns of one ends at once and says so by
//! [`Log::assigned`]; the group is answered at the beginning of the next poll. So between the two the worker can close what it has lost, before
//! another worker is given it, and bring up what it has got, before anything is read from it.

use super::appender::KafkaAppender;
use super::client::{AT_ONCE, REQUEST, failed, number, words};
use super::native::Fetched;
use super::points::{batch, reached};
use super::reader::KafkaReader;
use super::rebalances::{Change, Rebalances};
use super::records::Records;
use super::settings::KafkaSettings;
use super::transaction::{Publication, Transactions};
use crate::log::{Batch, Commit, Committed, Headers, Log, LogError, MAX_READ_BYTES, OutputEnds, Reader, Record, Topic};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After so many commits in a row that came to nothing a worker joins anew: who lost its place to another of its name may not be told.
const REFUSALS: u32 = 3;
/// Of two with one static id each fences the other whenever it joins, every few seconds; so one is fenced so often within a minute, and ends. But a
/// coordinator that was away may fence a member that is alone, too, by an answer that it gave before, and that the member never got: twice within a
/// minute was seen.
const RIVAL_FENCES: usize = 3;
const RIVAL_WITHIN: Duration = Duration::from_secs(60);
/// Records of a commit: what a transaction costs the broker besides its records is shared by so many.
const BATCH: usize = 20_000;
/// How long after a commit a batch goes on filling: a transaction costs the broker more than its records do.
const GATHER: Duration = Duration::from_millis(1);
/// How long each partition's broker has to answer after one that didn't.
const BRIEFLY: Duration = Duration::from_millis(100);
/// How long a poll takes that gives only records that can't be read now.
const WAITING: Duration = Duration::from_millis(100);
/// How long it may take until a partition that was taken up is fetched.
const TAKEN_UP: Duration = Duration::from_secs(1);
/// How late it is noticed at most, while nothing comes, that the group has something to say.
const LISTEN_EVERY: Duration = Duration::from_millis(10);
/// How often it is said that records can't be got.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long a partition gives nothing before it is looked whether there is something. Longer than leaders take to change, and clients to find them.
const STALL: Duration = Duration::from_secs(15);
/// How many times as long as a broker was waited for in vain the worker does without looking: it steps nothing while it waits.
const REST: u32 = 10;

/// See [`super::Kafka::worker`].
pub struct KafkaLog {
    settings: KafkaSettings,
    events: String,
    /// Its name in messages, and of its transactions.
    member: String,
    /// Its static id.
    instance: Option<String>,
    /// Where this instance answers, as it is committed.
    holder: Option<String>,
    /// What concerns the group comes to it.
    consumer: Arc<BaseConsumer<Rebalances>>,
    /// Those of the partitions that it is assigned.
    records: Records,
    transactions: Transactions,
    /// A commit was handed over, and isn't concluded.
    is_committing: bool,
    reader: KafkaReader,
    appender: KafkaAppender,
    /// The partitions that it has.
    owned: BTreeSet<u32>,
    /// Commits in a row that came to nothing.
    refused: u32,
    /// Why it is to join anew, if it couldn't yet.
    rejoins: Option<String>,
    /// When another of its static id took its place lately.
    fenced: Vec<Instant>,
    /// When it was said last that a partition's records couldn't be got.
    said_failed: Option<Instant>,
    /// Before that a batch that isn't full goes on filling.
    gathers_until: Instant,
    /// When the last poll ended.
    polled_at: Instant,
    /// Owned partitions that aren't to be fetched.
    paused: BTreeSet<u32>,
    /// Of partitions that are fetched: the offset of the next record, and since when none has come.
    fetched: BTreeMap<u32, (i64, Instant)>,
    /// Before that it isn't looked again whether one of them has more: a broker gave no answer.
    looks_from: Instant,
    /// Where the outputs end that are committed, of owned partitions whose position was asked for.
    ends: BTreeMap<u32, OutputEnds>,
    /// How many changes are in `owned`, but not yet answered.
    noted: usize,
    /// Where the next poll begins, of partitions that aren't fetched yet.
    starts: BTreeMap<u32, i64>,
    /// As it was when the last poll ended: what is committed is judged by the membership under which it was polled.
    group: Option<Arc<ConsumerGroupMetadata>>,
}

/// What a poll has taken, and has room for.
struct Taken {
    polled: BTreeMap<u32, Vec<Record>>,
    /// Partitions that are to be fetched again: from a record that can't be read now, or one that the client couldn't get.
    waiting: BTreeMap<u32, i64>,
    left: usize,
    left_bytes: usize,
}

impl Taken {
    fn of_at_most(records: usize) -> Self {
        Self { polled: BTreeMap::new(), waiting: BTreeMap::new(), left: records.max(1), left_bytes: MAX_READ_BYTES }
    }

    fn is_full(&self) -> bool {
        self.left == 0 || self.left_bytes == 0
    }
}

impl KafkaLog {
    pub(super) fn join(
        settings: &KafkaSettings,
        member: Option<&str>,
        holder: Option<String>,
        reader: KafkaReader,
        appender: KafkaAppender,
    ) -> Result<Self, LogError> {
        // Without a name of its own a worker is a new one each time.
        let name = member.map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned);
        let consumer = Arc::new(consumer(settings, member)?);
        let events = settings.topic(Topic::Events);
        let records = Records::of(consumer.clone(), &events)?;
        // Before it joins: a predecessor of the same name may have left a transaction, and can commit nothing from now on.
        let mut transactions = Transactions::new(settings, format!("{}-{name}", settings.group));
        transactions.ready()?;
        consumer.subscribe(&[&events]).map_err(failed(format!("joining the group {}", settings.group)))?;
        Ok(Self {
            settings: settings.clone(),
            events,
            member: name,
            instance: member.map(str::to_owned),
            holder,
            consumer,
            records,
            transactions,
            is_committing: false,
            reader,
            appender,
            owned: BTreeSet::new(),
            refused: 0,
            rejoins: None,
            fenced: Vec::new(),
            said_failed: None,
            gathers_until: Instant::now(),
            polled_at: Instant::now(),
            paused: BTreeSet::new(),
            fetched: BTreeMap::new(),
            looks_from: Instant::now(),
            ends: BTreeMap::new(),
            noted: 0,
            starts: BTreeMap::new(),
            group: None,
        })
    }

    fn check_owned(&self, partition: u32) -> Result<(), LogError> {
        if self.owned.contains(&partition) { Ok(()) } else { Err(LogError::NotAssigned { partition }) }
    }

    /// How many records are taken ahead of the next poll.
    #[cfg(test)]
    pub(super) fn taken_ahead(&self) -> usize {
        self.records.taken_ahead()
    }

    /// Whether the producer that it had has ended.
    #[cfg(test)]
    pub(super) fn has_no_producer(&self) -> bool {
        self.transactions.has_no_producer()
    }

    fn list(&self, partitions: impl IntoIterator<Item = (u32, Offset)>) -> Result<TopicPartitionList, LogError> {
        let mut list = TopicPartitionList::new();
        for (partition, offset) in partitions {
            list.add_partition_offset(&self.events, number(partition), offset).map_err(failed("naming partitions"))?;
        }
        Ok(list)
    }

    /// Answers the rebalances that earlier polls told of.
    fn answer(&mut self) -> Result<(), LogError> {
        while self.noted > 0 {
            let Some(change) = self.consumer.context().first() else { break };
            match change {
                Change::Assigned(partitions) => {
                    partitions.iter().for_each(|partition| self.records.lead_here(number(*partition)));
                    let (paused, fetched): (Vec<u32>, Vec<u32>) = partitions.into_iter().partition(|partition| self.paused.contains(partition));
                    let mut from = Vec::with_capacity(fetched.len());
                    for partition in fetched {
                        from.push((partition, self.starting_point(partition)?));
                    }
                    let mut places: Vec<(u32, Offset)> = from.iter().map(|(partition, next)| (*partition, Offset::Offset(*next))).collect();
                    let mut patience = AT_ONCE;
                    for partition in &paused {
                        // Where it will begin isn't known yet; it is told when it is resumed. No logical offset: the look-up might end after that.
                        // Those that nobody answers for must not keep the group from having its answer.
                        let start = match self.reader.ends_within(Topic::Events, *partition, patience) {
                            Err(error) if error.is_passing() => {
                                tracing::debug!("{error}");
                                patience = BRIEFLY;
                                0
                            }
                            ends => ends?.0,
                        };
                        places.push((*partition, Offset::Offset(start)));
                    }
                    let list = self.list(places)?;
                    self.consumer.incremental_assign(&list).map_err(failed("taking partitions up"))?;
                    self.consumer
                        .pause(&self.list(paused.iter().map(|partition| (*partition, Offset::Invalid)))?)
                        .map_err(failed("pausing partitions"))?;
                    self.fetched.extend(from.into_iter().map(|(partition, next)| (partition, (next, Instant::now()))));
                }
                Change::Revoked(partitions) => {
                    partitions.iter().for_each(|partition| self.records.drop_of(number(*partition)));
                    let list = self.list(partitions.into_iter().map(|partition| (partition, Offset::Invalid)))?;
                    self.consumer.incremental_unassign(&list).map_err(failed("giving partitions back"))?;
                }
            }
            self.consumer.context().answered();
            self.noted -= 1;
        }
        Ok(())
    }

    /// Where a partition is read from: where the worker said, or where it is committed, or the start.
    fn starting_point(&mut self, partition: u32) -> Result<i64, LogError> {
        if let Some(next) = self.starts.get(&partition) {
            return Ok(*next);
        }
        let start = self.reader.start(Topic::Events, partition)?;
        self.settle()?;
        let committed = self.reader.committed(partition)?;
        self.ends.insert(partition, committed.as_ref().map(|committed| committed.ends).unwrap_or_default());
        Ok(committed.map_or(start, |committed| committed.position.next.max(start)))
    }

    /// Takes notice of the rebalances that have come; drops what was polled of partitions that are gone.
    fn note(&mut self, polled: &mut BTreeMap<u32, Vec<Record>>) -> bool {
        let changes = self.consumer.context().after(self.noted);
        for change in &changes {
            tracing::info!(member = self.member, ?change, "rebalance");
            match change {
                Change::Assigned(partitions) => self.owned.extend(partitions),
                Change::Revoked(partitions) => {
                    for partition in partitions {
                        self.owned.remove(partition);
                        self.paused.remove(partition);
                        self.starts.remove(partition);
                        self.fetched.remove(partition);
                        self.ends.remove(partition);
                        polled.remove(partition);
                    }
                }
            }
        }
        self.noted += changes.len();
        !changes.is_empty()
    }

    /// Lets the consumer tell what concerns the group.
    fn listen(&mut self) -> Result<(), LogError> {
        let told = self.consumer.poll(Duration::ZERO).map(|told| told.map(|message| (message.partition(), message.offset())));
        match told {
            None => Ok(()),
            Some(Err(error)) => self.heed(&error),
            Some(Ok((partition, offset))) => Err(self.rejoin(format!("offset {offset} of partition {partition} came past its queue"))),
        }
    }

    /// Does what a consumer's error asks for, which is nothing where it passes: connections come and go.
    ///
    /// # Errors
    /// With what the caller passes on, also where the member has joined anew.
    fn heed(&mut self, error: &KafkaError) -> Result<(), LogError> {
        let passing = |operation: &str| Err(LogError::Kafka { operation: operation.to_owned(), why: words(error) });
        match error {
            KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::FencedInstanceId) => {
                self.fenced.retain(|before| before.elapsed() < RIVAL_WITHIN);
                self.fenced.push(Instant::now());
                if self.fenced.len() >= RIVAL_FENCES {
                    return Err(LogError::Fenced { member: self.member.clone(), why: words(error) });
                }
                Err(self.rejoin(words(error)))
            }
            // The group protocol of KIP-848 is asked for first, and only this answer tells for sure that the brokers don't have it, or have it
            // switched off.
            KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::UnsupportedVersion | RDKafkaErrorCode::UnsupportedFeature)
                if self.settings.fall_back_to_classic() =>
            {
                tracing::info!(member = self.member, "the brokers don't have the group protocol of KIP-848: joining by the classic one");
                Err(self.rejoin(words(error)))
            }
            // Also where another holds this one's static id: its predecessor, until the group has found out that it died.
            KafkaError::MessageConsumptionFatal(_) => Err(self.rejoin(words(error))),
            KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                passing("reading on: retention has passed the position, or it is beyond the end")
            }
            KafkaError::MessageConsumption(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed,
            ) => passing("reading the input"),
            _ => {
                tracing::debug!("polling: {error}");
                Ok(())
            }
        }
    }

    /// Becomes a member anew, with another consumer. One that the group has dropped while it had a rebalance to answer is of no use any more: the
    /// group takes no member that comes with partitions. Returns what the caller passes on, also where that came to something.
    fn rejoin(&mut self, cause: String) -> LogError {
        let operation = format!("rejoining the group {}", self.settings.group);
        // In this order: the group takes the place of who is there from who subscribes.
        let joined = consumer(&self.settings, self.instance.as_deref()).map(Arc::new).and_then(|consumer| {
            let records = Records::of(consumer.clone(), &self.events)?;
            consumer.subscribe(&[&self.events]).map_err(failed(operation.clone()))?;
            Ok((consumer, records))
        });
        match joined {
            Ok(joined) => {
                self.leave();
                (self.refused, self.rejoins) = (0, None);
                (self.consumer, self.records) = joined;
                LogError::Kafka { operation, why: cause }
            }
            Err(error) => {
                // The consumer that is left may have said for the last time that it is of no use.
                self.rejoins = Some(cause);
                error
            }
        }
    }

    /// Answers what the group waits for, also from a member that leaves, and owns nothing from now on. The consumer says goodbye when it is dropped.
    fn leave(&mut self) {
        let rebalances = self.consumer.context().clone();
        rebalances.close();
        while let Some(change) = rebalances.first() {
            let (Change::Assigned(partitions) | Change::Revoked(partitions)) = &change;
            let list = self.list(partitions.iter().map(|partition| (*partition, Offset::End)));
            let answer = list.map(|list| match change {
                Change::Assigned(_) => self.consumer.incremental_assign(&list),
                Change::Revoked(_) => self.consumer.incremental_unassign(&list),
            });
            if !matches!(answer, Ok(Ok(()))) {
                tracing::debug!(member = self.member, group = self.settings.group, "leaving the group: a rebalance could not be answered");
            }
            rebalances.answered();
        }
        self.owned.clear();
        self.paused.clear();
        self.starts.clear();
        self.fetched.clear();
        self.ends.clear();
        self.noted = 0;
        self.group = None;
    }

    /// What the client doesn't fetch though it is there, in words. Seen after leaders had changed several times: it has lost the partition's leader,
    /// and asks nobody until it is made anew.
    fn stalled(&mut self) -> Option<String> {
        let now = Instant::now();
        if now < self.looks_from {
            return None;
        }
        let silent = self.fetched.iter_mut().filter(|(_, (_, since))| now.duration_since(*since) >= STALL);
        let (partition, (next, since)) = silent.min_by_key(|(_, (_, since))| *since)?;
        let has_record = self.reader.has_record_within(Topic::Events, *partition, *next, AT_ONCE);
        // One after another, each again as late.
        *since = Instant::now();
        match has_record {
            Ok(true) => Some(format!("partition {partition} has had records from offset {next} on for {} s, and none came", STALL.as_secs())),
            Ok(false) => None,
            Err(error) => {
                tracing::debug!("{error}");
                self.looks_from = Instant::now() + REST * now.elapsed();
                None
            }
        }
    }

    /// Takes in what the client has given.
    fn take_in(&mut self, fetched: Vec<(i32, Fetched)>, taken: &mut Taken) -> Result<(), LogError> {
        for (partition, fetched) in fetched {
            let mut record = match fetched {
                Fetched::Record(record) => record,
                Fetched::End(_) => continue,
                Fetched::Failed(code) => {
                    self.heed(&KafkaError::MessageConsumption(code))?;
                    if let Some((partition, next)) = self.failed_at(partition, &taken.polled) {
                        self.say_failed(partition, next, code);
                        taken.waiting.entry(partition).or_insert(next);
                    }
                    continue;
                }
            };
            // What was fetched before a partition was gone is dropped.
            let Some(partition) = u32::try_from(partition).ok().filter(|partition| self.owned.contains(partition)) else { continue };
            // Also of those that wait: a long run of them must not hold up the others.
            taken.left = taken.left.saturating_sub(1);
            taken.left_bytes = taken.left_bytes.saturating_sub(record.bytes());
            if taken.waiting.contains_key(&partition) {
                continue;
            }
            if let Err(error) = self.settings.framing.read(Topic::Events, &mut record) {
                tracing::debug!(partition, offset = record.offset, %error, "the partition waits");
                taken.waiting.insert(partition, record.offset);
                continue;
            }
            taken.polled.entry(partition).or_default().push(record);
        }
        Ok(())
    }

    /// Notes how far each partition was read, and lets those that wait be fetched again.
    fn note_taken(&mut self, taken: &Taken) -> Result<(), LogError> {
        let now = Instant::now();
        let next = |records: &Vec<Record>| records.last().map(|record| record.offset + 1);
        self.fetched.extend(taken.polled.iter().filter_map(|(partition, records)| Some((*partition, (next(records)?, now)))));
        if taken.polled.is_empty() && !taken.waiting.is_empty() {
            // They are fetched again, over and over.
            std::thread::sleep(WAITING);
        }
        for (partition, next) in &taken.waiting {
            if self.owned.contains(partition) {
                self.seek(*partition, *next)?;
                self.fetched.insert(*partition, (*next, Instant::now()));
            }
        }
        Ok(())
    }

    /// The record that a failure of a partition is about: the client takes it for read with that, and would pass over it at the next rebalance.
    fn failed_at(&self, partition: i32, polled: &BTreeMap<u32, Vec<Record>>) -> Option<(u32, i64)> {
        let partition = u32::try_from(partition).ok()?;
        let (next, _) = self.fetched.get(&partition)?;
        let last = polled.get(&partition).and_then(|records| records.last());
        Some((partition, last.map_or(*next, |last| last.offset + 1)))
    }

    fn say_failed(&mut self, partition: u32, offset: i64, code: RDKafkaErrorCode) {
        if self.said_failed.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            tracing::warn!(partition, offset, "the input can't be read here now, and is asked for again: {code}");
            self.said_failed = Some(Instant::now());
        }
    }

    /// Lets the next poll begin at `next`.
    fn go_on(&mut self, partition: u32, next: i64) -> Result<(), LogError> {
        if self.consumer.context().is_unanswered(partition) {
            self.starts.insert(partition, next);
            return Ok(());
        }
        self.seek(partition, next)?;
        if !self.paused.contains(&partition) {
            self.fetched.insert(partition, (next, Instant::now()));
        }
        Ok(())
    }

    /// Lets a partition that is being fetched go on elsewhere.
    fn seek(&mut self, partition: u32, next: i64) -> Result<(), LogError> {
        self.records.drop_of(number(partition));
        let until = Instant::now() + TAKEN_UP;
        let to = self.list([(partition, Offset::Offset(next))])?;
        let operation = || format!("rewinding partition {partition}");
        loop {
            let answer = self.consumer.seek_partitions(to.clone(), REQUEST).map_err(failed(operation()))?;
            let Some(Err(error)) = answer.elements().first().map(rdkafka::topic_partition_list::TopicPartitionListElem::error) else {
                return Ok(());
            };
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::State) {
                return Err(failed(operation())(error));
            }
            // A partition that was taken up just now isn't fetched yet.
            if Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            // One whose offset was out of range isn't fetched any more, and who gave it up and took it again would have to know when the client has
            // done the first.
            return Err(self.rejoin(format!("partition {partition} isn't fetched any more")));
        }
    }
}

impl Log for KafkaLog {
    fn assigned(&self) -> Vec<u32> {
        self.owned.iter().copied().collect()
    }

    fn poll(&mut self, max_records: usize, wait: Duration) -> Result<Vec<Batch>, LogError> {
        // Who comes late finds nothing in the client, which doesn't mean that it can't get it.
        if self.polled_at.elapsed() >= STALL / 3 {
            let now = Instant::now();
            self.fetched.values_mut().for_each(|(_, since)| *since = now);
        }
        if let Some(cause) = self.rejoins.take() {
            return Err(self.rejoin(cause));
        }
        self.answer()?;
        self.starts.clear();
        let until = Instant::now() + wait.min(Duration::from_secs(86_400));
        let mut taken = Taken::of_at_most(max_records);
        // Nothing more is there at the moment.
        let mut is_drained = false;
        while !taken.is_full() {
            // The clock is asked only where there is time to wait: records come faster than it can be read.
            let wait_until = if taken.polled.is_empty() { until } else { self.gathers_until };
            let patience = if is_drained { wait_until.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            if !taken.polled.is_empty() && !patience.is_zero() {
                // What comes meanwhile is taken at once.
                std::thread::sleep(patience);
            }
            self.listen()?;
            if self.consumer.context().count() > self.noted && self.note(&mut taken.polled) {
                break;
            }
            // Who waits waits for the first.
            let (most, patience) =
                if is_drained && taken.polled.is_empty() { (1, whole_millis(patience.min(LISTEN_EVERY))) } else { (taken.left, Duration::ZERO) };
            let fetched = self.records.take(most, patience);
            let was_drained = std::mem::replace(&mut is_drained, fetched.is_empty());
            if is_drained && was_drained && Instant::now() >= wait_until {
                break;
            }
            self.take_in(fetched, &mut taken)?;
            if !taken.polled.is_empty() && !self.is_committing {
                // While others gather. Behind a commit it would wait, and the membership might be over by then.
                self.transactions.begin(|| self.consumer.group_metadata());
            }
        }
        self.note_taken(&taken)?;
        if is_drained && let Some(stalled) = self.stalled() {
            return Err(self.rejoin(stalled));
        }
        if taken.is_full() {
            // There may be more, and the worker has something to do now.
            self.records.go_ahead(BATCH);
        }
        self.polled_at = Instant::now();
        self.group = self.consumer.group_metadata().map(Arc::new);
        Ok(taken.polled.into_iter().map(|(partition, records)| Batch { partition, records }).collect())
    }

    fn batch(&self) -> usize {
        batch(BATCH)
    }

    fn hand_over(&mut self, commits: Vec<Commit>) -> Result<(), LogError> {
        self.conclude()?;
        for commit in &commits {
            self.check_owned(commit.partition)?;
            if commit.outputs.iter().any(|output| output.topic == Topic::Events) {
                return Err(LogError::WrongCommit { partition: commit.partition, why: "writes to the input" });
            }
        }
        let Some(group) = self.group.clone() else { return Err(LogError::Aborted { why: "nothing was polled before".into() }) };
        let (mut publications, mut states) = (Vec::with_capacity(commits.len()), Vec::with_capacity(commits.len()));
        for Commit { partition, position, outputs, state, database } in commits {
            let ends = self.ends.get(&partition).copied().unwrap_or_default();
            let committed = Committed { position, ends, partitions: self.reader.partitions(), holder: self.holder.clone() };
            publications.push(Publication { partition, committed, outputs });
            states.push((database, state));
        }
        reached("commit");
        self.transactions.commit(publications, states, group)?;
        self.is_committing = true;
        Ok(())
    }

    fn conclude(&mut self) -> Result<(), LogError> {
        if !std::mem::take(&mut self.is_committing) {
            return Ok(());
        }
        let ends = match self.transactions.concluded() {
            Err(LogError::Aborted { why }) => {
                self.refused += 1;
                return Err(if self.refused < REFUSALS { LogError::Aborted { why } } else { self.rejoin(why) });
            }
            answer => {
                self.refused = 0;
                answer?
            }
        };
        self.gathers_until = Instant::now() + GATHER;
        self.ends.extend(ends.into_iter().filter(|(partition, _)| self.owned.contains(partition)));
        Ok(())
    }

    fn settle(&mut self) -> Result<(), LogError> {
        self.conclude()?;
        self.transactions.ready()
    }

    fn announces(&self) -> Option<&str> {
        self.holder.as_deref()
    }

    fn reader(&self) -> Arc<dyn Reader> {
        Arc::new(self.reader.clone())
    }

    fn published(&self, topic: Topic, partition: u32) -> Result<i64, LogError> {
        self.check_owned(partition)?;
        self.ends.get(&partition).and_then(|ends| ends.get(topic)).map_or_else(|| Ok(self.reader.ends_within(topic, partition, AT_ONCE)?.1), Ok)
    }

    fn end(&self, partition: u32) -> Result<i64, LogError> {
        Ok(self.reader.ends_within(Topic::Events, partition, AT_ONCE)?.1)
    }

    fn pause(&mut self, partition: u32) -> Result<(), LogError> {
        self.check_owned(partition)?;
        self.paused.insert(partition);
        self.fetched.remove(&partition);
        self.records.drop_of(number(partition));
        if self.consumer.context().is_unanswered(partition) {
            return Ok(());
        }
        let list = self.list([(partition, Offset::Invalid)])?;
        self.consumer.pause(&list).map_err(failed(format!("pausing partition {partition}")))
    }

    fn resume(&mut self, partition: u32, next: i64, ends: OutputEnds) -> Result<(), LogError> {
        self.check_owned(partition)?;
        self.paused.remove(&partition);
        self.ends.insert(partition, ends);
        // First, since it is answered: resuming does nothing where the pause hasn't been carried out yet.
        self.go_on(partition, next)?;
        if self.consumer.context().is_unanswered(partition) {
            return Ok(());
        }
        let list = self.list([(partition, Offset::Invalid)])?;
        self.consumer.resume(&list).map_err(failed(format!("resuming partition {partition}")))
    }

    fn append(&mut self, partition: u32, key: &[u8], value: &[u8]) -> Result<i64, LogError> {
        self.check_owned(partition)?;
        loop {
            if let Some(sent) = self.appender.send(Topic::Events, partition, key, Some(value), &Headers::new())? {
                return sent.blocking_offset();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for KafkaLog {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A consumer that isn't a member yet.
fn consumer(settings: &KafkaSettings, instance: Option<&str>) -> Result<BaseConsumer<Rebalances>, LogError> {
    settings.member(instance).create_with_context(Rebalances::default()).map_err(failed("making a worker's consumer"))
}

/// Rounded up: the Rust client waits for whole milliseconds, and spins through the rest.
fn whole_millis(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}
