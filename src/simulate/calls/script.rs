//! The stage of a call: who is there, what sessions and parties do, and the notifications that tell it (ringcentral.md B2 to B5).

use crate::event::Millis;
use crate::simulate::Notification;
use crate::simulate::company::{Company, Extension, ExtensionKind, outside_number};
use crate::simulate::time::Rfc3339;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::borrow::Cow;

/// Whose a side of a party is: the truth of the matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Somebody of the company, by whatever number.
    Company,
    /// Somebody who is not.
    Outsider,
    /// Nobody: a conference bridge, a place to park.
    Service,
}

#[derive(Debug, Clone)]
pub(super) struct Side<'c> {
    pub(super) whose: Whose,
    pub(super) phone: Option<Cow<'c, str>>,
    pub(super) extension: Option<&'c Extension>,
    pub(super) name: Option<Cow<'c, str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Leg {
    pub(super) session: usize,
    pub(super) party: usize,
}

pub(super) struct Party<'c> {
    pub(super) id: String,
    pub(super) owner: Option<&'c Extension>,
    pub(super) direction: &'static str,
    pub(super) from: Side<'c>,
    pub(super) to: Side<'c>,
    /// The first event has no `to.extensionId` yet (ringcentral.md B3).
    pub(super) late_to: bool,
    pub(super) missed: bool,
    pub(super) queue: Option<&'c str>,
    pub(super) conference_role: Option<&'static str>,
    pub(super) ring_out_role: Option<&'static str>,
    pub(super) leg_type: Option<&'static str>,
    pub(super) recording: Option<u64>,
    pub(super) started: Millis,
    pub(super) answered: bool,
    pub(super) reason: Option<&'static str>,
    pub(super) voicemail: bool,
    pub(super) ended: Option<Millis>,
}

pub(super) struct Draft<'c> {
    pub(super) id: String,
    pub(super) legacy: String,
    pub(super) origin: &'static str,
    pub(super) sequence: u32,
    pub(super) parties: Vec<Party<'c>>,
    pub(super) last_sent: Millis,
    pub(super) moved_to: Option<usize>,
    pub(super) taken_from: Option<usize>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SideJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) phone_number: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) extension_id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PeerJson<'a> {
    pub(super) session_id: &'a str,
    pub(super) telephony_session_id: &'a str,
    pub(super) party_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusJson<'a> {
    pub(super) code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) park_data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peer_id: Option<PeerJson<'a>>,
    pub(super) rcc: bool,
}

#[derive(Serialize)]
pub(super) struct RecordingJson<'a> {
    pub(super) id: &'a str,
    pub(super) active: bool,
}

#[derive(Serialize)]
pub(super) struct CallInfoJson<'a> {
    pub(super) primary: CallInfoLine<'a>,
    pub(super) additional: CallInfoLine<'a>,
}

#[derive(Serialize)]
pub(super) struct CallInfoLine<'a> {
    pub(super) r#type: &'a str,
    pub(super) value: &'a str,
}

#[derive(Serialize)]
pub(super) struct ParkJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PartyJson<'a> {
    pub(super) account_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) extension_id: Option<&'a str>,
    pub(super) id: &'a str,
    pub(super) direction: &'a str,
    pub(super) to: SideJson<'a>,
    pub(super) from: SideJson<'a>,
    pub(super) status: StatusJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) park: Option<ParkJson<'a>>,
    pub(super) missed_call: bool,
    pub(super) stand_alone: bool,
    pub(super) muted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue_call: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) recordings: Option<[RecordingJson<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) conference_role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ring_out_role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) ui_call_info: Option<CallInfoJson<'a>>,
}

#[derive(Serialize)]
pub(super) struct OriginJson<'a> {
    pub(super) r#type: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BodyJson<'a> {
    pub(super) sequence: u32,
    pub(super) session_id: &'a str,
    pub(super) telephony_session_id: &'a str,
    pub(super) server_id: &'a str,
    pub(super) event_time: Rfc3339,
    pub(super) parties: [PartyJson<'a>; 1],
    pub(super) origin: OriginJson<'a>,
}

/// What a party's status says beside its code.
#[derive(Default)]
pub(super) struct Says<'a> {
    pub(super) reason: Option<&'static str>,
    pub(super) peer: Option<Leg>,
    /// Park data and the park's id.
    pub(super) park: Option<(Option<&'a str>, Option<&'a str>)>,
}

/// What one hour's calls share.
pub(super) struct Hour<'c> {
    pub(super) company: &'c Company,
    pub(super) rng: ChaCha8Rng,
    /// Who talks in this hour.
    pub(super) people: Vec<usize>,
    pub(super) queues: Vec<usize>,
    pub(super) sessions: u64,
    pub(super) index: i64,
}

pub(super) struct Script<'h, 'c> {
    pub(super) hour: &'h mut Hour<'c>,
    pub(super) now: Millis,
    pub(super) sessions: Vec<Draft<'c>>,
    pub(super) notifications: Vec<Notification>,
}

pub(super) const CARRIER_NAMES: [&str; 6] = ["WIRELESS CALLER", "SAN FRANCSCO CA", "NEW YORK NY", "ACME SUPPLY", "Jo Rivers", "TOLL FREE CALL"];
pub(super) const FAILURES: [&str; 5] = ["NoAnswer", "TargetBusy", "Rejected", "Cancelled", "InvalidNumber"];

impl<'c> Script<'_, 'c> {
    // Time and chance

    pub(super) fn wait(&mut self, from_ms: i64, to_ms: i64) {
        self.now += self.hour.rng.random_range(from_ms..=to_ms);
    }

    pub(super) fn ring(&mut self) {
        self.wait(2_000, 20_000);
    }

    pub(super) fn talk(&mut self) {
        self.wait(5_000, 240_000);
    }

    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.hour.rng.random_ratio(percent.min(100), 100)
    }

    pub(super) fn one_of<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.hour.rng.random_range(0..these.len())]
    }

    // People

    /// So many different people with a phone.
    pub(super) fn people<const N: usize>(&mut self) -> [usize; N] {
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

    pub(super) fn extension(&self, index: usize) -> &'c Extension {
        &self.hour.company.extensions[index]
    }

    pub(super) fn of_kind(&self, kind: ExtensionKind) -> &'c Extension {
        let extensions = &self.hour.company.extensions;
        extensions.iter().find(|e| e.kind == kind).unwrap_or(&extensions[0])
    }

    /// A colleague by full number, or by short number where there is none.
    pub(super) fn direct(&self, person: usize) -> Side<'c> {
        match self.hour.company.direct_number(person, self.now) {
            Some(number) => self.by(person, number),
            None => self.short(person),
        }
    }

    pub(super) fn by(&self, person: usize, number: &'c str) -> Side<'c> {
        let e = self.extension(person);
        Side { whose: Whose::Company, phone: Some(number.into()), extension: Some(e), name: Some(e.first_name.as_str().into()) }
    }

    /// A colleague by short number.
    pub(super) fn short(&self, person: usize) -> Side<'c> {
        let number = self.extension(person).number.as_str();
        self.by(person, number)
    }

    /// A number of the company without an extension: its main number, a registered mobile.
    pub(super) fn company_number(&self, number: &'c str) -> Side<'c> {
        Side { whose: Whose::Company, phone: Some(number.into()), extension: None, name: None }
    }

    pub(super) fn outsider(&mut self) -> Side<'c> {
        let number = outside_number(&mut self.hour.rng);
        let name = self.one_of(&CARRIER_NAMES);
        Side { whose: Whose::Outsider, phone: Some(number.into()), extension: None, name: Some(name.into()) }
    }

    pub(super) fn withheld(&mut self) -> Side<'c> {
        let phone = self.chance(50).then_some(Cow::Borrowed("anonymous"));
        Side { whose: Whose::Outsider, phone, extension: None, name: None }
    }

    pub(super) fn service(&self, what: &str) -> Side<'c> {
        Side { whose: Whose::Service, phone: Some(what.to_owned().into()), extension: None, name: None }
    }

    // Sessions and parties

    pub(super) fn session(&mut self, origin: &'static str) -> usize {
        let hour = &mut *self.hour;
        hour.sessions += 1;
        let id = format!("s-a0d1{:08x}z{:x}z{:05x}{:04x}0000", hour.company.seed as u32, self.now, hour.sessions, hour.rng.random::<u16>());
        let legacy = if origin == "Conference" { "0".to_owned() } else { ((hour.index as u64 * 1_000_000 + hour.sessions) * 1_000 + 16).to_string() };
        // Sequence 1 is never seen: the first notification has 2 (ringcentral.md B4).
        self.sessions.push(Draft { id, legacy, origin, sequence: 1, parties: Vec::new(), last_sent: 0, moved_to: None, taken_from: None });
        self.sessions.len() - 1
    }

    pub(super) fn party(&mut self, session: usize, owner: Option<&'c Extension>, direction: &'static str, from: Side<'c>, to: Side<'c>) -> Leg {
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

    pub(super) fn at(&mut self, leg: Leg) -> &mut Party<'c> {
        &mut self.sessions[leg.session].parties[leg.party]
    }

    pub(super) fn is_over(&self, leg: Leg) -> bool {
        self.sessions[leg.session].parties[leg.party].ended.is_some()
    }

    pub(super) fn says(&mut self, leg: Leg, code: &'static str) {
        self.says_that(leg, code, &Says::default());
    }

    pub(super) fn says_that(&mut self, leg: Leg, code: &'static str, says: &Says<'_>) {
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

    pub(super) fn leaves(&mut self, leg: Leg) {
        self.ends(leg, None);
    }

    pub(super) fn ends(&mut self, leg: Leg, reason: Option<&'static str>) {
        if !self.is_over(leg) {
            self.says_that(leg, "Disconnected", &Says { reason, ..Says::default() });
        }
    }

    /// The leg goes on in another session, which is thereby linked.
    pub(super) fn moves(&mut self, leg: Leg, reason: &'static str, peer: Leg) {
        let reason = (!reason.is_empty()).then_some(reason);
        self.says_that(leg, "Gone", &Says { reason, peer: Some(peer), park: None });
        self.sessions[leg.session].moved_to.get_or_insert(peer.session);
        self.sessions[peer.session].taken_from.get_or_insert(leg.session);
    }

    pub(super) fn everyone_leaves(&mut self) {
        for session in 0..self.sessions.len() {
            for party in 0..self.sessions[session].parties.len() {
                self.leaves(Leg { session, party });
            }
        }
    }
}
