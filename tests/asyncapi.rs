//! `deploy/asyncapi.yaml` against the code: each topic is a channel, each record a message with its schema, and nothing else is.

use callsieve::event::Record;
use callsieve::log::Topic;
use callsieve::registry::{COMPATIBILITY, placed, subject};
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

#[test]
fn each_record_stands_on_its_topic_and_may_have_either_encoding() {
    let document = document();
    let mut said = BTreeSet::new();
    for (name, channel) in entries(&document["channels"]) {
        for (_, message) in entries(&channel["messages"]) {
            let of = message["$ref"].as_str().expect(name).rsplit('/').next().expect("a path").to_owned();
            said.insert((channel["address"].as_str().expect(name).to_owned(), of));
        }
    }
    for (topic, record) in placed() {
        assert!(said.contains(&(format!("callsieve.{topic}"), record.name().to_owned())), "{record:?} on {topic}");
        // How a registry's clients find the schema, said by the message itself or by a trait of it.
        let message = &document["components"]["messages"][record.name()];
        let named = message["traits"].as_sequence().into_iter().flatten().filter_map(|named| named["$ref"].as_str()?.rsplit('/').next());
        let traits = named.map(|name| &document["components"]["messageTraits"][name]["bindings"]["kafka"]);
        let found = traits.chain([&message["bindings"]["kafka"]]).any(|binding| {
            binding["schemaIdLocation"] == "payload"
                && binding["schemaIdPayloadEncoding"] == "4"
                && binding["schemaLookupStrategy"] == "TopicRecordNameStrategy"
        });
        assert!(found, "{record:?}");
    }
    let description = document["info"]["description"].as_str().expect("a description");
    let verdicts = subject("callsieve.call-verdicts", Record::CallVerdict);
    for part in ["`C3 01`", "8 bytes, little endian", "`00`", "4 bytes, big", "--schema-registry", &verdicts, COMPATIBILITY] {
        assert!(description.contains(part), "{part}");
    }
}
