//! Notifications as RingCentral sends them, and what happens to them on the way: loss, duplication, reordering.

use super::time::Rfc3339;
use crate::event::Millis;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::fmt::Write;

/// A notification, not yet of any subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// When it reaches the subscriber. Milliseconds since 1970 UTC.
    pub due: Millis,
    /// When it was sent, which its envelope says.
    pub timestamp: Millis,
    /// Its envelope's id.
    pub uuid: String,
    /// The path of the resource that changed.
    pub event: String,
    /// The body, as JSON text: kept as text since most are only written.
    pub body: String,
}

impl Notification {
    /// Appends the envelope (ringcentral.md A) for a subscription, as JSON text.
    pub fn write_for(&self, subscription_id: &str, owner_id: &str, out: &mut String) {
        out.push_str("{\"uuid\":\"");
        out.push_str(&self.uuid);
        out.push_str("\",\"event\":\"");
        out.push_str(&self.event);
        // Writing into a String can't fail.
        let _ = write!(
            out,
            "\",\"timestamp\":\"{}\",\"subscriptionId\":\"{subscription_id}\",\"ownerId\":\"{owner_id}\",\"body\":",
            Rfc3339(self.timestamp)
        );
        out.push_str(&self.body);
        out.push('}');
    }

    /// The envelope for a subscription as a document.
    ///
    /// # Errors
    /// If the body is no JSON, which none that this module made is.
    pub fn document(&self, subscription_id: &str, owner_id: &str) -> serde_json::Result<serde_json::Value> {
        let mut text = String::with_capacity(self.body.len() + 256);
        self.write_for(subscription_id, owner_id, &mut text);
        serde_json::from_str(&text)
    }

    /// Is it of the kind that an event filter names? Query parameters are not looked at.
    #[must_use]
    pub fn matches(&self, filter: &str) -> bool {
        let filter = filter.split('?').next().unwrap_or(filter).trim_end_matches('/');
        let event = self.event.split('?').next().unwrap_or(&self.event);
        if event == filter {
            return true;
        }
        // The account's filter delivers the parties of its extensions under their own paths (ringcentral.md B1).
        match (filter.strip_suffix("/telephony/sessions"), event.strip_suffix("/telephony/sessions")) {
            (Some(filter), Some(event)) => {
                !filter.contains("/extension/") && event.strip_prefix(filter).is_some_and(|rest| rest.starts_with("/extension/"))
            }
            _ => false,
        }
    }
}

/// What goes wrong on the way. Rates are from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Share of notifications that never arrive.
    pub loss: f64,
    /// Share of the arriving ones that arrive twice.
    pub duplication: f64,
    /// Share of deliveries that are held up, and so overtaken by later ones.
    pub reorder: f64,
    /// How long a delivery is held up at most, in milliseconds.
    pub max_delay_ms: u32,
}

impl Faults {
    /// Everything arrives, once and in order.
    pub const NONE: Self = Self { loss: 0.0, duplication: 0.0, reorder: 0.0, max_delay_ms: 0 };

    /// Says which rate is none.
    ///
    /// # Errors
    /// If a rate is not from 0 to 1.
    pub fn validate(&self) -> Result<(), String> {
        for (name, rate) in [("loss", self.loss), ("duplication", self.duplication), ("reorder", self.reorder)] {
            if !(0.0..=1.0).contains(&rate) {
                return Err(format!("{name} is a rate from 0 to 1, not {rate}"));
            }
        }
        Ok(())
    }
}

/// Loses, doubles and holds up notifications; the result is in order of arrival. The same generator state gives the same.
/// Rates beyond 0 to 1 count as the nearer end.
#[must_use]
pub fn disturb(notifications: Vec<Notification>, faults: &Faults, rng: &mut ChaCha8Rng) -> Vec<Notification> {
    if *faults == Faults::NONE {
        return notifications;
    }
    let hit = |rate: f64, rng: &mut ChaCha8Rng| rng.random_bool(if rate.is_nan() { 0.0 } else { rate.clamp(0.0, 1.0) });
    let mut arriving = Vec::with_capacity(notifications.len());
    for notification in notifications {
        if hit(faults.loss, rng) {
            continue;
        }
        let copies = 1 + usize::from(hit(faults.duplication, rng));
        for _ in 0..copies {
            let mut copy = notification.clone();
            if faults.max_delay_ms > 0 && hit(faults.reorder, rng) {
                copy.due += i64::from(rng.random_range(1..=faults.max_delay_ms));
            }
            arriving.push(copy);
        }
    }
    arriving.sort_by_key(|n| n.due);
    arriving
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::HashMap;

    fn stream(n: i64) -> Vec<Notification> {
        (0..n).map(|i| Notification { due: i * 10, timestamp: i * 10, uuid: i.to_string(), event: "/e".into(), body: "{}".into() }).collect()
    }

    #[test]
    fn faults_happen_as_often_as_asked_and_no_oftener() {
        let faults = Faults { loss: 0.1, duplication: 0.2, reorder: 0.3, max_delay_ms: 500 };
        let arrived = disturb(stream(20_000), &faults, &mut ChaCha8Rng::seed_from_u64(1));
        let mut copies: HashMap<&str, u32> = HashMap::new();
        for n in &arrived {
            *copies.entry(&n.uuid).or_default() += 1;
        }
        let share = |n: usize, of: usize| n as f64 / of as f64;
        assert!((share(20_000 - copies.len(), 20_000) - 0.1).abs() < 0.01);
        assert!((share(copies.values().filter(|c| **c == 2).count(), copies.len()) - 0.2).abs() < 0.01);
        assert!((share(arrived.iter().filter(|n| n.due != n.timestamp).count(), arrived.len()) - 0.3).abs() < 0.01);
        assert!(arrived.iter().all(|n| n.due - n.timestamp <= 500));
        assert!(arrived.windows(2).all(|pair| pair[0].due <= pair[1].due));
        assert!(arrived.windows(2).any(|pair| pair[0].timestamp > pair[1].timestamp));
    }

    #[test]
    fn without_faults_nothing_changes() {
        assert_eq!(disturb(stream(50), &Faults::NONE, &mut ChaCha8Rng::seed_from_u64(1)), stream(50));
    }

    #[test]
    fn a_rate_is_from_0_to_1() {
        assert!(Faults::NONE.validate().is_ok());
        assert!(Faults { loss: 1.1, ..Faults::NONE }.validate().is_err());
        assert!(Faults { reorder: f64::NAN, ..Faults::NONE }.validate().is_err());
    }

    #[test]
    fn which_filter_delivers_which_event() {
        let n = |event: &str| Notification { due: 0, timestamp: 0, uuid: String::new(), event: event.into(), body: "{}".into() };
        let of_account = "/restapi/v1.0/account/1/telephony/sessions";
        let of_extension = "/restapi/v1.0/account/1/extension/2/telephony/sessions";
        assert!(n(of_account).matches(of_account));
        assert!(n(of_extension).matches(of_account));
        assert!(n(of_extension).matches(&format!("{of_extension}?statusCode=Setup")));
        assert!(!n(of_account).matches(of_extension));
        assert!(!n(of_extension).matches("/restapi/v1.0/account/1/extension/3/telephony/sessions"));
        assert!(!n("/restapi/v1.0/account/1/directory/entries").matches(of_account));
    }
}
