//! Records as bytes: Avro in its single-object encoding (0xC3 0x01, 8-byte fingerprint of the schema, datum).
//!
//! A reader finds the writer's schema by that fingerprint, so a record that an earlier version wrote is read as it was
//! written; fields that it lacks take their defaults (`#[serde(default)]`).

use super::{
    AccountRemoved, AccountSettings, AccountState, CallLegs, CallVerdict, CompanyNumber, DirectoryChanged, Event, NumbersObserved, OpenCall, Rejudge,
    SnapshotCompleted, Tick,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_avro_fast::Schema;
use std::sync::LazyLock;

/// Why bytes are no record.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Not framed.
    #[error("not an Avro single object: the value does not begin with C3 01 and a fingerprint")]
    NotFramed,
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
    /// The record cannot be written.
    #[error("{record} cannot be encoded: {reason}")]
    Unencodable {
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
pub trait Decoded: Serialize + DeserializeOwned {
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

struct Known {
    record: Record,
    schema: Schema,
}

static KNOWN: LazyLock<Vec<Known>> = LazyLock::new(|| {
    Record::ALL
        .into_iter()
        .map(|record| Known { record, schema: record.schema_json().parse().expect("the schemas are compiled in and tested") })
        .collect()
});

const HEADER: usize = 10;

fn known(record: Record) -> &'static Known {
    &KNOWN[record as usize]
}

/// The writer's schema, and the datum behind the header.
fn open(bytes: &[u8]) -> Result<(&'static Known, &[u8]), CodecError> {
    let Some((header, datum)) = bytes.split_at_checked(HEADER).filter(|(header, _)| header.starts_with(&[0xC3, 0x01])) else {
        return Err(CodecError::NotFramed);
    };
    let fingerprint: [u8; 8] = header[2..].try_into().expect("8 bytes are left of 10");
    KNOWN
        .iter()
        .find(|known| known.schema.rabin_fingerprint() == &fingerprint)
        .map(|known| (known, datum))
        .ok_or(CodecError::UnknownSchema(u64::from_le_bytes(fingerprint)))
}

fn datum<T: Decoded>(bytes: &[u8], schema: &Schema) -> Result<T, CodecError> {
    serde_avro_fast::from_datum_slice(bytes, schema).map_err(|e| CodecError::Broken { record: T::RECORD.name(), reason: e.to_string() })
}

/// Reads a record of type `T`.
pub fn decode<T: Decoded>(bytes: &[u8]) -> Result<T, CodecError> {
    let (known, body) = open(bytes)?;
    if known.record != T::RECORD {
        return Err(CodecError::OtherRecord { found: known.record.name(), wanted: T::RECORD.name() });
    }
    datum(body, &known.schema)
}

/// Writes a record.
pub fn encode<T: Decoded>(value: &T) -> Result<Vec<u8>, CodecError> {
    let schema = &known(T::RECORD).schema;
    let mut bytes = Vec::with_capacity(512);
    bytes.extend_from_slice(&[0xC3, 0x01]);
    bytes.extend_from_slice(schema.rabin_fingerprint());
    serde_avro_fast::to_datum(value, bytes, &mut serde_avro_fast::ser::SerializerConfig::new(schema))
        .map_err(|e| CodecError::Unencodable { record: T::RECORD.name(), reason: e.to_string() })
}

/// Reads an event of the input log.
pub fn decode_event(bytes: &[u8]) -> Result<Event, CodecError> {
    let (known, body) = open(bytes)?;
    Ok(match known.record {
        Record::CallLegs => Event::CallLegs(datum(body, &known.schema)?),
        Record::DirectoryChanged => Event::DirectoryChanged(datum(body, &known.schema)?),
        Record::NumbersObserved => Event::NumbersObserved(datum(body, &known.schema)?),
        Record::SnapshotCompleted => Event::SnapshotCompleted(datum(body, &known.schema)?),
        Record::AccountSettings => Event::AccountSettings(datum(body, &known.schema)?),
        Record::AccountRemoved => Event::AccountRemoved(datum(body, &known.schema)?),
        Record::Rejudge => Event::Rejudge(datum(body, &known.schema)?),
        Record::Tick => Event::Tick(datum(body, &known.schema)?),
        output => return Err(CodecError::OtherRecord { found: output.name(), wanted: "record of the input log" }),
    })
}

/// Writes an event of the input log.
pub fn encode_event(event: &Event) -> Result<Vec<u8>, CodecError> {
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
