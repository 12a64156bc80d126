//! `callsieve classify` over a simulated company's notifications, in MB/s of JSON Lines on one core; the limit is 150.
//!
//! Times are the judging thread's own on the processor, as Linux counts them (elsewhere those of the clock): the limit is about one core, and not
//! about what else the machine does. The clock's are printed beside them. RocksDB's threads, which write its buffers out, are not in them.
//!
//! `make bench ARGS="--bench classify"`; with a file of your own: `make bench ARGS="--bench classify -- FILE"`.

use callsieve::cli::classify::{self, ClassifyArgs};
use callsieve::simulate::{self, SimulateArgs};
use clap::Parser;
use std::io::{Write, sink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const LIMIT_MB_PER_SECOND: f64 = 150.0;
const ROUNDS: usize = 3;

#[derive(Parser)]
struct Simulate {
    #[command(flatten)]
    args: SimulateArgs,
}

#[derive(Parser)]
struct Classify {
    #[command(flatten)]
    args: ClassifyArgs,
}

fn main() -> anyhow::Result<()> {
    // `cargo test --benches` only asks whether it starts.
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    match std::env::args().skip(1).find(|arg| !arg.starts_with('-')) {
        Some(path) => measure("as given", Path::new(&path)),
        None => {
            let (wrapped, plain) = generate(folder.path())?;
            measure("plain notifications", &plain)?;
            measure("wrapped with their arrival", &wrapped)
        }
    }
}

/// Half a day of a company with 1,200 calls an hour.
fn generate(folder: &Path) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (wrapped, plain) = (folder.join("wrapped"), folder.join("plain"));
    let words = ["simulate", "--users", "400", "--calls-per-hour", "1200", "--hours", "12", "--write"];
    let args = Simulate::parse_from(words.iter().map(std::ffi::OsStr::new).chain([wrapped.as_os_str()])).args;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(simulate::run(args))?;
    let mut out = std::io::BufWriter::new(std::fs::File::create(&plain)?);
    for line in std::fs::read_to_string(&wrapped)?.lines() {
        let document = line.split_once(",\"document\":").and_then(|(_, rest)| rest.strip_suffix('}')).unwrap_or(line);
        writeln!(out, "{document}")?;
    }
    out.flush()?;
    Ok((wrapped, plain))
}

/// How long this thread has been on a core: the first figure of its `schedstat`, in nanoseconds.
fn on_core() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
}

fn measure(what: &str, path: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::metadata(path)?.len();
    let args = Classify::parse_from([std::ffi::OsStr::new("classify"), path.as_os_str()]).args;
    let (mut best, mut by_clock) = (0.0_f64, 0.0_f64);
    for _ in 0..ROUNDS {
        let (started, core) = (Instant::now(), on_core());
        let status = classify::run(&args, &mut std::io::empty(), &mut sink(), &mut std::io::stderr());
        anyhow::ensure!(status == 0, "classify ended with {status}");
        let clock = started.elapsed();
        let took = on_core().zip(core).map_or(clock, |(now, then)| now.saturating_sub(then));
        best = best.max(bytes as f64 / 1e6 / took.as_secs_f64());
        by_clock = by_clock.max(bytes as f64 / 1e6 / clock.as_secs_f64());
    }
    let judgement = if best >= LIMIT_MB_PER_SECOND { "reached" } else { "NOT reached" };
    println!("{what}: {best:.0} MB/s ({by_clock:.0} by the clock) over {:.0} MB (limit {LIMIT_MB_PER_SECOND} MB/s: {judgement})", bytes as f64 / 1e6);
    Ok(())
}
