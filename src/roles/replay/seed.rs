//! What a replay begins with: the accounts and numbers as they stand today, and all evidence as open calls that are still to be judged.
//!
//! It stands on the replay's own topics, committed with its first position, so that a replay is brought up like any other state: from nothing, after
//! a crash, elsewhere. A judged call's evidence is given as that of a call which was over by the time of its verdict; that is how it is judged anew,
//! as a whole with its conversation, also when the log has nothing of it any more. Positions are reset: the replay counts its own.

use super::past::Pace;
use super::{CHUNK, Part, newest, read};
use crate::event::{AccountState, CallVerdict, CompanyNumber, OpenCall, encode};
use crate::judge::LONGEST_WAIT;
use crate::log::kafka::{Kafka, KafkaReader};
use crate::log::{Position, Topic};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Before everything that the log holds.
const BEFORE: i64 = -1;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// The account of a key.
fn account_of(key: &[u8]) -> &[u8] {
    key.split(|byte| *byte == b'/').next().unwrap_or_default()
}

/// The accounts of a partition that were removed, with the offset of that.
///
/// # Errors
/// If the topic can't be read, or a row on it isn't what it should be.
pub fn removed(live: &KafkaReader, partition: u32) -> anyhow::Result<BTreeMap<Vec<u8>, i64>> {
    let mut removed = BTreeMap::new();
    for (key, value) in newest(live, Topic::AccountStates, partition)? {
        let state: AccountState = read(Topic::AccountStates, &key, &value)?;
        removed.extend(state.removed_position.map(|position| (key, position)));
    }
    Ok(removed)
}

/// Seeds a partition, and commits where the replay begins with it. Returns how many records that took; `None` where it was interrupted. Then it is
/// done again.
///
/// # Errors
/// If the topics or a row on them can't be read, the replay's don't take its rows, or its group has members.
pub fn seed(live: &KafkaReader, work: &Kafka, partition: u32, part: &Part, pace: &mut Pace, stop: &AtomicBool) -> anyhow::Result<Option<usize>> {
    let is_erased = {
        let removed = removed(live, partition)?;
        move |key: &[u8], position: i64| removed.get(account_of(key)).is_some_and(|removed| position <= *removed)
    };
    let mut accounts = newest(live, Topic::AccountStates, partition)?;
    for (key, value) in &mut accounts {
        let state: AccountState = read(Topic::AccountStates, key, value)?;
        // What the removal left to be erased is left out here.
        *value = encode(&AccountState { removed_position: None, position: BEFORE, ..state });
    }
    let mut numbers = Rows::new();
    for (key, value) in newest(live, Topic::CompanyNumbers, partition)? {
        let number: CompanyNumber = read(Topic::CompanyNumbers, &key, &value)?;
        if !is_erased(&key, number.position) {
            numbers.insert(key, encode(&CompanyNumber { position: BEFORE, ..number }));
        }
    }
    // The newest of both; open calls contain the evidence of the verdict before.
    let mut evidence = newest(live, Topic::CallVerdicts, partition)?;
    let mut open = newest(live, Topic::OpenCalls, partition)?;
    let mut calls = Rows::new();
    while let Some((key, value)) = evidence.pop_first() {
        let verdict: CallVerdict = read(Topic::CallVerdicts, &key, &value)?;
        let opened: Option<OpenCall> = open.get(&key).map(|value| read(Topic::OpenCalls, &key, value)).transpose()?;
        if opened.is_some_and(|opened| opened.position > verdict.position) {
            continue;
        }
        open.remove(&key);
        if !is_erased(&key, verdict.position) {
            calls.insert(key, encode(&judged(verdict)));
        }
    }
    for (key, value) in open {
        let opened: OpenCall = read(Topic::OpenCalls, &key, &value)?;
        if !is_erased(&key, opened.position) {
            calls.insert(key, encode(&OpenCall { position: BEFORE, ..opened }));
        }
    }

    let seeded = accounts.len() + numbers.len() + calls.len();
    let mut ends = Vec::new();
    for (topic, rows) in [(Topic::AccountStates, accounts), (Topic::CompanyNumbers, numbers), (Topic::OpenCalls, calls)] {
        // Of a seed that was interrupted there may be rows that are none any more.
        let gone: Vec<Vec<u8>> = newest(&work.reader(), topic, partition)?.into_keys().filter(|key| !rows.contains_key(key)).collect();
        let rows = rows.into_iter().map(|(key, value)| (key, Some(value)));
        let mut rows = rows.chain(gone.into_iter().map(|key| (key, None))).peekable();
        let mut end = None;
        while rows.peek().is_some() {
            let chunk: Vec<_> = rows.by_ref().take(pace.allowed(CHUNK)).collect();
            if stop.load(Ordering::Acquire) {
                return Ok(None);
            }
            pace.took(chunk.len());
            end = work.appender().put(topic, partition, chunk)?;
        }
        ends.extend(end.map(|end| (topic, end)));
    }
    // Where nothing of the log is judged anew, no record takes time to where it was.
    let time = if part.start >= part.end { part.time } else { i64::MIN };
    let position = Position { next: part.start, partition_time: time, low_water: part.start, low_water_time: time };
    work.begin(partition, position, &ends)?;
    Ok(Some(seeded))
}

/// The evidence of a verdict, over for so long that nothing but its verdict's time is waited for.
fn judged(verdict: CallVerdict) -> OpenCall {
    OpenCall {
        account_id: verdict.account_id,
        session_id: verdict.session_id,
        touched_at: verdict.decided_at,
        over_since: Some(verdict.decided_at.saturating_sub(LONGEST_WAIT)),
        position: BEFORE,
        call: verdict.call,
    }
}
