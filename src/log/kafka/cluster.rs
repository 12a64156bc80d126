//! Whether a cluster is there, lets us in, and is new enough.

use super::client::{AT_ONCE, Admin, REQUEST, failed};
use super::settings::KafkaSettings;
use crate::log::{LogError, Topic};
use rdkafka::admin::{AdminOptions, ResourceSpecifier};
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long a cluster has to answer before it counts as away.
const ANSWER: Duration = Duration::from_secs(5);
/// Settings that Kafka 4.0 removed. A broker that has one of them is older.
const REMOVED_IN_4: [&str; 2] = ["inter.broker.protocol.version", "zookeeper.connect"];

/// A broker of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its id.
    id: i32,
    /// Where it serves clients: `host:port`.
    address: String,
}

/// Keeps what the client says about its connections: requests that fail say only that they did.
#[derive(Default)]
struct Listening {
    refused: Mutex<Option<String>>,
    failed: Mutex<Option<String>>,
}

impl ClientContext for Listening {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters of it is told once for all attempts.
        tracing::debug!(?level, facility, "kafka: {message}");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let kept = if is_refusal(error.rdkafka_error_code(), reason) { &self.refused } else { &self.failed };
        // That all brokers are down says less than what was said of one.
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Listening {}

impl Listening {
    fn take(kept: &Mutex<Option<String>>) -> Option<String> {
        kept.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Whether a connection failed for a reason that stays until somebody changes something.
fn is_refusal(code: Option<RDKafkaErrorCode>, reason: &str) -> bool {
    code == Some(RDKafkaErrorCode::Authentication) || code == Some(RDKafkaErrorCode::SSL) && reason.contains("certificate verify failed")
}

/// The brokers of the cluster. Waits for the network, for some seconds at most.
///
/// # Errors
/// [`LogError::Refused`] for settings that the client refuses, and for a cluster that lets us not in. Any other error: it is away.
pub fn reach(settings: &KafkaSettings) -> Result<Vec<Broker>, LogError> {
    settings.check()?;
    let operation = format!("reaching Kafka at {}", settings.brokers);
    let client: BaseConsumer<Listening> = settings.asking().create_with_context(Listening::default()).map_err(failed(operation.clone()))?;
    match client.fetch_metadata(Some(&settings.topic(Topic::Events)), ANSWER) {
        Ok(metadata) => {
            let broker = |of: &rdkafka::metadata::MetadataBroker| Broker { id: of.id(), address: format!("{}:{}", of.host(), of.port()) };
            Ok(metadata.brokers().iter().map(broker).collect())
        }
        Err(error) => {
            // What was said meanwhile is waiting to be heard.
            for _ in 0..100 {
                drop(client.poll(Duration::ZERO));
            }
            let said = client.context();
            if let Some(why) = Listening::take(&said.refused) {
                return Err(LogError::Refused { operation, why });
            }
            match Listening::take(&said.failed) {
                Some(why) => Err(LogError::Kafka { operation, why }),
                None => Err(failed(operation)(error)),
            }
        }
    }
}

/// What a broker lets us know of its age.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Age {
    /// Older than Kafka 4.0: it has this setting.
    Before4 {
        /// The setting's name.
        has: String,
    },
    /// Kafka 4.0 or newer.
    Since4,
    /// It doesn't say.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// Goes to a cluster to write in transactions: brokers older than Kafka 4.0 are refused, unless that is allowed; then `settings` go over to the group
/// protocol that those have. Waits for the network.
///
/// # Errors
/// As [`reach`], [`LogError::Refused`] for a broker that is too old, and where the brokers can't be asked how old they are.
pub fn enter(settings: &mut KafkaSettings, allow_old: bool) -> Result<Admin, LogError> {
    let brokers = reach(settings)?;
    let admin = Admin::new(settings)?;
    let ages = ages_of(&admin, &brokers)?;
    // The client would ask old ones for KIP-848's protocol for ever.
    if !are_new(&brokers, ages, allow_old)? && settings.fall_back_to_classic() {
        tracing::info!("joining the group by the classic protocol, which old brokers have");
    }
    Ok(admin)
}

/// Whether none of the brokers is older than Kafka 4.0. One that is is refused, unless that is allowed.
fn are_new(brokers: &[Broker], ages: Vec<Age>, allow_old: bool) -> Result<bool, LogError> {
    let mut are_new = true;
    for (Broker { id, address }, age) in brokers.iter().zip(ages) {
        match age {
            Age::Since4 => {}
            Age::Before4 { has } if allow_old => {
                are_new = false;
                tracing::warn!("broker {id} at {address} is older than Kafka 4.0 (it has the setting {has}), which --allow-old-brokers allows");
            }
            Age::Before4 { has } => {
                let why = format!(
                    "it is older than Kafka 4.0 (it has the setting {has}): before 4.0 a fault may tear a transaction or leave one open for ever (KIP-890), \
                     and verdicts be lost or doubled. Upgrade the brokers, or take that risk with --allow-old-brokers"
                );
                return Err(LogError::Refused { operation: format!("looking at broker {id} at {address}"), why });
            }
            Age::Unknown { why } => tracing::warn!(
                "broker {id} at {address} doesn't say how old it is ({why}): see to it that it is Kafka 4.0 or newer. (With the right to describe the \
                 cluster's configs this is looked at.) One that is older needs --kafka group.protocol=classic"
            ),
        }
    }
    Ok(are_new)
}

/// How old brokers are, each by the settings that it has: the client doesn't tell which versions of requests they speak. Waits for the network.
fn ages_of(admin: &Admin, brokers: &[Broker]) -> Result<Vec<Age>, LogError> {
    // One that has just died is still among them, and isn't waited for; but some have to answer.
    let ages = ages_within(admin, brokers, AT_ONCE)?;
    let is_silent = ages.iter().all(|age| matches!(age, Age::Unknown { .. }));
    if is_silent { ages_within(admin, brokers, REQUEST) } else { Ok(ages) }
}

fn ages_within(admin: &Admin, brokers: &[Broker], wait: Duration) -> Result<Vec<Age>, LogError> {
    let options = AdminOptions::new().request_timeout(Some(wait));
    // One after another: each is asked itself.
    let age = |broker: &Broker| {
        let asked = super::topics::answered(admin.client().describe_configs([&ResourceSpecifier::Broker(broker.id)], &options))?;
        let answer = asked.map_err(|error| super::client::words(&error)).and_then(|answers| match answers.into_iter().next() {
            Some(Ok(resource)) => Ok(resource),
            Some(Err(code)) => Err(code.to_string()),
            None => Err("no answer".to_owned()),
        });
        Ok(match answer {
            Ok(resource) => age_by(resource.entries.iter().map(|entry| entry.name.as_str())),
            Err(why) => Age::Unknown { why },
        })
    };
    brokers.iter().map(age).collect()
}

fn age_by<'a>(settings: impl IntoIterator<Item = &'a str>) -> Age {
    let mut any = false;
    for name in settings {
        if REMOVED_IN_4.contains(&name) {
            return Age::Before4 { has: name.to_owned() };
        }
        any = true;
    }
    if any { Age::Since4 } else { Age::Unknown { why: "it shows no settings".into() } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_is_as_old_as_the_settings_that_it_has() {
        for (settings, age) in [
            (&["node.id", "inter.broker.protocol.version"][..], Age::Before4 { has: "inter.broker.protocol.version".into() }),
            (&["broker.id", "zookeeper.connect"], Age::Before4 { has: "zookeeper.connect".into() }),
            (&["node.id", "group.coordinator.rebalance.protocols"], Age::Since4),
            (&[], Age::Unknown { why: "it shows no settings".into() }),
        ] {
            assert_eq!(age_by(settings.iter().copied()), age, "{settings:?}");
        }
    }

    #[test]
    fn an_old_broker_is_refused_unless_it_is_allowed() {
        let brokers: Vec<Broker> = (1..=2).map(|id| Broker { id, address: format!("kafka-{id}:9092") }).collect();
        let old = || Age::Before4 { has: "zookeeper.connect".into() };
        let unknown = || Age::Unknown { why: "no right".into() };
        for (ages, allow_old, expected) in [
            (vec![Age::Since4, Age::Since4], false, Some(true)),
            (vec![Age::Since4, unknown()], false, Some(true)),
            (vec![Age::Since4, old()], true, Some(false)),
            (vec![Age::Since4, old()], false, None),
        ] {
            match (are_new(&brokers, ages.clone(), allow_old), expected) {
                (Ok(found), Some(expected)) => assert_eq!(found, expected, "{ages:?} {allow_old}"),
                (Err(error), None) => {
                    let said = error.to_string();
                    assert!(
                        ["broker 2 at kafka-2:9092", "zookeeper.connect", "--allow-old-brokers"].iter().all(|words| said.contains(words)),
                        "{said}"
                    );
                }
                (found, _) => panic!("{ages:?} {allow_old}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_password_is_a_refusal_and_a_closed_port_is_not() {
        for (code, reason, is) in [
            (RDKafkaErrorCode::Authentication, "SASL authentication error: invalid credentials", true),
            (
                RDKafkaErrorCode::SSL,
                "SSL handshake failed: error:0A000086: certificate verify failed: broker certificate could not be verified",
                true,
            ),
            (RDKafkaErrorCode::SSL, "SSL handshake failed: Disconnected", false),
            (RDKafkaErrorCode::BrokerTransportFailure, "Connect to ipv4#127.0.0.1:1 failed: Connection refused", false),
            (RDKafkaErrorCode::Resolve, "Failed to resolve 'kafka:9092'", false),
        ] {
            assert_eq!(is_refusal(Some(code), reason), is, "{reason}");
        }
    }

    #[test]
    fn nobody_at_the_address_is_away_and_a_setting_that_is_none_is_refused() {
        let nobody = KafkaSettings { brokers: "127.0.0.1:1".into(), ..KafkaSettings::default() };
        let away = reach(&nobody).unwrap_err();
        assert!(matches!(&away, LogError::Kafka { why, .. } if why.contains("Connection refused")), "{away}");
        for name in ["no.such.setting", "acks"] {
            let wrong = KafkaSettings { passed: [(name.to_owned(), "1".to_owned())].into(), ..nobody.clone() };
            let refused = reach(&wrong).unwrap_err();
            assert!(matches!(&refused, LogError::Refused { .. }) && refused.to_string().contains(name), "{refused}");
        }
    }
}
