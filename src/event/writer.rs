//! Records that others wrote with schemas of their own: a newer version, or who else appends to the log.

use super::codec::{CodecError, Decoded, HEADER, Record, header_of, record_named, same_as};
use super::schema::Schema;
use super::{
    AccountRemoved, AccountSettings, AccountState, CallLegs, CallVerdict, CompanyNumber, DirectoryChanged, NumbersObserved, OpenCall, Rejudge,
    SnapshotCompleted, Tick, encode,
};

/// A schema that is not this version's, and how what was written with it is read.
pub struct Writer {
    record: Record,
    reading: Reading,
}

enum Reading {
    /// It says the same as one that this version knows, whose header this is.
    Known([u8; HEADER]),
    /// Field by field, by their names.
    ByName(serde_avro_fast::Schema),
}

impl Writer {
    /// Looks at a schema's JSON.
    ///
    /// # Errors
    /// In words, if it is no schema, of none of our records, or of one of them but not compatible with it.
    pub fn parse(json: &str) -> Result<Self, String> {
        let schema = Schema::parse(json)?;
        let name = schema.record_name().ok_or("it is no record")?;
        let record = record_named(name).ok_or_else(|| format!("{name} is none of callsieve's records"))?;
        let by_name: serde_avro_fast::Schema = json.parse().map_err(|error| format!("{error}"))?;
        if let Some(header) = same_as(record, &by_name) {
            return Ok(Self { record, reading: Reading::Known(header) });
        }
        schema.check_work()?;
        let ours = Schema::parse(record.schema_json())?;
        match ours.cannot_read(&schema).first() {
            Some(finding) => Err(finding.to_string()),
            None => Ok(Self { record, reading: Reading::ByName(by_name) }),
        }
    }

    /// The header under which this version reads such a datum as it is; `None` if it has to be translated.
    #[must_use]
    pub fn header(&self) -> Option<&[u8; HEADER]> {
        match &self.reading {
            Reading::Known(header) => Some(header),
            Reading::ByName(_) => None,
        }
    }

    /// A datum as this version writes it, with its header. What this version has no place for is left out.
    ///
    /// # Errors
    /// If the datum is broken, or a value in it is out of its bounds.
    pub fn translate(&self, datum: &[u8]) -> Result<Vec<u8>, CodecError> {
        let schema = match &self.reading {
            Reading::Known(header) => return Ok([header, datum].concat()),
            Reading::ByName(schema) => schema,
        };
        match self.record {
            Record::CallLegs => translate::<CallLegs>(datum, schema),
            Record::DirectoryChanged => translate::<DirectoryChanged>(datum, schema),
            Record::NumbersObserved => translate::<NumbersObserved>(datum, schema),
            Record::SnapshotCompleted => translate::<SnapshotCompleted>(datum, schema),
            Record::AccountSettings => translate::<AccountSettings>(datum, schema),
            Record::AccountRemoved => translate::<AccountRemoved>(datum, schema),
            Record::Rejudge => translate::<Rejudge>(datum, schema),
            Record::Tick => translate::<Tick>(datum, schema),
            Record::CompanyNumber => translate::<CompanyNumber>(datum, schema),
            Record::CallVerdict => translate::<CallVerdict>(datum, schema),
            Record::AccountState => translate::<AccountState>(datum, schema),
            Record::OpenCall => translate::<OpenCall>(datum, schema),
        }
    }
}

fn translate<T: Decoded>(datum: &[u8], schema: &serde_avro_fast::Schema) -> Result<Vec<u8>, CodecError> {
    let read: Result<T, _> = serde_avro_fast::from_datum_slice(datum, schema);
    let value = read.map_err(|error| CodecError::Broken { record: T::RECORD.name(), reason: error.to_string() })?;
    let bytes = encode(&value);
    debug_assert_eq!(bytes[..HEADER], header_of(T::RECORD));
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{AccountId, CallSource, EARLIER, Event, arbitrary, decode, decode_event};
    use apache_avro::Schema as Apache;
    use apache_avro::types::Value as Avro;
    use apache_avro::writer::datum::GenericDatumWriter;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use serde_json::{Value, json};
    use std::collections::HashMap;

    /// A record's schema with a change.
    fn changed(record: Record, change: impl FnOnce(&mut Value)) -> String {
        let mut tree: Value = serde_json::from_str(record.schema_json()).unwrap();
        change(&mut tree);
        tree.to_string()
    }

    fn fields(tree: &mut Value) -> &mut Vec<Value> {
        tree["fields"].as_array_mut().unwrap()
    }

    /// A newer version's: a field more, other fields in another order, a symbol more, optional fields the other way round.
    fn newer(record: Record) -> String {
        fn turn(tree: &mut Value) {
            match tree {
                Value::Object(object) => {
                    let has_default = object.contains_key("default");
                    if let Some(Value::Array(symbols)) = object.get_mut("symbols").filter(|_| has_default) {
                        symbols.push("FROM_THE_FUTURE".into());
                    }
                    if let Some(Value::Array(fields)) = object.get_mut("fields") {
                        fields.reverse();
                        fields.push(json!({ "name": "from_the_future", "type": { "type": "array", "items": "long" }, "default": [] }));
                    }
                    object.values_mut().for_each(turn);
                }
                Value::Array(items) => {
                    if items.first().is_some_and(|first| first == "null") {
                        items.reverse();
                    }
                    items.iter_mut().for_each(turn);
                }
                _ => {}
            }
        }
        changed(record, |tree| {
            turn(tree);
            // A name is defined where it is used first: what was turned round may be the other way round now, which callsieve's reader allows,
            // and apache-avro does not.
            define_first(tree);
        })
    }

    fn define_first(tree: &mut Value) {
        fn collect(tree: &Value, found: &mut HashMap<String, Value>) {
            match tree {
                Value::Object(object) => {
                    if object.contains_key("symbols") || object.contains_key("fields") {
                        found.insert(object["name"].as_str().unwrap().to_owned(), tree.clone());
                    }
                    object.values().for_each(|inner| collect(inner, found));
                }
                Value::Array(items) => items.iter().for_each(|inner| collect(inner, found)),
                _ => {}
            }
        }
        fn place(tree: &mut Value, found: &HashMap<String, Value>, defined: &mut Vec<String>) {
            if let Some(name) = tree.as_str().map(str::to_owned).filter(|name| found.contains_key(name) && !defined.contains(name)) {
                *tree = found[&name].clone();
            }
            if let Some(name) = tree["name"].as_str().filter(|name| found.contains_key(*name)).map(str::to_owned) {
                if defined.contains(&name) {
                    *tree = name.into();
                    return;
                }
                defined.push(name);
            }
            match tree {
                Value::Object(object) => {
                    if let Some(Value::Array(fields)) = object.get_mut("fields") {
                        fields.iter_mut().for_each(|field| place(&mut field["type"], found, defined));
                    }
                    for inner in ["items", "values", "type"] {
                        if let Some(inner) = object.get_mut(inner).filter(|inner| inner.as_str().is_none_or(|name| name != "record")) {
                            place(inner, found, defined);
                        }
                    }
                }
                Value::Array(items) => items.iter_mut().for_each(|inner| place(inner, found, defined)),
                _ => {}
            }
        }
        let mut found = HashMap::new();
        collect(tree, &mut found);
        place(tree, &found, &mut Vec::new());
    }

    fn datum(schema: &Apache, value: Avro) -> Vec<u8> {
        GenericDatumWriter::builder(schema).build().unwrap().write_value_to_vec(value).unwrap()
    }

    #[test]
    fn what_is_known_is_read_as_it_is() {
        for record in Record::ALL {
            // Words and layout are no part of what decides.
            let json = changed(record, |tree| tree["doc"] = "Otherwise.".into());
            assert_eq!(Writer::parse(&json).unwrap().header(), Some(&header_of(record)), "{record:?}");
        }
        for (record, json) in EARLIER {
            let header = *Writer::parse(json).unwrap().header().unwrap();
            assert_ne!(header, header_of(record));
        }
        let tick = Writer::parse(Record::Tick.schema_json()).unwrap();
        assert_eq!(decode_event(&tick.translate(&[2]).unwrap()).unwrap(), Event::Tick(Tick { at: 1 }));
    }

    /// What a newer version writes is read as this version would have written it.
    #[test]
    fn what_a_newer_version_wrote_is_read() {
        for record in Record::ALL {
            let json = newer(record);
            let schema = Apache::parse_str(&json).unwrap_or_else(|error| panic!("{record:?}: {error}: {json}"));
            // apache-avro resolves it to the schema of this version, where no symbol is new.
            let ours = arbitrary::schema(record);
            let writer = Writer::parse(&json).unwrap_or_else(|why| panic!("{record:?}: {why}"));
            assert_eq!(writer.header(), None);
            TestRunner::new(Config::with_cases(48))
                .run(&arbitrary::value_of("", &schema, &mut HashMap::new()), |value| {
                    let datum = datum(&schema, value.clone());
                    let translated = writer.translate(&datum).map_err(|error| TestCaseError::fail(error.to_string()))?;
                    prop_assert_eq!(&translated[..HEADER], &header_of(record));
                    if let Ok(expected) = value.resolve(&ours) {
                        let header = header_of(record);
                        let expected = [&header[..], &super::tests::datum(&ours, expected)].concat();
                        prop_assert_eq!(normal(record, &translated), normal(record, &expected));
                    }
                    Ok(())
                })
                .unwrap_or_else(|error| panic!("{record:?}: {error}"));
        }
    }

    /// What it says, whatever the bytes: a list may be written in several ways.
    fn normal(record: Record, bytes: &[u8]) -> String {
        match record {
            Record::CompanyNumber => format!("{:?}", decode::<CompanyNumber>(bytes).unwrap()),
            Record::CallVerdict => format!("{:?}", decode::<CallVerdict>(bytes).unwrap()),
            Record::AccountState => format!("{:?}", decode::<AccountState>(bytes).unwrap()),
            Record::OpenCall => format!("{:?}", decode::<OpenCall>(bytes).unwrap()),
            _ => format!("{:?}", decode_event(bytes).unwrap()),
        }
    }

    /// Every field with a default may be missing, wherever it stands.
    #[test]
    fn what_is_not_written_takes_the_default_of_the_schema() {
        fn strip(tree: &mut Value, stripped: &mut usize) {
            match tree {
                Value::Object(object) => {
                    if let Some(Value::Array(fields)) = object.get_mut("fields") {
                        let before = fields.len();
                        fields.retain(|field| field.get("default").is_none());
                        *stripped += before - fields.len();
                    }
                    object.values_mut().for_each(|inner| strip(inner, stripped));
                }
                Value::Array(items) => items.iter_mut().for_each(|inner| strip(inner, stripped)),
                _ => {}
            }
        }
        let mut stripped = 0;
        for record in Record::ALL {
            let json = changed(record, |tree| strip(tree, &mut stripped));
            let json = changed_back(&json);
            let (schema, ours) = (Apache::parse_str(&json).unwrap(), arbitrary::schema(record));
            let writer = Writer::parse(&json).unwrap_or_else(|why| panic!("{record:?}: {why}"));
            TestRunner::new(Config::with_cases(16))
                .run(&arbitrary::value_of("", &schema, &mut HashMap::new()), |value| {
                    let translated = writer.translate(&datum(&schema, value.clone())).map_err(|error| TestCaseError::fail(error.to_string()))?;
                    let expected = datum(&ours, value.resolve(&ours).unwrap());
                    prop_assert_eq!(normal(record, &translated), normal(record, &[&header_of(record)[..], &expected].concat()));
                    Ok(())
                })
                .unwrap_or_else(|error| panic!("{record:?}: {error}"));
        }
        assert!(stripped > 50, "{stripped}");
    }

    /// Types that were defined in a field that is gone are defined where they are used.
    fn changed_back(json: &str) -> String {
        let mut tree = serde_json::from_str(json).unwrap();
        define_first(&mut tree);
        tree.to_string()
    }

    #[test]
    fn what_it_lacks_takes_its_default_and_what_is_narrower_is_widened() {
        let json = json!({ "type": "record", "name": "callsieve.v1.AccountSettings", "fields": [
            { "name": "country", "type": "bytes" },
            { "name": "updated_at", "type": "int" },
            { "name": "account_id", "type": "string" },
            { "name": "recorded_extensions", "type": { "type": "array", "items": "string" } },
        ] });
        let writer = Writer::parse(&json.to_string()).unwrap();
        let Event::AccountSettings(settings) = decode_event(&writer.translate(b"\x04DE\x0e\x047a\x02\x0411\0").unwrap()).unwrap() else { panic!() };
        assert_eq!((settings.account_id, settings.updated_at, settings.country.as_str()), (AccountId::parse("7a").unwrap(), 7, "DE"));
        assert_eq!(settings.recorded_extensions.unwrap().len(), 1);
        assert!(settings.include_federated && !settings.filter_internal);
    }

    #[test]
    fn a_schema_that_does_not_fit_is_refused_and_says_why() {
        let rows = [
            ("nothing".to_owned(), "no JSON"),
            (r#""string""#.to_owned(), "no record"),
            (r#"{"type":"record","name":"Tick","fields":[]}"#.to_owned(), "Tick is none of callsieve's records"),
            (r#"{"type":"record","name":"callsieve.v1.Tock","fields":[]}"#.to_owned(), "none of callsieve's records"),
            (changed(Record::Tick, |tree| fields(tree).clear()), "Tick.at: is not written"),
            (changed(Record::Tick, |tree| fields(tree)[0]["type"] = "string".into()), "Tick.at: string is read as timestamp"),
            (changed(Record::Tick, |tree| fields(tree).push(json!({ "name": "more", "type": { "type": "array", "items": "null" } }))), "no bytes"),
        ];
        for (json, why) in rows {
            let said = Writer::parse(&json).err().unwrap();
            assert!(said.contains(why), "{json}: {said}");
        }
    }

    #[test]
    fn a_broken_datum_and_a_value_out_of_bounds_are_rejected() {
        let json = changed(Record::AccountRemoved, |tree| fields(tree).push(json!({ "name": "more", "type": "int", "default": 0 })));
        let writer = Writer::parse(&json).unwrap();
        assert!(writer.translate(b"\x027\x02\0").is_ok());
        for datum in [b"".as_slice(), b"\x027", b"\x027\x02", b"\x02/\x02\0"] {
            assert!(matches!(writer.translate(datum), Err(CodecError::Broken { record: "AccountRemoved", .. })), "{datum:?}");
        }
    }

    #[test]
    fn a_symbol_of_the_future_is_read_as_the_catch_all() {
        let schema = Apache::parse_str(&newer(Record::CallLegs)).unwrap();
        let writer = Writer::parse(&newer(Record::CallLegs)).unwrap();
        TestRunner::new(Config::with_cases(100))
            .run(&arbitrary::value_of("", &schema, &mut HashMap::new()), |value| {
                let is_new = matches!(&value, Avro::Record(fields) if fields.iter().any(|(name, value)| name == "source" && matches!(value, Avro::Enum(_, symbol) if symbol == "FROM_THE_FUTURE")));
                let Ok(Event::CallLegs(legs)) = decode_event(&writer.translate(&datum(&schema, value)).unwrap()) else { panic!() };
                if is_new {
                    prop_assert_eq!(legs.source, CallSource::Unknown);
                }
                Ok(())
            })
            .unwrap();
    }

    /// Whatever text a registry gives, and whatever datum comes with it.
    #[test]
    fn no_schema_and_no_datum_panics() {
        /// Puts something else somewhere into the tree.
        fn disturb(tree: &mut Value, at: &mut usize, by: &Value) {
            if *at == 0 {
                *tree = by.clone();
            }
            *at = at.wrapping_sub(1);
            match tree {
                Value::Object(object) => object.values_mut().for_each(|inner| disturb(inner, at, by)),
                Value::Array(items) => items.iter_mut().for_each(|inner| disturb(inner, at, by)),
                _ => {}
            }
        }
        let by = prop::sample::select(vec![
            json!(null),
            json!(-1),
            json!("string"),
            json!("null"),
            json!("callsieve.v1.Tick"),
            json!(["null", "int"]),
            json!([]),
            json!({}),
            json!({ "type": "fixed", "name": "F", "size": 1_u64 << 62 }),
            json!({ "type": "bytes", "logicalType": "decimal", "precision": 400, "scale": 300 }),
            json!({ "type": "fixed", "name": "D", "size": 12, "logicalType": "duration" }),
            json!({ "type": "map", "values": "bytes" }),
            json!({ "type": "enum", "name": "N", "symbols": [] }),
        ]);
        let record = prop::sample::select(Record::ALL.to_vec());
        let run = (record, 0..400_usize, by, prop::collection::vec(any::<u8>(), 0..100));
        TestRunner::new(Config::with_cases(2_000))
            .run(&run, |(record, mut at, by, datum)| {
                let json = changed(record, |tree| disturb(tree, &mut at, &by));
                if let Ok(writer) = Writer::parse(&json) {
                    let _ = writer.translate(&datum);
                }
                Ok(())
            })
            .unwrap();
    }
}
