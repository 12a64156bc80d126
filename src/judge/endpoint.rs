//! Who took part: the distinct endpoints of a conversation, from its evidence alone (design §1, Endpoints).
//!
//! Whether an endpoint is the company's is judged elsewhere; here is only what it is.

use super::number::{Country, Mask, NumberText, read_number};
use crate::event::{Call, CallLeg, Direction, LegId, Millis, SessionId, Side};
use compact_str::CompactString;
use foldhash::HashSet;
use std::collections::{BTreeMap, BTreeSet};

/// What makes two endpoints one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// A full phone number, E.164.
    Phone(CompactString),
    /// A short number.
    Short(CompactString),
    /// An extension without any number: its id.
    ExtensionId(CompactString),
    /// A masked number that no endpoint of the conversation fits.
    Masked(CompactString),
    /// A caller who hides: the word that stood there.
    Withheld(CompactString),
    /// A side that stayed empty, by its leg: nobody knows whether two of them are the same, and one may be filled later.
    Empty(LegId, bool),
    /// A conference, a park location or a feature code.
    Service(CompactString),
    /// No number at all: the text as it came.
    Unintelligible(CompactString),
}

/// One distinct endpoint of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub identity: Identity,
    /// Extension id that came with it somewhere; the smallest, where several did.
    pub extension_id: Option<CompactString>,
    /// A short number given as an extension number, with or without an id.
    pub is_extension_number: bool,
    /// Session in which it was first seen.
    pub session_id: SessionId,
    /// Leg on which it was first seen.
    pub leg_id: LegId,
    /// A leg of it was answered.
    pub answered: bool,
    /// First seen.
    pub joined_at: Millis,
    /// When its last leg ended; `None` while one goes on.
    pub left_at: Option<Millis>,
}

/// The distinct endpoints of these sessions, in order of appearance.
#[must_use]
pub fn endpoints<'a>(sessions: impl Iterator<Item = (&'a SessionId, &'a Call)>, home: Country) -> Vec<Found> {
    let sessions: Vec<(&SessionId, &Call)> = sessions.collect();
    // One leg's facts may stand under a session's legacy id and under its real one: a side that either tells was never withheld.
    let mut told: HashSet<(&str, &LegId, bool)> = HashSet::default();
    if sessions.len() > 1 {
        for (_, call) in &sessions {
            for leg in &call.legs {
                for (_, is_from) in [(&leg.from, true), (&leg.to, false)].into_iter().filter(|(side, _)| !side.is_empty()) {
                    told.extend(known_by(call, leg).map(|name| (name, &leg.leg_id, is_from)));
                }
            }
        }
    }
    let mut collected = Collected::default();
    for (session, call) in &sessions {
        let ended_at = call.final_end.filter(|_| call.end().is_some());
        for leg in &call.legs {
            for (side, is_from) in [(&leg.from, true), (&leg.to, false)] {
                let is_told = || !told.is_empty() && known_by(call, leg).any(|name| told.contains(&(name, &leg.leg_id, is_from)));
                if !side.is_empty() || !is_told() {
                    collected.side(side, &Place { session, ended_at, leg, is_from }, home);
                }
            }
        }
    }
    collected.finish()
}

/// Under what other sessions may tell of the same leg: a legacy id that they share, and whatever they are for a leg that only its record names.
fn known_by<'a>(call: &'a Call, leg: &CallLeg) -> impl Iterator<Item = &'a str> {
    let of_record = leg.leg_id.as_str().starts_with("log:").then_some("");
    call.legacy_session_ids.iter().map(CompactString::as_str).chain(of_record)
}

/// The extension ids that took part in a session.
pub fn participants(call: &Call) -> impl Iterator<Item = &CompactString> {
    call.legs.iter().flat_map(|leg| leg.extension_id.iter().chain(&leg.from.extension_ids).chain(&leg.to.extension_ids))
}

/// What a new fact must change to be material for a session that has its verdict (design §1): nothing else of it is ever published.
#[must_use]
pub fn material(session: &SessionId, call: &Call, home: Country) -> BTreeSet<(Identity, Option<CompactString>, bool)> {
    endpoints(std::iter::once((session, call)), home)
        .into_iter()
        .map(|found| (found.identity, found.extension_id, found.is_extension_number))
        .collect()
}

struct Place<'a> {
    session: &'a SessionId,
    /// When the session was over, as far as no leg says it.
    ended_at: Option<Millis>,
    leg: &'a CallLeg,
    is_from: bool,
}

/// So many endpoints are found by looking at each; nearly all calls have two to four.
const FEW: usize = 16;

#[derive(Default)]
struct Collected {
    found: Vec<Found>,
    /// Places in `found`, once they are more than [`FEW`].
    index: BTreeMap<Identity, usize>,
    masks: Vec<(Mask, usize)>,
}

impl Collected {
    fn side(&mut self, side: &Side, place: &Place<'_>, home: Country) {
        let extension_id = side.extension_ids.first();
        for text in &side.numbers {
            let (identity, is_short) = match read_number(text, home) {
                NumberText::Phone(number) => (Identity::Phone(number.into()), false),
                NumberText::Short(number) => (Identity::Short(number), true),
                NumberText::Withheld => (Identity::Withheld(text.to_ascii_lowercase()), false),
                NumberText::Service => (Identity::Service(text.clone()), false),
                NumberText::Unintelligible => (Identity::Unintelligible(text.clone()), false),
                NumberText::Masked(mask) => {
                    let at = self.add(Identity::Masked(text.clone()), None, false, place);
                    self.masks.push((mask, at));
                    continue;
                }
            };
            // An extension belongs to a number or a short number; a word that hides or names nobody has none.
            let owner = extension_id.filter(|_| matches!(identity, Identity::Phone(_) | Identity::Short(_)));
            self.add(identity, owner, is_short && !side.extension_numbers.is_empty(), place);
        }
        if !side.numbers.is_empty() {
            return;
        }
        match (side.extension_numbers.first(), extension_id) {
            (Some(number), _) => self.add(Identity::Short(number.clone()), extension_id, true, place),
            (None, Some(id)) => self.add(Identity::ExtensionId(id.clone()), extension_id, true, place),
            (None, None) => self.add(Identity::Empty(place.leg.leg_id.clone(), place.is_from), None, false, place),
        };
    }

    fn add(&mut self, identity: Identity, extension_id: Option<&CompactString>, is_extension_number: bool, place: &Place<'_>) -> usize {
        let Place { session, ended_at, leg, is_from } = *place;
        // A caller's party turns answered as soon as the call is handled, before anybody picks up (ringcentral.md B5): the callee's own party says
        // that.
        let is_callers = leg.direction == Direction::Outbound && leg.last_webhook_at.is_some();
        let answered = leg.answered && (is_from || !is_callers);
        let left_at = leg.left_at.or(ended_at);
        let place = match self.found.len() {
            ..=FEW => self.found.iter().position(|found| found.identity == identity),
            _ => self.index.get(&identity).copied(),
        };
        let Some(at) = place else {
            let at = self.found.len();
            if at == FEW {
                self.index.extend(self.found.iter().map(|found| found.identity.clone()).zip(0..));
            }
            if at >= FEW {
                self.index.insert(identity.clone(), at);
            }
            self.found.push(Found {
                identity,
                extension_id: extension_id.cloned(),
                is_extension_number,
                session_id: session.clone(),
                leg_id: leg.leg_id.clone(),
                answered,
                joined_at: leg.joined_at,
                left_at,
            });
            return at;
        };
        let known = &mut self.found[at];
        if let Some(id) = extension_id
            && known.extension_id.as_ref().is_none_or(|known| id < known)
        {
            known.extension_id = Some(id.clone());
        }
        known.is_extension_number |= is_extension_number;
        known.answered |= answered;
        known.left_at = known.left_at.zip(left_at).map(|(a, b)| a.max(b));
        if leg.joined_at < known.joined_at {
            known.joined_at = leg.joined_at;
            known.session_id = session.clone();
            known.leg_id = leg.leg_id.clone();
        }
        at
    }

    /// A masked number is the endpoint that it fits; then it is none of its own.
    fn finish(mut self) -> Vec<Found> {
        if !self.masks.is_empty() {
            let of_phone = |found: &Found| if let Identity::Phone(number) = &found.identity { Some(number.clone()) } else { None };
            let phones: BTreeSet<CompactString> = self.found.iter().filter_map(of_phone).collect();
            let begins_alike = |mask: &Mask| {
                let shown = CompactString::new(mask.shown());
                phones.range(shown.clone()..).take_while(move |phone| phone.starts_with(shown.as_str()))
            };
            let explained: BTreeSet<usize> =
                self.masks.iter().filter(|(mask, _)| begins_alike(mask).any(|phone| mask.fits(phone))).map(|(_, at)| *at).collect();
            let mut at = 0;
            self.found.retain(|_| {
                at += 1;
                !explained.contains(&(at - 1))
            });
        }
        self.found.sort_by_key(|a| a.joined_at);
        self.found
    }
}
