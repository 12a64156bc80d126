//! The verdict on one ended call, with its reasons and its evidence (topic `call-verdicts`).

use super::{AccountId, Call, LegId, Millis, SessionId, Texts};
use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

/// Design rule R1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// Every endpoint of every leg is the company's.
    Internal,
    /// Some endpoint isn't.
    External,
}

/// What downstream should do, by the account's filter setting (design R6).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Disposition {
    /// Leave the call alone.
    Disregard,
    /// Take the call in.
    #[serde(other)]
    #[default]
    Ingest,
}

/// Why a revision exists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RevisionCause {
    /// The first one.
    CallEnded,
    /// More of the call became known.
    LateLeg,
    /// A number became known.
    SnapshotGrew,
    /// The account's first snapshot was complete at last.
    SnapshotCompleted,
    /// It was linked with other sessions.
    SessionsLinked,
    /// The session that a legacy id stood for became known.
    Superseded,
    /// A replay asked for it.
    Replay,
    /// A cause that this version doesn't know; settings that changed meanwhile.
    #[serde(other)]
    #[default]
    Unknown,
}

/// How the end was known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EndedBy {
    /// All its legs are over.
    LastLeg,
    /// A finished call-log record.
    CallLog,
    /// A look-up that found nothing any more.
    SessionLookup,
    /// 24 h without an event.
    IdleLimit,
    /// The session is over for 48 h, its conversation is not.
    ConversationOpen,
    /// A way that this version doesn't know.
    #[serde(other)]
    #[default]
    Unknown,
}

/// What an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EndpointKind {
    /// A full phone number.
    Phone,
    /// An extension of the account.
    Extension,
    /// A caller who hides, or a side that stayed empty.
    Withheld,
    /// A park location, a feature code, a conference.
    Service,
    /// No number at all.
    #[serde(other)]
    Unintelligible,
}

/// How an endpoint was judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Standing {
    /// The company's.
    Internal,
    /// Neither.
    Neutral,
    /// Not the company's.
    #[serde(other)]
    External,
}

/// Why an endpoint was judged so: a stable code.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum StandingReason {
    /// A number of the snapshot.
    InSnapshot,
    /// An extension of the account.
    OwnExtension,
    /// Its number is unknown, its extension id is trusted.
    TrustedExtension,
    /// A number that no query has returned.
    NotInSnapshot,
    /// A short number that nobody knows.
    UnknownShortNumber,
    /// The caller hides, or the side stayed empty.
    Withheld,
    /// Digits masked by the call log, and no endpoint of the call fits.
    Masked,
    /// No number at all.
    Unintelligible,
    /// A park location, a feature code, a conference.
    Service,
    /// A reason that this version doesn't know.
    #[serde(other)]
    #[default]
    Unknown,
}

/// One distinct endpoint of the conversation and how it was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedEndpoint {
    /// Linked session in which it was seen; `None`: this one.
    pub session_id: Option<SessionId>,
    /// Leg on which it was first seen.
    pub leg_id: LegId,
    /// E.164, short number, or the text as it came.
    pub number: Option<CompactString>,
    /// Extension id, when given.
    pub extension_id: Option<CompactString>,
    /// What it is.
    pub kind: EndpointKind,
    /// How it was judged.
    pub standing: Standing,
    /// Why.
    #[serde(default)]
    pub reason: StandingReason,
    /// A leg of it was answered; false: attempted only.
    pub answered: bool,
    /// First seen, by RingCentral's clock.
    pub joined_at: Millis,
    /// When its last leg ended, by RingCentral's clock.
    pub left_at: Option<Millis>,
    /// `IN_SNAPSHOT`: when the number was first seen.
    pub known_since: Option<Millis>,
    /// `IN_SNAPSHOT`: the `NumberQuery` symbols that returned it.
    #[serde(default)]
    pub known_by: Vec<CompactString>,
}

/// An earlier revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Its number.
    pub revision: i32,
    /// Its verdict.
    pub verdict: Verdict,
    /// Its disposition.
    pub disposition: Disposition,
    /// Why it existed.
    pub cause: RevisionCause,
    /// When it was decided.
    pub decided_at: Millis,
}

/// The verdict. The newest revision wins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallVerdict {
    /// The account.
    pub account_id: AccountId,
    /// The session.
    pub session_id: SessionId,
    /// 1, 2, ...; a higher one replaces the lower ones.
    pub revision: i32,
    /// Design R1.
    pub verdict: Verdict,
    /// Design R6.
    #[serde(default)]
    pub disposition: Disposition,
    /// Verdict of the revision that this one replaces.
    pub previous_verdict: Option<Verdict>,
    /// Why this revision exists.
    #[serde(default)]
    pub cause: RevisionCause,
    /// How the end was known.
    #[serde(default)]
    pub ended_by: EndedBy,
    /// False: the account's first snapshot was not complete when the wait for it ran out.
    pub snapshot_complete: bool,
    /// First event of the call, by RingCentral's clock.
    pub started_at: Millis,
    /// Last event of the call, by RingCentral's clock.
    pub ended_at: Millis,
    /// Record time at which this revision was decided.
    pub decided_at: Millis,
    /// Every distinct endpoint of the conversation, in order of appearance: the explanation.
    pub endpoints: Vec<JudgedEndpoint>,
    /// Other sessions judged together with this one, sorted.
    #[serde(default)]
    pub linked_sessions: Vec<SessionId>,
    /// Participants that are set to record (design R10), sorted.
    #[serde(default)]
    pub recorded_extensions: Vec<CompactString>,
    /// Numbers in the account's snapshot when decided.
    pub snapshot_size: i64,
    /// Version of the rules.
    pub rules: CompactString,
    /// Earlier revisions, oldest first, at most the newest 20.
    #[serde(default)]
    pub history: Vec<Revision>,
    /// For a `legacy:` session: the session that it is; readers take this record for no call.
    pub superseded_by: Option<SessionId>,
    /// Endpoints left out of a record that would be too large.
    #[serde(default)]
    pub endpoints_omitted: i32,
    /// Offset of the newest event that it contains.
    #[serde(default = "super::nowhere")]
    pub position: i64,
    /// The evidence that it was judged by.
    pub call: Call,
}

/// What the state's indices need of a verdict, and nothing else of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictGist {
    /// As in [`CallVerdict`].
    pub snapshot_complete: bool,
    /// As in [`CallVerdict`].
    pub ended_at: Millis,
    /// The endpoints' numbers, and why each was judged as it was.
    pub numbers: SmallVec<[(CompactString, StandingReason); 2]>,
    /// As in [`Call`].
    pub legacy_session_ids: Texts,
    /// As in [`Call`].
    pub links: SmallVec<[SessionId; 1]>,
}

impl From<CallVerdict> for VerdictGist {
    fn from(verdict: CallVerdict) -> Self {
        let numbers = verdict.endpoints.into_iter().filter_map(|endpoint| Some((endpoint.number?, endpoint.reason)));
        Self {
            snapshot_complete: verdict.snapshot_complete,
            ended_at: verdict.ended_at,
            numbers: numbers.collect(),
            legacy_session_ids: verdict.call.legacy_session_ids,
            links: verdict.call.links,
        }
    }
}
