//! Replays: the past of the log judged anew, beside the live processor, by the present rules, settings and numbers (design §4).
//!
//! A replay is a group of its own that steps the live log's input into topics of its own; everything that makes the live processor exactly once and
//! restartable is the same. What is its own: how it is begun (`seed.rs`), how it sees the log (`past.rs`), and what is made of its verdicts
//! (`compare.rs`, `promote.rs`). It writes nothing to the live topics but `Tick`s, and `Rejudge`s once it is promoted.

mod compare;
mod past;
mod promote;
mod run;
mod seed;

pub use compare::{Changed, Counts, Difference, Kind};
pub use promote::Promoted;
pub(super) use run::until_interrupted;
pub use run::{Ended, StartArgs};

use crate::event::{Decoded, Millis, decode};
use crate::log::kafka::{self, Kafka, KafkaReader, KafkaSettings};
use crate::log::{LogError, Position, Reader, Topic, each_record};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the names of its topics have after the deployment's prefix.
const PREFIX: &str = "replay-";
/// Keys of its topic `events`, which tells of the replay itself.
const BEGUN: &[u8] = b"begun";
const DONE: &str = "done-";
/// Records that are written at once.
const CHUNK: usize = 10_000;
/// After so long the brokers have missed a member that ended (their `group.consumer.session.timeout.ms` is 45 s by default).
const MISSED: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A replay by its name, and the log that it judges anew.
#[derive(Debug, Clone)]
pub struct Replay {
    name: String,
    live: KafkaSettings,
}

/// How a replay was begun; fixed from then on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Its id, which no other replay has, also of the same name.
    pub id: String,
    /// The rules that it judges by.
    pub rules: String,
    /// When, by our clock.
    pub started_at: Millis,
    /// What of the log it judges anew, by partition.
    pub parts: Vec<Part>,
    /// The live processor's group, after which its own is named. `None`: the version that began it didn't say.
    #[serde(default)]
    pub group: Option<String>,
}

/// The part of a partition's log that is judged anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The first offset that was kept when the replay was begun.
    pub start: i64,
    /// The offset that the live processor was about to step then.
    pub end: i64,
    /// The partition's time there.
    pub time: Millis,
}

/// How far a replay is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// How it was begun.
    pub begun: Begun,
    /// How far each partition is; `None`: it is still to be seeded.
    pub positions: Vec<Option<Position>>,
    /// Partitions of which everything is judged.
    pub done: BTreeSet<u32>,
}

impl Progress {
    /// Everything is judged.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.done.len() == self.begun.parts.len()
    }

    /// Records of a partition that are judged anew, and those that there are.
    #[must_use]
    pub fn of(&self, partition: usize) -> (u64, u64) {
        let Some(part) = self.begun.parts.get(partition) else { return (0, 0) };
        let next = self.positions.get(partition).copied().flatten().map_or(part.start, |position| position.next);
        let records = |until: i64| u64::try_from(until - part.start).unwrap_or(0);
        (records(next.clamp(part.start, part.end.max(part.start))), records(part.end))
    }

    /// The same over all partitions.
    #[must_use]
    pub fn total(&self) -> (u64, u64) {
        (0..self.begun.parts.len()).map(|n| self.of(n)).fold((0, 0), |(done, total), (d, t)| (done + d, total + t))
    }
}

impl Replay {
    /// The replay of this name on the log that `live` reaches, whether it exists or not.
    ///
    /// # Errors
    /// For a name that topics can't have.
    pub fn named(name: &str, live: KafkaSettings) -> anyhow::Result<Self> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 60 || !name.chars().all(fits) {
            bail!("{name:?} can't name a replay: at most 60 of a to z, 0 to 9 and -");
        }
        Ok(Self { name: name.to_owned(), live })
    }

    /// The names of all replays on that log. Waits for the network, as all of this does.
    ///
    /// # Errors
    /// If the cluster can't be reached.
    pub fn all(live: &KafkaSettings) -> anyhow::Result<Vec<Self>> {
        let prefix = format!("{}{PREFIX}", live.topic_prefix);
        let names = kafka::names(live, &prefix)?;
        let of = |name: &str| {
            let (name, topic) = name.strip_prefix(&prefix)?.split_once('.')?;
            Topic::ALL.iter().any(|known| known.name() == topic).then(|| name.to_owned())
        };
        let named: BTreeSet<String> = names.iter().filter_map(|name| of(name)).collect();
        Ok(named.iter().filter_map(|name| Self::named(name, live.clone()).ok()).collect())
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its topics' names begin with.
    fn prefix(&self) -> String {
        format!("{}{PREFIX}{}.", self.live.topic_prefix, self.name)
    }

    fn group(&self) -> String {
        format!("{}-{PREFIX}{}", self.live.group, self.name)
    }

    /// Its six topics alone. The one named `events` isn't stepped: it tells of the replay itself.
    fn own(&self) -> KafkaSettings {
        KafkaSettings { topic_prefix: self.prefix(), group: self.group(), framing: self.live.framing.for_reading(), ..self.live.clone() }
    }

    /// The live log's input, and its own topics for what comes of it.
    fn working(&self) -> KafkaSettings {
        KafkaSettings { output_prefix: Some(self.prefix()), group: self.group(), framing: self.live.framing.for_reading(), ..self.live.clone() }
    }

    /// Where its state is, below the data directory.
    fn state_dir(&self, data_dir: &Path) -> PathBuf {
        data_dir.join("replay").join(&self.name)
    }

    /// How many of its topics there are.
    fn topics(&self) -> anyhow::Result<usize> {
        let own = self.own();
        let there = kafka::names(&self.live, &own.topic_prefix)?;
        Ok(Topic::ALL.iter().filter(|topic| there.contains(&own.topic(**topic))).count())
    }

    /// Whether there is something of it, if only some of its topics.
    ///
    /// # Errors
    /// If the cluster can't be reached.
    pub fn is_there(&self) -> anyhow::Result<bool> {
        Ok(self.topics()? > 0)
    }

    /// How far it is; `None` if it isn't begun.
    ///
    /// # Errors
    /// If it was begun for another group, the cluster can't be reached, or what stands there can't be read.
    pub fn progress(&self) -> anyhow::Result<Option<Progress>> {
        let Some((_, begun, done)) = self.opened()? else { return Ok(None) };
        let positions = Kafka::connect(self.working())?.positions()?;
        Ok(Some(Progress { begun, positions, done }))
    }

    /// Its topics, how it was begun, and which partitions are done; `None` if it isn't begun, also where that was cut off. Another live group's is
    /// refused.
    fn opened(&self) -> anyhow::Result<Option<(Kafka, Begun, BTreeSet<u32>)>> {
        let found = self.found()?;
        if let Some((_, begun, _)) = &found {
            self.check_group(begun)?;
        }
        Ok(found)
    }

    fn check_group(&self, begun: &Begun) -> anyhow::Result<()> {
        match &begun.group {
            Some(group) if *group != self.live.group => {
                bail!("the replay {} was begun beside the group {group}, not {}: name that one by --group", self.name, self.live.group)
            }
            _ => Ok(()),
        }
    }

    /// As [`Replay::opened`], of whichever group.
    fn found(&self) -> anyhow::Result<Option<(Kafka, Begun, BTreeSet<u32>)>> {
        if self.topics()? < Topic::ALL.len() {
            return Ok(None);
        }
        let own = Kafka::connect(self.own())?;
        Ok(told(&own.reader())?.map(|(begun, done)| (own, begun, done)))
    }

    /// The same of one that has finished: nothing can be said of half a replay.
    fn finished(&self) -> anyhow::Result<(Kafka, Begun)> {
        let name = &self.name;
        match self.opened()? {
            None => bail!("there is no replay {name}; `callsieve replay start {name}` begins one"),
            Some((_, begun, done)) if done.len() < begun.parts.len() => {
                bail!("the replay {name} has not finished; `callsieve replay start {name}` goes on with it")
            }
            Some((own, begun, _)) => Ok((own, begun)),
        }
    }

    /// Deletes its topics, its group and its state.
    ///
    /// # Errors
    /// If it is running, if it was begun for another group, or the cluster can't be reached.
    pub fn drop_all(&self, data_dir: &Path) -> anyhow::Result<()> {
        // Who runs it is refused here, before anything is gone. One that has finished isn't run, but the brokers keep the place of a member with a
        // name for a while. (One that can't be read can be dropped all the same.)
        let found = self.found().unwrap_or_default();
        if let Some((_, begun, _)) = &found {
            self.check_group(begun)?;
        }
        let is_finished = found.is_some_and(|(_, begun, done)| done.len() >= begun.parts.len());
        let until = Instant::now() + if is_finished { MISSED } else { Duration::ZERO };
        while !kafka::remove_group(&self.own())? {
            if Instant::now() >= until {
                bail!(
                    "the replay {} is run: its group has a member. Stop it first; one that was killed is missed by the brokers after a minute or so",
                    self.name
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
        kafka::remove(&self.own())?;
        let dir = self.state_dir(data_dir);
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(|| format!("deleting {}", dir.display())),
            _ => Ok(()),
        }
    }
}

/// What a replay's own topic says of it: how it was begun, and which partitions are done. `None` before it was begun.
fn told(own: &KafkaReader) -> anyhow::Result<Option<(Begun, BTreeSet<u32>)>> {
    let told = newest(own, Topic::Events, 0)?;
    let Some(begun) = told.get(BEGUN) else { return Ok(None) };
    let begun = serde_json::from_slice(begun).context("reading how the replay was begun")?;
    let done = told.keys().filter_map(|key| std::str::from_utf8(key).ok()?.strip_prefix(DONE)?.parse().ok()).collect();
    Ok(Some((begun, done)))
}

/// A row of a compacted topic.
fn read<T: Decoded>(topic: Topic, key: &[u8], value: &[u8]) -> anyhow::Result<T> {
    decode(value).with_context(|| format!("reading {} on {topic}", String::from_utf8_lossy(key)))
}

/// The newest value of each key, as it stands; keys that are gone are left out. Holds them in memory: of verdicts about a kilobyte each.
fn newest(reader: &dyn Reader, topic: Topic, partition: u32) -> anyhow::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut newest = BTreeMap::new();
    each_record(reader, topic, partition, |record| {
        match record.value {
            // Copied, or those that are replaced would stay as well.
            Some(value) => newest.insert(record.key.to_vec(), value.to_vec()),
            None => newest.remove(&*record.key),
        };
        Ok::<_, LogError>(())
    })?;
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_part_of_a_topics_name() {
        let live = KafkaSettings::default();
        let replay = Replay::named("new-rules-2", live.clone()).unwrap();
        assert_eq!(replay.working().topic(Topic::Events), "callsieve.events");
        assert_eq!(replay.working().topic(Topic::CallVerdicts), "callsieve.replay-new-rules-2.call-verdicts");
        assert_eq!(replay.own().topic(Topic::Events), "callsieve.replay-new-rules-2.events");
        assert_eq!(replay.own().group, "callsieve-replay-new-rules-2");
        for bad in ["", "a.b", "A", "a/b", "..", &"a".repeat(61)] {
            assert!(Replay::named(bad, live.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn progress_counts_what_is_judged_anew_and_nothing_beyond() {
        let part = |start, end| Part { start, end, time: 0 };
        let at = |next| Some(Position { next, partition_time: 0, low_water: 0, low_water_time: 0 });
        let parts = vec![part(10, 30), part(5, 5), part(0, 7), part(0, 9)];
        let begun = Begun { id: "r-1".into(), rules: "1".into(), started_at: 1, parts, group: Some("live".into()) };
        let positions = vec![at(15), at(5), at(12), None];
        let mut progress = Progress { begun, positions, done: [1, 2].into() };
        assert_eq!((0..4).map(|n| progress.of(n)).collect::<Vec<_>>(), [(5, 20), (0, 0), (7, 7), (0, 9)]);
        assert_eq!((progress.total(), progress.is_finished()), ((12, 36), false));
        progress.done.extend([0, 3]);
        assert!(progress.is_finished());
    }

    #[test]
    fn a_replay_that_an_earlier_version_began_has_no_group() {
        let text = r#"{"id":"r-1","rules":"1","started_at":1,"parts":[{"start":0,"end":7,"time":3}]}"#;
        let begun: Begun = serde_json::from_str(text).unwrap();
        assert_eq!(begun, Begun { id: "r-1".into(), rules: "1".into(), started_at: 1, parts: vec![Part { start: 0, end: 7, time: 3 }], group: None });
    }
}
