//! Documents out of a stream of bytes: JSON Lines, or JSON documents one after another, however they are laid out.
//!
//! Each line is offered as a document first, since nearly all input is JSON Lines. Only for a line that cannot be read is it looked
//! at where its first value ends: before the end of the line (several documents stand on it), beyond it (a document of several
//! lines, which goes on until its brackets are closed), or never (a line that was cut). What a document says is no business of this file.

use std::io::{self, Read};

/// The longest document that is read; its text and what is read out of it stand in memory at once.
const LONGEST_DOCUMENT: usize = 256 << 20;
/// Bytes that are asked for at once.
const BLOCK: usize = 1 << 20;
/// Brackets within brackets, which serde_json takes no more of. Lines that are all cut within a list end here.
const DEEPEST: usize = 128;
const COMPRESSED: &[u8] = &[0x1f, 0x8b];
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What becomes of the text that is offered.
pub(super) trait Reading {
    /// Why it cannot go on; not a matter of the document.
    type Error: From<io::Error>;
    /// Takes a document; the inner error says why it cannot be read, and nothing was taken then. `line` is where it begins, from 1.
    fn take(&mut self, document: &[u8], line: u64) -> Result<Result<(), String>, Self::Error>;
    /// A document that cannot be read.
    fn complain(&mut self, line: u64, reason: &str) -> Result<(), Self::Error>;
    /// So many more bytes are done. `waits`: nothing more is at hand, the source is asked next.
    fn advance(&mut self, bytes: u64, waits: bool) -> Result<(), Self::Error>;
}

/// A window on a stream.
struct Window<'r> {
    source: &'r mut dyn Read,
    buffer: Vec<u8>,
    /// What is not done yet.
    from: usize,
    to: usize,
    is_finished: bool,
    /// Of `from`, from 1.
    line: u64,
    longest: usize,
    /// A document of several lines was given up: its further lines are no documents of their own.
    in_ruins: bool,
    /// Why the stream ended before its end.
    failure: Option<io::Error>,
}

impl Window<'_> {
    fn rest(&self) -> &[u8] {
        &self.buffer[self.from..self.to]
    }

    /// Reads more; false at the end of the stream, also when that is a failure.
    fn fill(&mut self) -> bool {
        if self.is_finished {
            return false;
        }
        if self.from > 0 && self.from >= self.buffer.len() / 2 {
            self.buffer.copy_within(self.from..self.to, 0);
            self.to -= self.from;
            self.from = 0;
        }
        if self.buffer.len() - self.to < BLOCK / 2 {
            self.buffer.resize((self.to + BLOCK).max(self.buffer.len() * 2), 0);
        }
        loop {
            match self.source.read(&mut self.buffer[self.to..]) {
                Ok(0) => {
                    self.is_finished = true;
                    return false;
                }
                Ok(read) => {
                    self.to += read;
                    return true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.is_finished = true;
                    self.failure = Some(error);
                    return false;
                }
            }
        }
    }

    /// Length of the line that begins here, without its end; `None` for one that is too long.
    fn line_length(&mut self) -> Option<usize> {
        let mut seen = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.rest()[seen..]) {
                return Some(seen + at);
            }
            seen = self.rest().len();
            if seen > self.longest {
                return None;
            }
            if !self.fill() {
                return Some(seen);
            }
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.line += memchr::memchr_iter(b'\n', &self.rest()[..bytes]).count() as u64;
        self.from += bytes;
    }

    /// Drops the rest of a line, however long it is.
    fn skip_line(&mut self) -> u64 {
        let mut skipped = 0;
        loop {
            let rest = self.rest();
            let (bytes, is_whole) = match memchr::memchr(b'\n', rest) {
                Some(at) => (at + 1, true),
                None => (rest.len(), false),
            };
            skipped += bytes as u64;
            self.skip(bytes);
            if is_whole || !self.fill() {
                return skipped;
            }
        }
    }
}

/// Offers every document of a stream to `reading`.
pub(super) fn read_documents<R: Reading>(source: &mut dyn Read, reading: &mut R) -> Result<(), R::Error> {
    read_bounded(source, reading, LONGEST_DOCUMENT)
}

fn read_bounded<R: Reading>(source: &mut dyn Read, reading: &mut R, longest: usize) -> Result<(), R::Error> {
    let mut window = Window { source, buffer: Vec::new(), from: 0, to: 0, is_finished: false, line: 1, longest, in_ruins: false, failure: None };
    read_window(&mut window, reading)?;
    match window.failure.take() {
        Some(error) => reading.complain(window.line, &format!("reading failed: {error}")),
        None => Ok(()),
    }
}

fn read_window<R: Reading>(window: &mut Window<'_>, reading: &mut R) -> Result<(), R::Error> {
    while window.rest().len() < BYTE_ORDER_MARK.len() && window.fill() {}
    if window.rest().starts_with(COMPRESSED) {
        reading.complain(1, "it is compressed; give the text, for instance with: zcat FILE | callsieve classify -")?;
        return Ok(());
    }
    if window.rest().starts_with(BYTE_ORDER_MARK) {
        window.skip(BYTE_ORDER_MARK.len());
    }
    loop {
        let Some(length) = window.line_length() else {
            reading.complain(window.line, &too_long(window.longest))?;
            let skipped = window.skip_line();
            reading.advance(skipped, false)?;
            continue;
        };
        if length == 0 && window.rest().is_empty() {
            return Ok(());
        }
        let done = {
            let line = &window.buffer[window.from..window.from + length];
            window.in_ruins &= !matches!(line.first(), Some(b'{' | b'['));
            if line.trim_ascii().is_empty() || window.in_ruins {
                length
            } else {
                match reading.take(line, window.line)? {
                    Ok(()) => length,
                    Err(reason) => take_apart(window, reading, length, &reason)?,
                }
            }
        };
        // With the line's end, where there is one.
        let done = done + usize::from(window.rest().get(done) == Some(&b'\n'));
        window.skip(done);
        reading.advance(done as u64, window.rest().is_empty())?;
    }
}

fn too_long(longest: usize) -> String {
    format!("a document is longer than {} MiB", longest >> 20)
}

/// A line that is no document as a whole. Returns how much of the window is done with.
fn take_apart<R: Reading>(window: &mut Window<'_>, reading: &mut R, line: usize, reason: &str) -> Result<usize, R::Error> {
    let begins = line - window.rest()[..line].trim_ascii_start().len();
    if !matches!(window.rest()[begins], b'{' | b'[') {
        reading.complain(window.line, reason)?;
        return Ok(line);
    }
    let whole = window.rest()[..line].trim_ascii_end().len();
    let mut extent = Extent::default();
    let mut seen = begins;
    loop {
        let rest = window.rest();
        match extent.find_end(&rest[seen..]) {
            Found::End(end) => {
                let end = seen + end;
                if end == whole {
                    reading.complain(window.line, reason)?;
                    return Ok(line);
                }
                if let Err(reason) = reading.take(&rest[begins..end], window.line)? {
                    reading.complain(window.line, &reason)?;
                }
                let follows = rest[end..].iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r'));
                if matches!(follows, None | Some(b'\n' | b'{' | b'[')) {
                    return Ok(end);
                }
                let line_end = memchr::memchr(b'\n', &rest[end..]).map_or(rest.len(), |at| end + at);
                let last_line = window.line + memchr::memchr_iter(b'\n', &rest[..end]).count() as u64;
                reading.complain(last_line, "something that is no document follows a document")?;
                return Ok(line_end);
            }
            Found::Cut(at) => {
                window.in_ruins = seen + at > line;
                reading.complain(window.line, reason)?;
                return Ok(line);
            }
            Found::GoesOn => seen = rest.len(),
        }
        if seen > window.longest {
            window.in_ruins = true;
            reading.complain(window.line, &too_long(window.longest))?;
            return Ok(line);
        }
        if !window.fill() {
            window.in_ruins = true;
            reading.complain(window.line, reason)?;
            return Ok(line);
        }
    }
}

/// Where an object or a list ends, found by its brackets and texts alone.
#[derive(Default)]
struct Extent {
    /// The brackets that are open, outermost first.
    open: Vec<u8>,
    in_text: bool,
    is_escaped: bool,
    /// The last byte that is no space.
    last: u8,
}

enum Found {
    /// One past its last byte.
    End(usize),
    /// It has no end, as this place of the piece shows: the next document's beginning, for one.
    Cut(usize),
    /// Not in this piece.
    GoesOn,
}

impl Extent {
    /// Goes on with the next piece.
    fn find_end(&mut self, piece: &[u8]) -> Found {
        for (at, &byte) in piece.iter().enumerate() {
            if self.in_text {
                match byte {
                    b'\n' => return Found::Cut(at),
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => self.in_text = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' => continue,
                b'{' | b'[' if !self.may_open() => return Found::Cut(at),
                b'{' | b'[' => self.open.push(byte),
                b'}' | b']' => {
                    let opening = if byte == b'}' { b'{' } else { b'[' };
                    if self.open.pop() != Some(opening) {
                        return Found::Cut(at);
                    }
                    if self.open.is_empty() {
                        return Found::End(at + 1);
                    }
                }
                b'"' => self.in_text = true,
                _ => {}
            }
            self.last = byte;
        }
        Found::GoesOn
    }

    /// Whether an object or a list may stand here. In a document that was cut it soon may not: the next line begins with one, and
    /// the line after that at the latest follows a value without a comma.
    fn may_open(&self) -> bool {
        self.open.len() < DEEPEST
            && match self.open.last() {
                None => true,
                Some(b'{') => self.last == b':',
                Some(_) => matches!(self.last, b'[' | b','),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what is JSON, and notes it.
    #[derive(Default)]
    struct Notes(Vec<String>);

    impl Reading for Notes {
        type Error = io::Error;

        fn take(&mut self, document: &[u8], line: u64) -> io::Result<Result<(), String>> {
            match serde_json::from_slice::<serde_json::Value>(document) {
                Ok(value) => {
                    self.0.push(format!("{line} {value}"));
                    Ok(Ok(()))
                }
                Err(error) => Ok(Err(error.to_string())),
            }
        }

        fn complain(&mut self, line: u64, _: &str) -> io::Result<()> {
            self.0.push(format!("{line} unreadable"));
            Ok(())
        }

        fn advance(&mut self, _: u64, _: bool) -> io::Result<()> {
            Ok(())
        }
    }

    /// Gives so many bytes at a time.
    struct Slowly<'a>(&'a [u8], usize);

    impl Read for Slowly<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let bytes = self.1.min(self.0.len()).min(buffer.len());
            buffer[..bytes].copy_from_slice(&self.0[..bytes]);
            self.0 = &self.0[bytes..];
            Ok(bytes)
        }
    }

    #[test]
    fn documents_in_every_layout() {
        let rows: &[(&str, &[&str])] = &[
            ("", &[]),
            (" \n\r\n", &[]),
            ("{\"a\":1}\n{\"a\":2}\n", &["1 {\"a\":1}", "2 {\"a\":2}"]),
            ("{\"a\":1}\r\n\r\n{\"a\":2}", &["1 {\"a\":1}", "3 {\"a\":2}"]),
            ("\u{feff}{\"a\":1}\n", &["1 {\"a\":1}"]),
            ("{\n  \"a\": {\n    \"b\": \"}\\\"{\"\n  }\n}\n[1]\n", &["1 {\"a\":{\"b\":\"}\\\"{\"}}", "6 [1]"]),
            ("[\n{\"a\":1},\n{\"a\":2}\n]\n{}", &["1 [{\"a\":1},{\"a\":2}]", "5 {}"]),
            ("{\"a\":1}{\"a\":2} [3]\n{}", &["1 {\"a\":1}", "1 {\"a\":2}", "1 [3]", "2 {}"]),
            ("{\n}{\n}\n", &["1 {}", "2 {}"]),
            ("{\n\"a\": [\n{\n\"b\": {}\n},\n{\n}\n],\n\"c\":\n{\n}\n}\n{}\n", &["1 {\"a\":[{\"b\":{}},{}],\"c\":{}}", "13 {}"]),
            ("[\n[\n1\n]\n,\n{\n}\n]\n{}\n", &["1 [[1],{}]", "9 {}"]),
            // What is unreadable takes nothing else along.
            ("no json\n{}\n", &["1 unreadable", "2 {}"]),
            ("{\"a\" 1}\n{}\n", &["1 unreadable", "2 {}"]),
            ("{\"a\":\"cut\n{}\n", &["1 unreadable", "2 {}"]),
            ("{\"a\":1,\"b\":\n{\"c\":1}\n{}\n", &["1 unreadable", "2 {\"c\":1}", "3 {}"]),
            ("{\"a\":[1,\n", &["1 unreadable"]),
            ("{\"a\":[1,\n{\"c\":1}\n{}\n", &["1 unreadable", "2 {\"c\":1}", "3 {}"]),
            ("{\"a\":1,\n{\"c\":1}\n", &["1 unreadable", "2 {\"c\":1}"]),
            ("{\"a\":{\"b\":1}\n{\"c\":1}\n", &["1 unreadable", "2 {\"c\":1}"]),
            ("{\"a\":tr\n[1]\n{}\n", &["1 unreadable", "2 [1]", "3 {}"]),
            ("{\"a\":[1}\n{}\n", &["1 unreadable", "2 {}"]),
            ("{\"a\":\n{\"c\":1}\n", &["1 unreadable", "2 {\"c\":1}"]),
            ("{}]\n{}\n", &["1 {}", "1 unreadable", "2 {}"]),
            ("{\n \"a\": [\n  {\"b\": x},\n  2\n ]\n}\n{}\n", &["1 unreadable", "7 {}"]),
            ("{\n \"a\": \"cut\n  2\n ]\n}\n{}\n", &["1 unreadable", "6 {}"]),
            ("{\n \"a\": {\n  \"b\": {\n", &["1 unreadable"]),
            ("}\n{}\n", &["1 unreadable", "2 {}"]),
            ("{\"a\":1} and more\n{}", &["1 {\"a\":1}", "1 unreadable", "2 {}"]),
            ("\u{1f}\u{8b}", &["1 unreadable"]),
        ];
        for (text, expected) in rows {
            for step in [1, 2, 3, 7, 1_000] {
                let mut notes = Notes::default();
                read_documents(&mut Slowly(text.as_bytes(), step), &mut notes).unwrap();
                assert_eq!(notes.0, *expected, "{text:?} by {step}");
            }
        }
        let mut notes = Notes::default();
        read_documents(&mut Slowly(&[0x1f, 0x8b, 8, 0, b'\n', b'x'], 1), &mut notes).unwrap();
        assert_eq!(notes.0, ["1 unreadable"]);
    }

    #[test]
    fn lines_that_are_all_cut_within_a_list_are_each_unreadable_at_once() {
        let mut extent = Extent::default();
        let found = extent.find_end("{\"a\":[1,\n".repeat(2 * DEEPEST).as_bytes());
        assert!(matches!(found, Found::Cut(at) if at < 10 * DEEPEST));
    }

    #[test]
    fn a_document_that_is_too_long_takes_nothing_else_along() {
        let long = format!("{{}}\n{{\"a\":\"{}\"}}\n{{\"a\":1}}\n", "x".repeat(5_000_000));
        let mut notes = Notes::default();
        read_bounded(&mut Slowly(long.as_bytes(), 1 << 20), &mut notes, 1 << 20).unwrap();
        assert_eq!(notes.0, ["1 {}", "2 unreadable", "3 {\"a\":1}"]);
    }

    #[test]
    fn a_stream_that_fails_keeps_what_came_before() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("gone"))
            }
        }
        let mut notes = Notes::default();
        read_documents(&mut b"{}\n".chain(Fails), &mut notes).unwrap();
        assert_eq!(notes.0, ["1 {}", "2 unreadable"]);
    }
}
