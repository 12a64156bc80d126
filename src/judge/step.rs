//! One record in, changes and outputs out: `(state view, record) → (state changes, outputs)`.
//!
//! A step first lets time do what is due at the record's time, then takes in the record, then goes on with work that earlier
//! records left, as far as the bound on published records allows (design §3). Time is the partition's: the running maximum
//! of record times, which the caller keeps.

use super::endpoint::{endpoints, material, participants};
use super::number::{Country, NumberText, read_number};
use super::verdict::{Differ, Judgement, RULES, judge, judge_endpoint};
use super::view::{Changes, DueWork, Indexed, OpenRow, Output, Remnant, Session, SessionChange, Settled, State, View, ViewError};
use crate::event::{
    AccountId, AccountSettings, AccountState, Call, CallSource, CallVerdict, CompanyNumber, EndedBy, Event, Facts, IdRef, Media, Millis, NumberKind,
    NumberQuery, NumbersObserved, OpenCall, Rejudge, SessionId,
};
use compact_str::CompactString;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;
const HOUR: Millis = 60 * MINUTE;
const DAY: Millis = 24 * HOUR;

/// A party can appear a moment after all known ones are over.
pub const SETTLE: Millis = 3 * SECOND;
/// The same, while a notification seems to be missing.
pub const SETTLE_WITH_GAP: Millis = 30 * SECOND;
/// A session without events for so long counts as over.
pub const IDLE_LIMIT: Millis = 24 * HOUR;
/// The longest wait for the snapshot, and for the rest of a conversation.
pub const LONGEST_WAIT: Millis = 48 * HOUR;
/// Facts that have waited so long go to `open-calls`.
pub const OPEN_CALL_AFTER: Millis = 10 * MINUTE;
/// A conversation is forgotten so long after its last session's end.
pub const RETENTION: Millis = 400 * DAY;

/// Records that one step may publish.
pub const MOST_OUTPUTS: usize = 1_000;
/// Numbers that one `NumbersObserved` may bring.
pub const MOST_NUMBERS: usize = 1_000;
/// Sessions that one conversation follows.
pub const MOST_SESSIONS: usize = 256;
/// The end of the year 9999: a time beyond is no time, and must not stop the partition's for ever.
pub const LATEST: Millis = 253_402_300_799_999;
/// Things that one step may look at without publishing anything.
const MOST_LOOKS: usize = 1_000;
/// Sessions that one step may come by in the conversations that it looks at; the last one is looked at as a whole.
pub const MOST_VISITS: usize = 64 * MOST_SESSIONS;
/// So many sessions are found by looking at each; nearly all steps touch one or two.
const FEW_SESSIONS: usize = 8;
const MOST_PREVIOUS_EXTENSIONS: usize = 10;
/// Records that taking in facts about a call publishes at most: a fax takes back a verdict; tombstones of a session from before the account's
/// removal, and of its stand-in.
const MOST_OF_FACTS: usize = 8;
/// A number's row is refreshed no more often.
const REFRESH: Millis = DAY;

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Its offset.
    pub offset: i64,
    /// The partition's time with it.
    pub time: Millis,
}

/// What a step did, beside changing the state.
#[derive(Debug, Default)]
pub struct Stepped {
    /// To publish, in order.
    pub outputs: Vec<Output>,
    /// Why the record cannot be taken in; it belongs to the dead letters.
    pub refused: Option<String>,
}

/// Steps one record, and applies what becomes of the state.
///
/// Its three parts are each a pure function of the state as the part before left it: time passes, the record is taken in, and
/// work that is left goes on. What time brings about contains the records before this one, and none of this one's facts.
///
/// # Errors
/// If the state can't be read; then it is of no more use.
pub fn step<S: State>(state: &mut S, at: At, event: &Event) -> Result<Stepped, ViewError> {
    step_by(state, at, most_published(event), |step| step.take_in(event))
}

/// The same for what an event says about a call, which stays where it stands.
///
/// # Errors
/// As [`step`].
pub fn step_facts<S: State>(state: &mut S, at: At, facts: &Facts<'_>) -> Result<Stepped, ViewError> {
    step_by(state, at, MOST_OF_FACTS, |step| step.call_legs(facts, false))
}

/// `most`: records that taking it in publishes at most. It is not left half taken in, so time keeps so much room for it.
fn step_by<S: State>(
    state: &mut S,
    at: At,
    most: usize,
    take_in: impl FnOnce(&mut Step<'_, S>) -> Result<Option<String>, ViewError>,
) -> Result<Stepped, ViewError> {
    let at = At { time: at.time.clamp(-LATEST, LATEST), ..at };
    let mut outputs = Vec::new();
    if !state.due_sessions(at.time, 1)?.is_empty() || !state.ended_sessions(forgotten_until(state, at.time), 1)?.is_empty() {
        outputs = part(state, At { offset: at.offset - 1, ..at }, MOST_OUTPUTS.saturating_sub(most), |step| step.pass_time())?.0;
    }
    let (taken_in, refused) = part(state, at, MOST_OUTPUTS, take_in)?;
    outputs.extend(taken_in);
    if !state.due_work(1)?.is_empty() {
        let room = MOST_OUTPUTS.saturating_sub(outputs.len());
        outputs.extend(part(state, at, room, |step| step.go_on())?.0);
    }
    Ok(Stepped { outputs, refused })
}

/// Records that taking an event in publishes at most.
fn most_published(event: &Event) -> usize {
    match event {
        Event::NumbersObserved(observed) => observed.numbers.len(),
        Event::Rejudge(_) => 2 * MOST_SESSIONS,
        _ => MOST_OF_FACTS,
    }
}

/// Takes in the facts of a record that was stepped before, while a copy is brought up: nothing else happens, nothing is published.
///
/// # Errors
/// As [`step`].
pub fn recall<S: State>(state: &mut S, at: At, facts: &Facts<'_>) -> Result<(), ViewError> {
    let at = At { time: at.time.clamp(-LATEST, LATEST), ..at };
    part(state, at, MOST_OUTPUTS, |step| step.call_legs(facts, true))?;
    Ok(())
}

/// Runs a part of a step on the state as it is, and applies its changes.
fn part<S: State, T>(
    state: &mut S,
    at: At,
    room: usize,
    work: impl FnOnce(&mut Step<'_, S>) -> Result<T, ViewError>,
) -> Result<(Vec<Output>, T), ViewError> {
    let mut step = Step::new(&*state, at, room);
    let done = work(&mut step)?;
    let (changes, outputs) = step.finish();
    state.apply(changes);
    Ok((outputs, done))
}

/// A session's row that `open-calls` gave to a copy: due at once, since only then what follows from it shows.
#[must_use]
pub fn reopened(record: OpenCall) -> OpenRow {
    OpenRow { deadline: record.over_since.unwrap_or(record.touched_at), record, unpublished_since: None, on_topic: true, gated: false }
}

/// What became of a session that was to be closed.
enum Closing {
    /// Its facts are published, or needn't be.
    Done,
    /// Not before this time.
    Waits(Millis),
    /// No room left in this step.
    NoRoom,
}

struct Member {
    id: SessionId,
    session: Session,
}

struct Step<'v, V> {
    view: &'v V,
    at: At,
    room: usize,
    looks: usize,
    visits: usize,
    outputs: Vec<Output>,
    accounts: Vec<Arc<AccountState>>,
    /// Numbers that this step has changed; `None`: erased.
    numbers: BTreeMap<(AccountId, CompactString), Option<Arc<CompanyNumber>>>,
    /// Those that this part has read.
    sessions: Vec<SessionChange>,
    /// Places in `sessions`, once they are more than [`FEW_SESSIONS`].
    session_index: BTreeMap<(AccountId, SessionId), usize>,
    due: Vec<(DueWork, bool)>,
    settled: Vec<Settled>,
}

impl<'v, V: View> Step<'v, V> {
    fn new(view: &'v V, at: At, room: usize) -> Self {
        Self {
            view,
            at,
            room,
            looks: MOST_LOOKS,
            visits: MOST_VISITS,
            outputs: Vec::new(),
            accounts: Vec::new(),
            numbers: BTreeMap::new(),
            sessions: Vec::new(),
            session_index: BTreeMap::new(),
            due: Vec::new(),
            settled: Vec::new(),
        }
    }

    fn finish(self) -> (Changes, Vec<Output>) {
        let numbers = self.numbers.into_iter().map(|((account, number), row)| (account, number, row)).collect();
        (Changes { accounts: self.accounts, numbers, sessions: self.sessions, due: self.due, settled: self.settled }, self.outputs)
    }

    fn take_in(&mut self, event: &Event) -> Result<Option<String>, ViewError> {
        match event {
            Event::CallLegs(legs) => self.call_legs(&legs.facts(), false),
            Event::NumbersObserved(observed) => self.numbers_observed(observed),
            Event::SnapshotCompleted(completed) => {
                let mut state = self.account(&completed.account_id)?.as_ref().clone();
                if state.snapshot_completed_at.is_none() {
                    state.snapshot_completed_at = Some(completed.completed_at);
                    self.due.push((DueWork::Gate(completed.account_id.clone()), true));
                }
                self.publish_account(state);
                Ok(None)
            }
            Event::AccountSettings(settings) => {
                if Country::parse(&settings.country).is_none() {
                    return Ok(Some(format!("the country {:?} has no numbering plan: give an ISO 3166-1 alpha-2 code such as US", settings.country)));
                }
                let mut state = self.account(&settings.account_id)?.as_ref().clone();
                state.settings = Some(settings.clone());
                self.publish_account(state);
                Ok(None)
            }
            Event::AccountRemoved(removed) => {
                let state = AccountState {
                    account_id: removed.account_id.clone(),
                    settings: None,
                    snapshot_completed_at: None,
                    numbers: 0,
                    removed_at: Some(removed.removed_at),
                    removed_position: Some(self.at.offset),
                    position: self.at.offset,
                };
                self.due.push((DueWork::Erase(removed.account_id.clone()), true));
                self.publish_account(state);
                Ok(None)
            }
            Event::Rejudge(rejudge) => {
                self.rejudge(rejudge)?;
                Ok(None)
            }
            // A reason to query again, for the directory sync; time alone has passed before.
            Event::DirectoryChanged(_) | Event::Tick(_) => Ok(None),
        }
    }

    // ---- rows ----

    fn account(&self, account: &AccountId) -> Result<Arc<AccountState>, ViewError> {
        if let Some(state) = self.accounts.iter().rev().find(|state| state.account_id == *account) {
            return Ok(state.clone());
        }
        Ok(self.view.account(account)?.unwrap_or_else(|| Arc::new(AccountState::unknown(account.clone()))))
    }

    fn publish_account(&mut self, mut state: AccountState) {
        state.position = self.at.offset;
        let state = Arc::new(state);
        self.set_account(state.clone());
        self.outputs.push(Output::Account(state));
    }

    fn set_account(&mut self, state: Arc<AccountState>) {
        self.accounts.retain(|known| known.account_id != state.account_id);
        self.accounts.push(state);
    }

    /// The rows of a session, without those from before the account's removal.
    fn session(&mut self, state: &AccountState, session: &SessionId) -> Result<Session, ViewError> {
        let at = match self.place(&state.account_id, session) {
            Some(at) => at,
            None => self.hold(state, session.clone(), self.view.session(&state.account_id, session)?, false),
        };
        Ok(self.sessions[at].after.clone())
    }

    /// The same, to be changed in place, of the session that this part looks at first: where it stands in `sessions`.
    fn take_session(&mut self, state: &AccountState, session: IdRef<'_, SessionId>) -> Result<usize, ViewError> {
        debug_assert!(self.sessions.is_empty(), "one that is held already would be taken a second time, as empty");
        let (session_id, rows) = self.view.take_session(&state.account_id, session)?;
        Ok(self.hold(state, session_id, rows, true))
    }

    fn hold(&mut self, state: &AccountState, session_id: SessionId, mut rows: Session, mut is_changed: bool) -> usize {
        let account_id = state.account_id.clone();
        let before = Indexed::of(&rows);
        if let Some(removed) = state.removed_position {
            if rows.verdict.take_if(|verdict| verdict.position <= removed).is_some() {
                self.outputs.push(Output::VerdictGone(account_id.clone(), session_id.clone()));
                is_changed = true;
            }
            if let Some(row) = rows.open.take_if(|row| row.record.position <= removed) {
                is_changed = true;
                if row.on_topic {
                    self.outputs.push(Output::OpenGone(account_id.clone(), session_id.clone()));
                }
            }
        }
        let at = self.sessions.len();
        if at == FEW_SESSIONS {
            let keys = self.sessions.iter().map(|change| (change.account_id.clone(), change.session_id.clone()));
            self.session_index.extend(keys.zip(0..at));
        }
        if at >= FEW_SESSIONS {
            self.session_index.insert((account_id.clone(), session_id.clone()), at);
        }
        if at == 0 {
            // Mostly it stays alone.
            self.sessions.reserve_exact(1);
        }
        self.sessions.push(SessionChange { account_id, session_id, before, after: rows, is_changed });
        at
    }

    /// Where the session stands among those that this step has read.
    fn place(&self, account: &AccountId, session: &SessionId) -> Option<usize> {
        if self.session_index.is_empty() {
            return self.sessions.iter().position(|change| change.session_id == *session && change.account_id == *account);
        }
        self.session_index.get(&(account.clone(), session.clone())).copied()
    }

    /// Sets the rows of a session that was read before.
    fn put_session(&mut self, account: &AccountId, session: &SessionId, after: Session) {
        if let Some(at) = self.place(account, session) {
            let change = &mut self.sessions[at];
            change.is_changed |= change.after != after;
            change.after = after;
        }
    }

    fn number(&self, state: &AccountState, number: &str) -> Result<Option<Arc<CompanyNumber>>, ViewError> {
        if !self.numbers.is_empty()
            && let Some(row) = self.numbers.get(&(state.account_id.clone(), CompactString::new(number)))
        {
            return Ok(row.clone());
        }
        let row = self.view.number(&state.account_id, number)?;
        Ok(row.filter(|row| state.removed_position.is_none_or(|removed| row.position > removed)))
    }

    // ---- facts about calls ----

    fn call_legs(&mut self, facts: &Facts<'_>, recalled: bool) -> Result<Option<String>, ViewError> {
        let account = &facts.account_id;
        let state = self.account(account)?;
        if state.removed_position.is_some_and(|removed| self.at.offset <= removed) {
            return Ok(None);
        }
        if facts.media == Media::Other {
            return Ok(None);
        }
        if facts.occurred_at.max(facts.ended_at.unwrap_or(Millis::MIN)) <= self.forgotten_until() {
            return Ok(Some(format!("session {} is older than the retention of judged calls (400 days)", facts.session_id.as_str())));
        }
        let known = self.resolve(&state, facts.session_id)?;
        let place = self.take_session(&state, known.as_ref().map_or(facts.session_id, SessionId::as_ref))?;
        let as_fax = self.is_known_as_fax(&state, place, facts)?.then(|| Facts { media: Media::Fax, ..facts.clone() });
        let facts = as_fax.as_ref().unwrap_or(facts);
        let session = &mut self.sessions[place].after;
        // A copy that is brought up may hold more than the log has told so far.
        let contained = session.open.as_ref().map(|row| row.record.position).max(session.verdict.as_ref().map(|verdict| verdict.position));
        if recalled && contained.is_some_and(|position| self.at.offset <= position) {
            return Ok(None);
        }
        match (session.open.take(), session.verdict.clone()) {
            (Some(row), _) => self.add_facts(&state, place, row, false, facts),
            (None, Some(verdict)) => self.reopen(&state, place, &verdict, facts),
            (None, None) if facts.source == CallSource::SessionLookup && facts.is_final && facts.legs.is_empty() => {}
            (None, None) => {
                let record = OpenCall {
                    account_id: account.clone(),
                    session_id: self.sessions[place].session_id.clone(),
                    touched_at: self.at.time,
                    over_since: None,
                    position: self.at.offset,
                    call: Call::new(facts),
                };
                let row = OpenRow { record, unpublished_since: None, on_topic: false, gated: false, deadline: Millis::MAX };
                self.add_facts(&state, place, Arc::new(row), true, facts);
            }
        }
        Ok(None)
    }

    /// A session that only its legacy id names is the one that is known by that id, where there is one (design §1, Sessions).
    fn resolve(&self, state: &AccountState, session: IdRef<'_, SessionId>) -> Result<Option<SessionId>, ViewError> {
        let Some(legacy_id) = session.as_legacy() else { return Ok(None) };
        for known in self.view.with_legacy_id(&state.account_id, legacy_id)?.into_iter().filter(|known| known.as_legacy().is_none()) {
            // What is left from before the account's removal is gone, only not yet erased.
            let Some(removed) = state.removed_position else { return Ok(Some(known)) };
            let rows = self.view.session(&state.account_id, &known)?;
            if rows.open.is_some_and(|row| row.record.position > removed) || rows.verdict.is_some_and(|verdict| verdict.position > removed) {
                return Ok(Some(known));
            }
        }
        Ok(None)
    }

    /// What was a fax while only its legacy id named it is one under its real name too. (Once that name is known by the id, nothing more comes under
    /// the id alone.)
    fn is_known_as_fax(&mut self, state: &AccountState, place: usize, facts: &Facts<'_>) -> Result<bool, ViewError> {
        let SessionChange { session_id, after, .. } = &self.sessions[place];
        let Some(legacy_id) = facts.legacy_session_id.filter(|_| session_id.as_legacy().is_none()) else { return Ok(false) };
        if after.evidence().is_some_and(|call| call.legacy_session_ids.iter().any(|id| id == legacy_id)) {
            return Ok(false);
        }
        let known = self.view.with_legacy_id(&state.account_id, legacy_id)?;
        let Some(stand_in) = known.iter().find(|id| id.as_legacy() == Some(legacy_id)) else { return Ok(false) };
        Ok(self.session(state, stand_in)?.evidence().is_some_and(|call| call.media == Media::Fax))
    }

    /// `row` becomes the open row of the session at `place`, with these facts.
    fn add_facts(&mut self, state: &AccountState, place: usize, mut row: Arc<OpenRow>, is_new: bool, facts: &Facts<'_>) {
        let SessionChange { session_id, after: session, .. } = &mut self.sessions[place];
        let after = Arc::make_mut(&mut row);
        let was_fax = after.record.call.media == Media::Fax;
        let is_news = after.record.call.take_in(session_id, facts);
        after.record.touched_at = self.at.time;
        after.record.position = self.at.offset;
        if is_new || is_news {
            after.unpublished_since = after.unpublished_since.or(Some(self.at.time));
        }
        match after.record.call.end() {
            None => after.record.over_since = None,
            Some(_) => after.record.over_since = after.record.over_since.or(Some(self.at.time)),
        }
        if after.record.call.media == Media::Fax {
            let (session_id, session) = (session_id.clone(), session.clone());
            return self.set_fax(state, &session_id, &session, row, was_fax);
        }
        let due = after.record.over_since.map_or(after.record.touched_at + IDLE_LIMIT, |since| since + settle(&after.record.call));
        after.deadline = after.deadline.min(due).min(flush_at(after));
        session.open = Some(row);
    }

    /// A judged session takes in what is material and nothing else (design §1).
    fn reopen(&mut self, state: &AccountState, place: usize, verdict: &CallVerdict, facts: &Facts<'_>) {
        let session_id = &verdict.session_id;
        let (before, mut after) = (&verdict.call, verdict.call.clone());
        if !after.take_in(session_id, facts) {
            return;
        }
        let settings = settings(state);
        let home = home(&settings);
        let is_material = after.media != before.media
            || after.links != before.links
            || after.legacy_session_ids != before.legacy_session_ids
            || (after.legs_dropped > 0) != (before.legs_dropped > 0)
            || material(session_id, &after, home) != material(session_id, before, home)
            || recorded(&after, &settings) != recorded(before, &settings);
        if !is_material {
            return;
        }
        let record = OpenCall {
            account_id: state.account_id.clone(),
            session_id: session_id.clone(),
            touched_at: self.at.time,
            over_since: None,
            position: self.at.offset,
            call: before.clone(),
        };
        let row = OpenRow { record, unpublished_since: None, on_topic: false, gated: false, deadline: Millis::MAX };
        self.add_facts(state, place, Arc::new(row), true, facts);
    }

    /// Design R7: no verdict, and one that it has already is withdrawn. The row stays, so that later facts are known for a fax's.
    fn set_fax(&mut self, state: &AccountState, session_id: &SessionId, session: &Session, mut shared: Arc<OpenRow>, was_fax: bool) {
        let row = Arc::make_mut(&mut shared);
        row.gated = false;
        let is_withdrawn = session.verdict.is_some();
        if is_withdrawn {
            // Its evidence goes with the verdict, so it is told elsewhere in the same breath.
            row.unpublished_since = None;
            row.on_topic = true;
        }
        // Sessions that were judged with it, or waited for it, are looked at as soon as time passes.
        let due = if was_fax { self.forgotten_at(row) } else { self.at.time };
        row.deadline = if was_fax { row.deadline.min(due) } else { due }.min(flush_at(row));
        let row = shared;
        if is_withdrawn {
            self.outputs.push(Output::VerdictGone(state.account_id.clone(), session_id.clone()));
            self.outputs.push(Output::Open(row.clone()));
        }
        self.put_session(&state.account_id, session_id, Session { open: Some(row), verdict: None });
    }

    // ---- time ----

    fn forgotten_until(&self) -> Millis {
        forgotten_until(self.view, self.at.time)
    }

    fn forgotten_at(&self, row: &OpenRow) -> Millis {
        row.record.call.last_event_at.max(row.record.call.final_end.unwrap_or(Millis::MIN)).saturating_add(self.view.kept_for())
    }

    fn has_room(&self) -> bool {
        self.outputs.len() < self.room && self.looks > 0 && self.visits > 0
    }

    fn pass_time(&mut self) -> Result<(), ViewError> {
        for (account, session) in self.view.due_sessions(self.at.time, MOST_LOOKS)? {
            if !self.has_room() || !self.fire(&account, &session)? {
                return Ok(());
            }
        }
        for (stands_under, account, session) in self.view.ended_sessions(self.forgotten_until(), MOST_LOOKS)? {
            if !self.has_room() || !self.forget(stands_under, &account, &session)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A session's deadline has come. False: no room in this step.
    fn fire(&mut self, account: &AccountId, session_id: &SessionId) -> Result<bool, ViewError> {
        self.looks -= 1;
        let state = self.account(account)?;
        let session = self.session(&state, session_id)?;
        let Some(row) = session.open.filter(|row| row.deadline <= self.at.time) else { return Ok(true) };
        if self.forgotten_at(&row) <= self.at.time {
            // A fax, or a call that has been forgotten since an old copy knew it as open.
            if row.on_topic {
                self.outputs.push(Output::OpenGone(account.clone(), session_id.clone()));
            }
            self.put_session(account, session_id, Session { open: None, verdict: session.verdict });
            return Ok(true);
        }
        let waits_until = if row.record.call.media == Media::Fax {
            match self.fire_fax(&state, session_id, &row)? {
                Some(until) => until,
                None => return Ok(false),
            }
        } else {
            match self.close(&state, session_id)? {
                Closing::NoRoom => return Ok(false),
                Closing::Done => return Ok(true),
                Closing::Waits(until) => until,
            }
        };
        let session = self.session(&state, session_id)?;
        let Some(row) = session.open.as_deref() else { return Ok(true) };
        let mut after = row.clone();
        if flush_at(&after) <= self.at.time {
            after.unpublished_since = None;
            after.on_topic = true;
        }
        // The next look lies ahead, or the same deadline would fire for ever.
        after.deadline = waits_until.min(flush_at(&after)).max(self.at.time + 1);
        let after = Arc::new(after);
        if after.unpublished_since.is_none() && row.unpublished_since.is_some() {
            self.outputs.push(Output::Open(after.clone()));
        }
        self.put_session(account, session_id, Session { open: Some(after), verdict: session.verdict });
        Ok(true)
    }

    /// An open session is looked at no later than then; it waits for nothing else any more.
    fn look_again(&mut self, state: &AccountState, session_id: &SessionId, until: Millis) -> Result<(), ViewError> {
        let session = self.session(state, session_id)?;
        let Some(row) = session.open.as_deref() else { return Ok(()) };
        let row = OpenRow { gated: false, deadline: row.deadline.min(until), ..row.clone() };
        self.put_session(&state.account_id, session_id, Session { open: Some(Arc::new(row)), verdict: session.verdict });
        Ok(())
    }

    /// Those who were linked with a session that turned out a fax are judged without it; it is looked at again when it is forgotten.
    fn fire_fax(&mut self, state: &AccountState, session_id: &SessionId, row: &OpenRow) -> Result<Option<Millis>, ViewError> {
        for neighbour in self.neighbours(&state.account_id, session_id, &row.record.call)? {
            // Looks alone are no reason to stop: the next step would begin at the first neighbour again.
            if self.outputs.len() >= self.room {
                return Ok(None);
            }
            let is_stand_in = neighbour.as_legacy().is_some_and(|legacy_id| row.record.call.legacy_session_ids.iter().any(|id| id == legacy_id));
            if is_stand_in {
                self.set_stand_in_fax(state, &neighbour)?;
                continue;
            }
            match self.close(state, &neighbour)? {
                Closing::NoRoom => return Ok(None),
                Closing::Done => {}
                Closing::Waits(until) => self.look_again(state, &neighbour, until)?,
            }
        }
        Ok(Some(self.forgotten_at(row)))
    }

    /// The session that a fax was while only its legacy id named it is one too.
    fn set_stand_in_fax(&mut self, state: &AccountState, session_id: &SessionId) -> Result<(), ViewError> {
        let session = self.session(state, session_id)?;
        let Some(call) = session.evidence().filter(|call| call.media != Media::Fax) else { return Ok(()) };
        let record = OpenCall {
            account_id: state.account_id.clone(),
            session_id: session_id.clone(),
            touched_at: self.at.time,
            over_since: Some(self.at.time),
            position: self.at.offset,
            call: Call { media: Media::Fax, ..call.clone() },
        };
        let on_topic = session.open.as_ref().is_some_and(|row| row.on_topic);
        let row = OpenRow { record, unpublished_since: Some(self.at.time), on_topic, gated: false, deadline: Millis::MAX };
        self.set_fax(state, session_id, &session, Arc::new(row), false);
        Ok(())
    }

    // ---- conversations ----

    /// Sessions linked directly with this one, in either direction or through a legacy id; sorted.
    fn neighbours(&self, account: &AccountId, session: &SessionId, call: &Call) -> Result<BTreeSet<SessionId>, ViewError> {
        let mut neighbours: BTreeSet<SessionId> = call.links.iter().cloned().collect();
        neighbours.extend(self.view.linking_to(account, session)?.into_iter().filter(|id| id != session));
        for legacy_id in &call.legacy_session_ids {
            neighbours.extend(self.view.with_legacy_id(account, legacy_id)?.into_iter().filter(|id| id != session));
        }
        // Links that this very step has learned.
        for change in self.sessions.iter().filter(|change| change.account_id == *account) {
            if let Some(call) = change.after.evidence()
                && call.links.contains(session)
            {
                neighbours.insert(change.session_id.clone());
            }
        }
        neighbours.remove(session);
        Ok(neighbours)
    }

    /// The sessions that are judged together with this one, itself first; a fax belongs to none, and leads nowhere.
    fn conversation(&mut self, state: &AccountState, start: &SessionId) -> Result<Vec<Member>, ViewError> {
        let mut members: Vec<Member> = Vec::with_capacity(1);
        let mut seen = BTreeSet::new();
        let mut queue = VecDeque::new();
        let mut next = Some(start.clone());
        while let Some(id) = next.take().or_else(|| queue.pop_front()) {
            // Also those that were never seen.
            self.visits = self.visits.saturating_sub(1);
            let session = self.session(state, &id)?;
            let Some(call) = session.evidence().filter(|call| call.media != Media::Fax) else { continue };
            for neighbour in self.neighbours(&state.account_id, &id, call)? {
                if neighbour != *start && seen.insert(neighbour.clone()) {
                    queue.push_back(neighbour);
                }
            }
            members.push(Member { id, session });
            if members.len() >= MOST_SESSIONS {
                break;
            }
        }
        Ok(members)
    }

    /// Publishes what is to be published of the conversation of `start`, if this is the time.
    fn close(&mut self, state: &AccountState, start: &SessionId) -> Result<Closing, ViewError> {
        let members = self.conversation(state, start)?;
        let Some(first) = members.first().filter(|member| member.id == *start) else { return Ok(Closing::Done) };
        let now = self.at.time;
        let row = first.session.open.clone();
        let over_at = row.as_deref().and_then(|row| over_at(row, now));
        let rows = || members.iter().filter_map(|member| member.session.open.as_deref());

        if rows().any(|row| self::over_at(row, now).is_none()) {
            return Ok(match (row, over_at) {
                (Some(_), Some(at)) if at + LONGEST_WAIT <= now => {
                    self.publish(state, &members, Some(start), Some(EndedBy::ConversationOpen), false)?
                }
                (Some(_), Some(at)) => Closing::Waits(at + LONGEST_WAIT),
                (Some(row), None) => Closing::Waits(row.record.touched_at + IDLE_LIMIT),
                (None, _) => Closing::Waits(Millis::MAX),
            });
        }
        let ready = rows().map(|row| ready_at(row, now)).max().unwrap_or(Millis::MIN);
        if ready > now {
            return Ok(Closing::Waits(ready));
        }
        if state.snapshot_completed_at.is_some() {
            return self.publish(state, &members, None, None, false);
        }
        let Some((row, at)) = row.zip(over_at) else { return Ok(Closing::Waits(Millis::MAX)) };
        if at + LONGEST_WAIT <= now {
            return self.publish(state, &members, Some(start), None, false);
        }
        if !row.gated {
            let gated = Arc::new(OpenRow { gated: true, ..OpenRow::clone(&row) });
            self.put_session(&state.account_id, start, Session { open: Some(gated), verdict: first.session.verdict.clone() });
        }
        Ok(Closing::Waits(at + LONGEST_WAIT))
    }

    /// Judges these sessions together, and publishes those (or the one) of which something published would differ. A revision's cause is the replay,
    /// where it is for one.
    fn publish(
        &mut self,
        state: &AccountState,
        members: &[Member],
        only: Option<&SessionId>,
        ended_by: Option<EndedBy>,
        is_replay: bool,
    ) -> Result<Closing, ViewError> {
        let most = if only.is_some() { 2 } else { 2 * members.len() };
        if self.outputs.len() + most > self.room {
            return Ok(Closing::NoRoom);
        }
        let account = &state.account_id;
        let settings = settings(state);
        let calls = || members.iter().filter_map(|member| member.session.evidence().map(|call| (&member.id, call)));
        let mut judged = Vec::new();
        for found in endpoints(calls(), home(&settings)) {
            use super::endpoint::Identity::{Phone, Short};
            let row = match &found.identity {
                Phone(number) => self.number(state, number)?,
                // A short number is known as an extension's only.
                Short(number) => self.number(state, number)?.filter(|row| row.kind == NumberKind::Extension),
                _ => None,
            };
            judged.push(judge_endpoint(found, row.as_deref(), settings.trust_extension_id));
        }
        let mut ids: Vec<SessionId> = members.iter().map(|member| member.id.clone()).collect();
        ids.sort();
        let mut recorded: Vec<&CompactString> = calls().flat_map(|(_, call)| participants(call)).filter(|id| is_recorded(&settings, id)).collect();
        recorded.sort_unstable();
        recorded.dedup();
        let judgement = Judgement {
            verdict: judge(&judged, calls().any(|(_, call)| call.legs_dropped > 0)),
            members: ids,
            recorded_extensions: recorded.into_iter().cloned().collect(),
            settings: &settings,
            snapshot_complete: state.snapshot_completed_at.is_some(),
            snapshot_size: state.numbers,
            now: self.at.time,
            position: self.at.offset,
        };
        // Who was judged by itself while a conversation was open may have been judged by more than the others.
        let has_news = |member: &Member| {
            let others = judgement.members.iter().filter(|id| **id != member.id);
            member.session.open.is_some() || member.session.verdict.as_ref().is_some_and(|verdict| !verdict.linked_sessions.iter().eq(others))
        };
        let may_differ = if is_replay {
            Differ::ByReplay
        } else if members.iter().any(has_news) {
            Differ::ByNews
        } else {
            Differ::WithoutNews
        };
        let mut wanted = members.iter().filter(|member| only.is_none_or(|only| *only == member.id)).peekable();
        while let Some(member) = wanted.next() {
            let Some(call) = member.session.evidence() else { continue };
            let superseded_by = member.id.as_legacy().and_then(|legacy_id| {
                let known_by_it = |(_, call): &(&SessionId, &Call)| call.legacy_session_ids.iter().any(|id| id == legacy_id);
                calls().filter(|(id, _)| id.as_legacy().is_none()).filter(known_by_it).map(|(id, _)| id).min().cloned()
            });
            let ended_by = ended_by.or_else(|| call.end()).unwrap_or(EndedBy::IdleLimit);
            let previous = member.session.verdict.as_deref();
            let endpoints = if wanted.peek().is_none() { std::mem::take(&mut judged) } else { judged.clone() };
            let revised = judgement.revise((&member.id, call), endpoints, ended_by, superseded_by, previous, may_differ);
            let verdict = match revised {
                Some(verdict) => {
                    let verdict = Arc::new(verdict);
                    self.outputs.push(Output::Verdict(verdict.clone()));
                    Some(verdict)
                }
                None => member.session.verdict.clone(),
            };
            if member.session.open.as_ref().is_some_and(|row| row.on_topic) {
                self.outputs.push(Output::OpenGone(account.clone(), member.id.clone()));
            }
            self.put_session(account, &member.id, Session { open: None, verdict });
        }
        Ok(Closing::Done)
    }

    /// A conversation is forgotten as a whole, 400 days after its last session's end. False: no room in this step.
    fn forget(&mut self, stands_under: Millis, account: &AccountId, session_id: &SessionId) -> Result<bool, ViewError> {
        self.looks -= 1;
        let state = self.account(account)?;
        let members = self.conversation(&state, session_id)?;
        let is_open = members.iter().any(|member| member.session.open.is_some());
        let last_end = members.iter().filter_map(|member| member.session.verdict.as_ref()).map(|verdict| verdict.ended_at).max();
        let Some(last_end) = last_end else {
            self.settled.push(Settled::Ended(stands_under, None, account.clone(), session_id.clone()));
            return Ok(true);
        };
        if is_open || last_end > self.forgotten_until() {
            // Looked at again when the rest of the conversation may be over and old enough.
            let later = last_end.max(self.forgotten_until().saturating_add(DAY));
            self.settled.push(Settled::Ended(stands_under, Some(later), account.clone(), session_id.clone()));
            return Ok(true);
        }
        if self.outputs.len() + members.len() > self.room {
            return Ok(false);
        }
        self.settled.push(Settled::Ended(stands_under, None, account.clone(), session_id.clone()));
        for member in members {
            self.outputs.push(Output::VerdictGone(account.clone(), member.id.clone()));
            self.put_session(account, &member.id, Session::default());
        }
        Ok(true)
    }

    fn rejudge(&mut self, rejudge: &Rejudge) -> Result<(), ViewError> {
        // What the replay showed isn't what these rules would say.
        if rejudge.rules.as_ref().is_some_and(|rules| rules != RULES) {
            return Ok(());
        }
        let state = self.account(&rejudge.account_id)?;
        let members = self.conversation(&state, &rejudge.session_id)?;
        let is_newest = members.first().is_some_and(|member| {
            member.id == rejudge.session_id && member.session.verdict.as_ref().is_some_and(|v| v.revision == rejudge.expected_revision)
        });
        // The closing of an open conversation judges anew anyway.
        if is_newest && members.iter().all(|member| member.session.open.is_none()) {
            self.publish(&state, &members, None, None, true)?;
        }
        Ok(())
    }

    // ---- numbers ----

    fn numbers_observed(&mut self, observed: &NumbersObserved) -> Result<Option<String>, ViewError> {
        if observed.numbers.len() > MOST_NUMBERS {
            return Ok(Some(format!("{} numbers in one event: a writer splits them by {MOST_NUMBERS}", observed.numbers.len())));
        }
        let account = &observed.account_id;
        let state = self.account(account)?;
        let settings = settings(&state);
        // Queries beyond those of design R3 are settings.
        if matches!(observed.query, NumberQuery::Inventory | NumberQuery::Devices) && !settings.queries.contains(&observed.query) {
            return Ok(None);
        }
        let home = home(&settings);
        let mut numbers = state.numbers;
        let mut changed: Vec<CompactString> = Vec::new();
        for number in &observed.numbers {
            let federated = number.contact_account_id.as_deref().filter(|contact| *contact != account.as_str());
            let excluded = number.usage_type.as_ref().is_some_and(|usage| settings.excluded_usage_types.contains(usage));
            if excluded || (federated.is_some() && !settings.include_federated) {
                continue;
            }
            let text = match (number.kind, read_number(&number.number, home)) {
                (NumberKind::Phone, NumberText::Phone(text)) => CompactString::from(text),
                (NumberKind::Extension, NumberText::Short(text)) => text,
                _ => continue,
            };
            let known = self.number(&state, &text)?;
            let mut row = known.as_deref().cloned().unwrap_or_else(|| CompanyNumber {
                account_id: account.clone(),
                number: text.clone(),
                kind: number.kind,
                raw: number.number.clone(),
                first_seen_at: observed.observed_at,
                last_seen_at: observed.observed_at,
                queries: Vec::new(),
                extension_id: None,
                previous_extension_ids: Vec::new(),
                usage_type: None,
                contact_account_id: federated.map(CompactString::new),
                position: self.at.offset,
            });
            row.first_seen_at = row.first_seen_at.min(observed.observed_at);
            if observed.observed_at >= row.last_seen_at.saturating_add(REFRESH) {
                row.last_seen_at = observed.observed_at;
            }
            if !row.queries.contains(&observed.query) {
                row.queries.push(observed.query);
            }
            if number.extension_id.is_some()
                && row.extension_id != number.extension_id
                && let Some(previous) = std::mem::replace(&mut row.extension_id, number.extension_id.clone())
            {
                row.previous_extension_ids.retain(|id| *id != previous);
                row.previous_extension_ids.push(previous);
                let surplus = row.previous_extension_ids.len().saturating_sub(MOST_PREVIOUS_EXTENSIONS);
                row.previous_extension_ids.drain(..surplus);
            }
            if number.usage_type.is_some() {
                row.usage_type.clone_from(&number.usage_type);
            }
            if known.as_deref() == Some(&row) {
                continue;
            }
            row.position = self.at.offset;
            if known.is_none() {
                numbers += 1;
                if !self.view.waiting_for(account, &text, 1)?.is_empty() {
                    self.due.push((DueWork::Number(account.clone(), text.clone()), true));
                }
            }
            if !changed.contains(&text) {
                changed.push(text.clone());
            }
            self.numbers.insert((account.clone(), text), Some(Arc::new(row)));
        }
        for text in changed {
            if let Some(Some(row)) = self.numbers.get(&(account.clone(), text)) {
                self.outputs.push(Output::Number(row.clone()));
            }
        }
        if numbers != state.numbers {
            self.set_account(Arc::new(AccountState { numbers, ..state.as_ref().clone() }));
        }
        Ok(None)
    }

    // ---- due work ----

    fn go_on(&mut self) -> Result<(), ViewError> {
        if !self.has_room() {
            return Ok(());
        }
        for work in self.view.due_work(MOST_LOOKS)? {
            if !self.has_room() {
                return Ok(());
            }
            let is_done = match &work {
                DueWork::Gate(account) => self.open_gate(account)?,
                DueWork::Number(account, number) => self.number_arrived(account, number)?,
                DueWork::Erase(account) => self.erase(account)?,
            };
            if is_done {
                self.due.push((work, false));
            }
        }
        Ok(())
    }

    /// The session has got its verdict with others of its conversation a moment ago.
    fn is_judged_here(&self, account: &AccountId, session_id: &SessionId) -> bool {
        self.place(account, session_id).is_some_and(|at| {
            let change = &self.sessions[at];
            change.after.open.is_none() && change.after.verdict.is_some() && change.before.verdict != change.after.verdict
        })
    }

    /// True when no session waits for the account's snapshot any more.
    fn open_gate(&mut self, account: &AccountId) -> Result<bool, ViewError> {
        let state = self.account(account)?;
        if state.snapshot_completed_at.is_none() {
            return Ok(true);
        }
        self.close_each(&state, self.view.gated(account, MOST_LOOKS)?, |step, session_id, closing| {
            if let Closing::Waits(until) = closing {
                step.look_again(&state, &session_id, until)?;
            }
            // A verdict whose conversation is open again says "incomplete" until that closes.
            step.settled.push(Settled::Gated(account.clone(), session_id));
            Ok(())
        })
    }

    /// True when no verdict waits for the number any more.
    fn number_arrived(&mut self, account: &AccountId, number: &CompactString) -> Result<bool, ViewError> {
        let state = self.account(account)?;
        if self.number(&state, number)?.is_none() {
            return Ok(true);
        }
        self.close_each(&state, self.view.waiting_for(account, number, MOST_LOOKS)?, |step, session_id, _| {
            // Of an open conversation the closing judges anew.
            step.settled.push(Settled::Waiting(account.clone(), number.clone(), session_id));
            Ok(())
        })
    }

    /// Closes each of at most [`MOST_LOOKS`] sessions that waited, and says what became of it. True when none is left, here or beyond these.
    fn close_each(
        &mut self,
        state: &AccountState,
        waiting: Vec<SessionId>,
        mut closed: impl FnMut(&mut Self, SessionId, Closing) -> Result<(), ViewError>,
    ) -> Result<bool, ViewError> {
        let is_all = waiting.len() < MOST_LOOKS;
        for session_id in waiting {
            if !self.has_room() {
                return Ok(false);
            }
            self.looks -= 1;
            if self.is_judged_here(&state.account_id, &session_id) {
                continue;
            }
            let closing = self.close(state, &session_id)?;
            if matches!(closing, Closing::NoRoom) {
                return Ok(false);
            }
            closed(self, session_id, closing)?;
        }
        Ok(is_all)
    }

    /// True when nothing is left of the account from before its removal.
    fn erase(&mut self, account: &AccountId) -> Result<bool, ViewError> {
        let state = self.account(account)?;
        let Some(removed) = state.removed_position else { return Ok(true) };
        let remnants = self.view.remnants(account, removed, MOST_OUTPUTS / 2)?;
        let is_all = remnants.len() < MOST_OUTPUTS / 2;
        for remnant in remnants {
            if self.outputs.len() + 2 > self.room {
                return Ok(false);
            }
            match remnant {
                Remnant::Number(number) => {
                    let key = (account.clone(), number);
                    if self.numbers.get(&key).is_some_and(Option::is_some) {
                        continue;
                    }
                    self.outputs.push(Output::NumberGone(key.0.clone(), key.1.clone()));
                    self.numbers.insert(key, None);
                }
                // Looking at it is what erases it.
                Remnant::Session(session) => {
                    self.session(&state, &session)?;
                }
            }
        }
        Ok(is_all)
    }
}

/// What ended until then is forgotten.
fn forgotten_until(view: &impl View, now: Millis) -> Millis {
    now.saturating_sub(view.kept_for())
}

/// Since when the session has been over; `None` while it isn't.
fn over_at(row: &OpenRow, now: Millis) -> Option<Millis> {
    let idle_at = row.record.touched_at + IDLE_LIMIT;
    row.record.over_since.or((idle_at <= now).then_some(idle_at))
}

/// When a session that is over has settled. After the idle limit nothing more is waited for.
fn ready_at(row: &OpenRow, now: Millis) -> Millis {
    row.record.over_since.map_or_else(|| over_at(row, now).unwrap_or(Millis::MAX), |since| since + settle(&row.record.call))
}

/// How long it may be over before it is taken for settled.
#[must_use]
pub fn settle(call: &Call) -> Millis {
    if call.has_gap() { SETTLE_WITH_GAP } else { SETTLE }
}

fn flush_at(row: &OpenRow) -> Millis {
    row.unpublished_since.map_or(Millis::MAX, |since| since + OPEN_CALL_AFTER)
}

fn settings(state: &AccountState) -> Cow<'_, AccountSettings> {
    state.settings.as_ref().map_or_else(|| Cow::Owned(AccountSettings::defaults(state.account_id.clone())), Cow::Borrowed)
}

/// The home country of these settings.
#[must_use]
pub fn home(settings: &AccountSettings) -> Country {
    Country::parse(&settings.country).unwrap_or(Country::DEFAULT)
}

/// Participants of a session that are set to record, sorted.
pub(super) fn recorded<'a>(call: &'a Call, settings: &AccountSettings) -> BTreeSet<&'a CompactString> {
    participants(call).filter(|id| is_recorded(settings, id)).collect()
}

fn is_recorded(settings: &AccountSettings, extension_id: &CompactString) -> bool {
    settings.recorded_extensions.as_ref().is_none_or(|recorded| recorded.contains(extension_id))
}
