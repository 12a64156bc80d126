//! Webhooks over HTTP into the embedded log of a whole running service: how many notifications a second are acknowledged when
//! clients wait for nothing but the answers, and how long one takes at half the limit. Client and service share the machine.
//!
//! `make bench ARGS="--bench ingress"`

use callsieve::registry::RegistryArgs;
use callsieve::roles::service::{LogFormat, RunArgs, Service};
use callsieve::simulate::{Company, CompanyConfig};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Notifications per second, and the 99th percentile at half of that, which the service has to reach.
const LIMIT: f64 = 20_000.0;
const LIMIT_P99: Duration = Duration::from_millis(20);
const CONNECTIONS: usize = 128;
const LASTS: Duration = Duration::from_secs(8);

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(measure());
}

async fn measure() {
    let folder = tempfile::tempdir().expect("a folder");
    let args = RunArgs {
        config: None,
        advertise: None,
        standbys: 0,
        registry: RegistryArgs::default(),
        data_dir: folder.path().to_path_buf(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        partitions: Some(1),
        brokers: None,
        topic_prefix: "callsieve.".into(),
        group: None,
        workers: 1,
        instance: None,
        kafka: Vec::new(),
        allow_old_brokers: false,
        spool_bytes: 0,
        verification_token: Some("secret".into()),
        api_token: None,
        body_limit: 1 << 20,
        rate_limit: 10_000_000,
        simulate: None,
        simulate_speed: 1.0,
        log_format: LogFormat::Text,
    };
    let service = Service::start(&args).await.expect("the service starts");
    let requests = Arc::new(requests());
    let bytes: usize = requests.iter().map(Vec::len).sum();
    println!("{} different notifications of {} bytes on average, {CONNECTIONS} connections", requests.len(), bytes / requests.len());

    let (rate, _) = load(service.address(), &requests, None).await;
    println!("as fast as answers come: {rate:.0}/s (limit {LIMIT:.0}): {}", verdict(rate >= LIMIT));
    let (rate, mut times) = load(service.address(), &requests, Some(LIMIT / 2.0)).await;
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "at {rate:.0}/s: p50 {:.2?}, p99 {:.2?} (limit {LIMIT_P99:?}), p99.9 {:.2?}: {}",
        at(0.5),
        at(0.99),
        at(0.999),
        verdict(at(0.99) <= LIMIT_P99)
    );
    service.stop().await.expect("it stops");
}

fn verdict(is_reached: bool) -> &'static str {
    if is_reached { "reached" } else { "NOT REACHED" }
}

/// Notifications of a company's hour, as HTTP requests.
fn requests() -> Vec<Vec<u8>> {
    let config = CompanyConfig::default();
    let company = Company::generate(1, &config);
    let mut requests = Vec::new();
    for call in company.hours(config.start + 3_600_000, 1, 2_000) {
        for notification in &call.notifications {
            let mut body = String::new();
            notification.write_for("sub-1", "101", &mut body);
            let head = format!(
                "POST /webhooks/ringcentral/{} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nverification-token: secret\r\ncontent-length: {}\r\n\r\n",
                company.account_id,
                body.len()
            );
            requests.push([head.into_bytes(), body.into_bytes()].concat());
        }
    }
    requests
}

/// Sends for a while: as fast as each connection gets its answers, or by a common timetable; a time then counts from the
/// moment at which the request was to be sent.
async fn load(address: SocketAddr, requests: &Arc<Vec<Vec<u8>>>, rate: Option<f64>) -> (f64, Vec<Duration>) {
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let clients: Vec<_> = (0..CONNECTIONS).map(|_| tokio::spawn(client(address, requests.clone(), next.clone(), began, rate))).collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await.expect("no client panics"));
    }
    (times.len() as f64 / began.elapsed().as_secs_f64(), times)
}

async fn client(address: SocketAddr, requests: Arc<Vec<Vec<u8>>>, next: Arc<AtomicUsize>, began: Instant, rate: Option<f64>) -> Vec<Duration> {
    let mut connection = TcpStream::connect(address).await.expect("it connects");
    connection.set_nodelay(true).expect("no delay");
    let mut answer = [0; 4096];
    let mut times = Vec::new();
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let due = rate.map_or_else(Instant::now, |rate| began + Duration::from_secs_f64(n as f64 / rate));
        if due.duration_since(began) >= LASTS {
            return times;
        }
        tokio::time::sleep_until(due.into()).await;
        connection.write_all(&requests[n % requests.len()]).await.expect("it takes the request");
        let mut length = 0;
        while !answer[..length].ends_with(b"\r\n\r\n") {
            let read = connection.read(&mut answer[length..]).await.expect("it answers");
            assert!(read > 0, "the connection stays open");
            length += read;
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));
        times.push(due.elapsed());
    }
}
