//! Calls: each shape of ringcentral.md B3 to B6 as a script of what its parties do, told as notifications and call-log
//! records, with the truth about it.
//!
//! A script puts people on sessions. Every side of every party says whose it is when it is made ([`Whose`]); the truth is
//! read from that and from the links that the script itself made, never from the JSON.

mod record;
mod script;
mod shapes;

pub use record::{LogLeg, LogParty, LogRecord};

use super::company::{Company, Extension, ExtensionKind};
use super::{HOUR_MS, Notification};
use crate::event::Millis;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use script::{Draft, Hour, Script, Whose};
use serde::Serialize;
use std::collections::BTreeSet;

/// What kind of call it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Shape {
    /// A colleague calls another by the short number.
    DirectInternal,
    /// Somebody from outside calls a user's direct number.
    InboundDirect,
    /// A user calls somebody outside.
    OutboundPstn,
    /// Somebody from outside reaches a user through the menu.
    IvrThenUser,
    /// A queue rings several agents; one answers.
    Queue,
    /// A transfer without consultation to a colleague; the caller may be of the company or not.
    BlindTransferInside,
    /// A colleague's call is transferred to an outsider.
    BlindTransferOutside,
    /// A transfer after consultation, everybody of the company: two sessions.
    WarmTransferInside,
    /// A transfer after consultation with an outsider in one of its two sessions.
    WarmTransferOutsider,
    /// Three colleagues in a conference.
    ConferenceInside,
    /// A conference with an outsider.
    ConferenceOutsider,
    /// Colleagues try to add an outsider, who never comes.
    FailedExternalAdd,
    /// A call is parked and picked up elsewhere: two sessions.
    ParkPickup,
    /// A call that the platform sets up between two phones: two sessions without a link.
    RingOut,
    /// The callee's voicemail answers.
    Voicemail,
    /// Forwarded to a mobile that stands in the forwarding list: of the company.
    ForwardToRegisteredMobile,
    /// Forwarded to a private phone that no list shows: an outsider.
    ForwardToPrivatePhone,
    /// A caller without a number.
    WithheldCaller,
    /// A colleague is called by a number that the company gives up later.
    SinceReleasedNumber,
    /// A colleague calls from a number that no list shows yet.
    NotYetListedNumber,
    /// A user moves a call to another of his phones.
    CallFlip,
    /// A supervisor listens to a call: two sessions.
    Supervision,
    /// A colleague of a federated account calls.
    FederatedColleague,
    /// An emergency call.
    Emergency,
}

impl Shape {
    /// Every shape with how often it comes among 1,000 calls.
    pub const ALL: [(Self, u32); 24] = [
        (Self::DirectInternal, 280),
        (Self::InboundDirect, 150),
        (Self::OutboundPstn, 150),
        (Self::IvrThenUser, 70),
        (Self::Queue, 60),
        (Self::BlindTransferInside, 30),
        (Self::BlindTransferOutside, 12),
        (Self::WarmTransferInside, 25),
        (Self::WarmTransferOutsider, 20),
        (Self::ConferenceInside, 15),
        (Self::ConferenceOutsider, 10),
        (Self::FailedExternalAdd, 15),
        (Self::ParkPickup, 20),
        (Self::RingOut, 15),
        (Self::Voicemail, 30),
        (Self::ForwardToRegisteredMobile, 15),
        (Self::ForwardToPrivatePhone, 10),
        (Self::WithheldCaller, 10),
        (Self::SinceReleasedNumber, 15),
        (Self::NotYetListedNumber, 15),
        (Self::CallFlip, 10),
        (Self::Supervision, 8),
        (Self::FederatedColleague, 10),
        (Self::Emergency, 5),
    ];
}

/// One telephony session of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedSession {
    /// Its `telephonySessionId`.
    pub telephony_session_id: String,
    /// Its legacy `sessionId`; `"0"` for a conference.
    pub legacy_session_id: String,
    /// What set it up: `Call`, `RingOut`, `Conference`.
    pub origin: &'static str,
    /// When its first party appeared.
    pub started: Millis,
    /// When its last party left.
    pub ended: Millis,
}

/// The truth about a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionTruth {
    /// Its `telephonySessionId`.
    pub session: String,
    /// Did anybody take part, attempts included, in it or a session linked with it, who is not of the company?
    pub external: bool,
    /// The sessions linked with it, directly or through others, without itself; sorted.
    pub linked: Vec<String>,
    /// Ids of the extensions that took part in this session, attempts included; sorted.
    pub extensions: Vec<u64>,
}

/// The truth about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallTruth {
    /// Is one of its sessions external?
    pub external: bool,
    /// About each session, in the order of [`SimulatedCall::sessions`].
    pub sessions: Vec<SessionTruth>,
}

/// A call with all that RingCentral would say about it.
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatedCall {
    /// What kind of call it is.
    pub shape: Shape,
    /// Its sessions, first the one that began first.
    pub sessions: Vec<SimulatedSession>,
    /// Its notifications in true order; each session's `sequence` starts at 2 and has no gaps.
    pub notifications: Vec<Notification>,
    /// Its call-log records.
    pub call_log_records: Vec<LogRecord>,
    /// What is true about it.
    pub truth: CallTruth,
}

impl Script<'_, '_> {
    fn finish(mut self, shape: Shape) -> SimulatedCall {
        self.everyone_leaves();
        let truth = self.truth();
        let mut records = Vec::new();
        for session in 0..self.sessions.len() {
            self.records(session, &mut records);
        }
        let end = |d: &Draft<'_>| d.parties.iter().filter_map(|p| p.ended).max().unwrap_or(self.now);
        let sessions = self
            .sessions
            .iter()
            .map(|d| SimulatedSession {
                telephony_session_id: d.id.clone(),
                legacy_session_id: d.legacy.clone(),
                origin: d.origin,
                started: d.parties.first().map_or(self.now, |p| p.started),
                ended: end(d),
            })
            .collect();
        self.notifications.sort_by_key(|n| n.due);
        SimulatedCall { shape, sessions, notifications: self.notifications, call_log_records: records, truth }
    }

    fn truth(&self) -> CallTruth {
        // A handful of sessions: each takes the smallest number of those it is linked with, until nothing changes.
        let mut group: Vec<usize> = (0..self.sessions.len()).collect();
        let links = self.sessions.iter().enumerate().flat_map(|(n, d)| d.moved_to.map(|to| (n, to)));
        let links: Vec<_> = links.chain(self.sessions.iter().enumerate().flat_map(|(n, d)| d.taken_from.map(|from| (from, n)))).collect();
        let mut changed = true;
        while changed {
            changed = false;
            for &(a, b) in &links {
                let least = group[a].min(group[b]);
                changed |= group[a] != least || group[b] != least;
                (group[a], group[b]) = (least, least);
            }
        }
        let outsider = |d: &Draft<'_>| d.parties.iter().any(|p| p.from.whose == Whose::Outsider || p.to.whose == Whose::Outsider);
        let sessions: Vec<SessionTruth> = self
            .sessions
            .iter()
            .enumerate()
            .map(|(n, draft)| {
                let of_group = || self.sessions.iter().enumerate().filter(|(m, _)| group[*m] == group[n]);
                let linked: BTreeSet<String> = of_group().filter(|(m, _)| *m != n).map(|(_, d)| d.id.clone()).collect();
                let extensions: BTreeSet<u64> = draft.parties.iter().filter_map(|p| p.owner).map(|e| e.id).collect();
                SessionTruth {
                    session: draft.id.clone(),
                    external: of_group().any(|(_, d)| outsider(d)),
                    linked: linked.into_iter().collect(),
                    extensions: extensions.into_iter().collect(),
                }
            })
            .collect();
        CallTruth { external: sessions.iter().any(|s| s.external), sessions }
    }
}

impl Company {
    /// The calls of `hours` whole hours, the first being the one that `from` is in. Each hour is made from the seed and its
    /// own time: the calls of a day are those of its hours. `calls_per_hour` begin within each hour, ordered by their beginning;
    /// a call's notifications may go on into the next hour.
    #[must_use]
    pub fn hours(&self, from: Millis, hours: u32, calls_per_hour: u32) -> Vec<SimulatedCall> {
        let mut calls = Vec::new();
        for n in 0..i64::from(hours) {
            let index = from.div_euclid(HOUR_MS) + n;
            self.hour(index, calls_per_hour, &mut calls);
        }
        calls
    }

    fn hour(&self, index: i64, calls_per_hour: u32, out: &mut Vec<SimulatedCall>) {
        let begins = index * HOUR_MS;
        let mut hour = self.prepared_hour(index);
        let mut times: Vec<i64> = (0..calls_per_hour).map(|_| begins + hour.rng.random_range(0..HOUR_MS)).collect();
        times.sort_unstable();
        out.reserve(times.len());
        let weights: u32 = Shape::ALL.iter().map(|(_, weight)| weight).sum();
        for at in times {
            let mut roll = hour.rng.random_range(0..weights);
            let shape = Shape::ALL.iter().find(|(_, weight)| {
                let hit = roll < *weight;
                roll = roll.wrapping_sub(*weight);
                hit
            });
            let shape = shape.map_or(Shape::DirectInternal, |(shape, _)| *shape);
            out.push(hour.call(shape, at));
        }
    }

    /// One call of a chosen shape at a time, for tests of that shape. Where a shape is not possible at that time (no number is
    /// about to be listed, nobody has a private phone), it is a direct internal call, and says so.
    #[must_use]
    pub fn call(&self, shape: Shape, at: Millis, variant: u64) -> SimulatedCall {
        let mut hour = self.prepared_hour(at.div_euclid(HOUR_MS));
        hour.rng = ChaCha8Rng::seed_from_u64(self.seed ^ variant.rotate_left(32) ^ at as u64);
        // Different variants of one hour have different session numbers.
        hour.sessions = variant % 10_000 * 50 + 100_000;
        hour.call(shape, at)
    }

    fn prepared_hour(&self, index: i64) -> Hour<'_> {
        let begins = index * HOUR_MS;
        let at = begins.max(self.config.start);
        // People of the whole hour and the next one, so that nobody starts a call and is deleted during it.
        let present = |e: &Extension| e.created <= at && e.deleted.is_none_or(|deleted| deleted > begins + 2 * HOUR_MS);
        let of = |wanted: fn(ExtensionKind) -> bool| -> Vec<usize> {
            self.extensions.iter().enumerate().filter(|(_, e)| present(e) && wanted(e.kind)).map(|(n, _)| n).collect()
        };
        Hour {
            company: self,
            rng: ChaCha8Rng::seed_from_u64(self.seed ^ (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            people: of(ExtensionKind::talks),
            queues: of(|kind| kind == ExtensionKind::Department),
            sessions: 0,
            index,
        }
    }
}

impl Hour<'_> {
    fn call(&mut self, shape: Shape, at: Millis) -> SimulatedCall {
        let mut script = Script { hour: self, now: at, sessions: Vec::with_capacity(2), notifications: Vec::with_capacity(16) };
        let shape = script.play(shape);
        script.finish(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::CompanyConfig;
    use serde_json::Value;
    use std::collections::{BTreeMap, HashMap, HashSet};

    fn company() -> Company {
        Company::generate(11, &CompanyConfig { changes_per_week: 200, ..CompanyConfig::default() })
    }

    fn bodies(call: &SimulatedCall) -> Vec<Value> {
        call.notifications.iter().map(|n| serde_json::from_str(&n.body).unwrap()).collect()
    }

    /// Each shape many times, at times at which each is possible.
    fn every_shape(company: &Company) -> Vec<SimulatedCall> {
        let fresh = company.numbers.iter().find(|n| n.listed_from - n.holdings[0].from > 60_000 && n.holdings[0].extension.is_some()).unwrap();
        let mut calls = Vec::new();
        for (shape, _) in Shape::ALL {
            for variant in 0..40 {
                calls.push(company.call(shape, fresh.holdings[0].from + 1_000, variant));
            }
        }
        calls
    }

    #[test]
    fn the_same_seed_makes_the_same_calls_and_hours_stand_alone() {
        let company = company();
        let start = company.config.start + 5 * HOUR_MS;
        let together = company.hours(start, 3, 40);
        assert_eq!(together, Company::generate(11, &company.config).hours(start, 3, 40));
        let apart: Vec<_> = (0..3).flat_map(|n| company.hours(start + n * HOUR_MS, 1, 40)).collect();
        assert_eq!(together, apart);
        assert_ne!(together, Company::generate(12, &company.config).hours(start, 3, 40));
        let ids: HashSet<_> = together.iter().flat_map(|c| &c.sessions).map(|s| &s.telephony_session_id).collect();
        assert_eq!(ids.len(), together.iter().map(|c| c.sessions.len()).sum::<usize>());
    }

    #[test]
    fn every_shape_is_generated_when_it_is_possible() {
        let company = company();
        let seen: HashSet<Shape> = every_shape(&company).iter().map(|c| c.shape).collect();
        for (shape, _) in Shape::ALL {
            assert!(seen.contains(&shape), "{shape:?}");
        }
    }

    #[test]
    fn a_session_counts_from_2_without_gaps_and_in_order_of_time() {
        let company = company();
        for call in every_shape(&company) {
            let mut next: HashMap<String, (u64, i64)> = HashMap::new();
            for (notification, body) in call.notifications.iter().zip(bodies(&call)) {
                let last = next.entry(body["telephonySessionId"].as_str().unwrap().to_owned()).or_insert((2, 0));
                assert_eq!(body["sequence"], last.0, "{:?}", call.shape);
                assert!(notification.due > last.1);
                *last = (last.0 + 1, notification.due);
            }
            assert_eq!(next.len(), call.sessions.len());
        }
    }

    #[test]
    fn every_party_of_a_finished_call_is_disconnected_or_gone_for_good() {
        let company = company();
        for call in every_shape(&company) {
            let mut last: BTreeMap<String, String> = BTreeMap::new();
            for body in bodies(&call) {
                let party = &body["parties"][0];
                let id = party["id"].as_str().unwrap().to_owned();
                let code = party["status"]["code"].as_str().unwrap().to_owned();
                if let Some(before) = last.insert(id.clone(), code) {
                    assert!(before != "Disconnected" && before != "Gone", "{:?}: {id} speaks after its end", call.shape);
                }
            }
            for (id, code) in last {
                assert!(code == "Disconnected" || code == "Gone", "{:?}: {id} ends as {code}", call.shape);
            }
        }
    }

    #[test]
    fn a_link_leads_to_a_session_of_the_same_call_and_holds_in_both_directions() {
        let company = company();
        let mut linked = 0;
        for call in every_shape(&company) {
            let parties: HashMap<String, String> = bodies(&call)
                .iter()
                .map(|b| (b["parties"][0]["id"].as_str().unwrap().to_owned(), b["telephonySessionId"].as_str().unwrap().to_owned()))
                .collect();
            let truth: HashMap<&str, &SessionTruth> = call.truth.sessions.iter().map(|s| (s.session.as_str(), s)).collect();
            for body in bodies(&call) {
                let peer = &body["parties"][0]["status"]["peerId"];
                let Some(peer_session) = peer["telephonySessionId"].as_str() else { continue };
                assert_eq!(parties[peer["partyId"].as_str().unwrap()], peer_session);
                let own = body["telephonySessionId"].as_str().unwrap().to_owned();
                assert!(truth[own.as_str()].linked.iter().any(|s| s == peer_session), "{:?}", call.shape);
                assert!(truth[peer_session].linked.contains(&own), "{:?}", call.shape);
                linked += 1;
            }
            for session in truth.values() {
                for other in &session.linked {
                    assert_eq!(truth[other.as_str()].external, session.external, "linked sessions share their truth");
                }
            }
        }
        assert!(linked > 500);
    }

    #[test]
    fn the_truth_of_each_shape() {
        let company = company();
        let mut seen: HashMap<Shape, HashSet<bool>> = HashMap::new();
        for call in every_shape(&company) {
            seen.entry(call.shape).or_default().insert(call.truth.external);
        }
        let (internal, external, both) = (HashSet::from([false]), HashSet::from([true]), HashSet::from([false, true]));
        for (shape, truths) in seen {
            let expected = match shape {
                Shape::DirectInternal
                | Shape::WarmTransferInside
                | Shape::ConferenceInside
                | Shape::ForwardToRegisteredMobile
                | Shape::SinceReleasedNumber
                | Shape::NotYetListedNumber
                | Shape::FederatedColleague => &internal,
                Shape::BlindTransferInside
                | Shape::Queue
                | Shape::ParkPickup
                | Shape::RingOut
                | Shape::Voicemail
                | Shape::CallFlip
                | Shape::Supervision => &both,
                _ => &external,
            };
            assert_eq!(&truths, expected, "{shape:?}");
        }
    }

    #[test]
    fn an_internal_call_shows_the_caller_twice_and_the_callee_late() {
        let company = company();
        let call = company.call(Shape::WarmTransferInside, company.config.start + HOUR_MS, 3);
        let bodies = bodies(&call);
        let (caller, callee) = (&bodies[0]["parties"][0], &bodies[1]["parties"][0]);
        assert!(caller["from"]["phoneNumber"].as_str().unwrap().len() <= 12);
        assert_eq!(caller["to"]["extensionId"], Value::Null, "not known in the caller's first Setup");
        assert!(callee["from"]["phoneNumber"].as_str().unwrap().len() == 3, "the caller's short number");
        assert_eq!(caller["from"]["extensionId"], callee["from"]["extensionId"]);
        assert_eq!(bodies[2]["parties"][0]["to"]["extensionId"], callee["extensionId"]);
    }

    #[test]
    fn outside_parties_carry_our_account_and_no_extension() {
        let company = company();
        let call = company.call(Shape::OutboundPstn, company.config.start + HOUR_MS, 1);
        let outside = bodies(&call).into_iter().find(|b| b["parties"][0]["direction"] == "Inbound").unwrap();
        assert_eq!(outside["parties"][0]["accountId"], company.account_id_text.as_str());
        assert_eq!(outside["parties"][0]["extensionId"], Value::Null);
    }

    #[test]
    fn the_call_log_has_every_session_after_its_end_and_names_links() {
        let company = company();
        for call in every_shape(&company) {
            for session in &call.sessions {
                let records: Vec<_> = call.call_log_records.iter().filter(|r| r.telephony_session_id == session.telephony_session_id).collect();
                assert!(!records.is_empty(), "{:?}", call.shape);
                for record in records {
                    assert!((15_000..=30_000).contains(&(record.available_at - session.ended)), "{:?}", call.shape);
                    let truth = call.truth.sessions.iter().find(|s| s.session == session.telephony_session_id).unwrap();
                    assert_eq!(record.transfer_target.is_some() || record.transferee.is_some(), !truth.linked.is_empty(), "{:?}", call.shape);
                    let document = serde_json::to_value(record.document("https://x/restapi/v1.0/account/1", true)).unwrap();
                    assert_eq!(document["legs"][0]["master"], true);
                }
            }
        }
    }

    /// Ties the truth to what a reader of the lists can know: without it, tests against the truth would fail for the generator's sake.
    #[test]
    fn internal_calls_show_only_numbers_that_some_list_shows_and_external_ones_another() {
        let company = Company::generate(31, &CompanyConfig { changes_per_week: 100, days: 15, ..CompanyConfig::default() });
        let (start, hours) = (company.config.start, 15 * 24_u32);
        let mut listed: HashSet<String> = HashSet::new();
        let mut documents: Vec<Value> = Vec::new();
        for day in 0..=16 {
            documents.extend(crate::simulate::AccountLists { company: &company, base: "", at: start + day * 24 * HOUR_MS }.all());
        }
        let announced = company.directory_notifications(start, start + 20 * 24 * HOUR_MS);
        documents.extend(announced.iter().filter(|n| n.event.ends_with("entries")).map(|n| {
            let body: Value = serde_json::from_str(&n.body).unwrap();
            serde_json::json!({ "records": body["contacts"] })
        }));
        for record in documents.iter().filter_map(|d| d["records"].as_array()).flatten() {
            let numbers = record["phoneNumbers"].as_array().into_iter().flatten().chain([record]);
            listed.extend(numbers.filter_map(|n| n["phoneNumber"].as_str()).map(str::to_owned));
        }
        let mut shapes: BTreeMap<Shape, usize> = BTreeMap::new();
        for call in company.hours(start, hours, 8) {
            *shapes.entry(call.shape).or_default() += 1;
            let mut strange: BTreeSet<String> = BTreeSet::new();
            for body in bodies(&call) {
                let party = &body["parties"][0];
                for side in [&party["from"], &party["to"]] {
                    let phone = side["phoneNumber"].as_str().unwrap_or("nothing");
                    let short = phone.len() <= 6 && !side["extensionId"].is_null() || phone.starts_with('*') || phone == "conference";
                    // The callee's short number comes before the extension id in the caller's first Setup.
                    let early = party["status"]["code"] == "Setup" && phone.len() == 3 && phone != "911";
                    if !short && !early && !listed.contains(phone) {
                        strange.insert(phone.to_owned());
                    }
                }
            }
            assert_eq!(!strange.is_empty(), call.truth.external, "{:?}: {strange:?}", call.shape);
        }
        assert!(shapes.len() == Shape::ALL.len(), "every shape comes by itself: {shapes:?}");
    }
}
