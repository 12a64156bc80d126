//! Values that stand on Kafka in another framing than the process reads and writes: what a schema registry asks for.
//!
//! It is put on and taken off here, at the border, so that nothing else knows of it. Dead letters are bytes as they came, and are left alone.

use crate::log::{LogError, Record, Topic};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// Takes a framing off, and puts it on.
pub trait Framing: fmt::Debug + Send + Sync {
    /// One that can write to the topics of these names, which stand by [`Topic::index`]. Waits for the network.
    ///
    /// # Errors
    /// [`LogError::Kafka`] for what passes, [`LogError::Refused`] for what doesn't by itself.
    fn prepared(&self, names: &[String; Topic::ALL.len()]) -> Result<Arc<dyn Framing>, LogError>;

    /// A value as it is to stand on the topic. As it is, where it is of no known kind, and before [`Framing::prepared`].
    fn written<'a>(&self, topic: Topic, value: &'a [u8]) -> Cow<'a, [u8]>;

    /// Puts a record's value into the form that the process reads, or leaves it and says so in [`Record::came`]. May wait for the network.
    ///
    /// # Errors
    /// [`LogError::Kafka`] if it can't be told now: later it can.
    fn read(&self, record: &mut Record) -> Result<(), LogError>;
}

/// The framing of a cluster's values; by default none: they stand there as they are.
#[derive(Clone, Default)]
pub struct Framed {
    by: Option<Arc<dyn Framing>>,
    /// Written as they are all the same.
    reads_only: bool,
}

impl Framed {
    /// Values framed so.
    #[must_use]
    pub fn by(framing: Arc<dyn Framing>) -> Self {
        Self { by: Some(framing), reads_only: false }
    }

    /// The same for who writes to topics that nobody else reads: what is written there stays as it is.
    #[must_use]
    pub fn for_reading(&self) -> Self {
        Self { reads_only: true, ..self.clone() }
    }

    pub(super) fn prepare(&mut self, names: &[String; Topic::ALL.len()]) -> Result<(), LogError> {
        if let Some(framing) = self.by.as_ref().filter(|_| !self.reads_only) {
            self.by = Some(framing.prepared(names)?);
        }
        Ok(())
    }

    pub(super) fn written<'a>(&self, topic: Topic, value: &'a [u8]) -> Cow<'a, [u8]> {
        match &self.by {
            Some(framing) if topic != Topic::DeadLetters && !self.reads_only => framing.written(topic, value),
            _ => Cow::Borrowed(value),
        }
    }

    pub(super) fn read(&self, topic: Topic, record: &mut Record) -> Result<(), LogError> {
        match &self.by {
            Some(framing) if topic != Topic::DeadLetters => framing.read(record),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for Framed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.by {
            Some(framing) => framing.fmt(f),
            None => f.write_str("as they are"),
        }
    }
}

impl PartialEq for Framed {
    fn eq(&self, other: &Self) -> bool {
        let is_same = match (&self.by, &other.by) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        is_same && self.reads_only == other.reads_only
    }
}

impl Eq for Framed {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Came;

    /// Turns every value round.
    #[derive(Debug)]
    struct Reversed;

    fn reversed(value: &[u8]) -> Vec<u8> {
        value.iter().rev().copied().collect()
    }

    impl Framing for Reversed {
        fn prepared(&self, names: &[String; Topic::ALL.len()]) -> Result<Arc<dyn Framing>, LogError> {
            assert_eq!(names[Topic::CallVerdicts.index()], "t.call-verdicts");
            Ok(Arc::new(Self))
        }

        fn written<'a>(&self, _: Topic, value: &'a [u8]) -> Cow<'a, [u8]> {
            Cow::Owned(reversed(value))
        }

        fn read(&self, record: &mut Record) -> Result<(), LogError> {
            record.value = record.value.as_deref().map(|value| reversed(value).into());
            Ok(())
        }
    }

    #[test]
    fn everything_is_framed_but_dead_letters() {
        let mut framed = Framed::by(Arc::new(Reversed));
        framed.prepare(&Topic::ALL.map(|topic| format!("t.{topic}"))).unwrap();
        for topic in Topic::ALL {
            let expected: &[u8] = if topic == Topic::DeadLetters { b"abc" } else { b"cba" };
            assert_eq!(framed.written(topic, b"abc"), expected, "{topic}");
            assert_eq!(Framed::default().written(topic, b"abc"), b"abc".as_slice());
            let mut record = Record {
                offset: 0,
                timestamp: 0,
                key: bytes::Bytes::new(),
                value: Some(b"abc".as_slice().into()),
                headers: Vec::new(),
                came: Came::AsItIs,
            };
            assert_eq!(framed.for_reading().written(topic, b"abc"), b"abc".as_slice());
            framed.for_reading().read(topic, &mut record).unwrap();
            assert_eq!(record.value.as_deref(), Some(expected), "{topic}");
        }
    }
}
