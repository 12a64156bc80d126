//! Calls: each shape of ringcentral.md B3 to B6 as a script of what its parties do, told as notifications and call-log
//! records, with the truth about it.
//!
//! A script puts people on sessions. Every side of every party says whose it is when it is made ([`Whose`]); the truth is
//! read from that and from the links that the script itself made, never from the JSON.

use super::company::{Company, Extension, ExtensionKind, outside_number};
use super::lists::formatted;
use super::time::Rfc3339;
use super::{HOUR_MS, Notification};
use crate::event::Millis;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::borrow::Cow;
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

/// A side of a call-log record or leg.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogParty {
    /// A number in one of the forms of ringcentral.md G.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone_number: Option<String>,
    /// A short number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension_number: Option<String>,
    /// An extension of the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension_id: Option<String>,
    /// A name, which proves nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A leg of a call-log record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLeg {
    /// `Inbound` or `Outbound`, as the company sees it.
    pub direction: &'static str,
    /// Who called.
    pub from: LogParty,
    /// Who was called.
    pub to: LogParty,
    /// The vendor's leg type.
    pub leg_type: &'static str,
    /// The vendor's action.
    pub action: &'static str,
    /// The vendor's result.
    pub result: &'static str,
    /// The extension whose leg it is.
    pub extension_id: Option<u64>,
    /// The party that it was.
    pub party_id: String,
    /// When it began.
    pub started: Millis,
    /// When it ended.
    pub ended: Millis,
}

/// A call-log record; [`LogRecord::document`] is its JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRecord {
    /// From when on the call log shows it: 15 to 30 s after the end (ringcentral.md C).
    pub available_at: Millis,
    /// Its id.
    pub id: String,
    /// The legacy session id.
    pub legacy_session_id: String,
    /// The session.
    pub telephony_session_id: String,
    /// The session to which this one's parties were moved.
    pub transfer_target: Option<String>,
    /// A session whose party came to this one.
    pub transferee: Option<String>,
    /// The extension whose record it is.
    pub extension_id: Option<u64>,
    /// Its legs; the first is the master, from which the record has its sides.
    pub legs: Vec<LogLeg>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LegDocument<'a> {
    start_time: Rfc3339,
    duration: i64,
    duration_ms: i64,
    r#type: &'a str,
    direction: &'a str,
    action: &'a str,
    result: &'a str,
    from: &'a LogParty,
    to: &'a LogParty,
    #[serde(skip_serializing_if = "Option::is_none")]
    extension: Option<ExtensionReference>,
    telephony_session_id: &'a str,
    party_id: &'a str,
    transport: &'a str,
    leg_type: &'a str,
    master: bool,
}

#[derive(Serialize)]
struct ExtensionReference {
    id: u64,
    uri: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SessionReference<'a> {
    telephony_session_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RecordDocument<'a> {
    uri: String,
    id: &'a str,
    session_id: &'a str,
    telephony_session_id: &'a str,
    party_id: &'a str,
    start_time: Rfc3339,
    duration: i64,
    duration_ms: i64,
    r#type: &'a str,
    direction: &'a str,
    action: &'a str,
    result: &'a str,
    from: &'a LogParty,
    to: &'a LogParty,
    #[serde(skip_serializing_if = "Option::is_none")]
    extension: Option<ExtensionReference>,
    transport: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    transfer_target: Option<SessionReference<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transferee: Option<SessionReference<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_modified_time: Option<Rfc3339>,
    #[serde(skip_serializing_if = "Option::is_none")]
    legs: Option<Vec<LegDocument<'a>>>,
}

fn transport(leg: &LogLeg) -> &'static str {
    if matches!(leg.leg_type, "PstnToSip" | "SipToPstnMetered" | "FindMe") { "PSTN" } else { "VoIP" }
}

impl LogRecord {
    /// When the call began: the start of its master leg.
    #[must_use]
    pub fn started(&self) -> Millis {
        self.legs.first().map_or(0, |leg| leg.started)
    }

    /// Its JSON in the view `Detailed` (with legs) or `Simple`, under the account's address.
    pub fn document(&self, account_uri: &str, detailed: bool) -> impl Serialize + '_ {
        let extension = |id: Option<u64>| id.map(|id| ExtensionReference { id, uri: format!("{account_uri}/extension/{id}") });
        let master = &self.legs[0];
        let ended = self.legs.iter().map(|leg| leg.ended).max().unwrap_or(master.ended);
        RecordDocument {
            uri: format!("{account_uri}/call-log/{}?view={}", self.id, if detailed { "Detailed" } else { "Simple" }),
            id: &self.id,
            session_id: &self.legacy_session_id,
            telephony_session_id: &self.telephony_session_id,
            party_id: &master.party_id,
            start_time: Rfc3339(master.started),
            duration: (ended - master.started) / 1_000,
            duration_ms: ended - master.started,
            r#type: "Voice",
            direction: master.direction,
            action: master.action,
            result: master.result,
            from: &master.from,
            to: &master.to,
            extension: extension(self.extension_id),
            transport: transport(master),
            transfer_target: self.transfer_target.as_deref().map(|telephony_session_id| SessionReference { telephony_session_id }),
            transferee: self.transferee.as_deref().map(|telephony_session_id| SessionReference { telephony_session_id }),
            last_modified_time: detailed.then_some(Rfc3339(self.available_at - 3_000)),
            legs: detailed.then(|| {
                self.legs
                    .iter()
                    .enumerate()
                    .map(|(n, leg)| LegDocument {
                        start_time: Rfc3339(leg.started),
                        duration: (leg.ended - leg.started) / 1_000,
                        duration_ms: leg.ended - leg.started,
                        r#type: "Voice",
                        direction: leg.direction,
                        action: leg.action,
                        result: leg.result,
                        from: &leg.from,
                        to: &leg.to,
                        extension: extension(leg.extension_id),
                        telephony_session_id: &self.telephony_session_id,
                        party_id: &leg.party_id,
                        transport: transport(leg),
                        leg_type: leg.leg_type,
                        master: n == 0,
                    })
                    .collect()
            }),
        }
    }
}

/// Whose a side of a party is: the truth of the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Somebody of the company, by whatever number.
    Company,
    /// Somebody who is not.
    Outsider,
    /// Nobody: a conference bridge, a place to park.
    Service,
}

#[derive(Debug, Clone)]
struct Side<'c> {
    whose: Whose,
    phone: Option<Cow<'c, str>>,
    extension: Option<&'c Extension>,
    name: Option<Cow<'c, str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leg {
    session: usize,
    party: usize,
}

struct Party<'c> {
    id: String,
    owner: Option<&'c Extension>,
    direction: &'static str,
    from: Side<'c>,
    to: Side<'c>,
    /// The first event has no `to.extensionId` yet (ringcentral.md B3).
    late_to: bool,
    missed: bool,
    queue: Option<&'c str>,
    conference_role: Option<&'static str>,
    ring_out_role: Option<&'static str>,
    leg_type: Option<&'static str>,
    recording: Option<u64>,
    started: Millis,
    answered: bool,
    reason: Option<&'static str>,
    voicemail: bool,
    ended: Option<Millis>,
}

struct Draft<'c> {
    id: String,
    legacy: String,
    origin: &'static str,
    sequence: u32,
    parties: Vec<Party<'c>>,
    last_sent: Millis,
    moved_to: Option<usize>,
    taken_from: Option<usize>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SideJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    phone_number: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extension_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PeerJson<'a> {
    session_id: &'a str,
    telephony_session_id: &'a str,
    party_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StatusJson<'a> {
    code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    park_data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_id: Option<PeerJson<'a>>,
    rcc: bool,
}

#[derive(Serialize)]
struct RecordingJson<'a> {
    id: &'a str,
    active: bool,
}

#[derive(Serialize)]
struct CallInfoJson<'a> {
    primary: CallInfoLine<'a>,
    additional: CallInfoLine<'a>,
}

#[derive(Serialize)]
struct CallInfoLine<'a> {
    r#type: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
struct ParkJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PartyJson<'a> {
    account_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    extension_id: Option<&'a str>,
    id: &'a str,
    direction: &'a str,
    to: SideJson<'a>,
    from: SideJson<'a>,
    status: StatusJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    park: Option<ParkJson<'a>>,
    missed_call: bool,
    stand_alone: bool,
    muted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_call: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recordings: Option<[RecordingJson<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conference_role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ring_out_role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ui_call_info: Option<CallInfoJson<'a>>,
}

#[derive(Serialize)]
struct OriginJson<'a> {
    r#type: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BodyJson<'a> {
    sequence: u32,
    session_id: &'a str,
    telephony_session_id: &'a str,
    server_id: &'a str,
    event_time: Rfc3339,
    parties: [PartyJson<'a>; 1],
    origin: OriginJson<'a>,
}

/// What a party's status says beside its code.
#[derive(Default)]
struct Says<'a> {
    reason: Option<&'static str>,
    peer: Option<Leg>,
    /// Park data and the park's id.
    park: Option<(Option<&'a str>, Option<&'a str>)>,
}

/// What one hour's calls share.
struct Hour<'c> {
    company: &'c Company,
    rng: ChaCha8Rng,
    /// Who talks in this hour.
    people: Vec<usize>,
    queues: Vec<usize>,
    sessions: u64,
    index: i64,
}

struct Script<'h, 'c> {
    hour: &'h mut Hour<'c>,
    now: Millis,
    sessions: Vec<Draft<'c>>,
    notifications: Vec<Notification>,
}

const CARRIER_NAMES: [&str; 6] = ["WIRELESS CALLER", "SAN FRANCSCO CA", "NEW YORK NY", "ACME SUPPLY", "Jo Rivers", "TOLL FREE CALL"];
const FAILURES: [&str; 5] = ["NoAnswer", "TargetBusy", "Rejected", "Cancelled", "InvalidNumber"];

impl<'c> Script<'_, 'c> {
    // Time and chance

    fn wait(&mut self, from_ms: i64, to_ms: i64) {
        self.now += self.hour.rng.random_range(from_ms..=to_ms);
    }

    fn ring(&mut self) {
        self.wait(2_000, 20_000);
    }

    fn talk(&mut self) {
        self.wait(5_000, 240_000);
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.hour.rng.random_ratio(percent.min(100), 100)
    }

    fn one_of<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.hour.rng.random_range(0..these.len())]
    }

    // People

    /// So many different people with a phone.
    fn people<const N: usize>(&mut self) -> [usize; N] {
        let mut chosen = [usize::MAX; N];
        let mut n = 0;
        while n < N {
            let people = self.hour.people.len();
            let person = self.hour.people[self.hour.rng.random_range(0..people)];
            if !chosen.contains(&person) {
                chosen[n] = person;
                n += 1;
            }
        }
        chosen
    }

    fn extension(&self, index: usize) -> &'c Extension {
        &self.hour.company.extensions[index]
    }

    fn of_kind(&self, kind: ExtensionKind) -> &'c Extension {
        let extensions = &self.hour.company.extensions;
        extensions.iter().find(|e| e.kind == kind).unwrap_or(&extensions[0])
    }

    /// A colleague by full number, or by short number where there is none.
    fn direct(&self, person: usize) -> Side<'c> {
        match self.hour.company.direct_number(person, self.now) {
            Some(number) => self.by(person, number),
            None => self.short(person),
        }
    }

    fn by(&self, person: usize, number: &'c str) -> Side<'c> {
        let e = self.extension(person);
        Side { whose: Whose::Company, phone: Some(number.into()), extension: Some(e), name: Some(e.first_name.as_str().into()) }
    }

    /// A colleague by short number.
    fn short(&self, person: usize) -> Side<'c> {
        let number = self.extension(person).number.as_str();
        self.by(person, number)
    }

    /// A number of the company without an extension: its main number, a registered mobile.
    fn company_number(&self, number: &'c str) -> Side<'c> {
        Side { whose: Whose::Company, phone: Some(number.into()), extension: None, name: None }
    }

    fn outsider(&mut self) -> Side<'c> {
        let number = outside_number(&mut self.hour.rng);
        let name = self.one_of(&CARRIER_NAMES);
        Side { whose: Whose::Outsider, phone: Some(number.into()), extension: None, name: Some(name.into()) }
    }

    fn withheld(&mut self) -> Side<'c> {
        let phone = self.chance(50).then_some(Cow::Borrowed("anonymous"));
        Side { whose: Whose::Outsider, phone, extension: None, name: None }
    }

    fn service(&self, what: &str) -> Side<'c> {
        Side { whose: Whose::Service, phone: Some(what.to_owned().into()), extension: None, name: None }
    }

    // Sessions and parties

    fn session(&mut self, origin: &'static str) -> usize {
        let hour = &mut *self.hour;
        hour.sessions += 1;
        let id = format!("s-a0d1{:08x}z{:x}z{:05x}{:04x}0000", hour.company.seed as u32, self.now, hour.sessions, hour.rng.random::<u16>());
        let legacy = if origin == "Conference" { "0".to_owned() } else { ((hour.index as u64 * 1_000_000 + hour.sessions) * 1_000 + 16).to_string() };
        // Sequence 1 is never seen: the first notification has 2 (ringcentral.md B4).
        self.sessions.push(Draft { id, legacy, origin, sequence: 1, parties: Vec::new(), last_sent: 0, moved_to: None, taken_from: None });
        self.sessions.len() - 1
    }

    fn party(&mut self, session: usize, owner: Option<&'c Extension>, direction: &'static str, from: Side<'c>, to: Side<'c>) -> Leg {
        let draft = &mut self.sessions[session];
        let id = format!("p-{}-{}", &draft.id[2..], draft.parties.len() + 1);
        draft.parties.push(Party {
            id,
            owner,
            direction,
            from,
            to,
            late_to: false,
            missed: false,
            queue: None,
            conference_role: None,
            ring_out_role: None,
            leg_type: None,
            recording: None,
            started: self.now,
            answered: false,
            reason: None,
            voicemail: false,
            ended: None,
        });
        Leg { session, party: draft.parties.len() - 1 }
    }

    fn at(&mut self, leg: Leg) -> &mut Party<'c> {
        &mut self.sessions[leg.session].parties[leg.party]
    }

    fn is_over(&self, leg: Leg) -> bool {
        self.sessions[leg.session].parties[leg.party].ended.is_some()
    }

    fn says(&mut self, leg: Leg, code: &'static str) {
        self.says_that(leg, code, &Says::default());
    }

    fn says_that(&mut self, leg: Leg, code: &'static str, says: &Says<'_>) {
        self.now += 1;
        let now = self.now;
        let record = code == "Answered" && self.sessions[leg.session].parties[leg.party].owner.is_some() && self.chance(10);
        let recording_id = record.then(|| self.hour.rng.random_range(1_000_000_000..9_000_000_000_u64));
        let latency = self.hour.rng.random_range(14..=113);
        let uuid = self.hour.rng.random_range(100_000_000_000_000_000..900_000_000_000_000_000_u64);
        let draft = &mut self.sessions[leg.session];
        draft.sequence += 1;
        // A session's notifications leave in order; what overtakes on the way is a fault, made elsewhere.
        let timestamp = (now + latency).max(draft.last_sent + 1);
        draft.last_sent = timestamp;
        let party = &mut draft.parties[leg.party];
        party.answered |= code == "Answered";
        party.voicemail |= code == "VoiceMail";
        party.recording = party.recording.or(recording_id);
        if matches!(code, "Disconnected" | "Gone") {
            party.ended = Some(now);
            party.reason = says.reason;
        }
        let draft = &self.sessions[leg.session];
        let party = &draft.parties[leg.party];
        // A queue's name stands before the caller's (ringcentral.md B6).
        let queue_caller = party.queue.map(|queue| format!("{queue} - {}", party.from.name.as_deref().unwrap_or("")));
        let recording_text = party.recording.map(|id| id.to_string());
        let peer = says.peer.map(|peer| {
            let of = &self.sessions[peer.session];
            PeerJson { session_id: &of.legacy, telephony_session_id: &of.id, party_id: &of.parties[peer.party].id }
        });
        let company = self.hour.company;
        let hide_to = party.late_to && code == "Setup";
        let body = BodyJson {
            sequence: draft.sequence,
            session_id: &draft.legacy,
            telephony_session_id: &draft.id,
            server_id: "10.13.22.27.TAM",
            event_time: Rfc3339(now),
            parties: [PartyJson {
                account_id: &company.account_id_text,
                extension_id: party.owner.map(|e| e.id_text.as_str()),
                id: &party.id,
                direction: party.direction,
                to: SideJson {
                    phone_number: party.to.phone.as_deref(),
                    name: party.to.name.as_deref(),
                    extension_id: party.to.extension.filter(|_| !hide_to).map(|e| e.id_text.as_str()),
                },
                from: SideJson {
                    phone_number: party.from.phone.as_deref(),
                    name: queue_caller.as_deref().or(party.from.name.as_deref()),
                    extension_id: party.from.extension.map(|e| e.id_text.as_str()),
                },
                status: StatusJson { code, reason: says.reason, park_data: says.park.and_then(|(data, _)| data), peer_id: peer, rcc: false },
                park: says.park.map(|(_, id)| ParkJson { id }),
                missed_call: party.missed,
                stand_alone: false,
                muted: false,
                queue_call: party.queue.map(|_| true),
                recordings: recording_text.as_deref().map(|id| [RecordingJson { id, active: code == "Answered" }]),
                conference_role: party.conference_role,
                ring_out_role: party.ring_out_role,
                ui_call_info: party.queue.map(|queue| CallInfoJson {
                    primary: CallInfoLine { r#type: "QueueName", value: queue },
                    additional: CallInfoLine { r#type: "CallerIdName", value: party.from.name.as_deref().unwrap_or("") },
                }),
            }],
            origin: OriginJson { r#type: draft.origin },
        };
        // Plain structs of texts and numbers always serialise.
        let body = serde_json::to_string(&body).unwrap_or_default();
        let event = match party.owner {
            Some(owner) => format!("/restapi/v1.0/account/{}/extension/{}/telephony/sessions", company.account_id_text, owner.id_text),
            None => format!("/restapi/v1.0/account/{}/telephony/sessions", company.account_id_text),
        };
        self.notifications.push(Notification { due: timestamp, timestamp, uuid: uuid.to_string(), event, body });
    }

    fn leaves(&mut self, leg: Leg) {
        self.ends(leg, None);
    }

    fn ends(&mut self, leg: Leg, reason: Option<&'static str>) {
        if !self.is_over(leg) {
            self.says_that(leg, "Disconnected", &Says { reason, ..Says::default() });
        }
    }

    /// The leg goes on in another session, which is thereby linked.
    fn moves(&mut self, leg: Leg, reason: &'static str, peer: Leg) {
        let reason = (!reason.is_empty()).then_some(reason);
        self.says_that(leg, "Gone", &Says { reason, peer: Some(peer), park: None });
        self.sessions[leg.session].moved_to.get_or_insert(peer.session);
        self.sessions[peer.session].taken_from.get_or_insert(leg.session);
    }

    fn everyone_leaves(&mut self) {
        for session in 0..self.sessions.len() {
            for party in 0..self.sessions[session].parties.len() {
                self.leaves(Leg { session, party });
            }
        }
    }

    // Parts of calls

    /// A colleague rings another one; neither has answered.
    fn rings(&mut self, session: usize, caller: usize, callee: usize, to: &Side<'c>) -> (Leg, Leg) {
        let from = self.direct(caller);
        self.rings_from(session, caller, from, callee, to)
    }

    fn rings_from(&mut self, session: usize, caller: usize, from: Side<'c>, callee: usize, to: &Side<'c>) -> (Leg, Leg) {
        let a = self.party(session, Some(self.extension(caller)), "Outbound", from, to.clone());
        self.at(a).late_to = true;
        self.says(a, "Setup");
        self.wait(10, 200);
        let b = self.party(session, Some(self.extension(callee)), "Inbound", self.short(caller), to.clone());
        self.says(b, "Setup");
        // The caller's party turns Answered as soon as call handling starts (ringcentral.md B5).
        self.says(a, "Answered");
        self.says(b, "Proceeding");
        self.ring();
        (a, b)
    }

    fn internal_call(&mut self, caller: usize, callee: usize) -> (Leg, Leg) {
        let session = self.session("Call");
        let to = self.short(callee);
        let (a, b) = self.rings(session, caller, callee, &to);
        self.says(b, "Answered");
        self.talk();
        (a, b)
    }

    /// Somebody calls a user's number from outside the phone system.
    fn inbound(&mut self, caller: Side<'c>, callee: usize) -> (Leg, Leg) {
        let session = self.session("Call");
        let to = self.direct(callee);
        let called = Side { extension: None, ..to.clone() };
        let a = self.party(session, None, "Outbound", caller.clone(), called);
        self.says(a, "Setup");
        let b = self.party(session, Some(self.extension(callee)), "Inbound", caller, to);
        self.says(b, "Setup");
        self.says(b, "Proceeding");
        self.ring();
        (a, b)
    }

    fn answered_inbound(&mut self, caller: Side<'c>, callee: usize) -> (Leg, Leg) {
        let (a, b) = self.inbound(caller, callee);
        self.says(b, "Answered");
        self.says(a, "Answered");
        self.talk();
        (a, b)
    }

    fn outbound(&mut self, caller: usize, to: Side<'c>) -> (Leg, Leg) {
        let session = self.session("Call");
        let from = self.direct(caller);
        let a = self.party(session, Some(self.extension(caller)), "Outbound", from.clone(), to.clone());
        self.says(a, "Setup");
        // The outside party: our account id, no extension id, and our user in `from` (ringcentral.md B3).
        let b = self.party(session, None, "Inbound", from, to);
        self.says(b, "Setup");
        self.says(a, "Proceeding");
        self.says(b, "Proceeding");
        self.ring();
        (a, b)
    }

    fn answered_outbound(&mut self, caller: usize, to: Side<'c>) -> (Leg, Leg) {
        let (a, b) = self.outbound(caller, to);
        self.says(b, "Answered");
        self.says(a, "Answered");
        self.talk();
        (a, b)
    }

    fn hold(&mut self, leg: Leg) {
        self.says(leg, "Hold");
        self.wait(1_000, 30_000);
        self.says(leg, "Answered");
    }

    /// A call that somebody in the company or outside made to a user, answered. Legs: caller, user.
    fn any_call(&mut self, user: usize, colleague: usize) -> (Leg, Leg) {
        if self.chance(50) {
            self.internal_call(colleague, user)
        } else {
            let caller = self.outsider();
            self.answered_inbound(caller, user)
        }
    }

    /// An attempt that nobody answers, with one of its reasons.
    fn fails(&mut self, leg: Leg) {
        let reason = self.one_of(&FAILURES);
        self.at(leg).missed = matches!(reason, "NoAnswer" | "Cancelled");
        self.ends(leg, Some(reason));
    }

    // Shapes

    fn play(&mut self, shape: Shape) -> Shape {
        match shape {
            Shape::DirectInternal => {
                let [a, b] = self.people();
                let (_, callee) = if self.chance(80) {
                    self.internal_call(a, b)
                } else {
                    let session = self.session("Call");
                    let to = self.direct(b);
                    let legs = self.rings(session, a, b, &to);
                    self.says(legs.1, "Answered");
                    self.talk();
                    legs
                };
                if self.chance(30) {
                    self.hold(callee);
                }
            }
            Shape::InboundDirect => {
                let [user] = self.people();
                let caller = self.outsider();
                if self.chance(75) {
                    let (_, callee) = self.answered_inbound(caller, user);
                    if self.chance(30) {
                        self.hold(callee);
                    }
                } else {
                    let (_, callee) = self.inbound(caller, user);
                    self.at(callee).missed = true;
                    self.ends(callee, Some("NoAnswer"));
                }
            }
            Shape::OutboundPstn => {
                let [user] = self.people();
                let callee = self.outsider();
                if self.chance(80) {
                    let (caller, _) = self.answered_outbound(user, callee);
                    if self.chance(20) {
                        self.hold(caller);
                    }
                } else {
                    let (_, callee) = self.outbound(user, callee);
                    self.fails(callee);
                }
            }
            Shape::IvrThenUser => self.ivr_then_user(),
            Shape::Queue => self.queue(),
            Shape::BlindTransferInside => {
                let [a, b, c] = self.people();
                let (caller, user) = self.any_call(a, b);
                self.ends(user, Some("BlindTransfer"));
                let from = self.sessions[caller.session].parties[caller.party].from.clone();
                let target = self.party(caller.session, Some(self.extension(c)), "Inbound", from, self.short(c));
                self.at(target).leg_type = Some("TransferCall");
                self.says(target, "Setup");
                self.says(target, "Proceeding");
                self.ring();
                self.says(target, "Answered");
                self.talk();
            }
            Shape::BlindTransferOutside => {
                let [a, b] = self.people();
                let (caller, user) = self.internal_call(a, b);
                self.ends(user, Some("BlindTransfer"));
                let from = self.direct(a);
                let to = self.outsider();
                let target = self.party(caller.session, None, "Inbound", from, to);
                self.at(target).leg_type = Some("TransferCall");
                self.says(target, "Setup");
                self.says(target, "Proceeding");
                self.ring();
                if self.chance(70) {
                    self.says(target, "Answered");
                    self.talk();
                } else {
                    self.fails(target);
                }
            }
            Shape::WarmTransferInside => {
                let [a, b, c] = self.people();
                let (_, agent) = self.internal_call(a, b);
                self.says(agent, "Hold");
                let (consulting, _) = self.internal_call(b, c);
                self.bridge(agent, consulting);
            }
            Shape::WarmTransferOutsider => {
                let [a, b] = self.people();
                let outsider = self.outsider();
                let (agent, consulting) = if self.chance(50) {
                    let (_, agent) = self.answered_inbound(outsider, a);
                    self.says(agent, "Hold");
                    (agent, self.internal_call(a, b).0)
                } else {
                    let (_, agent) = self.internal_call(b, a);
                    self.says(agent, "Hold");
                    (agent, self.answered_outbound(a, outsider).0)
                };
                self.bridge(agent, consulting);
            }
            Shape::ConferenceInside => {
                let [a, b, c] = self.people();
                let first = self.internal_call(a, b);
                let second = self.internal_call(a, c);
                self.conference(a, &[first, second]);
                self.talk();
            }
            Shape::ConferenceOutsider => {
                let [a, b] = self.people();
                let first = self.internal_call(a, b);
                let outsider = self.outsider();
                let second = self.answered_outbound(a, outsider);
                self.conference(a, &[first, second]);
                self.talk();
            }
            Shape::FailedExternalAdd => {
                let [a, b] = self.people();
                let first = self.internal_call(a, b);
                let (host, to) = (self.conference(a, &[first]), self.outsider());
                let from = self.direct(a);
                let added = self.party(host.session, None, "Inbound", from, to);
                self.at(added).conference_role = Some("Participant");
                self.says(added, "Setup");
                self.says(added, "Proceeding");
                self.ring();
                self.fails(added);
                self.talk();
            }
            Shape::ParkPickup => self.park_and_pickup(),
            Shape::RingOut => self.ring_out(),
            Shape::Voicemail => {
                let [a, b] = self.people();
                let (_, callee) = if self.chance(50) {
                    let session = self.session("Call");
                    let to = self.short(b);
                    self.rings(session, a, b, &to)
                } else {
                    let caller = self.outsider();
                    self.inbound(caller, b)
                };
                self.at(callee).missed = true;
                self.says(callee, "VoiceMail");
                self.wait(3_000, 40_000);
                self.ends(callee, Some("Voicemail"));
            }
            Shape::ForwardToRegisteredMobile | Shape::ForwardToPrivatePhone => return self.forward(shape),
            Shape::WithheldCaller => {
                let [user] = self.people();
                let caller = self.withheld();
                self.answered_inbound(caller, user);
            }
            Shape::SinceReleasedNumber => return self.since_released(),
            Shape::NotYetListedNumber => return self.not_yet_listed(),
            Shape::CallFlip => {
                let [a, b] = self.people();
                let (caller, user) = self.any_call(a, b);
                let old = &self.sessions[user.session].parties[user.party];
                let (from, to) = (old.from.clone(), old.to.clone());
                let flipped = self.party(caller.session, Some(self.extension(a)), "Inbound", from, to);
                self.says(flipped, "Setup");
                self.says(flipped, "Answered");
                self.ends(user, Some("CallFlip"));
                self.talk();
            }
            Shape::Supervision => {
                let [a, b, supervisor] = self.people();
                let (_, agent) = self.any_call(a, b);
                let session = self.session("Call");
                let (from, to) = (self.direct(supervisor), self.short(a));
                let listening = self.party(session, Some(self.extension(supervisor)), "Outbound", from, to);
                self.at(listening).leg_type = Some("Monitoring");
                self.says(listening, "Setup");
                self.says(listening, "Answered");
                self.talk();
                self.moves(listening, "Supervising", agent);
                self.talk();
            }
            Shape::FederatedColleague => {
                if self.hour.company.federated.is_empty() {
                    return self.play(Shape::DirectInternal);
                }
                let [user] = self.people();
                let n = self.hour.rng.random_range(0..self.hour.company.federated.len());
                let number = self.hour.company.federated[n].number.as_str();
                let caller = self.company_number(number);
                self.answered_inbound(caller, user);
            }
            Shape::Emergency => {
                let [user] = self.people();
                let to = Side { whose: Whose::Outsider, phone: Some("911".into()), extension: None, name: None };
                self.answered_outbound(user, to);
            }
        }
        shape
    }

    fn ivr_then_user(&mut self) {
        let [user] = self.people();
        let caller = self.outsider();
        let session = self.session("Call");
        let numbers: Vec<&'c str> = self.hour.company.company_numbers(self.now).collect();
        let number = if numbers.is_empty() { self.hour.company.main_number() } else { self.one_of(&numbers) };
        let main = self.company_number(number);
        let a = self.party(session, None, "Outbound", caller.clone(), main.clone());
        self.says(a, "Setup");
        let menu = self.of_kind(ExtensionKind::IvrMenu);
        let ivr = self.party(session, Some(menu), "Inbound", caller.clone(), Side { extension: Some(menu), ..main.clone() });
        self.says(ivr, "Setup");
        self.says(a, "Answered");
        self.wait(3_000, 15_000);
        self.ends(ivr, None);
        let e = self.extension(user);
        let b = self.party(session, Some(e), "Inbound", caller, Side { extension: Some(e), ..main });
        self.says(b, "Setup");
        self.says(b, "Proceeding");
        self.ring();
        self.says(b, "Answered");
        self.talk();
        if self.chance(50) {
            self.hold(b);
        }
    }

    fn queue(&mut self) {
        let queues = self.hour.queues.clone();
        let index = self.one_of(&queues);
        let queue = self.extension(index);
        let now = self.now;
        let agents: Vec<usize> = queue.members.iter().copied().filter(|&m| self.extension(m).exists_at(now)).collect();
        let [colleague] = self.people();
        let to = self.direct(index);
        let session = self.session("Call");
        let (owner, from) = if self.chance(25) { (Some(self.extension(colleague)), self.direct(colleague)) } else { (None, self.outsider()) };
        let a = self.party(session, owner, "Outbound", from.clone(), Side { extension: None, ..to.clone() });
        self.says(a, "Setup");
        let q = self.party(session, Some(queue), "Inbound", from.clone(), to.clone());
        self.says(q, "Setup");
        self.says(a, "Answered");
        self.says(q, "Proceeding");
        let mut rung = Vec::new();
        for agent in agents {
            // `to` is the queue, the party is the agent's, and there is no Setup (ringcentral.md B6).
            let leg = self.party(session, Some(self.extension(agent)), "Inbound", from.clone(), to.clone());
            self.at(leg).queue = Some(&queue.first_name);
            self.says(leg, "Proceeding");
            rung.push(leg);
        }
        self.ring();
        if rung.is_empty() || self.chance(10) {
            for leg in rung {
                self.at(leg).missed = true;
                self.ends(leg, Some("NoAnswer"));
            }
            return;
        }
        let winner = self.one_of(&rung);
        self.says(winner, "Answered");
        for leg in rung {
            if leg != winner {
                self.ends(leg, Some("AgentAnswered"));
            }
        }
        self.ends(q, None);
        self.talk();
    }

    /// Both of the transferring user's legs go, each pointing to the other's session; the others talk on.
    fn bridge(&mut self, first: Leg, second: Leg) {
        self.moves(first, "AttendedTransfer", second);
        self.moves(second, "AttendedTransfer", first);
        self.talk();
    }

    /// Merges answered calls (host's leg, other's leg) into a conference; gives the host's leg there.
    fn conference(&mut self, host: usize, calls: &[(Leg, Leg)]) -> Leg {
        let session = self.session("Conference");
        let (from, bridge) = (self.direct(host), self.service("conference"));
        let host_leg = self.party(session, Some(self.extension(host)), "Outbound", from, bridge.clone());
        self.at(host_leg).conference_role = Some("Host");
        self.says(host_leg, "Setup");
        self.says(host_leg, "Answered");
        for &(own, other) in calls {
            let of = &self.sessions[other.session].parties[other.party];
            let (owner, who) = (of.owner, of.to.clone());
            let joined = self.party(session, owner, "Inbound", who, bridge.clone());
            self.at(joined).conference_role = Some("Participant");
            self.says(joined, "Setup");
            self.says(joined, "Answered");
            self.moves(other, "Conference", joined);
            self.moves(own, "Conference", host_leg);
            if self.chance(30) {
                // Seen in a vendor mock: a participant of the conference that points back to where it came from.
                self.says_that(joined, "Gone", &Says { peer: Some(other), ..Says::default() });
            }
        }
        host_leg
    }

    fn park_and_pickup(&mut self) {
        let [a, b, picker] = self.people();
        let (_, user) = self.any_call(a, b);
        let place = format!("{}", self.hour.rng.random_range(801..=810));
        let code = format!("*{place}");
        let at_location = self.chance(30);
        let park = if at_location { (Some(""), None) } else { (Some(code.as_str()), Some(place.as_str())) };
        self.says_that(user, "Parked", &Says { reason: at_location.then_some("ParkLocation"), park: Some(park), ..Says::default() });
        self.wait(4_000, 60_000);
        let session = self.session("Call");
        let (from, to) = (self.direct(picker), self.service(&code));
        let picking = self.party(session, Some(self.extension(picker)), "Outbound", from, to);
        self.at(picking).leg_type = Some("Pickup");
        self.says(picking, "Setup");
        self.says(picking, "Proceeding");
        self.says(picking, "Answered");
        self.moves(user, "Pickup", picking);
        self.talk();
    }

    fn ring_out(&mut self) {
        let [user, colleague] = self.people();
        let (owner, other) = if self.chance(40) { (Some(self.extension(colleague)), self.direct(colleague)) } else { (None, self.outsider()) };
        let own = self.direct(user);
        // The user's own phone is rung first, with the target's number; then the target, in another session without a link.
        let first = self.session("RingOut");
        let initiator = self.party(first, Some(self.extension(user)), "Inbound", other.clone(), own.clone());
        self.at(initiator).ring_out_role = Some("Initiator");
        self.at(initiator).leg_type = Some("RingOutWebToSubscriber");
        self.says(initiator, "Setup");
        self.says(initiator, "Proceeding");
        self.ring();
        self.says(initiator, "Answered");
        let second = self.session("RingOut");
        let target = self.party(second, owner, "Inbound", own, other);
        self.at(target).ring_out_role = Some("Target");
        self.at(target).leg_type = Some("RingOutWebToCaller");
        self.says(target, "Setup");
        self.says(target, "Proceeding");
        self.ring();
        self.says(target, "Answered");
        self.talk();
    }

    fn forward(&mut self, shape: Shape) -> Shape {
        let registered = shape == Shape::ForwardToRegisteredMobile;
        let [a, mut b] = self.people();
        let has = |e: &'c Extension| if registered { e.registered_mobile.as_deref() } else { e.private_phone.as_deref() };
        for _ in 0..20 {
            if b != a && has(self.extension(b)).is_some() {
                break;
            }
            [b] = self.people();
        }
        let Some(number) = has(self.extension(b)).filter(|_| a != b) else { return self.play(Shape::DirectInternal) };
        let session = self.session("Call");
        let to = self.short(b);
        let (_, desk) = self.rings(session, a, b, &to);
        let phone = if registered {
            self.company_number(number)
        } else {
            Side { whose: Whose::Outsider, phone: Some(number.into()), extension: None, name: None }
        };
        let from = self.direct(a);
        let forwarded = self.party(session, Some(self.extension(b)), "Inbound", from, phone);
        self.at(forwarded).leg_type = Some("FindMe");
        self.says(forwarded, "Setup");
        self.says(forwarded, "Proceeding");
        self.ring();
        if self.chance(70) {
            self.says(forwarded, "Answered");
            self.ends(desk, Some("Cancelled"));
            self.talk();
        } else {
            self.ends(forwarded, Some("NoAnswer"));
            self.ends(desk, Some("NoAnswer"));
        }
        shape
    }

    fn since_released(&mut self) -> Shape {
        let now = self.now;
        let company = self.hour.company;
        let later = company.numbers.iter().filter_map(|n| {
            let holder = n.holding_at(now)?.extension?;
            let (released, _) = n.released?;
            let usable = n.listed_from <= now && now < released && company.extensions[holder].exists_at(now);
            usable.then_some((n.number.as_str(), holder))
        });
        let later: Vec<_> = later.collect();
        let [caller] = self.people();
        let Some(&(number, holder)) = later.get(self.hour.rng.random_range(0..later.len().max(1))).filter(|(_, holder)| *holder != caller) else {
            return self.play(Shape::DirectInternal);
        };
        let session = self.session("Call");
        let to = self.by(holder, number);
        let (_, callee) = self.rings(session, caller, holder, &to);
        self.says(callee, "Answered");
        self.talk();
        Shape::SinceReleasedNumber
    }

    fn not_yet_listed(&mut self) -> Shape {
        let now = self.now;
        let company = self.hour.company;
        let fresh = company.numbers.iter().find_map(|n| {
            let holder = n.holding_at(now)?.extension?;
            (n.listed_from > now && company.extensions[holder].exists_at(now)).then_some((n.number.as_str(), holder))
        });
        let [callee] = self.people();
        let Some((number, holder)) = fresh.filter(|(_, holder)| *holder != callee) else { return self.play(Shape::DirectInternal) };
        let session = self.session("Call");
        let (from, to) = (self.by(holder, number), self.short(callee));
        let (_, answering) = self.rings_from(session, holder, from, callee, &to);
        self.says(answering, "Answered");
        self.talk();
        Shape::NotYetListedNumber
    }

    // What is left to tell when it is over

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

    /// How the call log writes a side: mostly as events do, at times in one of the other forms of ringcentral.md G.
    fn log_party(&mut self, session: usize, party: usize, from: bool) -> LogParty {
        let roll = self.hour.rng.random_range(0..100);
        let p = &self.sessions[session].parties[party];
        let side = if from { &p.from } else { &p.to };
        let extension_id = side.extension.map(|e| e.id_text.clone());
        let name = side.name.as_deref().map(str::to_owned);
        let Some(phone) = side.phone.as_deref().filter(|p| *p != "anonymous") else {
            return LogParty { name: Some("Anonymous".into()), ..LogParty::default() };
        };
        if side.extension.is_some_and(|e| e.number == phone) {
            return LogParty { phone_number: None, extension_number: Some(phone.to_owned()), extension_id, name };
        }
        let american = phone.starts_with("+1") && phone.len() == 12;
        let phone_number = match roll {
            0..4 if american => phone[1..].to_owned(),
            4..6 if american => formatted(phone).replace("+1 (", "(").replace(") ", ")"),
            6..8 if american && side.whose == Whose::Outsider => format!("{}XXXX", &phone[..8]),
            _ => phone.to_owned(),
        };
        LogParty { phone_number: Some(phone_number), extension_number: None, extension_id, name }
    }

    fn log_leg(&mut self, session: usize, party: usize) -> LogLeg {
        let from = self.log_party(session, party, true);
        let to = self.log_party(session, party, false);
        let draft = &self.sessions[session];
        let p = &draft.parties[party];
        let outbound = if p.owner.is_some() { p.direction == "Outbound" } else { p.to.whose == Whose::Outsider };
        let outbound = outbound || p.leg_type == Some("FindMe");
        let leg_type = match p.leg_type {
            Some(known) => known,
            None if draft.origin == "Conference" => "ConferenceCall",
            None if p.to.whose == Whose::Outsider => "SipToPstnMetered",
            None if p.from.whose == Whose::Outsider => "PstnToSip",
            None => "ExtensionToExtension",
        };
        let action = match leg_type {
            "FindMe" => "FindMe",
            "TransferCall" => "Transfer",
            "Pickup" => "Pickup",
            "Monitoring" => "Monitoring",
            "ConferenceCall" => "Conference Call",
            _ if draft.origin == "RingOut" => "RingOut Web",
            _ if p.to.phone.as_deref() == Some("911") => "Emergency",
            _ if outbound => "VoIP Call",
            _ => "Phone Call",
        };
        let result = match (p.reason, p.answered) {
            _ if p.voicemail => "Voicemail",
            (_, true) if outbound => "Call connected",
            (_, true) => "Accepted",
            (Some("TargetBusy"), _) => "Busy",
            (Some("Rejected"), _) => "Rejected",
            (Some("InvalidNumber"), _) => "Wrong Number",
            (Some("AgentAnswered"), _) => "Answered Elsewhere",
            (Some("Cancelled"), _) => "Hang Up",
            (Some("NoAnswer"), _) if outbound => "No Answer",
            _ if outbound => "Hang Up",
            _ => "Missed",
        };
        LogLeg {
            direction: if outbound { "Outbound" } else { "Inbound" },
            from,
            to,
            leg_type,
            action,
            result,
            extension_id: p.owner.map(|e| e.id),
            party_id: p.id.clone(),
            started: p.started,
            ended: p.ended.unwrap_or(self.now),
        }
    }

    /// The session's records: one per extension for a plain internal call, else one with a leg per party (ringcentral.md C).
    fn records(&mut self, session: usize, out: &mut Vec<LogRecord>) {
        let count = self.sessions[session].parties.len();
        let legs: Vec<LogLeg> = (0..count).map(|party| self.log_leg(session, party)).collect();
        let ended = legs.iter().map(|leg| leg.ended).max().unwrap_or(self.now);
        let plain = self.sessions[session].origin == "Call" && count == 2 && legs.iter().all(|leg| leg.extension_id.is_some());
        let mut push = |script: &mut Self, extension_id: Option<u64>, legs: Vec<LogLeg>| {
            let available_at = ended + script.hour.rng.random_range(15_000..=30_000);
            let draft = &script.sessions[session];
            let name_of = |n: Option<usize>| n.map(|n| script.sessions[n].id.clone());
            let (transfer_target, transferee) = (name_of(draft.moved_to), name_of(draft.taken_from));
            out.push(LogRecord {
                available_at,
                id: format!("V{}{}", draft.legacy, &draft.id[5..]) + if legs[0].direction == "Inbound" { "I" } else { "O" },
                legacy_session_id: draft.legacy.clone(),
                telephony_session_id: draft.id.clone(),
                transfer_target,
                transferee,
                extension_id,
                legs,
            });
        };
        if plain {
            for mut leg in legs {
                let extension_id = leg.extension_id;
                // Extension-only parties come without their own side (ringcentral.md G): the record's extension tells it.
                if self.chance(15) {
                    let own = if leg.direction == "Outbound" { &mut leg.from } else { &mut leg.to };
                    if own.extension_id.as_ref().is_some_and(|id| extension_id.is_some_and(|e| *id == e.to_string())) {
                        *own = LogParty { name: own.name.take(), ..LogParty::default() };
                    }
                }
                push(self, extension_id, vec![leg]);
            }
        } else {
            let extension_id = legs[0].extension_id.or_else(|| legs.iter().rev().find_map(|leg| leg.extension_id));
            push(self, extension_id, legs);
        }
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
