//! `callsieve run`: webhook ingress, processor and HTTP interface in one process, on the embedded log or on Kafka.

use super::api::router;
use super::backend::{Backend, Workers, open_embedded, open_spool};
use super::forward::Others;
use super::held::{Held, Holding, Readiness};
use super::ingress::Ingress;
use super::instruments;
use super::rate::Rates;
use super::shared::Shared;
use super::simulation::Simulation;
use super::startup::Front;
use crate::event::{AccountId, CallVerdict};
use crate::log::embedded::EmbeddedLog;
use crate::log::kafka::KafkaSettings;
use crate::log::system_clock;
use crate::log::{Appender, Reader};
use crate::registry::RegistryArgs;
use crate::state::tables;
use anyhow::{Context, anyhow, bail};
use axum::Router;
use rand::Rng;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How `callsieve run` runs.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// A TOML file with options by the names that they have here, and librdkafka's settings in a table [kafka]; flags and environment come before it
    #[arg(long, env = "CALLSIEVE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where everything is kept
    #[arg(long, env = "CALLSIEVE_DATA_DIR", default_value = "./callsieve-data")]
    pub data_dir: PathBuf,
    /// Address of webhooks and of the HTTP interface; port 0 takes a free one
    #[arg(long, env = "CALLSIEVE_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Base URL under which the other instances reach this one, to pass requests on [default: http:// and the address of --listen, if that is one]
    #[arg(long, env = "CALLSIEVE_ADVERTISE", value_name = "URL", requires = "brokers", value_parser = advertised)]
    pub advertise: Option<String>,
    /// Partitions of the embedded log; fixed when the data directory is first used [default: 1, or what the directory has]
    #[arg(long, env = "CALLSIEVE_PARTITIONS", conflicts_with = "brokers", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub partitions: Option<u32>,
    /// Kafka's bootstrap servers, host:port, with commas between them: the log is there, not embedded; `callsieve topics create` makes its topics
    #[arg(long, env = "CALLSIEVE_BROKERS")]
    pub brokers: Option<String>,
    /// What the name of every topic begins with
    #[arg(long, env = "CALLSIEVE_TOPIC_PREFIX", default_value = "callsieve.", requires = "brokers")]
    pub topic_prefix: String,
    /// The consumer group: processes of one group share the partitions [default: the topic prefix without the dot at its end]
    #[arg(long, env = "CALLSIEVE_GROUP", requires = "brokers")]
    pub group: Option<String>,
    /// Threads that judge, each a member of the group with some of the partitions; with 0 the process takes webhooks in, and judges nothing
    #[arg(long, env = "CALLSIEVE_WORKERS", default_value_t = 1, requires = "brokers", value_parser = clap::value_parser!(u32).range(0..=256))]
    pub workers: u32,
    /// Other instances that keep a copy of each partition near what is committed, so that taking it over is short; the same for all instances
    #[arg(long, env = "CALLSIEVE_STANDBYS", default_value_t = 0, requires = "brokers", value_parser = clap::value_parser!(u32).range(0..=16))]
    pub standbys: u32,
    /// A name that this process has in the group and keeps over restarts, so that a short one moves no partitions; no two processes may have the same
    #[arg(long, env = "CALLSIEVE_INSTANCE", requires = "brokers")]
    pub instance: Option<String>,
    /// A setting of librdkafka's, for TLS, SASL and the like; may be given several times, in the environment one a line
    #[arg(long, env = "CALLSIEVE_KAFKA", value_name = "NAME=VALUE", value_parser = KafkaSettings::named, hide_env_values = true)]
    #[arg(requires = "brokers")]
    pub kafka: Vec<BTreeMap<String, String>>,
    /// Take part although brokers are older than Kafka 4.0, whose transactions may be torn or left open by a fault (KIP-890)
    #[arg(long, env = "CALLSIEVE_ALLOW_OLD_BROKERS", requires = "brokers")]
    pub allow_old_brokers: bool,
    /// While Kafka gives no answer, notifications are kept in the data directory, at most so many bytes of them
    #[arg(long, env = "CALLSIEVE_SPOOL_BYTES", default_value_t = 1 << 30, requires = "brokers")]
    pub spool_bytes: u64,
    /// The schema registry of what stands on Kafka
    #[command(flatten)]
    pub registry: RegistryArgs,
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
/// Of what is advertised, in bytes.
const LONGEST_ADDRESS: usize = 500;
/// How often the log is tidied up.
const MAINTAIN_EVERY: Duration = Duration::from_secs(60);

/// How long after a try Kafka is looked for again, while it is waited for, and how often that is told.
const REACH_AGAIN: Duration = Duration::from_secs(1);
const SAY_EVERY: Duration = Duration::from_secs(30);

/// Runs until interrupted, by SIGINT or SIGTERM.
///
/// # Errors
/// For settings that don't fit together, a data directory or an address that can't be used, and whatever stops the processor.
pub fn main(args: RunArgs) -> anyhow::Result<()> {
    write_diagnostics(args.log_format, "info");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("starting threads")?;
    let done = runtime.block_on(run(args));
    // What still waits for the disk must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    done
}

/// Writes diagnostics to standard error; `level` is what is written unless the environment says more.
pub(crate) fn write_diagnostics(format: LogFormat, level: &str) {
    let mut filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(level));
    // What it says of a consumer that is dropped because it failed was said before.
    if let Ok(quiet) = "rdkafka::consumer=off".parse() {
        filter = filter.add_directive(quiet);
    }
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
    let Some(mut service) = Service::start_unless(&args, interrupts.next()).await? else { return Ok(()) };
    let progress = tokio::spawn(super::progress::show(service.readiness()));
    let mut simulation = None;
    let ended = until_ended(&mut service, &mut interrupts, &args, &mut simulation).await;
    progress.abort();
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
pub(super) struct Interrupts {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Interrupts {
    pub(super) fn new() -> anyhow::Result<Self> {
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

    pub(super) async fn next(&mut self) {
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
    shared: Arc<Shared>,
    serving: Serving,
    workers: Workers,
    maintenance: JoinHandle<()>,
    /// Passes on what the spool holds.
    forwarding: Option<JoinHandle<()>>,
    backend: Arc<Backend>,
}

/// The HTTP server, and how it and what goes on with it is told to end.
struct Serving {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    server: JoinHandle<std::io::Result<()>>,
}

impl Serving {
    fn begin(listener: TcpListener, address: SocketAddr, router: Router, stop: watch::Sender<bool>, args: &RunArgs) -> Self {
        let mut until = stop.subscribe();
        let server = tokio::spawn(async move {
            let stopped = async move {
                let _ = until.wait_for(|stop| *stop).await;
            };
            axum::serve(listener, router).with_graceful_shutdown(stopped).await
        });
        tracing::info!(address = %address, data_dir = %args.data_dir.display(), "serving");
        Self { address, stop, server }
    }

    /// Finishes open requests.
    async fn end(mut self) {
        let _ = self.stop.send(true);
        if !self.server.is_finished() && tokio::time::timeout(LAST_REQUESTS, &mut self.server).await.is_err() {
            tracing::warn!("open connections were cut");
            self.server.abort();
            let _ = self.server.await;
        }
    }
}

/// Where the log stands below the data directory.
#[must_use]
pub fn log_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}

/// Opens the log of a data directory that a service has used, and no service uses now. Says how many partitions it has.
///
/// # Errors
/// If there is none, or a service uses it.
pub fn stopped_log(data_dir: &Path) -> anyhow::Result<(EmbeddedLog, u32)> {
    if !log_dir(data_dir).is_dir() {
        bail!("{} has no log; --data-dir says where a service keeps it, --brokers where it is on Kafka", data_dir.display());
    }
    open_embedded(data_dir, None, &system_clock()).context("a log below --data-dir is opened while no service runs on it")
}

impl Service {
    /// Opens the data directory, and serves. The state is brought up meanwhile: `/readyz` says when that is done. Kafka is waited for; until it was
    /// reached, notifications are taken in all the same.
    ///
    /// # Errors
    /// For settings that don't fit together, for a data directory or an address that can't be used, and for a Kafka that refuses.
    pub async fn start(args: &RunArgs) -> anyhow::Result<Self> {
        Self::start_unless(args, std::future::pending()).await?.context("nothing cuts this off")
    }

    /// As [`Service::start`]; `None` when it is interrupted while it waits for Kafka.
    ///
    /// # Errors
    /// As [`Service::start`].
    pub async fn start_unless(args: &RunArgs, interrupted: impl Future<Output = ()>) -> anyhow::Result<Option<Self>> {
        check(args)?;
        // Before the data: a second service that was started by mistake ends here.
        let listener = TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
        let address = listener.local_addr().context("asking for the address that is listened on")?;
        let args = &RunArgs { advertise: announced(args, address), ..args.clone() };
        if args.standbys > 0 && args.advertise.is_none() {
            bail!("--standbys needs --advertise: who keeps copies of what is found out by the addresses of the instances");
        }
        // Before anything is counted.
        let metrics = instruments::recorder()?;
        if args.brokers.is_none() {
            let backend = Arc::new(open(args).await?);
            let appender = backend.appender();
            let ingress = ingress(args, appender.clone());
            let (stop, stopping) = watch::channel(false);
            let shared = shared(args, &backend, appender, ingress, None, stopping)?;
            let serving = Serving::begin(listener, address, router(shared.clone()), stop, args);
            return Self::on(backend, shared, serving, None).map(Some);
        }

        let of = args.clone();
        let spool = tokio::task::spawn_blocking(move || open_spool(&of)).await.context("opening the spool was cut off")??;
        let ingress = ingress(args, Arc::new(spool.appender()));
        let front = Front::new(ingress.clone(), metrics);
        let (stop, stopping) = watch::channel(false);
        let serving = Serving::begin(listener, address, front.router(), stop, args);
        // Made while Kafka is reached: reading the certificates takes about as long.
        let http = tokio::task::spawn_blocking(Others::client);
        let opened = tokio::select! {
            opened = wait_for_kafka(args, &front) => opened.map(Some),
            () = interrupted => Ok(None),
        };
        let backend = match opened {
            Ok(Some(backend)) => Arc::new(backend),
            ended => {
                serving.end().await;
                return ended.map(|_| None);
            }
        };
        let http = http.await.context("making a client for other instances was cut off")?.context("making a client for other instances")?;
        let others = backend.holders(args.advertise.clone()).map(|holders| Arc::new(Others::new(holders, http)));
        let shared = shared(args, &backend, Arc::new(spool.direct_appender()), ingress, others, stopping)?;
        front.open(router(shared.clone()));
        let kafka = backend.appender();
        let forwarding = tokio::spawn(async move { spool.forward(kafka).await });
        Self::on(backend, shared, serving, Some(forwarding)).map(Some)
    }

    fn on(backend: Arc<Backend>, shared: Arc<Shared>, serving: Serving, forwarding: Option<JoinHandle<()>>) -> anyhow::Result<Self> {
        let workers = Workers::start(&backend, &shared.held)?;
        let maintenance = tokio::spawn(maintain(backend.clone(), shared.clone(), shared.stop.clone()));
        Ok(Self { shared, serving, workers, maintenance, forwarding, backend })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.serving.address
    }

    /// How far the processor is, as it changes.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.shared.held.readiness()
    }

    /// The ingress's end of its log.
    #[must_use]
    pub fn appender(&self) -> Arc<dyn Appender> {
        self.shared.ingress.appender.clone()
    }

    /// A view of its log.
    #[must_use]
    pub fn reader(&self) -> Arc<dyn Reader> {
        self.shared.reader.clone()
    }

    /// How many partitions the log has.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.shared.partitions
    }

    /// The verdicts on the calls of an account that ended last, newest first, at most so many, once this process has its state up to date.
    ///
    /// # Errors
    /// If the state can't be read, or the processor ends before it is ready.
    pub async fn newest_verdicts(&self, account: &AccountId, most: usize) -> anyhow::Result<Vec<CallVerdict>> {
        let mut readiness = self.readiness();
        let database = loop {
            if *readiness.borrow_and_update() == Readiness::Stopped {
                bail!("the processor stopped before it was ready");
            }
            if let Holding::Up(database) = self.shared.held.partition(self.shared.partition(account)) {
                break database;
            }
            readiness.changed().await.context("waiting for the processor")?;
        };
        let account = account.clone();
        let read = tokio::task::spawn_blocking(move || {
            let mut newest = Vec::new();
            tables::verdicts_by_end(&database, &account, None, usize::MAX, |verdict| {
                newest.push(verdict);
                newest.len() < most
            })
            .map(|_| newest)
        });
        Ok(read.await.context("reading the state was cut off")??)
    }

    /// Becomes true when the service is to end.
    #[must_use]
    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.serving.stop.subscribe()
    }

    /// Waits for the processor or the server to fail. Cancelled, it has changed nothing.
    pub async fn failure(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.workers.failure() => anyhow!("the processor stopped: {error}"),
            ended = &mut self.serving.server => match ended {
                Ok(Err(error)) => anyhow::Error::new(error).context("the HTTP server stopped"),
                Ok(Ok(())) => anyhow!("the HTTP server stopped"),
                Err(error) => anyhow::Error::new(error).context("the HTTP server stopped"),
            },
        }
    }

    /// Finishes the batch under way and open requests, and closes the data directory. Notifications are taken in up to the end: who sends them is
    /// told late, if at all, that this instance goes.
    ///
    /// # Errors
    /// If the processor failed meanwhile.
    pub async fn stop(self) -> anyhow::Result<()> {
        let Self { shared, serving, workers, maintenance, forwarding, backend } = self;
        let stopped = tokio::task::spawn_blocking(move || workers.stop()).await.context("stopping the processor");
        serving.end().await;
        let _ = maintenance.await;
        if let Some(forwarding) = forwarding {
            // What is left stays in the spool, for the next start.
            forwarding.abort();
            let _ = forwarding.await;
        }
        let closed = tokio::task::spawn_blocking(move || {
            drop(shared);
            // The log's own threads end here, after what was asked of them before.
            drop(backend);
        });
        closed.await.context("closing the log")?;
        stopped?.map_err(|error| anyhow!("the processor stopped: {error}"))
    }
}

async fn open(args: &RunArgs) -> anyhow::Result<Backend> {
    let of = args.clone();
    tokio::task::spawn_blocking(move || Backend::open(&of, &system_clock())).await.context("opening the log was cut off")?
}

/// Opens the log on Kafka, as soon as that is there.
async fn wait_for_kafka(args: &RunArgs, front: &Front) -> anyhow::Result<Backend> {
    let mut said: Option<Instant> = None;
    loop {
        match open(args).await {
            Err(error) if Backend::is_away(&error) => {
                front.tell(format!("what is needed is not there yet: {error:#}"));
                if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                    tracing::warn!("waiting, notifications are kept in the spool meanwhile: {error:#}");
                    said = Some(Instant::now());
                }
                tokio::time::sleep(REACH_AGAIN).await;
            }
            opened => {
                if opened.is_ok() && said.is_some() {
                    tracing::info!("what was needed is there");
                }
                return opened;
            }
        }
    }
}

fn ingress(args: &RunArgs, appender: Arc<dyn Appender>) -> Arc<Ingress> {
    Arc::new(Ingress {
        appender,
        clock: system_clock(),
        verification_token: args.verification_token.clone(),
        body_limit: args.body_limit,
        rates: Rates::new(args.rate_limit),
    })
}

fn shared(
    args: &RunArgs,
    backend: &Backend,
    appender: Arc<dyn Appender>,
    ingress: Arc<Ingress>,
    others: Option<Arc<Others>>,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<Arc<Shared>> {
    Ok(Arc::new(Shared {
        appender,
        ingress,
        reader: backend.reader(),
        partitions: backend.partitions(),
        // An instance that is told to judge nothing is ready without partitions.
        held: Arc::new(if args.brokers.is_some() && args.workers == 0 { Held::nothing() } else { Held::default() }),
        clock: system_clock(),
        others,
        stop,
        api_token: args.api_token.clone(),
        metrics: instruments::recorder()?,
        telling_lag: Mutex::default(),
        stream_reads: super::stream::reads(backend.partitions()),
    }))
}

fn check(args: &RunArgs) -> anyhow::Result<()> {
    let is_loopback = args.listen.ip().is_loopback();
    if args.api_token.is_none() && !is_loopback {
        bail!("--listen {} can be reached from outside, so --api-token (or CALLSIEVE_API_TOKEN) is needed", args.listen);
    }
    if args.simulate.is_some() && !(args.simulate_speed > 0.0 && args.simulate_speed.is_finite()) {
        bail!("--simulate-speed is a factor above 0, not {}", args.simulate_speed);
    }
    if args.simulate.is_some() && args.workers == 0 {
        bail!("--simulate shows verdicts, and with --workers 0 there are none");
    }
    if args.registry.schema_registry.is_some() && args.brokers.is_none() {
        bail!("--schema-registry is of use with --brokers alone: the embedded log needs no registry");
    }
    let (brokers, instance) = (&args.brokers, &args.instance);
    for (name, text) in
        [("--api-token", &args.api_token), ("--verification-token", &args.verification_token), ("--brokers", brokers), ("--instance", instance)]
    {
        if text.as_ref().is_some_and(String::is_empty) {
            bail!("{name} is empty");
        }
    }
    if args.verification_token.is_none() && !is_loopback {
        tracing::warn!("without --verification-token, whoever reaches {} may send notifications", args.listen);
    }
    Ok(())
}

/// The base URL of an instance: without a path, short enough for what is committed.
fn advertised(text: &str) -> Result<String, String> {
    let wrong = "it isn't http:// or https://, a host, and a port if it needs one";
    let url = reqwest::Url::parse(text).map_err(|_| wrong)?;
    let is_base = matches!(url.scheme(), "http" | "https") && url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !is_base || url.host_str().is_none() || !url.username().is_empty() || url.password().is_some() {
        return Err(wrong.to_owned());
    }
    let base = url.as_str().trim_end_matches('/').to_owned();
    if base.len() > LONGEST_ADDRESS { Err(format!("it has more than {LONGEST_ADDRESS} bytes")) } else { Ok(base) }
}

/// What the other instances are told, if this one listens on an address that says something to them.
fn announced(args: &RunArgs, address: SocketAddr) -> Option<String> {
    let own = args.advertise.clone().or_else(|| (!address.ip().is_unspecified()).then(|| format!("http://{address}")));
    if own.is_none() && args.brokers.is_some() {
        tracing::warn!("--listen {address} is no address for others: without --advertise no other instance can pass requests on to this one");
    } else if args.brokers.is_some() && args.advertise.is_none() && address.ip().is_loopback() {
        tracing::info!("--listen {address} is reached from this machine alone: instances on others need --advertise");
    }
    own
}

/// Tidies the log up, now and then, until the service stops.
async fn maintain(backend: Arc<Backend>, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(MAINTAIN_EVERY) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        loop {
            let (backend, now) = (backend.clone(), (shared.clock)());
            match tokio::task::spawn_blocking(move || backend.maintain(now)).await {
                Ok(Ok(has_more)) if has_more && !*stopping.borrow() => {}
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
