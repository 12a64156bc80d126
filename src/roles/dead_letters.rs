//! Dead letters: how they are made of records, found, and given back to where they came from. ([`crate::log::letter`] has the names of their
//! headers.)
//!
//! A letter stays where it is. That it was given back is said by a record after it, on the same topic, that names its place and has no body.

use super::ingress;
use crate::event::{AccountId, CodecError, Millis, decode_event};
use crate::log::letter::{
    ADDED, CAUSE, CUT_FROM, EVENTS, OFFSET, PARTITION, RECEIVED_AT, RETRIED, RETRY_OF, SOURCE, SPOOL, TOPIC, WEBHOOK, cause_header, cut,
};
use crate::log::{Appender, Headers, Input, LogError, Output, Place, Reader, Record, Topic, each_record};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Of the key, and of the headers that a record had, so many bytes are kept.
const MOST_KEPT: usize = 4 << 10;

/// A record of the log that cannot be taken in as a letter, as it came as far as there is room. Whatever stands on the log, it must not stand in the
/// way.
pub(super) fn of_event(partition: u32, record: &Record, cause: &str) -> Output {
    let mut headers = headers_of_event(partition, record, cause);
    let key = record.key[..record.key.len().min(MOST_KEPT)].to_vec();
    let value = record.value_as_it_came().map(|body| cut(body.into(), &mut headers));
    Output { topic: Topic::DeadLetters, key, value, headers }
}

/// The headers of a record of the log that cannot be taken in: its own, where they aren't too large, then what a letter has.
fn headers_of_event(partition: u32, record: &Record, cause: &str) -> Headers {
    // Their lengths take some bytes as well.
    let bytes: usize = record.headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    let mut headers = if bytes <= MOST_KEPT { record.headers.clone() } else { Headers::new() };
    headers.push(cause_header(cause));
    headers.push((SOURCE.into(), EVENTS.into()));
    headers.push((RECEIVED_AT.into(), record.timestamp.to_string().into_bytes()));
    headers.push((TOPIC.into(), Topic::Events.name().into()));
    headers.push((PARTITION.into(), partition.to_string().into_bytes()));
    headers.push((OFFSET.into(), record.offset.to_string().into_bytes()));
    headers
}

/// A letter, without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Where it stands.
    pub place: Place,
    /// When it was buried, in milliseconds since 1970.
    pub buried_at: Millis,
    /// Its key: the account, mostly.
    pub key: String,
    /// See [`SOURCE`]; empty where it doesn't say.
    pub source: String,
    /// See [`CAUSE`].
    pub cause: String,
    /// See [`RECEIVED_AT`].
    pub received_at: Option<Millis>,
    /// Where it stands on the log, if it does.
    pub event: Option<Place>,
    /// See [`CUT_FROM`].
    pub cut_from: Option<u64>,
    /// How large its body is.
    pub bytes: usize,
    /// When it was given back last.
    pub retried_at: Option<Millis>,
}

/// What the last header of a name says: those that a letter has come after those that it had.
fn header<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().rev().find(|(known, _)| known == name).and_then(|(_, value)| std::str::from_utf8(value).ok())
}

fn number<T: std::str::FromStr>(headers: &Headers, name: &str) -> Option<T> {
    header(headers, name)?.parse().ok()
}

impl Letter {
    /// A record of the dead letters as a letter; `None` for one that only says that another was given back.
    #[must_use]
    pub fn of(partition: u32, record: &Record) -> Option<Self> {
        let headers = &record.headers;
        if header(headers, RETRIED).is_some() && header(headers, CAUSE).is_none() {
            return None;
        }
        let event = number(headers, PARTITION).zip(number(headers, OFFSET)).map(|(partition, offset)| Place { partition, offset });
        let cause = headers.iter().rev().find(|(name, _)| name == CAUSE).map(|(_, cause)| String::from_utf8_lossy(cause).into_owned());
        Some(Self {
            place: Place { partition, offset: record.offset },
            buried_at: record.timestamp,
            key: String::from_utf8_lossy(&record.key).into_owned(),
            source: header(headers, SOURCE).or_else(|| header(headers, TOPIC)).unwrap_or_default().to_owned(),
            cause: cause.unwrap_or_default(),
            received_at: number(headers, RECEIVED_AT),
            event,
            cut_from: number(headers, CUT_FROM),
            bytes: record.value.as_ref().map_or(0, Bytes::len),
            retried_at: None,
        })
    }
}

/// Which letters are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this key.
    pub account: Option<String>,
    /// Of this source.
    pub source: Option<String>,
    /// With this in their cause, in small letters or capitals.
    pub cause: Option<String>,
    /// Buried then or later.
    pub since: Option<Millis>,
    /// Buried before then.
    pub until: Option<Millis>,
    /// Also those that were given back.
    pub retried: bool,
}

impl Filter {
    fn wants(&self, letter: &Letter) -> bool {
        self.account.as_ref().is_none_or(|account| *account == letter.key)
            && self.source.as_ref().is_none_or(|source| *source == letter.source)
            && self.cause.as_ref().is_none_or(|cause| letter.cause.to_lowercase().contains(&cause.to_lowercase()))
            && self.since.is_none_or(|since| letter.buried_at >= since)
            && self.until.is_none_or(|until| letter.buried_at < until)
            && (self.retried || letter.retried_at.is_none())
    }
}

/// The letters that the filter wants, newest first.
///
/// # Errors
/// If the log cannot be read.
pub fn list(reader: &dyn Reader, partitions: u32, filter: &Filter) -> Result<Vec<Letter>, LogError> {
    let (mut letters, mut retried) = (Vec::new(), BTreeMap::new());
    for partition in 0..partitions {
        each_record(reader, Topic::DeadLetters, partition, |record| {
            match Letter::of(partition, &record) {
                Some(letter) => letters.push(letter),
                None => retried.extend(number::<Place>(&record.headers, RETRIED).map(|place| (place, record.timestamp))),
            }
            Ok::<_, LogError>(())
        })?;
    }
    for letter in &mut letters {
        letter.retried_at = retried.get(&letter.place).copied();
    }
    letters.retain(|letter| filter.wants(letter));
    letters.sort_by_key(|letter| std::cmp::Reverse((letter.buried_at, letter.place.offset)));
    Ok(letters)
}

/// The record of a letter; `None` where there is none.
///
/// # Errors
/// If the log cannot be read, or has no such place.
pub fn find(reader: &dyn Reader, place: Place) -> Result<Option<Record>, LogError> {
    let read = reader.read(Topic::DeadLetters, place.partition, place.offset, 1)?;
    let record = read.records.into_iter().next().filter(|record| record.offset == place.offset);
    Ok(record.filter(|record| Letter::of(place.partition, record).is_some()))
}

/// What became of a letter that was to be given back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// So many events of it are on the log.
    GivenBack(usize),
    /// Still not, or not all of it: the letter stays as it was.
    Stays(String),
}

/// Gives a letter back: a notification is read anew, and its events appended to the log; a record of the log is appended again, as it was, if it can
/// be read now. It is durable, and said beside the letter, when this returns.
///
/// # Errors
/// If the log fails; the letter may have been given back, and another time does no harm.
pub async fn retry(appender: &dyn Appender, place: Place, record: &Record) -> Result<Retried, LogError> {
    let (inputs, left) = match read(place, record) {
        Ok(found) => found,
        Err(cause) => return Ok(Retried::Stays(cause)),
    };
    let events = inputs.len();
    match appender.append_all(inputs).await {
        Ok(_) => {}
        Err(error @ LogError::TooLarge { .. }) => return Ok(Retried::Stays(error.to_string())),
        Err(error) => return Err(error),
    }
    if let Some(cause) = left {
        return Ok(Retried::Stays(cause));
    }
    let said = vec![(RETRIED.to_owned(), place.to_string().into_bytes())];
    let account = String::from_utf8_lossy(&record.key).into_owned();
    appender.append_dead_letter(Input { account, value: Vec::new(), headers: said }).await?;
    Ok(Retried::GivenBack(events))
}

/// What of a letter can be read now, and what is wrong with the rest; or why nothing can.
fn read(place: Place, record: &Record) -> Result<(Vec<Input>, Option<String>), String> {
    let letter = Letter::of(place.partition, record).ok_or("it is no letter")?;
    let value = record.value.as_deref().ok_or("it has no value")?;
    let retry_of = (RETRY_OF.to_owned(), place.to_string().into_bytes());
    if let Some(whole) = letter.cut_from {
        return Err(format!("it was too large: {} of its {whole} bytes are kept", value.len()));
    }
    if letter.source == WEBHOOK {
        let account = AccountId::parse(&letter.key).map_err(|error| error.to_string())?;
        let (mut inputs, cause) = ingress::read(&account, value, letter.received_at.unwrap_or(letter.buried_at));
        inputs.iter_mut().for_each(|input| input.headers.push(retry_of.clone()));
        return Ok((inputs, cause));
    }
    if ![EVENTS, SPOOL].contains(&letter.source.as_str()) {
        return Err(format!("it doesn't say where it came from: its header {SOURCE} is none of {WEBHOOK}, {EVENTS}, {SPOOL}"));
    }
    let account = match decode_event(value) {
        Ok(event) => event.account_id().ok_or("it is about no account")?.clone(),
        // Whether its schema is known now is told by the registry, when it is read from the log again.
        Err(CodecError::WireFormat(_)) => AccountId::parse(&letter.key).map_err(|error| error.to_string())?,
        Err(error) => return Err(error.to_string()),
    };
    let account = account.to_string();
    let mut headers = record.headers.clone();
    headers.retain(|(name, _)| !ADDED.contains(&name.as_str()) && name != RETRY_OF);
    headers.push(retry_of);
    Ok((vec![Input { account, value: value.to_vec(), headers }], None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, SnapshotCompleted, encode_event};
    use crate::log::MAX_INPUT_BYTES;
    use crate::log::embedded::{EmbeddedLog, EmbeddedOptions, Retention};
    use crate::log::letter::MOST_CAUSE;
    use crate::state::database::{DatabaseOptions, Engine};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    const T0: Millis = 1_700_000_000_000;

    fn letter(account: &str, value: &[u8], headers: &[(&str, &str)]) -> Input {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect();
        Input { account: account.into(), value: value.to_vec(), headers }
    }

    #[test]
    fn whatever_stands_on_the_log_its_letter_has_room() {
        let came = crate::log::Came::AsItIs;
        let record = Record {
            offset: 9,
            timestamp: T0,
            key: vec![b'k'; 2 << 20].into(),
            value: Some(vec![b'v'; 3 << 20].into()),
            headers: vec![("h".repeat(1 << 20), vec![1; 1 << 20])],
            came,
        };
        let cause = "\u{1f4de}".repeat(1 << 20);
        let bytes = |letter: &Output| {
            let headers: usize = letter.headers.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
            letter.key.len() + letter.value.as_ref().unwrap().len() + headers
        };
        // The largest headers that are kept, too.
        let kept = Record { headers: vec![("h".repeat(2_000), vec![1; 2_000])], ..record.clone() };
        assert_eq!(header(&of_event(3, &kept, "").headers, CUT_FROM), Some("3145728"));
        assert!(bytes(&of_event(3, &kept, &cause)) <= MAX_INPUT_BYTES);
        let letter = of_event(3, &record, &cause);
        assert!(bytes(&letter) <= MAX_INPUT_BYTES);
        let of = |name: &str| header(&letter.headers, name);
        assert_eq!((of(CUT_FROM), of(OFFSET), of(CAUSE).map(|cause| cause.chars().count())), (Some("3145728"), Some("9"), Some(MOST_CAUSE)));
        // It isn't given back in part.
        let buried = Record { value: letter.value.map(Into::into), headers: letter.headers, ..record };
        let Err(why) = read(Place { partition: 3, offset: 0 }, &buried) else { panic!("it is cut") };
        assert!(why.contains("of its 3145728 bytes"), "{why}");

        let small =
            Record { key: b"7".as_slice().into(), value: Some(b"x".as_slice().into()), headers: vec![("trace".into(), b"t".to_vec())], ..buried };
        let letter = of_event(3, &small, "broken");
        assert_eq!((letter.key.as_slice(), letter.value.as_deref()), (b"7".as_slice(), Some(b"x".as_slice())));
        assert!(header(&letter.headers, CUT_FROM).is_none() && header(&letter.headers, "trace") == Some("t"), "as it came");
    }

    fn records(reader: &dyn Reader) -> Vec<Record> {
        reader.read(Topic::Events, 0, 0, 100).unwrap().records
    }

    #[tokio::test]
    async fn a_letter_is_given_back_once_and_what_cannot_be_read_stays() {
        let dir = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicI64::new(T0));
        let clock = time.clone();
        let clock: crate::log::Clock = Arc::new(move || clock.fetch_add(1_000, Ordering::Relaxed));
        let options = EmbeddedOptions { partitions: 1, retention: Retention::default(), clock };
        let log = EmbeddedLog::open(dir.path(), &Engine::new(&DatabaseOptions::default()), &options).unwrap();
        let (appender, reader) = (log.appender(), log.reader());
        let completed = SnapshotCompleted { account_id: AccountId::parse("7").unwrap(), sync_id: "1".into(), completed_at: T0, numbers_seen: 0 };
        let event = encode_event(&Event::SnapshotCompleted(completed));
        let refused = Record {
            offset: 9,
            timestamp: T0,
            key: b"7".as_slice().into(),
            value: Some(event.clone().into()),
            headers: vec![("trace".into(), b"t".to_vec())],
            came: crate::log::Came::AsItIs,
        };
        let body = br#"{"uuid":"1","event":"/restapi/v1.0/account/7/telephony/sessions","timestamp":"2026-01-05T08:00:00Z",
            "body":{"sequence":2,"sessionId":"5","telephonySessionId":"s-1","accountId":"7","parties":[{"id":"p-1","status":{"code":"Setup"}}]}}"#;
        let webhook = [(CAUSE, "unknown field"), (SOURCE, WEBHOOK), (RECEIVED_AT, "1767600000123")];
        for letter in [
            letter("7", b"no json", &[(CAUSE, "Not JSON: at line 1"), (SOURCE, WEBHOOK)]),
            letter("7", body, &webhook),
            Input { account: "7".into(), value: event.clone(), headers: headers_of_event(3, &refused, "too old") },
            letter("8", b"broken", &[(CAUSE, "not framed"), (SOURCE, EVENTS), (PARTITION, "0"), (OFFSET, "4")]),
            letter("7", b"{", &[(CAUSE, "too large"), (SOURCE, WEBHOOK), (CUT_FROM, "2000000")]),
        ] {
            appender.append_dead_letter(letter).await.unwrap();
        }
        let offsets = |filter: &Filter| list(&*reader, 1, filter).unwrap().iter().map(|letter| letter.place.offset).collect::<Vec<_>>();
        let all = Filter::default();
        assert_eq!(offsets(&all), [4, 3, 2, 1, 0], "newest first");
        let letters = list(&*reader, 1, &all).unwrap();
        assert_eq!((letters[2].event, letters[2].received_at), (Some(Place { partition: 3, offset: 9 }), Some(T0)));
        for (filter, expected) in [
            (Filter { account: Some("8".into()), ..Filter::default() }, vec![3]),
            (Filter { source: Some("webhook".into()), ..Filter::default() }, vec![4, 1, 0]),
            (Filter { cause: Some("NOT".into()), ..Filter::default() }, vec![3, 0]),
            (Filter { since: Some(letters[2].buried_at), until: Some(letters[0].buried_at), ..Filter::default() }, vec![3, 2]),
        ] {
            assert_eq!(offsets(&filter), expected, "{filter:?}");
        }

        let mut outcomes = Vec::new();
        for letter in letters.iter().rev() {
            let record = find(&*reader, letter.place).unwrap().unwrap();
            outcomes.push(retry(&appender, letter.place, &record).await.unwrap());
        }
        assert!(matches!(&outcomes[0], Retried::Stays(cause) if cause.starts_with("not JSON")), "{outcomes:?}");
        assert_eq!(outcomes[1..3], [Retried::GivenBack(1), Retried::GivenBack(1)]);
        assert!(matches!(&outcomes[3], Retried::Stays(cause) if cause.contains("single object")), "{outcomes:?}");
        assert!(matches!(&outcomes[4], Retried::Stays(cause) if cause.contains("1 of its 2000000 bytes")), "{outcomes:?}");

        let events = records(&*reader);
        assert_eq!(events.len(), 2);
        let Ok(Event::CallLegs(legs)) = decode_event(events[0].value.as_deref().unwrap()) else { panic!("{events:?}") };
        assert_eq!((legs.session_id.as_str(), legs.received_at), ("s-1", 1_767_600_000_123));
        assert_eq!(events[1].value.as_deref(), Some(event.as_slice()));
        assert_eq!(events[1].headers, [("trace".to_owned(), b"t".to_vec()), (RETRY_OF.to_owned(), b"0/2".to_vec())], "as it was");

        assert_eq!(offsets(&all), [4, 3, 0], "what was given back is told from what wasn't");
        assert_eq!(offsets(&Filter { retried: true, ..Filter::default() }), [4, 3, 2, 1, 0]);
        assert_eq!(find(&*reader, Place { partition: 0, offset: 5 }).unwrap(), None, "what says so is no letter");
        assert!(find(&*reader, Place { partition: 0, offset: 99 }).is_err());

        let spooled = appender.append_dead_letter(letter("7", &event, &[(CAUSE, "too large"), (SOURCE, SPOOL)])).await.unwrap();
        let record = find(&*reader, spooled).unwrap().unwrap();
        assert_eq!(retry(&appender, spooled, &record).await.unwrap(), Retried::GivenBack(1));
    }
}
