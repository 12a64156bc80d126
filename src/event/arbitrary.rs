//! Records with anything in them that their schemas allow, for property tests. They are drawn from the schemas
//! themselves, as Avro values, so a new field is in them at once.

use super::{Decoded, Record, decode};
use apache_avro::headers::{HeaderBuilder, RabinFingerprintHeader};
use apache_avro::types::Value;
use apache_avro::{GenericSingleObjectWriter, Schema};
use proptest::prelude::*;
use std::collections::HashMap;

/// The record's schema, as apache-avro reads it.
pub(crate) fn schema(record: Record) -> Schema {
    Schema::parse_str(record.schema_json()).unwrap()
}

/// The header of a record, as apache-avro makes it.
///
/// A schema's canonical form has no logical types and writes `"long"`, not `{"type":"long"}`. apache-avro 0.22 strips the
/// logical type and leaves the longer form, so its fingerprint is not that of the specification (and of Java) unless the
/// logical types are taken out before.
pub(crate) fn header(record: Record) -> Vec<u8> {
    fn plain(tree: &mut serde_json::Value) {
        match tree {
            serde_json::Value::Object(object) if object.contains_key("logicalType") => *tree = object["type"].take(),
            serde_json::Value::Object(object) => object.values_mut().for_each(plain),
            serde_json::Value::Array(items) => items.iter_mut().for_each(plain),
            _ => {}
        }
    }
    let mut tree = serde_json::from_str(record.schema_json()).unwrap();
    plain(&mut tree);
    RabinFingerprintHeader::from_schema(&Schema::parse(&tree).unwrap()).build_header()
}

struct Header(Vec<u8>);

impl HeaderBuilder for Header {
    fn build_header(&self) -> Vec<u8> {
        self.0.clone()
    }
}

/// As apache-avro writes it with this schema, behind the header of the record.
pub(crate) fn bytes_of(record: Record, schema: &Schema, value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    let writer = GenericSingleObjectWriter::new_with_capacity_and_header_builder(schema, 512, &Header(header(record)));
    writer.unwrap().write_value_ref(value, &mut bytes).unwrap();
    bytes
}

/// Any record of a kind, as an Avro value.
pub(crate) fn value(record: Record) -> BoxedStrategy<Value> {
    value_of("", &schema(record), &mut HashMap::new())
}

/// Any record of a kind, as an Avro value and as the type that reads it.
pub(crate) fn record<T: Decoded + std::fmt::Debug>() -> impl Strategy<Value = (Value, T)> {
    let schema = schema(T::RECORD);
    value(T::RECORD).prop_map(move |value| {
        let record = decode(&bytes_of(T::RECORD, &schema, &value)).unwrap();
        (value, record)
    })
}

pub(crate) fn value_of(field: &str, schema: &Schema, named: &mut HashMap<String, BoxedStrategy<Value>>) -> BoxedStrategy<Value> {
    match schema {
        Schema::Null => Just(Value::Null).boxed(),
        Schema::Boolean => any::<bool>().prop_map(Value::Boolean).boxed(),
        Schema::Int => any::<i32>().prop_map(Value::Int).boxed(),
        Schema::Long => any::<i64>().prop_map(Value::Long).boxed(),
        // The years that RFC 3339 can show.
        Schema::TimestampMillis => (-62_167_219_200_000_i64..=253_402_207_200_000).prop_map(Value::TimestampMillis).boxed(),
        Schema::String if field == "account_id" => "[0-9A-Za-z~_.-]{1,64}".prop_map(Value::String).boxed(),
        // A control character is no part of an id.
        Schema::String if field.ends_with("_id") || ["links", "linked_sessions", "superseded_by"].contains(&field) => {
            "([0-9a-z:+-]{1,60}|[ -~üñ日]{1,20})".prop_map(Value::String).boxed()
        }
        Schema::String => ".{0,30}".prop_map(Value::String).boxed(),
        Schema::Array(array) => prop::collection::vec(value_of(field, &array.items, named), 0..4).prop_map(Value::Array).boxed(),
        Schema::Union(union) => {
            let variants = union
                .variants()
                .iter()
                .zip(0..)
                .map(|(variant, index)| value_of(field, variant, named).prop_map(move |value| Value::Union(index, Box::new(value))).boxed());
            prop::strategy::Union::new(variants).boxed()
        }
        Schema::Enum(symbols) => {
            let symbols: Vec<_> = symbols.symbols.iter().cloned().zip(0..).collect();
            let strategy = prop::sample::select(symbols).prop_map(|(symbol, index)| Value::Enum(index, symbol)).boxed();
            named.insert(schema.name().unwrap().name().to_owned(), strategy.clone());
            strategy
        }
        Schema::Record(record) => {
            let strategy = record.fields.iter().fold(Just(Vec::new()).boxed(), |before, field| {
                let name = field.name.clone();
                (before, value_of(&field.name, &field.schema, named))
                    .prop_map(move |(mut fields, value)| {
                        fields.push((name.clone(), value));
                        fields
                    })
                    .boxed()
            });
            let strategy = strategy.prop_map(Value::Record).boxed();
            named.insert(record.name.name().to_owned(), strategy.clone());
            strategy
        }
        Schema::Ref { name } => named[name.name()].clone(),
        other => panic!("the schemas use no {other:?}"),
    }
}
