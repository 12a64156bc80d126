//! From the endpoints of a conversation to the verdicts on its sessions (design R1, R6, R8–R10).

use super::call::{LARGEST, OVERHEAD, PER_TEXT, listed, take};
use super::endpoint::{Found, Identity, material};
use super::step::{home, recorded};
use crate::event::{
    AccountSettings, Call, CallVerdict, CompanyNumber, Disposition, EndedBy, EndpointKind, JudgedEndpoint, Millis, Revision, RevisionCause,
    SessionId, Standing, StandingReason, Verdict,
};
use compact_str::CompactString;

/// Version of the rules: changes with everything that changes a verdict on the same facts, numbers and settings.
pub const RULES: &str = "2";

/// Earlier revisions that a verdict lists.
const MOST_HISTORY: usize = 20;

/// An endpoint with its standing. `number` is the snapshot's row for it, where there is one.
#[must_use]
pub fn judge_endpoint(found: Found, number: Option<&CompanyNumber>, trust_extension_id: bool) -> JudgedEndpoint {
    use StandingReason as Why;
    let (kind, standing, reason) = match &found.identity {
        Identity::Phone(_) if number.is_some() => (EndpointKind::Phone, Standing::Internal, Why::InSnapshot),
        Identity::Phone(_) if trust_extension_id && found.extension_id.is_some() => (EndpointKind::Phone, Standing::Internal, Why::TrustedExtension),
        Identity::Phone(_) => (EndpointKind::Phone, Standing::External, Why::NotInSnapshot),
        Identity::Short(_) if found.is_extension_number || found.extension_id.is_some() || number.is_some() => {
            (EndpointKind::Extension, Standing::Internal, Why::OwnExtension)
        }
        Identity::Short(_) => (EndpointKind::Unintelligible, Standing::External, Why::UnknownShortNumber),
        Identity::ExtensionId(_) => (EndpointKind::Extension, Standing::Internal, Why::OwnExtension),
        Identity::Withheld(_) | Identity::Empty(..) => (EndpointKind::Withheld, Standing::External, Why::Withheld),
        Identity::Masked(_) => (EndpointKind::Unintelligible, Standing::External, Why::Masked),
        Identity::Unintelligible(_) => (EndpointKind::Unintelligible, Standing::External, Why::Unintelligible),
        Identity::Service(_) => (EndpointKind::Service, Standing::Neutral, Why::Service),
    };
    let known = number.filter(|_| reason == Why::InSnapshot);
    JudgedEndpoint {
        session_id: Some(found.session_id),
        leg_id: found.leg_id,
        number: match found.identity {
            Identity::ExtensionId(_) | Identity::Empty(..) => None,
            Identity::Phone(text)
            | Identity::Short(text)
            | Identity::Masked(text)
            | Identity::Withheld(text)
            | Identity::Service(text)
            | Identity::Unintelligible(text) => Some(text),
        },
        extension_id: found.extension_id,
        kind,
        standing,
        reason,
        answered: found.answered,
        joined_at: found.joined_at,
        left_at: found.left_at,
        known_since: known.map(|number| number.first_seen_at),
        known_by: known.map(|number| number.queries.iter().map(|query| CompactString::const_new(query.symbol())).collect()).unwrap_or_default(),
    }
}

/// What all sessions of a conversation share, besides its endpoints.
#[derive(Debug)]
pub struct Judgement<'a> {
    /// [`judge`]d by the endpoints that [`Judgement::revise`] is given.
    pub verdict: Verdict,
    /// The sessions judged together, sorted.
    pub members: Vec<SessionId>,
    /// Participants set to record, sorted.
    pub recorded_extensions: Vec<CompactString>,
    /// The account's settings.
    pub settings: &'a AccountSettings,
    /// The account's first snapshot is complete.
    pub snapshot_complete: bool,
    /// Numbers in the snapshot.
    pub snapshot_size: i64,
    /// Partition time.
    pub now: Millis,
    /// Offset of the record that is stepped.
    pub position: i64,
}

/// Design R1, R9: external unless every endpoint is the company's, at least one is judged at all, and no session has lost legs or values to the
/// bounds.
#[must_use]
pub fn judge(endpoints: &[JudgedEndpoint], is_incomplete: bool) -> Verdict {
    let mut judged = endpoints.iter().filter(|endpoint| endpoint.standing != Standing::Neutral).peekable();
    let internal = judged.peek().is_some() && judged.all(|endpoint| endpoint.standing == Standing::Internal);
    if internal && !is_incomplete { Verdict::Internal } else { Verdict::External }
}

impl Judgement<'_> {
    /// The revision of one session that follows `previous`; `None` when nothing published would differ. `endpoints` are those of the conversation,
    /// each once, in order of appearance.
    #[must_use]
    pub fn revise(
        &self,
        (session, call): (&SessionId, &Call),
        endpoints: Vec<JudgedEndpoint>,
        ended_by: EndedBy,
        superseded_by: Option<SessionId>,
        previous: Option<&CallVerdict>,
        may_differ: Differ,
    ) -> Option<CallVerdict> {
        let verdict = self.verdict;
        let mut revised = CallVerdict {
            account_id: self.settings.account_id.clone(),
            session_id: session.clone(),
            revision: previous.map_or(1, |p| p.revision.saturating_add(1)),
            verdict,
            disposition: match verdict {
                Verdict::Internal if self.settings.filter_internal => Disposition::Disregard,
                _ => Disposition::Ingest,
            },
            previous_verdict: previous.map(|p| p.verdict),
            cause: RevisionCause::CallEnded,
            ended_by,
            snapshot_complete: self.snapshot_complete,
            started_at: call.started_at,
            ended_at: call.last_event_at.max(call.final_end.unwrap_or(Millis::MIN)),
            decided_at: self.now,
            endpoints,
            linked_sessions: self.members.iter().filter(|member| *member != session).cloned().collect(),
            recorded_extensions: self.recorded_extensions.clone(),
            snapshot_size: self.snapshot_size,
            rules: CompactString::const_new(RULES),
            history: previous.map(history).unwrap_or_default(),
            superseded_by,
            endpoints_omitted: 0,
            position: self.position,
            call: call.clone(),
        };
        for endpoint in &mut revised.endpoints {
            if endpoint.session_id.as_ref() == Some(session) {
                endpoint.session_id = None;
            }
        }
        abridge(&mut revised, LARGEST);
        if revised.call.legs_dropped > 0 {
            // The next revision sees no more of it than this record keeps.
            revised.verdict = Verdict::External;
            revised.disposition = Disposition::Ingest;
        }
        if let Some(previous) = previous {
            let cause = difference(previous, &revised, self.settings, may_differ)?;
            revised.cause = if may_differ == Differ::ByReplay { RevisionCause::Replay } else { cause };
        }
        Some(revised)
    }
}

fn history(previous: &CallVerdict) -> Vec<Revision> {
    let mut history = previous.history.clone();
    history.push(Revision {
        revision: previous.revision,
        verdict: previous.verdict,
        disposition: previous.disposition,
        cause: previous.cause,
        decided_at: previous.decided_at,
    });
    let surplus = history.len().saturating_sub(MOST_HISTORY);
    history.drain(..surplus);
    history
}

/// By what a revision may differ from the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Differ {
    /// No facts have come, and the same sessions are judged together: by the snapshot. That settings have changed since is no reason: a copy from
    /// nothing, which looks at some calls once more, would otherwise publish what was not published before.
    WithoutNews,
    /// By everything.
    ByNews,
    /// By everything, and that a replay said so is its cause.
    ByReplay,
}

/// Why there is a revision: what differs of that which a revision is published for (design §1); `None` when nothing does.
#[must_use]
pub fn difference(old: &CallVerdict, new: &CallVerdict, settings: &AccountSettings, may_differ: Differ) -> Option<RevisionCause> {
    if old.superseded_by != new.superseded_by {
        return Some(RevisionCause::Superseded);
    }
    if old.linked_sessions != new.linked_sessions {
        return Some(RevisionCause::SessionsLinked);
    }
    let (before, after) = (people(old), people(new));
    if may_differ == Differ::WithoutNews {
        // One that is known may have no room among those that are named.
        let is_abridged = new.endpoints_omitted > 0;
        let now = |person: &Person<'_>| after.get(after.partition_point(|(now, ..)| now < person)).filter(|(now, ..)| now == person);
        let has_become_known = |(person, _, reason): &(Person<'_>, Standing, StandingReason)| {
            is_waiting(*reason) && now(person).map_or(is_abridged, |(.., reason)| is_known(*reason))
        };
        if old.snapshot_complete != new.snapshot_complete {
            return Some(RevisionCause::SnapshotCompleted);
        }
        return before.iter().any(has_become_known).then_some(RevisionCause::SnapshotGrew);
    }
    let same_people = before.len() == after.len() && before.iter().zip(&after).all(|(a, b)| a.0 == b.0);
    if !same_people || old.endpoints_omitted != new.endpoints_omitted {
        return Some(RevisionCause::LateLeg);
    }
    if old.snapshot_complete != new.snapshot_complete {
        return Some(RevisionCause::SnapshotCompleted);
    }
    if before != after {
        return Some(RevisionCause::SnapshotGrew);
    }
    if old.call.links != new.call.links || old.call.legacy_session_ids != new.call.legacy_session_ids {
        return Some(RevisionCause::SessionsLinked);
    }
    if old.recorded_extensions != new.recorded_extensions || old.verdict != new.verdict {
        return Some(RevisionCause::LateLeg);
    }
    // The session's own part may matter once another of its conversation turns out a fax, or a number becomes known.
    let home = home(settings);
    let own = |verdict: &CallVerdict| (verdict.call.legs_dropped > 0, material(&verdict.session_id, &verdict.call, home));
    if old.call != new.call && (own(old) != own(new) || recorded(&old.call, settings) != recorded(&new.call, settings)) {
        return Some(RevisionCause::LateLeg);
    }
    // Only the settings can have changed it.
    (old.disposition != new.disposition).then_some(RevisionCause::Unknown)
}

/// Whether a number that becomes known changes how this was judged.
#[must_use]
pub fn is_waiting(reason: StandingReason) -> bool {
    matches!(reason, StandingReason::NotInSnapshot | StandingReason::UnknownShortNumber)
}

fn is_known(reason: StandingReason) -> bool {
    matches!(reason, StandingReason::InSnapshot | StandingReason::OwnExtension)
}

type Person<'a> = (Option<&'a str>, Option<&'a str>, bool);

/// Who took part, and how each was judged, in an order of its own: appearance is no part of the comparison.
fn people(verdict: &CallVerdict) -> Vec<(Person<'_>, Standing, StandingReason)> {
    let mut people: Vec<_> = verdict
        .endpoints
        .iter()
        .map(|endpoint| {
            (
                (endpoint.number.as_deref(), endpoint.extension_id.as_deref(), endpoint.kind == EndpointKind::Withheld),
                endpoint.standing,
                endpoint.reason,
            )
        })
        .collect();
    people.sort_by_key(|(person, _, reason)| (*person, *reason as u8));
    people
}

/// Makes a verdict fit: first its explanation is cut, internal endpoints before external ones, then its evidence. (Lists of ids
/// that no real call has are cut before, so that there is room for both.)
fn abridge(verdict: &mut CallVerdict, largest: usize) {
    let mut room = largest / 8;
    let fitting = verdict.recorded_extensions.iter().take_while(|id| take(&mut room, id.len() + PER_TEXT)).count();
    verdict.recorded_extensions.truncate(fitting);
    let legs: usize = verdict.call.legs.iter().map(|leg| leg.size()).sum();
    let endpoints: usize = verdict.endpoints.iter().map(endpoint_size).sum();
    let rest = OVERHEAD
        + listed(verdict.call.links.iter().chain(&verdict.linked_sessions).map(SessionId::as_str))
        + listed(verdict.recorded_extensions.iter().chain(&verdict.call.legacy_session_ids).map(CompactString::as_str));
    if legs + endpoints + rest <= largest {
        return;
    }
    // A stable sort: of those that are external the first ones stay.
    verdict.endpoints.sort_by_key(|endpoint| endpoint.standing != Standing::External);
    let mut room = largest.saturating_sub(legs + rest).max(largest / 4);
    let fitting = verdict.endpoints.iter().take_while(|endpoint| take(&mut room, endpoint_size(endpoint))).count();
    verdict.endpoints_omitted = i32::try_from(verdict.endpoints.len() - fitting).unwrap_or(i32::MAX);
    let kept: usize = verdict.endpoints[..fitting].iter().map(endpoint_size).sum();
    verdict.endpoints.truncate(fitting);

    let mut room = largest.saturating_sub(kept + rest);
    let fitting = verdict.call.legs.iter().take_while(|leg| take(&mut room, leg.size())).count();
    let dropped = i32::try_from(verdict.call.legs.len() - fitting).unwrap_or(i32::MAX);
    verdict.call.legs.truncate(fitting);
    verdict.call.legs_dropped = verdict.call.legs_dropped.saturating_add(dropped);
}

/// At most what Avro makes of it: a text with its length, a number in 10 bytes.
fn endpoint_size(endpoint: &JudgedEndpoint) -> usize {
    let text = |text: &Option<CompactString>| text.as_ref().map_or(0, |text| text.len());
    70 + endpoint.session_id.as_ref().map_or(0, |s| s.as_str().len())
        + endpoint.leg_id.as_str().len()
        + text(&endpoint.number)
        + text(&endpoint.extension_id)
        + endpoint.known_by.iter().map(|symbol| symbol.len() + 2).sum::<usize>()
}
