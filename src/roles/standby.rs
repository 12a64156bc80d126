//! Copies of partitions that other instances hold, kept near what is committed, so that taking such a partition over is short.
//!
//! Who keeps a copy of what is agreed with nobody: every instance knows the same announced addresses, and ranks them for each partition by a hash.
//! One that holds nothing is not announced, and counts itself, so there may be a copy more than was asked for.

use super::bring_up::{Copy, Watch};
use super::held::{Held, Holding};
use super::holders::Holders;
use super::partition::PartitionError;
use crate::log::{Committed, Reader};
use crate::state::database::Database;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often it is looked for what there is to bring up.
const EVERY: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// The copies of an instance. A worker that is to open a partition's state lets go of its copy first.
#[derive(Default)]
pub(super) struct Copies {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    idle: BTreeMap<u32, Copy>,
    /// The one that is being brought up, and what cuts that off.
    busy: Option<(u32, Arc<AtomicBool>)>,
}

impl Copies {
    fn locked(&self) -> MutexGuard<'_, Inner> {
        // What is kept under the lock is whole after every statement.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the copy, at once or as soon as what it reads at the moment has come. Called when the partition is known to be the worker's.
    pub fn let_go(&self, partition: u32) {
        let mut inner = self.locked();
        let copy = inner.idle.remove(&partition);
        if let Some((_, cancelled)) = inner.busy.as_ref().filter(|(busy, _)| *busy == partition) {
            cancelled.store(true, Ordering::Release);
        }
        drop(inner);
        // Closing writes what is in memory; nobody else waits for it.
        drop(copy);
    }

    /// Takes a copy to bring it up, if the partition isn't the workers'; looked at under the lock, so that who opens it afterwards is let in.
    fn take(&self, partition: u32, held: &Held) -> Option<(Option<Copy>, Arc<AtomicBool>)> {
        let mut inner = self.locked();
        if !matches!(held.partition(partition), Holding::Closed) {
            return None;
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        inner.busy = Some((partition, cancelled.clone()));
        Some((inner.idle.remove(&partition), cancelled))
    }

    fn give_back(&self, partition: u32, copy: Option<Copy>, cancelled: &AtomicBool) {
        let mut inner = self.locked();
        inner.busy = None;
        let kept = copy.and_then(|copy| {
            if cancelled.load(Ordering::Acquire) {
                return Some(copy);
            }
            inner.idle.insert(partition, copy)
        });
        drop(inner);
        drop(kept);
    }

    fn retain(&self, is_wanted: impl Fn(u32) -> bool) {
        let gone: Vec<Copy> = {
            let mut inner = self.locked();
            let unwanted: Vec<u32> = inner.idle.keys().copied().filter(|partition| !is_wanted(*partition)).collect();
            unwanted.into_iter().filter_map(|partition| inner.idle.remove(&partition)).collect()
        };
        drop(gone);
    }
}

/// What keeps the copies up.
pub(super) struct Standby<'a> {
    pub copies: &'a Copies,
    pub reader: &'a dyn Reader,
    pub holders: &'a Holders,
    pub held: &'a Held,
    /// How many copies of each partition there are to be beside its holder's.
    pub count: usize,
    /// This instance's address.
    pub own: &'a str,
    pub database: &'a dyn Fn(u32) -> Result<Arc<Database>, PartitionError>,
    pub stop: &'a AtomicBool,
}

impl Standby<'_> {
    /// Keeps them up until it is told to stop, and closes them.
    pub fn run(&self) {
        while !self.stop.load(Ordering::Acquire) {
            match self.holders.committed() {
                Ok(committed) => self.turn(&committed),
                Err(error) => tracing::debug!("keeping copies: {error}"),
            }
            let mut left = EVERY;
            while !left.is_zero() && !self.stop.load(Ordering::Acquire) {
                std::thread::sleep(LOOK_EVERY);
                left = left.saturating_sub(LOOK_EVERY);
            }
        }
        self.copies.retain(|_| false);
    }

    fn turn(&self, committed: &[Option<Committed>]) {
        let instances: BTreeSet<&str> = committed.iter().flatten().filter_map(|committed| committed.holder.as_deref()).chain([self.own]).collect();
        let wanted: BTreeMap<u32, &Committed> = (0..)
            .zip(committed)
            .filter_map(|(partition, committed)| Some((partition, committed.as_ref()?)))
            .filter(|(partition, committed)| is_standby(*partition, self.own, committed.holder.as_deref(), &instances, self.count))
            .collect();
        self.copies.retain(|partition| wanted.contains_key(&partition));
        let mut near = 0;
        for (partition, committed) in wanted {
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let Some((copy, cancelled)) = self.copies.take(partition, self.held) else { continue };
            let (copy, is_near) = match self.bring_up(partition, copy, committed, &cancelled) {
                Ok((copy, is_near)) => (Some(copy), is_near),
                Err(error) => {
                    // It is opened anew the next time; a copy is nobody's only hope.
                    tracing::warn!(partition, %error, "a standby copy isn't brought up");
                    (None, false)
                }
            };
            near += u32::from(is_near);
            self.copies.give_back(partition, copy, &cancelled);
        }
        metrics::gauge!("callsieve_standby_copies").set(near);
    }

    fn bring_up(&self, partition: u32, copy: Option<Copy>, committed: &Committed, cancelled: &AtomicBool) -> Result<(Copy, bool), PartitionError> {
        let mut copy = match copy {
            Some(copy) => copy,
            None => Copy::open(partition, (self.database)(partition)?)?,
        };
        let is_cancelled = || cancelled.load(Ordering::Acquire) || self.stop.load(Ordering::Acquire);
        let is_near = copy.bring_up(self.reader, committed, &Watch { is_cancelled: &is_cancelled, progress: &|_, _| {}, by: "standby" })?;
        Ok((copy, is_near))
    }
}

/// Whether an instance is among the first `count` for a partition, its holder left aside: rendezvous hashing, by which few copies move when an
/// instance comes or goes.
fn is_standby(partition: u32, own: &str, holder: Option<&str>, instances: &BTreeSet<&str>, count: usize) -> bool {
    if holder == Some(own) {
        return false;
    }
    let rank = |address: &str| Sha256::digest(format!("{partition} {address}"));
    let mine = rank(own);
    let before = instances.iter().filter(|address| Some(**address) != holder && **address != own && rank(address) > mine).count();
    before < count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_its_standbys_and_few_move_with_an_instance() {
        let addresses: Vec<String> = (0..6).map(|n| format!("http://10.0.0.{n}:8080")).collect();
        let of = |partition: u32, instances: &[String], count| -> BTreeSet<String> {
            let all: BTreeSet<&str> = instances.iter().map(String::as_str).collect();
            let holder = instances[partition as usize % instances.len()].as_str();
            instances.iter().filter(|own| is_standby(partition, own, Some(holder), &all, count)).cloned().collect()
        };
        for count in 0..=3 {
            for partition in 0..100 {
                let standbys = of(partition, &addresses, count);
                assert_eq!(standbys.len(), count);
                assert!(!standbys.contains(&addresses[partition as usize % 6]), "the holder is none");
            }
        }
        let kept = |partition: u32| {
            let all: BTreeSet<&str> = addresses.iter().map(String::as_str).collect();
            let less: BTreeSet<&str> = all.iter().copied().filter(|address| *address != addresses[5]).collect();
            let first =
                |instances: &BTreeSet<&str>| instances.iter().find(|own| is_standby(partition, own, None, instances, 1)).copied().unwrap().to_owned();
            (first(&all), first(&less))
        };
        assert!((0..100).map(kept).all(|(before, after)| before == after || before == addresses[5]), "only its own copies move");
        assert!(!is_standby(0, "a", None, &["a", "b", "c"].into(), 0));
        assert!(is_standby(0, "a", Some("b"), &["a", "b"].into(), 5), "more are wanted than there are");
    }
}
