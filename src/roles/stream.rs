//! Verdicts as they are published, as server-sent events: what stands on `call-verdicts`, account by account.

use super::problem::Problem;
use super::shared::Shared;
use crate::event::json::VerdictJson;
use crate::event::{AccountId, CallVerdict, decode};
use crate::log::{Place, Record, Topic};
use axum::response::sse;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// Records that are read at once.
const CHUNK: usize = 500;
/// A comment goes out after so long without anything else, so that both ends see a broken connection.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often the place is sent along while only other accounts have verdicts, so that a resumed stream need not read all those again.
const MARK_EVERY: i64 = 5_000;

/// So many streams read a partition at once.
const READS: usize = 4;

/// Where a stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// With what is published from now on.
    End,
    /// With the oldest that is kept.
    Start,
    /// After a place.
    After(Place),
}

/// The turns of the streams of each partition: on Kafka each read has a client of its own, and a verdict wakes all that follow its partition.
pub(super) fn reads(partitions: u32) -> Vec<Arc<Semaphore>> {
    (0..partitions).map(|_| Arc::new(Semaphore::new(READS))).collect()
}

/// The id of an event: `partition:offset`. Before the first one stands -1.
pub(super) fn parse_place(text: &str) -> Option<Place> {
    let (partition, offset) = text.split_once(':')?;
    Some(Place { partition: partition.parse().ok()?, offset: offset.parse().ok().filter(|offset| *offset >= -1)? })
}

/// The verdicts of one account, read as they are wanted.
struct Following {
    shared: Arc<Shared>,
    partition: u32,
    prefix: String,
    evidence: bool,
    next: i64,
    marked: i64,
    end: watch::Receiver<i64>,
    stop: watch::Receiver<bool>,
    ready: VecDeque<sse::Event>,
}

/// Begins a stream. It ends when the service stops or the log fails; who reads it comes again with the last id.
pub(super) fn follow(shared: &Arc<Shared>, account: &AccountId, from: From, evidence: bool) -> Result<axum::response::Response, Problem> {
    let partition = shared.partition(account);
    let failed = |error: crate::log::LogError| Problem::unavailable(&error);
    let end = shared.reader.subscribe_end(Topic::CallVerdicts, partition).map_err(failed)?;
    let last = *end.borrow();
    let start = shared.reader.start(Topic::CallVerdicts, partition).map_err(failed)?;
    let next = match from {
        From::End => last,
        From::Start => start,
        From::After(place) if place.partition != partition => {
            return Err(Problem::bad_request(format!("Last-Event-ID is of partition {}, the account's is {partition}", place.partition)));
        }
        From::After(place) if place.offset >= last => {
            return Err(Problem::bad_request("Last-Event-ID is of no event that this service has sent; begin anew with ?from=start"));
        }
        From::After(place) => (place.offset + 1).max(start),
    };
    let mut following = Following {
        shared: shared.clone(),
        partition,
        prefix: format!("{account}/"),
        evidence,
        next,
        marked: next,
        end,
        stop: shared.stop.clone(),
        ready: VecDeque::new(),
    };
    // A client that hasn't had an event yet comes again to the same place.
    following.mark("here it begins");
    let events = futures_util::stream::unfold(following, |mut following| async move {
        let event = following.event().await?;
        Some((Ok::<_, Infallible>(event), following))
    });
    let answer = sse::Sse::new(events).keep_alive(sse::KeepAlive::new().interval(HEARTBEAT));
    Ok(axum::response::IntoResponse::into_response(answer))
}

impl Following {
    /// Tells where the stream is, without an event: clients keep the id.
    fn mark(&mut self, comment: &str) {
        self.marked = self.next;
        self.ready.push_back(sse::Event::default().id(format!("{}:{}", self.partition, self.next - 1)).comment(comment));
    }

    async fn event(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if *self.stop.borrow() {
                return None;
            }
            if self.next >= *self.end.borrow_and_update() {
                tokio::select! {
                    grown = self.end.changed() => grown.ok()?,
                    _ = self.stop.changed() => return None,
                }
                continue;
            }
            let (shared, partition, next) = (self.shared.clone(), self.partition, self.next);
            let turn = self.shared.stream_reads.get(partition as usize)?.clone();
            let turn = tokio::select! {
                turn = turn.acquire_owned() => turn.ok()?,
                _ = self.stop.changed() => return None,
            };
            // Also where the stream is gone meanwhile, it is a read.
            let read = move || (shared.reader.read(Topic::CallVerdicts, partition, next, CHUNK), turn).0;
            let read = tokio::task::spawn_blocking(read).await;
            let read = match read {
                Ok(Ok(read)) => read,
                Ok(Err(error)) => {
                    tracing::error!(%error, "a stream of verdicts ends");
                    return None;
                }
                Err(_) => return None,
            };
            let found = read.records.iter().filter_map(|record| self.shown(record));
            let found: VecDeque<_> = found.collect();
            self.next = read.next;
            if !found.is_empty() {
                self.marked = self.next;
            } else if self.next - self.marked >= MARK_EVERY {
                self.mark("nothing of this account");
            }
            self.ready.extend(found);
        }
    }

    /// A record as an event; `None` for another account's, and for one that can't be read.
    fn shown(&self, record: &Record) -> Option<sse::Event> {
        let session = std::str::from_utf8(&record.key).ok()?.strip_prefix(&self.prefix)?;
        let event = sse::Event::default().id(format!("{}:{}", self.partition, record.offset));
        let Some(value) = &record.value else {
            let gone = serde_json::json!({ "account_id": self.prefix.trim_end_matches('/'), "session_id": session });
            return Some(event.event("forgotten").data(gone.to_string()));
        };
        let verdict: CallVerdict = match decode(value) {
            Ok(verdict) => verdict,
            Err(error) => {
                tracing::error!(partition = self.partition, offset = record.offset, %error, "a verdict can't be read");
                return None;
            }
        };
        event.event("verdict").json_data(VerdictJson { verdict: &verdict, evidence: self.evidence }).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_partition_and_an_offset() {
        for (text, offset) in [("3:17", 17), ("3:0", 0), ("3:-1", -1)] {
            assert_eq!(parse_place(text), Some(Place { partition: 3, offset }));
        }
        for text in ["", "3", "3:", ":17", "-1:0", "0:-2", "a:b", "1:2:3"] {
            assert_eq!(parse_place(text), None, "{text}");
        }
    }
}
