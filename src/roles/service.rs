//! `callsieve run`: webhook ingress, processor and HTTP interface in one process, on the embedded log.

use super::api::router;
use super::instruments;
use super::processor::Worker;
use super::rate::Rates;
use super::shared::{Readiness, Shared};
use super::simulation::Simulation;
use crate::event::{AccountId, Millis};
use crate::log::embedded::{Clock, EmbeddedLog, EmbeddedOptions, Retention, system_clock};
use crate::state::database::{DatabaseOptions, Engine};
use crate::state::tables;
use anyhow::{Context, anyhow, bail};
use rand::Rng;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

/// How `callsieve run` runs.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// Where everything is kept
    #[arg(long, env = "CALLSIEVE_DATA_DIR", default_value = "./callsieve-data")]
    pub data_dir: PathBuf,
    /// Address of webhooks and of the HTTP interface; port 0 takes a free one
    #[arg(long, env = "CALLSIEVE_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Partitions of the log; fixed when the data directory is first used [default: 1, or what the directory has]
    #[arg(long, env = "CALLSIEVE_PARTITIONS", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub partitions: Option<u32>,
    /// Secret that notifications must carry in their header Verification-Token
    #[arg(long, env = "CALLSIEVE_VERIFICATION_TOKEN", hide_env_values = true)]
    pub verification_token: Option<String>,
    /// Secret that requests to /api must carry as a bearer token; needed where --listen is no loopback address
    #[arg(long, env = "CALLSIEVE_API_TOKEN", hide_env_values = true)]
    pub api_token: Option<String>,
    /// The largest notification that is taken, in bytes
    #[arg(long, env = "CALLSIEVE_BODY_LIMIT", default_value_t = 1 << 20)]
    pub body_limit: usize,
    /// Notifications per second that an account may send; twice as many at once
    #[arg(long, env = "CALLSIEVE_RATE_LIMIT", default_value_t = 5_000)]
    pub rate_limit: u32,
    /// Attach a simulated company, made from a seed, and show its verdicts on standard output
    #[arg(long, value_name = "SEED", num_args = 0..=1, default_missing_value = "1")]
    pub simulate: Option<u64>,
    /// How many times faster than real time the simulated company lives
    #[arg(long, default_value_t = 60.0, requires = "simulate")]
    pub simulate_speed: f64,
    /// How diagnostics are written to standard error
    #[arg(long, env = "CALLSIEVE_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// See [`RunArgs::log_format`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object a line.
    Json,
}

/// How long open requests may take when the service stops.
const LAST_REQUESTS: Duration = Duration::from_secs(10);
/// How often the log is tidied up.
const MAINTAIN_EVERY: Duration = Duration::from_secs(60);

/// Runs until interrupted, by SIGINT or SIGTERM.
///
/// # Errors
/// For settings that don't fit together, a data directory or an address that can't be used, and whatever stops the processor.
pub fn main(args: RunArgs) -> anyhow::Result<()> {
    write_diagnostics(args.log_format);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting threads")?;
    let done = runtime.block_on(run(args));
    // What still waits for the disk must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

fn write_diagnostics(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).with_ansi(std::io::stderr().is_terminal());
    // Refused where somebody has set one before, who then gets what is said here.
    let _ = match format {
        LogFormat::Text => subscriber.try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
}

async fn run(mut args: RunArgs) -> anyhow::Result<()> {
    let mut interrupts = Interrupts::new()?;
    if args.simulate.is_some() && args.verification_token.is_none() {
        // The simulated RingCentral is told a secret, as a real one would be.
        args.verification_token = Some(format!("{:032x}", rand::rng().random::<u128>()));
    }
    let mut service = Service::start(&args).await?;
    let mut simulation = None;
    let ended = until_ended(&mut service, &mut interrupts, &args, &mut simulation).await;
    if ended.is_ok() {
        tracing::info!("stopping");
    }
    if let Some(simulation) = simulation {
        simulation.stop().await;
    }
    let stopped = service.stop().await;
    ended.and(stopped)
}

/// Attaches the simulated company, if one is wanted, and waits for an interrupt or a failure.
async fn until_ended(service: &mut Service, interrupts: &mut Interrupts, args: &RunArgs, simulation: &mut Option<Simulation>) -> anyhow::Result<()> {
    if let Some(seed) = args.simulate {
        let token = args.verification_token.as_deref().unwrap_or_default();
        tokio::select! {
            attached = Simulation::attach(service, seed, args.simulate_speed, token) => *simulation = Some(attached?),
            () = interrupts.next() => return Ok(()),
        }
    }
    tokio::select! {
        () = interrupts.next() => Ok(()),
        ended = service.failure() => Err(ended),
    }
}

/// SIGINT and SIGTERM.
struct Interrupts {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Interrupts {
    fn new() -> anyhow::Result<Self> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            Ok(Self {
                terminate: signal(SignalKind::terminate()).context("waiting for SIGTERM")?,
                interrupt: signal(SignalKind::interrupt()).context("waiting for SIGINT")?,
            })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        #[cfg(not(unix))]
        let _ = tokio::signal::ctrl_c().await;
    }
}

/// A running service.
pub struct Service {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    stop_worker: Arc<AtomicBool>,
    failed: oneshot::Receiver<Result<(), String>>,
    worker: std::thread::JoinHandle<()>,
    server: JoinHandle<std::io::Result<()>>,
    maintenance: JoinHandle<()>,
    log: Arc<EmbeddedLog>,
}

/// Where the log stands below the data directory.
#[must_use]
pub fn log_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}

impl Service {
    /// Opens the data directory, and serves. The state is brought up meanwhile: `/readyz` says when that is done.
    ///
    /// # Errors
    /// For settings that don't fit together, and for a data directory or an address that can't be used.
    pub async fn start(args: &RunArgs) -> anyhow::Result<Self> {
        check(args)?;
        // Before the data: a second service that was started by mistake ends here.
        let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
        let address = listener.local_addr().context("asking for the address that is listened on")?;
        let clock = system_clock();
        let log = Arc::new(open_log(args, &clock).await?);
        let databases = (0..).map_while(|partition| log.database(partition).ok()).collect::<Vec<_>>();
        let (stop, stopping) = watch::channel(false);
        let (progress, readiness) = watch::channel(Readiness::BringingUp { done: 0, total: 0 });
        let shared = Arc::new(Shared {
            appender: log.appender(),
            reader: log.reader(),
            databases,
            clock,
            readiness,
            stop: stopping.clone(),
            verification_token: args.verification_token.clone(),
            api_token: args.api_token.clone(),
            body_limit: args.body_limit,
            rates: Rates::new(args.rate_limit),
            metrics: instruments::recorder()?,
        });
        let stop_worker = Arc::new(AtomicBool::new(false));
        let (worker, failed) = start_worker(log.clone(), progress, stop_worker.clone())?;
        let served = router(shared.clone());
        let mut until = stopping.clone();
        let server = tokio::spawn(async move {
            let stopped = async move {
                let _ = until.wait_for(|stop| *stop).await;
            };
            axum::serve(listener, served).with_graceful_shutdown(stopped).await
        });
        let maintenance = tokio::spawn(maintain(log.clone(), shared.clone(), stopping));
        tracing::info!(address = %address, data_dir = %args.data_dir.display(), "serving");
        Ok(Self { address, shared, stop, stop_worker, failed, worker, server, maintenance, log })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How far the processor is, as it changes.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.shared.readiness.clone()
    }

    /// The log that it runs on.
    #[must_use]
    pub fn log(&self) -> &Arc<EmbeddedLog> {
        &self.log
    }

    /// How many partitions the log has.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        u32::try_from(self.shared.databases.len()).unwrap_or(u32::MAX)
    }

    /// When the newest judged call of an account ended, once the state is brought up; `None` while there is none.
    ///
    /// # Errors
    /// If the state can't be read, or the processor ends before it is ready.
    pub async fn newest_end(&self, account: &AccountId) -> anyhow::Result<Option<Millis>> {
        let mut readiness = self.readiness();
        let ready = *readiness.wait_for(|at| !matches!(at, Readiness::BringingUp { .. })).await.context("waiting for the processor")?;
        if ready != Readiness::Ready {
            bail!("the processor stopped before it was ready");
        }
        let (database, account) = (self.shared.database(account), account.clone());
        let read = tokio::task::spawn_blocking(move || {
            let mut newest = None;
            tables::verdicts_by_end(&database, &account, None, usize::MAX, |verdict| {
                newest = Some(verdict.ended_at);
                false
            })
            .map(|_| newest)
        });
        Ok(read.await.context("reading the state was cut off")??)
    }

    /// Becomes true when the service is to end.
    #[must_use]
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    /// Waits for the processor or the server to fail. Cancelled, it has changed nothing.
    pub async fn failure(&mut self) -> anyhow::Error {
        tokio::select! {
            failed = &mut self.failed => match failed {
                Ok(Err(error)) => anyhow!("the processor stopped: {error}"),
                Ok(Ok(())) | Err(_) => anyhow!("the processor stopped"),
            },
            ended = &mut self.server => match ended {
                Ok(Err(error)) => anyhow::Error::new(error).context("the HTTP server stopped"),
                Ok(Ok(())) => anyhow!("the HTTP server stopped"),
                Err(error) => anyhow::Error::new(error).context("the HTTP server stopped"),
            },
        }
    }

    /// Finishes open requests and the batch under way, and closes the data directory.
    ///
    /// # Errors
    /// If the processor failed meanwhile.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Self { shared, stop, stop_worker, mut failed, worker, mut server, maintenance, log, .. } = self;
        let _ = stop.send(true);
        if !server.is_finished() && tokio::time::timeout(LAST_REQUESTS, &mut server).await.is_err() {
            tracing::warn!("open connections were cut");
            server.abort();
            let _ = server.await;
        }
        stop_worker.store(true, Ordering::Release);
        let _ = maintenance.await;
        let joined = tokio::task::spawn_blocking(move || {
            let joined = worker.join();
            drop(shared);
            // The writers end here, after what was asked of them before.
            drop(log);
            joined
        });
        let joined = joined.await.context("stopping the processor")?;
        match failed.try_recv() {
            Ok(Err(error)) => bail!("the processor stopped: {error}"),
            _ if joined.is_err() => bail!("the processor panicked"),
            _ => Ok(()),
        }
    }
}

fn check(args: &RunArgs) -> anyhow::Result<()> {
    let is_loopback = args.listen.ip().is_loopback();
    if args.api_token.is_none() && !is_loopback {
        bail!("--listen {} can be reached from outside, so --api-token (or CALLSIEVE_API_TOKEN) is needed", args.listen);
    }
    if args.simulate.is_some() && !(args.simulate_speed > 0.0 && args.simulate_speed.is_finite()) {
        bail!("--simulate-speed is a factor above 0, not {}", args.simulate_speed);
    }
    for (name, token) in [("--api-token", &args.api_token), ("--verification-token", &args.verification_token)] {
        if token.as_ref().is_some_and(String::is_empty) {
            bail!("{name} is empty");
        }
    }
    if args.verification_token.is_none() && !is_loopback {
        tracing::warn!("without --verification-token, whoever reaches {} may send notifications", args.listen);
    }
    Ok(())
}

async fn open_log(args: &RunArgs, clock: &Clock) -> anyhow::Result<EmbeddedLog> {
    let dir = log_dir(&args.data_dir);
    std::fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let partitions = settle_partitions(&args.data_dir, args.partitions)?;
    let options = EmbeddedOptions { partitions, retention: Retention::default(), clock: clock.clone() };
    tokio::task::spawn_blocking(move || EmbeddedLog::open(&dir, &Engine::new(&DatabaseOptions::default()), &options))
        .await
        .context("opening the log was cut off")?
        .with_context(|| format!("opening {}", args.data_dir.display()))
}

/// How many partitions there are: as when the directory was first used, which a file beside the log remembers. It is written before
/// the log is made, since a log that is cut off while it is made has fewer folders than partitions.
fn settle_partitions(data_dir: &Path, wanted: Option<u32>) -> anyhow::Result<u32> {
    let path = data_dir.join("partitions");
    let found = match std::fs::read_to_string(&path) {
        Ok(text) => Some(text.trim().parse::<u32>().ok().filter(|count| *count > 0).with_context(|| format!("{} holds no number", path.display()))?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(partitions_in(&log_dir(data_dir))).filter(|count| *count > 0),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let count = found.or(wanted).unwrap_or(1);
    if wanted.is_some_and(|wanted| wanted != count) {
        bail!("{} has {count} partitions, which can't be changed: leave --partitions out, or begin anew with another --data-dir", data_dir.display());
    }
    write_whole(&path, &format!("{count}\n")).with_context(|| format!("writing {}", path.display()))?;
    Ok(count)
}

/// Writes a small file so that it is there whole or not at all.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let next = path.with_extension("new");
    let mut file = std::fs::File::create(&next)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&next, path)
}

/// How many folders the log has: one per partition, named by its number.
fn partitions_in(dir: &Path) -> u32 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.max().map_or(0, |last| last.saturating_add(1))
}

type Failed = oneshot::Receiver<Result<(), String>>;

/// Starts the thread that owns the partitions. Its end, and why, is sent.
fn start_worker(
    log: Arc<EmbeddedLog>,
    progress: watch::Sender<Readiness>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<(std::thread::JoinHandle<()>, Failed)> {
    let (sender, failed) = oneshot::channel();
    let work = move || {
        // Nothing of what the closure uses is looked at after a panic, but for the channel that tells of it.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(&log, &progress, &stop)));
        let _ = progress.send(Readiness::Stopped);
        let _ = sender.send(match result {
            Ok(done) => done.map_err(|error| format!("{error:#}")),
            Err(panic) => Err(format!("it panicked: {}", words_of(panic.as_ref()))),
        });
    };
    let thread = std::thread::Builder::new().name("processor".into()).spawn(work).context("starting the processor")?;
    Ok((thread, failed))
}

fn words_of(panic: &(dyn std::any::Any + Send)) -> &str {
    panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words")
}

fn now() -> i64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

fn work(log: &Arc<EmbeddedLog>, progress: &watch::Sender<Readiness>, stop: &AtomicBool) -> anyhow::Result<()> {
    let partitions: Vec<u32> = (0..).take_while(|partition| log.database(*partition).is_ok()).collect();
    let begun = std::time::Instant::now();
    let (databases, reported) = (log.clone(), progress.clone());
    let report = move |done, total| {
        let _ = reported.send(Readiness::BringingUp { done, total });
    };
    let mut worker = Worker::open(log.worker(&partitions)?, now, move |partition| Ok(databases.database(partition)?), report)?;
    let _ = progress.send(Readiness::Ready);
    tracing::info!(partitions = partitions.len(), milliseconds = begun.elapsed().as_millis() as u64, "ready");
    Ok(worker.run(stop)?)
}

/// Tidies the log up, now and then, until the service stops.
async fn maintain(log: Arc<EmbeddedLog>, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(MAINTAIN_EVERY) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        loop {
            let (log, now) = (log.clone(), (shared.clock)());
            match tokio::task::spawn_blocking(move || log.maintain(now)).await {
                Ok(Ok(done)) if done.more && !*stopping.borrow() => {}
                Ok(Ok(_)) => break,
                // Retention only frees space; the next turn may do better.
                Ok(Err(error)) => {
                    tracing::error!(%error, "the log could not be tidied up");
                    break;
                }
                Err(_) => return,
            }
        }
        shared.metrics.run_upkeep();
    }
}
