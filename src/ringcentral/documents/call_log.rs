//! Call-log records, Simple and Detailed, by themselves and in lists (ringcentral.md C).
//!
//! A record describes one session as one extension had it; several records of a session add up. Only a Detailed one has legs.

use super::numbers::Observed;
use super::parties::{Side, direction};
use super::values::{Filled, Flag, Int, List, Object, Text, Time};
use super::{DocumentError, Reading, Referred, SessionIds, UNDATED, account_in, parse};
use crate::event::{
    AccountId, CallLegs, CallSource, Direction, Endpoint, Event, Leg, LegId, Media, Millis, NumberKind, NumberQuery, ObservedNumber, is_answer,
};
use crate::judge::number::{Country, normalise};
use compact_str::CompactString;
use foldhash::HashSet;
use serde::Deserialize;
use smallvec::SmallVec;

const WHAT: &str = "the call-log record";

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Record<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    uri: Text<'a>,
    #[serde(borrow)]
    session_id: Text<'a>,
    #[serde(borrow)]
    telephony_session_id: Text<'a>,
    start_time: Time,
    duration: Int,
    duration_ms: Int,
    #[serde(rename = "type", borrow)]
    kind: Text<'a>,
    finished: Flag,
    #[serde(borrow)]
    legs: List<Object<Part<'a>>>,
}

/// What a record and each of its legs have alike.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Part<'a> {
    #[serde(borrow)]
    party_id: Text<'a>,
    #[serde(rename = "type", borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    leg_type: Text<'a>,
    #[serde(borrow)]
    direction: Text<'a>,
    #[serde(borrow)]
    from: Object<Side<'a>>,
    #[serde(borrow)]
    to: Object<Side<'a>>,
    #[serde(borrow)]
    result: Text<'a>,
    #[serde(borrow)]
    reason: Text<'a>,
    #[serde(borrow)]
    extension: Referred<'a>,
    #[serde(borrow)]
    transfer_target: Object<Transfer<'a>>,
    #[serde(borrow)]
    transferee: Object<Transfer<'a>>,
    recording: Filled,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Transfer<'a> {
    #[serde(borrow)]
    telephony_session_id: Text<'a>,
}

impl Record<'_> {
    /// `finished` says it; a record without it is finished when it has a result (the result is absent, or In Progress, while the call
    /// goes on).
    fn is_finished(&self, whole: &Part) -> bool {
        !whole.result.is("In Progress") && self.finished.0.unwrap_or(whole.result.as_str().is_some())
    }

    fn ended_at(&self) -> Option<Millis> {
        let duration = self.duration_ms.0.or_else(|| self.duration.0?.checked_mul(1_000)).unwrap_or(0).max(0);
        self.start_time.0?.checked_add(duration)
    }

    fn media(&self, whole: &Part) -> Media {
        if std::iter::once(whole).chain(self.legs.0.iter().map(|leg| &leg.0)).any(Part::is_fax) {
            return Media::Fax;
        }
        match self.kind.as_str() {
            Some(_) if !self.kind.is("Voice") => Media::Other,
            _ => Media::Voice,
        }
    }

    /// One leg for each that the record has, and one for the record itself where those don't show both of its sides. (An empty company
    /// side says nothing; an empty outside one hides somebody, whom an empty side doesn't show that takes the record's own extension.)
    fn legs(&self, whole: &Part, session: &SessionIds) -> Result<SmallVec<[Leg; 1]>, DocumentError> {
        let mut legs: SmallVec<[Leg; 1]> = SmallVec::new();
        let mut ids: HashSet<LegId> = HashSet::default();
        for (position, Object(part)) in self.legs.0.iter().enumerate() {
            let id = self.leg_id(part, Some(position), &mut ids)?;
            legs.push(part.leg(id, whole, session)?);
        }
        let (from, to) = (whole.from.0.endpoint(), whole.to.0.endpoint());
        let company = match direction(&whole.direction) {
            Direction::Inbound => Some(&to),
            Direction::Outbound => Some(&from),
            Direction::Unknown => None,
        };
        let shown = |side: &Endpoint| {
            let is_own = side.is_empty() && company.is_some_and(|company| std::ptr::eq(company, side));
            let is_filled = |leg: &Leg, own: Direction| side.is_empty() && leg.direction == own && leg.extension_id.is_some();
            let tells_it = |leg: &Leg| {
                tells(&leg.from, side) && !is_filled(leg, Direction::Outbound) || tells(&leg.to, side) && !is_filled(leg, Direction::Inbound)
            };
            is_own || legs.iter().any(tells_it)
        };
        if legs.is_empty() || !shown(&from) || !shown(&to) {
            let id = self.leg_id(whole, None, &mut ids)?;
            legs.push(whole.leg(id, whole, session)?);
        }
        Ok(legs)
    }

    /// The party id, so that webhook and call log speak of the same leg, unless an earlier leg has it already; else a name that the same
    /// record gives again whenever it is read.
    fn leg_id(&self, part: &Part, position: Option<usize>, ids: &mut HashSet<LegId>) -> Result<LegId, DocumentError> {
        if let Some(id) = part.party_id.as_str() {
            let id = LegId::parse(id)?;
            if ids.insert(id.clone()) {
                return Ok(id);
            }
        }
        let record = self.id.as_str().ok_or(DocumentError::Lacks { what: WHAT, field: "id" })?;
        let position = position.map_or_else(|| "r".to_owned(), |position| position.to_string());
        Ok(LegId::parse(&format!("log:{record}:{position}"))?)
    }
}

/// All that is said of the side `of` is said of `by`, too. An empty side is told by an empty one only.
fn tells(by: &Endpoint, of: &Endpoint) -> bool {
    if of.is_empty() {
        return by.is_empty();
    }
    let same = |of: &Option<CompactString>, by: &Option<CompactString>| of.is_none() || of == by;
    same(&of.number, &by.number) && same(&of.extension_id, &by.extension_id) && same(&of.extension_number, &by.extension_number)
}

impl Part<'_> {
    fn is_fax(&self) -> bool {
        let word = |text: &Text| text.as_str().is_some_and(|text| text.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("Fax")));
        self.kind.is("Fax") || word(&self.leg_type) || word(&self.result)
    }

    fn leg(&self, leg_id: LegId, whole: &Part, session: &SessionIds) -> Result<Leg, DocumentError> {
        Ok(Leg {
            leg_id,
            direction: direction(&self.direction),
            extension_id: self.extension.0.id.kept().or_else(|| whole.extension.0.id.kept()),
            from: self.from.0.endpoint(),
            to: self.to.0.endpoint(),
            status: None,
            reason: self.reason_or_result(),
            leg_type: self.leg_type.kept(),
            peer_session_id: self.peers(session)?.into_iter().next(),
            recorded: self.recording.0,
        })
    }

    /// Whichever says that somebody answered, else the reason.
    fn reason_or_result(&self) -> Option<CompactString> {
        let (reason, result) = (self.reason.kept(), self.result.kept());
        let is_answered = |text: &Option<CompactString>| text.as_deref().is_some_and(is_answer);
        if is_answered(&result) && !is_answered(&reason) { result } else { reason.or(result) }
    }

    /// The sessions of a warm transfer's target and transferee.
    fn peers(&self, session: &SessionIds) -> Result<SmallVec<[CompactString; 1]>, DocumentError> {
        let transfers = [&self.transfer_target.0, &self.transferee.0];
        let ids = transfers.into_iter().filter_map(|transfer| transfer.telephony_session_id.as_str());
        ids.filter_map(|id| session.peer(id).transpose()).collect()
    }
}

/// A leg has room for one peer; the others stand on legs that have none, and on copies of the first leg where there are too few.
fn place_peers(legs: &mut SmallVec<[Leg; 1]>, peers: impl IntoIterator<Item = CompactString>) {
    for peer in peers {
        if legs.iter().any(|leg| leg.peer_session_id.as_ref() == Some(&peer)) {
            continue;
        }
        if let Some(leg) = legs.iter_mut().find(|leg| leg.peer_session_id.is_none()) {
            leg.peer_session_id = Some(peer);
        } else if let Some(first) = legs.first() {
            let copy = Leg { peer_session_id: Some(peer), ..first.clone() };
            legs.push(copy);
        }
    }
}

/// Numbers that stood on the company's sides (design R4), each once.
#[derive(Default)]
pub(super) struct History(HashSet<(AccountId, CompactString)>);

impl History {
    fn take_in(&mut self, account: &AccountId, sides: &[&Endpoint], country: Country, observed: &mut Observed) {
        let numbers = |outside: bool| {
            let sides = sides.iter().filter(move |side| side.extension_id.is_none() == outside);
            sides.filter_map(move |side| Some((normalise(side.number.as_deref()?, country)?, *side)))
        };
        let outside: SmallVec<[_; 4]> = numbers(true).map(|(number, _)| number).collect();
        for (number, side) in numbers(false) {
            let Some(text) = &side.number else { continue };
            if outside.contains(&number) || !self.0.insert((account.clone(), number.into())) {
                continue;
            }
            let extension_id = side.extension_id.clone();
            let number = ObservedNumber { number: text.clone(), kind: NumberKind::Phone, extension_id, usage_type: None, contact_account_id: None };
            observed.push(account, NumberQuery::CallLogHistory, number);
        }
    }
}

impl Reading<'_> {
    pub(super) fn read_call_log_record(&mut self, text: &str) -> Result<(), DocumentError> {
        let record: Record = parse(text, WHAT)?;
        let whole: Part = parse(text, WHAT)?;
        let ids = SessionIds::read(&record.telephony_session_id, &record.session_id, WHAT)?;
        let account = match account_in(self.uri)?.or(account_in(record.uri.as_str().unwrap_or(""))?) {
            None => account_in(whole.extension.0.uri.as_str().unwrap_or(""))?,
            named => named,
        };
        let account_id = self.asked.account_or(account);
        let is_final = record.is_finished(&whole);
        let media = record.media(&whole);
        let ended_at = record.ended_at();
        let mut legs = SmallVec::new();
        // Direction and sides of a call that goes on are not to be trusted (ringcentral.md C), and no fact about a leg can be taken back.
        if is_final {
            legs = record.legs(&whole, &ids)?;
            if self.asked.history {
                let own = [whole.from.0.endpoint(), whole.to.0.endpoint()];
                let sides: Vec<&Endpoint> = legs.iter().flat_map(|leg| [&leg.from, &leg.to]).chain(&own).collect();
                self.history.take_in(&account_id, &sides, self.asked.country, &mut self.observed);
            }
            let mut peers = whole.peers(&ids)?;
            for Object(leg) in &record.legs.0 {
                peers.extend(leg.peers(&ids)?);
            }
            place_peers(&mut legs, peers);
        }
        self.newest = self.newest.max(ended_at);
        self.calls.push(Event::CallLegs(CallLegs {
            account_id,
            session_id: ids.id,
            legacy_session_id: ids.legacy,
            source: CallSource::CallLog,
            sequence: None,
            occurred_at: record.start_time.0.unwrap_or(UNDATED),
            received_at: UNDATED,
            origin: None,
            media,
            is_final,
            ended_at: if is_final { ended_at } else { None },
            legs,
        }));
        Ok(())
    }
}
