//! Avro schemas as far as their compatibility asks: who can read what another wrote, and if not, which field stands in the way.
//!
//! The rules are those of Avro's schema resolution, as Java's `SchemaCompatibility` has them, without aliases. Any text may come here: what is no
//! schema is an error.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Schema {
    root: Type,
    named: Vec<Named>,
}

/// Why one can't read what the other wrote.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The field, from the record on: `CallVerdict.call.legs[].from`.
    pub field: String,
    /// What stands in the way.
    pub why: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Type {
    /// One without a name, by its Avro name.
    Primitive(&'static str),
    /// A `long` that is a `timestamp-millis`.
    Timestamp,
    Array(Box<Type>),
    Map(Box<Type>),
    Union(Vec<Type>),
    /// One of [`Schema::named`].
    Named(usize),
}

#[derive(Debug, Clone, PartialEq)]
struct Named {
    /// With its namespace.
    name: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Record(Vec<Field>),
    Enum { symbols: Vec<String>, default: Option<String> },
    Fixed(u64),
}

#[derive(Debug, Clone, PartialEq)]
struct Field {
    name: String,
    of: Type,
    default: Option<Value>,
}

const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];
/// Values that a datum of no bytes may ask for, at most.
const MOST_VALUES: u64 = 10_000;
/// The same of a list's items, which may be as many as the datum has bytes.
const MOST_VALUES_A_BYTE: u64 = 100;
/// Types with a name that a schema may have: they can be nested as deep.
const MOST_NAMED: usize = 256;

impl Schema {
    /// Reads a schema's JSON.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(json: &str) -> Result<Self, String> {
        let tree: Value = serde_json::from_str(json).map_err(|error| format!("it is no JSON: {error}"))?;
        let mut named = Vec::new();
        let root = parse(&tree, "", &mut named)?;
        Ok(Self { root, named })
    }

    /// The full name of the record that it is; `None` for anything else.
    #[must_use]
    pub fn record_name(&self) -> Option<&str> {
        let Type::Named(index) = self.root else { return None };
        matches!(self.named[index].kind, Kind::Record(_)).then_some(self.named[index].name.as_str())
    }

    /// What keeps a reader with this schema from reading what was written with another; empty when it can.
    #[must_use]
    pub fn cannot_read(&self, writer: &Self) -> Vec<Finding> {
        let mut check = Check { reader: self, writer, seen: BTreeSet::new(), findings: BTreeSet::new() };
        let field = match (self.record_name(), &self.root) {
            (Some(name), _) => short(name).to_owned(),
            (None, of) => self.words(of),
        };
        check.types(&self.root, &writer.root, &field);
        check.findings.into_iter().collect()
    }

    /// Whether reading a datum takes no more than its bytes make one expect: a few hundred bytes of schema can ask for more values than there is time
    /// for, out of a datum of no bytes.
    ///
    /// # Errors
    /// Says what is out of proportion.
    pub fn check_work(&self) -> Result<(), String> {
        let mut weights = vec![Weight::Unknown; self.named.len()];
        self.weigh(&self.root, &mut weights).map(|_| ())
    }

    /// Each field of its records with its type and default, each of its enums with its symbols and default, by name and without namespaces.
    pub fn lines(&self) -> impl Iterator<Item = (String, String)> {
        self.named.iter().flat_map(|named| {
            let name = short(&named.name);
            match &named.kind {
                Kind::Record(fields) => fields
                    .iter()
                    .map(|field| {
                        let default = field.default.as_ref().map(|value| format!(" = {value}")).unwrap_or_default();
                        (format!("{name}.{}", field.name), format!("{}{default}", self.words(&field.of)))
                    })
                    .collect(),
                Kind::Enum { symbols, default } => {
                    let default = default.as_ref().map(|symbol| format!(" = {symbol}")).unwrap_or_default();
                    vec![(name.to_owned(), format!("{}{default}", symbols.join(" ")))]
                }
                Kind::Fixed(size) => vec![(name.to_owned(), format!("{size} bytes"))],
            }
        })
    }

    fn words(&self, of: &Type) -> String {
        match of {
            Type::Primitive(name) => (*name).to_owned(),
            Type::Timestamp => "timestamp".to_owned(),
            Type::Array(items) => format!("[{}]", self.words(items)),
            Type::Map(values) => format!("{{{}}}", self.words(values)),
            Type::Union(variants) => variants.iter().map(|variant| self.words(variant)).collect::<Vec<_>>().join("|"),
            Type::Named(index) => short(&self.named[*index].name).to_owned(),
        }
    }
}

fn short(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(_, short)| short)
}

// ---- parsing ----

fn text<'a>(tree: &'a Value, name: &str) -> Result<&'a str, String> {
    tree[name].as_str().ok_or_else(|| format!("{name} is missing in {}", abridged(tree)))
}

fn abridged(tree: &Value) -> String {
    tree.to_string().chars().take(80).collect()
}

/// A name with its namespace: its own, if it has a dot, else the one around it.
fn full(name: &str, namespace: &str) -> String {
    if name.contains('.') || namespace.is_empty() { name.to_owned() } else { format!("{namespace}.{name}") }
}

fn parse(tree: &Value, namespace: &str, named: &mut Vec<Named>) -> Result<Type, String> {
    match tree {
        Value::String(name) => reference(name, namespace, named),
        Value::Array(variants) => {
            let variants: Vec<Type> = variants.iter().map(|variant| parse(variant, namespace, named)).collect::<Result<_, _>>()?;
            match variants.iter().any(|variant| matches!(variant, Type::Union(_))) {
                true => Err("a union stands in a union".to_owned()),
                false => Ok(Type::Union(variants)),
            }
        }
        Value::Object(object) => match &object.get("type") {
            Some(Value::String(kind)) => match kind.as_str() {
                "record" | "error" | "enum" | "fixed" => definition(tree, kind, namespace, named),
                "array" => Ok(Type::Array(Box::new(parse(&tree["items"], namespace, named)?))),
                "map" => Ok(Type::Map(Box::new(parse(&tree["values"], namespace, named)?))),
                "long" if tree["logicalType"] == "timestamp-millis" => Ok(Type::Timestamp),
                name => reference(name, namespace, named),
            },
            Some(inner) => parse(inner, namespace, named),
            None => Err(format!("type is missing in {}", abridged(tree))),
        },
        other => Err(format!("{} is no type", abridged(other))),
    }
}

fn reference(name: &str, namespace: &str, named: &[Named]) -> Result<Type, String> {
    if let Some(primitive) = PRIMITIVES.into_iter().find(|primitive| *primitive == name) {
        return Ok(Type::Primitive(primitive));
    }
    let full = full(name, namespace);
    named.iter().position(|named| named.name == full).map(Type::Named).ok_or_else(|| format!("the type {full} is not defined"))
}

fn definition(tree: &Value, kind: &str, namespace: &str, named: &mut Vec<Named>) -> Result<Type, String> {
    let namespace = tree["namespace"].as_str().unwrap_or(namespace);
    let name = full(text(tree, "name")?, namespace);
    if named.iter().any(|known| known.name == name) {
        return Err(format!("{name} is defined twice"));
    }
    let index = named.len();
    if index == MOST_NAMED {
        return Err(format!("it has more than {MOST_NAMED} named types"));
    }
    let inner = name.rsplit_once('.').map_or("", |(namespace, _)| namespace).to_owned();
    let list = |of: &str| tree[of].as_array().ok_or_else(|| format!("{name} has no {of}"));
    // Known from here on: a record may contain itself.
    named.push(Named { name: name.clone(), kind: Kind::Record(Vec::new()) });
    named[index].kind = match kind {
        "enum" => {
            let symbols = list("symbols")?
                .iter()
                .map(|symbol| symbol.as_str().map(str::to_owned).ok_or_else(|| format!("{name} has a symbol that is no text")));
            Kind::Enum { symbols: symbols.collect::<Result<_, _>>()?, default: tree["default"].as_str().map(str::to_owned) }
        }
        "fixed" => Kind::Fixed(tree["size"].as_u64().ok_or_else(|| format!("{name} has no size"))?),
        _ => {
            let mut fields = Vec::new();
            for field in list("fields")? {
                let of = parse(&field["type"], &inner, named).map_err(|why| format!("{name}: {why}"))?;
                fields.push(Field { name: text(field, "name")?.to_owned(), of, default: field.get("default").cloned() });
            }
            Kind::Record(fields)
        }
    };
    Ok(Type::Named(index))
}

// ---- compatibility ----

struct Check<'a> {
    reader: &'a Schema,
    writer: &'a Schema,
    /// Pairs of named types that were compared already, the reader's first.
    seen: BTreeSet<(usize, usize)>,
    findings: BTreeSet<Finding>,
}

impl Check<'_> {
    fn finding(&mut self, field: &str, why: String) {
        self.findings.insert(Finding { field: field.to_owned(), why });
    }

    fn types(&mut self, reader: &Type, writer: &Type, field: &str) {
        match (reader, writer) {
            // A union's enum is read by the name of its type instead of its symbol.
            (Type::Named(index), Type::Union(_)) if matches!(self.reader.named[*index].kind, Kind::Enum { .. }) => {
                self.finding(field, format!("a union is written where {} is read", self.reader.words(reader)));
            }
            // Whatever was written has to have a place.
            (_, Type::Union(variants)) => variants.iter().for_each(|variant| self.types(reader, variant, field)),
            (Type::Union(variants), _) => {
                // The one that is meant, else any that takes it.
                let same = variants.iter().find(|variant| self.is_same(variant, writer));
                match same.or_else(|| variants.iter().find(|variant| is_promoted(variant, writer))) {
                    Some(variant) => self.types(variant, writer, field),
                    None => self.finding(field, format!("{} has no place in {}", self.writer.words(writer), self.reader.words(reader))),
                }
            }
            (Type::Array(reader), Type::Array(writer)) => self.types(reader, writer, &format!("{field}[]")),
            (Type::Map(reader), Type::Map(writer)) => self.types(reader, writer, &format!("{field}{{}}")),
            (Type::Named(reader), Type::Named(writer)) => self.named(*reader, *writer, field),
            (reader, writer) if self.is_same(reader, writer) || is_promoted(reader, writer) => {}
            _ => self.finding(field, format!("{} is read as {}", self.writer.words(writer), self.reader.words(reader))),
        }
    }

    /// Whether two types are of one kind, and of one name if they have names.
    fn is_same(&self, reader: &Type, writer: &Type) -> bool {
        let plain = |of: &Type| match of {
            Type::Timestamp => Some("long"),
            Type::Primitive(name) => Some(*name),
            _ => None,
        };
        match (reader, writer) {
            (Type::Array(_), Type::Array(_)) | (Type::Map(_), Type::Map(_)) => true,
            (Type::Named(reader), Type::Named(writer)) => short(&self.reader.named[*reader].name) == short(&self.writer.named[*writer].name),
            _ => plain(reader).is_some() && plain(reader) == plain(writer),
        }
    }

    fn named(&mut self, reader: usize, writer: usize, field: &str) {
        if !self.seen.insert((reader, writer)) {
            return;
        }
        let (of_reader, of_writer) = (&self.reader.named[reader], &self.writer.named[writer]);
        if short(&of_reader.name) != short(&of_writer.name) {
            return self.finding(field, format!("{} is read as {}", of_writer.name, of_reader.name));
        }
        match (&of_reader.kind, &of_writer.kind) {
            (Kind::Record(reader), Kind::Record(writer)) => {
                for wanted in reader {
                    let path = format!("{field}.{}", wanted.name);
                    match writer.iter().find(|written| written.name == wanted.name) {
                        Some(written) => self.types(&wanted.of, &written.of, &path),
                        None if wanted.default.is_none() => self.finding(&path, "is not written, and has no default".to_owned()),
                        None => {}
                    }
                }
            }
            (Kind::Enum { symbols: known, default }, Kind::Enum { symbols: written, .. }) => {
                let unknown: Vec<&str> = written.iter().filter(|symbol| !known.contains(symbol)).map(String::as_str).collect();
                if default.is_none() && !unknown.is_empty() {
                    self.finding(
                        field,
                        format!("{} may be {}, which the reader doesn't know and has no default for", of_reader.name, unknown.join(", ")),
                    );
                }
            }
            (Kind::Fixed(reader), Kind::Fixed(writer)) if reader == writer => {}
            (Kind::Fixed(reader), Kind::Fixed(writer)) => self.finding(field, format!("{writer} bytes are read as {reader}")),
            _ => self.finding(field, format!("{} is of another kind", of_writer.name)),
        }
    }
}

/// Whether a value of the writer's type is one of the reader's, too.
fn is_promoted(reader: &Type, writer: &Type) -> bool {
    let name = |of: &Type| match of {
        Type::Primitive(name) => *name,
        Type::Timestamp => "long",
        _ => "",
    };
    matches!(
        (name(writer), name(reader)),
        ("int", "long" | "float" | "double") | ("long", "float" | "double") | ("float", "double") | ("string", "bytes") | ("bytes", "string")
    )
}

/// What schemas have lost of a first contract, which has a line for each field and each enum as [`Schema::lines`] gives them, in the form
/// `name: said`, and comments after `#`. Nothing goes or changes; symbols are added at the end only, so that their numbers stay, and to enums with a
/// default; a new field has a default.
#[must_use]
pub fn lost_of(contract: &str, schemas: &[Schema]) -> Vec<Finding> {
    let now: BTreeMap<String, String> = schemas.iter().flat_map(Schema::lines).collect();
    let first: BTreeMap<&str, &str> = contract.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(": ")).collect();
    let mut findings = Vec::new();
    let mut finding = |field: &str, why: String| findings.push(Finding { field: field.to_owned(), why });
    for (name, was) in &first {
        let Some(is) = now.get(*name) else {
            finding(name, "is gone".to_owned());
            continue;
        };
        if is == was {
            continue;
        }
        let (symbols, default) = is.split_once(" = ").unwrap_or((is, ""));
        let (known, known_default) = was.split_once(" = ").unwrap_or((was, ""));
        if name.contains('.') || default != known_default || !symbols.starts_with(known) {
            finding(name, format!("was {was}, and is {is}"));
        } else if default.is_empty() {
            finding(name, "has a new symbol, and no default for those who don't know it".to_owned());
        }
    }
    for (name, is) in now.iter().filter(|(name, _)| name.contains('.') && !first.contains_key(name.as_str())) {
        if !is.contains(" = ") {
            finding(name, "is new, and has no default".to_owned());
        }
    }
    findings
}

// ---- work ----

#[derive(Debug, Clone, Copy)]
enum Weight {
    Unknown,
    /// It is being weighed: it contains itself.
    Open,
    Known {
        values: u64,
        bytes: u64,
    },
}

impl Schema {
    /// How many values are read for one of this type, lists and maps aside, and of how many bytes it is at least.
    fn weigh(&self, of: &Type, weights: &mut [Weight]) -> Result<(u64, u64), String> {
        let (values, bytes) = match of {
            Type::Primitive("null") => (1, 0),
            Type::Primitive(_) | Type::Timestamp => (1, 1),
            Type::Array(items) | Type::Map(items) => {
                let (values, bytes) = self.weigh(items, weights)?;
                if bytes == 0 {
                    return Err("it has a list of what takes no bytes".to_owned());
                }
                if values > bytes.saturating_mul(MOST_VALUES_A_BYTE) {
                    return Err(format!("it has a list of what asks for more than {MOST_VALUES_A_BYTE} values a byte"));
                }
                (1, 1)
            }
            Type::Union(variants) => {
                let mut most = 0;
                for variant in variants {
                    // A variant that is being weighed comes after the byte that says which it is.
                    let is_open = matches!(variant, Type::Named(index) if matches!(weights[*index], Weight::Open));
                    most = most.max(if is_open { 1 } else { self.weigh(variant, weights)?.0 });
                }
                (most.saturating_add(1), 1)
            }
            Type::Named(index) => self.weigh_named(*index, weights)?,
        };
        if values > MOST_VALUES { Err(format!("it asks for more than {MOST_VALUES} values at once")) } else { Ok((values, bytes)) }
    }

    fn weigh_named(&self, index: usize, weights: &mut [Weight]) -> Result<(u64, u64), String> {
        match weights[index] {
            Weight::Known { values, bytes } => return Ok((values, bytes)),
            // Within a list: each of its entries takes a byte at least, namely the one of that list.
            Weight::Open => return Ok((1, 1)),
            Weight::Unknown => {}
        }
        weights[index] = Weight::Open;
        let (mut values, mut bytes) = (1_u64, 0_u64);
        match &self.named[index].kind {
            Kind::Enum { .. } => bytes = 1,
            Kind::Fixed(size) => bytes = *size,
            Kind::Record(fields) => {
                for field in fields {
                    if matches!(field.of, Type::Named(inner) if matches!(weights[inner], Weight::Open)) {
                        return Err(format!("{} never ends: it contains itself", self.named[index].name));
                    }
                    let (more, least) = self.weigh(&field.of, weights)?;
                    (values, bytes) = (values.saturating_add(more), bytes.saturating_add(least));
                }
            }
        }
        weights[index] = Weight::Known { values, bytes };
        Ok((values, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{EARLIER, Record, arbitrary};
    use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
    use serde_json::json;

    fn schema(json: &Value) -> Schema {
        Schema::parse(&json.to_string()).unwrap()
    }

    fn record(fields: Value) -> Value {
        let mut schema = json!({ "type": "record", "name": "R", "namespace": "n" });
        schema["fields"] = fields;
        schema
    }

    fn of(kind: Value) -> Value {
        let mut field = json!({ "name": "f" });
        field["type"] = kind;
        record(Value::Array(vec![field]))
    }

    fn enumeration(symbols: &[&str], default: Option<&str>) -> Value {
        let mut schema = json!({ "type": "enum", "name": "E", "symbols": symbols });
        if let Some(default) = default {
            schema["default"] = default.into();
        }
        schema
    }

    #[test]
    fn what_stands_in_the_way_is_named_with_its_field() {
        let inner = |fields: Value| json!({ "type": "array", "items": { "type": "record", "name": "I", "fields": fields } });
        let rows = [
            // Reader, writer, field and part of the reason; none where it can read.
            (record(json!([])), of(json!("int")), None),
            (of(json!("int")), record(json!([])), Some(("R.f", "no default"))),
            (record(json!([{ "name": "f", "type": "int", "default": 1 }])), record(json!([])), None),
            (of(json!("long")), of(json!("int")), None),
            (of(json!("int")), of(json!("long")), Some(("R.f", "long is read as int"))),
            (of(json!("string")), of(json!("bytes")), None),
            (of(json!("double")), of(json!({ "type": "long", "logicalType": "timestamp-millis" })), None),
            (of(json!({ "type": "long", "logicalType": "timestamp-millis" })), of(json!("long")), None),
            (of(json!(["null", "string"])), of(json!("string")), None),
            (of(json!(["null", "string"])), of(json!(["string", "null"])), None),
            (of(json!(["null", "long"])), of(json!("int")), None),
            (of(json!("string")), of(json!(["null", "string"])), Some(("R.f", "null is read as string"))),
            (of(json!(["null", "string"])), of(json!(["null", "string", "int"])), Some(("R.f", "int has no place in null|string"))),
            (of(inner(json!([]))), of(inner(json!([{ "name": "x", "type": "int" }]))), None),
            (of(inner(json!([{ "name": "x", "type": "int" }]))), of(inner(json!([]))), Some(("R.f[].x", "no default"))),
            (of(enumeration(&["A"], Some("A"))), of(enumeration(&["A", "B"], None)), None),
            (of(enumeration(&["A"], None)), of(enumeration(&["A", "B"], Some("A"))), Some(("R.f", "may be B"))),
            (
                of(json!({ "type": "fixed", "name": "F", "size": 4 })),
                of(json!({ "type": "fixed", "name": "F", "size": 5 })),
                Some(("R.f", "5 bytes")),
            ),
            (
                of(json!({ "type": "map", "values": "int" })),
                of(json!({ "type": "map", "values": "string" })),
                Some(("R.f{}", "string is read as int")),
            ),
            (of(json!(["null", "R"])), of(json!(["null", "R"])), None),
            (json!("int"), json!("string"), Some(("int", "string is read as int"))),
        ];
        for (reader, writer, expected) in rows {
            let found = schema(&reader).cannot_read(&schema(&writer));
            let told: Vec<String> = found.iter().map(ToString::to_string).collect();
            match expected {
                None => assert_eq!(told, [""; 0], "{reader} reads {writer}"),
                Some((field, why)) => {
                    assert!(matches!(&found[..], [one] if one.field == field && one.why.contains(why)), "{told:?}: {reader} reads {writer}");
                }
            }
            // apache-avro looks at no enum's default; else it agrees.
            let [theirs, written] = [&reader, &writer].map(|json| apache_avro::Schema::parse(json).unwrap());
            if !reader.to_string().contains("\"enum\"") {
                let all = Ok(Compatibility::Full);
                assert_eq!(SchemaCompatibility::can_read(&written, &theirs) == all, expected.is_none(), "{reader} reads {writer}");
            }
        }
    }

    #[test]
    fn what_is_no_schema_is_refused_with_the_reason() {
        let rows = [
            ("", "no JSON"),
            ("7", "7 is no type"),
            ("{}", "type is missing"),
            (r#"{"type":"array"}"#, "null is no type"),
            (r#""R""#, "R is not defined"),
            (r#"{"type":"record","fields":[]}"#, "name is missing"),
            (r#"{"type":"record","name":"R"}"#, "R has no fields"),
            (r#"{"type":"record","name":"R","fields":[{"name":"f"}]}"#, "R: null is no type"),
            (r#"{"type":"enum","name":"E","symbols":[1]}"#, "no text"),
            (r#"["null",["null"]]"#, "a union stands in a union"),
            (r#"[{"type":"fixed","name":"F","size":1},{"type":"fixed","name":"F","size":1}]"#, "F is defined twice"),
        ];
        for (json, why) in rows {
            let said = Schema::parse(json).unwrap_err();
            assert!(said.contains(why), "{json}: {said}");
        }
        let many: Vec<Value> = (0..=MOST_NAMED).map(|n| json!({ "type": "fixed", "name": format!("F{n}"), "size": 1 })).collect();
        assert!(Schema::parse(&Value::Array(many).to_string()).unwrap_err().contains("more than 256"));
        // Deeper than a stack.
        assert!(Schema::parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn a_few_bytes_of_schema_cannot_ask_for_more_work_than_there_is_time_for() {
        let doubled = (1..40).fold(json!({ "type": "record", "name": "R0", "fields": [] }), |inner, n| {
            let name = inner["name"].clone();
            record(json!([{ "name": "a", "type": inner }, { "name": "b", "type": name }]))
                .as_object()
                .map(|r| {
                    let mut r = r.clone();
                    r.insert("name".into(), format!("R{n}").into());
                    Value::Object(r)
                })
                .unwrap()
        });
        assert!(schema(&doubled).check_work().unwrap_err().contains("values at once"));
        assert!(schema(&of(json!({ "type": "array", "items": "null" }))).check_work().unwrap_err().contains("no bytes"));
        let heavy = (0..200).map(|n| json!({ "name": format!("n{n}"), "type": "null" })).chain([json!({ "name": "i", "type": "int" })]);
        let heavy = json!({ "type": "record", "name": "Heavy", "fields": heavy.collect::<Vec<_>>() });
        assert!(schema(&of(json!({ "type": "array", "items": heavy }))).check_work().unwrap_err().contains("values a byte"));
        assert!(schema(&of(json!("R"))).check_work().unwrap_err().contains("contains itself"));
        schema(&of(json!({ "type": "array", "items": "R" }))).check_work().unwrap();
        schema(&of(json!(["null", "R"]))).check_work().unwrap();
        for record in Record::ALL {
            Schema::parse(record.schema_json()).unwrap().check_work().unwrap();
        }
    }

    #[test]
    fn every_schema_reads_and_is_read_by_what_it_said_before() {
        for (record, json) in EARLIER {
            let (before, now) = (Schema::parse(json).unwrap(), Schema::parse(record.schema_json()).unwrap());
            assert_eq!((now.cannot_read(&before), before.cannot_read(&now)), (vec![], vec![]), "{record:?}");
            assert_ne!(before, now);
            let [before, now] = [apache_avro::Schema::parse_str(json).unwrap(), arbitrary::schema(record)];
            assert!(SchemaCompatibility::mutual_read(&before, &now).is_ok(), "{record:?}");
        }
    }

    #[test]
    fn schemas_only_gain_fields_with_defaults() {
        let contract = include_str!("../../schemas/first-contract.txt");
        let schemas: Vec<Schema> = Record::ALL.into_iter().map(|record| Schema::parse(record.schema_json()).unwrap()).collect();
        assert_eq!(lost_of(contract, &schemas), []);
        // Each way of breaking it is noticed, and named.
        let rows = [
            ("Tick.at: timestamp", "", "Tick.at: is new, and has no default"),
            ("Tick.at: timestamp", "Tick.at: long", "Tick.at: was long, and is timestamp"),
            ("Tick.at: timestamp", "Tick.at: timestamp\nTick.was: int", "Tick.was: is gone"),
            ("Verdict: INTERNAL EXTERNAL", "Verdict: EXTERNAL INTERNAL", "Verdict: was EXTERNAL INTERNAL, and is INTERNAL EXTERNAL"),
            ("Verdict: INTERNAL EXTERNAL", "Verdict: INTERNAL", "Verdict: has a new symbol"),
        ];
        for (line, other, said) in rows {
            assert!(contract.contains(line), "{line}");
            let findings = lost_of(&contract.replace(line, other), &schemas);
            assert!(matches!(&findings[..], [one] if one.to_string().starts_with(said)), "{said}: {findings:?}");
        }
    }
}
