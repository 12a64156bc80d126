//! Stands before Kafka: while that gives no answer, what comes in is kept in a log on this machine, and passed on in order when Kafka is back.
//!
//! ```text
//! Direct ── an append gets no answer in time ──> Spooling ── all but a little is passed on ──> HandingOver ── and the rest ──> Direct
//!                                                   ^──────────────────── Kafka is away again ──────┘
//! ```
//! As long as the spool holds something, everything new goes behind it, so the order of what was acknowledged is kept. While the last of it is handed
//! over, what is new waits for that moment. An entry is dropped once Kafka has acknowledged it: a crash in between, like an append that got no answer
//! in time and yet arrived, makes a duplicate, never a loss.
//!
//! The spool is an embedded log of one partition; to which one of Kafka's an entry belongs is decided when it is passed on.

use super::embedded::{EmbeddedLog, EmbeddedOptions, Retention};
use super::{Appender, Appending, Headers, Input, LogError, Place, Record, Topic, letter, system_clock};
use crate::state::database::{DatabaseOptions, Engine};
use bytes::Bytes;
use futures_util::future::try_join_all;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// What is kept: input, and dead letters of the ingress.
const TOPICS: [Topic; 2] = [Topic::Events, Topic::DeadLetters];
/// How many entries are passed on at once.
const PIECE: usize = 2_000;
/// How long what is new waits at most for the last of the spool.
const HAND_OVER: Duration = Duration::from_millis(500);
/// How long until passing on is tried again. Kafka's client has waited for longer before it gave up.
const AGAIN: Duration = Duration::from_millis(250);
/// How often an outage is told of while it lasts.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// What an entry takes beside its key, value and headers.
const OVERHEAD: usize = 64;
/// Memory for blocks that are read, and for what isn't in files yet.
const MEMORY: usize = 16 << 20;

/// How a spool is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolOptions {
    /// Its directory. It is made, and one process has it at a time.
    pub dir: PathBuf,
    /// The bytes of entries that it holds at most.
    pub bytes: u64,
    /// How long an append waits for Kafka's answer before it goes to the spool.
    pub patience: Duration,
}

impl SpoolOptions {
    /// RingCentral waits for 3 s (ringcentral.md A), of which half is left for the way and the spool's disk.
    pub const PATIENCE: Duration = Duration::from_millis(1_500);
}

/// See the module. Clones are the same spool.
#[derive(Clone)]
pub struct Spool {
    kept: Arc<Kept>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Direct,
    Spooling,
    HandingOver,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    mode: Mode,
    /// What the spool holds, and what is being written to it.
    held: Weight,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Weight {
    entries: u64,
    bytes: u64,
}

impl Weight {
    fn of<'a>(entries: impl Iterator<Item = (usize, usize, &'a Headers)>) -> Self {
        entries.fold(Self::default(), |sum, (key, value, headers)| {
            let headers: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            Self { entries: sum.entries + 1, bytes: sum.bytes + (key + value + headers + OVERHEAD) as u64 }
        })
    }

    fn of_inputs(inputs: &[Input]) -> Self {
        Self::of(inputs.iter().map(|input| (input.account.len(), input.value.len(), &input.headers)))
    }

    fn of_records(records: &[Record]) -> Self {
        Self::of(records.iter().map(|record| (record.key.len(), record.value.as_ref().map_or(0, Bytes::len), &record.headers)))
    }

    fn plus(self, other: Self) -> Self {
        Self { entries: self.entries + other.entries, bytes: self.bytes + other.bytes }
    }

    fn less(self, other: Self) -> Self {
        Self { entries: self.entries.saturating_sub(other.entries), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

struct Kept {
    log: EmbeddedLog,
    options: SpoolOptions,
    state: watch::Sender<State>,
    /// Known once it was reached.
    kafka: OnceLock<Arc<dyn Appender>>,
    /// Who has it passes a piece on. It is given back when the piece is dropped, also where nobody waits for that any more.
    forwarding: Arc<tokio::sync::Mutex<()>>,
}

impl Spool {
    /// Opens the spool with what an earlier process left in it. Until [`Spool::forward`] is called, everything goes to it. Waits for the disk.
    ///
    /// # Errors
    /// For a directory that can't be used, that another process uses, or that is damaged.
    pub fn open(options: SpoolOptions) -> Result<Self, LogError> {
        let engine = Engine::new(&DatabaseOptions { cache_bytes: MEMORY, write_buffer_bytes: MEMORY, ..DatabaseOptions::default() });
        let log = EmbeddedOptions { partitions: 1, retention: Retention::default(), clock: system_clock() };
        let log = EmbeddedLog::open(&options.dir, &engine, &log)?;
        let held = held(&log)?;
        if held.entries > 0 {
            tracing::warn!(entries = held.entries, bytes = held.bytes, "the spool holds what did not reach Kafka before");
        }
        show(held);
        let state = watch::Sender::new(State { mode: Mode::Spooling, held });
        Ok(Self { kept: Arc::new(Kept { log, options, state, kafka: OnceLock::new(), forwarding: Arc::default() }) })
    }

    /// How many entries it holds.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.kept.state.borrow().held.entries
    }

    /// The end for who can't send again: what Kafka doesn't acknowledge in time is kept in the spool. The places of such entries are those in the
    /// spool. [`LogError::SpoolFull`] where that has no room.
    #[must_use]
    pub fn appender(&self) -> SpoolAppender {
        SpoolAppender { kept: self.kept.clone(), spools: true }
    }

    /// The end for who can send again, and has no right to the spool's room: while it holds something, the answer is [`LogError::Away`].
    #[must_use]
    pub fn direct_appender(&self) -> SpoolAppender {
        SpoolAppender { kept: self.kept.clone(), spools: false }
    }

    /// Passes on what the spool holds, now and whenever it holds something. Never returns; it may be cut off at any time, and called once.
    pub async fn forward(&self, kafka: Arc<dyn Appender>) {
        let kafka = self.kept.kafka.get_or_init(|| kafka).clone();
        let mut state = self.kept.state.subscribe();
        while state.wait_for(|state| state.mode != Mode::Direct).await.is_ok() {
            self.kept.drain(&*kafka).await;
        }
    }
}

fn held(log: &EmbeddedLog) -> Result<Weight, LogError> {
    let reader = log.reader();
    let mut held = Weight::default();
    for topic in TOPICS {
        let (mut next, end) = (reader.start(topic, 0)?, reader.end(topic, 0)?);
        while next < end {
            let read = reader.read(topic, 0, next, usize::MAX)?;
            held = held.plus(Weight::of_records(&read.records));
            next = read.next;
        }
    }
    Ok(held)
}

fn show(held: Weight) {
    metrics::gauge!("callsieve_spool_entries").set(held.entries as f64);
    metrics::gauge!("callsieve_spool_bytes").set(held.bytes as f64);
}

// ---- in ----

impl Kept {
    /// Waits while the spool is handed over. Whether to go to Kafka; else the spool has room for so much, which is taken.
    async fn enter(&self, weight: Weight) -> Result<bool, LogError> {
        loop {
            let mode = self.state.borrow().mode;
            match mode {
                Mode::Direct => return Ok(true),
                Mode::HandingOver => {
                    let _ = self.state.subscribe().wait_for(|state| state.mode != Mode::HandingOver).await;
                }
                Mode::Spooling => {
                    if self.take_room(weight, |mode| mode == Mode::Spooling)? {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Takes room in the spool if the mode is right for that; taking it begins the spooling.
    fn take_room(&self, weight: Weight, is_right: impl Fn(Mode) -> bool) -> Result<bool, LogError> {
        let mut taken = Ok(false);
        self.state.send_if_modified(|state| {
            let with = state.held.plus(weight);
            if !is_right(state.mode) {
                return false;
            }
            if with.bytes > self.options.bytes {
                taken = Err(LogError::SpoolFull { path: self.options.dir.clone(), bytes: state.held.bytes, most: self.options.bytes });
                return false;
            }
            taken = Ok(true);
            state.held = with;
            if state.mode == Mode::Direct {
                state.mode = Mode::Spooling;
            }
            show(with);
            true
        });
        taken
    }

    fn give_room_back(&self, weight: Weight) {
        self.state.send_modify(|state| {
            state.held = state.held.less(weight);
            show(state.held);
        });
    }

    /// Kafka's answer, or the spool's when that one comes too late.
    async fn append(self: &Arc<Self>, topic: Topic, inputs: Vec<Input>) -> Result<Vec<Place>, LogError> {
        let weight = Weight::of_inputs(&inputs);
        if !self.enter(weight).await? {
            return self.keep(topic, inputs, weight).await;
        }
        let Some(kafka) = self.kafka.get() else { return Err(LogError::Closed) };
        let why = match tokio::time::timeout(self.options.patience, send(&**kafka, topic, inputs.clone())).await {
            Ok(answer @ (Ok(_) | Err(LogError::TooLarge { .. }))) => return answer,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", self.options.patience),
        };
        let is_first = self.state.borrow().mode == Mode::Direct;
        self.take_room(weight, |_| true)?;
        if is_first {
            tracing::warn!(spool = %self.options.dir.display(), why, "Kafka does not acknowledge: what comes in is kept in the spool until it does");
        }
        self.keep(topic, inputs, weight).await
    }

    /// Writes to the spool, which has room for it.
    async fn keep(self: &Arc<Self>, topic: Topic, inputs: Vec<Input>, weight: Weight) -> Result<Vec<Place>, LogError> {
        let kept = self.clone();
        // To its end, also when the caller goes away meanwhile: what is there must be counted, and what is counted must be there.
        let writing = tokio::spawn(async move {
            let written = send(&kept.log.appender(), topic, inputs).await;
            match written {
                Ok(_) => metrics::counter!("callsieve_spooled_total").increment(weight.entries),
                Err(_) => kept.give_room_back(weight),
            }
            written
        });
        writing.await.unwrap_or(Err(LogError::Closed))
    }
}

async fn send(to: &dyn Appender, topic: Topic, mut inputs: Vec<Input>) -> Result<Vec<Place>, LogError> {
    match topic {
        Topic::DeadLetters => try_join_all(inputs.into_iter().map(|letter| to.append_dead_letter(letter))).await,
        _ if inputs.len() == 1 => Ok(vec![to.append(inputs.remove(0)).await?]),
        _ => to.append_all(inputs).await,
    }
}

/// See [`Spool::appender`] and [`Spool::direct_appender`].
#[derive(Clone)]
pub struct SpoolAppender {
    kept: Arc<Kept>,
    spools: bool,
}

impl SpoolAppender {
    async fn append_to(&self, topic: Topic, inputs: Vec<Input>) -> Result<Vec<Place>, LogError> {
        if self.spools {
            return self.kept.append(topic, inputs).await;
        }
        let state = *self.kept.state.borrow();
        match self.kept.kafka.get() {
            Some(kafka) if state.mode == Mode::Direct => send(&**kafka, topic, inputs).await,
            _ => Err(LogError::Away { entries: state.held.entries }),
        }
    }

    async fn append_one(&self, topic: Topic, input: Input) -> Result<Place, LogError> {
        self.append_to(topic, vec![input]).await?.pop().ok_or(LogError::Closed)
    }
}

impl Appender for SpoolAppender {
    fn append(&self, input: Input) -> Appending<'_, Place> {
        Box::pin(self.append_one(Topic::Events, input))
    }

    fn append_all(&self, inputs: Vec<Input>) -> Appending<'_, Vec<Place>> {
        Box::pin(self.append_to(Topic::Events, inputs))
    }

    fn append_dead_letter(&self, letter: Input) -> Appending<'_, Place> {
        Box::pin(self.append_one(Topic::DeadLetters, letter))
    }
}

// ---- out ----

impl Kept {
    /// Passes on until nothing is left and what comes in goes to Kafka again.
    async fn drain(self: &Arc<Self>, kafka: &dyn Appender) {
        let begun = Instant::now();
        let (mut forwarded, mut said) = (0, begun);
        while !self.is_direct_again() {
            match self.forward_piece(kafka).await {
                // It is being written.
                Ok(0) => tokio::time::sleep(Duration::from_millis(1)).await,
                Ok(count) => {
                    forwarded += count;
                    if self.state.borrow().held.entries <= PIECE as u64 {
                        forwarded += self.hand_over(kafka).await;
                    }
                }
                Err(error) => {
                    if said.elapsed() >= SAY_EVERY {
                        let held = self.state.borrow().held;
                        tracing::warn!(%error, entries = held.entries, bytes = held.bytes, "Kafka is still away; the spool holds what came in");
                        said = Instant::now();
                    }
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        if forwarded > 0 {
            tracing::warn!(forwarded, seconds = begun.elapsed().as_secs(), "Kafka acknowledges again, and has all that the spool held");
        }
    }

    fn is_direct_again(&self) -> bool {
        self.state.send_if_modified(|state| {
            let is_empty = state.held.entries == 0;
            if is_empty {
                *state = State { mode: Mode::Direct, held: Weight::default() };
                show(state.held);
            }
            is_empty
        })
    }

    /// Lets what is new wait while the rest is passed on; not for long. Returns how many entries that were.
    async fn hand_over(self: &Arc<Self>, kafka: &dyn Appender) -> usize {
        self.state.send_modify(|state| state.mode = Mode::HandingOver);
        let until = tokio::time::Instant::now() + HAND_OVER;
        let mut forwarded = 0;
        while self.state.borrow().held.entries > 0 && tokio::time::Instant::now() < until {
            let mut piece = std::pin::pin!(self.forward_piece(kafka));
            let passed_on = match tokio::time::timeout_at(until, &mut piece).await {
                Ok(passed_on) => passed_on,
                Err(_) => {
                    // Not cut off: it would all be sent once more.
                    self.state.send_modify(|state| state.mode = Mode::Spooling);
                    piece.await
                }
            };
            match passed_on {
                Ok(0) => tokio::time::sleep(Duration::from_millis(1)).await,
                Ok(count) => forwarded += count,
                Err(_) => break,
            }
        }
        if !self.is_direct_again() {
            self.state.send_modify(|state| state.mode = Mode::Spooling);
        }
        forwarded
    }

    /// Passes the oldest entries of a topic on, and drops them. Cut off, it has done both or neither, as far as the counts go.
    async fn forward_piece(self: &Arc<Self>, kafka: &dyn Appender) -> Result<usize, LogError> {
        let turn = self.forwarding.clone().lock_owned().await;
        for topic in TOPICS {
            let kept = self.clone();
            let read = blocking(move || {
                let reader = kept.log.reader();
                reader.read(topic, 0, reader.start(topic, 0)?, PIECE)
            })
            .await?;
            if read.records.is_empty() {
                continue;
            }
            let weight = Weight::of_records(&read.records);
            let inputs: Vec<Input> = read.records.into_iter().map(input).collect();
            let count = inputs.len();
            match send(kafka, topic, inputs.clone()).await {
                Err(LogError::TooLarge { .. }) => one_by_one(kafka, topic, inputs).await?,
                answer => drop(answer?),
            }
            metrics::counter!("callsieve_spool_forwarded_total").increment(weight.entries);
            let kept = self.clone();
            blocking(move || {
                let _turn = turn;
                let dropped = kept.log.drop_before(topic, 0, read.next);
                // Also where the disk refuses: they aren't read again before a restart.
                if kept.log.reader().start(topic, 0)? >= read.next {
                    kept.give_room_back(weight);
                }
                dropped
            })
            .await?;
            return Ok(count);
        }
        Ok(0)
    }
}

fn input(record: Record) -> Input {
    let account = String::from_utf8_lossy(&record.key).into_owned();
    Input { account, value: record.value.unwrap_or_default().into(), headers: record.headers }
}

/// Entries that Kafka finds too large, whose topics take less than they did, must not stand in the way of the others: they become dead letters.
async fn one_by_one(kafka: &dyn Appender, topic: Topic, inputs: Vec<Input>) -> Result<(), LogError> {
    for entry in inputs {
        match send(kafka, topic, vec![entry.clone()]).await {
            Err(error @ LogError::TooLarge { .. }) => {
                tracing::error!(account = entry.account, %error, "Kafka refuses an entry of the spool; it becomes a dead letter");
                let mut headers = entry.headers;
                headers.push(letter::cause_header(&error.to_string()));
                headers.push((letter::SOURCE.into(), letter::SPOOL.into()));
                let value = letter::cut(entry.value, &mut headers);
                kafka.append_dead_letter(Input { account: entry.account, value, headers }).await?;
                metrics::counter!("callsieve_dead_letters_total", "source" => letter::SPOOL).increment(1);
            }
            answer => drop(answer?),
        }
    }
    Ok(())
}

/// Runs what waits for the disk where that holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, LogError> + Send + 'static) -> Result<T, LogError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(LogError::Closed))
}

#[cfg(test)]
mod tests;
