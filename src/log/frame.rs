//! A record's bytes in the embedded log.
//!
//! ```text
//! timestamp  8 bytes, big endian, milliseconds
//! flags      1 byte: 1 = tombstone, all others 0
//! key        length, bytes
//! headers    count, then for each: length, name, length, value
//! value      the rest; nothing for a tombstone
//! ```
//! Lengths and counts are LEB128, at most 5 bytes. The offset is the key under which RocksDB holds it. The timestamp stands first so that the bytes
//! can be made by who appends, and dated by who writes.

use super::{Came, Headers, Record};
use bytes::Bytes;

const TOMBSTONE: u8 = 1;

/// A record's bytes, as yet without its timestamp.
#[derive(Debug)]
pub(super) struct Frame(Vec<u8>);

impl Frame {
    pub(super) fn new(key: &[u8], value: Option<&[u8]>, headers: &[(String, Vec<u8>)]) -> Self {
        let headers_len: usize = headers.iter().map(|(name, value)| name.len() + value.len() + 10).sum();
        let mut bytes = Vec::with_capacity(8 + 1 + 10 + key.len() + headers_len + value.map_or(0, <[u8]>::len));
        bytes.extend_from_slice(&[0; 8]);
        bytes.push(if value.is_none() { TOMBSTONE } else { 0 });
        put(&mut bytes, key);
        put_length(&mut bytes, headers.len());
        for (name, value) in headers {
            put(&mut bytes, name.as_bytes());
            put(&mut bytes, value);
        }
        bytes.extend_from_slice(value.unwrap_or_default());
        Self(bytes)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The whole, dated.
    pub(super) fn dated(&mut self, timestamp: i64) -> &[u8] {
        self.0[..8].copy_from_slice(&timestamp.to_be_bytes());
        &self.0
    }
}

fn put_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}

fn put(bytes: &mut Vec<u8>, part: &[u8]) {
    put_length(bytes, part.len());
    bytes.extend_from_slice(part);
}

/// What isn't a frame.
pub(super) type Broken = &'static str;

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Broken> {
        let (head, tail) = self.0.split_at_checked(count).ok_or("it is cut off")?;
        self.0 = tail;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, Broken> {
        self.take(1).map(|b| b[0])
    }

    fn length(&mut self) -> Result<usize, Broken> {
        let mut length = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte()?;
            length |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(length).map_err(|_| "a length is too large");
            }
        }
        Err("a length has no end")
    }

    fn part(&mut self) -> Result<&'a [u8], Broken> {
        let length = self.length()?;
        self.take(length)
    }
}

/// The part of a frame that tells what to do with the record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head<'a> {
    pub(super) timestamp: i64,
    pub(super) tombstone: bool,
    pub(super) key: &'a [u8],
}

fn head<'a>(cursor: &mut Cursor<'a>) -> Result<Head<'a>, Broken> {
    let timestamp = cursor.take(8)?.try_into().map(i64::from_be_bytes).map_err(|_| "it is cut off")?;
    let flags = cursor.byte()?;
    if flags & !TOMBSTONE != 0 {
        return Err("it has a flag that isn't known: a newer callsieve may have written it");
    }
    Ok(Head { timestamp, tombstone: flags & TOMBSTONE != 0, key: cursor.part()? })
}

/// Reads a frame's beginning only.
pub(super) fn decode_head(bytes: &[u8]) -> Result<Head<'_>, Broken> {
    head(&mut Cursor(bytes))
}

/// Reads a frame.
pub(super) fn decode(offset: i64, bytes: &[u8]) -> Result<Record, Broken> {
    let mut cursor = Cursor(bytes);
    let head = head(&mut cursor)?;
    let count = cursor.length()?;
    // A header takes two bytes at least: a broken count must not reserve memory.
    if count > cursor.0.len() / 2 {
        return Err("it is cut off");
    }
    let mut headers: Headers = Vec::with_capacity(count);
    for _ in 0..count {
        let name = std::str::from_utf8(cursor.part()?).map_err(|_| "a header's name is no text")?;
        headers.push((name.to_owned(), cursor.part()?.to_vec()));
    }
    let value = match (head.tombstone, cursor.0) {
        (true, []) => None,
        (true, _) => return Err("a tombstone has a value"),
        (false, rest) => Some(Bytes::copy_from_slice(rest)),
    };
    Ok(Record { offset, timestamp: head.timestamp, key: Bytes::copy_from_slice(head.key), value, headers, came: Came::AsItIs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_record_comes_back_from_its_frame(
            timestamp: i64,
            key in vec(any::<u8>(), 0..300),
            value in proptest::option::of(vec(any::<u8>(), 0..300)),
            headers in vec((".{0,20}", vec(any::<u8>(), 0..200)), 0..5),
        ) {
            let mut frame = Frame::new(&key, value.as_deref(), &headers);
            let bytes = frame.dated(timestamp);
            prop_assert_eq!(decode_head(bytes), Ok(Head { timestamp, tombstone: value.is_none(), key: &key }));
            prop_assert_eq!(decode(7, bytes), Ok(Record { offset: 7, timestamp, key: key.into(), value: value.map(Into::into), headers, came: Came::AsItIs }));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..100)) {
            let _ = decode(0, &bytes);
        }
    }

    #[test]
    fn what_is_no_frame() {
        let mut good = Frame::new(b"key", None, &[("name".to_owned(), b"value".to_vec())]);
        let good = good.dated(1).to_vec();
        assert!(decode(0, &good).is_ok());
        for cut in 0..good.len() {
            assert!(decode(0, &good[..cut]).is_err(), "{cut}");
        }
        for (place, byte, why) in [(8, 2, "flag"), (9, 0xff, "cut off"), (13, 0xff, "cut off"), (15, 0xc0, "no text")] {
            let mut bad = good.clone();
            bad[place] = byte;
            let error = decode(0, &bad).unwrap_err();
            assert!(error.contains(why), "{place}: {error}");
        }
        let longer = [&good[..], b"x"].concat();
        assert_eq!(decode(0, &longer), Err("a tombstone has a value"));
        assert_eq!(decode(0, &[&good[..9], &[0xff; 6]].concat()), Err("a length has no end"));
    }
}
