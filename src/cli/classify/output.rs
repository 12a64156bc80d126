//! Verdicts as text: JSON Lines, CSV, and a table for people.

use super::Format;
use crate::event::json::{VerdictJson, rfc3339};
use crate::event::{CallVerdict, Disposition, JudgedEndpoint, Millis, SessionId, Standing, StandingReason, Verdict};
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};

/// Columns of the CSV, in this order; `call` follows with `--explain`.
const COLUMNS: [&str; 15] = [
    "account_id",
    "session_id",
    "revision",
    "verdict",
    "disposition",
    "cause",
    "ended_by",
    "started_at",
    "ended_at",
    "decided_at",
    "endpoints",
    "external_reasons",
    "linked_sessions",
    "recorded_extensions",
    "superseded_by",
];

/// How many calls of which kind there are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) internal: u64,
    pub(super) external: u64,
    pub(super) disregarded: u64,
    pub(super) ingested: u64,
}

impl Totals {
    pub(super) fn count(&mut self, newest: &CallVerdict) {
        match newest.verdict {
            Verdict::Internal => self.internal += 1,
            Verdict::External => self.external += 1,
        }
        match newest.disposition {
            Disposition::Disregard => self.disregarded += 1,
            Disposition::Ingest => self.ingested += 1,
        }
    }
}

/// Where verdicts go, one by one.
pub(super) struct Printer<'w> {
    sink: Sink<'w>,
    explain: bool,
}

enum Sink<'w> {
    Lines(BufWriter<&'w mut dyn Write>),
    Csv(Box<csv::Writer<&'w mut dyn Write>>),
    Table { out: BufWriter<&'w mut dyn Write>, layout: Layout, has_header: bool },
}

const BUFFER: usize = 64 << 10;

impl<'w> Printer<'w> {
    /// `width`: columns of the terminal; `None`: as wide as it takes.
    pub(super) fn new(format: Format, explain: bool, width: Option<usize>, out: &'w mut dyn Write) -> io::Result<Self> {
        let sink = match format {
            Format::Jsonl => Sink::Lines(BufWriter::with_capacity(BUFFER, out)),
            Format::Table => Sink::Table { out: BufWriter::with_capacity(BUFFER, out), layout: Layout::new(width), has_header: false },
            Format::Csv => {
                let mut csv = csv::WriterBuilder::new().buffer_capacity(BUFFER).from_writer(out);
                csv.write_record(COLUMNS.iter().copied().chain(explain.then_some("call"))).map_err(from_csv)?;
                Sink::Csv(Box::new(csv))
            }
        };
        Ok(Self { sink, explain })
    }

    pub(super) fn print(&mut self, verdict: &CallVerdict) -> io::Result<()> {
        let json = VerdictJson { verdict, evidence: self.explain };
        match &mut self.sink {
            Sink::Lines(out) => {
                serde_json::to_writer(&mut *out, &json)?;
                out.write_all(b"\n")
            }
            Sink::Csv(csv) => {
                let mut row = csv_row(verdict);
                if self.explain {
                    row.push(serde_json::to_string(&serde_json::to_value(json)?["call"])?);
                }
                csv.write_record(&row).map_err(from_csv)
            }
            Sink::Table { out, layout, has_header } => {
                if !std::mem::replace(has_header, true) {
                    writeln!(out, "{}", layout.row(&HEADER))?;
                }
                writeln!(out, "{}", layout.row(&table_row(verdict)))?;
                if self.explain { explain(verdict).into_iter().try_for_each(|line| writeln!(out, "    {line}")) } else { Ok(()) }
            }
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Lines(out) | Sink::Table { out, .. } => out.flush(),
            Sink::Csv(csv) => csv.flush(),
        }
    }
}

// ---- CSV ----

/// The symbol of an enum, as in the schema.
fn symbol(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// The error of the writer below, whose kind matters: a pipe that nobody reads any more is no failure.
fn from_csv(error: csv::Error) -> io::Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

fn joined<T>(items: impl IntoIterator<Item = T>, text: impl Fn(T) -> String) -> String {
    items.into_iter().map(text).collect::<Vec<_>>().join("; ")
}

fn csv_row(verdict: &CallVerdict) -> Vec<String> {
    let mut reasons: Vec<StandingReason> = Vec::new();
    for endpoint in verdict.endpoints.iter().filter(|endpoint| endpoint.standing == Standing::External) {
        if !reasons.contains(&endpoint.reason) {
            reasons.push(endpoint.reason);
        }
    }
    vec![
        verdict.account_id.to_string(),
        verdict.session_id.to_string(),
        verdict.revision.to_string(),
        symbol(verdict.verdict),
        symbol(verdict.disposition),
        symbol(verdict.cause),
        symbol(verdict.ended_by),
        rfc3339(verdict.started_at).to_string(),
        rfc3339(verdict.ended_at).to_string(),
        rfc3339(verdict.decided_at).to_string(),
        joined(&verdict.endpoints, csv_endpoint),
        joined(reasons, symbol),
        joined(&verdict.linked_sessions, SessionId::to_string),
        joined(&verdict.recorded_extensions, |id| id.to_string()),
        verdict.superseded_by.as_ref().map(SessionId::to_string).unwrap_or_default(),
    ]
}

/// The standing first: a cell that began with the number's plus would be a formula to a spreadsheet.
fn csv_endpoint(endpoint: &JudgedEndpoint) -> String {
    let mut text = format!("{} {}", symbol(endpoint.standing), symbol(endpoint.reason));
    if let Some(number) = &endpoint.number {
        text.push(' ');
        text.push_str(number);
    }
    if let Some(id) = &endpoint.extension_id {
        text.push_str(" ext ");
        text.push_str(id);
    }
    text
}

// ---- the table ----

const HEADER: [&str; 7] = ["Start (UTC)", "Duration", "From", "To", "Verdict", "Disposition", "Why"];

/// Widths of the columns but the last one, and what is left for that.
struct Layout {
    widths: [usize; 6],
    last: Option<usize>,
}

impl Layout {
    fn new(width: Option<usize>) -> Self {
        let people = match width {
            Some(width) if width < 120 => 13,
            _ => 22,
        };
        let widths = [19, 8, people, people, 8, 11];
        let taken: usize = widths.iter().map(|width| width + 2).sum();
        Self { widths, last: width.map(|width| width.saturating_sub(taken).max(12)) }
    }

    fn row<T: AsRef<str>>(&self, cells: &[T; 7]) -> String {
        let mut row = String::new();
        for (cell, width) in cells.iter().zip(self.widths) {
            let cell = fit(cell.as_ref(), Some(width));
            let _ = write!(row, "{cell:width$}  ");
        }
        row.push_str(&fit(cells[6].as_ref(), self.last));
        row
    }
}

/// Cut to a width, and without what would steer a terminal.
fn fit(text: &str, width: Option<usize>) -> String {
    let safe = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    match width {
        Some(width) if text.chars().count() > width => text.chars().take(width.saturating_sub(1)).map(safe).chain(['…']).collect(),
        _ => text.chars().map(safe).collect(),
    }
}

fn table_row(verdict: &CallVerdict) -> [String; 7] {
    // Its own people first; of a conversation's other sessions where it has none left.
    let mut people: Vec<&JudgedEndpoint> = verdict.endpoints.iter().collect();
    people.sort_by_key(|endpoint| endpoint.session_id.is_some());
    let mut people = people.into_iter().map(name);
    let (from, mut to) = (people.next().unwrap_or_default(), people.next().unwrap_or_default());
    let more = people.count();
    if more > 0 {
        let _ = write!(to, " +{more}");
    }
    let start = rfc3339(verdict.started_at).to_string();
    [
        start[..19].replace('T', " "),
        duration(verdict.ended_at.saturating_sub(verdict.started_at)),
        from,
        to,
        symbol(verdict.verdict).to_lowercase(),
        symbol(verdict.disposition).to_lowercase(),
        why(verdict),
    ]
}

fn duration(millis: Millis) -> String {
    let seconds = millis.max(0) / 1_000;
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

fn name(endpoint: &JudgedEndpoint) -> String {
    match (&endpoint.number, &endpoint.extension_id) {
        (Some(number), _) => number.to_string(),
        (None, Some(id)) => format!("ext {id}"),
        (None, None) => "withheld".into(),
    }
}

fn why(verdict: &CallVerdict) -> String {
    let mut outsiders = verdict.endpoints.iter().filter(|endpoint| endpoint.standing == Standing::External);
    if let Some(first) = outsiders.next() {
        let mut text = format!("{} {}", name(first), words(first.reason));
        let more = outsiders.count();
        if more > 0 {
            let _ = write!(text, ", and {more} more");
        }
        return text;
    }
    match verdict.verdict {
        Verdict::Internal => "everybody is of the company".into(),
        Verdict::External if verdict.endpoints.iter().any(|endpoint| endpoint.standing == Standing::Internal) => "too much of it is missing".into(),
        Verdict::External => "nobody is known who took part".into(),
    }
}

fn words(reason: StandingReason) -> &'static str {
    match reason {
        StandingReason::InSnapshot => "is a number of the company",
        StandingReason::OwnExtension => "is an extension of the company",
        StandingReason::TrustedExtension => "has an extension, which is trusted",
        StandingReason::NotInSnapshot => "is no number of the company",
        StandingReason::UnknownShortNumber => "is a short number that nobody knows",
        StandingReason::Withheld => "hides the number",
        StandingReason::Masked => "is masked, and nobody in the call fits",
        StandingReason::Unintelligible => "is no phone number",
        StandingReason::Service => "is a service",
        StandingReason::Unknown => "has a reason that this version doesn't know",
    }
}

fn explain(verdict: &CallVerdict) -> Vec<String> {
    let mut lines = vec![format!(
        "account {}, session {}, revision {}, ended by {}",
        verdict.account_id,
        verdict.session_id,
        verdict.revision,
        symbol(verdict.ended_by)
    )];
    if !verdict.linked_sessions.is_empty() {
        lines.push(format!("judged together with {}", joined(&verdict.linked_sessions, SessionId::to_string)));
    }
    for endpoint in &verdict.endpoints {
        let mut line = format!("{:8}  {} {}", symbol(endpoint.standing).to_lowercase(), name(endpoint), words(endpoint.reason));
        if let (Some(_), Some(id)) = (&endpoint.number, &endpoint.extension_id) {
            let _ = write!(line, ", came with extension {id}");
        }
        if let Some(since) = endpoint.known_since {
            let _ = write!(line, ", known since {} by {}", rfc3339(since), endpoint.known_by.join(", "));
        }
        line.push_str(if endpoint.answered { ", answered" } else { ", never answered" });
        lines.push(line);
    }
    if verdict.endpoints_omitted > 0 {
        lines.push(format!("and {} more", verdict.endpoints_omitted));
    }
    for earlier in &verdict.history {
        lines.push(format!(
            "was {} in revision {} of {} ({})",
            symbol(earlier.verdict).to_lowercase(),
            earlier.revision,
            rfc3339(earlier.decided_at),
            symbol(earlier.cause)
        ));
    }
    lines.iter().map(|line| fit(line, None)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (millis, text) in [(-5, "0:00"), (999, "0:00"), (61_000, "1:01"), (3_600_000, "1:00:00"), (90_061_000, "25:01:01")] {
            assert_eq!(duration(millis), text);
        }
    }

    #[test]
    fn a_row_fits_the_terminal_and_does_not_steer_it() {
        let cells = ["2026-01-05 08:00:00", "0:10", "+14083388064", "x\u{1b}[2J", "external", "ingest", "+441161008581 is no number of the company"];
        let wide = Layout::new(None).row(&cells);
        assert!(wide.ends_with(cells[6]), "{wide}");
        assert!(!wide.contains('\u{1b}'));
        let narrow = Layout::new(Some(110)).row(&cells);
        assert_eq!(narrow.chars().count(), 110, "{narrow}");
        assert!(narrow.ends_with('…'));
        assert!(Layout::new(Some(20)).row(&cells).chars().count() < 110);
    }
}
