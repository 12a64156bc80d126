//! The state of one partition, as its worker sees it: what is in RocksDB, and on top of it what the batch under way has changed.
//!
//! The rows are the truth; every index is derived from them here, in one place ([`Store::apply`]), whether a step changed a row or
//! a copy is being brought up. Deadlines of open calls are kept in memory only, and read from the open rows when the store opens.

use super::bulk::{Bulk, Limits};
use super::database::{Database, DatabaseError, Family};
use super::keys;
use super::tables::{self, TableError, deadline_of, decode_open, encode_open, upto};
use crate::event::{
    AccountId, AccountState, CallVerdict, CompanyNumber, Decoded, IdRef, Media, Millis, OpenCall, SessionId, VerdictGist, decode, encode, encode_onto,
};
use crate::judge::{
    Changes, DueWork, Indexed, MOST_SESSIONS, OpenRow, RETENTION, Remnant, Session, SessionChange, SessionIds, Settled, State, View, ViewError,
    is_waiting, reopened,
};
use compact_str::CompactString;
use foldhash::{HashSet, HashSetExt};
use hashbrown::Equivalent;
use hashbrown::hash_map::EntryRef;
use rocksdb::{ReadOptions, WriteBatch};
use smallvec::SmallVec;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type SessionKey = (AccountId, SessionId);
type NumberKey = (AccountId, CompactString);
/// A table in memory that is also asked by names which stand elsewhere.
type ByName<K, V> = hashbrown::HashMap<K, V, foldhash::fast::RandomState>;

/// A [`SessionKey`] or a [`NumberKey`] whose parts stand elsewhere. It has the hash of a pair of texts, as they have.
#[derive(Hash)]
struct Name<'a>(&'a str, &'a str);

impl Equivalent<SessionKey> for Name<'_> {
    fn equivalent(&self, key: &SessionKey) -> bool {
        self.1 == key.1.as_str() && self.0 == key.0.as_str()
    }
}

impl Equivalent<NumberKey> for Name<'_> {
    fn equivalent(&self, key: &NumberKey) -> bool {
        self.1 == key.1 && self.0 == key.0.as_str()
    }
}

/// Rows that are kept in memory beyond the batch; more are forgotten, the clean ones.
const MOST_CACHED: usize = 200_000;
/// The same of lists, of which most are asked for by one call alone.
const MOST_LISTS: usize = 4_000;

/// A table's rows in memory: those that were read, and those that the batch has changed.
struct Cache<K, V> {
    rows: ByName<K, V>,
    changed: HashSet<K>,
}

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Self { rows: ByName::default(), changed: HashSet::new() }
    }
}

/// A session in memory. What was never written needs no deletion, and most calls begin and end within few batches.
struct CachedSession {
    session: Session,
    /// The open row stands on disk.
    open_is_stored: bool,
    /// The verdict, as it stands on disk or in the batch.
    stored_verdict: Option<Arc<CallVerdict>>,
    /// Its key is among those that the batch has changed.
    is_changed: bool,
}

impl CachedSession {
    /// As it stands on disk.
    fn clean(session: Session) -> Self {
        Self { open_is_stored: session.open.is_some(), stored_verdict: session.verdict.clone(), session, is_changed: false }
    }
}

/// The sessions in memory: those that were read, and those that the batch has changed.
#[derive(Default)]
struct Sessions {
    rows: ByName<SessionKey, CachedSession>,
    changed: Vec<SessionKey>,
}

/// A list in memory.
struct CachedList {
    ids: SessionIds,
    /// Its key is among those that the batch has changed.
    is_changed: bool,
}

/// The lists in memory: those that were read, and those that the batch has changed.
#[derive(Default)]
struct Lists {
    rows: ByName<Vec<u8>, CachedList>,
    changed: Vec<Vec<u8>>,
}

/// An index: entries that the batch has added (true) or removed (false), over those in RocksDB.
struct Index {
    family: Family,
    changed: BTreeMap<Vec<u8>, bool>,
}

impl Index {
    fn new(family: Family) -> Self {
        Self { family, changed: BTreeMap::new() }
    }

    /// Entries that begin with `prefix` and are not above `until`, in order.
    fn read(&self, database: &Database, prefix: &[u8], until: Option<&[u8]>, limit: usize) -> Result<Vec<Vec<u8>>, DatabaseError> {
        let is_above = |key: &[u8]| until.is_some_and(|until| key > until);
        let mut added = self
            .changed
            .range(prefix.to_vec()..)
            .take_while(|(key, _)| key.starts_with(prefix) && !is_above(key))
            .filter(|(_, is_there)| **is_there)
            .map(|(key, _)| key.clone())
            .peekable();
        let mut stored = database.iterate(database.family(self.family), upto(prefix));
        stored.seek(prefix);
        let mut found: Vec<Vec<u8>> = Vec::new();
        while found.len() < limit {
            let next = stored.key().filter(|key| !is_above(key));
            let Some(key) = next else {
                database.finished(&stored)?;
                found.extend(added.by_ref().take(limit - found.len()));
                break;
            };
            match added.peek() {
                Some(new) if new.as_slice() <= key => {
                    let is_same = new.as_slice() == key;
                    found.extend(added.next());
                    if is_same {
                        stored.next();
                    }
                }
                _ => {
                    if self.changed.get(key) != Some(&false) {
                        found.push(key.to_vec());
                    }
                    stored.next();
                }
            }
        }
        Ok(found)
    }

    fn set(&mut self, key: Vec<u8>, is_there: bool) {
        self.changed.insert(key, is_there);
    }

    fn write(&mut self, database: &Database, batch: &mut WriteBatch) {
        let family = database.family(self.family);
        for (key, is_there) in std::mem::take(&mut self.changed) {
            if is_there {
                batch.put_cf(family, key, []);
            } else {
                batch.delete_cf(family, key);
            }
        }
    }
}

/// The state of one partition.
pub struct Store {
    database: Arc<Database>,
    accounts: RefCell<Cache<AccountId, Option<Arc<AccountState>>>>,
    numbers: RefCell<Cache<NumberKey, Option<Arc<CompanyNumber>>>>,
    sessions: RefCell<Sessions>,
    lists: RefCell<Lists>,
    waiting: Index,
    retention: Index,
    gated: Index,
    due: BTreeSet<DueWork>,
    due_changed: BTreeMap<DueWork, bool>,
    deadlines: BTreeSet<(Millis, AccountId, SessionId)>,
    /// What is written with the batch already: verdicts, which are published and stored alike, and so encoded once.
    batch: WriteBatch,
    /// Bytes of the batch before.
    batch_size: usize,
    /// Where records are encoded.
    scratch: Vec<u8>,
    /// Open rows on disk that are not in memory; while there are none, a session that is not in memory has none.
    unread_open: Cell<usize>,
    /// While a copy is brought up that began empty.
    bulk: Option<Bulk>,
    bulk_limits: Limits,
    /// No judged call ended before.
    earliest_end: Cell<Millis>,
    kept_for: Millis,
    /// See [`MOST_CACHED`].
    most_cached: usize,
    /// The first thing that could not be read where a change had to know it.
    failure: Option<TableError>,
}

impl Store {
    /// Reads what is kept in memory: the deadlines of the open calls, and due work.
    ///
    /// # Errors
    /// If the disk can't be read, or an open row isn't what it should be.
    pub fn open(database: Arc<Database>) -> Result<Self, TableError> {
        let mut deadlines = BTreeSet::new();
        let mut rows = database.iterate(database.family(Family::Open), ReadOptions::default());
        rows.seek_to_first();
        while let Some((key, row)) = rows.item() {
            let entry = keys::split_account(key).and_then(|(account, session)| Some((deadline_of(row)?, account, SessionId::parse(session).ok()?)));
            deadlines.insert(entry.ok_or_else(|| TableError::Corrupt { table: Family::Open.name(), why: "an open row cannot be read".into() })?);
            rows.next();
        }
        database.finished(&rows)?;
        drop(rows);
        let mut due = BTreeSet::new();
        let mut rows = database.iterate(database.family(Family::Due), ReadOptions::default());
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            due.extend(keys::read_due_work(key));
            rows.next();
        }
        database.finished(&rows)?;
        drop(rows);
        Ok(Self {
            database,
            accounts: RefCell::default(),
            numbers: RefCell::default(),
            sessions: RefCell::default(),
            lists: RefCell::default(),
            waiting: Index::new(Family::Waiting),
            retention: Index::new(Family::Retention),
            gated: Index::new(Family::Due),
            due,
            due_changed: BTreeMap::new(),
            unread_open: Cell::new(deadlines.len()),
            batch: WriteBatch::default(),
            batch_size: 0,
            scratch: Vec::new(),
            deadlines,
            bulk: None,
            bulk_limits: Limits::default(),
            earliest_end: Cell::new(Millis::MIN),
            kept_for: RETENTION,
            most_cached: MOST_CACHED,
            failure: None,
        })
    }

    /// The same, but nothing is ever forgotten, and nothing is too old: for judging old calls offline.
    #[must_use]
    pub fn kept_for_ever(self) -> Self {
        Self { kept_for: Millis::MAX, ..self }
    }

    /// The same, with another bound than [`MOST_CACHED`].
    #[cfg(test)]
    pub(super) fn caching(self, most_cached: usize) -> Self {
        Self { most_cached, ..self }
    }

    /// The same, with other bounds of what is taken in in bulk.
    #[cfg(test)]
    pub(super) fn in_bulk_within(self, bulk_limits: Limits) -> Self {
        Self { bulk_limits, ..self }
    }

    /// Where the rows are.
    #[must_use]
    pub fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// When the next open call is to be looked at, in partition time.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        self.deadlines.first().map(|(at, _, _)| *at)
    }

    /// Whether there is work that only needs a record to go on with.
    #[must_use]
    pub fn has_due_work(&self) -> bool {
        !self.due.is_empty()
    }

    fn put_account(&mut self, state: Arc<AccountState>) {
        let accounts = self.accounts.get_mut();
        accounts.changed.insert(state.account_id.clone());
        accounts.rows.insert(state.account_id.clone(), Some(state));
    }

    fn set_due(&mut self, work: DueWork, is_left: bool) {
        if is_left {
            self.due.insert(work.clone());
        } else {
            self.due.remove(&work);
        }
        self.due_changed.insert(work, is_left);
    }

    fn apply_session(&mut self, change: SessionChange) {
        let SessionChange { account_id: account, session_id: id, before: was, after, .. } = change;
        let is = Indexed::of(&after);
        self.index_deadline(&account, &id, was.deadline, is.deadline);
        self.index_links(&account, &id, &was, &is);
        match (&was.verdict, &is.verdict) {
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {}
            (None, None) => {}
            (old, new) => self.index_verdict(&account, &id, old.as_deref(), new.as_deref()),
        }
        if was.gated != is.gated {
            self.gated.set(keys::gated(&account, id.as_str()), is.gated);
        }
        let Sessions { rows, changed } = self.sessions.get_mut();
        let key = (account, id);
        match rows.get_mut(&key) {
            Some(cached) => {
                cached.session = after;
                if !std::mem::replace(&mut cached.is_changed, true) {
                    changed.push(key);
                }
            }
            None => {
                let cached = CachedSession { session: after, open_is_stored: was.deadline.is_some(), stored_verdict: was.verdict, is_changed: true };
                changed.push(key.clone());
                rows.insert(key, cached);
            }
        }
    }

    fn index_deadline(&mut self, account: &AccountId, id: &SessionId, was: Option<Millis>, is: Option<Millis>) {
        if was == is {
            return;
        }
        if let Some(at) = was {
            self.deadlines.remove(&(at, account.clone(), id.clone()));
        }
        if let Some(at) = is {
            self.deadlines.insert((at, account.clone(), id.clone()));
        }
    }

    /// Links and legacy ids only accumulate, so entries go with their session alone.
    fn index_links(&mut self, account: &AccountId, id: &SessionId, was: &Indexed, is: &Indexed) {
        if was.links == is.links && was.legacy_session_ids == is.legacy_session_ids {
            return;
        }
        let names = |of: &Indexed| -> SmallVec<[Vec<u8>; 2]> {
            let links = of.links.iter().map(|peer| keys::linking_to(account, peer));
            links.chain(of.legacy_session_ids.iter().map(|legacy| keys::with_legacy_id(account, legacy))).collect()
        };
        let (was, is) = (names(was), names(is));
        for key in is.iter().filter(|key| !was.contains(key)) {
            self.change_list(key, |list| {
                if let Err(place) = list.binary_search(id) {
                    list.insert(place, id.clone());
                    // More are never followed; which stay doesn't depend on the order of arrival.
                    list.truncate(MOST_SESSIONS);
                }
            });
        }
        for key in was.iter().filter(|key| !is.contains(key)) {
            self.change_list(key, |list| list.retain(|known| known != id));
        }
    }

    fn change_list(&mut self, key: &[u8], change: impl FnOnce(&mut SessionIds)) {
        let changed = self.with_list(key, |list| {
            change(&mut list.ids);
            std::mem::replace(&mut list.is_changed, true)
        });
        match changed {
            Ok(true) => {}
            Ok(false) => self.lists.get_mut().changed.push(key.to_vec()),
            // Nothing is written from now on.
            Err(error) => drop(self.failure.get_or_insert(error)),
        }
    }

    fn index_verdict(&mut self, account: &AccountId, id: &SessionId, old: Option<&CallVerdict>, new: Option<&CallVerdict>) {
        let numbers = |verdict: Option<&'_ CallVerdict>| -> BTreeSet<CompactString> {
            verdict.into_iter().flat_map(|verdict| waits_for(verdict).cloned()).collect()
        };
        let (was, is) = (numbers(old), numbers(new));
        for number in was.difference(&is) {
            self.waiting.set(keys::waiting(account, number, id), false);
        }
        // Also those that stay: an entry may have been settled meanwhile.
        for number in &is {
            self.waiting.set(keys::waiting(account, number, id), true);
        }
        let (was, is) = (old.map(|v| v.ended_at), new.map(|v| v.ended_at));
        if was != is {
            if let Some(at) = was {
                self.retention.set(keys::ended(at, account, id), false);
            }
            if let Some(at) = is {
                self.retention.set(keys::ended(at, account, id), true);
                self.earliest_end.set(self.earliest_end.get().min(at));
            }
        }
    }

    /// A verdict that a step made, as the bytes that are published of it and stored.
    pub fn encode_verdict(&mut self, verdict: &Arc<CallVerdict>) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        encode_onto(verdict.as_ref(), &mut bytes);
        self.put_verdict(verdict, &bytes);
        let published = bytes.clone();
        self.scratch = bytes;
        published
    }

    /// Writes the newest verdict of a session with the batch as these bytes, which say the same.
    fn put_verdict(&mut self, verdict: &Arc<CallVerdict>, bytes: &[u8]) {
        let key = (verdict.account_id.clone(), verdict.session_id.clone());
        if let Some(cached) = self.sessions.get_mut().rows.get_mut(&key)
            && cached.session.verdict.as_ref().is_some_and(|newest| Arc::ptr_eq(newest, verdict))
        {
            let stored = keys::in_account(&key.0, key.1.as_str().as_bytes());
            self.batch.put_cf(self.database.family(Family::Judged), &stored, bytes);
            cached.stored_verdict = Some(verdict.clone());
            note(&mut self.bulk, Family::Judged, &stored);
        }
    }

    /// Everything that has changed since the last call, for one atomic write, before which nothing more may be stepped: what is judged, and lists of
    /// links, may be forgotten here.
    ///
    /// # Errors
    /// If something could not be read that a change had to know: then the store is of no more use.
    pub fn take_batch(&mut self) -> Result<WriteBatch, TableError> {
        if let Some(failure) = self.failure.clone() {
            return Err(failure);
        }
        let database = self.database.clone();
        // The next one will be about as large.
        let next = WriteBatch::with_capacity_bytes(self.batch_size);
        let mut batch = std::mem::replace(&mut self.batch, next);

        let accounts = self.accounts.get_mut();
        write_rows(&database, &mut batch, Family::Accounts, accounts, |account| account.as_str().as_bytes().to_vec());
        let numbers = self.numbers.get_mut();
        write_rows(&database, &mut batch, Family::Numbers, numbers, |(account, number)| keys::in_account(account, number.as_bytes()));
        if numbers.rows.len() > self.most_cached {
            numbers.rows.clear();
        }

        let sessions = self.sessions.get_mut();
        let (open, judged) = (database.family(Family::Open), database.family(Family::Judged));
        for key in std::mem::take(&mut sessions.changed) {
            let Some(cached) = sessions.rows.get_mut(&key) else { continue };
            cached.is_changed = false;
            let stored = keys::in_account(&key.0, key.1.as_str().as_bytes());
            match &cached.session.open {
                Some(row) => {
                    self.scratch.clear();
                    encode_open(row, &mut self.scratch);
                    batch.put_cf(open, &stored, &self.scratch);
                }
                None if cached.open_is_stored => batch.delete_cf(open, &stored),
                None => {}
            }
            match (&cached.session.verdict, &cached.stored_verdict) {
                (Some(verdict), Some(known)) if Arc::ptr_eq(verdict, known) => {}
                (Some(verdict), _) => {
                    batch.put_cf(judged, &stored, encode(verdict.as_ref()));
                    note(&mut self.bulk, Family::Judged, &stored);
                }
                (None, Some(_)) => batch.delete_cf(judged, &stored),
                (None, None) => {}
            }
            // What is judged is seldom asked for again; what is open soon is.
            if cached.session.open.is_none() {
                sessions.rows.remove(&key);
            } else {
                cached.open_is_stored = true;
                cached.stored_verdict.clone_from(&cached.session.verdict);
            }
        }
        if sessions.rows.len() > self.most_cached {
            sessions.rows.clear();
            self.unread_open.set(self.deadlines.len());
        }

        let lists = self.lists.get_mut();
        let links = database.family(Family::Links);
        for key in std::mem::take(&mut lists.changed) {
            let Some(list) = lists.rows.get_mut(&key) else { continue };
            list.is_changed = false;
            if list.ids.is_empty() {
                batch.delete_cf(links, &key);
            } else {
                put_list(&list.ids, |bytes| batch.put_cf(links, &key, bytes));
                note(&mut self.bulk, Family::Links, &key);
            }
        }
        if lists.rows.len() > self.most_cached.min(MOST_LISTS) {
            lists.rows.clear();
        }

        for index in [&mut self.waiting, &mut self.retention, &mut self.gated] {
            index.write(&database, &mut batch);
        }
        let due = database.family(Family::Due);
        for (work, is_left) in std::mem::take(&mut self.due_changed) {
            if is_left {
                batch.put_cf(due, keys::due_work(&work), []);
            } else {
                batch.delete_cf(due, keys::due_work(&work));
            }
        }
        self.batch_size = batch.size_in_bytes();
        Ok(batch)
    }

    fn list(&self, key: &[u8]) -> Result<SessionIds, TableError> {
        self.with_list(key, |list| list.ids.clone())
    }

    /// Does something with a list, which is read into memory unless it is there.
    fn with_list<T>(&self, key: &[u8], what: impl FnOnce(&mut CachedList) -> T) -> Result<T, TableError> {
        let mut lists = self.lists.borrow_mut();
        let list = match lists.rows.entry_ref(key) {
            EntryRef::Occupied(list) => list.into_mut(),
            EntryRef::Vacant(place) => {
                let stored = if self.lacks(Family::Links, key) { None } else { self.database.get(self.database.family(Family::Links), key)? };
                let ids = stored.map(|bytes| decode_list(&bytes)).transpose()?.unwrap_or_default();
                place.insert(CachedList { ids, is_changed: false })
            }
        };
        Ok(what(list))
    }

    // ---- bringing a copy up: what the output topics say ----

    /// Where the copy is empty, its verdicts are taken in in bulk from now on, until [`Store::end_bulk`].
    ///
    /// # Errors
    /// If the disk can't be read, or RocksDB doesn't take its setting.
    pub fn begin_bulk(&mut self) -> Result<(), TableError> {
        let mut is_empty = self.deadlines.is_empty();
        for family in [Family::Judged, Family::Links] {
            let mut rows = self.database.iterate(self.database.family(family), ReadOptions::default());
            rows.seek_to_first();
            self.database.finished(&rows)?;
            is_empty &= !rows.valid();
        }
        if is_empty {
            // All files that are made in bulk are merged once, in the end.
            self.database.set_merging(false)?;
            self.bulk = Some(Bulk::new(self.bulk_limits));
        }
        Ok(())
    }

    /// Nothing is taken in in bulk any more; what was isn't taken in again, and its files are merged. Returns false if that was cut off, as
    /// [`Database::merge`] is.
    ///
    /// # Errors
    /// If the disk can't be written, or the files can't be merged: most likely it is full.
    pub fn end_bulk(&mut self, is_cancelled: &dyn Fn() -> bool) -> Result<bool, TableError> {
        let Some(bulk) = self.bulk.take() else { return Ok(true) };
        self.database.flush()?;
        if bulk.has_many_files() && !self.merge(is_cancelled)? {
            return Ok(false);
        }
        self.database.set_merging(true)?;
        Ok(true)
    }

    /// Merges files before there are too many, and ends what is taken in in bulk before it knows too many keys. Returns false if that was cut off.
    ///
    /// # Errors
    /// As [`Store::end_bulk`].
    pub fn tend_bulk(&mut self, is_cancelled: &dyn Fn() -> bool) -> Result<bool, TableError> {
        let Some(bulk) = &mut self.bulk else { return Ok(true) };
        if bulk.is_full() {
            return self.end_bulk(is_cancelled);
        }
        if !bulk.is_to_be_merged() {
            return Ok(true);
        }
        bulk.merged();
        self.merge(is_cancelled)
    }

    /// Merges what somebody has left who was cut off: RocksDB would let the first write wait for that. Returns false if that was cut off, too.
    ///
    /// # Errors
    /// If they can't be merged: most likely the disk is full.
    pub fn merge_leftovers(&self, is_cancelled: &dyn Fn() -> bool) -> Result<bool, TableError> {
        Ok(self.has_few_files()? || self.merge(is_cancelled)?)
    }

    fn has_few_files(&self) -> Result<bool, TableError> {
        Ok(self.database.unmerged_files()? <= self.bulk_limits.few_pieces as u64)
    }

    /// RocksDB takes a disk that is full for something that passes, and would let the next write wait for it without end.
    fn merge(&self, is_cancelled: &dyn Fn() -> bool) -> Result<bool, TableError> {
        if !self.database.merge(is_cancelled) {
            return Ok(false);
        }
        if self.has_few_files()? { Ok(true) } else { Err(DatabaseError::Unmerged { path: self.database.path().to_path_buf() }.into()) }
    }

    /// Whether verdicts are taken in in bulk.
    #[must_use]
    pub fn is_in_bulk(&self) -> bool {
        self.bulk.is_some()
    }

    /// Writes everything that was taken in, and forgets what is in memory of clean rows. `noted` adds what is to be written no sooner.
    ///
    /// # Errors
    /// As [`Store::take_batch`], and if the disk can't be written.
    pub fn write_restored(&mut self, noted: impl FnOnce(&Database, &mut WriteBatch)) -> Result<(), TableError> {
        let is_durable = self.write_bulk()?;
        let mut batch = self.take_batch()?;
        noted(&self.database, &mut batch);
        self.database.write(batch)?;
        if is_durable {
            // What is noted of it, too: else it would all be read again after a crash.
            self.database.flush()?;
        }
        self.sessions.get_mut().rows.retain(|_, cached| cached.session.open.is_some());
        self.lists.get_mut().rows.clear();
        Ok(())
    }

    /// Returns whether there was something to write.
    fn write_bulk(&mut self) -> Result<bool, TableError> {
        let Some(bulk) = self.bulk.as_mut().filter(|bulk| !bulk.is_empty()) else { return Ok(false) };
        let Lists { rows: lists, changed } = self.lists.get_mut();
        changed.retain(|key| {
            let Some(list) = lists.get_mut(key).filter(|list| !list.ids.is_empty()) else { return true };
            list.is_changed = false;
            put_list(&list.ids, |bytes| bulk.put(Family::Links, key, bytes));
            bulk.note(Family::Links, key);
            false
        });
        // The verdicts last: where one stands, so do the entries that lead to it.
        for family in [Family::Links, Family::Waiting, Family::Retention, Family::Due, Family::Judged] {
            self.database.ingest(family, bulk.sorted(family))?;
        }
        bulk.clear();
        Ok(true)
    }

    /// What `account-states` says.
    ///
    /// # Errors
    /// If the account's row can't be read.
    pub fn restore_account(&mut self, mut state: AccountState) -> Result<(), ViewError> {
        let account = state.account_id.clone();
        let known = self.account(&account)?;
        // The topic counts the numbers as they were when something else of the account changed; the rows themselves count.
        state.numbers = known.as_ref().filter(|known| known.removed_position == state.removed_position).map_or(0, |known| known.numbers);
        if state.removed_position.is_some() {
            self.set_due(DueWork::Erase(account.clone()), true);
        }
        if state.snapshot_completed_at.is_some() {
            self.set_due(DueWork::Gate(account), true);
        }
        self.put_account(Arc::new(state));
        Ok(())
    }

    /// What `company-numbers` says.
    ///
    /// # Errors
    /// If the state can't be read.
    pub fn restore_number(&mut self, account: &AccountId, number: &str, row: Option<CompanyNumber>) -> Result<(), ViewError> {
        let key = (account.clone(), CompactString::new(number));
        let state = self.account(account)?;
        // Positions from before the topics were repartitioned, or of a replay's seed, are below 0.
        let removed = state.as_ref().and_then(|state| state.removed_position).unwrap_or(i64::MIN);
        let counts = |row: Option<&CompanyNumber>| i64::from(row.is_some_and(|row| row.position > removed));
        let known = self.number(account, number)?;
        let difference = counts(row.as_ref()) - counts(known.as_deref());
        if difference != 0 {
            let mut state = state.as_deref().cloned().unwrap_or_else(|| AccountState::unknown(account.clone()));
            state.numbers += difference;
            self.put_account(Arc::new(state));
        }
        if row.is_some() && !self.waiting_for(account, number, 1)?.is_empty() {
            self.set_due(DueWork::Number(account.clone(), key.1.clone()), true);
        }
        let numbers = self.numbers.get_mut();
        numbers.changed.insert(key.clone());
        numbers.rows.insert(key, row.map(Arc::new));
        Ok(())
    }

    /// What `call-verdicts` says: a verdict with its bytes, or that there is none. Accounts and numbers are restored before, so that what the
    /// snapshot has overtaken shows as due.
    ///
    /// # Errors
    /// If the state can't be read, or what is taken in in bulk can't be written.
    pub fn restore_verdict(&mut self, account: &AccountId, session: &SessionId, verdict: Option<(CallVerdict, &[u8])>) -> Result<(), ViewError> {
        if self.bulk.as_ref().is_some_and(|bulk| bulk.is_waiting(&keys::in_account(account, session.as_str().as_bytes()))) {
            self.write_bulk()?;
        }
        let before = self.session(account, session)?;
        let mut after = before.clone();
        match verdict {
            None => {
                after.verdict = None;
                self.restore_session(account, session, &before, after);
            }
            Some((verdict, bytes)) => {
                let known = before.verdict.as_ref().map(|known| (known.position, known.revision));
                if known > Some((verdict.position, verdict.revision)) {
                    return Ok(());
                }
                // Also where it is known: a crash may have kept the verdict, and not what is due.
                self.restore_due(account, waits_for(&verdict), verdict.snapshot_complete)?;
                if known == Some((verdict.position, verdict.revision)) {
                    return Ok(());
                }
                // The verdict contains the facts that stood open up to its position.
                after.open = after.open.filter(|row| row.record.position > verdict.position);
                let verdict = Arc::new(verdict);
                after.verdict = Some(verdict.clone());
                self.restore_session(account, session, &before, after);
                self.put_verdict(&verdict, bytes);
            }
        }
        Ok(())
    }

    /// Whether it is sure, without a look, that nothing is known of a session. Only in bulk.
    #[must_use]
    pub fn is_new(&self, account: &AccountId, session: &SessionId) -> bool {
        self.lacks(Family::Judged, &keys::in_account(account, session.as_str().as_bytes()))
    }

    /// As [`Store::restore_verdict`], of a session that is new.
    ///
    /// # Errors
    /// If the state can't be read.
    pub fn restore_new(&mut self, account: &AccountId, session: &SessionId, gist: VerdictGist, verdict: &[u8]) -> Result<(), ViewError> {
        let waits_for = || gist.numbers.iter().filter(|(_, reason)| is_waiting(*reason)).map(|(number, _)| number);
        self.restore_due(account, waits_for(), gist.snapshot_complete)?;
        if let Some(bulk) = &mut self.bulk {
            let key = keys::in_account(account, session.as_str().as_bytes());
            bulk.put(Family::Judged, &key, verdict);
            bulk.note(Family::Judged, &key);
            for number in waits_for() {
                bulk.put(Family::Waiting, &keys::waiting(account, number, session), &[]);
            }
            bulk.put(Family::Retention, &keys::ended(gist.ended_at, account, session), &[]);
            if !gist.snapshot_complete {
                bulk.put(Family::Due, &keys::gated(account, session.as_str()), &[]);
            }
        }
        self.earliest_end.set(self.earliest_end.get().min(gist.ended_at));
        let is = Indexed { links: gist.links, legacy_session_ids: gist.legacy_session_ids, ..Indexed::default() };
        self.index_links(account, session, &Indexed::default(), &is);
        Ok(())
    }

    /// What is due where the snapshot has overtaken a verdict.
    fn restore_due<'a>(
        &mut self,
        account: &AccountId,
        waits_for: impl Iterator<Item = &'a CompactString>,
        snapshot_complete: bool,
    ) -> Result<(), ViewError> {
        for number in waits_for {
            if self.number(account, number)?.is_some() {
                self.set_due(DueWork::Number(account.clone(), number.clone()), true);
            }
        }
        if !snapshot_complete && self.account(account)?.is_some_and(|state| state.snapshot_completed_at.is_some()) {
            self.set_due(DueWork::Gate(account.clone()), true);
        }
        Ok(())
    }

    /// What `open-calls` says.
    ///
    /// # Errors
    /// If the session's rows can't be read.
    pub fn restore_open(&mut self, account: &AccountId, session: &SessionId, record: Option<OpenCall>) -> Result<(), ViewError> {
        let before = self.session(account, session)?;
        let mut after = before.clone();
        match record {
            // A verdict contains it now, or it made no difference; what the copy itself knows stays until it finds the same.
            None => after.open = after.open.map(|row| Arc::new(OpenRow { on_topic: false, ..OpenRow::clone(&row) })),
            Some(record) => {
                let is_newer = |position: Option<i64>| position.is_none_or(|position| record.position > position);
                if !is_newer(before.verdict.as_ref().map(|v| v.position)) {
                    return Ok(());
                }
                after.open = Some(match before.open {
                    Some(ref row) if !is_newer(Some(row.record.position)) => Arc::new(OpenRow { on_topic: true, ..OpenRow::clone(row) }),
                    _ => Arc::new(reopened(record)),
                });
                // A fax has none; what took it back may be gone by now, as tombstones are.
                if after.open.as_ref().is_some_and(|row| row.record.call.media == Media::Fax) {
                    after.verdict = None;
                }
            }
        }
        self.restore_session(account, session, &before, after);
        Ok(())
    }

    fn restore_session(&mut self, account: &AccountId, session: &SessionId, before: &Session, after: Session) {
        let (account_id, session_id) = (account.clone(), session.clone());
        self.apply_session(SessionChange { account_id, session_id, before: Indexed::of(before), after, is_changed: true });
    }

    fn lacks(&self, family: Family, key: &[u8]) -> bool {
        self.bulk.as_ref().is_some_and(|bulk| bulk.lacks(family, key))
    }
}

/// Notes a key that is being written, where keys are noted.
fn note(bulk: &mut Option<Bulk>, family: Family, key: &[u8]) {
    if let Some(bulk) = bulk {
        bulk.note(family, key);
    }
}

/// Something of it comes from an event up to `position`.
fn is_remnant(session: &Session, position: i64) -> bool {
    session.open.as_ref().is_some_and(|row| row.record.position <= position)
        || session.verdict.as_ref().is_some_and(|verdict| verdict.position <= position)
}

/// The numbers that would change a verdict if they were the company's. One that an abridged verdict omits changes nothing by itself:
/// external endpoints are kept first, so it is omitted only while others that are external are named.
fn waits_for(verdict: &CallVerdict) -> impl Iterator<Item = &CompactString> {
    verdict.endpoints.iter().filter(|endpoint| is_waiting(endpoint.reason)).filter_map(|endpoint| endpoint.number.as_ref())
}

fn write_rows<K: std::hash::Hash + Eq, T: Decoded>(
    database: &Database,
    batch: &mut WriteBatch,
    family: Family,
    cache: &mut Cache<K, Option<Arc<T>>>,
    name: impl Fn(&K) -> Vec<u8>,
) {
    let handle = database.family(family);
    for key in std::mem::take(&mut cache.changed) {
        match cache.rows.get(&key) {
            Some(Some(row)) => batch.put_cf(handle, name(&key), encode(row.as_ref())),
            _ => batch.delete_cf(handle, name(&key)),
        }
    }
}

/// Puts sessions somewhere as bytes: their ids, with a `00` between them.
fn put_list(list: &[SessionId], put: impl FnOnce(&[u8])) {
    match list {
        [one] => put(one.as_str().as_bytes()),
        list => put(&list.iter().map(|id| id.as_str().as_bytes()).collect::<Vec<_>>().join(&0)),
    }
}

fn decode_list(bytes: &[u8]) -> Result<SessionIds, TableError> {
    let read = |part: &[u8]| std::str::from_utf8(part).ok().and_then(|text| SessionId::parse(text).ok());
    bytes
        .split(|byte| *byte == 0)
        .map(|part| read(part).ok_or_else(|| TableError::Corrupt { table: Family::Links.name(), why: "an id cannot be read".into() }))
        .collect()
}

impl State for Store {
    /// It shows at once, and stands on disk when the batch is written.
    fn apply(&mut self, changes: Changes) {
        for state in changes.accounts {
            self.put_account(state);
        }
        for (account, number, row) in changes.numbers {
            let numbers = self.numbers.get_mut();
            numbers.changed.insert((account.clone(), number.clone()));
            numbers.rows.insert((account, number), row);
        }
        for change in changes.sessions {
            if change.is_changed {
                self.apply_session(change);
            }
        }
        for (work, is_left) in changes.due {
            self.set_due(work, is_left);
        }
        for settled in changes.settled {
            match settled {
                Settled::Waiting(account, number, session) => self.waiting.set(keys::waiting(&account, &number, &session), false),
                Settled::Gated(account, session) => {
                    // Unless the rows of this very step brought it back.
                    self.gated.set(keys::gated(&account, session.as_str()), false);
                }
                Settled::Ended(from, to, account, session) => {
                    self.retention.set(keys::ended(from, &account, &session), false);
                    if let Some(to) = to {
                        self.retention.set(keys::ended(to, &account, &session), true);
                    }
                }
            }
        }
    }
}

impl View for Store {
    fn kept_for(&self) -> Millis {
        self.kept_for
    }

    fn account(&self, account: &AccountId) -> Result<Option<Arc<AccountState>>, ViewError> {
        if let Some(state) = self.accounts.borrow().rows.get(account) {
            return Ok(state.clone());
        }
        let state = tables::account(&self.database, account)?.map(Arc::new);
        self.accounts.borrow_mut().rows.insert(account.clone(), state.clone());
        Ok(state)
    }

    fn number(&self, account: &AccountId, number: &str) -> Result<Option<Arc<CompanyNumber>>, ViewError> {
        if let Some(row) = self.numbers.borrow().rows.get(&Name(account.as_str(), number)) {
            return Ok(row.clone());
        }
        let row = tables::number(&self.database, account, number)?.map(Arc::new);
        self.numbers.borrow_mut().rows.insert((account.clone(), CompactString::new(number)), row.clone());
        Ok(row)
    }

    fn session(&self, account: &AccountId, session: &SessionId) -> Result<Session, ViewError> {
        if let Some(cached) = self.sessions.borrow().rows.get(&Name(account.as_str(), session.as_str())) {
            return Ok(cached.session.clone());
        }
        let found = Session {
            open: match self.unread_open.get() {
                0 => None,
                _ => tables::open_call(&self.database, account, session)?.map(Arc::new),
            },
            verdict: match self.bulk.as_ref() {
                Some(bulk) if bulk.lacks(Family::Judged, &keys::in_account(account, session.as_str().as_bytes())) => None,
                _ => tables::verdict(&self.database, account, session)?.map(Arc::new),
            },
        };
        if found.open.is_some() {
            self.unread_open.set(self.unread_open.get() - 1);
            self.sessions.borrow_mut().rows.insert((account.clone(), session.clone()), CachedSession::clean(found.clone()));
        }
        Ok(found)
    }

    fn take_session(&self, account: &AccountId, session: IdRef<'_, SessionId>) -> Result<(SessionId, Session), ViewError> {
        if let Some(((_, session), cached)) = self.sessions.borrow_mut().rows.get_key_value_mut(&Name(account.as_str(), session.as_str())) {
            return Ok((session.clone(), std::mem::take(&mut cached.session)));
        }
        let session = session.to_id();
        let rows = self.session(account, &session)?;
        Ok((session, rows))
    }

    fn linking_to(&self, account: &AccountId, session: &SessionId) -> Result<SessionIds, ViewError> {
        Ok(self.list(&keys::linking_to(account, session))?)
    }

    fn with_legacy_id(&self, account: &AccountId, legacy_id: &str) -> Result<SessionIds, ViewError> {
        Ok(self.list(&keys::with_legacy_id(account, legacy_id))?)
    }

    fn due_sessions(&self, until: Millis, limit: usize) -> Result<Vec<(AccountId, SessionId)>, ViewError> {
        if self.next_deadline().is_none_or(|at| at > until) {
            return Ok(Vec::new());
        }
        let due = self.deadlines.iter().take_while(|(at, _, _)| *at <= until).take(limit);
        Ok(due.map(|(_, account, session)| (account.clone(), session.clone())).collect())
    }

    fn ended_sessions(&self, until: Millis, limit: usize) -> Result<Vec<(Millis, AccountId, SessionId)>, ViewError> {
        if self.earliest_end.get() > until {
            return Ok(Vec::new());
        }
        let first = self.retention.read(&self.database, &[], None, 1).map_err(TableError::from)?;
        self.earliest_end.set(first.first().and_then(|key| keys::split_ended(key)).map_or(Millis::MAX, |(at, _, _)| at));
        let until = [keys::time(until).as_slice(), &[0xff]].concat();
        let found = self.retention.read(&self.database, &[], Some(&until), limit).map_err(TableError::from)?;
        Ok(found.iter().filter_map(|key| keys::split_ended(key)).collect())
    }

    fn waiting_for(&self, account: &AccountId, number: &str, limit: usize) -> Result<Vec<SessionId>, ViewError> {
        let prefix = keys::waiting_prefix(account, number);
        let found = self.waiting.read(&self.database, &prefix, None, limit).map_err(TableError::from)?;
        Ok(found.iter().filter_map(|key| SessionId::parse(std::str::from_utf8(&key[prefix.len()..]).ok()?).ok()).collect())
    }

    fn gated(&self, account: &AccountId, limit: usize) -> Result<Vec<SessionId>, ViewError> {
        let prefix = keys::gated(account, "");
        let found = self.gated.read(&self.database, &prefix, None, limit).map_err(TableError::from)?;
        Ok(found.iter().filter_map(|key| SessionId::parse(std::str::from_utf8(&key[prefix.len()..]).ok()?).ok()).collect())
    }

    fn remnants(&self, account: &AccountId, position: i64, limit: usize) -> Result<Vec<Remnant>, ViewError> {
        let prefix = keys::account_prefix(account);
        // What the batch has brought may not be on disk yet.
        let (numbers, sessions) = (self.numbers.borrow(), self.sessions.borrow());
        let of_numbers = numbers.changed.iter().filter(|(owner, _)| owner == account);
        let old_numbers = of_numbers.filter(|key| numbers.rows.get(*key).is_some_and(|row| row.as_ref().is_some_and(|row| row.position <= position)));
        let of_sessions = sessions.changed.iter().filter(|(owner, _)| owner == account);
        let old_sessions = of_sessions.filter(|key| sessions.rows.get(*key).is_some_and(|cached| is_remnant(&cached.session, position)));
        let mut found: Vec<Remnant> = old_numbers.map(|(_, number)| Remnant::Number(number.clone())).collect();
        found.extend(old_sessions.map(|(_, session)| Remnant::Session(session.clone())));
        let mut seen: BTreeSet<String> = BTreeSet::new();
        seen.extend(found.iter().map(|remnant| match remnant {
            Remnant::Number(number) => format!("1{number}"),
            Remnant::Session(session) => format!("0{session}"),
        }));
        drop((numbers, sessions));
        found.truncate(limit);
        for family in [Family::Numbers, Family::Open, Family::Judged] {
            let mut rows = self.database.iterate(self.database.family(family), upto(&prefix));
            rows.seek(&prefix);
            while let Some((key, value)) = rows.item() {
                if found.len() >= limit {
                    return Ok(found);
                }
                let name = std::str::from_utf8(&key[prefix.len()..]).unwrap_or_default();
                if let Some(remnant) = self.remnant(family, account, name, value, position)?
                    && seen.insert(format!("{}{name}", u8::from(family == Family::Numbers)))
                {
                    found.push(remnant);
                }
                rows.next();
            }
            self.database.finished(&rows).map_err(TableError::from)?;
        }
        Ok(found)
    }

    fn due_work(&self, limit: usize) -> Result<Vec<DueWork>, ViewError> {
        if self.due.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.due.iter().take(limit).cloned().collect())
    }
}

impl Store {
    /// A stored row that comes from before an account's removal, unless the batch under way has changed it.
    fn remnant(&self, family: Family, account: &AccountId, name: &str, value: &[u8], position: i64) -> Result<Option<Remnant>, TableError> {
        let corrupt = |why: String| TableError::Corrupt { table: family.name(), why };
        if family == Family::Numbers {
            let key = (account.clone(), CompactString::new(name));
            let numbers = self.numbers.borrow();
            let stored: CompanyNumber = decode(value).map_err(|e| corrupt(e.to_string()))?;
            let is_old = match numbers.rows.get(&key) {
                Some(row) => row.as_ref().is_some_and(|row| row.position <= position),
                None => stored.position <= position,
            };
            return Ok(is_old.then_some(Remnant::Number(key.1)));
        }
        let Ok(id) = SessionId::parse(name) else { return Ok(None) };
        let key = (account.clone(), id);
        let sessions = self.sessions.borrow();
        let is_old = match sessions.rows.get(&key) {
            Some(CachedSession { session, .. }) => is_remnant(session, position),
            None if family == Family::Open => decode_open(value)?.record.position <= position,
            None => decode::<CallVerdict>(value).map_err(|e| corrupt(e.to_string()))?.position <= position,
        };
        Ok(is_old.then_some(Remnant::Session(key.1)))
    }
}
