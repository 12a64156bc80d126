//! Delivery of notifications to the subscribed addresses: each once, in the order in which they fall due, without a second
//! try; an address that fails for ten minutes is blacklisted (ringcentral.md A).

use super::rest::{Shared, lock};
use super::{HOUR_MS, Notification, disturb};
use crate::event::Millis;
use futures_util::future::join_all;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use reqwest::StatusCode;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What became of notifications.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Deliveries that were answered 200.
    pub accepted: u64,
    /// Deliveries that were not.
    pub failed: u64,
}

/// How long an address may fail until it is blacklisted.
const PATIENCE_MS: Millis = 600_000;

struct Pending {
    next_hour: i64,
    notifications: VecDeque<Notification>,
    faults: ChaCha8Rng,
}

/// What is still to be delivered.
pub(super) struct Deliveries {
    // Held during deliveries, so that two of them never overtake each other; hence of the kind that waits asynchronously.
    pending: tokio::sync::Mutex<Pending>,
    accepted: AtomicU64,
    failed: AtomicU64,
}

impl Deliveries {
    pub fn new(shared: &Shared) -> Self {
        let pending = Pending {
            // Calls of the hour before may go on.
            next_hour: shared.origin.div_euclid(HOUR_MS) - 1,
            notifications: VecDeque::new(),
            faults: ChaCha8Rng::seed_from_u64(shared.company.seed ^ 0xFA_017),
        };
        Self { pending: tokio::sync::Mutex::new(pending), accepted: AtomicU64::new(0), failed: AtomicU64::new(0) }
    }

    pub fn total(&self) -> Delivered {
        Delivered { accepted: self.accepted.load(Ordering::Relaxed), failed: self.failed.load(Ordering::Relaxed) }
    }

    /// Delivers what is due at the company's time.
    pub async fn deliver_due(&self, shared: &Shared) -> Delivered {
        let mut delivered = Delivered::default();
        let mut pending = self.pending.lock().await;
        loop {
            let now = shared.now();
            pending.make_until(shared, now);
            if pending.notifications.front().is_none_or(|n| n.due > now) {
                return delivered;
            }
            if let Some(notification) = pending.notifications.pop_front() {
                let some = self.deliver(shared, &notification).await;
                delivered.accepted += some.accepted;
                delivered.failed += some.failed;
            }
        }
    }

    async fn next_due(&self) -> Option<Millis> {
        self.pending.lock().await.notifications.front().map(|n| n.due)
    }

    async fn deliver(&self, shared: &Shared, notification: &Notification) -> Delivered {
        let now = shared.wall();
        let wanted: Vec<(String, String, Option<String>)> = lock(&shared.subscriptions)
            .values()
            .filter(|s| s.is_active(now) && s.filters.iter().any(|filter| notification.matches(filter)))
            .map(|s| (s.id.clone(), s.address.clone(), s.verification_token.clone()))
            .collect();
        let owner = &shared.company.extensions[0].id_text;
        let sending = wanted.into_iter().map(|(id, address, token)| async move {
            let mut body = String::with_capacity(notification.body.len() + 256);
            notification.write_for(&id, owner, &mut body);
            let mut request = shared.http.post(&address).header("content-type", "application/json; charset=UTF-8").timeout(Duration::from_secs(3));
            if let Some(token) = token {
                request = request.header("verification-token", token);
            }
            let failure = match request.body(body).send().await {
                Ok(answer) if answer.status() == StatusCode::OK => None,
                Ok(answer) => Some(format!(
                    "Webhook responses with code: [{}], reason: [{}]",
                    answer.status().as_u16(),
                    answer.status().canonical_reason().unwrap_or_default()
                )),
                Err(error) => Some(format!("I/O operation is failed. Details: [{error}]")),
            };
            (id, failure)
        });
        let mut delivered = Delivered::default();
        for (id, failure) in join_all(sending).await {
            if failure.is_none() {
                delivered.accepted += 1;
            } else {
                delivered.failed += 1;
            }
            note(shared, &id, failure);
        }
        self.accepted.fetch_add(delivered.accepted, Ordering::Relaxed);
        self.failed.fetch_add(delivered.failed, Ordering::Relaxed);
        delivered
    }
}

/// Remembers how an address did, and gives up on one that fails for too long.
fn note(shared: &Shared, id: &str, failure: Option<String>) {
    let now = shared.wall();
    let mut all = lock(&shared.subscriptions);
    let Some(subscription) = all.get_mut(id) else { return };
    match failure {
        None => subscription.failing_since = None,
        Some(reason) => {
            let since = *subscription.failing_since.get_or_insert(now);
            if now - since >= PATIENCE_MS {
                tracing::warn!(address = subscription.address, reason, "webhook blacklisted");
                subscription.blacklisted = Some((now, reason));
            }
        }
    }
}

impl Pending {
    /// Makes the notifications of each hour that has begun, as soon as those of the hours before are delivered up to its beginning:
    /// a clock that jumps by days needs no more memory than one that runs.
    fn make_until(&mut self, shared: &Shared, now: Millis) {
        while self.next_hour * HOUR_MS <= now && self.notifications.front().is_none_or(|n| n.due >= self.next_hour * HOUR_MS) {
            let begins = self.next_hour * HOUR_MS;
            let calls = shared.calls_of_hour(self.next_hour);
            let mut made: Vec<Notification> = calls.into_iter().flat_map(|call| call.notifications).collect();
            made.extend(shared.company.directory_notifications(begins, begins + HOUR_MS));
            // What was sent before the server started reached nobody.
            made.retain(|n| n.due >= shared.origin);
            made.sort_by_key(|n| n.due);
            self.notifications.extend(disturb(made, &shared.config.faults, &mut self.faults));
            self.notifications.make_contiguous().sort_by_key(|n| n.due);
            self.next_hour += 1;
        }
    }
}

/// Delivers as time runs, until told to stop.
pub(super) async fn run(shared: Arc<Shared>, deliveries: Arc<Deliveries>, mut stopped: tokio::sync::watch::Receiver<bool>) {
    let super::Clock::Running { speed, .. } = shared.config.clock else { return };
    loop {
        // A delivery that hangs must not hold up the end.
        let stop = tokio::select! {
            _ = deliveries.deliver_due(&shared) => false,
            _ = stopped.wait_for(|stop| *stop) => true,
        };
        if stop {
            return;
        }
        let until_next = deliveries.next_due().await.map_or(1_000.0, |due| (due - shared.now()) as f64 / speed);
        // At least a millisecond, so that a tiny rest is no busy loop; at most half a second, to see the next hour begin.
        let pause = Duration::from_millis(until_next.clamp(1.0, 500.0) as u64);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = stopped.wait_for(|stop| *stop) => return,
        }
    }
}
