//! How the Kafka log is reached: a few settings of our own, and any of librdkafka's.

use super::framing::Framed;
use crate::log::{LogError, Topic};
use rdkafka::ClientConfig;
use std::collections::BTreeMap;

/// How Kafka is reached, and under which names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaSettings {
    /// Where to begin: `host:port`, with commas between them.
    pub brokers: String,
    /// What every topic's name begins with: `callsieve.` gives `callsieve.events`.
    pub topic_prefix: String,
    /// The same of the topics that outputs go to, where they are others than beside the input.
    pub output_prefix: Option<String>,
    /// The consumer group of the processor's workers.
    pub group: String,
    /// Any of librdkafka's settings by its own name (`security.protocol`, `sasl.username`, …). They are given to every client that has such a
    /// setting, over what is set here; what exactly-once rests on can't be changed. By one name each ([`KafkaSettings::named`]).
    pub passed: BTreeMap<String, String>,
    /// How values stand on the topics.
    pub framing: Framed,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".into(),
            topic_prefix: "callsieve.".into(),
            output_prefix: None,
            group: "callsieve".into(),
            passed: BTreeMap::new(),
            framing: Framed::default(),
        }
    }
}

/// Settings of librdkafka that are not the operator's: exactly-once, the order of records, the way of reading or the bound of memory rests on them.
pub const FIXED: [&str; 17] = [
    "bootstrap.servers",
    // librdkafka's other name for it, as of acks below.
    "metadata.broker.list",
    "group.id",
    "group.instance.id",
    "transactional.id",
    "transaction.timeout.ms",
    "enable.idempotence",
    "acks",
    "request.required.acks",
    "isolation.level",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "auto.offset.reset",
    "enable.partition.eof",
    // By its reports of delivery the producer tells where its outputs end.
    "delivery.report.only.error",
    // After a batch that fails the check the client goes on in the middle of it (librdkafka 2.12.1).
    "check.crcs",
    // Nobody would take its statistics, and they would gather.
    "statistics.interval.ms",
];

/// Settings that librdkafka has by two names, and the one that is used here: of two that are given, which counts would be chance.
const ALSO_NAMED: [(&str, &str); 7] = [
    ("compression.codec", "compression.type"),
    ("delivery.timeout.ms", "message.timeout.ms"),
    ("max.in.flight", "max.in.flight.requests.per.connection"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("message.send.max.retries", "retries"),
    ("queue.buffering.max.ms", "linger.ms"),
    ("sasl.mechanisms", "sasl.mechanism"),
];

/// The only way of sharing partitions by the classic protocol by which members keep theirs while others come and go.
const COOPERATIVE: &str = "cooperative-sticky";

/// How long a transaction may be open: what a worker's death can hold back readers for.
pub const TRANSACTION_TIMEOUT_MS: u32 = 10_000;
/// The largest message that a client sends: above what a topic takes, so that the broker is who refuses.
const CLIENT_MESSAGE_BYTES: u32 = 4 << 20;

impl KafkaSettings {
    /// A topic's full name.
    #[must_use]
    pub fn topic(&self, topic: Topic) -> String {
        let prefix = self.output_prefix.as_ref().filter(|_| topic != Topic::Events).unwrap_or(&self.topic_prefix);
        format!("{prefix}{}", topic.name())
    }

    /// The group that goes with topics of a prefix, unless another is named: the prefix without the dot at its end.
    #[must_use]
    pub fn group_of(topic_prefix: &str) -> String {
        let name = topic_prefix.strip_suffix('.').unwrap_or(topic_prefix);
        if name.is_empty() { "callsieve".into() } else { name.into() }
    }

    /// The same with another group, where one is named.
    #[must_use]
    pub fn judged_by(self, group: Option<String>) -> Self {
        Self { group: group.unwrap_or(self.group), ..self }
    }

    /// Settings to pass, `NAME=VALUE`, one a line; the name may begin with `kafka.`. Those that have two names are known by one here.
    ///
    /// # Errors
    /// Says what is wrong with one: that it is none, or that it can't be changed.
    pub fn named(text: &str) -> Result<BTreeMap<String, String>, String> {
        // Without the text, which may be a password's.
        let one = |(number, line): (usize, &str)| {
            let (name, value) = line.split_once('=').ok_or_else(|| format!("line {} isn't NAME=VALUE", number + 1))?;
            let name = name.trim();
            let name = name.strip_prefix("kafka.").unwrap_or(name);
            if FIXED.contains(&name) {
                return Err(format!("{name} is set by callsieve itself"));
            }
            let name = ALSO_NAMED.iter().find(|(other, _)| *other == name).map_or(name, |(_, name)| name);
            Ok((name.to_owned(), value.to_owned()))
        };
        text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(one).collect()
    }

    /// Refuses passed settings that can't be changed.
    ///
    /// # Errors
    /// [`LogError::Refused`] with the first of them.
    pub(super) fn check(&self) -> Result<(), LogError> {
        let refused = |name: &str, why: &str| Err(LogError::Refused { operation: format!("setting kafka.{name}"), why: why.into() });
        if let Some(name) = self.passed.keys().find(|name| FIXED.contains(&name.as_str())) {
            return refused(name, "it is set by callsieve itself");
        }
        match self.passed.get_key_value("partition.assignment.strategy") {
            Some((name, strategy)) if strategy.trim() != COOPERATIVE => {
                refused(name, "partitions are taken up one by one, which cooperative-sticky alone allows")
            }
            _ => Ok(()),
        }
    }

    /// Goes over to the classic group protocol, with cooperative rebalances; false where a protocol was passed, which is kept.
    pub fn fall_back_to_classic(&mut self) -> bool {
        if self.passed.contains_key("group.protocol") {
            return false;
        }
        self.passed.insert("group.protocol".into(), "classic".into());
        true
    }

    /// What all clients have.
    pub(super) fn client(&self) -> ClientConfig {
        self.over(ClientConfig::new())
    }

    /// What all clients have, over what some have besides. (The map of a `ClientConfig` can't be copied from: it hides passwords.)
    fn over(&self, mut config: ClientConfig) -> ClientConfig {
        config
            .set("client.id", "callsieve")
            // A broker that went away is looked for again at once, and then at most once a second. (A client's connections after its first one wait
            // for half of the first pause, and a start makes many.)
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "1000")
            .set("topic.metadata.refresh.interval.ms", "60000")
            // A producer's client, which the admin's is too, would otherwise make a topic by looking whether it is there.
            .set("allow.auto.create.topics", "false")
            // A request in two packets would wait for the first one's acknowledgement, which the other side delays by 40 ms.
            .set("socket.nagle.disable", "true");
        for (name, value) in self.passed.iter().filter(|(name, _)| !FIXED.contains(&name.as_str())) {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        config
    }

    /// A client that asks for metadata alone. Without a group it is gone at once when it is dropped; with one that takes 100 ms.
    pub(super) fn asking(&self) -> ClientConfig {
        let mut config = self.reader(false);
        config.remove("group.id");
        config
    }

    /// A client that looks up offsets, and assigns itself what it reads. `committed` says whether it sees transactions that are under way.
    pub(super) fn reader(&self, committed: bool) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("fetch.wait.max.ms", "10").set("fetch.queue.backoff.ms", "10").set("queued.max.messages.kbytes", "32768");
        let mut config = self.over(config);
        if !self.passed.contains_key("topic.metadata.refresh.interval.ms") {
            // Who asks where partitions end finds out only so that another broker leads them.
            config.set("topic.metadata.refresh.interval.ms", "5000");
        }
        // Settings of a group's member mean nothing here, and some are refused by a client that is none.
        for name in ["group.protocol", "group.remote.assignor", "partition.assignment.strategy", "max.poll.interval.ms", "session.timeout.ms"] {
            config.remove(name);
        }
        config
            .set("group.id", &self.group)
            .set("isolation.level", if committed { "read_committed" } else { "read_uncommitted" })
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            // That the end is reached, and past which markers, is said by an event of its own.
            .set("enable.partition.eof", "true");
        config
    }

    /// A worker's consumer. `member` is its static id.
    pub(super) fn member(&self, member: Option<&str>) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("group.protocol", "consumer")
            // Its default of a second is how long a full queue would stand still after it was drained.
            .set("fetch.queue.backoff.ms", "10")
            // A partition that is taken up is fetched after the fetch that is under way, which waits for so long where the others give nothing. (An
            // idle member asks each broker so often.)
            .set("fetch.wait.max.ms", "100")
            // Of each partition as much is unpacked at once: half of the default takes less memory, and more of it is still in the core's caches when
            // it is stepped.
            .set("fetch.message.max.bytes", "524288");
        let mut config = self.over(config);
        if config.get("group.protocol") != Some("consumer") && config.get("partition.assignment.strategy").is_none() {
            config.set("partition.assignment.strategy", COOPERATIVE);
        }
        config
            .set("group.id", &self.group)
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error");
        if let Some(member) = member {
            config.set("group.instance.id", member);
        }
        config
    }

    /// A worker's producer.
    pub(super) fn transactional(&self, id: &str) -> ClientConfig {
        let mut config = self.producer();
        config.set("transactional.id", id).set("transaction.timeout.ms", TRANSACTION_TIMEOUT_MS.to_string());
        // All outputs of a commit are there before the first is sent. What is asked for while the markers of the transaction before are being written
        // is asked for again: soon, then less and less often.
        for (name, value) in [("linger.ms", "0"), ("retry.backoff.ms", "2")] {
            if !self.passed.contains_key(name) {
                config.set(name, value);
            }
        }
        config
    }

    /// The ingress's producer.
    pub(super) fn producer(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("linger.ms", "1")
            // Who sends a notification doesn't wait for longer.
            .set("message.timeout.ms", "10000")
            .set("compression.type", "lz4")
            .set("queue.buffering.max.messages", "200000")
            .set("message.max.bytes", CLIENT_MESSAGE_BYTES.to_string());
        let mut config = self.over(config);
        // Settings of consumers would be warned of.
        for name in self.passed.keys().filter(|name| name.starts_with("group.")) {
            config.remove(name);
        }
        config.set("enable.idempotence", "true").set("acks", "all");
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passing(name: &str, value: &str) -> KafkaSettings {
        KafkaSettings { passed: BTreeMap::from([(name.to_owned(), value.to_owned())]), ..KafkaSettings::default() }
    }

    #[test]
    fn what_is_passed_reaches_every_client() {
        // Passwords too, which must not be copied from what is meant to be shown.
        for (name, value) in [("security.protocol", "ssl"), ("sasl.password", "secret")] {
            let settings = passing(name, value);
            for config in [settings.client(), settings.reader(true), settings.member(None), settings.producer(), settings.transactional("t")] {
                assert_eq!(config.get(name), Some(value), "{name}");
            }
        }
        assert_eq!(passing("group.protocol", "classic").producer().get("group.protocol"), None);
    }

    #[test]
    fn what_exactly_once_rests_on_is_not_passed() {
        for name in FIXED {
            let settings = passing(name, "wrong");
            assert!(matches!(settings.check(), Err(LogError::Refused { operation, .. }) if operation.ends_with(name)), "{name}");
            for config in [settings.reader(true), settings.member(Some("m")), settings.transactional("t")] {
                assert_ne!(config.get(name), Some("wrong"), "{name}");
            }
        }
        for (strategy, is_refused) in [("range", true), ("roundrobin,cooperative-sticky", true), ("cooperative-sticky", false)] {
            assert_eq!(passing("partition.assignment.strategy", strategy).check().is_err(), is_refused, "{strategy}");
        }
    }

    #[test]
    fn settings_to_pass_stand_one_a_line() {
        let named = KafkaSettings::named("security.protocol=ssl\n\nkafka.sasl.password=a=b\n").unwrap();
        assert_eq!(named.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>(), [("sasl.password", "a=b"), ("security.protocol", "ssl")]);
        assert!(KafkaSettings::named("linger.ms").is_err() && KafkaSettings::named("kafka.acks=0").is_err());
    }

    #[test]
    fn an_older_brokers_protocol_has_cooperative_rebalances() {
        assert_eq!(passing("group.protocol", "classic").member(None).get("partition.assignment.strategy"), Some("cooperative-sticky"));
        let mut settings = passing("linger.ms", "7");
        let strategy = |settings: &KafkaSettings| settings.member(None).get("partition.assignment.strategy").map(str::to_owned);
        assert_eq!(strategy(&settings), None);
        assert!(settings.fall_back_to_classic());
        assert_eq!(strategy(&settings).as_deref(), Some("cooperative-sticky"));
        assert!(!passing("group.protocol", "consumer").fall_back_to_classic(), "what was asked for is kept");
    }

    #[test]
    fn what_is_passed_by_another_name_takes_the_place_of_what_is_set_here() {
        for (other, name) in ALSO_NAMED {
            assert_eq!(KafkaSettings::named(&format!("{name}=1\nkafka.{other}=2")), Ok(BTreeMap::from([(name.to_owned(), "2".to_owned())])));
        }
        let set = |given: &str| {
            let settings = KafkaSettings { passed: KafkaSettings::named(given).unwrap(), ..KafkaSettings::default() };
            let (producer, transactional, member) = (settings.producer(), settings.transactional("t"), settings.member(None));
            let all = [&producer, &transactional]
                .map(|config| ["linger.ms", "message.timeout.ms", "compression.type"].map(|name| config.get(name).map(str::to_owned)));
            let others = [&producer, &transactional, &member].iter().all(|config| ALSO_NAMED.iter().all(|(other, _)| config.get(other).is_none()));
            assert!(others, "{given}");
            (all, member.get("fetch.message.max.bytes").map(str::to_owned))
        };
        let of = |linger: &str, timeout: &str, codec: &str| [linger, timeout, codec].map(|value| Some(value.to_owned()));
        assert_eq!(set(""), ([of("1", "10000", "lz4"), of("0", "10000", "lz4")], Some("524288".into())));
        let given = "queue.buffering.max.ms=7\ndelivery.timeout.ms=5000\ncompression.codec=zstd\nmax.partition.fetch.bytes=7000000";
        assert_eq!(set(given), ([of("7", "5000", "zstd"), of("7", "5000", "zstd")], Some("7000000".into())));
    }

    #[test]
    fn topics_have_a_prefix_and_the_group_its_name() {
        for (prefix, group) in [("callsieve.", "callsieve"), ("staging.callsieve.", "staging.callsieve"), ("eu-", "eu-"), ("", "callsieve")] {
            assert_eq!(KafkaSettings::group_of(prefix), group);
        }
        let settings = KafkaSettings { topic_prefix: "test.".into(), ..KafkaSettings::default() };
        assert_eq!(settings.topic(Topic::CallVerdicts), "test.call-verdicts");
        let apart = KafkaSettings { output_prefix: Some("test.replay-r.".into()), ..settings };
        assert_eq!([Topic::Events, Topic::CallVerdicts].map(|topic| apart.topic(topic)), ["test.events", "test.replay-r.call-verdicts"]);
    }
}
