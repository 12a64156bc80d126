//! `deploy/asyncapi.yaml` against the code: each topic is a channel, each record a message with its schema, and nothing else is.

use callsieve::event::Record;
use callsieve::log::Topic;
use serde_yaml_ng::Value;
use std::collections::BTreeSet;
use std::path::Path;

fn document() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/asyncapi.yaml");
    serde_yaml_ng::from_str(&std::fs::read_to_string(path).expect("the document is there")).expect("it is YAML")
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_mapping().expect("a mapping").iter().map(|(name, value)| (name.as_str().expect("a name"), value))
}

#[test]
fn each_topic_is_a_channel_with_its_policy() {
    let document = document();
    let channels: BTreeSet<(&str, Vec<&str>)> = entries(&document["channels"])
        .map(|(name, channel)| {
            let policy = channel["bindings"]["kafka"]["topicConfiguration"]["cleanup.policy"].as_sequence().expect(name);
            (channel["address"].as_str().expect(name), policy.iter().filter_map(Value::as_str).collect())
        })
        .collect();
    let addresses: Vec<String> = Topic::ALL.iter().map(|topic| format!("callsieve.{topic}")).collect();
    let topics =
        addresses.iter().zip(Topic::ALL).map(|(address, topic)| (address.as_str(), vec![if topic.is_compacted() { "compact" } else { "delete" }]));
    assert_eq!(channels, topics.collect());
}

#[test]
fn each_record_is_a_message_with_its_schema() {
    let document = document();
    let schema = |message: &Value| message["payload"]["schema"]["$ref"].as_str().map(str::to_owned);
    let said: BTreeSet<(String, String)> =
        entries(&document["components"]["messages"]).filter_map(|(name, message)| Some((name.to_owned(), schema(message)?))).collect();
    let records = Record::ALL.iter().map(|record| (record.name().to_owned(), format!("../schemas/{}.avsc", record.name())));
    assert_eq!(said, records.collect());
}
