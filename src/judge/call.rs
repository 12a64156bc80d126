//! The evidence of one session: how facts add up to it, and when it shows the session to be over.
//!
//! Facts only accumulate (design R2): taking in the same ones in any order, any number of times, gives the same legs.

use crate::event::{Call, CallLeg, CallLegs, CallSource, Direction, EndedBy, Endpoint, Leg, Media, Millis, SessionId, Side, Texts};
use compact_str::CompactString;
use smallvec::SmallVec;
use std::sync::Arc;

/// Legs that a call keeps (design §3, Bounded values).
pub const MOST_LEGS: usize = 4096;
const MOST_VALUES: usize = 16;
const MOST_MISSING: usize = 64;
const MOST_LEGACY_IDS: usize = 64;
/// More links than sessions are ever followed, so that those beyond are kept (design §1, Sessions).
const MOST_LINKS: usize = 1024;
/// The longest text that is kept of a number or an id, in bytes.
const LONGEST_TEXT: usize = 256;

/// Sequence 1 is never delivered (ringcentral.md B4).
const FIRST_SEQUENCE: i64 = 2;

/// Call-log times are cut to seconds; this much more is lag between the vendor's systems (design §1).
const RECORD_TOLERANCE: Millis = 5_000;

impl Call {
    /// What is known of a session before its first fact.
    #[must_use]
    pub fn new(first: &CallLegs) -> Self {
        Self {
            legacy_session_ids: SmallVec::new(),
            origin: None,
            started_at: first.occurred_at,
            last_event_at: first.occurred_at,
            media: Media::Voice,
            final_end: None,
            final_by: None,
            highest_sequence: None,
            missing_sequences: SmallVec::new(),
            links: SmallVec::new(),
            legs: Vec::new(),
            legs_dropped: 0,
        }
    }

    /// Takes in what one event says of the session `own`.
    pub fn take_in(&mut self, own: &SessionId, facts: &CallLegs) {
        self.started_at = self.started_at.min(facts.occurred_at);
        self.last_event_at = self.last_event_at.max(facts.occurred_at).max(facts.ended_at.unwrap_or(Millis::MIN));
        if self.origin.is_none() {
            self.origin.clone_from(&facts.origin);
        }
        if facts.media == Media::Fax {
            self.media = Media::Fax;
        }
        for legacy in [facts.legacy_session_id.as_deref(), facts.session_id.as_legacy(), own.as_legacy()].into_iter().flatten() {
            self.learn_legacy_id(legacy, own);
        }
        if let Some(sequence) = facts.sequence {
            self.note_sequence(sequence);
        }
        for leg in &facts.legs {
            if let Some(peer) = &leg.peer_session_id {
                self.link(peer, own);
            }
            self.take_in_leg(leg, facts);
        }
        if facts.is_final {
            let end = facts.ended_at.unwrap_or(facts.occurred_at);
            if self.final_end.is_none_or(|known| known < end) {
                self.final_end = Some(end);
                self.final_by = Some(facts.source);
            }
        }
    }

    /// An id that is `"0"`, blank or the session's own identifies nothing.
    fn learn_legacy_id(&mut self, legacy: &str, own: &SessionId) {
        let legacy = cut(legacy);
        if legacy.is_empty() || legacy == "0" || legacy == own.as_str() {
            return;
        }
        if !insert_sorted(&mut self.legacy_session_ids, legacy, MOST_LEGACY_IDS) {
            self.drop_value();
        }
    }

    fn link(&mut self, peer: &str, own: &SessionId) {
        let peer = peer.trim();
        if peer.is_empty() || peer == "0" || peer == own.as_str() {
            return;
        }
        let Ok(peer) = SessionId::parse(peer) else { return self.drop_value() };
        if let Err(place) = self.links.binary_search(&peer) {
            if self.links.len() < MOST_LINKS {
                self.links.insert(place, peer);
            } else {
                self.drop_value();
            }
        }
    }

    fn note_sequence(&mut self, sequence: i64) {
        let next = self.highest_sequence.map_or(FIRST_SEQUENCE, |highest| highest.saturating_add(1));
        if sequence >= next {
            let room = MOST_MISSING.saturating_sub(self.missing_sequences.len());
            self.missing_sequences.extend((next..sequence).take(room));
        } else if let Some(place) = self.missing_sequences.iter().position(|missing| *missing == sequence) {
            self.missing_sequences.remove(place);
        }
        self.highest_sequence = Some(self.highest_sequence.map_or(sequence, |highest| highest.max(sequence)));
    }

    fn take_in_leg(&mut self, leg: &Leg, facts: &CallLegs) {
        let place = self.legs.iter().position(|known| known.leg_id == leg.leg_id);
        let mut known = match place {
            Some(place) => CallLeg::clone(&self.legs[place]),
            None if self.legs.len() >= MOST_LEGS => return self.drop_value(),
            None => CallLeg {
                leg_id: leg.leg_id.clone(),
                direction: Direction::Unknown,
                extension_id: None,
                from: Side::default(),
                to: Side::default(),
                answered: false,
                over: false,
                recorded: false,
                joined_at: facts.occurred_at,
                left_at: None,
                last_webhook_at: None,
            },
        };
        if known.direction == Direction::Unknown {
            known.direction = leg.direction;
        }
        // The smallest, so that the order of arrival doesn't matter should a leg ever name two owners.
        if let Some(owner) = leg.extension_id.as_deref().map(cut).filter(|id| !id.is_empty())
            && known.extension_id.as_ref().is_none_or(|known| owner < *known)
        {
            known.extension_id = Some(owner);
        }
        let mut kept = known.from.take_in(&leg.from) & known.to.take_in(&leg.to);
        kept &= known.fill_own_side(leg, facts.source);
        known.joined_at = known.joined_at.min(facts.occurred_at);
        known.recorded |= leg.recorded;
        known.answered |= is_answered(leg, facts.source);
        if leg.status.as_deref().is_some_and(is_terminal) {
            known.over = true;
            known.left_at = Some(known.left_at.map_or(facts.occurred_at, |left| left.max(facts.occurred_at)));
        }
        if facts.source == CallSource::Webhook {
            known.last_webhook_at = Some(known.last_webhook_at.map_or(facts.occurred_at, |at| at.max(facts.occurred_at)));
        }
        match place {
            Some(place) if *self.legs[place] == known => {}
            Some(place) => self.legs[place] = Arc::new(known),
            None => self.legs.push(Arc::new(known)),
        }
        if !kept {
            self.drop_value();
        }
    }

    fn drop_value(&mut self) {
        self.legs_dropped = self.legs_dropped.saturating_add(1);
    }

    /// How the session's end is known; `None` while it isn't over. (The idle limit is time, not evidence.)
    #[must_use]
    pub fn end(&self) -> Option<EndedBy> {
        if !self.legs.is_empty() && self.legs.iter().all(|leg| leg.over) {
            return Some(EndedBy::LastLeg);
        }
        let end = self.final_end?;
        let outlives = |leg: &CallLeg| !leg.over && leg.last_webhook_at.is_some_and(|at| at > end.saturating_add(RECORD_TOLERANCE));
        if self.legs.iter().any(|leg| outlives(leg)) {
            return None;
        }
        Some(match self.final_by {
            Some(CallSource::SessionLookup) => EndedBy::SessionLookup,
            _ => EndedBy::CallLog,
        })
    }

    /// Some notification seems to be on its way still.
    #[must_use]
    pub fn has_gap(&self) -> bool {
        !self.missing_sequences.is_empty()
    }
}

impl CallLeg {
    /// A call-log leg whose company side is empty is the record's own extension (design §1, Endpoints).
    fn fill_own_side(&mut self, leg: &Leg, source: CallSource) -> bool {
        let Some(owner) = leg.extension_id.as_deref().filter(|_| source == CallSource::CallLog) else { return true };
        let (said, side) = match leg.direction {
            Direction::Inbound => (&leg.to, &mut self.to),
            Direction::Outbound => (&leg.from, &mut self.from),
            Direction::Unknown => return true,
        };
        !said.is_empty() || add(&mut side.extension_ids, owner)
    }
}

impl Side {
    /// False when a value had no room.
    fn take_in(&mut self, said: &Endpoint) -> bool {
        let mut kept = true;
        for (values, value) in
            [(&mut self.numbers, &said.number), (&mut self.extension_ids, &said.extension_id), (&mut self.extension_numbers, &said.extension_number)]
        {
            if let Some(value) = value {
                kept &= add(values, value);
            }
        }
        kept
    }
}

/// False when there was no room.
fn add(values: &mut Texts, value: &str) -> bool {
    let value = cut(value);
    value.is_empty() || insert_sorted(values, value, MOST_VALUES)
}

fn insert_sorted(values: &mut Texts, value: CompactString, most: usize) -> bool {
    match values.binary_search(&value) {
        Ok(_) => true,
        Err(_) if values.len() >= most => false,
        Err(place) => {
            values.insert(place, value);
            true
        }
    }
}

/// Without surrounding blanks, and no longer than is kept.
fn cut(text: &str) -> CompactString {
    let text = text.trim();
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    CompactString::new(&text[..end])
}

/// Unknown statuses are not terminal; spelling differs by source (ringcentral.md B2).
fn is_terminal(status: &str) -> bool {
    status.eq_ignore_ascii_case("Disconnected") || status.eq_ignore_ascii_case("Gone")
}

fn is_answered(leg: &Leg, source: CallSource) -> bool {
    let is_one_of =
        |text: &Option<CompactString>, words: &[&str]| text.as_deref().is_some_and(|text| words.iter().any(|w| text.eq_ignore_ascii_case(w)));
    match source {
        CallSource::CallLog => is_one_of(&leg.reason, &["Accepted", "Call connected"]),
        _ => is_one_of(&leg.status, &["Answered", "Hold", "Parked"]),
    }
}
