//! What a run was, in figures.

use crate::faults::Came;
use crate::load::Load;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

#[derive(Default)]
struct Row {
    count: usize,
    missed: usize,
    is_not_here: bool,
    longest: Duration,
}

#[derive(Default)]
pub struct Report {
    seed: u64,
    rows: BTreeMap<String, Row>,
    /// How often two faults came at once.
    pub twice: usize,
    /// How often a service was left without partitions, while the other did all.
    pub idle: usize,
    pub calls: usize,
    notifications: usize,
    revisions: usize,
    took: Duration,
    set_aside: usize,
}

impl Report {
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    pub fn note(&mut self, kind: String, came: Came, until_ready: Duration) {
        let row = self.rows.entry(kind).or_default();
        match came {
            Came::About => row.count += 1,
            Came::ToNothing => row.missed += 1,
            Came::NotHere => row.is_not_here = true,
        }
        row.longest = row.longest.max(until_ready);
    }

    /// Kinds that were tried and never came about, though they can here.
    pub fn never(&self) -> Vec<&str> {
        self.rows.iter().filter(|(_, row)| row.count == 0 && !row.is_not_here).map(|(kind, _)| kind.as_str()).collect()
    }

    /// Those that came about.
    pub fn faults(&self) -> usize {
        self.rows.values().map(|row| row.count).sum()
    }

    pub fn counted(&mut self, loads: &[Load], revisions: usize) {
        self.calls = loads.iter().map(|load| load.truth().len()).sum();
        self.notifications = loads.iter().map(Load::notifications).sum();
        self.revisions = revisions;
    }

    pub fn ended(&mut self, took: Duration, logs: &Path) {
        self.took = took;
        let said = std::fs::read_dir(logs).unwrap().flatten().map(|entry| std::fs::read_to_string(entry.path()).unwrap_or_default());
        self.set_aside = said.map(|said| said.matches("it is set aside").count()).sum();
    }

    /// The same for docs/.
    pub fn page(&self, asked: usize) -> String {
        let day = jiff::Timestamp::now().to_string();
        format!(
            "# Fault runs\n\n\
             Two services on three brokers, a static member with two workers, whose transactions are of 100 records at most, and a dynamic one with one and transactions \
             of the usual size, while faults happen to them, to the brokers and to the network between. Even seeds use the classic group protocol with cooperative-sticky assignment ([chaos-classic.md](chaos-classic.md)), odd ones that of KIP-848 ([chaos.md](chaos.md)). What each\nkind of fault is, is in `tests/kafka_chaos/faults.rs`. A third of the companies' numbers become known only in the middle of a round, so that verdicts are corrected. After every twelfth fault, and at the end, a read_committed reader finds each call's newest verdict to be \
             the truth, every\nrevision once, and in the evidence every leg of every notification that was acknowledged.\n\n\
             The last run, on {}, by `make chaos FAULTS={asked} SEED={}`:\n\n{self}",
            &day[..10],
            self.seed
        )
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut table = String::from("| fault | times | longest until ready again |\n| --- | --: | --: |\n");
        for (kind, row) in &self.rows {
            let missed = match row.missed {
                _ if row.is_not_here => " (not possible on this system)".to_owned(),
                0 => String::new(),
                missed => format!(" (and {missed} that came to nothing)"),
            };
            writeln!(table, "| {kind} | {}{missed} | {:.1} s |", row.count, row.longest.as_secs_f64())?;
        }
        let longest = self.rows.values().map(|row| row.longest).max().unwrap_or_default();
        writeln!(table, "| **all** | **{}** | **{:.1} s** |", self.faults(), longest.as_secs_f64())?;
        writeln!(
            f,
            "{table}\n{} faults, {} times two at once, in {:.0} minutes. {} calls, {} notifications, {} revisions; {} corrupt states were set aside. \
             {} times a service was left without partitions for half a minute while the other did all. Every newest verdict\nis the truth, each revision is there once, nothing acknowledged is lost.",
            self.faults(),
            self.twice,
            self.took.as_secs_f64() / 60.0,
            self.calls,
            self.notifications,
            self.revisions,
            self.set_aside,
            self.idle
        )
    }
}
