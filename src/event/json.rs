//! Output records as JSON for people and programs: snake_case, enum symbols as in the schemas, times as RFC 3339 in UTC
//! with milliseconds. (On the topics the same records are Avro, where a time is a number.)
//!
//! Each type here borrows a record and writes it straight to the serializer, without a tree in between. Every record is
//! taken apart field by field, so that one added to it does not compile until it is written here too.

use super::{AccountSettings, AccountState, Call, CallLeg, CallVerdict, CompanyNumber, JudgedEndpoint, Millis, OpenCall, Revision, SessionId};
use jiff::Timestamp;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use std::fmt;
use std::sync::Arc;

/// A time as text: RFC 3339 in UTC with milliseconds, `2026-11-24T20:28:32.000Z`. RFC 3339 has the years 0000 to 9999
/// only: what lies outside is shown as the nearest time inside (the last one is `9999-12-30T22:00:00.000Z`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rfc3339(pub Millis);

/// A time as text, for `{}`; see [`Rfc3339`].
#[must_use]
pub fn rfc3339(ms: Millis) -> Rfc3339 {
    Rfc3339(ms)
}

/// 0000-01-01T00:00:00Z.
const YEAR_0: Millis = -62_167_219_200_000;
/// 9999-12-30T22:00:00Z, the last whole second of jiff, which leaves room for every offset.
const LAST: Millis = 253_402_207_200_000;

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.clamp(YEAR_0, LAST);
        let time = Timestamp::from_millisecond(ms).map_err(|_| fmt::Error)?;
        write!(f, "{time:.3}")
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A [`CallVerdict`] as JSON: a line of `classify`, an item of the HTTP interface.
#[derive(Debug, Clone, Copy)]
pub struct VerdictJson<'a> {
    /// The record.
    pub verdict: &'a CallVerdict,
    /// Whether it shows the field `call`, the evidence.
    pub evidence: bool,
}

/// A [`CompanyNumber`] as JSON.
#[derive(Debug, Clone, Copy)]
pub struct NumberJson<'a>(pub &'a CompanyNumber);

/// An [`AccountState`] as JSON.
#[derive(Debug, Clone, Copy)]
pub struct AccountJson<'a>(pub &'a AccountState);

/// An [`OpenCall`] as JSON, with its evidence.
#[derive(Debug, Clone, Copy)]
pub struct OpenCallJson<'a>(pub &'a OpenCall);

impl Serialize for VerdictJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let CallVerdict {
            account_id,
            session_id,
            revision,
            verdict,
            disposition,
            previous_verdict,
            cause,
            ended_by,
            snapshot_complete,
            started_at,
            ended_at,
            decided_at,
            endpoints,
            linked_sessions,
            recorded_extensions,
            snapshot_size,
            rules,
            history,
            superseded_by,
            endpoints_omitted,
            position,
            call,
        } = self.verdict;
        let mut s = serializer.serialize_struct("CallVerdict", 21 + usize::from(self.evidence))?;
        s.serialize_field("account_id", account_id.as_str())?;
        s.serialize_field("session_id", session_id.as_str())?;
        s.serialize_field("revision", revision)?;
        s.serialize_field("verdict", verdict)?;
        s.serialize_field("disposition", disposition)?;
        s.serialize_field("previous_verdict", previous_verdict)?;
        s.serialize_field("cause", cause)?;
        s.serialize_field("ended_by", ended_by)?;
        s.serialize_field("snapshot_complete", snapshot_complete)?;
        s.serialize_field("started_at", &Rfc3339(*started_at))?;
        s.serialize_field("ended_at", &Rfc3339(*ended_at))?;
        s.serialize_field("decided_at", &Rfc3339(*decided_at))?;
        s.serialize_field("endpoints", &List(endpoints, EndpointJson))?;
        s.serialize_field("linked_sessions", &List(linked_sessions, SessionId::as_str))?;
        s.serialize_field("recorded_extensions", recorded_extensions)?;
        s.serialize_field("snapshot_size", snapshot_size)?;
        s.serialize_field("rules", rules)?;
        s.serialize_field("history", &List(history, RevisionJson))?;
        s.serialize_field("superseded_by", &superseded_by.as_ref().map(SessionId::as_str))?;
        s.serialize_field("endpoints_omitted", endpoints_omitted)?;
        s.serialize_field("position", position)?;
        if self.evidence {
            s.serialize_field("call", &CallJson(call))?;
        }
        s.end()
    }
}

struct EndpointJson<'a>(&'a JudgedEndpoint);

impl Serialize for EndpointJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let JudgedEndpoint { session_id, leg_id, number, extension_id, kind, standing, reason, answered, joined_at, left_at, known_since, known_by } =
            self.0;
        let mut s = serializer.serialize_struct("JudgedEndpoint", 12)?;
        s.serialize_field("session_id", &session_id.as_ref().map(SessionId::as_str))?;
        s.serialize_field("leg_id", leg_id.as_str())?;
        s.serialize_field("number", number)?;
        s.serialize_field("extension_id", extension_id)?;
        s.serialize_field("kind", kind)?;
        s.serialize_field("standing", standing)?;
        s.serialize_field("reason", reason)?;
        s.serialize_field("answered", answered)?;
        s.serialize_field("joined_at", &Rfc3339(*joined_at))?;
        s.serialize_field("left_at", &left_at.map(Rfc3339))?;
        s.serialize_field("known_since", &known_since.map(Rfc3339))?;
        s.serialize_field("known_by", known_by)?;
        s.end()
    }
}

struct RevisionJson<'a>(&'a Revision);

impl Serialize for RevisionJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Revision { revision, verdict, disposition, cause, decided_at } = self.0;
        let mut s = serializer.serialize_struct("Revision", 5)?;
        s.serialize_field("revision", revision)?;
        s.serialize_field("verdict", verdict)?;
        s.serialize_field("disposition", disposition)?;
        s.serialize_field("cause", cause)?;
        s.serialize_field("decided_at", &Rfc3339(*decided_at))?;
        s.end()
    }
}

struct CallJson<'a>(&'a Call);

impl Serialize for CallJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Call {
            legacy_session_ids,
            origin,
            started_at,
            last_event_at,
            media,
            final_end,
            final_by,
            highest_sequence,
            missing_sequences,
            links,
            legs,
            legs_dropped,
        } = self.0;
        let mut s = serializer.serialize_struct("Call", 12)?;
        s.serialize_field("legacy_session_ids", legacy_session_ids)?;
        s.serialize_field("origin", origin)?;
        s.serialize_field("started_at", &Rfc3339(*started_at))?;
        s.serialize_field("last_event_at", &Rfc3339(*last_event_at))?;
        s.serialize_field("media", media)?;
        s.serialize_field("final_end", &final_end.map(Rfc3339))?;
        s.serialize_field("final_by", final_by)?;
        s.serialize_field("highest_sequence", highest_sequence)?;
        s.serialize_field("missing_sequences", missing_sequences)?;
        s.serialize_field("links", &List(links, SessionId::as_str))?;
        s.serialize_field("legs", &List(legs, LegJson))?;
        s.serialize_field("legs_dropped", legs_dropped)?;
        s.end()
    }
}

struct LegJson<'a>(&'a Arc<CallLeg>);

impl Serialize for LegJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let CallLeg { leg_id, direction, extension_id, from, to, answered, over, recorded, joined_at, left_at, last_webhook_at } = &**self.0;
        let mut s = serializer.serialize_struct("CallLeg", 11)?;
        s.serialize_field("leg_id", leg_id.as_str())?;
        s.serialize_field("direction", direction)?;
        s.serialize_field("extension_id", extension_id)?;
        s.serialize_field("from", from)?;
        s.serialize_field("to", to)?;
        s.serialize_field("answered", answered)?;
        s.serialize_field("over", over)?;
        s.serialize_field("recorded", recorded)?;
        s.serialize_field("joined_at", &Rfc3339(*joined_at))?;
        s.serialize_field("left_at", &left_at.map(Rfc3339))?;
        s.serialize_field("last_webhook_at", &last_webhook_at.map(Rfc3339))?;
        s.end()
    }
}

impl Serialize for OpenCallJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let OpenCall { account_id, session_id, touched_at, over_since, position, call } = self.0;
        let mut s = serializer.serialize_struct("OpenCall", 6)?;
        s.serialize_field("account_id", account_id.as_str())?;
        s.serialize_field("session_id", session_id.as_str())?;
        s.serialize_field("touched_at", &Rfc3339(*touched_at))?;
        s.serialize_field("over_since", &over_since.map(Rfc3339))?;
        s.serialize_field("position", position)?;
        s.serialize_field("call", &CallJson(call))?;
        s.end()
    }
}

impl Serialize for NumberJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let CompanyNumber {
            account_id,
            number,
            kind,
            raw,
            first_seen_at,
            last_seen_at,
            queries,
            extension_id,
            previous_extension_ids,
            usage_type,
            contact_account_id,
            position,
        } = self.0;
        let mut s = serializer.serialize_struct("CompanyNumber", 12)?;
        s.serialize_field("account_id", account_id.as_str())?;
        s.serialize_field("number", number)?;
        s.serialize_field("kind", kind)?;
        s.serialize_field("raw", raw)?;
        s.serialize_field("first_seen_at", &Rfc3339(*first_seen_at))?;
        s.serialize_field("last_seen_at", &Rfc3339(*last_seen_at))?;
        s.serialize_field("queries", queries)?;
        s.serialize_field("extension_id", extension_id)?;
        s.serialize_field("previous_extension_ids", previous_extension_ids)?;
        s.serialize_field("usage_type", usage_type)?;
        s.serialize_field("contact_account_id", contact_account_id)?;
        s.serialize_field("position", position)?;
        s.end()
    }
}

impl Serialize for AccountJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let AccountState { account_id, settings, snapshot_completed_at, numbers, removed_at, removed_position, position } = self.0;
        let mut s = serializer.serialize_struct("AccountState", 7)?;
        s.serialize_field("account_id", account_id.as_str())?;
        s.serialize_field("settings", &settings.as_ref().map(SettingsJson))?;
        s.serialize_field("snapshot_completed_at", &snapshot_completed_at.map(Rfc3339))?;
        s.serialize_field("numbers", numbers)?;
        s.serialize_field("removed_at", &removed_at.map(Rfc3339))?;
        s.serialize_field("removed_position", removed_position)?;
        s.serialize_field("position", position)?;
        s.end()
    }
}

/// An account's settings.
pub struct SettingsJson<'a>(pub &'a AccountSettings);

impl Serialize for SettingsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let AccountSettings {
            account_id,
            filter_internal,
            country,
            trust_extension_id,
            recorded_extensions,
            queries,
            include_federated,
            excluded_usage_types,
            updated_at,
        } = self.0;
        let mut s = serializer.serialize_struct("AccountSettings", 9)?;
        s.serialize_field("account_id", account_id.as_str())?;
        s.serialize_field("filter_internal", filter_internal)?;
        s.serialize_field("country", country)?;
        s.serialize_field("trust_extension_id", trust_extension_id)?;
        s.serialize_field("recorded_extensions", recorded_extensions)?;
        s.serialize_field("queries", queries)?;
        s.serialize_field("include_federated", include_federated)?;
        s.serialize_field("excluded_usage_types", excluded_usage_types)?;
        s.serialize_field("updated_at", &Rfc3339(*updated_at))?;
        s.end()
    }
}

/// Items, each as the function shows it.
struct List<'a, T, F>(&'a [T], F);

impl<'a, T, J: Serialize, F: Fn(&'a T) -> J> Serialize for List<'a, T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(&self.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::arbitrary;
    use apache_avro::types::Value as Avro;
    use proptest::prelude::*;
    use serde_json::Value as Json;

    #[test]
    fn times_are_rfc_3339_in_utc_with_milliseconds() {
        for (ms, text) in [
            (1_795_552_112_000, "2026-11-24T20:28:32.000Z"),
            (0, "1970-01-01T00:00:00.000Z"),
            (7, "1970-01-01T00:00:00.007Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_120, "2000-02-29T00:00:00.120Z"),
            (YEAR_0, "0000-01-01T00:00:00.000Z"),
            (YEAR_0 - 1, "0000-01-01T00:00:00.000Z"),
            (i64::MIN, "0000-01-01T00:00:00.000Z"),
            (LAST + 1, "9999-12-30T22:00:00.000Z"),
            (i64::MAX, "9999-12-30T22:00:00.000Z"),
        ] {
            assert_eq!(rfc3339(ms).to_string(), text, "{ms}");
        }
    }

    /// The JSON shows what the Avro record says: every field of the schema under its name, and no other.
    fn shows(json: &Json, avro: &Avro, at: &str) -> Result<(), TestCaseError> {
        match (avro, json) {
            (Avro::Union(_, inner), _) => shows(json, inner, at)?,
            (Avro::Record(fields), Json::Object(object)) => {
                let names: Vec<_> = fields.iter().map(|(name, _)| name).collect();
                // (serde_json may sort the keys of an object that it reads.)
                let mut shown: Vec<_> = object.keys().collect();
                shown.sort_by_key(|key| names.iter().position(|name| name == key));
                prop_assert_eq!(shown, names, "fields of {}", at);
                for (name, value) in fields {
                    shows(&object[name], value, &format!("{at}.{name}"))?;
                }
            }
            (Avro::Array(items), Json::Array(shown)) => {
                prop_assert_eq!(items.len(), shown.len(), "{}", at);
                for (item, shown) in items.iter().zip(shown) {
                    shows(shown, item, at)?;
                }
            }
            (Avro::TimestampMillis(ms), Json::String(text)) => {
                prop_assert!(text.len() == 24 && text.ends_with('Z'), "{} is {}", at, text);
                prop_assert_eq!(text.parse::<Timestamp>().unwrap().as_millisecond(), *ms, "{}", at);
            }
            (Avro::Null, Json::Null) => {}
            (Avro::Boolean(a), Json::Bool(b)) => prop_assert_eq!(a, b, "{}", at),
            (Avro::Int(a), Json::Number(b)) => prop_assert_eq!(Some(i64::from(*a)), b.as_i64(), "{}", at),
            (Avro::Long(a), Json::Number(b)) => prop_assert_eq!(Some(*a), b.as_i64(), "{}", at),
            (Avro::String(a) | Avro::Enum(_, a), Json::String(b)) => prop_assert_eq!(a, b, "{}", at),
            _ => prop_assert!(false, "{} is {} for {:?}", at, json, avro),
        }
        Ok(())
    }

    /// As a reader gets it.
    fn written(json: impl Serialize) -> Json {
        serde_json::from_slice(&serde_json::to_vec(&json).unwrap()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        #[test]
        fn a_verdict_shows_its_schema_and_its_evidence_only_when_asked((avro, verdict) in arbitrary::record::<CallVerdict>()) {
            shows(&written(VerdictJson { verdict: &verdict, evidence: true }), &avro, "CallVerdict")?;
            let Avro::Record(mut fields) = avro else { panic!("a record") };
            fields.retain(|(name, _)| name != "call");
            shows(&written(VerdictJson { verdict: &verdict, evidence: false }), &Avro::Record(fields), "CallVerdict")?;
        }

        #[test]
        fn a_number_shows_its_schema((avro, number) in arbitrary::record::<CompanyNumber>()) {
            shows(&written(NumberJson(&number)), &avro, "CompanyNumber")?;
        }

        #[test]
        fn an_account_shows_its_schema((avro, account) in arbitrary::record::<AccountState>()) {
            shows(&written(AccountJson(&account)), &avro, "AccountState")?;
        }

        #[test]
        fn an_open_call_shows_its_schema((avro, call) in arbitrary::record::<OpenCall>()) {
            shows(&written(OpenCallJson(&call)), &avro, "OpenCall")?;
        }
    }
}
