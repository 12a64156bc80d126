//! The spool before a log that fails when it is told to.

use super::*;
use crate::log::MAX_INPUT_BYTES;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::TempDir;
use tokio::sync::Semaphore;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kafka {
    Up,
    /// Takes nothing, and says so.
    Refuses,
    /// Takes nothing, and says nothing.
    Silent,
    /// Takes everything, and says nothing.
    TakesSilently,
    /// Takes everything, and says so when it is allowed to.
    Slow,
}

/// What stands for Kafka, and what it has.
struct Fake {
    is: watch::Sender<Kafka>,
    taken: Mutex<Vec<(Topic, Input)>>,
    most_bytes: AtomicUsize,
    /// Answers that a slow one may give.
    answers: Semaphore,
}

impl Fake {
    async fn take(&self, topic: Topic, inputs: Vec<Input>) -> Result<Vec<Place>, LogError> {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let most = self.most_bytes.load(Ordering::SeqCst);
        let with_headers = |input: &Input| input.value.len() + input.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        let bytes = |input: &Input| if topic == Topic::Events { input.value.len() } else { with_headers(input) };
        let most = if topic == Topic::Events { most } else { MAX_INPUT_BYTES };
        if let Some(large) = inputs.iter().find(|input| bytes(input) > most) {
            return Err(LogError::TooLarge { topic, bytes: bytes(large), most });
        }
        let is = *self.is.borrow();
        let places = vec![Place { partition: 0, offset: 0 }; inputs.len()];
        match is {
            Kafka::Up | Kafka::TakesSilently | Kafka::Slow => self.taken.lock().unwrap().extend(inputs.into_iter().map(|input| (topic, input))),
            Kafka::Refuses => return Err(LogError::Kafka { operation: "appending".into(), why: "it is away".into() }),
            Kafka::Silent => {}
        }
        if is == Kafka::Slow {
            self.answers.acquire().await.unwrap().forget();
        } else if is != Kafka::Up {
            self.is.subscribe().wait_for(|is| *is == Kafka::Up).await.unwrap();
            return Err(LogError::Kafka { operation: "appending".into(), why: "it was away for too long".into() });
        }
        Ok(places)
    }

    fn values(&self, topic: Topic) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        taken.iter().filter(|(of, _)| *of == topic).map(|(_, input)| String::from_utf8_lossy(&input.value).into_owned()).collect()
    }
}

impl Appender for Fake {
    fn append(&self, input: Input) -> Appending<'_, Place> {
        Box::pin(async { Ok(self.take(Topic::Events, vec![input]).await?[0]) })
    }

    fn append_all(&self, inputs: Vec<Input>) -> Appending<'_, Vec<Place>> {
        Box::pin(self.take(Topic::Events, inputs))
    }

    fn append_dead_letter(&self, letter: Input) -> Appending<'_, Place> {
        Box::pin(async { Ok(self.take(Topic::DeadLetters, vec![letter]).await?[0]) })
    }
}

/// So long that a busy machine is no outage.
const PATIENCE: Duration = Duration::from_millis(700);

struct Subject {
    spool: Spool,
    fake: Arc<Fake>,
    forwarding: tokio::task::JoinHandle<()>,
    dir: TempDir,
}

impl Subject {
    fn new(is: Kafka, bytes: u64) -> Self {
        Self::patient(is, bytes, PATIENCE)
    }

    fn patient(is: Kafka, bytes: u64, patience: Duration) -> Self {
        let fake = Fake { is: watch::Sender::new(is), taken: Mutex::default(), most_bytes: AtomicUsize::new(usize::MAX), answers: Semaphore::new(0) };
        Self::open(tempfile::tempdir().unwrap(), Arc::new(fake), bytes, patience)
    }

    fn open(dir: TempDir, fake: Arc<Fake>, bytes: u64, patience: Duration) -> Self {
        let options = SpoolOptions { dir: dir.path().to_owned(), bytes, patience };
        let spool = Spool::open(options).unwrap();
        let (of_task, kafka) = (spool.clone(), fake.clone());
        let forwarding = tokio::spawn(async move { of_task.forward(kafka).await });
        Self { spool, fake, forwarding, dir }
    }

    /// As a process that was killed leaves it.
    async fn restarted(self) -> Self {
        let Self { spool, fake, forwarding, dir } = self;
        forwarding.abort();
        let _ = forwarding.await;
        // What runs on other threads lets go of it in the end.
        let kept = Arc::downgrade(&spool.kept);
        drop(spool);
        until("the spool is closed", || kept.strong_count() == 0).await;
        Self::open(dir, fake, u64::MAX, PATIENCE)
    }

    fn is(&self, is: Kafka) {
        self.fake.is.send_replace(is);
    }

    async fn append(&self, account: &str, value: &str) -> Result<Place, LogError> {
        self.spool.appender().append(input_of(account, value)).await
    }

    async fn is_direct(&self) {
        until("Kafka has everything", || self.spool.kept.state.borrow().mode == Mode::Direct).await;
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn input_of(account: &str, value: &str) -> Input {
    Input { account: account.into(), value: value.into(), headers: vec![("trace".into(), vec![1])] }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_outage_nothing_touches_the_spool() {
    let subject = Subject::new(Kafka::Up, u64::MAX);
    subject.is_direct().await;
    for n in 0..10 {
        subject.append("1", &n.to_string()).await.unwrap();
    }
    subject.spool.appender().append_dead_letter(input_of("1", "broken")).await.unwrap();
    assert_eq!(subject.fake.values(Topic::Events).len(), 10);
    assert_eq!(subject.fake.values(Topic::DeadLetters), ["broken"]);
    assert_eq!(subject.spool.kept.log.reader().end(Topic::Events, 0).unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_while_kafka_is_away_is_passed_on_in_order() {
    for away in [Kafka::Refuses, Kafka::Silent, Kafka::TakesSilently] {
        let subject = Subject::new(Kafka::Up, u64::MAX);
        subject.is_direct().await;
        subject.append("1", "0").await.unwrap();
        subject.is(away);
        for n in 1..50 {
            subject.append("1", &n.to_string()).await.unwrap();
        }
        subject.spool.appender().append_dead_letter(input_of("1", "broken")).await.unwrap();
        assert_eq!(subject.spool.entries(), 50, "{away:?}");
        subject.is(Kafka::Up);
        subject.is_direct().await;
        subject.append("1", "50").await.unwrap();
        let mut values = subject.fake.values(Topic::Events);
        // What arrived without an answer is there again: a duplicate is harmless.
        let last = values.iter().rposition(|value| value == "0").unwrap();
        assert_eq!(last, 0);
        let tail = values.split_off(values.len() - 50);
        assert_eq!(tail, (1..=50).map(|n| n.to_string()).collect::<Vec<_>>(), "{away:?}");
        assert!(subject.fake.values(Topic::DeadLetters).iter().all(|letter| letter == "broken"));
        assert_eq!(subject.fake.taken.lock().unwrap()[0].1, input_of("1", "0"), "{away:?}");
        let (entries, bytes) = (subject.spool.entries(), subject.spool.kept.state.borrow().held.bytes);
        assert_eq!((entries, bytes), (0, 0), "{away:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_in_order_while_kafka_comes_and_goes() {
    let subject = Arc::new(Subject::patient(Kafka::Up, u64::MAX, Duration::from_millis(50)));
    let writers: Vec<_> = (0..8)
        .map(|account: usize| {
            let subject = subject.clone();
            tokio::spawn(async move {
                for n in 0..400 {
                    subject.append(&account.to_string(), &n.to_string()).await.unwrap();
                }
            })
        })
        .collect();
    let comes_and_goes = async {
        for away in [Kafka::Refuses, Kafka::Silent, Kafka::TakesSilently].into_iter().cycle() {
            subject.is(away);
            tokio::time::sleep(Duration::from_millis(60)).await;
            subject.is(Kafka::Up);
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    };
    let written = async {
        for writer in writers {
            writer.await.unwrap();
        }
    };
    tokio::select! {
        () = written => {}
        () = comes_and_goes => {}
    }
    subject.is(Kafka::Up);
    subject.is_direct().await;
    let mut next: BTreeMap<String, usize> = BTreeMap::new();
    for (_, input) in subject.fake.taken.lock().unwrap().iter() {
        let n: usize = String::from_utf8_lossy(&input.value).parse().unwrap();
        let next = next.entry(input.account.clone()).or_default();
        assert!(n <= *next, "account {}: {n} came before {next}", input.account);
        *next = (*next).max(n + 1);
    }
    assert!(next.len() == 8 && next.values().all(|next| *next == 400), "{next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_when_handing_over_takes_too_long_is_not_sent_again() {
    let subject = Subject::new(Kafka::Refuses, u64::MAX);
    subject.append("1", "a").await.unwrap();
    subject.is(Kafka::Slow);
    until("the first is on its way", || subject.fake.values(Topic::Events) == ["a"]).await;
    subject.append("1", "b").await.unwrap();
    subject.fake.answers.add_permits(1);
    // What is new waits for the rest, and then no more.
    until("the rest is on its way", || subject.fake.values(Topic::Events) == ["a", "b"]).await;
    subject.append("1", "c").await.unwrap();
    assert_eq!(subject.spool.kept.state.borrow().mode, Mode::Spooling);
    subject.fake.answers.add_permits(1);
    subject.is(Kafka::Up);
    subject.is_direct().await;
    assert_eq!(subject.fake.values(Topic::Events), ["a", "b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_leaves_behind_the_next_passes_on() {
    let mut subject = Subject::new(Kafka::Silent, u64::MAX);
    subject.append("1", "a").await.unwrap();
    subject.append("2", "b").await.unwrap();
    for _ in 0..2 {
        subject = subject.restarted().await;
        assert_eq!(subject.spool.entries(), 2);
    }
    let bytes = subject.spool.kept.state.borrow().held.bytes;
    subject.append("1", "a").await.unwrap();
    assert_eq!(subject.spool.kept.state.borrow().held.bytes, bytes / 2 * 3, "it is weighed as it was");
    subject.is(Kafka::Up);
    subject.is_direct().await;
    assert_eq!(subject.fake.values(Topic::Events), ["a", "b", "a"]);
    subject = subject.restarted().await;
    assert_eq!(subject.spool.entries(), 0, "what was passed on is gone");
    subject.is_direct().await;
    assert_eq!(subject.fake.values(Topic::Events).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_takes_no_more_until_kafka_has_taken_some() {
    let subject = Subject::new(Kafka::Refuses, 1_000);
    let value = "x".repeat(300);
    for _ in 0..2 {
        subject.append("1", &value).await.unwrap();
    }
    let refused = subject.append("1", &value).await.unwrap_err();
    assert!(matches!(refused, LogError::SpoolFull { most: 1_000, bytes: 700..=1_000, .. }), "{refused}");
    subject.append("1", "small").await.unwrap();
    subject.is(Kafka::Up);
    subject.is_direct().await;
    subject.append("1", &value).await.unwrap();
    assert_eq!(subject.fake.values(Topic::Events), [value.clone(), value.clone(), "small".into(), value]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_can_send_again_is_told_to() {
    let subject = Subject::new(Kafka::Up, u64::MAX);
    subject.is_direct().await;
    let direct = subject.spool.direct_appender();
    direct.append(input_of("1", "a")).await.unwrap();
    subject.is(Kafka::Refuses);
    assert!(matches!(direct.append(input_of("1", "b")).await, Err(LogError::Kafka { .. })));
    subject.append("1", "c").await.unwrap();
    assert!(matches!(direct.append(input_of("1", "d")).await, Err(LogError::Away { entries: 1 })));
    subject.is(Kafka::Up);
    subject.is_direct().await;
    direct.append_all(vec![input_of("1", "e"), input_of("1", "f")]).await.unwrap();
    assert_eq!(subject.fake.values(Topic::Events), ["a", "c", "e", "f"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_away_leaves_nothing_uncounted() {
    let subject = Subject::new(Kafka::Silent, u64::MAX);
    for n in 0..200 {
        let appender = subject.spool.appender();
        let appending = tokio::spawn(async move { appender.append(input_of("1", &n.to_string())).await });
        tokio::task::yield_now().await;
        appending.abort();
    }
    subject.append("1", "last").await.unwrap();
    subject.is(Kafka::Up);
    subject.is_direct().await;
    assert_eq!(subject.fake.values(Topic::Events).last().unwrap(), "last");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_kafka_finds_too_large_does_not_stand_in_the_way() {
    let subject = Subject::new(Kafka::Refuses, u64::MAX);
    // The last is so large that as a letter, with a cause beside it, it would be too large whole.
    let largest = "x".repeat(MAX_INPUT_BYTES - 100);
    for value in ["a", "too large", "b", &largest] {
        subject.append("1", value).await.unwrap();
    }
    subject.fake.most_bytes.store(2, Ordering::SeqCst);
    subject.is(Kafka::Up);
    subject.is_direct().await;
    assert_eq!(subject.fake.values(Topic::Events), ["a", "b"]);
    let letters = subject.fake.values(Topic::DeadLetters);
    assert_eq!((letters[0].as_str(), letters.len()), ("too large", 2));
    assert_eq!(letters[1], largest[..letter::MOST_BODY]);
    // Where it is the caller's to know, it is told.
    assert!(matches!(subject.append("1", "too large").await, Err(LogError::TooLarge { .. })));
}
