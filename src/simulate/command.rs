//! `callsieve simulate`: serves a simulated company, or writes its notifications to a file.

use super::time::{self, Rfc3339};
use super::{AccountLists, Clock, Company, CompanyConfig, Faults, HOUR_MS, LogRecord, Notification, ServerConfig, SimulatedCall, disturb, serve};
use crate::event::Millis;
use anyhow::{Context, bail};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Serves a simulated company and its RingCentral, or writes what it would send to a file.
#[derive(Debug, Clone, clap::Args)]
pub struct SimulateArgs {
    /// Everything follows from it: the same seed makes the same company and the same calls
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// People in the company
    #[arg(long, default_value_t = 40)]
    pub users: usize,
    /// Calls that begin in each hour
    #[arg(long, default_value_t = 120)]
    pub calls_per_hour: u32,
    /// Numbers that are replaced, people who come or go, per week
    #[arg(long, default_value_t = 10)]
    pub changes_per_week: u32,
    /// Share of notifications that never arrive, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// Share of notifications that arrive twice, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    pub duplicates: f64,
    /// Share of deliveries that are held up and overtaken, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    pub reorder: f64,
    /// How long a delivery is held up at most, in milliseconds
    #[arg(long, default_value_t = 2_000)]
    pub max_delay_ms: u32,
    /// The company's time when it begins, RFC 3339 [default: now when serving, 2026-01-05T08:00:00Z when writing]
    #[arg(long)]
    pub start: Option<String>,
    /// Where to serve
    #[arg(long, default_value = "127.0.0.1:8444", conflicts_with = "write")]
    pub listen: SocketAddr,
    /// How many times faster than real time the company lives
    #[arg(long, default_value_t = 1.0, conflicts_with = "write")]
    pub speed: f64,
    /// How far the call log goes back when serving, in hours
    #[arg(long, default_value_t = 48, conflicts_with = "write")]
    pub history_hours: u32,
    /// Serve without rate limits
    #[arg(long, conflicts_with = "write")]
    pub no_rate_limits: bool,
    /// Write the notifications to this file (- is standard output) as JSON Lines instead of serving
    #[arg(long, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// How many hours to write
    #[arg(long, default_value_t = 24, requires = "write")]
    pub hours: u32,
    /// Write the lists of numbers (first, daily, and at the end) and the pages of the call log as well
    #[arg(long, requires = "write")]
    pub lists: bool,
    /// Write the truth about every session to this file as JSON Lines
    #[arg(long, value_name = "FILE", requires = "write")]
    pub truth: Option<PathBuf>,
}

/// Base of the addresses in written documents.
const WRITTEN_BASE: &str = "https://platform.ringcentral.com";
/// Fits the envelope's `subscriptionId` of written notifications.
const WRITTEN_SUBSCRIPTION: &str = "1423e408-e25c-4421-8dd1-5f754e2f5648";
/// Records per written page of the call log: the vendor's most.
const RECORDS_PER_PAGE: usize = 1_000;

impl SimulateArgs {
    fn faults(&self) -> anyhow::Result<Faults> {
        let faults = Faults { loss: self.loss, duplication: self.duplicates, reorder: self.reorder, max_delay_ms: self.max_delay_ms };
        faults.validate().map_err(anyhow::Error::msg)?;
        if self.loss == 0.0 && self.duplicates == 0.0 && self.reorder == 0.0 {
            return Ok(Faults::NONE);
        }
        Ok(faults)
    }

    fn start(&self) -> anyhow::Result<Option<Millis>> {
        let parse = |text: &str| time::parse(text).with_context(|| format!("--start {text} is no RFC 3339 time"));
        self.start.as_deref().map(parse).transpose()
    }

    /// A company whose numbers change from `start` for as long as needed.
    fn company(&self, start: Millis, hours: u32) -> Company {
        let days = (hours / 24).saturating_add(90);
        Company::generate(
            self.seed,
            &CompanyConfig { users: self.users, start, days, changes_per_week: self.changes_per_week, ..CompanyConfig::default() },
        )
    }
}

/// Runs `callsieve simulate`: writes and ends, or serves until interrupted.
///
/// # Errors
/// For arguments out of range, a file that can't be written, or an address that can't be listened on.
pub async fn run(args: SimulateArgs) -> anyhow::Result<()> {
    if args.write.is_some() {
        return tokio::task::spawn_blocking(move || write(&args)).await.context("writing was cut off")?;
    }
    if !(args.speed > 0.0 && args.speed.is_finite()) {
        bail!("--speed is a factor above 0, not {}", args.speed);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as Millis);
    let origin = args.start()?.unwrap_or(now);
    // The company exists since before its call log begins, so that numbers have come and gone by now.
    let company = Arc::new(args.company(origin - i64::from(args.history_hours) * HOUR_MS - 2 * HOUR_MS, args.history_hours));
    let config = ServerConfig {
        listen: args.listen,
        clock: Clock::Running { origin, speed: args.speed },
        calls_per_hour: args.calls_per_hour,
        history_hours: args.history_hours,
        limits: (!args.no_rate_limits).then(Default::default),
        faults: args.faults()?,
        ..ServerConfig::default()
    };
    let credentials = config.credentials.clone();
    let server = serve(Arc::clone(&company), config).await?;
    println!("{}", company.summary());
    println!("serving {} at {} times real time, from {}", server.base_url(), args.speed, Rfc3339(origin));
    println!("client id {}, secret {}, JWT {}", credentials.client_id, credentials.client_secret, credentials.jwt);
    interrupted().await?;
    // Connections that clients keep open must not hold up the end.
    let delivered = server.delivered();
    if tokio::time::timeout(Duration::from_secs(5), server.stop()).await.is_err() {
        tracing::warn!("open connections were cut");
    }
    println!("delivered {} notifications, {} more were not accepted", delivered.accepted, delivered.failed);
    Ok(())
}

async fn interrupted() -> anyhow::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).context("waiting for SIGTERM")?;
        tokio::select! {
            interrupt = tokio::signal::ctrl_c() => interrupt.context("waiting for an interrupt")?,
            _ = terminate.recv() => {}
        }
        Ok(())
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.context("waiting for an interrupt")
}

fn create(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::with_capacity(1 << 20, std::io::stdout().lock())));
    }
    let file = File::create(path).with_context(|| format!("creating {}", path.display()))?;
    Ok(Box::new(BufWriter::with_capacity(1 << 20, file)))
}

#[derive(Serialize)]
struct TruthLine<'a> {
    account: &'a str,
    session: &'a str,
    external: bool,
    linked: &'a [String],
}

/// Writes hour by hour; what goes on into the next hour waits, so memory holds about an hour.
struct Writer<'a> {
    company: &'a Company,
    documents: Box<dyn Write>,
    truth: Option<Box<dyn Write>>,
    lists: bool,
    faults: Faults,
    rng: ChaCha8Rng,
    waiting: Vec<Notification>,
    waiting_records: Vec<LogRecord>,
    line: String,
}

fn write(args: &SimulateArgs) -> anyhow::Result<()> {
    let start = args.start()?.unwrap_or_else(|| CompanyConfig::default().start);
    let company = args.company(start, args.hours);
    let path = args.write.as_deref().unwrap_or(Path::new("-"));
    let mut writer = Writer {
        company: &company,
        documents: create(path)?,
        truth: args.truth.as_deref().map(create).transpose()?,
        lists: args.lists,
        faults: args.faults()?,
        rng: ChaCha8Rng::seed_from_u64(args.seed ^ 0xFA_017),
        waiting: Vec::new(),
        waiting_records: Vec::new(),
        line: String::with_capacity(4_096),
    };
    writer.write(start, args.hours, args.calls_per_hour).with_context(|| format!("writing {}", path.display()))
}

impl Writer<'_> {
    fn write(&mut self, start: Millis, hours: u32, calls_per_hour: u32) -> anyhow::Result<()> {
        self.write_lists(start)?;
        let first = start.div_euclid(HOUR_MS);
        for n in 0..i64::from(hours) {
            let begins = (first + n) * HOUR_MS;
            let ends = begins + HOUR_MS;
            if n > 0 && n % 24 == 0 {
                self.write_lists(begins)?;
            }
            let calls = self.company.hours(begins, 1, calls_per_hour);
            self.write_truth(&calls)?;
            let mut made = self.company.directory_notifications(begins, ends);
            for mut call in calls {
                made.append(&mut call.notifications);
                if self.lists {
                    self.waiting_records.append(&mut call.call_log_records);
                }
            }
            made.sort_by_key(|n| n.due);
            self.waiting.append(&mut disturb(made, &self.faults, &mut self.rng));
            self.waiting.sort_by_key(|n| n.due);
            self.write_due(ends)?;
        }
        let last = self.waiting.last().map(|n| n.due).max(self.waiting_records.iter().map(|r| r.available_at).max());
        let ends = last.unwrap_or(start).max((first + i64::from(hours)) * HOUR_MS) + 1;
        // Directory changes of calls that go on beyond the last hour are in the closing lists.
        self.write_due(ends)?;
        self.write_lists(ends + i64::from(self.company.config.listing_delay_minutes) * 60_000)?;
        self.documents.flush()?;
        if let Some(truth) = &mut self.truth {
            truth.flush()?;
        }
        Ok(())
    }

    fn write_due(&mut self, ends: Millis) -> anyhow::Result<()> {
        let due = self.waiting.partition_point(|n| n.due < ends);
        let owner = &self.company.extensions[0].id_text;
        for notification in self.waiting.drain(..due) {
            self.line.clear();
            open_line(notification.due, &mut self.line);
            notification.write_for(WRITTEN_SUBSCRIPTION, owner, &mut self.line);
            self.line.push_str("}\n");
            self.documents.write_all(self.line.as_bytes())?;
        }
        self.write_call_log(ends)
    }

    /// Pages of what the call log shows by then, newest first as the vendor has it.
    fn write_call_log(&mut self, at: Millis) -> anyhow::Result<()> {
        let (mut shown, later): (Vec<LogRecord>, Vec<LogRecord>) =
            std::mem::take(&mut self.waiting_records).into_iter().partition(|r| r.available_at <= at);
        self.waiting_records = later;
        shown.sort_by_key(|r| std::cmp::Reverse(r.started()));
        let account = format!("{WRITTEN_BASE}/restapi/v1.0/account/{}", self.company.account_id);
        let pages = shown.len().div_ceil(RECORDS_PER_PAGE);
        for (n, records) in shown.chunks(RECORDS_PER_PAGE).enumerate() {
            let address = format!("{account}/call-log?view=Detailed&dateTo={}", Rfc3339(at));
            let documents: Vec<_> = records.iter().map(|r| r.document(&account, true)).collect();
            let page = super::Page { page: n + 1, per_page: RECORDS_PER_PAGE };
            let body = CallLogPage {
                uri: format!("{address}&page={}&perPage={RECORDS_PER_PAGE}", n + 1),
                records: documents,
                paging: serde_json::json!({
                    "page": n + 1,
                    "perPage": RECORDS_PER_PAGE,
                    "pageStart": n * RECORDS_PER_PAGE,
                    "pageEnd": n * RECORDS_PER_PAGE + records.len() - 1,
                }),
                navigation: super::lists::navigation(&address, page, n + 1 < pages, None),
            };
            self.write_document(at, &body)?;
        }
        Ok(())
    }

    fn write_lists(&mut self, at: Millis) -> anyhow::Result<()> {
        if self.lists {
            let company = self.company;
            for document in (AccountLists { company, base: WRITTEN_BASE, at }).all() {
                self.write_document(at, &document)?;
            }
        }
        Ok(())
    }

    fn write_document(&mut self, at: Millis, document: &impl Serialize) -> anyhow::Result<()> {
        self.line.clear();
        open_line(at, &mut self.line);
        self.documents.write_all(self.line.as_bytes())?;
        serde_json::to_writer(&mut self.documents, document)?;
        self.documents.write_all(b"}\n")?;
        Ok(())
    }

    fn write_truth(&mut self, calls: &[SimulatedCall]) -> anyhow::Result<()> {
        let Some(out) = &mut self.truth else { return Ok(()) };
        for session in calls.iter().flat_map(|call| &call.truth.sessions) {
            let line =
                TruthLine { account: &self.company.account_id_text, session: &session.session, external: session.external, linked: &session.linked };
            serde_json::to_writer(&mut *out, &line)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct CallLogPage<R> {
    uri: String,
    records: Vec<R>,
    paging: serde_json::Value,
    navigation: serde_json::Value,
}

fn open_line(at: Millis, out: &mut String) {
    use std::fmt::Write;
    // Writing into a String can't fail.
    let _ = write!(out, "{{\"received_at\":\"{}\",\"document\":", Rfc3339(at));
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use serde_json::Value;
    use std::collections::HashSet;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: SimulateArgs,
    }

    fn written(extra: &[&str]) -> (String, String) {
        let folder = tempfile::tempdir().unwrap();
        let (documents, truth) = (folder.path().join("documents"), folder.path().join("truth"));
        let paths = ["simulate", "--hours", "3", "--write", documents.to_str().unwrap(), "--truth", truth.to_str().unwrap()];
        write(&Cli::parse_from(paths.iter().chain(extra)).args).unwrap();
        (std::fs::read_to_string(documents).unwrap(), std::fs::read_to_string(truth).unwrap())
    }

    #[test]
    fn the_same_seed_writes_the_same_bytes() {
        let faults = ["--lists", "--loss", "0.1", "--duplicates", "0.1", "--reorder", "0.2"];
        assert_eq!(written(&faults), written(&faults));
        assert_ne!(written(&faults).0, written(&["--seed", "2"]).0);
    }

    #[test]
    fn lines_are_wrapped_and_in_order_of_arrival_with_numbers_first() {
        let (documents, truth) = written(&["--lists", "--reorder", "0.3"]);
        let lines: Vec<Value> = documents.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let times: Vec<&str> = lines.iter().map(|line| line["received_at"].as_str().unwrap()).collect();
        assert!(times.is_sorted());
        let first_event = lines.iter().position(|line| line["document"]["event"].is_string()).unwrap();
        assert!(first_event > 5 && lines[0]["document"]["mainNumber"].is_string());
        let in_log: HashSet<&str> = lines
            .iter()
            .filter_map(|line| line["document"]["records"].as_array())
            .flatten()
            .filter_map(|record| record["telephonySessionId"].as_str())
            .collect();
        let sessions: Vec<Value> = truth.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(sessions.len() > 360, "three hours of 120 calls");
        for session in &sessions {
            assert!(in_log.contains(session["session"].as_str().unwrap()), "the call log has every session: {session}");
        }
    }

    #[test]
    fn rates_out_of_range_are_refused() {
        assert!(Cli::parse_from(["simulate", "--loss", "2"]).args.faults().is_err());
        assert!(Cli::parse_from(["simulate", "--start", "noon"]).args.start().is_err());
        assert!(Cli::try_parse_from(["simulate", "--write", "x", "--speed", "2"]).is_err());
    }
}
