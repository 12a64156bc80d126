//! Keys, in binary: account, `00`, then what is kept of it. No id holds a `00`, so the rows of one account stand together, and
//! those of account 1 are not among those of account 10. Times are big endian with the sign turned, so that they sort.

use crate::event::{AccountId, Millis, SessionId};
use crate::judge::DueWork;
use compact_str::CompactString;

const END: u8 = 0;

const LINK: u8 = b'L';
const LEGACY: u8 = b'I';
const GATED: u8 = b'G';
const GATE: u8 = b'W';
const ERASE: u8 = b'X';
const NUMBER: u8 = b'N';

/// The rows of one account begin so.
#[must_use]
pub fn account_prefix(account: &AccountId) -> Vec<u8> {
    in_account(account, &[])
}

/// A row of an account: a number, a session.
#[must_use]
pub fn in_account(account: &AccountId, name: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(account.as_str().len() + 1 + name.len());
    key.extend_from_slice(account.as_str().as_bytes());
    key.push(END);
    key.extend_from_slice(name);
    key
}

/// The account of a row, and its name.
#[must_use]
pub fn split_account(key: &[u8]) -> Option<(AccountId, &str)> {
    let end = key.iter().position(|byte| *byte == END)?;
    let account = AccountId::parse(std::str::from_utf8(&key[..end]).ok()?).ok()?;
    Some((account, std::str::from_utf8(&key[end + 1..]).ok()?))
}

/// A judged call that waits for a number.
#[must_use]
pub fn waiting(account: &AccountId, number: &str, session: &SessionId) -> Vec<u8> {
    let mut key = waiting_prefix(account, number);
    key.extend_from_slice(session.as_str().as_bytes());
    key
}

/// The judged calls that wait for a number.
#[must_use]
pub fn waiting_prefix(account: &AccountId, number: &str) -> Vec<u8> {
    let mut key = in_account(account, number.as_bytes());
    key.push(END);
    key
}

/// A judged call by its end.
#[must_use]
pub fn ended(at: Millis, account: &AccountId, session: &SessionId) -> Vec<u8> {
    let mut key = time(at).to_vec();
    key.extend_from_slice(&in_account(account, session.as_str().as_bytes()));
    key
}

/// The end that an entry stands under, its account and its session.
#[must_use]
pub fn split_ended(key: &[u8]) -> Option<(Millis, AccountId, SessionId)> {
    let (at, rest) = key.split_first_chunk::<8>()?;
    let (account, session) = split_account(rest)?;
    Some((read_time(*at), account, SessionId::parse(session).ok()?))
}

/// A time that sorts as bytes.
#[must_use]
pub fn time(at: Millis) -> [u8; 8] {
    (at ^ Millis::MIN).to_be_bytes()
}

fn read_time(bytes: [u8; 8]) -> Millis {
    Millis::from_be_bytes(bytes) ^ Millis::MIN
}

/// The sessions that link to one.
#[must_use]
pub fn linking_to(account: &AccountId, session: &SessionId) -> Vec<u8> {
    tagged(LINK, account, session.as_str())
}

/// The sessions that are known by a legacy id.
#[must_use]
pub fn with_legacy_id(account: &AccountId, legacy_id: &str) -> Vec<u8> {
    tagged(LEGACY, account, legacy_id)
}

/// A session that waits for the account's snapshot.
#[must_use]
pub fn gated(account: &AccountId, session: &str) -> Vec<u8> {
    tagged(GATED, account, session)
}

/// Due work.
#[must_use]
pub fn due_work(work: &DueWork) -> Vec<u8> {
    match work {
        DueWork::Gate(account) => tagged(GATE, account, ""),
        DueWork::Erase(account) => tagged(ERASE, account, ""),
        DueWork::Number(account, number) => tagged(NUMBER, account, number),
    }
}

/// The due work of a key; `None` for a gated session.
#[must_use]
pub fn read_due_work(key: &[u8]) -> Option<DueWork> {
    let (tag, rest) = key.split_first()?;
    let (account, name) = split_account(rest)?;
    match *tag {
        GATE => Some(DueWork::Gate(account)),
        ERASE => Some(DueWork::Erase(account)),
        NUMBER => Some(DueWork::Number(account, CompactString::new(name))),
        _ => None,
    }
}

fn tagged(tag: u8, account: &AccountId, name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + account.as_str().len() + name.len());
    key.push(tag);
    key.extend_from_slice(account.as_str().as_bytes());
    key.push(END);
    key.extend_from_slice(name.as_bytes());
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn account(text: &str) -> AccountId {
        AccountId::parse(text).unwrap()
    }

    #[test]
    fn accounts_keep_apart() {
        let (one, ten) = (account_prefix(&account("1")), account_prefix(&account("10")));
        assert!(!ten.starts_with(&one) && !one.starts_with(&ten));
    }

    proptest! {
        #[test]
        fn ends_sort_by_time_first(a in any::<i64>(), b in any::<i64>(), x in "[0-9]{1,5}", y in "[0-9]{1,5}") {
            let session = SessionId::parse("s-1").unwrap();
            let (k, l) = (ended(a, &account(&x), &session), ended(b, &account(&y), &session));
            if a != b {
                prop_assert_eq!(a.cmp(&b), k.cmp(&l));
            }
            prop_assert_eq!(split_ended(&k), Some((a, account(&x), session)));
        }

        #[test]
        fn rows_sort_by_account_and_keep_their_names(x in "[0-9]{1,5}", name in "[ -~]{1,40}") {
            let key = in_account(&account(&x), name.as_bytes());
            prop_assert!(key.starts_with(&account_prefix(&account(&x))));
            prop_assert_eq!(split_account(&key), Some((account(&x), name.as_str())));
        }

        #[test]
        fn due_work_is_read_as_written(x in "[0-9]{1,5}", number in "\\+[0-9]{7,15}") {
            let account = account(&x);
            for work in [DueWork::Gate(account.clone()), DueWork::Erase(account.clone()), DueWork::Number(account.clone(), number.as_str().into())] {
                prop_assert_eq!(read_due_work(&due_work(&work)), Some(work));
            }
            prop_assert_eq!(read_due_work(&gated(&account, "s-1")), None);
        }
    }
}
