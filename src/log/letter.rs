//! What a dead letter's headers are called, and how much a letter keeps.

use super::{Headers, MAX_INPUT_BYTES};

/// Why it could not be taken in, in words.
pub const CAUSE: &str = "callsieve.cause";
/// Where it came in: [`WEBHOOK`], [`EVENTS`] or [`SPOOL`].
pub const SOURCE: &str = "callsieve.source";
/// When it came in, in milliseconds since 1970.
pub const RECEIVED_AT: &str = "callsieve.received_at";
/// The topic, without the prefix, partition and offset that a record of the log stands at.
pub const TOPIC: &str = "callsieve.topic";
/// See [`TOPIC`].
pub const PARTITION: &str = "callsieve.partition";
/// See [`TOPIC`].
pub const OFFSET: &str = "callsieve.offset";
/// The length in bytes of a body that was too large to be kept whole.
pub const CUT_FROM: &str = "callsieve.cut_from";
/// On the record that says so: the place of the letter that was given back.
pub const RETRIED: &str = "callsieve.retried";
/// On the log: the place of the letter that an event was given back from.
pub const RETRY_OF: &str = "callsieve.retry_of";

/// A [`SOURCE`]: a notification, as its body came.
pub const WEBHOOK: &str = "webhook";
/// A [`SOURCE`]: a record of the log.
pub const EVENTS: &str = "events";
/// A [`SOURCE`]: an event that was to be appended from the spool, and that the topic has no room for any more.
pub const SPOOL: &str = "spool";

/// Of a body that many bytes are kept: a topic that takes the largest input takes the letter, too.
pub const MOST_BODY: usize = MAX_INPUT_BYTES - (16 << 10);
/// Of a cause so many characters.
pub const MOST_CAUSE: usize = 1_000;

/// What a letter has beside what it had before it was one.
pub const ADDED: [&str; 7] = [CAUSE, SOURCE, RECEIVED_AT, TOPIC, PARTITION, OFFSET, CUT_FROM];

/// The cause as it stands in a letter's headers.
#[must_use]
pub fn cause_header(cause: &str) -> (String, Vec<u8>) {
    (CAUSE.into(), cause.chars().take(MOST_CAUSE).collect::<String>().into_bytes())
}

/// As much of a body as a letter has room for; what is cut off is noted.
#[must_use]
pub fn cut(mut body: Vec<u8>, headers: &mut Headers) -> Vec<u8> {
    if body.len() > MOST_BODY {
        headers.push((CUT_FROM.into(), body.len().to_string().into_bytes()));
        body.truncate(MOST_BODY);
    }
    body
}
