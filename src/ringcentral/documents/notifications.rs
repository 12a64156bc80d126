//! Webhook notifications: an envelope, plain or in `pn_apns`, around a body (ringcentral.md A and B).

use super::numbers::{Contact, Observed, PhoneNumber};
use super::parties::{Origin, Party, media};
use super::values::{Int, List, Object, Text, Time};
use super::{Asked, Document, DocumentError, SessionIds, Shape, UNDATED, account_in, extension_in, parse};
use crate::event::{AccountId, CallLegs, CallSource, ChangeKind, DirectoryChanged, DirectoryResource, Event, Millis, NumberQuery};
use compact_str::CompactString;
use serde::Deserialize;
use smallvec::SmallVec;

const TELEPHONY: &str = "the telephony notification";

/// What stands around a body.
struct Envelope<'e> {
    /// The path of what changed.
    event: &'e str,
    /// When it was sent.
    timestamp: Option<Millis>,
}

/// A telephony notification as it usually comes: read in one pass.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Plain<'a> {
    #[serde(borrow)]
    event: Text<'a>,
    timestamp: Time,
    #[serde(borrow)]
    body: Object<Telephony<'a>>,
    #[serde(borrow)]
    pn_apns: Object<Wrapped<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Wrapped<'a> {
    #[serde(borrow)]
    event: Text<'a>,
    timestamp: Time,
    #[serde(borrow)]
    body: Object<Telephony<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Telephony<'a> {
    sequence: Int,
    #[serde(borrow)]
    session_id: Text<'a>,
    #[serde(borrow)]
    telephony_session_id: Text<'a>,
    event_time: Time,
    #[serde(borrow)]
    account_id: Text<'a>,
    #[serde(borrow)]
    origin: Object<Origin<'a>>,
    #[serde(borrow)]
    parties: List<Object<Party<'a>>>,
}

/// A telephony notification, in one pass; `None`: it is something else, or not quite as usual, and is to be looked at first.
pub(super) fn read_plain_telephony(text: &str, asked: &Asked) -> Result<Option<Document>, DocumentError> {
    let Ok(Object(plain)) = serde_json::from_str::<Object<Plain>>(text) else { return Ok(None) };
    let wrapped = &plain.pn_apns.0;
    let (event, timestamp, body) = match wrapped.event.as_str() {
        Some(event) => (event, wrapped.timestamp, &wrapped.body.0),
        None => (plain.event.as_str().unwrap_or(""), plain.timestamp, &plain.body.0),
    };
    if !is_telephony(event) || body.telephony_session_id.as_str().is_none() {
        return Ok(None);
    }
    telephony(body, &Envelope { event, timestamp: timestamp.0 }, asked).map(Some)
}

fn is_telephony(event: &str) -> bool {
    event.contains("/telephony/sessions")
}

/// A notification of any kind.
pub(super) fn read(outer: &Shape, asked: &Asked) -> Result<Document, DocumentError> {
    let inner = match outer.pn_apns {
        Some(wrapped) => parse::<Object<Shape>>(wrapped.get(), "pn_apns")?.0,
        None => Shape::default(),
    };
    let shape = if inner.event.as_str().is_some() || inner.body.is_some() { &inner } else { outer };
    let envelope = Envelope { event: shape.event.as_str().unwrap_or(""), timestamp: shape.timestamp.0 };
    let body = shape.body.map_or("{}", |body| body.get());
    let content: Object<Shape> = parse(body, "the notification's body")?;
    match subject(envelope.event, &content.0) {
        Some(Subject::Telephony) => telephony(&parse::<Object<Telephony>>(body, TELEPHONY)?.0, &envelope, asked),
        Some(Subject::Directory) => directory(body, &envelope, asked),
        Some(Subject::Extension) => extension(body, &envelope, asked),
        Some(Subject::PhoneNumber) => phone_number(body, &envelope, asked),
        None => Ok(Document { arrived_at: envelope.timestamp, ..Document::default() }),
    }
}

enum Subject {
    Telephony,
    Directory,
    Extension,
    PhoneNumber,
}

/// What a notification is about: the path of its event says it, or the body where there is no path. `None`: nothing of ours.
fn subject(event: &str, body: &Shape) -> Option<Subject> {
    let path = event.split('?').next().unwrap_or("").trim_end_matches('/');
    if path.is_empty() {
        return if body.telephony_session_id.is_some() || body.parties.is_some() {
            Some(Subject::Telephony)
        } else if body.contacts.is_some() {
            Some(Subject::Directory)
        } else if body.phone_number_info.is_some() {
            Some(Subject::PhoneNumber)
        } else if body.extensions.is_some() || (body.extension_id.is_some() && body.event_type.is_some()) {
            Some(Subject::Extension)
        } else {
            None
        };
    }
    // `…/extension` and `…/extension/8475874957`, but not `…/extension/8475874957/presence`.
    let is_extension = path.ends_with("/extension") || path.rsplit_once('/').is_some_and(|(before, _)| before.ends_with("/extension"));
    if is_telephony(path) {
        Some(Subject::Telephony)
    } else if path.contains("/directory/") {
        Some(Subject::Directory)
    } else if path.ends_with("/phone-number") {
        Some(Subject::PhoneNumber)
    } else {
        is_extension.then_some(Subject::Extension)
    }
}

fn telephony(body: &Telephony, envelope: &Envelope, asked: &Asked) -> Result<Document, DocumentError> {
    let ids = SessionIds::read(&body.telephony_session_id, &body.session_id, TELEPHONY)?;
    let account = match account_in(envelope.event)? {
        None => body.account()?,
        named => named,
    };
    let legs = CallLegs {
        account_id: asked.account_or(account),
        source: CallSource::Webhook,
        sequence: body.sequence.0,
        occurred_at: body.event_time.0.or(envelope.timestamp).unwrap_or(UNDATED),
        received_at: UNDATED,
        origin: body.origin.0.kind.kept(),
        media: media(&body.parties.0),
        is_final: false,
        ended_at: None,
        legs: body.parties.0.iter().map(|party| party.0.leg(&ids)).collect::<Result<_, _>>()?,
        session_id: ids.id,
        legacy_session_id: ids.legacy,
    };
    Ok(Document::of(Event::CallLegs(legs), envelope.timestamp.or(body.event_time.0)))
}

impl Telephony<'_> {
    fn account(&self) -> Result<Option<AccountId>, DocumentError> {
        let parties = self.parties.0.iter().map(|party| &party.0.account_id);
        let named = std::iter::once(&self.account_id).chain(parties).find_map(Text::as_str);
        Ok(named.map(AccountId::parse).transpose()?)
    }
}

/// The events of one notification about the directory: what changed, and the numbers that it shows.
struct Changes<'e> {
    envelope: &'e Envelope<'e>,
    events: SmallVec<[Event; 1]>,
    observed: Observed,
}

impl<'e> Changes<'e> {
    fn new(envelope: &'e Envelope<'e>) -> Self {
        Self { envelope, events: SmallVec::new(), observed: Observed::default() }
    }

    fn push(&mut self, account: AccountId, resource: DirectoryResource, id: Option<CompactString>, change: ChangeKind, hints: Vec<CompactString>) {
        self.events.push(Event::DirectoryChanged(DirectoryChanged {
            account_id: account,
            resource,
            resource_id: id,
            change,
            hints,
            occurred_at: self.envelope.timestamp.unwrap_or(UNDATED),
            received_at: UNDATED,
        }));
    }

    fn finish(mut self) -> Document {
        self.events.extend(self.observed.into_events());
        Document { arrived_at: self.envelope.timestamp, events: self.events, unreadable: Vec::new() }
    }
}

/// `Create` and `Created` are the same: the spelling differs by event (ringcentral.md B7).
fn change(event_type: &Text) -> ChangeKind {
    let any = |words: [&str; 2]| words.into_iter().any(|word| event_type.is(word));
    if any(["Create", "Created"]) {
        ChangeKind::Created
    } else if any(["Update", "Updated"]) {
        ChangeKind::Updated
    } else if any(["Delete", "Deleted"]) {
        ChangeKind::Deleted
    } else {
        ChangeKind::Unknown
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct DirectoryBody<'a> {
    #[serde(borrow)]
    contacts: List<Object<Contact<'a>>>,
}

fn directory(body: &str, envelope: &Envelope, asked: &Asked) -> Result<Document, DocumentError> {
    let body: Object<DirectoryBody> = parse(body, "the directory notification")?;
    let named = account_in(envelope.event)?;
    let mut changes = Changes::new(envelope);
    for contact in &body.0.contacts.0 {
        let contact = &contact.0;
        let account = contact.account(named.as_ref(), asked)?;
        let change = change(&contact.event_type);
        if change != ChangeKind::Deleted {
            contact.observe(&account, NumberQuery::Notification, &mut changes.observed);
        }
        changes.push(account, DirectoryResource::DirectoryEntry, contact.id.kept(), change, Vec::new());
    }
    if body.0.contacts.0.is_empty() {
        changes.push(asked.account_or(named), DirectoryResource::DirectoryEntry, None, ChangeKind::Unknown, Vec::new());
    }
    Ok(changes.finish())
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ExtensionChange<'a> {
    #[serde(borrow)]
    extension_id: Text<'a>,
    #[serde(borrow)]
    event_type: Text<'a>,
    #[serde(borrow)]
    hints: List<Text<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ExtensionBody<'a> {
    #[serde(borrow)]
    extensions: List<Object<ExtensionChange<'a>>>,
}

/// Either a list of changes, or a body that is one (ringcentral.md B7).
fn extension(body: &str, envelope: &Envelope, asked: &Asked) -> Result<Document, DocumentError> {
    const WHAT: &str = "the extension notification";
    let mut listed = parse::<Object<ExtensionBody>>(body, WHAT)?.0.extensions.0;
    if listed.is_empty() {
        listed.push(parse(body, WHAT)?);
    }
    let account = asked.account_or(account_in(envelope.event)?);
    let mut changes = Changes::new(envelope);
    for Object(extension) in &listed {
        let id = extension.extension_id.kept().or_else(|| extension_in(envelope.event));
        let hints = extension.hints.0.iter().filter_map(Text::kept).collect();
        changes.push(account.clone(), DirectoryResource::Extension, id, change(&extension.event_type), hints);
    }
    Ok(changes.finish())
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PhoneNumberBody<'a> {
    #[serde(borrow)]
    event_type: Text<'a>,
    #[serde(borrow)]
    phone_number_info: Object<PhoneNumber<'a>>,
}

fn phone_number(body: &str, envelope: &Envelope, asked: &Asked) -> Result<Document, DocumentError> {
    let body = parse::<Object<PhoneNumberBody>>(body, "the phone-number notification")?.0;
    let number = &body.phone_number_info.0;
    let named = match account_in(envelope.event)? {
        None => account_in(number.uri.as_str().unwrap_or(""))?,
        named => named,
    };
    let account = asked.account_or(named);
    let change = change(&body.event_type);
    let mut changes = Changes::new(envelope);
    if change != ChangeKind::Deleted {
        number.observe(&account, NumberQuery::Notification, &mut changes.observed);
    }
    changes.push(account, DirectoryResource::PhoneNumber, number.id.kept(), change, Vec::new());
    Ok(changes.finish())
}
