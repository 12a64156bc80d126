//! RingCentral's documents: vendor JSON in, events out.
//!
//! One document is what a webhook delivered or what a request returned. Its kind is told by its content, never by where it
//! came from: webhook notifications (telephony sessions, extensions, directory, phone numbers; plain or in `pn_apns`), telephony
//! sessions as REST returns them, the call log (lists and single records, Simple and Detailed), lists of phone numbers, forwarding
//! numbers, directory entries and extensions, and accounts. The facts about them are in ringcentral.md; field names follow the
//! vendor's OpenAPI document.
//!
//! Facts are taken over as they came: nothing here normalises, completes or judges. Unknown fields, statuses and reasons are
//! kept or ignored. What cannot be read is an error that says what is needed, never a panic.
//!
//! Telephony notifications are nearly all of the input, so they are read in one pass into types that borrow from the text;
//! everything else is first looked at for its kind.

mod call_log;
mod notifications;
mod numbers;
mod parties;
mod sessions;
mod values;

use crate::event::{AccountId, Event, IdError, Millis, SessionId};
use crate::judge::number::Country;
use compact_str::CompactString;
use memchr::memmem::Finder;
use numbers::Observed;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use smallvec::SmallVec;
use std::sync::LazyLock;
use values::{Keys, Object, Text, Time};

/// What is known of a document besides its text.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The account that was asked, for a document that names none.
    pub account: Option<&'a AccountId>,
    /// When it arrived, by our clock; `None`: at the document's own time.
    pub received_at: Option<Millis>,
    /// The account's home country, for numbers without a plus (design R4 compares normalised numbers).
    pub country: Country,
    /// The company's sides of finished call-log records are numbers of the company (design R4).
    pub history: bool,
}

/// What a document says.
#[derive(Debug, Default)]
pub struct Document {
    /// When it arrived: as asked, else the time of its wrapper, else its own time (a notification's `timestamp`, a call-log record's end,
    /// a session's `creationTime`; of several the newest). `None`: it has no time, and its events wait for [`Document::receive_at`].
    pub arrived_at: Option<Millis>,
    /// Its events; none for a notification about something else, such as presence.
    pub events: SmallVec<[Event; 1]>,
    /// Parts of it that could not be read, the first of them: elements of an array, records of a list. The others are in `events`.
    pub unreadable: Vec<DocumentError>,
}

/// So many unreadable parts of one document are told.
const MOST_UNREADABLE: usize = 1_000;

/// Why a document, or a part of one, cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// No JSON; the reason gives line and column.
    #[error("not JSON: {reason}")]
    NotJson {
        /// What the parser says.
        reason: String,
    },
    /// JSON whose parts contradict each other, such as a field that comes twice.
    #[error("{what} cannot be read: {reason}")]
    Broken {
        /// Which part.
        what: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// JSON, but nothing that this version knows.
    #[error("no known kind of RingCentral document: it has {found}; a notification has event and body, a list records, a session id and parties")]
    UnknownKind {
        /// Its fields, or what it is instead of an object.
        found: String,
    },
    /// Facts about a call that don't say which.
    #[error("{what} names no session: it needs a telephonySessionId, or a sessionId other than \"0\"")]
    NoSession {
        /// What it is.
        what: &'static str,
    },
    /// Something that can't be done without is absent.
    #[error("{what} lacks {field}")]
    Lacks {
        /// What it is.
        what: &'static str,
        /// What it needs.
        field: &'static str,
    },
    /// A wrapper whose time is none.
    #[error("received_at is not an RFC 3339 time such as 2026-01-31T09:30:00.000Z")]
    NoTime,
    /// Wrappers and arrays in each other.
    #[error("arrays and wrappers are nested more than {MOST_NESTED} deep")]
    TooDeep,
    /// An id that can't stand in a key.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A part of several.
    #[error("{of} {index}: {reason}")]
    Part {
        /// Of what: an array's element, a list's record.
        of: &'static str,
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        reason: Box<DocumentError>,
    },
}

/// Arrays and wrappers may stand in each other so deep.
const MOST_NESTED: usize = 4;

impl Document {
    /// Gives an arrival to the events that have none; those of a document without any time happened then, too.
    pub fn receive_at(&mut self, at: Millis) {
        self.arrived_at.get_or_insert(at);
        for event in &mut self.events {
            let (occurred_at, received_at) = match event {
                Event::CallLegs(legs) => (Some(&mut legs.occurred_at), &mut legs.received_at),
                Event::DirectoryChanged(change) => (Some(&mut change.occurred_at), &mut change.received_at),
                Event::NumbersObserved(observed) => (None, &mut observed.observed_at),
                _ => continue,
            };
            if *received_at == UNDATED {
                *received_at = at;
            }
            if let Some(occurred_at) = occurred_at.filter(|occurred_at| **occurred_at == UNDATED) {
                *occurred_at = at;
            }
        }
    }

    /// Takes in the document that follows it in an array.
    fn join(&mut self, mut next: Self) {
        if let Some(before) = self.arrived_at {
            next.receive_at(before);
        }
        self.arrived_at = next.arrived_at.or(self.arrived_at);
        self.events.extend(next.events);
        let room = MOST_UNREADABLE.saturating_sub(self.unreadable.len());
        self.unreadable.extend(next.unreadable.into_iter().take(room));
    }

    /// Of one event.
    fn of(event: Event, own_time: Option<Millis>) -> Self {
        Self { arrived_at: own_time, events: [event].into_iter().collect(), unreadable: Vec::new() }
    }

    /// Lets it arrive as asked, else at its own time.
    fn arrive(mut self, asked: &Asked) -> Self {
        self.arrived_at = asked.received_at.or(self.arrived_at);
        if let Some(at) = self.arrived_at {
            self.receive_at(at);
        }
        self
    }
}

/// Stands for a time that is not known yet; RingCentral is younger.
const UNDATED: Millis = 0;

/// Reads one document.
///
/// A wrapper `{"received_at": RFC 3339, "document": {...}}` says when the document arrived, and is believed. The elements of an
/// array are documents of their own, joined here to one; one without time arrives with the one before it.
///
/// # Errors
/// If it can't be read as a whole; for parts of an array, or of a list with others that can be, see [`Document::unreadable`].
pub fn read_document(json: &[u8], asked: &Asked) -> Result<Document, DocumentError> {
    let mut whole: Option<Document> = None;
    read_each(json, asked, &mut |document| match &mut whole {
        None => whole = Some(document),
        Some(whole) => whole.join(document),
    })?;
    Ok(whole.unwrap_or_default())
}

/// Reads one document as [`read_document`] does, and gives the elements of an array one by one, each with its own arrival. One that is
/// unreadable is given as a document that says so; an error is one of the whole text.
///
/// # Errors
/// As [`read_document`].
pub fn read_each(json: &[u8], asked: &Asked, take: &mut dyn FnMut(Document)) -> Result<(), DocumentError> {
    let text = std::str::from_utf8(json).map_err(|e| {
        let (line, column) = place(json, e.valid_up_to());
        DocumentError::NotJson { reason: format!("invalid UTF-8 at line {line} column {column}") }
    })?;
    read_nested(text, asked, 0, take)
}

/// Reads a document by itself, in a wrapper or in an array: the fast way if it may be a telephony notification.
fn read_nested(text: &str, asked: &Asked, depth: usize, take: &mut dyn FnMut(Document)) -> Result<(), DocumentError> {
    if looks_like_telephony(text)
        && let Some(document) = notifications::read_plain_telephony(text, asked)?
    {
        take(document.arrive(asked));
        return Ok(());
    }
    read_any(text, asked, depth, take)
}

/// Line and column of an offset, both from 1.
fn place(json: &[u8], offset: usize) -> (usize, usize) {
    let before = &json[..offset];
    let line_start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
    (memchr::memchr_iter(b'\n', before).count() + 1, offset - line_start + 1)
}

/// A cheap test before the fast way is tried: an object with the event path of a telephony notification in it. (An escaped slash is
/// legal; such a document goes the general way.) An array or a wrapper is opened first.
fn looks_like_telephony(text: &str) -> bool {
    static PATH: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"/telephony/sessions"));
    let opened = text.trim_ascii_start().starts_with('{') && !text.starts_with("{\"received_at\"");
    opened && PATH.find(text.as_bytes()).is_some()
}

/// What tells the kinds apart: which fields an object has.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Shape<'a> {
    #[serde(rename = "received_at")]
    received_at: Option<Text<'a>>,
    #[serde(borrow)]
    document: Option<&'a RawValue>,
    // Notifications.
    #[serde(borrow)]
    event: Text<'a>,
    timestamp: Time,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    #[serde(rename = "pn_apns", borrow)]
    pn_apns: Option<&'a RawValue>,
    uuid: Option<IgnoredAny>,
    subscription_id: Option<IgnoredAny>,
    // Sessions.
    #[serde(borrow)]
    session: Option<&'a RawValue>,
    parties: Option<IgnoredAny>,
    id: Option<IgnoredAny>,
    // Lists.
    #[serde(borrow)]
    uri: Text<'a>,
    #[serde(borrow)]
    records: Option<&'a RawValue>,
    // Records.
    start_time: Option<IgnoredAny>,
    direction: Option<IgnoredAny>,
    action: Option<IgnoredAny>,
    session_id: Option<IgnoredAny>,
    telephony_session_id: Option<IgnoredAny>,
    phone_number: Option<IgnoredAny>,
    usage_type: Option<IgnoredAny>,
    features: Option<IgnoredAny>,
    flip_number: Option<IgnoredAny>,
    phone_numbers: Option<IgnoredAny>,
    account: Option<IgnoredAny>,
    first_name: Option<IgnoredAny>,
    last_name: Option<IgnoredAny>,
    department: Option<IgnoredAny>,
    job_title: Option<IgnoredAny>,
    email: Option<IgnoredAny>,
    contact: Option<IgnoredAny>,
    extension_number: Option<IgnoredAny>,
    main_number: Option<IgnoredAny>,
    // Bodies of notifications.
    contacts: Option<IgnoredAny>,
    extensions: Option<IgnoredAny>,
    extension_id: Option<IgnoredAny>,
    event_type: Option<IgnoredAny>,
    phone_number_info: Option<IgnoredAny>,
}

/// A record that stands by itself or in a list.
#[derive(Clone, Copy)]
enum RecordKind {
    CallLog,
    PhoneNumber,
    ForwardingNumber,
    Contact,
    Extension,
    Account,
}

impl Shape<'_> {
    fn is_notification(&self) -> bool {
        let enveloped = self.uuid.is_some() || self.subscription_id.is_some() || self.timestamp.0.is_some();
        self.event.as_str().is_some() || self.pn_apns.is_some() || (self.body.is_some() && enveloped)
    }

    /// `list` is the address of the list that it stands in.
    ///
    /// Caution where a stranger's number could be taken for one of the company: a phone number counts only with a usage type, or where
    /// it shows itself a forwarding number (lists of blocked callers have neither).
    fn record_kind(&self, list: &str) -> Option<RecordKind> {
        let names_call = self.direction.is_some() || self.action.is_some() || self.session_id.is_some() || self.telephony_session_id.is_some();
        if self.start_time.is_some() && names_call {
            return Some(RecordKind::CallLog);
        }
        let forwards = |uri: &str| uri.contains("/forwarding-number");
        // Its records need not have a number: an app's has none, and says nothing.
        let is_in_forwarding = forwards(list) || self.uri.as_str().is_some_and(forwards);
        if self.phone_number.is_some() {
            let is_forwarding = self.features.is_some() || self.flip_number.is_some() || is_in_forwarding;
            return match self.usage_type {
                Some(_) => Some(RecordKind::PhoneNumber),
                None => is_forwarding.then_some(RecordKind::ForwardingNumber),
            };
        }
        if is_in_forwarding && self.id.is_some() {
            return Some(RecordKind::ForwardingNumber);
        }
        if self.main_number.is_some() {
            return Some(RecordKind::Account);
        }
        // An extension has an address and keeps the person under `contact`; a directory entry has neither.
        if self.id.is_some() && self.contact.is_none() && self.uri.as_str().is_none() {
            let personal = [&self.phone_numbers, &self.account, &self.first_name, &self.last_name, &self.department, &self.job_title, &self.email];
            if personal.iter().any(|field| field.is_some()) {
                return Some(RecordKind::Contact);
            }
        }
        // In a list of extensions one may have neither number nor person.
        let is_listed = list.split(['?', '#']).next().is_some_and(|path| path.ends_with("/extension"));
        let is_extension = self.id.is_some() && (self.extension_number.is_some() || self.contact.is_some() || is_listed);
        is_extension.then_some(RecordKind::Extension)
    }
}

/// Reads a document of any kind, looking at it first.
fn read_any(text: &str, asked: &Asked, depth: usize, take: &mut dyn FnMut(Document)) -> Result<(), DocumentError> {
    if depth > MOST_NESTED {
        return Err(DocumentError::TooDeep);
    }
    let start = text.trim_ascii_start();
    match start.as_bytes().first() {
        Some(b'[') => return read_array(text, asked, depth, take),
        Some(b'{') | None => {}
        Some(_) => {
            serde_json::from_str::<IgnoredAny>(text).map_err(|e| not_json(&e))?;
            return Err(DocumentError::UnknownKind { found: "no fields, since it is no object".to_owned() });
        }
    }
    let shape: Shape = serde_json::from_str(text).map_err(|e| not_json(&e))?;
    if let Some(document) = shape.document {
        return read_wrapped(shape.received_at.as_ref(), document.get(), asked, depth, take);
    }
    let document = if shape.is_notification() {
        notifications::read(&shape, asked)?
    } else if let Some(session) = shape.session {
        sessions::read(session.get(), asked)?
    } else if let Some(records) = shape.records {
        read_list(shape.uri.as_str().unwrap_or(""), records.get(), asked)?
    } else if shape.parties.is_some() && shape.id.is_some() {
        sessions::read(text, asked)?
    } else {
        let mut reading = Reading::new(asked, "");
        reading.read_record(&shape, text)?;
        reading.finish()
    };
    take(document.arrive(asked));
    Ok(())
}

fn not_json(error: &serde_json::Error) -> DocumentError {
    if error.is_data() {
        DocumentError::Broken { what: "the document", reason: error.to_string() }
    } else {
        DocumentError::NotJson { reason: error.to_string() }
    }
}

fn read_wrapped(
    received_at: Option<&Text>,
    document: &str,
    asked: &Asked,
    depth: usize,
    take: &mut dyn FnMut(Document),
) -> Result<(), DocumentError> {
    let received_at = match received_at {
        Some(time) => Some(time.as_str().and_then(values::parse_time).ok_or(DocumentError::NoTime)?),
        None => asked.received_at,
    };
    read_nested(document, &Asked { received_at, ..*asked }, depth + 1, take)
}

fn read_array(text: &str, asked: &Asked, depth: usize, take: &mut dyn FnMut(Document)) -> Result<(), DocumentError> {
    let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(|e| not_json(&e))?;
    for (index, element) in elements.iter().enumerate() {
        if let Err(reason) = read_nested(element.get(), asked, depth + 1, take) {
            let reason = DocumentError::Part { of: "element", index, reason: Box::new(reason) };
            take(Document { unreadable: vec![reason], ..Document::default() });
        }
    }
    Ok(())
}

fn read_list(uri: &str, records: &str, asked: &Asked) -> Result<Document, DocumentError> {
    let records: Vec<&RawValue> =
        serde_json::from_str(records).map_err(|e| DocumentError::Broken { what: "the list of records", reason: e.to_string() })?;
    let mut reading = Reading::new(asked, uri);
    let (mut unreadable, mut is_any_read) = (Vec::new(), false);
    for (index, record) in records.iter().enumerate() {
        match shape_of(record.get()).and_then(|shape| reading.read_record(&shape, record.get())) {
            Ok(()) => is_any_read = true,
            Err(_) if unreadable.len() >= MOST_UNREADABLE => {}
            Err(reason) => unreadable.push(DocumentError::Part { of: "record", index, reason: Box::new(reason) }),
        }
    }
    // A list of something else entirely is one error, not one for each record.
    if !is_any_read && !unreadable.is_empty() {
        return Err(unreadable.swap_remove(0));
    }
    let mut document = reading.finish();
    document.unreadable = unreadable;
    Ok(document)
}

fn shape_of(text: &str) -> Result<Shape<'_>, DocumentError> {
    if text.starts_with('{') {
        parse(text, "the record")
    } else {
        Err(DocumentError::UnknownKind { found: "no fields, since it is no object".to_owned() })
    }
}

/// Parses a part of a document.
fn parse<'a, T: Deserialize<'a>>(text: &'a str, what: &'static str) -> Result<T, DocumentError> {
    serde_json::from_str(text).map_err(|e| DocumentError::Broken { what, reason: e.to_string() })
}

/// One list, or one record, while it is read.
struct Reading<'r> {
    asked: &'r Asked<'r>,
    /// The list's address.
    uri: &'r str,
    newest: Option<Millis>,
    calls: SmallVec<[Event; 1]>,
    observed: Observed,
    history: call_log::History,
}

impl<'r> Reading<'r> {
    fn new(asked: &'r Asked<'r>, uri: &'r str) -> Self {
        Self { asked, uri, newest: None, calls: SmallVec::new(), observed: Observed::default(), history: call_log::History::default() }
    }

    fn read_record(&mut self, shape: &Shape, text: &str) -> Result<(), DocumentError> {
        match shape.record_kind(self.uri) {
            Some(RecordKind::CallLog) => self.read_call_log_record(text),
            Some(RecordKind::PhoneNumber) => self.read_phone_number(text),
            Some(RecordKind::ForwardingNumber) => self.read_forwarding_number(text),
            Some(RecordKind::Contact) => self.read_contact(text),
            Some(RecordKind::Extension) => self.read_extension(text),
            Some(RecordKind::Account) => self.read_account(text),
            None => Err(DocumentError::UnknownKind { found: parse::<Keys>(text, "the record")?.0 }),
        }
    }

    /// The account that the list, or else the record, names; else the one that was asked.
    fn account(&self, record_uri: &Text) -> Result<AccountId, DocumentError> {
        let named = match account_in(self.uri)? {
            None => account_in(record_uri.as_str().unwrap_or(""))?,
            named => named,
        };
        Ok(self.asked.account_or(named))
    }

    /// Numbers come first, so that calls of the same document are judged with them.
    fn finish(self) -> Document {
        let mut events = self.observed.into_events();
        events.extend(self.calls);
        Document { arrived_at: self.newest, events, unreadable: Vec::new() }
    }
}

impl Asked<'_> {
    /// The account that the document names, else the one that was asked, else the one of all documents that name none.
    fn account_or(&self, named: Option<AccountId>) -> AccountId {
        named.or_else(|| self.account.cloned()).unwrap_or_else(nobodys_account)
    }
}

/// The account of documents that name none.
fn nobodys_account() -> AccountId {
    AccountId::parse("~").expect("the tilde is allowed in an account id")
}

/// The account in a path or address such as `/restapi/v1.0/account/809646016/extension`; `~`, and a placeholder like
/// `{accountId}`, name none.
fn account_in(path: &str) -> Result<Option<AccountId>, DocumentError> {
    let Some(id) = segment_after(path, "/account/").or_else(|| segment_after(path, "/accounts/")) else { return Ok(None) };
    Ok(Some(AccountId::parse(id)?))
}

/// The extension in a path or address; `None` also for `~`.
fn extension_in(path: &str) -> Option<CompactString> {
    segment_after(path, "/extension/").map(CompactString::new)
}

/// What follows `name` up to the next `/`, `?` or `#`.
fn segment_after<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = path.split_once(name)?;
    let segment = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let names_none = segment.is_empty() || segment == "~" || segment.eq_ignore_ascii_case("%7E") || segment.starts_with('{');
    (!names_none).then_some(segment)
}

/// A session's ids as a document gives them.
struct SessionIds {
    id: SessionId,
    legacy: Option<CompactString>,
}

impl SessionIds {
    /// Design §1, Sessions: `"0"` and blank identify nothing, nor does a session's own id as its legacy id; a record that has only
    /// a legacy id is of the session named by it.
    fn read(telephony: &Text, legacy: &Text, what: &'static str) -> Result<Self, DocumentError> {
        let identifies = |id: &&str| *id != "0";
        let legacy = legacy.as_str().map(str::trim).filter(identifies);
        let id = match (telephony.as_str().filter(identifies), legacy) {
            (Some(id), _) => SessionId::parse(id)?,
            (None, Some(legacy)) => SessionId::legacy(legacy)?,
            (None, None) => return Err(DocumentError::NoSession { what }),
        };
        // Checked as an id, since it may come to name a session.
        let legacy = match legacy.filter(|legacy| *legacy != id.as_str()) {
            Some(legacy) => SessionId::legacy(legacy)?.as_legacy().map(CompactString::new),
            None => None,
        };
        Ok(Self { id, legacy })
    }

    /// A link to another session, unless it links nothing.
    fn peer(&self, id: &str) -> Result<Option<CompactString>, DocumentError> {
        let id = id.trim();
        if id.is_empty() || id == "0" || id == self.id.as_str() {
            return Ok(None);
        }
        Ok(Some(SessionId::parse(id)?.into()))
    }
}

/// `{"id": …}` with an address, as records refer to extensions and accounts.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Reference<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    uri: Text<'a>,
}

type Referred<'a> = Object<Reference<'a>>;

#[cfg(test)]
mod tests;
