//! `callsieve replay`: judges the past anew, beside the live processor, and brings over what differs.

use super::topics::KafkaArgs;
use crate::event::AccountId;
use crate::log::kafka::KafkaSettings;
use crate::roles::replay::{Counts, Difference, Ended, Kind, Progress, Replay, StartArgs};
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufWriter, ErrorKind, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Over how long a replay's speed is measured.
const SPEED: Duration = Duration::from_secs(1);

/// What to do with replays
#[derive(Debug, clap::Args)]
pub struct ReplayArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Judge the retained log and all evidence anew, into topics of the replay's own; interrupted, start it again and it goes on
    Start {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        args: StartArgs,
    },
    /// Show the replays and how far each partition is
    Status {
        /// Only this one
        name: Option<String>,
        #[command(flatten)]
        live: LiveArgs,
    },
    /// Say which calls a replay that has finished judges otherwise than the live processor, and why
    Diff {
        #[command(flatten)]
        which: Which,
        /// Only the calls of this account
        #[arg(long)]
        account: Option<String>,
        /// A JSON object per call, and one with the counts
        #[arg(long)]
        json: bool,
    },
    /// Ask the live processor to judge those calls again
    Promote {
        #[command(flatten)]
        which: Which,
        /// Only the calls of this account
        #[arg(long)]
        account: Option<String>,
    },
    /// Delete a replay: its topics, its group, its state
    Drop {
        #[command(flatten)]
        which: Which,
        /// Where its state is, below replay/NAME
        #[arg(long, env = "CALLSIEVE_DATA_DIR", default_value = "./callsieve-data")]
        data_dir: PathBuf,
    },
}

/// The log, and who judges it live
#[derive(Debug, clap::Args)]
struct LiveArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// The live processor's consumer group [default: the topic prefix without the dot at its end]
    #[arg(long, env = "CALLSIEVE_GROUP")]
    group: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The replay's name: a to z, 0 to 9 and -
    name: String,
    #[command(flatten)]
    live: LiveArgs,
}

impl LiveArgs {
    fn settings(self) -> KafkaSettings {
        self.kafka.settings().judged_by(self.group)
    }
}

impl Which {
    fn replay(self) -> anyhow::Result<Replay> {
        Replay::named(&self.name, self.live.settings())
    }
}

/// Runs the command.
///
/// # Errors
/// If there is no such replay, or it isn't as far as is asked for, or the cluster can't be reached or refuses.
pub fn main(args: ReplayArgs) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Start { which, args } => start(which.replay()?, &args),
        Action::Status { name, live } => status(name.as_deref(), &live.settings()),
        Action::Diff { which, account, json } => diff(&which.replay()?, parsed(account)?.as_ref(), json),
        Action::Promote { which, account } => promote(&which.replay()?, parsed(account)?.as_ref()),
        Action::Drop { which, data_dir } => {
            let replay = which.replay()?;
            replay.drop_all(&data_dir)?;
            eprintln!("nothing is left of the replay {}", replay.name());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn parsed(account: Option<String>) -> anyhow::Result<Option<AccountId>> {
    account.map(|account| AccountId::parse(&account).with_context(|| format!("--account {account}"))).transpose()
}

fn start(mut replay: Replay, args: &StartArgs) -> anyhow::Result<ExitCode> {
    let ended = replay.run(args)?;
    let name = replay.name();
    match ended {
        Ended::Finished => eprintln!("the replay {name} has finished; `callsieve replay diff {name}` shows what it judges otherwise"),
        Ended::FinishedBefore => eprintln!("the replay {name} had finished before; drop it to begin one anew"),
        Ended::Interrupted => {
            eprintln!("interrupted; `callsieve replay start {name}` goes on");
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}

// ---- status ----

fn status(name: Option<&str>, live: &KafkaSettings) -> anyhow::Result<ExitCode> {
    let replays = match name {
        Some(name) => vec![Replay::named(name, live.clone())?],
        None => Replay::all(live)?,
    };
    let look = || replays.iter().map(Replay::progress).collect::<Vec<_>>();
    let known = |progress: &anyhow::Result<Option<Progress>>| progress.as_ref().ok().cloned().flatten();
    let mut looked = look();
    if let (Some(name), [replay], [Ok(None)]) = (name, &replays[..], &looked[..])
        && !replay.is_there()?
    {
        bail!("there is no replay {name}");
    }
    // How fast it goes shows only over time.
    let before: Vec<u64> = looked.iter().map(|progress| known(progress).map_or(0, |progress| progress.total().0)).collect();
    if looked.iter().filter_map(known).any(|progress| !progress.is_finished()) {
        std::thread::sleep(SPEED);
        looked = look();
    }
    let mut code = ExitCode::SUCCESS;
    let mut out = std::io::stdout().lock();
    if replays.is_empty() {
        eprintln!("there are no replays");
    }
    for ((replay, progress), before) in replays.iter().zip(looked).zip(before) {
        let of = replay.name();
        match progress {
            Ok(Some(progress)) => write!(out, "{}", told(of, &progress, before))?,
            Ok(None) => writeln!(
                out,
                "{of}: is being made; if nobody does that, `callsieve replay start {of}` goes on, `callsieve replay drop {of}` deletes it"
            )?,
            Err(error) if name.is_some() => return Err(error),
            Err(error) => {
                writeln!(out, "{of}: {error:#}")?;
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn told(name: &str, progress: &Progress, before: u64) -> String {
    let ((done, total), speed) = (progress.total(), progress.total().0.saturating_sub(before));
    let began = Timestamp::from_millisecond(progress.begun.started_at).unwrap_or(Timestamp::MIN);
    let state = match speed {
        _ if progress.is_finished() => "finished".to_owned(),
        0 => "not moving".to_owned(),
        speed => format!("{} records/s", speed / SPEED.as_secs()),
    };
    let mut text = format!("{name}: {state}, {done} of {total} records, begun {began} with the rules {}\n", progress.begun.rules);
    for (partition, part) in progress.begun.parts.iter().enumerate() {
        let (done, total) = progress.of(partition);
        let state = match progress.positions.get(partition).copied().flatten() {
            None => "to be seeded",
            Some(_) if u32::try_from(partition).is_ok_and(|partition| progress.done.contains(&partition)) => "done",
            Some(position) if position.next >= part.end => "at its end, judging what is left",
            Some(_) => "under way",
        };
        text.push_str(&format!("  partition {partition}: {done} of {total} records, up to offset {}: {state}\n", part.end));
    }
    text
}

// ---- diff ----

fn diff(replay: &Replay, account: Option<&AccountId>, json: bool) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut write = || -> anyhow::Result<()> {
        let counts = replay
            .diff(account, |difference| Ok(if json { writeln!(out, "{}", object(&difference)) } else { writeln!(out, "{}", line(&difference)) }?))?;
        match json {
            true => writeln!(out, "{}", json!({ "counts": by_kind(&counts) }))?,
            false => writeln!(out, "{}", summary(&counts))?,
        }
        Ok(out.flush()?)
    };
    match write() {
        // Who reads has seen enough.
        Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe) => Ok(ExitCode::SUCCESS),
        done => done.map(|()| ExitCode::SUCCESS),
    }
}

const KINDS: [(Kind, &str); 8] = [
    (Kind::Same, "the same"),
    (Kind::ToExternal, "would turn external"),
    (Kind::ToInternal, "would turn internal"),
    (Kind::Other, "would change otherwise"),
    (Kind::OnlyReplay, "only in the replay"),
    (Kind::OnlyLive, "only live"),
    (Kind::Open, "still open, judged when they end"),
    (Kind::Newer, "judged live after the replay's end"),
];

fn symbol(kind: Kind) -> String {
    json!(kind).as_str().unwrap_or_default().to_owned()
}

fn by_kind(counts: &Counts) -> BTreeMap<String, u64> {
    KINDS.iter().map(|(kind, _)| (symbol(*kind), counts.of(*kind))).collect()
}

fn summary(counts: &Counts) -> String {
    let parts: Vec<String> = KINDS.iter().map(|(kind, words)| format!("{} {words}", counts.of(*kind))).collect();
    format!("calls: {}", parts.join(", "))
}

fn line(difference: &Difference) -> String {
    let verdict = |verdict: &Option<crate::event::CallVerdict>| {
        verdict.as_ref().map_or("-".to_owned(), |verdict| json!(verdict.verdict).as_str().unwrap_or_default().to_owned())
    };
    let why = difference.changed.iter().map(|changed| {
        let text = |text: &Option<String>| text.clone().filter(|text| !text.is_empty()).unwrap_or_else(|| "-".to_owned());
        format!("{}: {} -> {}", changed.what, text(&changed.live), text(&changed.replay))
    });
    let why: Vec<String> = why.collect();
    let Difference { account_id, session_id, kind, live, replay, .. } = difference;
    let text = format!("{account_id} {session_id} {} {} -> {} {}", symbol(*kind), verdict(live), verdict(replay), why.join("; "));
    // What came from outside writes to the terminal.
    text.replace(char::is_control, "\u{fffd}")
}

fn object(difference: &Difference) -> Value {
    let side = |verdict: &Option<crate::event::CallVerdict>| {
        verdict.as_ref().map(|verdict| {
            json!({
                "revision": verdict.revision,
                "verdict": verdict.verdict,
                "disposition": verdict.disposition,
                "rules": verdict.rules,
            })
        })
    };
    json!({
        "account_id": difference.account_id,
        "session_id": difference.session_id,
        "change": difference.kind,
        "live": side(&difference.live),
        "replay": side(&difference.replay),
        "why": difference.changed,
    })
}

// ---- promote ----

fn promote(replay: &Replay, account: Option<&AccountId>) -> anyhow::Result<ExitCode> {
    let bar = std::io::stderr().is_terminal().then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()));
    let promoted = replay.promote(account, |durable, total| match &bar {
        Some(bar) => {
            bar.set_length(total);
            bar.set_position(durable);
        }
        None => eprintln!("{durable} of {total} calls asked for"),
    })?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} calls are to be judged again by the live processor; `callsieve replay diff {}` shows what is left",
        promoted.asked,
        replay.name()
    )?;
    if promoted.only_replay > 0 {
        writeln!(
            out,
            "{} calls are only in the replay, and stay there: the live processor has no verdict of them to judge again",
            promoted.only_replay
        )?;
    }
    Ok(ExitCode::SUCCESS)
}
