//! What is said about calls: the facts that come in ([`CallLegs`]) and the evidence that they add up to ([`Call`]).

use super::{AccountId, IdRef, LegId, Millis, SessionId};
use compact_str::CompactString;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use std::sync::Arc;

/// A short list of texts; nearly always none or one.
pub type Texts = SmallVec<[CompactString; 1]>;

/// Where facts about a call come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum CallSource {
    /// A telephony-session notification.
    Webhook,
    /// A call-log record.
    CallLog,
    /// A telephony-session REST object.
    SessionLookup,
    /// A source that this version doesn't know.
    #[serde(other)]
    #[default]
    Unknown,
}

/// Only voice is judged (design R7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Media {
    /// A voice call.
    #[default]
    Voice,
    /// A fax: for good, once a session has shown itself one.
    Fax,
    /// Anything else.
    #[serde(other)]
    Other,
}

/// Seen from the leg's owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Direction {
    /// The owner was called.
    Inbound,
    /// The owner called.
    Outbound,
    /// Not said.
    #[serde(other)]
    #[default]
    Unknown,
}

/// What one notification, call-log record or session look-up says about a call. Its texts and ids are its own, or stand elsewhere ([`Facts`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLegs<T = CompactString, S = SessionId, L = LegId> {
    /// The account.
    pub account_id: AccountId,
    /// `telephonySessionId`; `legacy:` and the legacy session id for a record that lacks it.
    pub session_id: S,
    /// Legacy `sessionId`; `None` where it is `"0"` (conference), blank or absent.
    pub legacy_session_id: Option<T>,
    /// Where it came from.
    #[serde(default)]
    pub source: CallSource,
    /// Order within the session; webhooks only.
    pub sequence: Option<i64>,
    /// When it happened, by RingCentral's clock; for a call-log record when the call began.
    pub occurred_at: Millis,
    /// When it was received, by our clock.
    pub received_at: Millis,
    /// `origin.type`.
    pub origin: Option<T>,
    /// Voice, fax or other.
    #[serde(default)]
    pub media: Media,
    /// It describes the whole session, and the session is over.
    #[serde(rename = "final", default)]
    pub is_final: bool,
    /// Call log: start and duration.
    pub ended_at: Option<Millis>,
    /// The parties that it speaks of.
    pub legs: SmallVec<[Leg<T, L>; 1]>,
}

/// What one notification or record says of one party, or of one leg of a call-log record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg<T = CompactString, L = LegId> {
    /// Party id; for a call-log leg without one `log:`, the record's id, `:` and its position.
    pub leg_id: L,
    /// Seen from its owner.
    #[serde(default)]
    pub direction: Direction,
    /// Extension that owns it; `None` for a party outside the account.
    pub extension_id: Option<T>,
    /// Calling side.
    pub from: Endpoint<T>,
    /// Called side.
    pub to: Endpoint<T>,
    /// Party status as it came.
    pub status: Option<T>,
    /// Status reason as it came.
    pub reason: Option<T>,
    /// Call log: `legType` as it came.
    pub leg_type: Option<T>,
    /// Session that this party moved to or came from; a record's transfer target or transferee.
    pub peer_session_id: Option<T>,
    /// A recording exists or runs on it.
    #[serde(default)]
    pub recorded: bool,
}

/// One side of a leg, as RingCentral gave it. All `None`: the side was missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint<T = CompactString> {
    /// Phone number, short extension number or a word; never normalised here.
    pub number: Option<T>,
    /// Extension id, when given.
    pub extension_id: Option<T>,
    /// Short extension number, when given apart from `number` (call log).
    pub extension_number: Option<T>,
}

/// [`CallLegs`] that copy nothing: their texts stand in the record that they were read from, or in one that is owned.
pub type Facts<'a> = CallLegs<&'a str, IdRef<'a, SessionId>, IdRef<'a, LegId>>;

impl CallLegs {
    /// What it says, where it stands.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        CallLegs {
            account_id: self.account_id.clone(),
            session_id: self.session_id.as_ref(),
            legacy_session_id: self.legacy_session_id.as_deref(),
            source: self.source,
            sequence: self.sequence,
            occurred_at: self.occurred_at,
            received_at: self.received_at,
            origin: self.origin.as_deref(),
            media: self.media,
            is_final: self.is_final,
            ended_at: self.ended_at,
            legs: self.legs.iter().map(Leg::facts).collect(),
        }
    }
}

impl Leg {
    fn facts(&self) -> Leg<&str, IdRef<'_, LegId>> {
        Leg {
            leg_id: self.leg_id.as_ref(),
            direction: self.direction,
            extension_id: self.extension_id.as_deref(),
            from: self.from.facts(),
            to: self.to.facts(),
            status: self.status.as_deref(),
            reason: self.reason.as_deref(),
            leg_type: self.leg_type.as_deref(),
            peer_session_id: self.peer_session_id.as_deref(),
            recorded: self.recorded,
        }
    }
}

impl Endpoint {
    fn facts(&self) -> Endpoint<&str> {
        Endpoint { number: self.number.as_deref(), extension_id: self.extension_id.as_deref(), extension_number: self.extension_number.as_deref() }
    }
}

/// The evidence: all that is known of one telephony session. Nothing in it is ever taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Legacy ids that it is known by, sorted.
    #[serde(default)]
    pub legacy_session_ids: Texts,
    /// `origin.type`.
    pub origin: Option<CompactString>,
    /// First event, by RingCentral's clock.
    pub started_at: Millis,
    /// Newest event, by RingCentral's clock.
    pub last_event_at: Millis,
    /// Voice or fax.
    #[serde(default)]
    pub media: Media,
    /// Newest end that a finished record or a look-up gave, by RingCentral's clock.
    pub final_end: Option<Millis>,
    /// What gave `final_end`.
    #[serde(default)]
    pub final_by: Option<CallSource>,
    /// Highest sequence seen.
    pub highest_sequence: Option<i64>,
    /// Sequences below it that have not been seen, at most 64.
    #[serde(default)]
    pub missing_sequences: SmallVec<[i64; 4]>,
    /// Sessions linked with it directly, seen or not, sorted.
    #[serde(default)]
    pub links: SmallVec<[SessionId; 1]>,
    /// Its legs, in order of appearance, at most 4,096. Shared, since most of them outlive a change of one.
    pub legs: Vec<Arc<CallLeg>>,
    /// Legs and values beyond the bounds; more than 0 makes the call external.
    #[serde(default)]
    pub legs_dropped: i32,
}

/// One leg, accumulated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLeg {
    /// As in [`CallLegs`].
    pub leg_id: LegId,
    /// Seen from its owner.
    #[serde(default)]
    pub direction: Direction,
    /// Extension that owns it.
    pub extension_id: Option<CompactString>,
    /// Calling side.
    pub from: Side,
    /// Called side.
    pub to: Side,
    /// It was answered; false: attempted only.
    pub answered: bool,
    /// It has reached a terminal status; stays so.
    pub over: bool,
    /// A recording exists or ran.
    #[serde(default)]
    pub recorded: bool,
    /// First seen, by RingCentral's clock.
    pub joined_at: Millis,
    /// When it was over, by RingCentral's clock.
    pub left_at: Option<Millis>,
    /// Newest webhook event of it, by RingCentral's clock; `None`: only the call log or a look-up speaks of it.
    pub last_webhook_at: Option<Millis>,
}

/// All that was ever said of one side of a leg, as it came; each list sorted, at most 16 values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Phone numbers, short numbers, words.
    #[serde(default)]
    pub numbers: Texts,
    /// Extension ids.
    #[serde(default)]
    pub extension_ids: Texts,
    /// Short numbers given as such.
    #[serde(default)]
    pub extension_numbers: Texts,
}

/// A result or reason of the call log that says that somebody answered.
#[must_use]
pub fn is_answer(result: &str) -> bool {
    result.eq_ignore_ascii_case("Accepted") || result.eq_ignore_ascii_case("Call connected")
}

impl<T> Endpoint<T> {
    /// Nothing is said of this side.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.number.is_none() && self.extension_id.is_none() && self.extension_number.is_none()
    }
}

impl Side {
    /// Nothing was ever said of this side.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.extension_ids.is_empty() && self.extension_numbers.is_empty()
    }
}

/// Facts about a session that have waited for 10 minutes for a verdict to contain them (topic `open-calls`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenCall {
    /// The account.
    pub account_id: AccountId,
    /// The session.
    pub session_id: SessionId,
    /// Record time of its newest event.
    pub touched_at: Millis,
    /// Record time of the event that ended it; `None`: it isn't over.
    pub over_since: Option<Millis>,
    /// Offset of the newest event that it contains.
    #[serde(default = "super::nowhere")]
    pub position: i64,
    /// The evidence so far.
    pub call: Call,
}

#[cfg(test)]
impl CallLegs {
    /// What a webhook says of a session that goes on, without a leg.
    pub(crate) fn without_legs(account: &str, session: &str, at: Millis) -> Self {
        Self {
            account_id: AccountId::parse(account).unwrap(),
            session_id: SessionId::parse(session).unwrap(),
            legacy_session_id: None,
            source: CallSource::Webhook,
            sequence: None,
            occurred_at: at,
            received_at: at,
            origin: None,
            media: Media::Voice,
            is_final: false,
            ended_at: None,
            legs: Vec::new().into(),
        }
    }
}
