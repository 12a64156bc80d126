//! The parties of a telephony session, as notifications and session look-ups give them (ringcentral.md B2).

use super::values::{Filled, Object, Text};
use super::{DocumentError, SessionIds};
use crate::event::{Direction, Endpoint, Leg, LegId, Media};
use compact_str::CompactString;
use serde::Deserialize;

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Party<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    pub(super) account_id: Text<'a>,
    #[serde(borrow)]
    extension_id: Text<'a>,
    #[serde(borrow)]
    direction: Text<'a>,
    #[serde(borrow)]
    from: Object<Side<'a>>,
    #[serde(borrow)]
    to: Object<Side<'a>>,
    #[serde(borrow)]
    status: Object<Status<'a>>,
    recordings: Filled,
    /// Session look-ups: who watches the call. Its extension is not the party's: outside parties have an owner, too.
    #[serde(borrow)]
    pub(super) owner: Object<Owner<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Owner<'a> {
    #[serde(borrow)]
    pub(super) account_id: Text<'a>,
}

/// One side, of a party or of a call-log record (which alone has `extensionNumber`). The name is carrier text and not read.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Side<'a> {
    #[serde(borrow)]
    phone_number: Text<'a>,
    #[serde(borrow)]
    extension_id: Text<'a>,
    #[serde(borrow)]
    extension_number: Text<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Status<'a> {
    #[serde(borrow)]
    code: Text<'a>,
    #[serde(borrow)]
    reason: Text<'a>,
    #[serde(borrow)]
    peer_id: Object<Peer<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Peer<'a> {
    #[serde(borrow)]
    session_id: Text<'a>,
    #[serde(borrow)]
    telephony_session_id: Text<'a>,
}

/// `origin` of a session.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Origin<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Text<'a>,
}

impl Side<'_> {
    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint { number: self.phone_number.kept(), extension_id: self.extension_id.kept(), extension_number: self.extension_number.kept() }
    }
}

impl Party<'_> {
    pub(super) fn media(&self) -> Media {
        if self.status.0.code.is("FaxReceive") { Media::Fax } else { Media::Voice }
    }

    pub(super) fn leg(&self, session: &SessionIds) -> Result<Leg, DocumentError> {
        let id = self.id.as_str().ok_or(DocumentError::Lacks { what: "a party", field: "id" })?;
        let status = &self.status.0;
        Ok(Leg {
            leg_id: LegId::parse(id)?,
            direction: direction(&self.direction),
            extension_id: self.extension_id.kept(),
            from: self.from.0.endpoint(),
            to: self.to.0.endpoint(),
            status: status.code.kept(),
            reason: status.reason.kept(),
            leg_type: None,
            peer_session_id: status.peer_id.0.session(session)?,
            recorded: self.recordings.0,
        })
    }
}

impl Peer<'_> {
    /// Look-ups give the telephony session id as `sessionId`; a legacy id, all digits, is none.
    fn session(&self, own: &SessionIds) -> Result<Option<CompactString>, DocumentError> {
        let is_telephony = |id: &&str| !id.bytes().all(|b| b.is_ascii_digit());
        let peer = self.telephony_session_id.as_str().filter(|id| *id != "0").or_else(|| self.session_id.as_str().filter(is_telephony));
        peer.map_or(Ok(None), |peer| own.peer(peer))
    }
}

pub(super) fn direction(text: &Text) -> Direction {
    if text.is("Inbound") {
        Direction::Inbound
    } else if text.is("Outbound") {
        Direction::Outbound
    } else {
        Direction::Unknown
    }
}

/// A session that one of its parties shows to be a fax is one.
pub(super) fn media(parties: &[Object<Party>]) -> Media {
    parties.iter().map(|party| party.0.media()).find(|media| *media == Media::Fax).unwrap_or(Media::Voice)
}
