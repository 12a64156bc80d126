//! Running a replay: begins one or goes on with it, until all of it is judged.

use super::past::{Pace, Past, View};
use super::seed::{removed, seed};
use super::{BEGUN, Begun, DONE, Part, Progress, Replay};
use crate::event::Millis;
use crate::judge::RULES;
use crate::log::kafka::{self, Kafka, KafkaAppender, KafkaLog, TopicSettings};
use crate::log::now;
use crate::log::{Log, LogError, Reader, Topic};
use crate::roles::backend::{States, check_topics};
use crate::roles::processor::Worker;
use crate::roles::service::{Interrupts, LogFormat, write_diagnostics};
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often it is told how far a replay is.
const TELL_EVERY: Duration = Duration::from_secs(5);
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// The member that runs it. Whoever runs it next takes its place, and the transaction that it left.
const MEMBER: &str = "replay";
/// How long after a record that could not be appended another is tried: it takes the worker's time.
const TICK_AGAIN: Duration = Duration::from_secs(10);

/// How a replay is run.
#[derive(Debug, Clone, clap::Args)]
pub struct StartArgs {
    /// Records per second, at most, of the log and of what it is seeded with before [default: as many as there are]
    #[arg(long)]
    pub rate: Option<NonZeroU32>,
    /// Take part although brokers are older than Kafka 4.0, as `callsieve run` does by that
    #[arg(long, env = "CALLSIEVE_ALLOW_OLD_BROKERS")]
    pub allow_old_brokers: bool,
    /// Where its state is kept, below replay/NAME
    #[arg(long, env = "CALLSIEVE_DATA_DIR", default_value = "./callsieve-data")]
    pub data_dir: PathBuf,
    /// How diagnostics are written to standard error
    #[arg(long, env = "CALLSIEVE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How a run of a replay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Everything is judged.
    Finished,
    /// It was before.
    FinishedBefore,
    /// By a signal; it goes on from there.
    Interrupted,
}

impl Replay {
    /// Begins the replay, or goes on with it, until it has finished or SIGINT or SIGTERM comes. Not for threads of an async runtime.
    ///
    /// # Errors
    /// If it was begun with other rules or can't be begun, if another process runs it from the same data directory, and whatever stops its worker.
    pub fn run(&mut self, args: &StartArgs) -> anyhow::Result<Ended> {
        let bar = Bar::new();
        write_diagnostics(args.log_format, if bar.shown.is_some() { "warn" } else { "info" });
        let stop = until_interrupted()?;
        let admin = kafka::enter(&mut self.live, args.allow_old_brokers)?;
        let live = Kafka::with(self.live.clone(), check_topics(&admin, &self.live)?)?;
        let (own, begun, done) = self.begun(&live)?;
        if done.len() == begun.parts.len() {
            return Ok(Ended::FinishedBefore);
        }
        let work = Kafka::connect(self.working())?;
        let mut pace = Pace::new(args.rate);
        for (partition, committed) in (0..).zip(work.positions()?) {
            if stop.load(Ordering::Acquire) {
                return Ok(Ended::Interrupted);
            }
            if committed.is_none() {
                let seeded = seed(&live.reader(), &work, partition, &begun.parts[partition as usize], &mut pace, &stop)?;
                let Some(records) = seeded else { return Ok(Ended::Interrupted) };
                tracing::info!(partition, records, "seeded");
            }
        }

        let of = format!("replay {} of cluster {}, topics {}*", begun.id, work.cluster_id()?, self.live.topic_prefix);
        let states = States::open(self.state_dir(&args.data_dir), Some(&of))?;
        let mut erased = BTreeMap::new();
        for partition in 0..live.partitions() {
            erased.extend(removed(&live.reader(), partition)?);
        }
        let view = Arc::new(View { parts: begun.parts.clone(), removed: erased });
        let past = Past::new(join(&work, &stop)?, view, pace);
        let progress = Progress { begun, positions: work.positions()?, done };
        let ticked = BTreeSet::new();
        let mut run = Run {
            own: own.appender(),
            work: &work,
            progress,
            ticked,
            ticks_from: Instant::now(),
            bar,
            told_at: Instant::now(),
            shown_at: Instant::now(),
            failed: None,
        };
        let worker = Worker::open(past, behind, move |partition| states.database(partition), |_, _| {});
        worker?.run_while(|worker| run.goes_on(worker) && !stop.load(Ordering::Acquire))?;
        run.bar.clear();
        if let Some(error) = run.failed {
            return Err(error.into());
        }
        Ok(if run.progress.is_finished() { Ended::Finished } else { Ended::Interrupted })
    }

    /// How it was begun, which is now if it wasn't before, and which partitions are done.
    fn begun(&self, live: &Kafka) -> anyhow::Result<(Kafka, Begun, BTreeSet<u32>)> {
        let name = &self.name;
        if let Some((own, begun, done)) = self.opened()? {
            if begun.parts.len() != live.partitions() as usize {
                let (then, now) = (begun.parts.len(), live.partitions());
                bail!("the replay {name} was begun when the log had {then} partitions, and now it has {now}: drop it and begin anew");
            }
            if begun.rules != RULES {
                let rules = &begun.rules;
                bail!(
                    "the replay {name} was begun with the rules {rules}, and this callsieve has the rules {RULES}: go on with the version that began it, or drop \
                     it and begin anew"
                );
            }
            tracing::info!(id = begun.id, "going on with the replay");
            return Ok((own, begun, done));
        }
        let begun = self.new_begun(live)?;
        let positions = Kafka::with(self.working(), live.partitions())?.positions()?;
        if positions.iter().any(Option::is_some) {
            bail!(
                "the replay {name} isn't begun, but its group {} has positions, left of one whose topics are gone: `callsieve replay drop {name}` deletes them",
                self.group()
            );
        }
        // Made before, where that was cut off.
        self.make_topics()?;
        let own = Kafka::connect(self.own())?;
        own.appender().put(Topic::Events, 0, [(BEGUN.to_vec(), Some(serde_json::to_vec(&begun)?))])?;
        Ok((own, begun, BTreeSet::new()))
    }

    fn make_topics(&self) -> anyhow::Result<()> {
        let described = kafka::describe(&self.live)?;
        let copies = described.iter().map(|topic| topic.replicas).filter(|copies| *copies > 0).min();
        let topics = TopicSettings {
            partitions: u32::try_from(described.first().map_or(0, |events| events.partitions))?,
            replication: copies.and_then(|copies| u32::try_from(copies).ok()),
            // How it was begun is needed as long as it exists.
            over: vec![(Topic::Events, "cleanup.policy".into(), "compact".into())],
            ..TopicSettings::default()
        };
        kafka::create(&self.own(), &topics)?;
        Ok(())
    }

    /// From the start of the log up to where the live processor is: what comes after is judged by the present settings and numbers anyway.
    fn new_begun(&self, live: &Kafka) -> anyhow::Result<Begun> {
        let positions = live.positions()?;
        if positions.iter().all(Option::is_none) {
            bail!("the group {} has committed nothing on {}events; is --group the live processor's?", self.live.group, self.live.topic_prefix);
        }
        let mut parts = Vec::new();
        for (partition, position) in (0..).zip(positions) {
            let start = live.reader().start(Topic::Events, partition)?;
            let (end, time) = position.map_or((start, Millis::MIN), |position| (position.next.max(start), position.partition_time));
            parts.push(Part { start, end, time });
        }
        let started_at = now();
        let id = format!("{}-{started_at}", self.name);
        Ok(Begun { id, rules: RULES.to_owned(), started_at, parts, group: Some(self.live.group.clone()) })
    }
}

/// A clock behind the time of every partition: a deadline that lies beyond a replay's end is none of its business, and work that is due is due
/// without one.
fn behind() -> Millis {
    const LONG_AGO: Millis = 1 << 50;
    now() - LONG_AGO
}

/// Joins the group; brokers that are away come back, one that refuses us goes on to.
fn join(work: &Kafka, stop: &AtomicBool) -> anyhow::Result<KafkaLog> {
    loop {
        match work.worker(Some(MEMBER)) {
            Err(error) if error.passes_by_itself() && !stop.load(Ordering::Acquire) => tracing::warn!(%error, "joining the group again"),
            joined => return Ok(joined?),
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Becomes true with SIGINT or SIGTERM.
pub(in crate::roles) fn until_interrupted() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("waiting for signals")?;
    let mut interrupts = runtime.block_on(async { Interrupts::new() })?;
    // It ends with the process.
    let wait = move || {
        runtime.block_on(interrupts.next());
        told.store(true, Ordering::Release);
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).context("waiting for signals")?;
    Ok(stop)
}

/// A run under way.
struct Run<'a> {
    own: KafkaAppender,
    work: &'a Kafka,
    progress: Progress,
    /// Partitions whose time a record of ours lets go on.
    ticked: BTreeSet<u32>,
    /// No sooner: one could not be appended.
    ticks_from: Instant,
    bar: Bar,
    told_at: Instant,
    shown_at: Instant,
    failed: Option<LogError>,
}

impl Run<'_> {
    /// Takes notice of what the worker has done; false when there is nothing more to do.
    fn goes_on(&mut self, worker: &mut Worker<Past<KafkaLog>>) -> bool {
        let (mut done, mut stopped) = (Vec::new(), Vec::new());
        for partition in worker.partitions() {
            let (position, part) = (partition.position(), self.progress.begun.parts[partition.id as usize]);
            self.progress.positions[partition.id as usize] = Some(position);
            let (is_read, is_in_time) = (position.next >= part.end, position.partition_time >= part.time);
            if is_read && !is_in_time && !self.ticked.contains(&partition.id) {
                stopped.push(partition.id);
            }
            let is_committed = !worker.is_being_committed(partition.id);
            if is_read && is_in_time && is_committed && !partition.has_due_work() && !self.progress.done.contains(&partition.id) {
                done.push(partition.id);
            }
        }
        for partition in stopped {
            if self.ticks_from > Instant::now() {
                break;
            }
            // Retention has taken the record that would have taken time to where it was. Any other does, which may never come by itself.
            match worker.log().append(partition, b"", b"") {
                Ok(_) => drop(self.ticked.insert(partition)),
                Err(error) => {
                    tracing::debug!(partition, %error, "a tick is appended later");
                    self.ticks_from = Instant::now() + TICK_AGAIN;
                }
            }
        }
        for partition in done {
            // Said only of what is committed.
            if let Err(error) = self.own.put(Topic::Events, 0, [(format!("{DONE}{partition}").into_bytes(), Some(b"{}".to_vec()))]) {
                self.failed = Some(error);
                return false;
            }
            self.progress.done.insert(partition);
        }
        for partition in &self.progress.done {
            if let Err(error) = worker.log().finish(*partition) {
                self.failed = Some(error);
                return false;
            }
        }
        self.tell();
        !self.progress.is_finished()
    }

    fn tell(&mut self) {
        if self.shown_at.elapsed() >= SHOW_EVERY {
            self.shown_at = Instant::now();
            let (done, total) = self.progress.total();
            self.bar.show(done, total);
        }
        if self.bar.shown.is_none() && self.told_at.elapsed() >= TELL_EVERY {
            self.told_at = Instant::now();
            let ((records, total), partitions) = (self.progress.total(), self.progress.done.len());
            tracing::info!(records, total, partitions_done = partitions, partitions = self.work.partitions(), "replaying");
        }
    }
}

/// On a terminal.
struct Bar {
    shown: Option<ProgressBar>,
}

impl Bar {
    fn new() -> Self {
        let bar = || {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template("{wide_bar} {human_pos} of {human_len} records, {per_sec}, {eta} left") {
                bar.set_style(style);
            }
            bar
        };
        Self { shown: std::io::stderr().is_terminal().then(bar) }
    }

    fn show(&self, done: u64, total: u64) {
        if let Some(bar) = &self.shown {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}
