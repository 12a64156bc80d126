//! A group's positions, seen and set from outside the group.

use super::Kafka;
use super::client::{Admin, REQUEST, Told, failed, number};
use super::settings::KafkaSettings;
use super::topics::answered;
use crate::log::{Committed, LogError, OutputEnds, Position, Reader, Topic};
use rdkafka::admin::AdminOptions;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::time::{Duration, Instant};

/// How long an answer is asked for that the brokers can't give yet.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Kafka {
    /// The positions that the group has committed, by partition; `None` where there is none. Waits for the network, and for a transaction under way
    /// that would move one.
    ///
    /// # Errors
    /// If the cluster can't be reached, or what is committed is no position.
    pub fn positions(&self) -> Result<Vec<Option<Position>>, LogError> {
        let until = Instant::now() + PATIENCE;
        let of = |partition| loop {
            match self.reader.committed(partition) {
                // Offsets of a transaction that a dead worker left aren't stable until it has run into its timeout.
                Err(error) if error.is_passing() && Instant::now() < until => std::thread::sleep(LOOK_EVERY),
                answer => return Ok(answer?.map(|committed| committed.position)),
            }
        };
        (0..self.partitions).map(of).collect()
    }

    /// Refuses a log whose number of partitions isn't that of what the group has committed. Waits for the network.
    ///
    /// # Errors
    /// [`LogError::Refused`] if somebody has changed the number in place; if Kafka gives no answer, or what is committed is no position.
    pub fn check_number(&self) -> Result<(), LogError> {
        let now = self.partitions;
        let committed = self.reader.committed_so_far()?;
        let Some(before) = committed.iter().flatten().map(|committed| committed.partitions).find(|before| *before != now) else { return Ok(()) };
        Err(LogError::Refused {
            operation: format!("going on with the group {}", self.settings.group),
            why: format!(
                "it has judged {before} partitions, and the topics {}* have {now}: the number was changed in place, by which accounts are in others than all that is known of \
                 them. `callsieve topics repartition` moves them to topics with another --to-prefix, each account into its partition",
                self.settings.topic_prefix
            ),
        })
    }

    /// Commits where the group is to begin with a partition; `ends` says where the output topics end that belong to it. For a group without members.
    ///
    /// # Errors
    /// If the group has members, or the cluster can't be reached.
    pub fn begin(&self, partition: u32, position: Position, ends: &[(Topic, i64)]) -> Result<(), LogError> {
        let client: BaseConsumer<Told> = self.settings.reader(true).create_with_context(Told).map_err(failed("making a client"))?;
        let operation = format!("committing where the group {} begins with partition {partition}", self.settings.group);
        let mut known = OutputEnds::default();
        for (topic, end) in ends {
            known.set(*topic, *end);
        }
        let mut list = TopicPartitionList::new();
        let mut element = list.add_partition(&self.settings.topic(Topic::Events), number(partition));
        element.set_offset(Offset::Offset(position.next)).map_err(failed(operation.clone()))?;
        element.set_metadata(Committed { position, ends: known, partitions: self.partitions, holder: None }.to_string());
        client.commit(&list, CommitMode::Sync).map_err(failed(operation))
    }
}

/// Deletes the group with its positions, if there is one; false if it has members. Not for threads of an async runtime.
///
/// # Errors
/// If the cluster can't be reached, or refuses.
pub fn remove_group(settings: &KafkaSettings) -> Result<bool, LogError> {
    let admin = Admin::new(settings)?;
    let operation = format!("deleting the group {}", settings.group);
    let options = AdminOptions::new().request_timeout(Some(REQUEST));
    for answer in answered(admin.client().delete_groups(&[&settings.group], &options))?.map_err(failed(operation.clone()))? {
        match answer {
            Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound)) => {}
            Err((_, RDKafkaErrorCode::NonEmptyGroup)) => return Ok(false),
            Err((_, code)) => return Err(LogError::Kafka { operation, why: code.to_string() }),
        }
    }
    Ok(true)
}
