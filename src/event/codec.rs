//! Records as bytes: Avro in its single-object encoding (0xC3 0x01, 8-byte fingerprint of the schema, datum).
//!
//! A reader finds the writer's schema by that fingerprint. What this version wrote is read field after field ([`super::datum`]); a record that
//! an earlier version wrote is read as it was written, by names; fields that it lacks take their defaults (`#[serde(default)]`).

use super::datum::{Datum, read_gist, read_whole};
use super::{
    AccountRemoved, AccountSettings, AccountState, CallLegs, CallVerdict, CompanyNumber, DirectoryChanged, Event, Facts, NumbersObserved, OpenCall,
    Rejudge, SnapshotCompleted, Tick, VerdictGist,
};
use serde::de::DeserializeOwned;
use serde_avro_fast::Schema;
use std::sync::LazyLock;

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not framed.
    #[error("not an Avro single object: the value does not begin with C3 01 and a fingerprint")]
    NotFramed,
    /// Framed for a schema registry, which the log takes care of where it has one.
    #[error("the value is in a schema registry's wire format, with the schema id {0}: to read it, name the registry (--schema-registry)")]
    WireFormat(u32),
    /// A schema that this version doesn't know.
    #[error("schema fingerprint {0:016x} is unknown")]
    UnknownSchema(u64),
    /// Another record than the caller asked for.
    #[error("the value is a {found}, not a {wanted}")]
    OtherRecord {
        /// What it is.
        found: &'static str,
        /// What it should be.
        wanted: &'static str,
    },
    /// The datum is broken, or a value in it is out of its bounds.
    #[error("broken {record}: {reason}")]
    Broken {
        /// The record's name.
        record: &'static str,
        /// What is wrong.
        reason: String,
    },
}

/// Every record that stands on a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the record of that name")]
pub enum Record {
    CallLegs,
    DirectoryChanged,
    NumbersObserved,
    SnapshotCompleted,
    AccountSettings,
    AccountRemoved,
    Rejudge,
    Tick,
    CompanyNumber,
    CallVerdict,
    AccountState,
    OpenCall,
}

impl Record {
    /// Its full name.
    #[must_use]
    pub fn full_name(self) -> String {
        format!("{NAMESPACE}.{}", self.name())
    }

    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::CallLegs,
        Self::DirectoryChanged,
        Self::NumbersObserved,
        Self::SnapshotCompleted,
        Self::AccountSettings,
        Self::AccountRemoved,
        Self::Rejudge,
        Self::Tick,
        Self::CompanyNumber,
        Self::CallVerdict,
        Self::AccountState,
        Self::OpenCall,
    ];

    /// Its name, as in the schema.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::CallLegs => "CallLegs",
            Self::DirectoryChanged => "DirectoryChanged",
            Self::NumbersObserved => "NumbersObserved",
            Self::SnapshotCompleted => "SnapshotCompleted",
            Self::AccountSettings => "AccountSettings",
            Self::AccountRemoved => "AccountRemoved",
            Self::Rejudge => "Rejudge",
            Self::Tick => "Tick",
            Self::CompanyNumber => "CompanyNumber",
            Self::CallVerdict => "CallVerdict",
            Self::AccountState => "AccountState",
            Self::OpenCall => "OpenCall",
        }
    }

    /// Its schema, as JSON.
    #[must_use]
    pub fn schema_json(self) -> &'static str {
        match self {
            Self::CallLegs => include_str!("../../schemas/CallLegs.avsc"),
            Self::DirectoryChanged => include_str!("../../schemas/DirectoryChanged.avsc"),
            Self::NumbersObserved => include_str!("../../schemas/NumbersObserved.avsc"),
            Self::SnapshotCompleted => include_str!("../../schemas/SnapshotCompleted.avsc"),
            Self::AccountSettings => include_str!("../../schemas/AccountSettings.avsc"),
            Self::AccountRemoved => include_str!("../../schemas/AccountRemoved.avsc"),
            Self::Rejudge => include_str!("../../schemas/Rejudge.avsc"),
            Self::Tick => include_str!("../../schemas/Tick.avsc"),
            Self::CompanyNumber => include_str!("../../schemas/CompanyNumber.avsc"),
            Self::CallVerdict => include_str!("../../schemas/CallVerdict.avsc"),
            Self::AccountState => include_str!("../../schemas/AccountState.avsc"),
            Self::OpenCall => include_str!("../../schemas/OpenCall.avsc"),
        }
    }
}

/// A type that is a record on a topic.
pub trait Decoded: for<'a> Datum<'a> + DeserializeOwned {
    /// Which one.
    const RECORD: Record;
}

macro_rules! decoded {
    ($($name:ident),*) => { $(impl Decoded for $name { const RECORD: Record = Record::$name; })* };
}
decoded!(
    CallLegs,
    DirectoryChanged,
    NumbersObserved,
    SnapshotCompleted,
    AccountSettings,
    AccountRemoved,
    Rejudge,
    Tick,
    CompanyNumber,
    CallVerdict,
    AccountState,
    OpenCall
);

/// A schema that records were written with.
struct Written {
    record: Record,
    fingerprint: [u8; 8],
    /// `None`: this version's own, read field after field.
    by_name: Option<Schema>,
}

/// The namespace of all records.
const NAMESPACE: &str = "callsieve.v1";
/// Schemas of earlier versions.
pub const EARLIER: [(Record, &str); 3] = [
    (Record::CallVerdict, include_str!("../../schemas/earlier/CallVerdict-1.avsc")),
    (Record::OpenCall, include_str!("../../schemas/earlier/OpenCall-1.avsc")),
    (Record::Rejudge, include_str!("../../schemas/earlier/Rejudge-1.avsc")),
];

/// First this version's, each in the place of its record.
static WRITTEN: LazyLock<Vec<Written>> = LazyLock::new(|| {
    let parse = |json: &str| -> Schema { json.parse().expect("the schemas are compiled in and tested") };
    let now = Record::ALL.into_iter().map(|record| (record, parse(record.schema_json()), false));
    let earlier = EARLIER.into_iter().map(|(record, json)| (record, parse(json), true));
    now.chain(earlier)
        .map(|(record, schema, is_earlier)| Written { record, fingerprint: *schema.rabin_fingerprint(), by_name: is_earlier.then_some(schema) })
        .collect()
});

const MARKER: [u8; 2] = [0xC3, 0x01];
/// Bytes before the datum.
pub const HEADER: usize = 10;

/// The header of what this version writes.
#[must_use]
pub fn header_of(record: Record) -> [u8; HEADER] {
    header(&WRITTEN[record as usize])
}

fn header(written: &Written) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    let (marker, fingerprint) = header.split_at_mut(MARKER.len());
    marker.copy_from_slice(&MARKER);
    fingerprint.copy_from_slice(&written.fingerprint);
    header
}

/// The record with this full name.
pub(super) fn record_named(name: &str) -> Option<Record> {
    let short = name.strip_prefix(NAMESPACE)?.strip_prefix('.')?;
    Record::ALL.into_iter().find(|record| record.name() == short)
}

/// The header of a schema, if it is one of those that this version knows.
pub(super) fn same_as(record: Record, schema: &Schema) -> Option<[u8; HEADER]> {
    WRITTEN.iter().find(|written| written.record == record && written.fingerprint == *schema.rabin_fingerprint()).map(header)
}

/// The writer's schema, and the datum behind the header.
fn open(bytes: &[u8]) -> Result<(&'static Written, &[u8]), CodecError> {
    if let [0, a, b, c, d, ..] = *bytes {
        return Err(CodecError::WireFormat(u32::from_be_bytes([a, b, c, d])));
    }
    let (header, datum) = bytes.split_first_chunk::<HEADER>().ok_or(CodecError::NotFramed)?;
    let fingerprint: [u8; 8] = match header {
        [0xC3, 0x01, fingerprint @ ..] => *fingerprint,
        _ => return Err(CodecError::NotFramed),
    };
    WRITTEN
        .iter()
        .find(|written| written.fingerprint == fingerprint)
        .map(|written| (written, datum))
        .ok_or(CodecError::UnknownSchema(u64::from_le_bytes(fingerprint)))
}

fn read<T: Decoded>(datum: &[u8], written: &Written) -> Result<T, CodecError> {
    match &written.by_name {
        None => read_whole(datum).map_err(|e| broken(T::RECORD, &e)),
        Some(schema) => serde_avro_fast::from_datum_slice(datum, schema).map_err(|e| broken(T::RECORD, &e)),
    }
}

fn broken(record: Record, reason: &dyn std::error::Error) -> CodecError {
    CodecError::Broken { record: record.name(), reason: reason.to_string() }
}

/// Which record these bytes are, by their header alone.
///
/// # Errors
/// If they don't begin with the header of a schema that this version knows.
pub fn record_of(bytes: &[u8]) -> Result<Record, CodecError> {
    open(bytes).map(|(written, _)| written.record)
}

/// Reads a record of type `T`.
///
/// # Errors
/// If the bytes are no record that this version knows, or another one, or broken.
pub fn decode<T: Decoded>(bytes: &[u8]) -> Result<T, CodecError> {
    let (written, datum) = open(bytes)?;
    if written.record != T::RECORD {
        return Err(CodecError::OtherRecord { found: written.record.name(), wanted: T::RECORD.name() });
    }
    read(datum, written)
}

/// Reads what the indices need of a [`CallVerdict`], in less than half the time that the whole takes.
///
/// # Errors
/// As [`decode`], as far as it looks.
pub fn decode_gist(bytes: &[u8]) -> Result<VerdictGist, CodecError> {
    match open(bytes)? {
        (Written { record: Record::CallVerdict, by_name: None, .. }, datum) => read_gist(datum).map_err(|e| broken(Record::CallVerdict, &e)),
        _ => decode::<CallVerdict>(bytes).map(VerdictGist::from),
    }
}

/// Writes a record.
#[must_use]
pub fn encode<T: Decoded>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    encode_onto(value, &mut bytes);
    bytes
}

/// Writes a record behind what is there.
pub fn encode_onto<T: Decoded>(value: &T, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(&MARKER);
    bytes.extend_from_slice(&WRITTEN[T::RECORD as usize].fingerprint);
    value.write(bytes);
}

/// Reads an event of the input log.
///
/// # Errors
/// If the bytes are no record of the input log that this version knows, or broken.
pub fn decode_event(bytes: &[u8]) -> Result<Event, CodecError> {
    let (written, datum) = open(bytes)?;
    Ok(match written.record {
        Record::CallLegs => Event::CallLegs(read(datum, written)?),
        Record::DirectoryChanged => Event::DirectoryChanged(read(datum, written)?),
        Record::NumbersObserved => Event::NumbersObserved(read(datum, written)?),
        Record::SnapshotCompleted => Event::SnapshotCompleted(read(datum, written)?),
        Record::AccountSettings => Event::AccountSettings(read(datum, written)?),
        Record::AccountRemoved => Event::AccountRemoved(read(datum, written)?),
        Record::Rejudge => Event::Rejudge(read(datum, written)?),
        Record::Tick => Event::Tick(read(datum, written)?),
        output => return Err(CodecError::OtherRecord { found: output.name(), wanted: "record of the input log" }),
    })
}

/// Reads what a record says about a call where it stands; `None` for any other record, and for one that another version wrote ([`decode_event`]).
#[must_use]
pub fn decode_facts(bytes: &[u8]) -> Option<Result<Facts<'_>, CodecError>> {
    match open(bytes) {
        Ok((Written { record: Record::CallLegs, by_name: None, .. }, datum)) => Some(read_whole(datum).map_err(|e| broken(Record::CallLegs, &e))),
        _ => None,
    }
}

/// Writes an event of the input log.
#[must_use]
pub fn encode_event(event: &Event) -> Vec<u8> {
    match event {
        Event::CallLegs(e) => encode(e),
        Event::DirectoryChanged(e) => encode(e),
        Event::NumbersObserved(e) => encode(e),
        Event::SnapshotCompleted(e) => encode(e),
        Event::AccountSettings(e) => encode(e),
        Event::AccountRemoved(e) => encode(e),
        Event::Rejudge(e) => encode(e),
        Event::Tick(e) => encode(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{AccountId, CallSource, ChangeKind, Direction, DirectoryResource, Media, NumberQuery, arbitrary};
    use apache_avro::types::Value;
    use apache_avro::writer::datum::GenericDatumWriter;
    use apache_avro::{GenericSingleObjectReader, Schema as Apache};
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use std::fmt::Debug;

    fn tick() -> Tick {
        Tick { at: 1_795_552_112_000 }
    }

    /// What apache-avro writes we read; what we then write apache-avro reads as the same value, and we as the same record.
    fn agrees_with_apache_avro<T: Decoded + Debug + PartialEq>() {
        let schema = arbitrary::schema(T::RECORD);
        let reader = GenericSingleObjectReader::builder().schema(schema.clone()).header(arbitrary::header(T::RECORD)).build().unwrap();
        TestRunner::new(Config::with_cases(64))
            .run(&arbitrary::value(T::RECORD), |value| {
                let theirs = arbitrary::bytes_of(T::RECORD, &schema, &value);
                let record: T = decode(&theirs).map_err(|e| TestCaseError::fail(e.to_string()))?;
                let ours = encode(&record);
                prop_assert_eq!(reader.read_value(&mut ours.as_slice()).unwrap(), value);
                prop_assert_eq!(decode::<T>(&ours).unwrap(), record);
                Ok(())
            })
            .unwrap_or_else(|e| panic!("{}: {e}", T::RECORD.name()));
    }

    #[test]
    fn facts_that_stay_where_they_stand_are_those_of_the_whole() {
        TestRunner::new(Config::with_cases(256))
            .run(&arbitrary::record::<CallLegs>(), |(_, legs)| {
                let bytes = encode(&legs);
                prop_assert_eq!(decode_facts(&bytes).unwrap().unwrap(), legs.facts());
                let mut broken: Vec<Vec<u8>> = (HEADER..bytes.len()).map(|end| bytes[..end].to_vec()).collect();
                broken.push([&bytes[..], b"x"].concat());
                for place in HEADER..bytes.len() {
                    broken.push([&bytes[..place], &[0xff], &bytes[place + 1..]].concat());
                }
                for bytes in broken {
                    let facts = decode_facts(&bytes).unwrap().map_err(|error| error.to_string());
                    let whole = decode_event(&bytes).map_err(|error| error.to_string());
                    let Ok(Event::CallLegs(whole)) = whole else {
                        prop_assert_eq!(facts.unwrap_err(), whole.unwrap_err());
                        continue;
                    };
                    prop_assert_eq!(facts.unwrap(), whole.facts());
                }
                Ok(())
            })
            .unwrap();
        assert!(decode_facts(&encode(&tick())).is_none());
    }

    #[test]
    fn a_verdicts_gist_is_that_of_the_whole() {
        TestRunner::new(Config::with_cases(256))
            .run(&arbitrary::record::<CallVerdict>(), |(_, verdict)| {
                let bytes = encode(&verdict);
                prop_assert_eq!(decode_gist(&bytes).unwrap(), VerdictGist::from(verdict));
                for end in 0..bytes.len() {
                    prop_assert!(decode_gist(&bytes[..end]).is_err(), "cut short at {end}");
                }
                Ok(())
            })
            .unwrap();
    }

    #[test]
    fn every_record_is_read_and_written_as_apache_avro_does() {
        agrees_with_apache_avro::<CallLegs>();
        agrees_with_apache_avro::<DirectoryChanged>();
        agrees_with_apache_avro::<NumbersObserved>();
        agrees_with_apache_avro::<SnapshotCompleted>();
        agrees_with_apache_avro::<AccountSettings>();
        agrees_with_apache_avro::<AccountRemoved>();
        agrees_with_apache_avro::<Rejudge>();
        agrees_with_apache_avro::<Tick>();
        agrees_with_apache_avro::<CompanyNumber>();
        agrees_with_apache_avro::<CallVerdict>();
        agrees_with_apache_avro::<AccountState>();
        agrees_with_apache_avro::<OpenCall>();
    }

    #[test]
    fn every_event_of_the_input_log_comes_back() {
        for record in Record::ALL {
            let schema = arbitrary::schema(record);
            TestRunner::new(Config::with_cases(16))
                .run(&arbitrary::value(record), |value| {
                    let bytes = arbitrary::bytes_of(record, &schema, &value);
                    match decode_event(&bytes) {
                        Ok(event) => prop_assert_eq!(decode_event(&encode_event(&event)).unwrap(), event),
                        Err(CodecError::OtherRecord { found, .. }) => {
                            prop_assert_eq!(found, record.name());
                            prop_assert!(["CompanyNumber", "CallVerdict", "AccountState", "OpenCall"].contains(&found));
                        }
                        Err(e) => prop_assert!(false, "{}", e),
                    }
                    Ok(())
                })
                .unwrap();
        }
    }

    #[test]
    fn the_header_is_c3_01_and_the_rabin_fingerprint_of_the_schema() {
        for (index, record) in Record::ALL.into_iter().enumerate() {
            assert_eq!(record as usize, index, "{record:?} stands in ALL in its own place");
            let schema = arbitrary::schema(record);
            assert_eq!(schema.name().unwrap().to_string(), format!("callsieve.v1.{}", record.name()));
            assert_eq!(arbitrary::header(record), [&[0xC3, 0x01], WRITTEN[index].fingerprint.as_slice()].concat(), "{record:?}");
        }
        assert_eq!(encode(&tick())[..HEADER], *arbitrary::header(Record::Tick));
    }

    #[test]
    fn what_is_not_framed_is_rejected() {
        for bytes in [b"".as_slice(), b"\xC3", b"\xC3\x01", b"\xC3\x01\0\0\0\0\0\0\0", b"\0\0\0\0", b"{\"account_id\":\"1\"}"] {
            assert!(matches!(decode::<Tick>(bytes), Err(CodecError::NotFramed)), "{bytes:?}");
            assert!(matches!(decode_event(bytes), Err(CodecError::NotFramed)), "{bytes:?}");
        }
    }

    #[test]
    fn a_value_framed_for_a_registry_is_rejected_and_says_what_is_needed() {
        for bytes in [b"\0\0\0\0\x07".as_slice(), b"\0\0\0\0\x07abcdefgh"] {
            let said = decode_event(bytes).unwrap_err().to_string();
            assert!(said.contains("schema id 7") && said.contains("--schema-registry"), "{said}");
        }
    }

    #[test]
    fn an_unknown_fingerprint_is_rejected_and_named() {
        let mut bytes = encode(&tick());
        bytes[2..HEADER].copy_from_slice(&0x0123_4567_89ab_cdef_u64.to_le_bytes());
        assert_eq!(decode::<Tick>(&bytes).unwrap_err().to_string(), "schema fingerprint 0123456789abcdef is unknown");
        assert!(matches!(decode_event(&bytes), Err(CodecError::UnknownSchema(0x0123_4567_89ab_cdef))));
    }

    #[test]
    fn another_record_is_rejected_and_named() {
        let error = decode::<Rejudge>(&encode(&tick())).unwrap_err();
        assert_eq!(error.to_string(), "the value is a Tick, not a Rejudge");
    }

    #[test]
    fn a_datum_cut_short_anywhere_is_rejected() {
        let removed = AccountRemoved { account_id: AccountId::parse("809646016").unwrap(), removed_at: 1_795_552_112_000 };
        let bytes = encode(&removed);
        for cut in HEADER..bytes.len() {
            let error = decode::<AccountRemoved>(&bytes[..cut]).unwrap_err();
            assert!(matches!(error, CodecError::Broken { record: "AccountRemoved", .. }), "{cut}: {error}");
        }
        assert_eq!(decode::<AccountRemoved>(&bytes).unwrap(), removed);
    }

    #[test]
    fn no_bytes_behind_a_header_panic_or_take_memory_that_is_not_there() {
        for header in WRITTEN.iter().map(|written| written.fingerprint) {
            // A length of 2^62, wherever the reader takes it for one.
            let huge = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01];
            let _ = decode_event(&[&[0xC3, 0x01], header.as_slice(), &huge].concat());
            TestRunner::new(Config::with_cases(256))
                .run(&prop::collection::vec(any::<u8>(), 0..200), |datum| {
                    let bytes = [&[0xC3, 0x01], header.as_slice(), &datum].concat();
                    let _ = (decode_event(&bytes), decode::<CallVerdict>(&bytes), decode::<OpenCall>(&bytes));
                    let _ = (decode::<CompanyNumber>(&bytes), decode::<AccountState>(&bytes));
                    Ok(())
                })
                .unwrap();
        }
    }

    /// A value of the record that has this in the field.
    fn with(record: Record, name: &str, value: &Value) -> Vec<u8> {
        let fields = arbitrary::value(record)
            .prop_map(|value| match value {
                Value::Record(fields) => fields,
                other => panic!("{other:?} is no record"),
            })
            .new_tree(&mut TestRunner::deterministic())
            .unwrap();
        let mut fields = prop::strategy::ValueTree::current(&fields);
        fields.iter_mut().find(|(field, _)| field == name).unwrap().1 = value.clone();
        arbitrary::bytes_of(record, &arbitrary::schema(record), &Value::Record(fields))
    }

    #[test]
    fn an_id_out_of_its_bounds_is_rejected() {
        let (long_account, long_session) = ("9".repeat(65), "s".repeat(257));
        for (field, bad) in [
            ("account_id", ""),
            ("account_id", "8/9"),
            ("account_id", "8\0"),
            ("account_id", long_account.as_str()),
            ("session_id", ""),
            ("session_id", "s-1\n"),
            ("session_id", "s\u{7f}"),
            ("session_id", long_session.as_str()),
        ] {
            let error = decode::<Rejudge>(&with(Record::Rejudge, field, &Value::String(bad.to_owned()))).unwrap_err();
            assert!(matches!(error, CodecError::Broken { record: "Rejudge", .. }), "{field} {bad:?}: {error}");
        }
    }

    /// The record's field, read from bytes whose schema has a symbol that this version doesn't know.
    fn unknown_symbol<T: Decoded>(enumeration: &str, field: &str) -> T {
        let json = T::RECORD.schema_json();
        let mut tree: serde_json::Value = serde_json::from_str(json).unwrap();
        let mut symbols = 0;
        add_symbol(&mut tree, enumeration, &mut symbols);
        assert!(symbols > 0, "{} has no {enumeration}", T::RECORD.name());
        let newer: Schema = tree.to_string().parse().unwrap();
        let fresh = Value::Enum(u32::try_from(symbols).unwrap(), "FROM_THE_FUTURE".to_owned());
        let value = arbitrary::value(T::RECORD).new_tree(&mut TestRunner::deterministic()).unwrap();
        let Value::Record(mut fields) = prop::strategy::ValueTree::current(&value) else { panic!("a record") };
        fields.iter_mut().find(|(name, _)| name == field).unwrap().1 = fresh;
        let bytes = arbitrary::bytes_of(T::RECORD, &Apache::parse_str(&tree.to_string()).unwrap(), &Value::Record(fields));
        serde_avro_fast::from_datum_slice(&bytes[HEADER..], &newer).unwrap()
    }

    fn add_symbol(tree: &mut serde_json::Value, enumeration: &str, symbols: &mut usize) {
        match tree {
            serde_json::Value::Object(object) => {
                if object.get("name").is_some_and(|name| name == enumeration)
                    && let Some(serde_json::Value::Array(known)) = object.get_mut("symbols")
                {
                    *symbols = known.len();
                    known.push("FROM_THE_FUTURE".into());
                }
                object.values_mut().for_each(|inner| add_symbol(inner, enumeration, symbols));
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(|inner| add_symbol(inner, enumeration, symbols)),
            _ => {}
        }
    }

    #[test]
    fn a_symbol_that_this_version_does_not_know_is_read_as_the_catch_all() {
        assert_eq!(unknown_symbol::<CallLegs>("CallSource", "source").source, CallSource::Unknown);
        assert_eq!(unknown_symbol::<CallLegs>("Media", "media").media, Media::Other);
        assert_eq!(unknown_symbol::<DirectoryChanged>("DirectoryResource", "resource").resource, DirectoryResource::Unknown);
        assert_eq!(unknown_symbol::<DirectoryChanged>("ChangeKind", "change").change, ChangeKind::Unknown);
        assert_eq!(unknown_symbol::<NumbersObserved>("NumberQuery", "query").query, NumberQuery::Unknown);
        assert_eq!(unknown_symbol::<CompanyNumber>("NumberKind", "kind").kind, crate::event::NumberKind::Phone);
        let verdict = unknown_symbol::<CallVerdict>("RevisionCause", "cause");
        assert_eq!(verdict.cause, crate::event::RevisionCause::Unknown);
        let verdict = unknown_symbol::<CallVerdict>("EndedBy", "ended_by");
        assert_eq!(verdict.ended_by, crate::event::EndedBy::Unknown);
        let verdict = unknown_symbol::<CallVerdict>("Disposition", "disposition");
        assert_eq!(verdict.disposition, crate::event::Disposition::Ingest, "what is not known to be disregarded is ingested");
        assert_eq!(serde_json::from_str::<Direction>("\"SIDEWAYS\"").unwrap(), Direction::Unknown);
    }

    #[test]
    fn what_an_earlier_version_wrote_is_read_and_what_it_lacks_takes_its_default() {
        for (written, (record, json)) in WRITTEN[Record::ALL.len()..].iter().zip(EARLIER) {
            let schema = Apache::parse_str(json).unwrap();
            TestRunner::new(Config::with_cases(64))
                .run(&arbitrary::value_of("", &schema, &mut std::collections::HashMap::new()), |value| {
                    let datum = GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(value.clone()).unwrap();
                    let bytes = [MARKER.as_slice(), &written.fingerprint, &datum].concat();
                    if record == Record::Rejudge {
                        prop_assert_eq!(decode::<Rejudge>(&bytes).unwrap().rules, None);
                        return Ok(());
                    }
                    let call = match record {
                        Record::CallVerdict => decode::<CallVerdict>(&bytes).unwrap().call,
                        _ => decode::<OpenCall>(&bytes).unwrap().call,
                    };
                    prop_assert_eq!(call.final_by, None);
                    let Value::Record(fields) = value else { panic!("a record") };
                    let Value::Record(of_call) = &fields.iter().find(|(name, _)| name == "call").unwrap().1 else { panic!("a record") };
                    let Value::Array(legs) = &of_call.iter().find(|(name, _)| name == "legs").unwrap().1 else { panic!("a list") };
                    prop_assert_eq!(call.legs.len(), legs.len());
                    Ok(())
                })
                .unwrap();
        }
    }
}
