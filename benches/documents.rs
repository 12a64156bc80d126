//! How fast documents become events: `make bench ARGS="--bench documents"`.
//!
//! `classify` is to reach 150 MB/s of telephony notifications on one core with judging, so reading one of about 1 kB may take
//! 3 µs at most; the run ends with an error where it takes longer.

use callsieve::judge::number::Country;
use callsieve::ringcentral::documents::{Asked, read_document};
use divan::Bencher;
use divan::counter::BytesCount;
use std::process::ExitCode;
use std::time::Instant;

const ASKED: Asked<'static> = Asked { account: None, received_at: None, country: Country::DEFAULT, history: true };

/// The longest that reading one notification may take.
const LIMIT_NANOS: u128 = 3_000;

/// A notification with all the fields that a live one has, about 1 kB.
fn notification(n: usize) -> String {
    let n = n % 10_000;
    format!(
        r#"{{"uuid":"71524{n:05}8841234567","event":"/restapi/v1.0/account/700100200/extension/7001{n:05}/telephony/sessions","timestamp":"2026-03-04T05:06:07.123Z","subscriptionId":"5c37f936-0a66-4b4b-95af-1e94b51a7{n:05}","ownerId":"700100301","body":{{"sequence":{seq},"sessionId":"40293{n:05}","telephonySessionId":"s-a0d17930c96bdz18b67acb764z3775{n:05}0","serverId":"10.13.22.27.TAM","eventTime":"2026-03-04T05:06:07.101Z","parties":[{{"accountId":"700100200","extensionId":"7001{n:05}","id":"p-a0d17930c96bdz18b67acb764z3775{n:05}0-2","direction":"Inbound","to":{{"phoneNumber":"+1650555{n:04}","name":"Ana Example","extensionId":"7001{n:05}"}},"from":{{"phoneNumber":"+1415555{n:04}","name":"WIRELESS CALLER"}},"status":{{"code":"Answered","rcc":false,"mobilePickupData":{{"ccMailboxes":["7001{n:05}"],"to":"\#19008@example.com:5060","sid":"4029364{n:05}","srvLvl":"-149699523","srvLvlExt":"390"}}}},"recordings":[{{"id":"16622{n:05}","active":true}}],"missedCall":false,"standAlone":false,"muted":false,"uiCallInfo":{{"primary":{{"type":"CallerIdName","value":"WIRELESS CALLER"}}}}}}],"origin":{{"type":"Call"}}}}}}"#,
        seq = n % 12 + 2
    )
    .replace("\\#", "#")
}

/// A call-log response with 100 Detailed records of two legs.
fn call_log() -> String {
    let record = |n: usize| {
        let sides =
            format!(r#""from":{{"phoneNumber":"+1415555{n:04}","name":"X"}},"to":{{"phoneNumber":"+16505550177","extensionId":"11","name":"Ana"}}"#);
        let common = format!(
            r#""startTime":"2026-03-04T05:00:00.000Z","duration":61,"type":"Voice","direction":"Inbound","action":"Phone Call","result":"Accepted",{sides}"#
        );
        format!(
            r#"{{"id":"Ab{n}","sessionId":"9{n}","telephonySessionId":"s-a0d178729c49dz1876d9b9d11z1926{n:04}0","uri":"https://x/restapi/v1.0/account/700/call-log/Ab{n}",{common},"legs":[{{"legType":"Accept","master":true,{common}}},{{"legType":"FindMe",{common}}}]}}"#
        )
    };
    let records: Vec<_> = (0..100).map(record).collect();
    format!(r#"{{"uri":"https://x/restapi/v1.0/account/700/call-log","records":[{}],"paging":{{"page":1}}}}"#, records.join(","))
}

#[divan::bench]
fn telephony_notification(bencher: Bencher) {
    let document = notification(42);
    bencher.counter(BytesCount::of_str(&document)).bench(|| read_document(divan::black_box(document.as_bytes()), &ASKED));
}

#[divan::bench]
fn wrapped_telephony_notification(bencher: Bencher) {
    let document = format!(r#"{{"received_at":"2026-03-04T05:06:08.000Z","document":{}}}"#, notification(42));
    bencher.counter(BytesCount::of_str(&document)).bench(|| read_document(divan::black_box(document.as_bytes()), &ASKED));
}

#[divan::bench]
fn call_log_of_100_detailed_records(bencher: Bencher) {
    let document = call_log();
    bencher.counter(BytesCount::of_str(&document)).bench(|| read_document(divan::black_box(document.as_bytes()), &ASKED));
}

/// What no reader that goes through serde_json can beat: all of the text looked at, nothing kept.
#[divan::bench]
fn skipping_a_notification(bencher: Bencher) {
    let document = notification(42);
    bencher.counter(BytesCount::of_str(&document)).bench(|| serde_json::from_str::<serde::de::IgnoredAny>(divan::black_box(&document)));
}

fn main() -> ExitCode {
    divan::main();
    let documents: Vec<_> = (0..1_000).map(notification).collect();
    let bytes: usize = documents.iter().map(String::len).sum();
    // The best of several rounds: the limit is about the code, not about what else the machine does.
    let round = || {
        let start = Instant::now();
        for document in &documents {
            assert!(read_document(divan::black_box(document.as_bytes()), &ASKED).is_ok_and(|read| read.events.len() == 1));
        }
        start.elapsed().as_nanos() / documents.len() as u128
    };
    let best = (0..50).map(|_| round()).min().unwrap_or(u128::MAX);
    println!("a telephony notification of {} bytes: {best} ns, limit {LIMIT_NANOS} ns", bytes / documents.len());
    if best <= LIMIT_NANOS { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
