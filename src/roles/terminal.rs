//! Verdicts on the terminal, a line each, with their reasons in words.

use crate::event::json::rfc3339;
use crate::event::{AccountId, CallVerdict, Disposition, JudgedEndpoint, Millis, RevisionCause, Side, Standing, StandingReason, Verdict, decode};
use crate::log::{Reader, Topic};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Verdicts on calls from before the start are only counted, and told of when no more have come for so long.
const QUIET: Duration = Duration::from_millis(1_500);
/// Reasons that a line shows.
const MOST_REASONS: usize = 3;

/// Writes the verdicts of one account to standard output.
pub(super) struct Terminal {
    account: AccountId,
    prefix: String,
    /// Calls that ended before this are history.
    live_from: Millis,
    colours: bool,
    internal: u64,
    external: u64,
    /// When one of them came last.
    counted_at: Instant,
}

impl Terminal {
    pub fn new(account: AccountId, live_from: Millis) -> Self {
        let prefix = format!("{account}/");
        Self { account, prefix, live_from, colours: std::io::stdout().is_terminal(), internal: 0, external: 0, counted_at: Instant::now() }
    }

    /// Says what is to be seen, how to see more, and what is `known` of earlier runs, newest first.
    pub fn introduce(&mut self, company: &str, base: &str, known: &[CallVerdict]) {
        let account = &self.account;
        let text = format!(
            "{company}\n\nMore about account {account}:\n  curl {base}/api/v1/accounts\n  curl '{base}/api/v1/accounts/{account}/calls?verdict=EXTERNAL&limit=5'\n  \
             curl {base}/api/v1/accounts/{account}/numbers\n  curl -N {base}/api/v1/accounts/{account}/verdicts/stream\n"
        );
        self.say(&text);
        if !known.is_empty() {
            self.say("The newest calls of earlier runs:");
            for verdict in known.iter().rev() {
                self.say(&line(verdict, self.colours));
            }
            self.say("");
        }
    }

    /// Follows the verdicts from an offset on, until the service stops or nobody reads the output.
    pub async fn follow(mut self, reader: Arc<dyn Reader>, partition: u32, mut next: i64, mut stopping: watch::Receiver<bool>) {
        let from = reader.clone();
        let subscribed = tokio::task::spawn_blocking(move || from.subscribe_end(Topic::CallVerdicts, partition)).await;
        let Ok(Ok(mut end)) = subscribed else { return };
        loop {
            if next >= *end.borrow_and_update() {
                tokio::select! {
                    grown = end.changed() => if grown.is_err() { return },
                    () = tokio::time::sleep(QUIET) => if !self.tell_history() { return },
                    _ = stopping.wait_for(|stop| *stop) => return,
                }
                continue;
            }
            let from = reader.clone();
            let Ok(Ok(read)) = tokio::task::spawn_blocking(move || from.read(Topic::CallVerdicts, partition, next, 500)).await else { return };
            next = read.next;
            for record in read.records {
                let is_ours = record.key.starts_with(self.prefix.as_bytes());
                let verdict = record.value.as_deref().filter(|_| is_ours).and_then(|value| decode::<CallVerdict>(value).ok());
                if verdict.is_some_and(|verdict| !self.show(&verdict)) {
                    return;
                }
            }
        }
    }

    fn show(&mut self, verdict: &CallVerdict) -> bool {
        if verdict.superseded_by.is_some() {
            return true;
        }
        if verdict.ended_at < self.live_from {
            match verdict.verdict {
                Verdict::Internal => self.internal += 1,
                Verdict::External => self.external += 1,
            }
            self.counted_at = Instant::now();
            return true;
        }
        let line = line(verdict, self.colours);
        self.tell_history() && self.say(&line)
    }

    fn tell_history(&mut self) -> bool {
        if self.counted_at.elapsed() < QUIET {
            return true;
        }
        let (internal, external) = (std::mem::take(&mut self.internal), std::mem::take(&mut self.external));
        if internal + external == 0 {
            return true;
        }
        self.say(&format!("{} earlier calls judged: {internal} internal, {external} external", internal + external))
    }

    /// Writes a line; false when nobody reads any more.
    fn say(&mut self, line: &str) -> bool {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
    }
}

/// A verdict as one line.
pub(super) fn line(verdict: &CallVerdict, colours: bool) -> String {
    let time = rfc3339(verdict.ended_at).to_string();
    let (word, colour) = match verdict.verdict {
        Verdict::Internal => ("INTERNAL", "\x1b[32m"),
        Verdict::External => ("EXTERNAL", "\x1b[33m"),
    };
    let (colour, plain) = if colours { (colour, "\x1b[0m") } else { ("", "") };
    let disposition = match verdict.disposition {
        Disposition::Disregard => "disregard",
        Disposition::Ingest => "ingest",
    };
    let (from, to) = sides(verdict);
    // Ids of one day begin alike.
    let id = verdict.session_id.as_str();
    let session: String = id.chars().skip(id.chars().count().saturating_sub(12)).collect();
    let sides = format!("{from} -> {to}");
    format!(
        "{}  {session:<12}  {sides:<32}  {colour}{word}{plain}  {disposition:<9}  {}{}",
        &time[11..19],
        reasons(verdict.verdict, &verdict.endpoints),
        revision(verdict)
    )
}

/// Who called whom: the sides of the first leg.
fn sides(verdict: &CallVerdict) -> (String, String) {
    let Some(leg) = verdict.call.legs.first() else { return ("nobody".to_owned(), "nobody".to_owned()) };
    let name = |side: &Side| {
        let extension = side.extension_numbers.first().map(|number| format!("ext {number}"));
        let id = side.extension_ids.first().map(|id| format!("ext id {id}"));
        side.numbers.first().map(ToString::to_string).or(extension).or(id).unwrap_or_else(|| "nobody named".to_owned())
    };
    (name(&leg.from), name(&leg.to))
}

/// Why, in words: for an external call those who made it so.
fn reasons(verdict: Verdict, endpoints: &[JudgedEndpoint]) -> String {
    if verdict == Verdict::Internal {
        return match endpoints.iter().filter(|endpoint| endpoint.standing != Standing::Neutral).count() {
            1 => "its one endpoint is the company's".to_owned(),
            2 => "both endpoints are the company's".to_owned(),
            n => format!("all {n} endpoints are the company's"),
        };
    }
    let external: Vec<_> = endpoints.iter().filter(|endpoint| endpoint.standing == Standing::External).collect();
    if external.is_empty() {
        return "nobody in it can be judged".to_owned();
    }
    let mut words: Vec<String> = external.iter().take(MOST_REASONS).map(|endpoint| reason(endpoint)).collect();
    if external.len() > MOST_REASONS {
        words.push(format!("and {} more", external.len() - MOST_REASONS));
    }
    words.join("; ")
}

fn reason(endpoint: &JudgedEndpoint) -> String {
    let number = endpoint.number.as_deref().unwrap_or("somebody");
    let attempted = if endpoint.answered { "" } else { " (attempted only)" };
    let why = match endpoint.reason {
        StandingReason::NotInSnapshot => "is not in the company's numbers",
        StandingReason::UnknownShortNumber => "is a short number that nobody knows",
        StandingReason::Withheld => return format!("a number is withheld{attempted}"),
        StandingReason::Masked => "is masked, and nobody in the call fits it",
        StandingReason::Unintelligible => "is no number",
        _ => "is not the company's",
    };
    format!("{number} {why}{attempted}")
}

fn revision(verdict: &CallVerdict) -> String {
    if verdict.revision <= 1 {
        return String::new();
    }
    let why = match verdict.cause {
        RevisionCause::LateLeg => "more of the call became known",
        RevisionCause::SnapshotGrew => "a number became known",
        RevisionCause::SnapshotCompleted => "the first snapshot is complete",
        RevisionCause::SessionsLinked => "it was linked with another call",
        RevisionCause::Replay => "it was judged again",
        _ => "something else changed",
    };
    format!(" [revision {}: {why}]", verdict.revision)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EndpointKind, LegId};

    fn endpoint(number: Option<&str>, standing: Standing, reason: StandingReason, answered: bool) -> JudgedEndpoint {
        JudgedEndpoint {
            session_id: None,
            leg_id: LegId::parse("p-1").unwrap(),
            number: number.map(Into::into),
            extension_id: None,
            kind: EndpointKind::Phone,
            standing,
            reason,
            answered,
            joined_at: 0,
            left_at: None,
            known_since: None,
            known_by: Vec::new(),
        }
    }

    #[test]
    fn who_is_neither_is_not_counted_as_the_companys() {
        use StandingReason::InSnapshot;
        let ours = || endpoint(Some("+12055550101"), Standing::Internal, InSnapshot, true);
        let park = || endpoint(Some("*801"), Standing::Neutral, StandingReason::Service, true);
        for (endpoints, words) in [
            (vec![ours(), park()], "its one endpoint is the company's"),
            (vec![ours(), ours()], "both endpoints are the company's"),
            (vec![ours(), park(), ours(), ours()], "all 3 endpoints are the company's"),
        ] {
            assert_eq!(reasons(Verdict::Internal, &endpoints), words);
        }
    }

    #[test]
    fn reasons_are_words() {
        use StandingReason::{NotInSnapshot, UnknownShortNumber, Withheld};
        for (number, why, answered, words) in [
            (Some("+14155550123"), NotInSnapshot, false, "+14155550123 is not in the company's numbers (attempted only)"),
            (Some("+14155550123"), NotInSnapshot, true, "+14155550123 is not in the company's numbers"),
            (Some("911"), UnknownShortNumber, true, "911 is a short number that nobody knows"),
            (None, Withheld, true, "a number is withheld"),
        ] {
            assert_eq!(reason(&endpoint(number, Standing::External, why, answered)), words);
        }
    }
}
