//! What the core sees of the state, and the values in which it says what becomes of it.
//!
//! The rows are the tables of design §2; every index that the view offers can be derived from them.

use super::step::RETENTION;
use crate::event::{AccountId, AccountState, Call, CallVerdict, CompanyNumber, IdRef, Millis, OpenCall, SessionId, Texts};
use compact_str::CompactString;
use smallvec::SmallVec;
use std::sync::Arc;

/// The state could not be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("state: {0}")]
pub struct ViewError(pub String);

/// A session that holds facts which no verdict contains, or that is a fax.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenRow {
    /// What is known of it.
    pub record: OpenCall,
    /// Partition time of the oldest fact that neither a verdict nor `open-calls` contains.
    pub unpublished_since: Option<Millis>,
    /// Its key on `open-calls` has a value.
    pub on_topic: bool,
    /// It waits for the account's snapshot, and is to be looked at when that is complete.
    pub gated: bool,
    /// Partition time at which it is to be looked at next: never later than the first thing that time brings about.
    pub deadline: Millis,
}

/// All that the state holds of one session: new facts, the newest verdict, both or neither.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Session {
    /// New facts on top of the verdict's evidence, which they contain.
    pub open: Option<Arc<OpenRow>>,
    /// The newest verdict, as published.
    pub verdict: Option<Arc<CallVerdict>>,
}

impl Session {
    /// New facts, or what the verdict was judged by.
    #[must_use]
    pub fn evidence(&self) -> Option<&Call> {
        self.open.as_ref().map(|row| &row.record.call).or_else(|| self.verdict.as_ref().map(|verdict| &verdict.call))
    }
}

/// What the indices know of a session: all that they are derived from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Indexed {
    /// When its open row is to be looked at; `None`: it has none.
    pub deadline: Option<Millis>,
    /// It waits for the account's snapshot, or was judged without it.
    pub gated: bool,
    /// Sessions that it names.
    pub links: SessionIds,
    /// Legacy ids that it is known by.
    pub legacy_session_ids: Texts,
    /// Its verdict.
    pub verdict: Option<Arc<CallVerdict>>,
}

impl Indexed {
    /// Of these rows.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        let evidence = session.evidence();
        Self {
            deadline: session.open.as_ref().map(|row| row.deadline),
            gated: session.open.as_ref().is_some_and(|row| row.gated) || session.verdict.as_ref().is_some_and(|verdict| !verdict.snapshot_complete),
            links: evidence.map(|call| copied(&call.links)).unwrap_or_default(),
            legacy_session_ids: evidence.map(|call| copied(&call.legacy_session_ids)).unwrap_or_default(),
            verdict: session.verdict.clone(),
        }
    }
}

/// Done twice with each leg, of none or one value nearly always, for which the list's own way is a long one.
fn copied<T: Clone>(values: &SmallVec<[T; 1]>) -> SmallVec<[T; 1]> {
    match values.as_slice() {
        [] => SmallVec::new_const(),
        [one] => SmallVec::from_buf([one.clone()]),
        _ => values.clone(),
    }
}

/// Work that one record could not finish.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DueWork {
    /// The snapshot is complete: sessions that waited for it.
    Gate(AccountId),
    /// The account is removed: what is left of it.
    Erase(AccountId),
    /// The number is the company's: verdicts that waited for it.
    Number(AccountId, CompactString),
}

/// Something of an account from before its removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remnant {
    /// A number.
    Number(CompactString),
    /// A session.
    Session(SessionId),
}

/// A short list of sessions; nearly always none or one.
pub type SessionIds = SmallVec<[SessionId; 1]>;

/// The state of one partition, as the core reads it. Lists come in key order, at most `limit` long.
pub trait View {
    /// How long a conversation is kept after its last session's end; what is older still is refused. (Offline, for ever.)
    fn kept_for(&self) -> Millis {
        RETENTION
    }
    /// The account's row.
    ///
    /// # Errors
    /// If it can't be read.
    fn account(&self, account: &AccountId) -> Result<Option<Arc<AccountState>>, ViewError>;
    /// A number of the snapshot.
    ///
    /// # Errors
    /// If it can't be read.
    fn number(&self, account: &AccountId, number: &str) -> Result<Option<Arc<CompanyNumber>>, ViewError>;
    /// A session's rows.
    ///
    /// # Errors
    /// If they can't be read.
    fn session(&self, account: &AccountId, session: &SessionId) -> Result<Session, ViewError>;
    /// The same, for who will change them whatever comes: the state keeps no copy, so that they can change in place. It shows them no more until a
    /// change gives them back. With its id, of which the state has one already.
    ///
    /// # Errors
    /// As [`View::session`].
    fn take_session(&self, account: &AccountId, session: IdRef<'_, SessionId>) -> Result<(SessionId, Session), ViewError> {
        let session = session.to_id();
        let rows = self.session(account, &session)?;
        Ok((session, rows))
    }
    /// Sessions that name this one as their link.
    ///
    /// # Errors
    /// If they can't be read.
    fn linking_to(&self, account: &AccountId, session: &SessionId) -> Result<SessionIds, ViewError>;
    /// Sessions known by this legacy id.
    ///
    /// # Errors
    /// If they can't be read.
    fn with_legacy_id(&self, account: &AccountId, legacy_id: &str) -> Result<SessionIds, ViewError>;
    /// Sessions whose [`OpenRow::deadline`] is at or before `until`, earliest first.
    ///
    /// # Errors
    /// If they can't be read.
    fn due_sessions(&self, until: Millis, limit: usize) -> Result<Vec<(AccountId, SessionId)>, ViewError>;
    /// Judged sessions that ended at or before `until`, earliest first, with the time they stand under.
    ///
    /// # Errors
    /// If they can't be read.
    fn ended_sessions(&self, until: Millis, limit: usize) -> Result<Vec<(Millis, AccountId, SessionId)>, ViewError>;
    /// Judged sessions whose verdict has this number as external.
    ///
    /// # Errors
    /// If they can't be read.
    fn waiting_for(&self, account: &AccountId, number: &str, limit: usize) -> Result<Vec<SessionId>, ViewError>;
    /// Sessions that wait for the account's snapshot, or were judged without it.
    ///
    /// # Errors
    /// If they can't be read.
    fn gated(&self, account: &AccountId, limit: usize) -> Result<Vec<SessionId>, ViewError>;
    /// What is left of the account from events up to `position`.
    ///
    /// # Errors
    /// If it can't be read.
    fn remnants(&self, account: &AccountId, position: i64, limit: usize) -> Result<Vec<Remnant>, ViewError>;
    /// Work that earlier records left.
    ///
    /// # Errors
    /// If it can't be read.
    fn due_work(&self, limit: usize) -> Result<Vec<DueWork>, ViewError>;
}

/// A state that can take changes in: what it then shows contains them, in every row and every index.
pub trait State: View {
    /// Applies them.
    fn apply(&mut self, changes: Changes);
}

/// What becomes of one session. Indices follow from the rows: what `after` implies is there, what only `before` implied is not.
#[derive(Debug, Clone)]
pub struct SessionChange {
    /// The account.
    pub account_id: AccountId,
    /// The session.
    pub session_id: SessionId,
    /// As it was, as far as indices know.
    pub before: Indexed,
    /// As it is.
    pub after: Session,
    /// False: it was read only.
    pub is_changed: bool,
}

/// An index entry that its row still implies, but that has done its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settled {
    /// The session need not be judged again for this number: its open conversation will be.
    Waiting(AccountId, CompactString, SessionId),
    /// The session need not be looked at for the snapshot.
    Gated(AccountId, SessionId),
    /// The session stands no more under the first time; its conversation ends later, at the second, or it is forgotten.
    Ended(Millis, Option<Millis>, AccountId, SessionId),
}

/// What a step makes of the state.
#[derive(Debug, Default)]
pub struct Changes {
    /// Accounts with their new rows.
    pub accounts: Vec<Arc<AccountState>>,
    /// Numbers with their new rows; `None`: erased.
    pub numbers: Vec<(AccountId, CompactString, Option<Arc<CompanyNumber>>)>,
    /// Sessions.
    pub sessions: Vec<SessionChange>,
    /// Work that is left (true) or done (false).
    pub due: Vec<(DueWork, bool)>,
    /// Index entries that go although their row stays.
    pub settled: Vec<Settled>,
}

/// A record for an output topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// `account-states`.
    Account(Arc<AccountState>),
    /// `company-numbers`.
    Number(Arc<CompanyNumber>),
    /// `company-numbers`, tombstone.
    NumberGone(AccountId, CompactString),
    /// `call-verdicts`.
    Verdict(Arc<CallVerdict>),
    /// `call-verdicts`, tombstone: forgotten, or a fax.
    VerdictGone(AccountId, SessionId),
    /// `open-calls`.
    Open(Arc<OpenRow>),
    /// `open-calls`, tombstone.
    OpenGone(AccountId, SessionId),
}
