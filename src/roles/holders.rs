//! Which instance holds which partition, as the instances announce it with what they commit. Only who may commit to a partition can announce it, so
//! there is nobody to agree with; what is known may be a second old.

use crate::log::kafka::KafkaReader;
use crate::log::{Committed, LogError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How old what is known may be.
const FRESH: Duration = Duration::from_secs(1);

/// See the module.
pub(super) struct Holders {
    reader: KafkaReader,
    /// This instance's address, if it announces one.
    own: Option<String>,
    known: Mutex<Option<Known>>,
}

struct Known {
    at: Instant,
    of_partition: Arc<[Option<String>]>,
}

impl Holders {
    pub fn new(reader: KafkaReader, own: Option<String>) -> Self {
        Self { reader, own, known: Mutex::default() }
    }

    /// The address of the one that holds each partition, by partition; `None` where none has announced itself. Asks Kafka where what is known isn't
    /// fresh, so it is for where blocking is allowed.
    ///
    /// # Errors
    /// If Kafka gives no answer, or what is committed is no position.
    pub fn all(&self) -> Result<Arc<[Option<String>]>, LogError> {
        if let Some(known) = &*self.known.lock().unwrap_or_else(PoisonError::into_inner)
            && known.at.elapsed() < FRESH
        {
            return Ok(known.of_partition.clone());
        }
        let at = Instant::now();
        let committed = self.reader.committed_so_far()?;
        let of_partition: Arc<[Option<String>]> = committed.into_iter().map(|committed| committed.and_then(|committed| committed.holder)).collect();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Known { at, of_partition: of_partition.clone() });
        Ok(of_partition)
    }

    /// What is committed of each partition at this moment, by whom.
    ///
    /// # Errors
    /// As [`Holders::all`].
    pub fn committed(&self) -> Result<Vec<Option<Committed>>, LogError> {
        self.reader.committed_so_far()
    }

    /// Asks anew the next time: somebody who was announced wasn't there.
    pub fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether the address is this instance's own.
    pub fn is_own(&self, address: &str) -> bool {
        self.own.as_deref() == Some(address)
    }
}
