//! `callsieve classify`: judges calls offline, without a service. RingCentral's documents in, a verdict per call out.
//!
//! The same fold as everywhere ([`step`] over a [`Store`]), over a database that lives as long as the command. What is
//! different offline: the documents' arrival is the only clock, the gate of design R8 is open from the start, nothing is
//! forgotten or too old, and at the end of the input every deadline expires.

mod input;
mod output;

use crate::event::{AccountId, AccountSettings, Event, Millis, SnapshotCompleted, Tick};
use crate::judge::number::Country;
use crate::judge::{At, IDLE_LIMIT, LONGEST_WAIT, Output, step};
use crate::ringcentral::documents::{Asked, Document, read_each};
use crate::state::database::{Database, DatabaseOptions, Engine};
use crate::state::{Store, tables};
use anyhow::{Context, anyhow};
use compact_str::CompactString;
use foldhash::{HashSet, HashSetExt};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use input::{Reading, read_documents};
use output::{Printer, Totals};
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What `callsieve classify` does.
#[derive(Debug, Clone, clap::Args)]
#[command(long_about = "Judges calls offline: RingCentral's documents in, one verdict per call out, internal or external, with its reasons.\n\n\
    Input is JSON Lines or JSON documents: telephony-session notifications, directory, extension and phone-number notifications, \
    telephony sessions, call-log responses and records, lists of phone numbers, forwarding numbers, directory entries and extensions, accounts; \
    told apart by their content. Several files are one stream in the given order. A line may be wrapped as \
    {\"received_at\": RFC 3339, \"document\": {...}}; otherwise a document arrives at its own time, or with the one before it. \
    A document has at most 256 MiB: longer ones are split into lines, a record or a page each.\n\n\
    Exit status: 0; 1 if some document could not be read (the rest is judged); 2 for wrong usage; 3 if the disk or the output failed.")]
pub struct ClassifyArgs {
    /// Files to read, in this order; - is standard input
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Account of the documents that name none
    #[arg(long, value_name = "ID", value_parser = AccountId::parse)]
    pub account: Option<AccountId>,
    /// Home country for numbers without a plus, ISO 3166-1 alpha-2
    #[arg(long, default_value = "US", value_parser = parse_country)]
    pub country: CompactString,
    /// Whether internal calls are to be disregarded
    #[arg(long, value_enum, default_value_t = Switch::Off)]
    pub filter: Switch,
    /// Take a number that came with an extension id for the company's, even when no list has it
    #[arg(long)]
    pub trust_extension_id: bool,
    /// Take the company's sides of finished call-log records for numbers of the company
    #[arg(long, value_enum, default_value_t = Switch::On)]
    pub history: Switch,
    /// Print every revision when it is decided, instead of each call's newest at the end
    #[arg(long)]
    pub revisions: bool,
    /// How to print: a JSON object per line, a table for people, or CSV
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    pub format: Format,
    /// Print the evidence, too: the field or column call; in the table the participants with their reasons
    #[arg(long)]
    pub explain: bool,
    /// Where to keep what doesn't fit in memory [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    pub temp_dir: Option<PathBuf>,
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

/// How verdicts are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A `CallVerdict` per line as snake_case JSON.
    Jsonl,
    /// Aligned columns, for people.
    Table,
    /// Columns for a spreadsheet.
    Csv,
}

fn parse_country(code: &str) -> Result<CompactString, String> {
    let known = Country::parse(code).map(|_| CompactString::new(code.to_ascii_uppercase()));
    known.ok_or_else(|| "it has no numbering plan; give an ISO 3166-1 alpha-2 code such as US".into())
}

const DONE: u8 = 0;
const UNREADABLE: u8 = 1;
const USAGE: u8 = 2;
const FAILED: u8 = 3;

/// Records, and changes of calls, that are written at once. Most calls begin and end within few batches, and are then written once.
const BATCH: usize = 20_000;
/// Documents without a time that come before any that has one wait for it, up to so many bytes of them.
const MOST_UNDATED: usize = 64 << 20;
/// How often the temporary directory is removed until it stays away.
const REMOVALS: usize = 100;
/// From so many bytes on an input is long enough to show how far it is.
const LONG_INPUT: u64 = 32 << 20;
/// How often it is shown.
const PROGRESS_EVERY: u64 = 4 << 20;

/// Runs the command with the process's streams.
#[must_use]
pub fn main(args: &ClassifyArgs) -> ExitCode {
    ExitCode::from(run(args, &mut io::stdin().lock(), &mut io::stdout().lock(), &mut io::stderr()))
}

/// Runs the command; returns the exit status. `stdin` is read for the file `-`.
pub fn run(args: &ClassifyArgs, stdin: &mut dyn Read, stdout: &mut dyn Write, stderr: &mut dyn Write) -> u8 {
    for path in args.files.iter().filter(|path| !is_stdin(path)) {
        if let Err(error) = check(path) {
            let _ = writeln!(stderr, "callsieve: {}: {error}", path.display());
            return USAGE;
        }
    }
    let judged = classify(args, stdin, stdout, stderr);
    match judged {
        Ok(0) | Err(Fault::BrokenPipe) => DONE,
        Ok(_) => UNREADABLE,
        Err(Fault::Failed(error)) => {
            let _ = writeln!(stderr, "callsieve: {error:#}");
            FAILED
        }
    }
}

fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

/// A pipe is not opened here: it can be read once only.
fn check(path: &Path) -> io::Result<()> {
    let found = std::fs::metadata(path)?;
    if found.is_dir() {
        return Err(io::Error::other("it is a directory; name the files in it"));
    }
    if found.is_file() {
        File::open(path)?;
    }
    Ok(())
}

/// Why the command ends before the end of its input.
enum Fault {
    /// Nobody reads the output any more.
    BrokenPipe,
    /// The disk, or a bug.
    Failed(anyhow::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Failed(anyhow!(error).context("writing the verdicts")),
        }
    }
}

impl From<tables::TableError> for Fault {
    fn from(error: tables::TableError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

/// Returns how many documents were unreadable.
fn classify(args: &ClassifyArgs, stdin: &mut dyn Read, stdout: &mut dyn Write, stderr: &mut dyn Write) -> Result<u64, Fault> {
    let scratch = Scratch::new(args.temp_dir.as_deref())?;
    let width = terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0));
    let mut stream = Stream {
        judge: Judge::new(args, scratch.path())?,
        printer: Printer::new(args.format, args.explain, width, stdout)?,
        prints_revisions: args.revisions,
        totals: (args.format == Format::Table).then(Totals::default),
        asked: Asked {
            account: args.account.as_ref(),
            received_at: None,
            country: Country::parse(&args.country).unwrap_or(Country::DEFAULT),
            history: args.history == Switch::On,
        },
        stderr,
        file: String::new(),
        unreadable: 0,
        arrived_at: None,
        undated: Vec::new(),
        undated_bytes: 0,
        progress: Progress::new(args),
    };
    for path in &args.files {
        stream.file = path.display().to_string();
        if is_stdin(path) {
            "standard input".clone_into(&mut stream.file);
            read_documents(stdin, &mut stream)?;
        } else {
            match File::open(path) {
                Ok(mut file) => read_documents(&mut file, &mut stream)?,
                Err(error) => stream.complain(0, &error.to_string())?,
            }
        }
    }
    stream.finish()?;
    let unreadable = stream.unreadable;
    if let Some(totals) = stream.totals {
        let _ = writeln!(stream.stderr, "{}", summary(totals, unreadable));
    }
    Ok(unreadable)
}

fn summary(totals: Totals, unreadable: u64) -> String {
    let count = |n: u64, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let mut text = format!(
        "{}: {} internal, {} external; {} to disregard, {} to ingest",
        count(totals.internal + totals.external, "call"),
        totals.internal,
        totals.external,
        totals.disregarded,
        totals.ingested
    );
    if unreadable > 0 {
        text.push_str(&format!("; {} unreadable", count(unreadable, "document")));
    }
    text
}

/// The directory of the temporary database. It goes with the command, also when that is interrupted.
struct Scratch {
    directory: tempfile::TempDir,
    is_interrupted: Arc<AtomicBool>,
}

impl Scratch {
    fn new(parent: Option<&Path>) -> anyhow::Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let directory = tempfile::Builder::new().prefix("callsieve-").tempdir_in(&parent);
        let directory = directory.with_context(|| format!("making a temporary directory in {}", parent.display()))?;
        let (path, is_interrupted) = (directory.path().to_path_buf(), Arc::new(AtomicBool::new(false)));
        let flag = is_interrupted.clone();
        // Waits for a signal as long as the process lives, whatever the main thread is blocked by.
        let (listens, is_listening) = std::sync::mpsc::channel();
        std::thread::Builder::new().name("signals".into()).spawn(move || when_interrupted(&path, &flag, &listens)).context("starting a thread")?;
        // Nothing is written before somebody listens. (A thread that cannot listen has dropped its end.)
        let _ = is_listening.recv();
        Ok(Self { directory, is_interrupted })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Scratch {
    /// What fails because the directory is being removed is no failure of its own: the process ends as interrupted.
    fn drop(&mut self) {
        while self.is_interrupted.load(Ordering::Acquire) {
            std::thread::park();
        }
    }
}

fn when_interrupted(scratch: &Path, flag: &AtomicBool, listens: &std::sync::mpsc::Sender<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    let signal: io::Result<i32> = runtime.block_on(async {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
            let _ = listens.send(());
            tokio::select! {
                _ = interrupt.recv() => Ok(2),
                _ = terminate.recv() => Ok(15),
            }
        }
        #[cfg(not(unix))]
        {
            let _ = listens.send(());
            tokio::signal::ctrl_c().await.map(|()| 2)
        }
    });
    if let Ok(number) = signal {
        flag.store(true, Ordering::Release);
        // The database may still be writing new files. What is left in the end, the system's own cleaning finds.
        for _ in 0..REMOVALS {
            match std::fs::remove_dir_all(scratch) {
                Err(error) if error.kind() == io::ErrorKind::NotFound && !scratch.exists() => break,
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        std::process::exit(128 + number);
    }
}

/// The fold over all documents.
struct Judge {
    store: Store,
    database: Arc<Database>,
    settings: AccountSettings,
    accounts: HashSet<AccountId>,
    /// The account of the newest event: nearly always that of the next one, too.
    account: Option<AccountId>,
    at: At,
    unwritten: usize,
}

impl Judge {
    fn new(args: &ClassifyArgs, directory: &Path) -> anyhow::Result<Self> {
        let options = DatabaseOptions { cache_bytes: 64 << 20, write_buffer_bytes: 128 << 20, background_jobs: 2, write_ahead_log: false };
        let database = Arc::new(Database::open(directory, &Engine::new(&options), &[])?);
        let settings = AccountSettings {
            filter_internal: args.filter == Switch::On,
            country: args.country.clone(),
            trust_extension_id: args.trust_extension_id,
            ..AccountSettings::defaults(AccountId::parse("~")?)
        };
        Ok(Self {
            store: Store::open(database.clone())?.kept_for_ever(),
            database,
            settings,
            accounts: HashSet::new(),
            account: None,
            at: At { offset: 0, time: Millis::MIN },
            unwritten: 0,
        })
    }

    /// Steps an event that arrives at `time`. Returns what it brought about, and why it was refused.
    fn step(&mut self, event: &Event, time: Millis) -> anyhow::Result<(Vec<Output>, Option<String>)> {
        if let Some(account) = event.account_id().filter(|account| self.account.as_ref() != Some(account)) {
            self.account = Some(account.clone());
            if self.accounts.insert(account.clone()) {
                let mut outputs = self.introduce(&account.clone(), time)?;
                let (more, refused) = self.step_one(event, time)?;
                outputs.extend(more);
                return Ok((outputs, refused));
            }
        }
        self.step_one(event, time)
    }

    /// An account's settings hold, and its gate is open, before anything else is known of it. Time passes with that, for other accounts too: returns
    /// what that brings about.
    fn introduce(&mut self, account: &AccountId, time: Millis) -> anyhow::Result<Vec<Output>> {
        let settings = AccountSettings { account_id: account.clone(), updated_at: time, ..self.settings.clone() };
        let (mut outputs, _) = self.step_one(&Event::AccountSettings(settings), time)?;
        let completed =
            SnapshotCompleted { account_id: account.clone(), sync_id: CompactString::const_new("classify"), completed_at: time, numbers_seen: 0 };
        outputs.extend(self.step_one(&Event::SnapshotCompleted(completed), time)?.0);
        Ok(outputs)
    }

    fn step_one(&mut self, event: &Event, time: Millis) -> anyhow::Result<(Vec<Output>, Option<String>)> {
        self.at.time = self.at.time.max(time);
        let stepped = step(&mut self.store, self.at, event)?;
        self.at.offset += 1;
        // A late number may change a thousand calls at once.
        self.unwritten += 1 + stepped.outputs.len();
        if self.unwritten >= BATCH {
            self.write()?;
        }
        Ok((stepped.outputs, stepped.refused))
    }

    fn write(&mut self) -> anyhow::Result<()> {
        self.unwritten = 0;
        let batch = self.store.take_batch()?;
        Ok(self.database.write(batch)?)
    }

    /// The next time at which something is due; `None` when nothing is any more. What waits only to be forgotten waits for ever.
    fn next_time(&self) -> Option<Millis> {
        if self.store.has_due_work() {
            return Some(self.at.time);
        }
        self.store.next_deadline().filter(|at| *at < Millis::MAX).map(|at| at.max(self.at.time))
    }
}

/// The documents of all files, on their way through the judge to the printer.
struct Stream<'a> {
    judge: Judge,
    printer: Printer<'a>,
    prints_revisions: bool,
    /// Of the calls, where they are told in the end.
    totals: Option<Totals>,
    asked: Asked<'a>,
    stderr: &'a mut dyn Write,
    file: String,
    unreadable: u64,
    /// When the newest document arrived.
    arrived_at: Option<Millis>,
    /// Documents without a time, from before the first one that has one, with their place.
    undated: Vec<(String, u64, Document)>,
    undated_bytes: usize,
    progress: Progress,
}

impl Reading for Stream<'_> {
    type Error = Fault;

    fn take(&mut self, document: &[u8], line: u64) -> Result<Result<(), String>, Fault> {
        let (asked, mut bytes, mut taken) = (self.asked, document.len(), Ok(()));
        let read = read_each(document, &asked, &mut |one| {
            if taken.is_ok() {
                taken = self.arrive(line, one, std::mem::take(&mut bytes));
            }
        });
        taken.map(|()| read.map_err(|error| error.to_string()))
    }

    fn complain(&mut self, line: u64, reason: &str) -> Result<(), Fault> {
        self.unreadable += 1;
        let (line, reason) = placed(line, reason);
        let text = format!("{}:{line}: {reason}", self.file).replace(char::is_control, "\u{fffd}");
        self.say(&text);
        Ok(())
    }

    fn advance(&mut self, bytes: u64, waits: bool) -> Result<(), Fault> {
        self.progress.advance(bytes);
        if waits && self.prints_revisions {
            self.printer.flush()?;
        }
        Ok(())
    }
}

/// A parser counts lines from the beginning of its document; a person looks for them in the file.
fn placed(line: u64, reason: &str) -> (u64, String) {
    let found = reason.rsplit_once(" at line ").and_then(|(before, place)| {
        let (within, rest) = place.split_once(" column ")?;
        Some((line + within.parse::<u64>().ok()?.saturating_sub(1), format!("{before} at column {rest}")))
    });
    found.unwrap_or_else(|| (line, reason.to_owned()))
}

impl Stream<'_> {
    /// Whoever doesn't read this reads the verdicts all the same.
    fn say(&mut self, text: &str) {
        let stderr = &mut *self.stderr;
        let _ = self.progress.aside(|| writeln!(stderr, "{text}"));
    }

    /// Takes in a document, or an element of one; `bytes` of input have come with it.
    fn arrive(&mut self, line: u64, read: Document, bytes: usize) -> Result<(), Fault> {
        for part in &read.unreadable {
            self.complain(line, &part.to_string())?;
        }
        if read.arrived_at.is_none() && read.events.is_empty() {
            return Ok(());
        }
        match read.arrived_at.or(self.arrived_at) {
            Some(at) => {
                if self.arrived_at.is_none() {
                    self.date_all(at)?;
                }
                self.judge(line, read, at)
            }
            None => {
                self.undated.push((self.file.clone(), line, read));
                self.undated_bytes += bytes;
                if self.undated_bytes > MOST_UNDATED { self.date_all(0) } else { Ok(()) }
            }
        }
    }

    /// The first time that is known is also the arrival of what came before it.
    fn date_all(&mut self, at: Millis) -> Result<(), Fault> {
        self.arrived_at = Some(at);
        self.undated_bytes = 0;
        let file = self.file.clone();
        for (place, line, document) in std::mem::take(&mut self.undated) {
            self.file = place;
            self.judge(line, document, at)?;
        }
        self.file = file;
        Ok(())
    }

    fn judge(&mut self, line: u64, mut document: Document, at: Millis) -> Result<(), Fault> {
        if document.arrived_at.is_none() {
            document.receive_at(at);
        }
        self.arrived_at = Some(at);
        for event in &document.events {
            let (outputs, refused) = self.judge.step(event, at)?;
            self.print(&outputs)?;
            if let Some(reason) = refused {
                self.complain(line, &reason)?;
            }
        }
        Ok(())
    }

    fn print(&mut self, outputs: &[Output]) -> Result<(), Fault> {
        if !self.prints_revisions {
            return Ok(());
        }
        for output in outputs {
            match output {
                Output::Verdict(verdict) => self.printer.print(verdict)?,
                // Nothing is forgotten here, so it is a fax.
                Output::VerdictGone(account, session) => {
                    self.say(&format!("account {account}, session {session}: it is a fax, its verdict is withdrawn"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Lets every deadline expire, and prints what hasn't been printed yet.
    fn finish(&mut self) -> Result<(), Fault> {
        if self.arrived_at.is_none() {
            self.date_all(0)?;
        }
        self.progress.finish();
        // The last event's idle limit, then the longest wait; anything beyond would be waiting for itself.
        let latest = self.judge.at.time.saturating_add(2 * (IDLE_LIMIT + LONGEST_WAIT));
        while let Some(time) = self.judge.next_time() {
            if time > latest {
                return Err(Fault::Failed(anyhow!("some calls don't end although all time has passed; please report this")));
            }
            let (outputs, _) = self.judge.step(&Event::Tick(Tick { at: time }), time)?;
            self.print(&outputs)?;
        }
        if !self.prints_revisions || self.totals.is_some() {
            self.judge.write()?;
            let (printer, totals) = (&mut self.printer, &mut self.totals);
            tables::each_verdict(&self.judge.database, |verdict| -> Result<(), Fault> {
                // What another session has superseded is no call (design §1, Sessions).
                if verdict.superseded_by.is_some() {
                    return Ok(());
                }
                if let Some(totals) = totals {
                    totals.count(&verdict);
                }
                if self.prints_revisions { Ok(()) } else { Ok(printer.print(&verdict)?) }
            })?;
        }
        Ok(self.printer.flush()?)
    }
}

/// How far a long input is, on a terminal.
struct Progress {
    bar: Option<ProgressBar>,
    is_wanted: bool,
    total: Option<u64>,
    done: u64,
    shown: u64,
}

impl Progress {
    fn new(args: &ClassifyArgs) -> Self {
        let size = |path: &PathBuf| std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file).map(|found| found.len());
        // Revisions on the same terminal would be written through it.
        let is_wanted = io::stderr().is_terminal() && !(args.revisions && io::stdout().is_terminal());
        let total = args.files.iter().map(|path| if is_stdin(path) { None } else { size(path) }).sum();
        Self { bar: None, is_wanted, total, done: 0, shown: 0 }
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        if !self.is_wanted || self.done < self.shown + PROGRESS_EVERY {
            return;
        }
        self.shown = self.done;
        if self.bar.is_none() && self.total.unwrap_or(self.done) >= LONG_INPUT {
            self.bar = Some(bar(self.total));
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
        }
    }

    /// Writes something else to the terminal.
    fn aside<R>(&self, write: impl FnOnce() -> R) -> R {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar(total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let template = match total {
        Some(_) => "{wide_bar} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta} left",
        None => "{spinner} {bytes}, {binary_bytes_per_sec}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_within_a_document_becomes_one_in_the_file() {
        let rows = [
            (7, "not JSON: expected value at line 1 column 5", 7, "not JSON: expected value at column 5"),
            (7, "not JSON: expected value at line 3 column 5", 9, "not JSON: expected value at column 5"),
            (7, "it lacks a session", 7, "it lacks a session"),
        ];
        for (line, reason, placed_at, text) in rows {
            assert_eq!(placed(line, reason), (placed_at, text.to_owned()));
        }
    }

    #[test]
    fn totals_in_words() {
        let totals = Totals { internal: 1, external: 0, disregarded: 0, ingested: 1 };
        assert_eq!(summary(totals, 0), "1 call: 1 internal, 0 external; 0 to disregard, 1 to ingest");
        assert!(summary(Totals::default(), 2).ends_with("; 2 documents unreadable"));
    }
}
