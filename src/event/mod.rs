//! What stands on the topics: the records of `schemas/` as Rust types, and their bytes.
//!
//! Pure data. Nothing here reads a clock, a file or a socket, and nothing here judges.

mod accounts;
#[cfg(test)]
pub(crate) mod arbitrary;
mod calls;
mod codec;
mod datum;
mod id;
pub mod json;
pub mod schema;
mod verdict;
mod writer;

pub use accounts::*;
pub use calls::*;
pub use codec::{
    CodecError, Decoded, EARLIER, HEADER, Record, decode, decode_event, decode_facts, decode_gist, encode, encode_event, encode_onto, header_of,
    record_of,
};
pub use id::{AccountId, E164, IdError, IdRef, LEGACY, LegId, SessionId};
pub use verdict::*;
pub use writer::Writer;

/// Milliseconds since 1970 UTC.
pub type Millis = i64;

/// The position of a record that doesn't say its own.
fn nowhere() -> i64 {
    -1
}

/// One event of the input log (topic `events`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "nearly all events are the largest one, and a box each would cost them an allocation")]
pub enum Event {
    /// Facts about a call.
    CallLegs(CallLegs),
    /// A reason to query the directory again.
    DirectoryChanged(DirectoryChanged),
    /// Numbers for the snapshot.
    NumbersObserved(NumbersObserved),
    /// The account's snapshot is complete.
    SnapshotCompleted(SnapshotCompleted),
    /// The customer's settings.
    AccountSettings(AccountSettings),
    /// The customer is gone.
    AccountRemoved(AccountRemoved),
    /// Judge a call again.
    Rejudge(Rejudge),
    /// Time passes.
    Tick(Tick),
}

impl Event {
    /// The account that it is about; `None` for a [`Tick`], which is about a partition.
    #[must_use]
    pub fn account_id(&self) -> Option<&AccountId> {
        match self {
            Self::CallLegs(e) => Some(&e.account_id),
            Self::DirectoryChanged(e) => Some(&e.account_id),
            Self::NumbersObserved(e) => Some(&e.account_id),
            Self::SnapshotCompleted(e) => Some(&e.account_id),
            Self::AccountSettings(e) => Some(&e.account_id),
            Self::AccountRemoved(e) => Some(&e.account_id),
            Self::Rejudge(e) => Some(&e.account_id),
            Self::Tick(_) => None,
        }
    }
}
