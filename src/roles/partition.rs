//! One partition of the processor: its state, its time, and what a batch makes of them.

use super::dead_letters;
use crate::event::{CodecError, Millis, decode_event, decode_facts, encode};
use crate::judge::{At, LATEST, OPEN_CALL_AFTER, Output, Stepped, step, step_facts};
use crate::log::{Came, Output as Published, Position, Record, Topic, misplaced};
use crate::state::{Store, TableError};
use std::collections::VecDeque;

/// How often, in partition time, the place of an event is noted for the low-water mark.
const MARK_EVERY: Millis = 10_000;

/// What one commit should carry, in records and in bytes; the record that goes beyond is still whole.
pub(super) const MOST_PUBLISHED: usize = 10_000;
pub(super) const MOST_PUBLISHED_BYTES: usize = 32 << 20;

/// Why a partition cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// The state cannot be read or written.
    #[error(transparent)]
    State(#[from] TableError),
    /// The core could not read the state.
    #[error(transparent)]
    View(#[from] crate::judge::ViewError),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
    /// Somebody else published, or what was committed is gone.
    #[error(
        "partition {partition}: there are verdicts, numbers or accounts on its topics, but the group has no position there, so all would be published again: start with \
         the group (--group) that published them, or with topics of its own (--topic-prefix). A group's positions expire where it has no members for \
         offsets.retention.minutes"
    )]
    NoPosition {
        /// The partition.
        partition: u32,
    },
    /// What the output topics hold makes no sense.
    #[error(
        "{topic} has a record that cannot be restored, at offset {offset}: {why}. Only callsieve writes there: if it did with a schema registry, start with that one \
         (--schema-registry), and if a newer one did, run that; only if something else did, write a tombstone for its key, let the topic be compacted, and start again"
    )]
    Restore {
        /// The topic.
        topic: Topic,
        /// Where.
        offset: i64,
        /// What is wrong.
        why: String,
    },
}

/// A partition under way.
pub struct Partition {
    /// Its number.
    pub id: u32,
    /// How many there are.
    of: u32,
    /// Its state.
    pub store: Store,
    position: Position,
    /// Times and offsets of events, oldest first: facts younger than a mark stand at or after its offset.
    marks: VecDeque<(Millis, i64)>,
}

impl Partition {
    /// Partition `id` of `of`, whose state contains everything before `position`.
    #[must_use]
    pub fn new(id: u32, of: u32, store: Store, position: Position) -> Self {
        Self { id, of, store, position, marks: VecDeque::from([(position.low_water_time, position.low_water)]) }
    }

    /// How far it is.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// Whether a record that moves time on to `now` would bring something about.
    #[must_use]
    pub fn is_due(&self, now: Millis) -> bool {
        self.store.has_due_work() || self.store.next_deadline().is_some_and(|at| at <= now.max(self.position.partition_time))
    }

    /// Whether something is due that no time needs to pass for.
    #[must_use]
    pub fn has_due_work(&self) -> bool {
        self.store.has_due_work() || self.store.next_deadline().is_some_and(|at| at <= self.position.partition_time)
    }

    /// Steps records; what is to be published is added to `published`, what changes stays in the store for its next batch. Returns
    /// how many it stepped: fewer when they publish more than one commit should carry.
    ///
    /// # Errors
    /// If the state can't be read; then it is of no more use.
    pub fn step<'r>(&mut self, records: impl IntoIterator<Item = &'r Record>, published: &mut Vec<Published>) -> Result<usize, PartitionError> {
        let mut stepped = 0;
        let mut bytes = 0;
        for record in records {
            // Kafka's client may give some once more after it was told to pause.
            if record.offset < self.position.next {
                stepped += 1;
                continue;
            }
            let known = published.len();
            self.position.partition_time = partition_time(self.position.partition_time, record);
            let at = At { offset: record.offset, time: self.position.partition_time };
            self.step_one(at, record, published)?;
            self.position.next = record.offset + 1;
            self.note(at);
            stepped += 1;
            bytes += bytes_of(&published[known..]);
            if published.len() >= MOST_PUBLISHED || bytes >= MOST_PUBLISHED_BYTES {
                break;
            }
        }
        (self.position.low_water_time, self.position.low_water) = self.low_water();
        Ok(stepped)
    }

    fn step_one(&mut self, at: At, record: &Record, published: &mut Vec<Published>) -> Result<(), PartitionError> {
        let refused = |cause: String| Ok(Stepped { refused: Some(cause), ..Stepped::default() });
        let stepped = match record.value.as_deref() {
            None => refused("it has no value".into()),
            Some(value) => match decode_facts(value) {
                Some(facts) => facts.map(|facts| match misplaced(facts.account_id.as_str(), self.id, self.of) {
                    None => step_facts(&mut self.store, at, &facts),
                    Some(cause) => refused(cause),
                }),
                None => decode_event(value).map(|event| match event.account_id().and_then(|account| misplaced(account.as_str(), self.id, self.of)) {
                    None => step(&mut self.store, at, &event),
                    Some(cause) => refused(cause),
                }),
            }
            .unwrap_or_else(|error| refused(unreadable(record, &error))),
        }?;
        for output in &stepped.outputs {
            published.push(publish(output, &mut self.store)?);
        }
        if let Some(cause) = stepped.refused {
            published.push(dead_letters::of_event(self.id, record, &cause));
        }
        Ok(())
    }

    fn note(&mut self, at: At) {
        if self.marks.back().is_none_or(|(time, _)| at.time >= time.saturating_add(MARK_EVERY)) {
            self.marks.push_back((at.time, at.offset));
        }
    }

    /// A fact that nothing published contains is at most [`OPEN_CALL_AFTER`] older than the earliest deadline that has not been
    /// worked off, since a session's deadline is never later than the time at which its facts go to `open-calls`. So the events
    /// before the newest mark that is older still are all contained. A bound of a few seconds' events costs nothing to keep.
    fn low_water(&mut self) -> (Millis, i64) {
        let Some(deadline) = self.store.next_deadline() else {
            // No session is open, so nothing is unpublished.
            let here = (self.position.partition_time, self.position.next);
            self.marks = VecDeque::from([here]);
            return here;
        };
        let front = self.position.partition_time.min(deadline);
        let contained = front.saturating_sub(OPEN_CALL_AFTER);
        while self.marks.len() > 1 && self.marks[1].0 <= contained {
            self.marks.pop_front();
        }
        self.marks.front().copied().unwrap_or((self.position.partition_time, self.position.next))
    }
}

/// What outputs bring into a commit.
pub(super) fn bytes_of(outputs: &[Published]) -> usize {
    outputs.iter().map(|output| output.value.as_ref().map_or(0, Vec::len)).sum()
}

/// The partition's time with a record: the running maximum. A writer may date records as it likes; what no clock shows must not stop time for ever.
pub fn partition_time(before: Millis, record: &Record) -> Millis {
    before.max(record.timestamp.clamp(0, LATEST))
}

/// An output as a record for its topic.
fn publish(output: &Output, store: &mut Store) -> Result<Published, PartitionError> {
    let of = |topic, key: String, value| Published { topic, key: key.into_bytes(), value, headers: Vec::new() };
    Ok(match output {
        Output::Account(state) => of(Topic::AccountStates, state.account_id.to_string(), Some(encode(state.as_ref()))),
        Output::Number(row) => of(Topic::CompanyNumbers, format!("{}/{}", row.account_id, row.number), Some(encode(row.as_ref()))),
        Output::NumberGone(account, number) => of(Topic::CompanyNumbers, format!("{account}/{number}"), None),
        Output::Verdict(verdict) => {
            of(Topic::CallVerdicts, [verdict.account_id.as_str(), "/", verdict.session_id.as_str()].concat(), Some(store.encode_verdict(verdict)))
        }
        Output::VerdictGone(account, session) => of(Topic::CallVerdicts, format!("{account}/{session}"), None),
        Output::Open(row) => of(Topic::OpenCalls, format!("{}/{}", row.record.account_id, row.record.session_id), Some(encode(&row.record))),
        Output::OpenGone(account, session) => of(Topic::OpenCalls, format!("{account}/{session}"), None),
    })
}

/// Why a record can't be read: what the log knows of it comes first.
pub(super) fn unreadable(record: &Record, error: &CodecError) -> String {
    if let Came::Unreadable(why) = &record.came { why.clone() } else { error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CallLegs, Event, HEADER, Record as Schema, Tick, encode_event, header_of};
    use crate::state::database::{Database, DatabaseOptions, Engine};
    use std::sync::Arc;

    const T0: Millis = 1_700_000_000_000;

    /// One that has nothing, in a folder of its own.
    fn fresh() -> (tempfile::TempDir, Partition) {
        let dir = tempfile::tempdir().unwrap();
        let database = Database::open(dir.path(), &Engine::new(&DatabaseOptions::default()), &[]).unwrap();
        let start = Position { next: 0, partition_time: Millis::MIN, low_water: 0, low_water_time: Millis::MIN };
        (dir, Partition::new(0, 1, Store::open(Arc::new(database)).unwrap(), start))
    }

    #[test]
    fn a_partitions_time_is_the_running_maximum_of_its_records_times() {
        let (_dir, mut partition) = fresh();
        // A writer's clock may be behind, and a record's time may be none at all.
        let rows = [(-5, 0), (T0, T0), (T0 - 60_000, T0), (T0 + 1, T0 + 1), (Millis::MIN, T0 + 1), (Millis::MAX, LATEST), (T0 + 2, LATEST)];
        for (offset, (timestamp, expected)) in (0..).zip(rows) {
            let value = encode_event(&Event::Tick(Tick { at: timestamp }));
            let record =
                Record { offset, timestamp, key: b"~".as_slice().into(), value: Some(value.into()), headers: Vec::new(), came: Came::AsItIs };
            let mut published = Vec::new();
            assert_eq!(partition.step(&[record], &mut published).unwrap(), 1);
            assert_eq!(published, []);
            assert_eq!((partition.position().partition_time, partition.position().next), (expected, offset + 1), "after {timestamp}");
        }
    }

    #[test]
    fn a_record_that_is_given_once_more_changes_nothing() {
        let (_dir, mut partition) = fresh();
        let unreadable = |offset| Record { offset, timestamp: T0, key: b"7".as_slice().into(), value: None, headers: Vec::new(), came: Came::AsItIs };
        for (records, letters) in [(0..3, 3), (1..3, 0), (1..4, 1)] {
            let (records, mut published): (Vec<Record>, _) = (records.map(unreadable).collect(), Vec::new());
            assert_eq!((partition.step(&records, &mut published).unwrap(), published.len()), (records.len(), letters));
        }
        assert_eq!(partition.position().next, 4);
    }

    #[test]
    fn a_dead_letter_has_the_bytes_as_they_came_and_the_cause_that_is_known() {
        let (_dir, mut partition) = fresh();
        let broken = [&header_of(Schema::Rejudge)[..], b"x"].concat();
        let facts = [&header_of(Schema::CallLegs)[..], b"x"].concat();
        let rows = [
            (Came::AsItIs, &broken, broken.clone(), "broken Rejudge"),
            (Came::AsItIs, &facts, facts.clone(), "broken CallLegs"),
            (Came::Framed([0, 0, 0, 0, 7], HEADER), &broken, b"\0\0\0\0\x07x".to_vec(), "broken Rejudge"),
            (Came::Framed([0, 0, 0, 0, 7], HEADER), &facts, b"\0\0\0\0\x07x".to_vec(), "broken CallLegs"),
            (Came::Otherwise(b"\0\0\0\0\x08xyz".to_vec().into()), &broken, b"\0\0\0\0\x08xyz".to_vec(), "broken Rejudge"),
            (Came::Unreadable("nobody knows it".into()), &broken, broken.clone(), "nobody knows it"),
        ];
        for (offset, (came, value, bytes, cause)) in (0..).zip(rows) {
            let record = Record { offset, timestamp: T0, key: b"7".as_slice().into(), value: Some(value.clone().into()), headers: Vec::new(), came };
            let mut published = Vec::new();
            partition.step(&[record], &mut published).unwrap();
            let [letter] = &published[..] else { panic!("{published:?}") };
            assert_eq!((letter.topic, letter.value.as_ref(), letter.key.as_slice()), (Topic::DeadLetters, Some(&bytes), b"7".as_slice()));
            assert!(String::from_utf8_lossy(&letter.headers[0].1).contains(cause), "{letter:?}");
        }
    }

    #[test]
    fn the_low_water_mark_knows_the_partitions_time_there() {
        let (_dir, mut partition) = fresh();
        // The second record's own time is earlier than the partition's. A call is open from the first on.
        for (offset, timestamp) in (0..).zip([T0, T0 - 60_000, T0 + MARK_EVERY, T0 + MARK_EVERY + OPEN_CALL_AFTER]) {
            let value = encode_event(&if offset == 0 { open_call() } else { Event::Tick(Tick { at: timestamp }) });
            partition
                .step(
                    &[Record { offset, timestamp, key: b"~".as_slice().into(), value: Some(value.into()), headers: Vec::new(), came: Came::AsItIs }],
                    &mut Vec::new(),
                )
                .unwrap();
        }
        assert_eq!((partition.position().low_water, partition.position().low_water_time), (2, T0 + MARK_EVERY));
        let position = partition.position();
        let mut partition = Partition::new(0, 1, partition.store, position);
        let value = encode_event(&Event::Tick(Tick { at: T0 }));
        partition
            .step(
                &[Record {
                    offset: 4,
                    timestamp: T0,
                    key: b"~".as_slice().into(),
                    value: Some(value.into()),
                    headers: Vec::new(),
                    came: Came::AsItIs,
                }],
                &mut Vec::new(),
            )
            .unwrap();
        assert_eq!((partition.position().low_water, partition.position().low_water_time), (2, T0 + MARK_EVERY), "the same after opening again");
    }

    #[test]
    fn while_no_call_is_open_the_low_water_mark_is_the_position() {
        let (_dir, mut partition) = fresh();
        let tick = |at| Event::Tick(Tick { at });
        for (offset, (event, low_water)) in (0..).zip([(tick(T0), 1), (tick(T0 + 1), 2), (open_call(), 2), (tick(T0 + 2), 2)]) {
            let record = Record {
                offset,
                timestamp: T0,
                key: b"~".as_slice().into(),
                value: Some(encode_event(&event).into()),
                headers: Vec::new(),
                came: Came::AsItIs,
            };
            partition.step(&[record], &mut Vec::new()).unwrap();
            assert_eq!((partition.position().low_water, partition.position().low_water_time), (low_water, T0), "{offset}");
        }
    }

    fn open_call() -> Event {
        Event::CallLegs(CallLegs::without_legs("1", "s", T0))
    }
}
