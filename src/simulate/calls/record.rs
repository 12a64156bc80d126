//! What the call log says of a session when it is over (ringcentral.md C).

use super::script::{Script, Whose};
use crate::event::Millis;
use crate::simulate::lists::formatted;
use crate::simulate::time::Rfc3339;
use rand::Rng;
use serde::Serialize;

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

const IN_PROGRESS: &str = "In Progress";
/// Active calls keep an ended call so long.
const ACTIVE_AFTER_END: Millis = 120_000;
/// A record was last changed so long before it shows.
const LAST_MODIFIED_BEFORE: Millis = 3_000;

/// The call log cuts its times to seconds.
fn seconds(at: Millis) -> Millis {
    at - at.rem_euclid(1_000)
}

fn transport(leg: &LogLeg) -> &'static str {
    if matches!(leg.leg_type, "PstnToSip" | "SipToPstnMetered" | "FindMe") { "PSTN" } else { "VoIP" }
}

impl LogRecord {
    /// Its `startTime`: the start of its master leg, cut to seconds (ringcentral.md C).
    #[must_use]
    pub fn started(&self) -> Millis {
        self.legs.first().map_or(0, |leg| seconds(leg.started))
    }

    /// What active calls show of it at a time: nothing before it begins; while the call goes on, what has begun, without a result; as it is
    /// for two minutes after the end.
    pub(in crate::simulate) fn as_active(&self, at: Millis) -> Option<Self> {
        let ended = self.legs.iter().map(|leg| leg.ended).max()?;
        if self.legs[0].started > at || ended + ACTIVE_AFTER_END < at {
            return None;
        }
        if ended <= at {
            return Some(self.clone());
        }
        let mut legs: Vec<LogLeg> = self.legs.iter().filter(|leg| leg.started <= at).cloned().collect();
        for leg in legs.iter_mut().filter(|leg| leg.ended > at) {
            leg.ended = at;
            leg.result = IN_PROGRESS;
        }
        legs[0].result = IN_PROGRESS;
        // An inbound call that rings at somebody else shows as an outbound one to them until it ends.
        if let [master, .., newest] = &mut legs[..]
            && master.direction == "Inbound"
        {
            master.direction = "Outbound";
            master.to = newest.to.clone();
        }
        Some(Self { available_at: at + LAST_MODIFIED_BEFORE, legs, ..self.clone() })
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
            start_time: Rfc3339(seconds(master.started)),
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
            last_modified_time: detailed.then_some(Rfc3339(self.available_at - LAST_MODIFIED_BEFORE)),
            legs: detailed.then(|| {
                self.legs
                    .iter()
                    .enumerate()
                    .map(|(n, leg)| LegDocument {
                        start_time: Rfc3339(seconds(leg.started)),
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

impl Script<'_, '_> {
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
    pub(super) fn records(&mut self, session: usize, out: &mut Vec<LogRecord>) {
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
