//! Telephony sessions as REST returns them. They lack the legacy id and the sequence (ringcentral.md B6).
//!
//! Such an object shows the session as it is now: that it is over shows in its parties, not in the object.

use super::parties::{Origin, Party, media};
use super::values::{List, Object, Text, Time};
use super::{Asked, Document, DocumentError, SessionIds, UNDATED, parse};
use crate::event::{AccountId, CallLegs, CallSource, Event};
use serde::Deserialize;

const WHAT: &str = "the session";

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Session<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    session_id: Text<'a>,
    #[serde(borrow)]
    account_id: Text<'a>,
    #[serde(borrow)]
    origin: Object<Origin<'a>>,
    #[serde(borrow)]
    parties: List<Object<Party<'a>>>,
    /// Of the newest change, in spite of its name (vendor's OpenAPI document).
    creation_time: Time,
}

pub(super) fn read(text: &str, asked: &Asked) -> Result<Document, DocumentError> {
    let session = parse::<Object<Session>>(text, WHAT)?.0;
    let ids = SessionIds::read(&session.id, &session.session_id, WHAT)?;
    let legs = CallLegs {
        account_id: asked.account_or(session.account()?),
        source: CallSource::SessionLookup,
        sequence: None,
        occurred_at: session.creation_time.0.unwrap_or(UNDATED),
        received_at: UNDATED,
        origin: session.origin.0.kind.kept(),
        media: media(&session.parties.0),
        is_final: false,
        ended_at: None,
        legs: session.parties.0.iter().map(|party| party.0.leg(&ids)).collect::<Result<_, _>>()?,
        session_id: ids.id,
        legacy_session_id: ids.legacy,
    };
    Ok(Document::of(Event::CallLegs(legs), session.creation_time.0))
}

impl Session<'_> {
    fn account(&self) -> Result<Option<AccountId>, DocumentError> {
        let parties = self.parties.0.iter().flat_map(|party| [&party.0.account_id, &party.0.owner.0.account_id]);
        let named = std::iter::once(&self.account_id).chain(parties).find_map(Text::as_str);
        Ok(named.map(AccountId::parse).transpose()?)
    }
}
