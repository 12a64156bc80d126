//! The registry's wire format: 0, four bytes of the schema's id, the datum.
//!
//! Inside, values have Avro's single-object encoding. Of a schema that this version knows, only the header is exchanged; what was written with
//! another is read by that schema, and given on as this version writes it.

use super::{Registry, RegistryError, placed, subject};
use crate::event::{HEADER, Writer, header_of};
use crate::log::kafka::Framing;
use crate::log::{Came, LogError, Record, Topic};
use bytes::Bytes;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// Bytes before the datum.
const FRONT: usize = 5;
/// How long a registry that gave no answer isn't asked again: so long, or so many times as long as that took. Meanwhile the worker has its other
/// partitions.
const ASK_AGAIN: Duration = Duration::from_secs(1);
const ASK_AGAIN_TIMES: u32 = 10;
/// How long a schema must have been unknown to count as that: a registry of several nodes may learn of a new one late.
const SURELY: Duration = Duration::from_secs(2);
/// How long one that counts as unknown isn't asked for again.
const STAYS_UNKNOWN: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug)]
pub struct WireFormat {
    shared: Arc<Shared>,
    /// By [`Topic::index`]: our header, and the one on Kafka.
    fronts: [Vec<([u8; HEADER], [u8; FRONT])>; Topic::ALL.len()],
}

#[derive(Debug)]
struct Shared {
    registry: Registry,
    known: RwLock<HashMap<u32, Arc<Known>>>,
    unknown: Mutex<HashMap<u32, Unknown>>,
    /// Until when it isn't asked, since it gave no answer, and why.
    away: Mutex<Option<(Instant, String)>>,
}

/// What an id means.
enum Known {
    Readable(Box<Writer>),
    /// It is none of ours, or not compatible; why.
    Unusable(String),
}

#[derive(Debug, Clone, Copy)]
struct Unknown {
    since: Instant,
    asked: Instant,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Readable(_)) { "readable" } else { "unusable" })
    }
}

impl WireFormat {
    /// The format with a registry that is not asked yet. It can read, and writes nothing.
    #[must_use]
    pub fn new(registry: Registry) -> Self {
        let shared = Shared { registry, known: RwLock::default(), unknown: Mutex::default(), away: Mutex::default() };
        Self { shared: Arc::new(shared), fronts: std::array::from_fn(|_| Vec::new()) }
    }
}

fn front(id: u32) -> [u8; FRONT] {
    let [a, b, c, d] = id.to_be_bytes();
    [0, a, b, c, d]
}

impl Framing for WireFormat {
    fn prepared(&self, names: &[String; Topic::ALL.len()]) -> Result<Arc<dyn Framing>, LogError> {
        let mut fronts: [Vec<_>; Topic::ALL.len()] = std::array::from_fn(|_| Vec::new());
        for (topic, record) in placed() {
            let subject = subject(&names[topic.index()], record);
            let registered = self.shared.registry.ensure(&subject, record.schema_json());
            let registered = registered.map_err(|error| self.shared.failed(&format!("registering {subject}"), error))?;
            fronts[topic.index()].push((header_of(record), front(registered.id)));
        }
        Ok(Arc::new(Self { shared: self.shared.clone(), fronts }))
    }

    fn written<'a>(&self, topic: Topic, value: &'a [u8]) -> Cow<'a, [u8]> {
        let Some((header, datum)) = value.split_first_chunk::<HEADER>() else { return Cow::Borrowed(value) };
        match self.fronts[topic.index()].iter().find(|(ours, _)| ours == header) {
            Some((_, front)) => Cow::Owned([front, datum].concat()),
            None => Cow::Borrowed(value),
        }
    }

    fn read(&self, record: &mut Record) -> Result<(), LogError> {
        let Some([0, a, b, c, d]) = record.value.as_ref().and_then(|value| value.first_chunk::<FRONT>()) else { return Ok(()) };
        let id = u32::from_be_bytes([*a, *b, *c, *d]);
        let meaning = self.shared.meaning(id)?;
        let Some(value) = record.value.as_mut() else { return Ok(()) };
        let writer = match meaning.as_deref() {
            Some(Known::Readable(writer)) => writer,
            Some(Known::Unusable(why)) => {
                record.came = Came::Unreadable(format!("the schema with the id {id} can't be used: {why}"));
                return Ok(());
            }
            None => {
                record.came = Came::Unreadable(format!("the schema registry knows no schema with the id {id}"));
                return Ok(());
            }
        };
        if let Some(header) = writer.header() {
            *value = [header, &value[FRONT..]].concat().into();
            // Or it would hold what was fetched a second time.
            record.key = Bytes::copy_from_slice(&record.key);
            record.came = Came::Framed(front(id), HEADER);
            return Ok(());
        }
        match writer.translate(&value[FRONT..]) {
            Ok(translated) => record.came = Came::Otherwise(std::mem::replace(value, translated.into())),
            Err(error) => record.came = Came::Unreadable(format!("{error} (written with the schema of the id {id})")),
        }
        Ok(())
    }
}

impl Shared {
    fn failed(&self, operation: &str, error: RegistryError) -> LogError {
        let operation = format!("{operation} at the schema registry {}", self.registry);
        match error {
            RegistryError::Away(why) => {
                metrics::counter!("callsieve_schema_registry_failures_total").increment(1);
                LogError::Kafka { operation, why }
            }
            RegistryError::Missing(why) => LogError::Refused { operation, why },
            refused @ RegistryError::Refused(..) => LogError::Refused { operation, why: refused.to_string() },
        }
    }

    /// What an id means; `None` if the registry surely doesn't know it.
    fn meaning(&self, id: u32) -> Result<Option<Arc<Known>>, LogError> {
        if let Some(known) = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Some(known.clone()));
        }
        let begun = Instant::now();
        let before = locked(&self.unknown).get(&id).copied();
        if before.is_some_and(|unknown| is_sure(unknown) && begun.duration_since(unknown.asked) < STAYS_UNKNOWN) {
            return Ok(None);
        }
        let asking = format!("asking for the schema with the id {id}");
        let later = |why: String| LogError::Kafka { operation: format!("{asking} at the schema registry {}", self.registry), why };
        if let Some((_, why)) = locked(&self.away).as_ref().filter(|(until, _)| begun < *until) {
            return Err(later(why.clone()));
        }
        let answer = self.registry.schema(id);
        let answered = Instant::now();
        match answer {
            Ok(json) => {
                locked(&self.unknown).remove(&id);
                let known = Arc::new(match Writer::parse(&json) {
                    Ok(writer) => Known::Readable(Box::new(writer)),
                    Err(why) => Known::Unusable(why),
                });
                self.known.write().unwrap_or_else(PoisonError::into_inner).insert(id, known.clone());
                Ok(Some(known))
            }
            Err(RegistryError::Missing(why)) => {
                let so_far = Unknown { since: before.map_or(answered, |before| before.since), asked: answered };
                locked(&self.unknown).insert(id, so_far);
                if is_sure(so_far) { Ok(None) } else { Err(later(why)) }
            }
            // Whatever else it says, it is no answer to whether there is such a schema.
            Err(error @ (RegistryError::Away(_) | RegistryError::Refused(..))) => {
                let pause = ASK_AGAIN.max(answered.duration_since(begun) * ASK_AGAIN_TIMES);
                *locked(&self.away) = Some((answered + pause, error.to_string()));
                let failed = self.failed(&asking, RegistryError::Away(error.to_string()));
                tracing::warn!("{failed}; the partition waits");
                Err(failed)
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is kept under these locks is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn is_sure(unknown: Unknown) -> bool {
    unknown.asked.duration_since(unknown.since) >= SURELY
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{CodecError, Event, Tick, decode_event, encode_event};
    use crate::log::kafka::{Framed, KafkaSettings};
    use serde_json::{Value, json};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A registry with what a test puts there: schemas by id, and the subjects' compatibility.
    #[derive(Default)]
    struct Kept {
        schemas: Vec<String>,
        levels: HashMap<String, String>,
        asked: AtomicUsize,
        status: u16,
    }

    struct Fake {
        kept: Arc<Mutex<Kept>>,
        registry: Registry,
    }

    impl Fake {
        fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let registry = format!("http://{}/base/", listener.local_addr().unwrap()).parse().unwrap();
            let kept = Arc::new(Mutex::new(Kept { status: 200, ..Kept::default() }));
            let shared = kept.clone();
            // Ends with the process.
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    answer(&mut shared.lock().unwrap(), stream.unwrap());
                }
            });
            Self { kept, registry }
        }

        fn with(self, schemas: &[&str]) -> Self {
            self.kept.lock().unwrap().schemas.extend(schemas.iter().map(ToString::to_string));
            self
        }

        fn asked(&self) -> usize {
            self.kept.lock().unwrap().asked.load(Ordering::Relaxed)
        }
    }

    fn answer(kept: &mut Kept, stream: TcpStream) {
        let mut reader = BufReader::new(stream);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap() == 0 || line.trim().is_empty() {
                break;
            }
            lines.push(line.trim().to_lowercase());
        }
        let Some(first) = lines.first() else { return };
        kept.asked.fetch_add(1, Ordering::Relaxed);
        let length = lines.iter().find_map(|line| line.strip_prefix("content-length: ")).map_or(0, |n| n.parse().unwrap());
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let path: Vec<&str> = first.split(' ').nth(1).unwrap().trim_start_matches("/base/").split('/').collect();
        let missing = || (404, json!({ "error_code": 40403, "message": "none" }));
        let (status, said) = match (first.split(' ').next().unwrap(), &path[..]) {
            _ if kept.status != 200 => (kept.status, json!({ "message": "not now" })),
            ("get", ["schemas", "ids", id]) => match kept.schemas.get(id.parse::<usize>().unwrap().wrapping_sub(1)) {
                Some(schema) => (200, json!({ "schema": schema })),
                None => missing(),
            },
            ("get", ["config", subject]) => kept.levels.get(*subject).map_or_else(missing, |level| (200, json!({ "compatibilityLevel": level }))),
            ("put", ["config", subject]) => {
                kept.levels.insert((*subject).to_owned(), body["compatibility"].as_str().unwrap().to_owned());
                (200, body)
            }
            ("post", ["subjects", _]) => match kept.schemas.iter().position(|schema| *schema == body["schema"].as_str().unwrap()) {
                Some(at) => (200, json!({ "id": at + 1 })),
                None => missing(),
            },
            ("post", ["subjects", _, "versions"]) => {
                kept.schemas.push(body["schema"].as_str().unwrap().to_owned());
                (200, json!({ "id": kept.schemas.len() }))
            }
            other => panic!("{other:?}"),
        };
        let said = said.to_string();
        write!(reader.get_mut(), "HTTP/1.1 {status} .\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{said}", said.len()).unwrap();
    }

    fn names() -> [String; Topic::ALL.len()] {
        Topic::ALL.map(|topic| format!("t.{topic}"))
    }

    fn record(value: &[u8]) -> Record {
        Record { offset: 3, timestamp: 5, key: b"7".as_slice().into(), value: Some(value.to_vec().into()), headers: Vec::new(), came: Came::AsItIs }
    }

    fn tick() -> Vec<u8> {
        encode_event(&Event::Tick(Tick { at: 1_795_552_112_000 }))
    }

    fn newer_tick() -> String {
        let mut schema: Value = serde_json::from_str(crate::event::Record::Tick.schema_json()).unwrap();
        schema["fields"].as_array_mut().unwrap().push(json!({ "name": "more", "type": "string", "default": "" }));
        schema.to_string()
    }

    fn decoded(record: &Record) -> Result<Event, CodecError> {
        decode_event(record.value.as_deref().unwrap())
    }

    #[test]
    fn values_are_written_with_ids_and_read_back_and_what_came_is_kept() {
        let fake = Fake::start().with(&["\"int\""]);
        let format = WireFormat::new(fake.registry.clone());
        assert_eq!(format.written(Topic::Events, &tick()), tick(), "nothing is known yet");
        let format = format.prepared(&names()).unwrap();
        let written = format.written(Topic::Events, &tick()).into_owned();
        assert_eq!((written[0], &written[FRONT..]), (0, &tick()[HEADER..]));
        assert_eq!(format.written(Topic::CallVerdicts, &tick()), tick(), "no tick stands there");
        for other in [b"".as_slice(), b"{}", b"\xC3\x01abcdefgh"] {
            assert_eq!(format.written(Topic::Events, other), other);
        }
        let asked = fake.asked();
        for _ in 0..3 {
            let mut one = record(&written);
            format.read(&mut one).unwrap();
            assert_eq!(one.value.as_deref(), Some(tick().as_slice()));
            assert_eq!(one.value_as_it_came().as_deref(), Some(&*written));
        }
        assert_eq!(fake.asked(), asked + 1, "an id is looked up once");
        let mut one = record(&tick());
        format.read(&mut one).unwrap();
        assert_eq!(one, record(&tick()), "the other encoding is read as it is");
        let kept = fake.kept.lock().unwrap();
        assert_eq!(kept.levels["t.events-callsieve.v1.calllegs"], "FULL_TRANSITIVE");
        assert_eq!((kept.levels.len(), kept.schemas.len()), (12, 13));
    }

    #[test]
    fn what_stands_there_already_is_not_registered_again() {
        let fake = Fake::start();
        WireFormat::new(fake.registry.clone()).prepared(&names()).unwrap();
        let (asked, before) = (fake.asked(), fake.kept.lock().unwrap().schemas.clone());
        WireFormat::new(fake.registry.clone()).prepared(&names()).unwrap();
        assert_eq!((fake.asked() - asked, &fake.kept.lock().unwrap().schemas), (24, &before), "two questions a subject");
    }

    #[test]
    fn what_was_written_with_another_schema_is_translated_or_says_why_not() {
        let fake = Fake::start().with(&[&newer_tick(), "\"int\"", r#"{"type":"record","name":"callsieve.v1.Tick","fields":[]}"#, "no schema"]);
        let format = WireFormat::new(fake.registry);
        let datum = [&tick()[HEADER..], b"\x04ab"].concat();
        let wire = |id: u32, datum: &[u8]| [&front(id)[..], datum].concat();
        let mut newer = record(&wire(1, &datum));
        format.read(&mut newer).unwrap();
        assert_eq!(decoded(&newer).unwrap(), Event::Tick(Tick { at: 1_795_552_112_000 }));
        assert_eq!(newer.value_as_it_came().as_deref(), Some(&*wire(1, &datum)));
        for (id, datum, why) in [(1, b"\x02".as_slice(), "id 1"), (2, b"", "no record"), (3, b"", "Tick.at: is not written"), (4, b"", "no JSON")] {
            let mut one = record(&wire(id, datum));
            format.read(&mut one).unwrap();
            assert!(matches!(&one.came, Came::Unreadable(said) if said.contains(why) && said.contains(&format!("id {id}"))), "{one:?}");
            assert_eq!(one.value_as_it_came().as_deref(), Some(&*wire(id, datum)), "it is left as it is");
            assert!(matches!(decoded(&one), Err(CodecError::WireFormat(of)) if of == id));
        }
    }

    #[test]
    fn only_a_schema_that_stays_unknown_is() {
        let fake = Fake::start();
        let format = WireFormat::new(fake.registry.clone());
        let begun = Instant::now();
        let mut waited = 0;
        let mut one = record(&front(1));
        while let Err(error) = format.read(&mut one) {
            assert!(error.is_passing() && matches!(error, LogError::Kafka { .. }), "{error}");
            waited += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(waited > 0 && begun.elapsed() >= SURELY);
        assert!(matches!(&one.came, Came::Unreadable(why) if why.contains("knows no schema with the id 1")), "{one:?}");
        // One that comes later than that is found, after a while; meanwhile nobody asks.
        let asked = fake.asked();
        format.read(&mut record(&front(1))).unwrap();
        assert_eq!(fake.asked(), asked);
        // One that comes soon enough was never unknown.
        assert!(format.read(&mut record(&front(2))).is_err());
        let fake = fake.with(&["\"int\"", &newer_tick()]);
        let mut two = record(&[&front(2)[..], &tick()[HEADER..], b"\0"].concat());
        format.read(&mut two).unwrap();
        assert!(decoded(&two).is_ok() && fake.asked() > asked);
    }

    #[test]
    fn a_registry_without_an_answer_is_waited_for_and_not_pestered() {
        let fake = Fake::start().with(&[&newer_tick()]);
        let format = WireFormat::new(fake.registry.clone());
        let mut one = record(&[&front(1)[..], &tick()[HEADER..], b"\0"].concat());
        for status in [503, 401] {
            fake.kept.lock().unwrap().status = status;
            let error = loop {
                let error = format.read(&mut one).unwrap_err();
                if error.to_string().contains(&status.to_string()) || status == 503 {
                    break error;
                }
                std::thread::sleep(Duration::from_millis(20));
            };
            assert!(error.is_passing() && error.to_string().contains("not now"), "{error}");
            let asked = fake.asked();
            assert!(format.read(&mut one).is_err());
            assert_eq!(fake.asked(), asked);
        }
        assert!(matches!(format.prepared(&names()), Err(LogError::Refused { .. })));
        fake.kept.lock().unwrap().status = 503;
        assert!(matches!(format.prepared(&names()), Err(LogError::Kafka { .. })));
        fake.kept.lock().unwrap().status = 200;
        while format.read(&mut one).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(decoded(&one).is_ok());
    }

    #[test]
    fn settings_are_the_same_with_the_same_format_alone() {
        let format: Arc<dyn Framing> = Arc::new(WireFormat::new("http://127.0.0.1:1".parse().unwrap()));
        let with = |framing| KafkaSettings { framing, ..KafkaSettings::default() };
        assert_eq!(with(Framed::by(format.clone())), with(Framed::by(format.clone())));
        assert_ne!(with(Framed::by(format)), with(Framed::default()));
        assert_eq!(format!("{:?}", Framed::default()), "as they are");
    }
}
