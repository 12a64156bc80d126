//! Avro's binary form of the records, field after field in the order of this version's schemas, without names.
//!
//! Nearly all that is read was written by this version, and a reader that finds each field by its name takes four times as long
//! (docs/performance.md). What another version wrote is read by its own schema, in [`super::codec`].
//!
//! The schemas use few forms, and these are all: records, arrays, enums, texts, integers, booleans, and unions of null and one of these.

use super::{
    AccountId, AccountRemoved, AccountSettings, AccountState, Call, CallLeg, CallLegs, CallSource, CallVerdict, ChangeKind, CompanyNumber, Direction,
    DirectoryChanged, DirectoryResource, Disposition, EndedBy, Endpoint, EndpointKind, IdRef, JudgedEndpoint, Leg, LegId, Media, NumberKind,
    NumberQuery, NumbersObserved, ObservedNumber, OpenCall, Rejudge, Revision, RevisionCause, SessionId, Side, SnapshotCompleted, Standing,
    StandingReason, Tick, Verdict, VerdictGist,
};
use compact_str::CompactString;
use smallvec::{Array, SmallVec};
use std::sync::Arc;

/// Why bytes are no datum of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatumError {
    /// They end within a value.
    #[error("it is cut short")]
    CutShort,
    /// More follows than the record.
    #[error("{0} bytes follow its end")]
    Surplus(usize),
    /// A number that its type cannot hold, a union or an enum without such a branch.
    #[error("a value is out of its range")]
    OutOfRange,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    NotUtf8,
    /// A text is no identifier; why not.
    #[error("an id is not usable: {0}")]
    Id(&'static str),
}

/// A value as Avro writes it. What it is read from may be where its texts stay.
pub trait Datum<'a>: Sized {
    /// Takes it from the front of `bytes`.
    ///
    /// # Errors
    /// If they don't begin with one.
    fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError>;
    /// Takes it from the front of `bytes`, and makes nothing of it. Texts are not looked into.
    ///
    /// # Errors
    /// As [`Datum::read`], except for what is wrong within a text.
    fn skip(bytes: &mut &'a [u8]) -> Result<(), DatumError> {
        Self::read(bytes).map(drop)
    }
    /// Adds it to `bytes`.
    fn write(&self, bytes: &mut Vec<u8>);
}

/// The one value that these bytes are.
///
/// # Errors
/// If they are none, or more follows it.
pub fn read_whole<'a, T: Datum<'a>>(mut bytes: &'a [u8]) -> Result<T, DatumError> {
    let value = T::read(&mut bytes)?;
    if bytes.is_empty() { Ok(value) } else { Err(DatumError::Surplus(bytes.len())) }
}

#[inline]
fn read_byte(bytes: &mut &[u8]) -> Result<u8, DatumError> {
    let (byte, rest) = bytes.split_first().ok_or(DatumError::CutShort)?;
    *bytes = rest;
    Ok(*byte)
}

#[inline]
fn read_bytes<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], DatumError> {
    let length = usize::try_from(i64::read(bytes)?).map_err(|_| DatumError::OutOfRange)?;
    let (read, rest) = bytes.split_at_checked(length).ok_or(DatumError::CutShort)?;
    *bytes = rest;
    Ok(read)
}

#[inline]
fn read_text<'a>(bytes: &mut &'a [u8]) -> Result<&'a str, DatumError> {
    std::str::from_utf8(read_bytes(bytes)?).map_err(|_| DatumError::NotUtf8)
}

fn write_text(text: &str, bytes: &mut Vec<u8>) {
    write_length(text.len(), bytes);
    bytes.extend_from_slice(text.as_bytes());
}

fn write_length(length: usize, bytes: &mut Vec<u8>) {
    i64::try_from(length).unwrap_or(i64::MAX).write(bytes);
}

/// Little endian groups of seven bits, the sign in the lowest one.
impl<'a> Datum<'a> for i64 {
    #[inline]
    fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError> {
        let mut value: u64 = 0;
        for shift in (0..64).step_by(7) {
            let byte = read_byte(bytes)?;
            if shift == 63 && byte > 1 {
                return Err(DatumError::OutOfRange);
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(DatumError::OutOfRange)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        let mut value = (self << 1 ^ self >> 63).cast_unsigned();
        while value >= 0x80 {
            bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        bytes.push(value.to_le_bytes()[0]);
    }
}

impl<'a> Datum<'a> for i32 {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError> {
        i32::try_from(i64::read(bytes)?).map_err(|_| DatumError::OutOfRange)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        i64::from(*self).write(bytes);
    }
}

impl<'a> Datum<'a> for bool {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError> {
        match read_byte(bytes)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DatumError::OutOfRange),
        }
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(*self));
    }
}

impl<'a> Datum<'a> for CompactString {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError> {
        <&str>::read(bytes).map(Self::new)
    }

    fn skip(bytes: &mut &'a [u8]) -> Result<(), DatumError> {
        <&str>::skip(bytes)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        self.as_str().write(bytes);
    }
}

impl<'a> Datum<'a> for &'a str {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError> {
        read_text(bytes)
    }

    fn skip(bytes: &mut &'a [u8]) -> Result<(), DatumError> {
        read_bytes(bytes).map(drop)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        write_text(self, bytes);
    }
}

macro_rules! ids {
    ($($name:ident),*) => { $(
        impl<'a> Datum<'a> for $name {
            fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError> {
                IdRef::<Self>::read(bytes).map(|id| id.to_id())
            }

            fn skip(bytes: &mut &'a [u8]) -> Result<(), DatumError> {
                IdRef::<Self>::skip(bytes)
            }

            fn write(&self, bytes: &mut Vec<u8>) {
                self.as_ref().write(bytes);
            }
        }

        impl<'a> Datum<'a> for IdRef<'a, $name> {
            fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError> {
                $name::check(<&str>::read(bytes)?).map_err(|error| DatumError::Id(error.why()))
            }

            fn skip(bytes: &mut &'a [u8]) -> Result<(), DatumError> {
                <&str>::skip(bytes)
            }

            fn write(&self, bytes: &mut Vec<u8>) {
                self.as_str().write(bytes);
            }
        }
    )* };
}
ids!(AccountId, SessionId, LegId);

/// A union of null and `T`.
impl<'a, T: Datum<'a>> Datum<'a> for Option<T> {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError> {
        match read_byte(bytes)? {
            0 => Ok(None),
            2 => T::read(bytes).map(Some),
            _ => Err(DatumError::OutOfRange),
        }
    }

    fn skip(bytes: &mut &'a [u8]) -> Result<(), DatumError> {
        match read_byte(bytes)? {
            0 => Ok(()),
            2 => T::skip(bytes),
            _ => Err(DatumError::OutOfRange),
        }
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        match self {
            None => bytes.push(0),
            Some(value) => {
                bytes.push(2);
                value.write(bytes);
            }
        }
    }
}

impl<'a, T: Datum<'a>> Datum<'a> for Arc<T> {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError> {
        T::read(bytes).map(Arc::new)
    }

    fn skip(bytes: &mut &'a [u8]) -> Result<(), DatumError> {
        T::skip(bytes)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        T::write(self, bytes);
    }
}

/// Blocks of items, each with its count, or with its negative count and its size; the last one is empty.
fn each_item<'a>(bytes: &mut &'a [u8], mut take: impl FnMut(&mut &'a [u8]) -> Result<(), DatumError>) -> Result<(), DatumError> {
    loop {
        let mut count = i64::read(bytes)?;
        if count == 0 {
            return Ok(());
        }
        if count < 0 {
            count = count.checked_neg().ok_or(DatumError::OutOfRange)?;
            i64::read(bytes)?;
        }
        // Each item takes a byte at least, so a count that lies ends at the end of the bytes.
        for _ in 0..count {
            take(bytes)?;
        }
    }
}

fn write_items<'a, T: Datum<'a>>(items: &[T], bytes: &mut Vec<u8>) {
    if !items.is_empty() {
        write_length(items.len(), bytes);
        for item in items {
            item.write(bytes);
        }
    }
    bytes.push(0);
}

impl<'a, T: Datum<'a>> Datum<'a> for Vec<T> {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError> {
        let mut items = Self::new();
        each_item(bytes, |bytes| {
            items.push(Datum::read(bytes)?);
            Ok(())
        })?;
        Ok(items)
    }

    fn skip(bytes: &mut &'a [u8]) -> Result<(), DatumError> {
        each_item(bytes, T::skip)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        write_items(self, bytes);
    }
}

impl<'a, A: Array<Item: Datum<'a>>> Datum<'a> for SmallVec<A> {
    fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError> {
        let mut items = Self::new();
        each_item(bytes, |bytes| {
            items.push(Datum::read(bytes)?);
            Ok(())
        })?;
        Ok(items)
    }

    fn skip(bytes: &mut &'a [u8]) -> Result<(), DatumError> {
        each_item(bytes, A::Item::skip)
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        write_items(self, bytes);
    }
}

macro_rules! enums {
    ($($name:ident { $($symbol:ident),* })*) => { $(
        impl<'a> Datum<'a> for $name {
            fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError> {
                const SYMBOLS: &[$name] = &[$($name::$symbol),*];
                let place = usize::try_from(i64::read(bytes)?).map_err(|_| DatumError::OutOfRange)?;
                SYMBOLS.get(place).copied().ok_or(DatumError::OutOfRange)
            }

            fn write(&self, bytes: &mut Vec<u8>) {
                // Places in the schema, in the same order.
                #[repr(u8)]
                enum Place { $($symbol),* }
                // Fewer than 64 symbols: the place is one byte.
                bytes.push(2 * match self { $(Self::$symbol => Place::$symbol as u8),* });
            }
        }
    )* };
}

// Symbols as in the schemas.
enums! {
    CallSource { Webhook, CallLog, SessionLookup, Unknown }
    Media { Voice, Fax, Other }
    Direction { Unknown, Inbound, Outbound }
    NumberQuery { PhoneNumbers, Inventory, Directory, Extensions, ForwardingNumbers, Devices, CallLogHistory, Notification, Manual, Unknown }
    NumberKind { Phone, Extension }
    DirectoryResource { Extension, DirectoryEntry, PhoneNumber, Unknown }
    ChangeKind { Created, Updated, Deleted, Unknown }
    Verdict { Internal, External }
    Disposition { Ingest, Disregard }
    RevisionCause { CallEnded, LateLeg, SnapshotGrew, SnapshotCompleted, SessionsLinked, Superseded, Replay, Unknown }
    EndedBy { LastLeg, CallLog, SessionLookup, IdleLimit, ConversationOpen, Unknown }
    EndpointKind { Phone, Extension, Withheld, Unintelligible, Service }
    Standing { Internal, External, Neutral }
    StandingReason {
        InSnapshot, OwnExtension, TrustedExtension, NotInSnapshot, UnknownShortNumber, Withheld, Masked, Unintelligible, Service, Unknown
    }
}

/// Skips a value of the type that `field` returns.
fn skip_one<'a, R, T: Datum<'a>>(_: impl Fn(&R) -> &T, bytes: &mut &'a [u8]) -> Result<(), DatumError> {
    T::skip(bytes)
}

macro_rules! records {
    ($($name:ident $(<$($kind:ident),*>)? { $($field:ident),* $(,)? })*) => { $(
        impl<'a $($(, $kind: Datum<'a>)*)?> Datum<'a> for $name $(<$($kind),*>)? {
            fn read(bytes: &mut &'a [u8]) -> Result<Self, DatumError> {
                Ok(Self { $($field: Datum::read(bytes)?),* })
            }

            fn skip(bytes: &mut &'a [u8]) -> Result<(), DatumError> {
                $(skip_one(|it: &Self| &it.$field, bytes)?;)*
                Ok(())
            }

            fn write(&self, bytes: &mut Vec<u8>) {
                let Self { $($field),* } = self;
                $($field.write(bytes);)*
            }
        }
    )* };
}

// Fields as in the schemas.
records! {
    CallLegs<T, S, L> {
        account_id, session_id, legacy_session_id, source, sequence, occurred_at, received_at, origin, media, is_final, ended_at, legs
    }
    Leg<T, L> { leg_id, direction, extension_id, from, to, status, reason, leg_type, peer_session_id, recorded }
    Endpoint<T> { number, extension_id, extension_number }
    Call {
        legacy_session_ids, origin, started_at, last_event_at, media, final_end, final_by, highest_sequence, missing_sequences, links, legs, legs_dropped
    }
    CallLeg { leg_id, direction, extension_id, from, to, answered, over, recorded, joined_at, left_at, last_webhook_at }
    Side { numbers, extension_ids, extension_numbers }
    OpenCall { account_id, session_id, touched_at, over_since, position, call }
    CallVerdict {
        account_id, session_id, revision, verdict, disposition, previous_verdict, cause, ended_by, snapshot_complete, started_at, ended_at, decided_at,
        endpoints, linked_sessions, recorded_extensions, snapshot_size, rules, history, superseded_by, endpoints_omitted, position, call,
    }
    JudgedEndpoint {
        session_id, leg_id, number, extension_id, kind, standing, reason, answered, joined_at, left_at, known_since, known_by
    }
    Revision { revision, verdict, disposition, cause, decided_at }
    NumbersObserved { account_id, query, observed_at, sync_id, numbers }
    ObservedNumber { number, kind, extension_id, usage_type, contact_account_id }
    SnapshotCompleted { account_id, sync_id, completed_at, numbers_seen }
    AccountSettings {
        account_id, filter_internal, country, trust_extension_id, recorded_extensions, queries, include_federated, excluded_usage_types, updated_at
    }
    AccountRemoved { account_id, removed_at }
    DirectoryChanged { account_id, resource, resource_id, change, hints, occurred_at, received_at }
    Rejudge { account_id, session_id, expected_revision, replay_id, rules }
    Tick { at }
    CompanyNumber {
        account_id, number, kind, raw, first_seen_at, last_seen_at, queries, extension_id, previous_extension_ids, usage_type, contact_account_id, position
    }
    AccountState { account_id, settings, snapshot_completed_at, numbers, removed_at, removed_position, position }
}

/// A verdict's fields in the order of the schema, of which few are kept.
pub(super) fn read_gist(mut bytes: &[u8]) -> Result<VerdictGist, DatumError> {
    let bytes = &mut bytes;
    AccountId::skip(bytes)?;
    SessionId::skip(bytes)?;
    i32::skip(bytes)?;
    Verdict::skip(bytes)?;
    Disposition::skip(bytes)?;
    <Option<Verdict>>::skip(bytes)?;
    RevisionCause::skip(bytes)?;
    EndedBy::skip(bytes)?;
    let snapshot_complete = bool::read(bytes)?;
    i64::skip(bytes)?;
    let ended_at = i64::read(bytes)?;
    i64::skip(bytes)?;
    let mut numbers = SmallVec::new();
    each_item(bytes, |bytes| {
        <Option<SessionId>>::skip(bytes)?;
        LegId::skip(bytes)?;
        let number: Option<CompactString> = Datum::read(bytes)?;
        <Option<CompactString>>::skip(bytes)?;
        EndpointKind::skip(bytes)?;
        Standing::skip(bytes)?;
        let reason = StandingReason::read(bytes)?;
        bool::skip(bytes)?;
        i64::skip(bytes)?;
        <Option<i64>>::skip(bytes)?;
        <Option<i64>>::skip(bytes)?;
        <Vec<CompactString>>::skip(bytes)?;
        numbers.extend(number.map(|number| (number, reason)));
        Ok(())
    })?;
    <Vec<SessionId>>::skip(bytes)?;
    <Vec<CompactString>>::skip(bytes)?;
    i64::skip(bytes)?;
    CompactString::skip(bytes)?;
    <Vec<Revision>>::skip(bytes)?;
    <Option<SessionId>>::skip(bytes)?;
    i32::skip(bytes)?;
    i64::skip(bytes)?;
    let legacy_session_ids = Datum::read(bytes)?;
    <Option<CompactString>>::skip(bytes)?;
    i64::skip(bytes)?;
    i64::skip(bytes)?;
    Media::skip(bytes)?;
    <Option<i64>>::skip(bytes)?;
    <Option<CallSource>>::skip(bytes)?;
    <Option<i64>>::skip(bytes)?;
    <Vec<i64>>::skip(bytes)?;
    let links = Datum::read(bytes)?;
    <Vec<CallLeg>>::skip(bytes)?;
    i32::skip(bytes)?;
    if !bytes.is_empty() {
        return Err(DatumError::Surplus(bytes.len()));
    }
    Ok(VerdictGist { snapshot_complete, ended_at, numbers, legacy_session_ids, links })
}
