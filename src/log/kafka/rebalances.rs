//! The rebalances of a member of the group, as its consumer is told of them, until the worker answers them.

use super::client::Told;
use rdkafka::TopicPartitionList;
use rdkafka::bindings::rd_kafka_resp_err_t;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A change of what is assigned, not yet answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Assigned(Vec<u32>),
    Revoked(Vec<u32>),
}

/// Notes the rebalances.
#[derive(Default)]
pub(super) struct Rebalances {
    changes: Mutex<VecDeque<Change>>,
    /// See [`Rebalances::close`].
    closing: AtomicBool,
}

impl Rebalances {
    fn changes(&self) -> MutexGuard<'_, VecDeque<Change>> {
        // Whole after every statement.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many aren't answered.
    pub(super) fn count(&self) -> usize {
        self.changes().len()
    }

    /// Those that aren't answered, but for the oldest `noted`.
    pub(super) fn after(&self, noted: usize) -> Vec<Change> {
        self.changes().iter().skip(noted).cloned().collect()
    }

    /// The oldest that isn't answered.
    pub(super) fn first(&self) -> Option<Change> {
        self.changes().front().cloned()
    }

    /// The oldest is answered.
    pub(super) fn answered(&self) {
        self.changes().pop_front();
    }

    /// Whether a partition is assigned, but the group has no answer to that yet.
    pub(super) fn is_unanswered(&self, partition: u32) -> bool {
        self.changes().iter().any(|change| matches!(change, Change::Assigned(partitions) if partitions.contains(&partition)))
    }

    /// What comes from now on is answered as it comes: nobody answers later.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }
}

impl ClientContext for Rebalances {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Told.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Told.error(error, reason);
    }
}

impl ConsumerContext for Rebalances {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: rd_kafka_resp_err_t, partitions: &mut TopicPartitionList) {
        let is_assigned = kind == rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS;
        if self.closing.load(Ordering::Acquire) {
            let answer = if is_assigned { consumer.incremental_assign(partitions) } else { consumer.incremental_unassign(partitions) };
            if let Err(error) = answer {
                tracing::debug!("leaving the group: {error}");
            }
            return;
        }
        let numbers = partitions.elements().iter().filter_map(|element| u32::try_from(element.partition()).ok()).collect();
        let change = if is_assigned { Change::Assigned(numbers) } else { Change::Revoked(numbers) };
        self.changes().push_back(change);
    }
}
