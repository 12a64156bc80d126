//! The evidence of one session: how facts add up to it, and when it shows the session to be over.
//!
//! Facts only accumulate (design R2): taking in the same ones in any order, any number of times, gives the same legs.

use crate::event::{
    Call, CallLeg, CallSource, Direction, EndedBy, Endpoint, Facts, IdRef, Leg, LegId, Media, Millis, SessionId, Side, Texts, is_answer,
};
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
/// Nothing published is larger (design §3, Bounded values); below it by what framing and headers take.
pub(super) const LARGEST: usize = 890_000;
/// What a record takes besides legs, endpoints and lists of ids, and what is added to one of those besides its text: at most.
pub(super) const OVERHEAD: usize = 2_000;
pub(super) const PER_TEXT: usize = 5;
/// The same of a leg, besides its texts.
const LEG: usize = 84;
/// So many legs and links are never too large together.
const FEW_LEGS: usize = 28;
const FEW_LINKS: usize = 256;

/// Sequence 1 is never delivered (ringcentral.md B4).
const FIRST_SEQUENCE: i64 = 2;

/// Call-log times are cut to seconds; this much more is lag between the vendor's systems (design §1).
const RECORD_TOLERANCE: Millis = 5_000;

/// What an event says of one leg.
type Said<'a> = Leg<&'a str, IdRef<'a, LegId>>;

impl Call {
    /// What is known of a session before its first fact.
    #[must_use]
    pub fn new(first: &Facts<'_>) -> Self {
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

    /// Takes in what one event says of the session `own`. True when it said anything new.
    pub fn take_in(&mut self, own: &SessionId, facts: &Facts<'_>) -> bool {
        let mut news = News { any: false, left: self.room(facts) };
        news.earliest(&mut self.started_at, facts.occurred_at);
        news.latest(&mut self.last_event_at, facts.occurred_at.max(facts.ended_at.unwrap_or(Millis::MIN)));
        if self.origin.is_none() && facts.origin.is_some() {
            news.set(&mut self.origin, facts.origin.map(|origin| cut(origin).into()));
        }
        if facts.media == Media::Fax {
            news.set(&mut self.media, Media::Fax);
        }
        for legacy in [facts.legacy_session_id, facts.session_id.as_legacy(), own.as_legacy()].into_iter().flatten() {
            self.learn_legacy_id(legacy, own, &mut news);
        }
        if let Some(sequence) = facts.sequence {
            self.note_sequence(sequence, &mut news);
        }
        for leg in &facts.legs {
            if let Some(peer) = leg.peer_session_id {
                self.link(peer, own, &mut news);
            }
            self.take_in_leg(leg, facts, &mut news);
        }
        if facts.is_final {
            let end = facts.ended_at.unwrap_or(facts.occurred_at);
            if self.final_end.is_none_or(|known| known < end) {
                news.set(&mut self.final_end, Some(end));
                self.final_by = Some(facts.source);
            }
        }
        news.any
    }

    /// Bytes that facts may add to it, so that what is published of it isn't too large.
    fn room(&self, facts: &Facts<'_>) -> usize {
        if self.legs.len() + facts.legs.len() <= FEW_LEGS && self.links.len() + facts.legs.len() <= FEW_LINKS {
            return usize::MAX;
        }
        let ids = self.links.iter().map(SessionId::as_str).chain(self.legacy_session_ids.iter().map(CompactString::as_str));
        let taken = OVERHEAD + self.legs.iter().map(|leg| leg.size()).sum::<usize>() + listed(ids);
        LARGEST.saturating_sub(taken)
    }

    /// An id that is `"0"`, blank or the session's own identifies nothing.
    fn learn_legacy_id(&mut self, legacy: &str, own: &SessionId, news: &mut News) {
        let legacy = cut(legacy);
        if legacy.is_empty() || legacy == "0" || legacy == own.as_str() {
            return;
        }
        if !insert_sorted(&mut self.legacy_session_ids, legacy, MOST_LEGACY_IDS, news) {
            self.drop_value(news);
        }
    }

    fn link(&mut self, peer: &str, own: &SessionId, news: &mut News) {
        let peer = peer.trim();
        if peer.is_empty() || peer == "0" || peer == own.as_str() {
            return;
        }
        let Ok(peer) = SessionId::parse(peer) else { return self.drop_value(news) };
        if let Err(place) = self.links.binary_search(&peer) {
            if self.links.len() < MOST_LINKS && news.has_room(peer.as_str().len() + PER_TEXT) {
                self.links.insert(place, peer);
                news.any = true;
            } else {
                self.drop_value(news);
            }
        }
    }

    fn note_sequence(&mut self, sequence: i64, news: &mut News) {
        let next = self.highest_sequence.map_or(FIRST_SEQUENCE, |highest| highest.saturating_add(1));
        if sequence >= next {
            let room = MOST_MISSING.saturating_sub(self.missing_sequences.len());
            self.missing_sequences.extend((next..sequence).take(room));
        } else if let Some(place) = self.missing_sequences.iter().position(|missing| *missing == sequence) {
            self.missing_sequences.remove(place);
            news.any = true;
        }
        news.highest(&mut self.highest_sequence, sequence);
    }

    fn take_in_leg(&mut self, leg: &Said<'_>, facts: &Facts<'_>, news: &mut News) {
        let place = match self.legs.iter().position(|known| known.leg_id.as_ref() == leg.leg_id) {
            Some(place) => place,
            None if self.legs.len() >= MOST_LEGS || !news.has_room(LEG + leg.leg_id.as_str().len()) => return self.drop_value(news),
            None => {
                news.any = true;
                self.legs.push(Arc::new(CallLeg {
                    leg_id: leg.leg_id.to_id(),
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
                }));
                self.legs.len() - 1
            }
        };
        let known = Arc::make_mut(&mut self.legs[place]);
        if known.direction == Direction::Unknown {
            news.set(&mut known.direction, leg.direction);
        }
        let mut kept = true;
        // The smallest, so that the order of arrival doesn't matter should a leg ever name two owners.
        if let Some(owner) = leg.extension_id.map(cut).filter(|id| !id.is_empty())
            && known.extension_id.as_deref().is_none_or(|known| owner < known)
        {
            kept = news.has_room(owner.len().saturating_sub(known.extension_id.as_ref().map_or(0, |id| id.len())));
            if kept {
                news.set(&mut known.extension_id, Some(owner.into()));
            }
        }
        kept &= known.from.take_in(&leg.from, news) & known.to.take_in(&leg.to, news);
        kept &= known.fill_own_side(leg, facts.source, news);
        news.earliest(&mut known.joined_at, facts.occurred_at);
        if leg.recorded {
            news.set(&mut known.recorded, true);
        }
        if is_answered(leg, facts.source) {
            news.set(&mut known.answered, true);
        }
        if leg.status.is_some_and(is_terminal) {
            news.set(&mut known.over, true);
            news.highest(&mut known.left_at, facts.occurred_at);
        }
        if facts.source == CallSource::Webhook {
            news.highest(&mut known.last_webhook_at, facts.occurred_at);
        }
        if !kept {
            self.drop_value(news);
        }
    }

    fn drop_value(&mut self, news: &mut News) {
        self.legs_dropped = self.legs_dropped.saturating_add(1);
        news.any = true;
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

/// What an event says that is new.
struct News {
    /// Anything.
    any: bool,
    /// How many bytes more the call may have.
    left: usize,
}

impl News {
    /// Takes so many bytes, if there is room for them.
    fn has_room(&mut self, bytes: usize) -> bool {
        take(&mut self.left, bytes)
    }

    fn set<T: PartialEq>(&mut self, slot: &mut T, value: T) {
        if *slot != value {
            *slot = value;
            self.any = true;
        }
    }

    fn earliest(&mut self, slot: &mut Millis, at: Millis) {
        let earlier = at.min(*slot);
        self.set(slot, earlier);
    }

    fn latest(&mut self, slot: &mut Millis, at: Millis) {
        let later = at.max(*slot);
        self.set(slot, later);
    }

    fn highest(&mut self, slot: &mut Option<i64>, value: i64) {
        let higher = Some(value).max(*slot);
        self.set(slot, higher);
    }
}

impl CallLeg {
    /// Bytes that it takes as Avro, at most.
    pub(super) fn size(&self) -> usize {
        let texts = [&self.from, &self.to].into_iter().flat_map(|side| side.numbers.iter().chain(&side.extension_ids).chain(&side.extension_numbers));
        LEG + self.leg_id.as_str().len() + self.extension_id.as_ref().map_or(0, |id| id.len()) + listed(texts.map(CompactString::as_str))
    }

    /// A call-log leg whose company side is empty is the record's own extension (design §1, Endpoints).
    fn fill_own_side(&mut self, leg: &Said<'_>, source: CallSource, news: &mut News) -> bool {
        let Some(owner) = leg.extension_id.filter(|_| source == CallSource::CallLog) else { return true };
        let (said, side) = match leg.direction {
            Direction::Inbound => (&leg.to, &mut self.to),
            Direction::Outbound => (&leg.from, &mut self.from),
            Direction::Unknown => return true,
        };
        !said.is_empty() || add(&mut side.extension_ids, owner, news)
    }
}

impl Side {
    /// False when a value had no room.
    fn take_in(&mut self, said: &Endpoint<&str>, news: &mut News) -> bool {
        let mut kept = true;
        for (values, value) in
            [(&mut self.numbers, said.number), (&mut self.extension_ids, said.extension_id), (&mut self.extension_numbers, said.extension_number)]
        {
            if let Some(value) = value {
                kept &= add(values, value, news);
            }
        }
        kept
    }
}

/// Takes so many bytes of what is left, if there are as many.
pub(super) fn take(left: &mut usize, bytes: usize) -> bool {
    match left.checked_sub(bytes) {
        Some(rest) => {
            *left = rest;
            true
        }
        None => false,
    }
}

/// What texts take in a list, at most.
pub(super) fn listed<'a>(texts: impl Iterator<Item = &'a str>) -> usize {
    texts.map(|text| text.len() + PER_TEXT).sum()
}

/// False when there was no room.
fn add(values: &mut Texts, value: &str, news: &mut News) -> bool {
    if values.len() == 1 && values[0] == value {
        return true;
    }
    let value = cut(value);
    value.is_empty() || insert_sorted(values, value, MOST_VALUES, news)
}

/// False when there was no room.
fn insert_sorted(values: &mut Texts, value: &str, most: usize, news: &mut News) -> bool {
    match values.binary_search_by(|known| known.as_str().cmp(value)) {
        Ok(_) => true,
        Err(_) if values.len() >= most || !news.has_room(value.len() + PER_TEXT) => false,
        Err(place) => {
            values.insert(place, value.into());
            news.any = true;
            true
        }
    }
}

/// Without surrounding blanks, and no longer than is kept.
fn cut(text: &str) -> &str {
    let text = text.trim();
    let mut end = text.len().min(LONGEST_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Unknown statuses are not terminal; spelling differs by source (ringcentral.md B2).
fn is_terminal(status: &str) -> bool {
    status.eq_ignore_ascii_case("Disconnected") || status.eq_ignore_ascii_case("Gone")
}

fn is_answered(leg: &Said<'_>, source: CallSource) -> bool {
    let is_status = |status: &str| ["Answered", "Hold", "Parked"].iter().any(|word| status.eq_ignore_ascii_case(word));
    match source {
        CallSource::CallLog => leg.reason.is_some_and(is_answer),
        _ => leg.status.is_some_and(is_status),
    }
}
