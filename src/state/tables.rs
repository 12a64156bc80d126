//! The tables of design §2 as they stand in RocksDB: rows in, rows out. For whoever reads what is committed; the worker reads
//! through its [`super::Store`], which knows the batch under way too.

use super::database::{Database, DatabaseError, Family};
use super::keys;
use crate::event::{AccountId, AccountState, CallVerdict, CompanyNumber, Decoded, Millis, OpenCall, SessionId, decode, encode_onto};
use crate::judge::{OpenRow, ViewError};
use rocksdb::ReadOptions;

/// Why a table could not be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TableError {
    /// The disk has a say.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A row is not what it should be.
    #[error(
        "a row of {table} is corrupt: {why}. On Kafka: stop, delete the partition's folder below state/ in the data directory, and start: it is built anew from the topics"
    )]
    Corrupt {
        /// Which table.
        table: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl From<TableError> for ViewError {
    fn from(error: TableError) -> Self {
        Self(error.to_string())
    }
}

fn corrupt(family: Family, why: impl std::fmt::Display) -> TableError {
    TableError::Corrupt { table: family.name(), why: why.to_string() }
}

fn row<T: Decoded>(database: &Database, family: Family, key: &[u8]) -> Result<Option<T>, TableError> {
    let Some(bytes) = database.get(database.family(family), key)? else { return Ok(None) };
    decode(&bytes).map(Some).map_err(|e| corrupt(family, e))
}

/// Rows of one account from `after` on (exclusive), in key order, as long as `take` wants them.
fn scan<T: Decoded>(
    database: &Database,
    family: Family,
    account: &AccountId,
    after: Option<&str>,
    mut take: impl FnMut(T) -> bool,
) -> Result<(), TableError> {
    let prefix = keys::account_prefix(account);
    let mut rows = database.iterate(database.family(family), upto(&prefix));
    match after {
        // The key that follows directly.
        Some(after) => rows.seek([keys::in_account(account, after.as_bytes()).as_slice(), &[0]].concat()),
        None => rows.seek(&prefix),
    }
    while let Some(bytes) = rows.value() {
        if !take(decode(bytes).map_err(|e| corrupt(family, e))?) {
            return Ok(());
        }
        rows.next();
    }
    Ok(database.finished(&rows)?)
}

/// Options for what begins with `prefix`.
pub(super) fn upto(prefix: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_range(rocksdb::PrefixRange(prefix.to_vec()));
    options
}

/// The account's row.
///
/// # Errors
/// If the disk can't be read, or a row isn't what it should be.
pub fn account(database: &Database, account: &AccountId) -> Result<Option<AccountState>, TableError> {
    row(database, Family::Accounts, account.as_str().as_bytes())
}

/// All accounts.
///
/// # Errors
/// As [`account`].
pub fn accounts(database: &Database) -> Result<Vec<AccountState>, TableError> {
    let mut rows = database.iterate(database.family(Family::Accounts), ReadOptions::default());
    rows.seek_to_first();
    let mut found = Vec::new();
    while let Some(bytes) = rows.value() {
        found.push(decode(bytes).map_err(|e| corrupt(Family::Accounts, e))?);
        rows.next();
    }
    database.finished(&rows)?;
    Ok(found)
}

/// A number of the snapshot.
///
/// # Errors
/// As [`account`].
pub fn number(database: &Database, account: &AccountId, number: &str) -> Result<Option<CompanyNumber>, TableError> {
    row(database, Family::Numbers, &keys::in_account(account, number.as_bytes()))
}

/// Numbers of the snapshot after `after`, at most `limit`.
///
/// # Errors
/// As [`account`].
pub fn numbers(database: &Database, account: &AccountId, after: Option<&str>, limit: usize) -> Result<Vec<CompanyNumber>, TableError> {
    let mut found = Vec::new();
    if limit > 0 {
        scan(database, Family::Numbers, account, after, |row| {
            found.push(row);
            found.len() < limit
        })?;
    }
    Ok(found)
}

/// The newest verdict on a session.
///
/// # Errors
/// As [`account`].
pub fn verdict(database: &Database, account: &AccountId, session: &SessionId) -> Result<Option<CallVerdict>, TableError> {
    row(database, Family::Judged, &keys::in_account(account, session.as_str().as_bytes()))
}

/// The newest verdicts of an account by the end of their calls, newest end first, after the place `before`, as long as `take` wants them.
///
/// The index is shared by the accounts of a partition; those of others are passed over. When `most_passed` were, the walk ends early, and
/// returns the time that calls which it hasn't come to ended at, or earlier.
///
/// # Errors
/// As [`account`].
pub fn verdicts_by_end(
    database: &Database,
    account: &AccountId,
    before: Option<(Millis, &SessionId)>,
    most_passed: usize,
    mut take: impl FnMut(CallVerdict) -> bool,
) -> Result<Option<Millis>, TableError> {
    let prefix = keys::account_prefix(account);
    let mut own = database.iterate(database.family(Family::Judged), upto(&prefix));
    own.seek(&prefix);
    if own.key().is_none() {
        database.finished(&own)?;
        return Ok(None);
    }
    let mut ends = database.iterate(database.family(Family::Retention), ReadOptions::default());
    match before {
        Some((at, session)) => {
            let place = keys::ended(at, account, session);
            ends.seek_for_prev(&place);
            if ends.key() == Some(place.as_slice()) {
                ends.prev();
            }
        }
        None => ends.seek_to_last(),
    }
    let (mut passed, mut newest) = (0, Millis::MAX);
    while let Some(key) = ends.key() {
        let Some((stands_under, owner, session)) = keys::split_ended(key) else {
            ends.prev();
            continue;
        };
        // Between two times, so that no call of this account is on both sides of the cut.
        if passed >= most_passed && stands_under < newest {
            return Ok(Some(stands_under));
        }
        newest = stands_under;
        let found = if owner == *account { verdict(database, account, &session)? } else { None };
        // An entry that waits for the rest of its conversation stands under a later time, too.
        match found.filter(|found| found.ended_at == stands_under) {
            Some(found) => {
                if !take(found) {
                    return Ok(None);
                }
            }
            None => passed += 1,
        }
        ends.prev();
    }
    database.finished(&ends)?;
    Ok(None)
}

/// The newest verdict of every judged session, by the end of its call, then by session id.
///
/// # Errors
/// As [`account`], and what `take` says.
pub fn each_verdict<E: From<TableError>>(database: &Database, mut take: impl FnMut(CallVerdict) -> Result<(), E>) -> Result<(), E> {
    let mut ends = database.iterate(database.family(Family::Retention), ReadOptions::default());
    ends.seek_to_first();
    // Entries of one end stand by account first.
    let mut together: Vec<(SessionId, AccountId)> = Vec::new();
    let mut end = Millis::MIN;
    loop {
        let next = ends.key().and_then(keys::split_ended);
        if next.as_ref().is_none_or(|(at, _, _)| *at != end) {
            together.sort();
            for (session, account) in together.drain(..) {
                // An entry that waits for the rest of its conversation stands under a later time, too.
                if let Some(found) = verdict(database, &account, &session)?.filter(|found| found.ended_at == end) {
                    take(found)?;
                }
            }
        }
        let Some((at, account, session)) = next else { break };
        end = at;
        together.push((session, account));
        ends.next();
    }
    database.finished(&ends).map_err(|e| TableError::from(e).into())
}

/// What is known of a session that has facts which no verdict contains.
///
/// # Errors
/// As [`account`].
pub fn open_call(database: &Database, account: &AccountId, session: &SessionId) -> Result<Option<OpenRow>, TableError> {
    let key = keys::in_account(account, session.as_str().as_bytes());
    let Some(bytes) = database.get(database.family(Family::Open), &key)? else { return Ok(None) };
    decode_open(&bytes).map(Some)
}

const OPEN_HEADER: usize = 18;
const NEVER: Millis = Millis::MAX;

/// An open row as bytes: a version, flags, two times, then the record as on its topic.
pub(super) fn encode_open(row: &OpenRow, bytes: &mut Vec<u8>) {
    bytes.push(1);
    bytes.push(u8::from(row.on_topic) | u8::from(row.gated) << 1);
    bytes.extend_from_slice(&row.unpublished_since.unwrap_or(NEVER).to_be_bytes());
    bytes.extend_from_slice(&row.deadline.to_be_bytes());
    encode_onto(&row.record, bytes);
}

pub(super) fn decode_open(bytes: &[u8]) -> Result<OpenRow, TableError> {
    let (header, record) = bytes.split_first_chunk::<OPEN_HEADER>().ok_or_else(|| corrupt(Family::Open, "it is too short"))?;
    if header[0] != 1 {
        return Err(corrupt(Family::Open, format_args!("its version is {}", header[0])));
    }
    let time = |at: usize| Millis::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes of eighteen"));
    Ok(OpenRow {
        record: decode::<OpenCall>(record).map_err(|e| corrupt(Family::Open, e))?,
        unpublished_since: Some(time(2)).filter(|at| *at != NEVER),
        on_topic: header[1] & 1 != 0,
        gated: header[1] & 2 != 0,
        deadline: time(10),
    })
}

/// The deadline of an open row, without reading the rest.
pub(super) fn deadline_of(bytes: &[u8]) -> Option<Millis> {
    Some(Millis::from_be_bytes(bytes.get(10..OPEN_HEADER)?.try_into().ok()?))
}
