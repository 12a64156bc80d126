//! `callsieve dead-letters`: shows what could not be taken in, and gives it back to where it came from.

use super::topics::NamedArgs;
use crate::event::Millis;
use crate::event::json::rfc3339;
use crate::log::embedded::EmbeddedLog;
use crate::log::kafka::Kafka;
use crate::log::{Appender, Place, Reader, Record};
use crate::roles::dead_letters::{Filter, Letter, Retried, find, list, retry};
use crate::roles::service::stopped_log;
use anyhow::Context;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// What to do with the dead letters
#[derive(Debug, clap::Args)]
pub struct DeadLettersArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Show the letters that were not given back yet, newest first: place, time, account, where they came in, cause
    List {
        #[command(flatten)]
        log: LogArgs,
        #[command(flatten)]
        filter: FilterArgs,
        /// Also those that were given back
        #[arg(long)]
        retried: bool,
        /// At most so many
        #[arg(long)]
        limit: Option<usize>,
        /// A JSON object per letter
        #[arg(long)]
        json: bool,
    },
    /// Show all of a letter, its body as text, or as hexadecimal digits where it is none
    Show {
        /// The letter, PARTITION/OFFSET
        place: Place,
        #[command(flatten)]
        log: LogArgs,
        /// A JSON object
        #[arg(long)]
        json: bool,
    },
    /// Give letters back: notifications are read anew, records of the log appended again; exits with 1 if some still can't be read
    Retry {
        /// The letters, PARTITION/OFFSET
        #[arg(required_unless_present = "all", conflicts_with_all = ["all", "account", "source", "cause", "since", "until"])]
        places: Vec<Place>,
        /// All that were not given back yet, or those of them that the options below name
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        log: LogArgs,
        #[command(flatten)]
        filter: FilterArgs,
    },
}

/// Where the log is
#[derive(Debug, clap::Args)]
struct LogArgs {
    /// Kafka's bootstrap servers, host:port, with commas between them
    #[arg(long, env = "CALLSIEVE_BROKERS")]
    brokers: Option<String>,
    /// The service's consumer group, whose name its clients have [default: the topic prefix without the dot at its end]
    #[arg(long, env = "CALLSIEVE_GROUP")]
    group: Option<String>,
    #[command(flatten)]
    named: NamedArgs,
    /// Without brokers: the data directory of a service, which must not run meanwhile
    #[arg(long, env = "CALLSIEVE_DATA_DIR", default_value = "./callsieve-data")]
    data_dir: PathBuf,
}

/// Which letters
#[derive(Debug, clap::Args)]
struct FilterArgs {
    /// Only those of this account
    #[arg(long)]
    account: Option<String>,
    /// Only those that came in there: webhook, events or spool
    #[arg(long)]
    source: Option<String>,
    /// Only those with this text in their cause
    #[arg(long, value_name = "TEXT")]
    cause: Option<String>,
    /// Only those buried then or later, such as 2026-01-31T09:30:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Only those buried before then
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
}

impl FilterArgs {
    fn filter(self, retried: bool) -> Filter {
        let Self { account, source, cause, since, until } = self;
        Filter { account, source, cause, since: since.map(Timestamp::as_millisecond), until: until.map(Timestamp::as_millisecond), retried }
    }
}

/// A log that is open.
struct Opened {
    reader: Arc<dyn Reader>,
    appender: Arc<dyn Appender>,
    partitions: u32,
    /// Closed last.
    _embedded: Option<EmbeddedLog>,
}

impl LogArgs {
    fn open(self) -> anyhow::Result<Opened> {
        let Some(brokers) = self.brokers else {
            let (log, partitions) = stopped_log(&self.data_dir)?;
            return Ok(Opened { reader: log.reader(), appender: Arc::new(log.appender()), partitions, _embedded: Some(log) });
        };
        let kafka = Kafka::connect(self.named.settings(brokers).judged_by(self.group))?;
        Ok(Opened { reader: Arc::new(kafka.reader()), appender: Arc::new(kafka.appender()), partitions: kafka.partitions(), _embedded: None })
    }
}

/// Runs the command.
///
/// # Errors
/// If the log can't be reached, read or appended to, there is no such letter, or the output can't be written.
pub fn main(args: DeadLettersArgs) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let done = match args.action {
        Action::List { log, filter, retried, limit, json } => {
            let log = log.open()?;
            let letters = list(log.reader.as_ref(), log.partitions, &filter.filter(retried))?;
            if letters.is_empty() {
                eprintln!("there are no such letters");
            }
            write_list(&mut out, &letters[..letters.len().min(limit.unwrap_or(usize::MAX))], json)
        }
        Action::Show { place, log, json } => {
            let record = found(log.open()?.reader.as_ref(), place)?;
            let letter = Letter::of(place.partition, &record).with_context(|| format!("{place} is no letter"))?;
            if json { writeln!(out, "{}", whole(&letter, &record)) } else { write_whole(&mut out, &letter, &record) }
        }
        Action::Retry { places, all: _, log, filter } => return retry_all(&log.open()?, places, filter, &mut out),
    };
    match done.and_then(|()| out.flush()) {
        // Who reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        done => Ok(done.map(|()| ExitCode::SUCCESS)?),
    }
}

fn found(reader: &dyn Reader, place: Place) -> anyhow::Result<Record> {
    find(reader, place)?.with_context(|| format!("there is no letter at {place}"))
}

// ---- list and show ----

/// What came from outside writes to the terminal.
fn tame(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

fn or_none(text: &str) -> String {
    if text.is_empty() { "-".into() } else { tame(text) }
}

fn write_list(out: &mut dyn Write, letters: &[Letter], json: bool) -> std::io::Result<()> {
    for letter in letters {
        if json {
            writeln!(out, "{}", object(letter))?;
            continue;
        }
        let again = if letter.retried_at.is_some() { "(given back) " } else { "" };
        let (at, source) = (rfc3339(letter.buried_at), or_none(&letter.source));
        writeln!(out, "{:<9} {at} {:<10} {source:<7} {again}{}", letter.place.to_string(), or_none(&letter.key), or_none(&letter.cause))?;
    }
    Ok(())
}

fn time(at: Option<Millis>) -> Option<String> {
    at.map(|at| rfc3339(at).to_string())
}

fn object(letter: &Letter) -> Value {
    json!({
        "place": letter.place.to_string(),
        "buried_at": rfc3339(letter.buried_at).to_string(),
        "key": letter.key,
        "source": letter.source,
        "cause": letter.cause,
        "received_at": time(letter.received_at),
        "event": letter.event.map(|place| place.to_string()),
        "cut_from": letter.cut_from,
        "bytes": letter.bytes,
        "retried_at": time(letter.retried_at),
    })
}

/// Bytes as text, where they are some that can be shown.
fn as_text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t')))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shown(bytes: &[u8]) -> String {
    as_text(bytes).map_or_else(|| hex(bytes), str::to_owned)
}

fn whole(letter: &Letter, record: &Record) -> Value {
    let mut object = object(letter);
    if let Some(fields) = object.as_object_mut() {
        // Whether it was given back stands elsewhere on the topic.
        fields.remove("retried_at");
        let headers = record.headers.iter().map(|(name, value)| json!([name, shown(value)])).collect();
        fields.insert("headers".into(), Value::Array(headers));
        let (text, digits) = record.value.as_deref().map_or((None, None), |body| match as_text(body) {
            Some(text) => (Some(text), None),
            None => (None, Some(hex(body))),
        });
        fields.insert("body".into(), json!(text));
        fields.insert("body_hex".into(), json!(digits));
    }
    object
}

fn write_whole(out: &mut dyn Write, letter: &Letter, record: &Record) -> std::io::Result<()> {
    writeln!(out, "place      {}", letter.place)?;
    writeln!(out, "buried at  {}", rfc3339(letter.buried_at))?;
    writeln!(out, "key        {}", or_none(&letter.key))?;
    writeln!(out, "cause      {}", or_none(&letter.cause))?;
    for (name, value) in &record.headers {
        writeln!(out, "header     {}: {}", tame(name), tame(&shown(value)))?;
    }
    match record.value.as_deref() {
        None => writeln!(out, "no body"),
        Some(body) => writeln!(out, "body       {} bytes{}\n{}", body.len(), if as_text(body).is_some() { "" } else { ", as hex" }, shown(body)),
    }
}

// ---- retry ----

fn retry_all(log: &Opened, places: Vec<Place>, filter: FilterArgs, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
    let places = if places.is_empty() {
        // Oldest first, as they came.
        list(log.reader.as_ref(), log.partitions, &filter.filter(false))?.iter().rev().map(|letter| letter.place).collect()
    } else {
        places
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting a runtime")?;
    let (mut given_back, mut staying) = (0, 0);
    for place in places {
        let record = found(log.reader.as_ref(), place)?;
        match runtime.block_on(retry(log.appender.as_ref(), place, &record)).with_context(|| format!("giving {place} back"))? {
            Retried::GivenBack(events) => {
                given_back += 1;
                writeln!(out, "{place} given back: {events} {}", if events == 1 { "event" } else { "events" })?;
            }
            Retried::Stays(cause) => {
                staying += 1;
                writeln!(out, "{place} stays: {}", tame(&cause))?;
            }
        }
    }
    writeln!(out, "{given_back} given back, {staying} stay")?;
    out.flush()?;
    Ok(if staying == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
