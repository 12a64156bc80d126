//! What is said about accounts, their numbers and time.

use super::{AccountId, Millis, SessionId};
use compact_str::CompactString;
use serde::{Deserialize, Serialize};

/// Which query, or which other source, returned a number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NumberQuery {
    /// The account's phone numbers.
    PhoneNumbers,
    /// The account's inventory.
    Inventory,
    /// Company directory entries.
    Directory,
    /// The extension list.
    Extensions,
    /// Forwarding numbers of the extensions.
    ForwardingNumbers,
    /// Devices of the extensions.
    Devices,
    /// The company's sides of historical calls (design R4).
    CallLogHistory,
    /// A directory or contact-centre notification.
    Notification,
    /// Entered by hand.
    Manual,
    /// A source that this version doesn't know.
    #[serde(other)]
    #[default]
    Unknown,
}

impl NumberQuery {
    /// Its symbol, as on the topics.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            Self::PhoneNumbers => "PHONE_NUMBERS",
            Self::Inventory => "INVENTORY",
            Self::Directory => "DIRECTORY",
            Self::Extensions => "EXTENSIONS",
            Self::ForwardingNumbers => "FORWARDING_NUMBERS",
            Self::Devices => "DEVICES",
            Self::CallLogHistory => "CALL_LOG_HISTORY",
            Self::Notification => "NOTIFICATION",
            Self::Manual => "MANUAL",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// Phone number or short extension number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum NumberKind {
    /// A short extension number.
    Extension,
    /// A phone number.
    #[serde(other)]
    #[default]
    Phone,
}

/// Numbers that one query (or one page of it) returned. Only ever adds to the snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumbersObserved {
    /// The account that was asked.
    pub account_id: AccountId,
    /// Where they come from.
    #[serde(default)]
    pub query: NumberQuery,
    /// When, by our clock.
    pub observed_at: Millis,
    /// The pass that the page belongs to.
    pub sync_id: Option<CompactString>,
    /// At most 1,000: a writer splits.
    pub numbers: Vec<ObservedNumber>,
}

/// One number as it was returned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObservedNumber {
    /// As returned.
    pub number: CompactString,
    /// Phone number or short extension number.
    #[serde(default)]
    pub kind: NumberKind,
    /// Extension it belonged to when observed.
    pub extension_id: Option<CompactString>,
    /// `usageType` as it came.
    pub usage_type: Option<CompactString>,
    /// Account of the directory contact, where it is another one (federation).
    pub contact_account_id: Option<CompactString>,
}

/// A full pass over every configured query ended: opens the account for verdicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotCompleted {
    /// The account.
    pub account_id: AccountId,
    /// The pass.
    pub sync_id: CompactString,
    /// When, by our clock.
    pub completed_at: Millis,
    /// How many numbers the pass returned.
    pub numbers_seen: i64,
}

/// A customer's settings; the newest one holds from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountSettings {
    /// The account.
    pub account_id: AccountId,
    /// Internal calls are to be disregarded. Opt-in.
    #[serde(default)]
    pub filter_internal: bool,
    /// ISO 3166-1 alpha-2 home country for numbers without a plus.
    #[serde(default = "home_country")]
    pub country: CompactString,
    /// An endpoint with an extension id is internal even when its number is not in the snapshot.
    #[serde(default)]
    pub trust_extension_id: bool,
    /// Extensions set to record; `None`: all.
    pub recorded_extensions: Option<Vec<CompactString>>,
    /// Snapshot queries beyond the three of R3 and the call log's history, which always join: inventory, devices.
    #[serde(default)]
    pub queries: Vec<NumberQuery>,
    /// False: contacts of federated accounts don't join the snapshot.
    #[serde(default = "yes")]
    pub include_federated: bool,
    /// Numbers of these usage types don't join the snapshot.
    #[serde(default)]
    pub excluded_usage_types: Vec<CompactString>,
    /// When, by our clock.
    pub updated_at: Millis,
}

fn home_country() -> CompactString {
    CompactString::const_new("US")
}

fn yes() -> bool {
    true
}

impl AccountSettings {
    /// What holds for an account that never set anything: filter off, country US, everybody recorded (design §5).
    #[must_use]
    pub fn defaults(account_id: AccountId) -> Self {
        Self {
            account_id,
            filter_internal: false,
            country: home_country(),
            trust_extension_id: false,
            recorded_extensions: None,
            queries: Vec::new(),
            include_federated: true,
            excluded_usage_types: Vec::new(),
            updated_at: 0,
        }
    }
}

/// The customer is gone: everything that is kept of the account is erased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountRemoved {
    /// The account.
    pub account_id: AccountId,
    /// When, by our clock.
    pub removed_at: Millis,
}

/// What kind of thing changed in the directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DirectoryResource {
    /// An extension.
    Extension,
    /// A directory entry.
    DirectoryEntry,
    /// A phone number.
    PhoneNumber,
    /// Something else.
    #[serde(other)]
    #[default]
    Unknown,
}

/// What happened to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ChangeKind {
    /// It is new.
    Created,
    /// It is another now.
    Updated,
    /// It is gone.
    Deleted,
    /// Something else.
    #[serde(other)]
    #[default]
    Unknown,
}

/// RingCentral said that something in the directory changed: a reason to query again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryChanged {
    /// The account.
    pub account_id: AccountId,
    /// What kind of thing changed.
    #[serde(default)]
    pub resource: DirectoryResource,
    /// Its id, when given.
    pub resource_id: Option<CompactString>,
    /// What happened to it.
    #[serde(default)]
    pub change: ChangeKind,
    /// Hints as they came.
    #[serde(default)]
    pub hints: Vec<CompactString>,
    /// Envelope timestamp.
    pub occurred_at: Millis,
    /// When it was received, by our clock.
    pub received_at: Millis,
}

/// Judge this ended call again; nothing happens if its newest revision is another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejudge {
    /// The account.
    pub account_id: AccountId,
    /// The session.
    pub session_id: SessionId,
    /// The revision that is to be replaced.
    pub expected_revision: i32,
    /// The replay that asks for it.
    pub replay_id: CompactString,
    /// The rules that it judged by: others do nothing. `None`: any.
    #[serde(default)]
    pub rules: Option<CompactString>,
}

/// Time passing on a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tick {
    /// The time.
    pub at: Millis,
}

/// One number of the snapshot (topic `company-numbers`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompanyNumber {
    /// The account.
    pub account_id: AccountId,
    /// E.164, or the short extension number.
    pub number: CompactString,
    /// Phone number or short extension number.
    #[serde(default)]
    pub kind: NumberKind,
    /// As first returned.
    pub raw: CompactString,
    /// First observation.
    pub first_seen_at: Millis,
    /// Newest observation; refreshed at most once a day.
    pub last_seen_at: Millis,
    /// Every query that ever returned it, in the order of their first time.
    #[serde(default)]
    pub queries: Vec<NumberQuery>,
    /// Extension it last belonged to.
    pub extension_id: Option<CompactString>,
    /// Extensions it belonged to before, oldest first, at most 10.
    #[serde(default)]
    pub previous_extension_ids: Vec<CompactString>,
    /// Newest `usageType`.
    pub usage_type: Option<CompactString>,
    /// Another account, where it came from a federated contact.
    pub contact_account_id: Option<CompactString>,
    /// Offset of the newest event that it contains.
    #[serde(default = "super::nowhere")]
    pub position: i64,
}

/// What the processor knows of an account as a whole (topic `account-states`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountState {
    /// The account.
    pub account_id: AccountId,
    /// Newest settings; `None`: defaults.
    pub settings: Option<AccountSettings>,
    /// First `SnapshotCompleted`; `None`: not yet.
    pub snapshot_completed_at: Option<Millis>,
    /// Numbers in the snapshot.
    pub numbers: i64,
    /// `AccountRemoved`; what is left to erase is due. `None`: never.
    pub removed_at: Option<Millis>,
    /// Its offset: legs from before it are skipped.
    pub removed_position: Option<i64>,
    /// Offset of the newest event that it contains.
    #[serde(default = "super::nowhere")]
    pub position: i64,
}

impl AccountState {
    /// An account of which nothing is known yet.
    #[must_use]
    pub fn unknown(account_id: AccountId) -> Self {
        Self { account_id, settings: None, snapshot_completed_at: None, numbers: 0, removed_at: None, removed_position: None, position: -1 }
    }
}
