//! Token buckets: how many requests each account may make.

use crate::event::AccountId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Buckets that are kept. A full one need not be kept, since a new one is full.
const MOST_BUCKETS: usize = 10_000;

/// A bucket per account.
pub(super) struct Rates {
    per_second: f64,
    burst: f64,
    buckets: Mutex<HashMap<AccountId, Bucket>>,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Rates {
    /// `per_second` in the long run; twice as many at once.
    pub fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second.max(1));
        Self { per_second, burst: per_second * 2.0, buckets: Mutex::new(HashMap::new()) }
    }

    /// Takes a token, or says how long until there is one.
    ///
    /// # Errors
    /// If there is none; with that time.
    pub fn take(&self, account: &AccountId, now: Instant) -> Result<(), Duration> {
        // Each change below is complete in itself, so a panic elsewhere leaves the buckets usable.
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(account) {
            bucket.tokens = self.filled(bucket, now);
            bucket.at = now;
            if bucket.tokens < 1.0 {
                return Err(Duration::from_secs_f64((1.0 - bucket.tokens) / self.per_second));
            }
            bucket.tokens -= 1.0;
            return Ok(());
        }
        if buckets.len() >= MOST_BUCKETS {
            buckets.retain(|_, bucket| self.filled(bucket, now) < self.burst);
        }
        if buckets.len() >= MOST_BUCKETS {
            // So many accounts at once share what is left to nobody else.
            return Err(Duration::from_secs(1));
        }
        buckets.insert(account.clone(), Bucket { tokens: self.burst - 1.0, at: now });
        Ok(())
    }

    fn filled(&self, bucket: &Bucket, now: Instant) -> f64 {
        (bucket.tokens + now.saturating_duration_since(bucket.at).as_secs_f64() * self.per_second).min(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_taken_and_then_the_rate_holds() {
        let (rates, start) = (Rates::new(10), Instant::now());
        let (one, two) = (AccountId::parse("1").unwrap(), AccountId::parse("2").unwrap());
        for _ in 0..20 {
            assert!(rates.take(&one, start).is_ok());
        }
        let wait = rates.take(&one, start).unwrap_err();
        assert!(wait > Duration::from_millis(90) && wait <= Duration::from_millis(100), "{wait:?}");
        assert!(rates.take(&two, start).is_ok(), "accounts have nothing in common");
        assert!(rates.take(&one, start + Duration::from_millis(101)).is_ok());
        assert!(rates.take(&one, start + Duration::from_millis(101)).is_err());
        let later = start + Duration::from_secs(3_600);
        for _ in 0..20 {
            assert!(rates.take(&one, later).is_ok());
        }
        assert!(rates.take(&one, later).is_err(), "no more than a burst is saved up");
    }

    #[test]
    fn buckets_that_are_full_again_make_room() {
        let (rates, start) = (Rates::new(10), Instant::now());
        let account = |n: usize| AccountId::parse(&n.to_string()).unwrap();
        for n in 0..MOST_BUCKETS {
            assert!(rates.take(&account(n), start).is_ok());
        }
        assert!(rates.take(&account(MOST_BUCKETS), start).is_err());
        assert!(rates.take(&account(MOST_BUCKETS), start + Duration::from_secs(1)).is_ok());
    }
}
