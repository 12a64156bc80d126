//! What this process holds: the partitions that its workers have at the moment, how far each is, and the state of those that are up to date.
//!
//! On the embedded log these are all partitions; on Kafka they come and go with the group's rebalances.

use crate::state::database::Database;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::watch;

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Its partitions are being brought up, or it has none yet.
    BringingUp {
        /// Records read.
        done: u64,
        /// Records that there are to read, as far as is known.
        total: u64,
    },
    /// It steps what comes.
    Ready,
    /// It has ended.
    Stopped,
}

/// What a worker tells of a partition.
#[derive(Debug, Clone)]
pub enum Holding {
    /// It is being brought up: records read, and records that there are to read.
    BringingUp {
        /// Records read.
        done: u64,
        /// Records that there are to read.
        total: u64,
    },
    /// It is up to date, and this is its state.
    Up(Arc<Database>),
    /// It is the worker's no more, and its database is closed as soon as nobody reads it.
    Closed,
}

/// See the module.
pub struct Held {
    told: Mutex<Told>,
    /// Since when the records are known that there are to read, of partitions that are being brought up.
    reading: Mutex<BTreeMap<(u32, usize), Instant>>,
    readiness: watch::Sender<Readiness>,
    begun: Instant,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            told: Mutex::default(),
            reading: Mutex::default(),
            readiness: watch::Sender::new(Readiness::BringingUp { done: 0, total: 0 }),
            begun: Instant::now(),
        }
    }
}

impl Held {
    /// Of a process without workers: it is ready as it is.
    #[must_use]
    pub fn nothing() -> Self {
        Self { readiness: watch::Sender::new(Readiness::Ready), ..Self::default() }
    }

    fn locked(&self) -> MutexGuard<'_, Told> {
        // The map is whole after every statement.
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what a worker tells. After the end nothing is held any more.
    pub fn tell(&self, worker: usize, partition: u32, holding: Holding) {
        let mut told = self.locked();
        if *self.readiness.borrow() == Readiness::Stopped {
            return;
        }
        let key = (partition, worker);
        self.note_reading(key, &holding);
        match holding {
            Holding::Closed => drop(told.remove(&key)),
            holding => drop(told.insert(key, holding)),
        }
        let partitions = partitions(&told);
        let readiness = readiness_of(&partitions);
        // Under the lock, so that what is told last is what is seen last; also where it is the same, since some wait for a certain partition.
        let before = self.readiness.send_replace(readiness);
        if readiness == Readiness::Ready && before != Readiness::Ready {
            tracing::info!(partitions = partitions.len(), milliseconds = self.begun.elapsed().as_millis() as u64, "ready");
        }
    }

    fn note_reading(&self, key: (u32, usize), holding: &Holding) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        match holding {
            // Without records it waits, or begins anew.
            Holding::BringingUp { total: 1.., .. } => drop(reading.entry(key).or_insert_with(Instant::now)),
            _ => drop(reading.remove(&key)),
        }
    }

    /// How many seconds bringing up will take still, at the speed that it has had so far; `None` as long as nothing was read. Partitions that wait
    /// for their turn are taken to be as large as those that are being read.
    #[must_use]
    pub fn seconds_left(&self) -> Option<u64> {
        let told = self.locked();
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut left, mut speed, mut totals) = (0.0, 0.0, 0.0);
        for (key, since) in &*reading {
            if let Some(Holding::BringingUp { done, total }) = told.get(key) {
                left += total.saturating_sub(*done) as f64;
                totals += *total as f64;
                speed += *done as f64 / since.elapsed().as_secs_f64().max(0.001);
            }
        }
        let waiting = told.values().filter(|holding| matches!(holding, Holding::BringingUp { total: 0, .. })).count();
        left += waiting as f64 * totals / reading.len().max(1) as f64;
        // What was read may still have to be merged.
        (speed > 0.0).then(|| ((left / speed).ceil() as u64).max(1))
    }

    /// A worker has ended, and with it the service.
    pub fn stopped(&self) {
        self.locked().clear();
        self.readiness.send_replace(Readiness::Stopped);
    }

    /// How far the process is, as it changes; it is sent again with every change of a partition.
    #[must_use]
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.subscribe()
    }

    /// How far the process is. (Nobody may keep what [`Held::readiness`] shows borrowed while he asks for something else: who tells waits for that.)
    #[must_use]
    pub fn now(&self) -> Readiness {
        *self.readiness.borrow()
    }

    /// How far a partition is; [`Holding::Closed`] for one that isn't held. Who asks lets go of the database soon.
    #[must_use]
    pub fn partition(&self, partition: u32) -> Holding {
        partitions(&self.locked()).get(&partition).map_or(Holding::Closed, |holding| (*holding).clone())
    }

    /// How many partitions are being brought up.
    #[must_use]
    pub fn bringing_up(&self) -> usize {
        partitions(&self.locked()).values().filter(|holding| matches!(holding, Holding::BringingUp { .. })).count()
    }

    /// The partitions that are up to date, and their state.
    #[must_use]
    pub fn up(&self) -> Vec<(u32, Arc<Database>)> {
        let up = |(partition, holding): (u32, &Holding)| match holding {
            Holding::Up(database) => Some((partition, database.clone())),
            _ => None,
        };
        partitions(&self.locked()).into_iter().filter_map(up).collect()
    }
}

/// What the workers have told, by partition and worker. A worker that was away too long tells of partitions that another one of this process has by
/// now.
type Told = BTreeMap<(u32, usize), Holding>;

/// How far each partition is. One that a worker brings up isn't up, though another says so still: what that one has may be from before.
fn partitions(told: &Told) -> BTreeMap<u32, &Holding> {
    let mut partitions: BTreeMap<u32, &Holding> = BTreeMap::new();
    for ((partition, _), holding) in told {
        let known = partitions.entry(*partition).or_insert(holding);
        if matches!(known, Holding::Up(_)) {
            *known = holding;
        }
    }
    partitions
}

fn readiness_of(partitions: &BTreeMap<u32, &Holding>) -> Readiness {
    let mut under_way = partitions.values().filter_map(|holding| match holding {
        Holding::BringingUp { done, total } => Some((*done, *total)),
        _ => None,
    });
    match under_way.next() {
        None if !partitions.is_empty() => Readiness::Ready,
        first => {
            let sum = |(done, total): (u64, u64), (d, t): (u64, u64)| (done + d, total + t);
            let (done, total) = under_way.fold(first.unwrap_or_default(), sum);
            Readiness::BringingUp { done, total }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::database::{DatabaseOptions, Engine};

    #[test]
    fn a_process_is_ready_when_all_that_it_holds_is_up_to_date() {
        let dir = tempfile::tempdir().unwrap();
        let database = Arc::new(Database::open(dir.path(), &Engine::new(&DatabaseOptions::default()), &[]).unwrap());
        let held = Held::default();
        let readiness = held.readiness();
        let rows = [
            (0, Holding::BringingUp { done: 1, total: 10 }, Readiness::BringingUp { done: 1, total: 10 }),
            (3, Holding::BringingUp { done: 2, total: 20 }, Readiness::BringingUp { done: 3, total: 30 }),
            (0, Holding::Up(database.clone()), Readiness::BringingUp { done: 2, total: 20 }),
            (3, Holding::Up(database.clone()), Readiness::Ready),
            (3, Holding::Closed, Readiness::Ready),
            // Nothing can be told from a process that has nothing.
            (0, Holding::Closed, Readiness::BringingUp { done: 0, total: 0 }),
        ];
        for (partition, holding, expected) in rows {
            let told = format!("{partition}: {holding:?}");
            held.tell(0, partition, holding);
            assert_eq!(*readiness.borrow(), expected, "{told}");
        }
        assert_eq!(held.seconds_left(), None, "nothing is left");
        held.tell(0, 5, Holding::BringingUp { done: 0, total: 10 });
        assert_eq!(held.seconds_left(), None, "it isn't known how fast it is");
        held.tell(0, 5, Holding::BringingUp { done: 1, total: 1_000_000_000 });
        let of_one = held.seconds_left().unwrap();
        assert!(of_one > 0);
        held.tell(0, 6, Holding::BringingUp { done: 0, total: 0 });
        assert!(held.seconds_left().unwrap() >= of_one / 10 * 15, "those that wait for their turn count");
        held.tell(0, 6, Holding::Closed);
        held.tell(0, 5, Holding::BringingUp { done: 10, total: 10 });
        assert_eq!(held.seconds_left(), Some(1), "it isn't up yet");
        held.tell(0, 5, Holding::Closed);
        assert_eq!(Arc::strong_count(&database), 1, "what is closed is not kept open");
        // Another worker of the process has it now; what the one tells that had it before comes late.
        held.tell(1, 5, Holding::BringingUp { done: 0, total: 0 });
        held.tell(0, 5, Holding::BringingUp { done: 0, total: 0 });
        held.tell(1, 5, Holding::Closed);
        assert_eq!(*readiness.borrow(), Readiness::BringingUp { done: 0, total: 0 });
        held.tell(0, 5, Holding::Up(database.clone()));
        assert_eq!((*readiness.borrow(), held.up().len(), held.bringing_up()), (Readiness::Ready, 1, 0));
        for (late, up) in [(Holding::BringingUp { done: 0, total: 0 }, 0), (Holding::Closed, 1)] {
            held.tell(1, 5, late);
            assert_eq!((*readiness.borrow() == Readiness::Ready, held.up().len(), held.bringing_up()), (up == 1, up, 1 - up));
            assert_eq!(matches!(held.partition(5), Holding::Up(_)), up == 1);
        }
        held.tell(0, 5, Holding::Closed);
        held.stopped();
        held.tell(0, 0, Holding::Up(database));
        assert_eq!((*readiness.borrow(), held.up().len()), (Readiness::Stopped, 0));
    }
}
