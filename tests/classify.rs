//! `callsieve classify`, through the binary: documents in, verdicts out, exit status and messages.

#![allow(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "helpers of tests are no test functions to clippy")]

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const ACCOUNT: &str = "700100200";
const OURS: &str = "+16505550177";
const COLLEAGUE: &str = "+16505550178";
const CUSTOMER: &str = "+14155550142";

/// What a run of the command gave.
struct Ran {
    status: i32,
    out: String,
    err: String,
}

impl Ran {
    fn verdicts(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// Session, revision and verdict of each line.
    fn brief(&self) -> Vec<String> {
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        self.verdicts().iter().map(|v| format!("{} {} {}", text(&v["session_id"]), v["revision"], text(&v["verdict"]))).collect()
    }

    fn only(&self) -> Value {
        let verdicts = self.verdicts();
        assert_eq!(verdicts.len(), 1, "{}{}", self.out, self.err);
        verdicts[0].clone()
    }
}

fn run(args: &[&str], stdin: &[u8]) -> Ran {
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_callsieve")).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Wrong usage ends it before it reads.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    Ran { status: output.status.code().unwrap_or(-1), out: String::from_utf8(output.stdout).unwrap(), err: String::from_utf8(output.stderr).unwrap() }
}

/// Judges documents, one a line, with these options.
fn judge(options: &[&str], documents: &[Value]) -> Ran {
    let lines: String = documents.iter().map(|document| format!("{document}\n")).collect();
    run(&[&["classify", "-"], options].concat(), lines.as_bytes())
}

/// Judges without complaint.
fn judged(options: &[&str], documents: &[Value]) -> Ran {
    let ran = judge(options, documents);
    assert_eq!(ran.status, 0, "{}", ran.err);
    ran
}

fn party(from: Value, to: Value, status: &str) -> Value {
    json!({"id": "p-1", "accountId": ACCOUNT, "direction": "Inbound", "from": from, "to": to, "status": {"code": status}})
}

fn notification(session: &str, sequence: u32, at: &str, party: Value) -> Value {
    json!({
        "uuid": format!("{session}-{sequence}"), "event": format!("/restapi/v1.0/account/{ACCOUNT}/telephony/sessions"), "timestamp": at,
        "subscriptionId": "s", "body": {
            "sequence": sequence, "telephonySessionId": session, "eventTime": at, "parties": [party], "origin": {"type": "Call"}
        }
    })
}

/// A call between two numbers that is answered and ends, on a minute of the 5th of January.
fn call(session: &str, minute: u32, from: &str, to: &str) -> Vec<Value> {
    let at = |second: u32| format!("2026-01-05T08:{minute:02}:{second:02}.000Z");
    let party = |status| party(json!({"phoneNumber": from}), json!({"phoneNumber": to}), status);
    vec![
        notification(session, 2, &at(0), party("Setup")),
        notification(session, 3, &at(5), party("Answered")),
        notification(session, 4, &at(30), party("Disconnected")),
    ]
}

/// A list that makes these numbers the company's. It has no time.
fn numbers(of: &[&str]) -> Value {
    let records: Vec<Value> = of.iter().map(|number| json!({"phoneNumber": number, "usageType": "DirectNumber", "type": "VoiceFax"})).collect();
    json!({
        "uri": format!("https://platform.example.com/restapi/v1.0/account/{ACCOUNT}/phone-number?page=1&perPage=100"),
        "records": records, "paging": {"page": 1, "perPage": 100}, "navigation": {}
    })
}

fn wrapped(at: &str, document: &Value) -> Value {
    json!({"received_at": at, "document": document})
}

fn record(session: &str, from: Value, to: Value) -> Value {
    json!({
        "uri": format!("https://platform.example.com/restapi/v1.0/account/{ACCOUNT}/call-log/{session}?view=Simple"), "id": session,
        "telephonySessionId": session, "startTime": "2026-01-05T07:00:00.000Z", "duration": 60, "type": "Voice", "direction": "Inbound",
        "action": "Phone Call", "result": "Accepted", "from": from, "to": to
    })
}

#[test]
fn a_line_per_call_with_its_newest_verdict_by_end_of_call() {
    let documents = [vec![numbers(&[OURS, COLLEAGUE])], call("s-late", 9, OURS, COLLEAGUE), call("s-early", 3, CUSTOMER, OURS)].concat();
    let ran = judged(&[], &documents);
    assert_eq!(ran.brief(), ["s-early 1 EXTERNAL", "s-late 1 INTERNAL"]);
    let first = &ran.verdicts()[0];
    assert_eq!(first["account_id"], ACCOUNT);
    assert_eq!(first["started_at"], "2026-01-05T08:03:00.000Z");
    assert_eq!(first["ended_at"], "2026-01-05T08:03:30.000Z");
    assert_eq!((&first["ended_by"], &first["disposition"], &first["snapshot_complete"]), (&json!("LAST_LEG"), &json!("INGEST"), &json!(true)));
    let reasons: Vec<_> = first["endpoints"].as_array().unwrap().iter().map(|e| (&e["number"], &e["reason"])).collect();
    assert_eq!(reasons, [(&json!(CUSTOMER), &json!("NOT_IN_SNAPSHOT")), (&json!(OURS), &json!("IN_SNAPSHOT"))]);
    assert!(first.get("call").is_none());
}

#[test]
fn calls_that_end_together_stand_by_session_id() {
    let documents = [call("s-b", 3, CUSTOMER, OURS), call("s-c", 3, CUSTOMER, OURS), call("s-a", 3, CUSTOMER, OURS)].concat();
    assert_eq!(judged(&[], &documents).brief(), ["s-a 1 EXTERNAL", "s-b 1 EXTERNAL", "s-c 1 EXTERNAL"]);
}

#[test]
fn filter_says_what_becomes_of_internal_calls() {
    let documents = [vec![numbers(&[OURS, COLLEAGUE])], call("s-1", 3, OURS, COLLEAGUE), call("s-2", 4, CUSTOMER, OURS)].concat();
    for (options, expected) in
        [(&[][..], ["INGEST", "INGEST"]), (&["--filter", "off"], ["INGEST", "INGEST"]), (&["--filter", "on"], ["DISREGARD", "INGEST"])]
    {
        let dispositions: Vec<Value> = judged(options, &documents).verdicts().iter().map(|v| v["disposition"].clone()).collect();
        assert_eq!(dispositions, expected, "{options:?}");
    }
}

#[test]
fn country_is_that_of_numbers_without_a_plus() {
    let documents = [vec![numbers(&["+441161008581", "+442071838750"])], call("s-1", 3, "01161008581", "020 7183 8750")].concat();
    assert_eq!(judged(&["--country", "gb"], &documents).brief(), ["s-1 1 INTERNAL"]);
    assert_eq!(judged(&[], &documents).brief(), ["s-1 1 EXTERNAL"]);
}

#[test]
fn an_extension_id_is_trusted_only_when_asked() {
    let at = "2026-01-05T08:00:00.000Z";
    let us = json!({"phoneNumber": COLLEAGUE, "extensionId": "11"});
    let documents = [numbers(&[OURS]), notification("s-1", 2, at, party(us, json!({"phoneNumber": OURS}), "Disconnected"))];
    assert_eq!(judged(&[], &documents).brief(), ["s-1 1 EXTERNAL"]);
    assert_eq!(judged(&["--trust-extension-id"], &documents).brief(), ["s-1 1 INTERNAL"]);
}

#[test]
fn the_call_logs_own_numbers_join_unless_history_is_off() {
    let documents = [
        vec![record("s-log", json!({"phoneNumber": CUSTOMER}), json!({"phoneNumber": OURS, "extensionId": "11"}))],
        vec![record("s-log-2", json!({"phoneNumber": CUSTOMER}), json!({"phoneNumber": COLLEAGUE, "extensionId": "12"}))],
        call("s-new", 3, OURS, COLLEAGUE),
    ]
    .concat();
    assert!(judged(&[], &documents).brief().contains(&"s-new 1 INTERNAL".to_owned()));
    assert!(judged(&["--history", "on"], &documents).brief().contains(&"s-new 1 INTERNAL".to_owned()));
    assert!(judged(&["--history", "off"], &documents).brief().contains(&"s-new 1 EXTERNAL".to_owned()));
}

#[test]
fn account_serves_documents_that_name_none() {
    let list = json!({"records": [{"phoneNumber": OURS, "usageType": "DirectNumber"}, {"phoneNumber": COLLEAGUE, "usageType": "DirectNumber"}],
                      "paging": {"page": 1, "perPage": 100}});
    let documents = [vec![list], call("s-1", 3, OURS, COLLEAGUE)].concat();
    assert_eq!(judged(&["--account", ACCOUNT], &documents).brief(), ["s-1 1 INTERNAL"]);
    // Those of nobody are not those of this account.
    assert_eq!(judged(&[], &documents).brief(), ["s-1 1 EXTERNAL"]);
    let mut nameless = record("s-log", json!({"phoneNumber": CUSTOMER}), json!({"phoneNumber": OURS}));
    nameless["uri"] = Value::Null;
    assert_eq!(judged(&[], std::slice::from_ref(&nameless)).only()["account_id"], "~");
    assert_eq!(judged(&["--account", "12"], &[nameless]).only()["account_id"], "12");
}

#[test]
fn revisions_are_printed_as_they_are_decided() {
    let documents = [vec![numbers(&[OURS])], call("s-1", 3, OURS, COLLEAGUE), call("s-2", 10, CUSTOMER, OURS), vec![numbers(&[COLLEAGUE])]].concat();
    let ran = judged(&["--revisions", "--filter", "on"], &documents);
    assert_eq!(ran.brief(), ["s-1 1 EXTERNAL", "s-1 2 INTERNAL", "s-2 1 EXTERNAL"]);
    let corrected = &ran.verdicts()[1];
    assert_eq!((&corrected["cause"], &corrected["previous_verdict"]), (&json!("SNAPSHOT_GREW"), &json!("EXTERNAL")));
    assert_eq!(corrected["disposition"], "DISREGARD");
    assert_eq!(corrected["history"][0]["verdict"], "EXTERNAL");
    assert_eq!(judged(&[], &documents).brief(), ["s-1 2 INTERNAL", "s-2 1 EXTERNAL"]);
}

#[test]
fn no_revision_is_lost_where_another_account_comes() {
    let of = |account: &str, documents: Vec<Value>| {
        let with = |mut document: Value| {
            document["event"] = json!(format!("/restapi/v1.0/account/{account}/telephony/sessions"));
            document
        };
        documents.into_iter().map(with).collect::<Vec<_>>()
    };
    // The first account's call is due when the second one's comes.
    let documents = [of("7", call("s-1", 3, CUSTOMER, OURS)), of("8", call("s-2", 10, CUSTOMER, OURS))].concat();
    assert_eq!(judged(&["--revisions"], &documents).brief(), ["s-1 1 EXTERNAL", "s-2 1 EXTERNAL"]);
}

#[test]
fn a_fax_has_no_verdict_and_loses_one_that_it_has() {
    let mut fax = record("s-1", json!({"phoneNumber": CUSTOMER}), json!({"phoneNumber": OURS}));
    fax["type"] = json!("Fax");
    let documents = [call("s-1", 3, CUSTOMER, OURS), call("s-2", 10, CUSTOMER, OURS), vec![fax]].concat();
    assert_eq!(judged(&[], &documents).brief(), ["s-2 1 EXTERNAL"]);
    let ran = judged(&["--revisions"], &documents);
    assert_eq!(ran.brief(), ["s-1 1 EXTERNAL", "s-2 1 EXTERNAL"]);
    assert!(ran.err.contains("session s-1: it is a fax"), "{}", ran.err);
}

#[test]
fn a_lost_end_is_judged_at_the_idle_limit() {
    let mut documents = call("s-1", 3, CUSTOMER, OURS);
    documents.pop();
    let verdict = judged(&[], &documents).only();
    assert_eq!((&verdict["ended_by"], &verdict["verdict"]), (&json!("IDLE_LIMIT"), &json!("EXTERNAL")));
    assert_eq!(verdict["decided_at"], "2026-01-06T08:03:05.000Z");
}

#[test]
fn a_legacy_session_that_is_superseded_is_no_call() {
    let mut old = record("s-real", json!({"phoneNumber": CUSTOMER}), json!({"phoneNumber": OURS}));
    old["telephonySessionId"] = Value::Null;
    old["sessionId"] = json!("5566");
    let mut real = call("s-real", 9, CUSTOMER, OURS);
    for document in &mut real {
        document["body"]["sessionId"] = json!("5566");
    }
    let documents = [vec![old], real].concat();
    assert_eq!(judged(&[], &documents).brief(), ["s-real 1 EXTERNAL"]);
    let all = judged(&["--revisions"], &documents);
    let superseded = all.verdicts().into_iter().find(|v| v["superseded_by"] == "s-real").unwrap_or_else(|| panic!("{}", all.out));
    assert_eq!(superseded["session_id"], "legacy:5566");
}

#[test]
fn explain_adds_the_evidence() {
    let documents = call("s-1", 3, CUSTOMER, OURS);
    let verdict = judged(&["--explain"], &documents).only();
    assert_eq!(verdict["call"]["legs"][0]["from"]["numbers"], json!([CUSTOMER]));
    assert_eq!(verdict["call"]["started_at"], "2026-01-05T08:03:00.000Z");
}

#[test]
fn csv_has_stable_columns() {
    let documents = [vec![numbers(&[OURS])], call("s-1", 3, CUSTOMER, OURS)].concat();
    let ran = judged(&["--format", "csv"], &documents);
    let expected = "account_id,session_id,revision,verdict,disposition,cause,ended_by,started_at,ended_at,decided_at,endpoints,external_reasons,\
        linked_sessions,recorded_extensions,superseded_by\n\
        700100200,s-1,1,EXTERNAL,INGEST,CALL_ENDED,LAST_LEG,2026-01-05T08:03:00.000Z,2026-01-05T08:03:30.000Z,2026-01-05T08:03:33.000Z,\
        EXTERNAL NOT_IN_SNAPSHOT +14155550142; INTERNAL IN_SNAPSHOT +16505550177,NOT_IN_SNAPSHOT,,,\n";
    assert_eq!(ran.out, expected);
    let explained = judged(&["--format", "csv", "--explain"], &documents);
    assert!(explained.out.lines().next().unwrap().ends_with(",superseded_by,call"), "{}", explained.out);
    assert!(explained.out.contains("\"\"legs\"\":["), "{}", explained.out);
    assert_eq!(judged(&["--format", "csv"], &[]).out.lines().count(), 1, "the header alone");
}

#[test]
fn a_table_for_people() {
    let documents = [vec![numbers(&[OURS, COLLEAGUE])], call("s-1", 3, OURS, COLLEAGUE), call("s-2", 4, CUSTOMER, OURS)].concat();
    let ran = judged(&["--format", "table", "--filter", "on"], &documents);
    let expected = "\
Start (UTC)          Duration  From                    To                      Verdict   Disposition  Why
2026-01-05 08:03:00  0:30      +16505550177            +16505550178            internal  disregard    everybody is of the company
2026-01-05 08:04:00  0:30      +14155550142            +16505550177            external  ingest       +14155550142 is no number of the company
";
    assert_eq!(ran.out, expected);
    assert_eq!(ran.err, "2 calls: 1 internal, 1 external; 1 to disregard, 1 to ingest\n");
    let explained = judged(&["--format", "table", "--explain"], &documents);
    assert!(explained.out.contains("    account 700100200, session s-2, revision 1, ended by LAST_LEG\n"), "{}", explained.out);
    let known = "    internal  +16505550177 is a number of the company, known since 2026-01-05T08:03:00.000Z by PHONE_NUMBERS, answered\n";
    assert!(explained.out.contains(known), "{}", explained.out);
}

#[test]
fn a_table_of_revisions_counts_calls() {
    let documents = [vec![numbers(&[OURS])], call("s-1", 3, OURS, COLLEAGUE), call("s-2", 10, CUSTOMER, OURS), vec![numbers(&[COLLEAGUE])]].concat();
    let ran = judged(&["--revisions", "--format", "table", "--filter", "on"], &documents);
    assert_eq!(ran.out.lines().count(), 1 + 3, "{}", ran.out);
    assert_eq!(ran.err, "2 calls: 1 internal, 1 external; 1 to disregard, 1 to ingest\n");
}

#[test]
fn arrival_is_that_of_the_wrapper_else_the_documents_own_time() {
    let [first, .., last] = &call("s-1", 3, CUSTOMER, OURS)[..] else { panic!("three") };
    let ran = judged(&[], &[wrapped("2026-02-01T00:00:00Z", first), wrapped("2026-02-01T00:00:10Z", last)]);
    // The missing sequence 3 makes it settle for 30 s.
    assert_eq!(ran.only()["decided_at"], "2026-02-01T00:00:40.000Z");
    assert_eq!(judged(&[], &[first.clone(), last.clone()]).only()["decided_at"], "2026-01-05T08:04:00.000Z");
}

#[test]
fn an_array_gives_what_its_elements_give_line_by_line() {
    let documents = [
        vec![numbers(&[OURS])],
        call("s-1", 3, OURS, COLLEAGUE),
        call("s-2", 10, CUSTOMER, OURS),
        vec![numbers(&[COLLEAGUE]), json!({"no": "document"})],
        call("s-3", 20, OURS, COLLEAGUE),
    ]
    .concat();
    for options in [&["--revisions", "--explain"][..], &["--explain"]] {
        let (lines, array) = (judge(options, &documents), judge(options, &[json!(documents)]));
        assert!(lines.out.contains("\"SNAPSHOT_GREW\""), "{}", lines.out);
        let shown = |ran: &Ran| ran.verdicts().into_iter().map(|verdict| format!("{verdict:#}")).collect::<Vec<_>>();
        assert_eq!(shown(&array), shown(&lines), "{options:?}");
        assert_eq!((array.status, array.err.lines().count()), (lines.status, 1), "{}", array.err);
    }
}

#[test]
fn every_kind_of_document_is_read() {
    let uri = |rest: &str| format!("https://platform.example.com/restapi/v1.0/account/{ACCOUNT}/{rest}");
    let event = |path: &str, body: Value| json!({"uuid": "u", "event": format!("/restapi/v1.0/account/{ACCOUNT}/{path}"), "timestamp": "2026-01-05T08:00:00.000Z", "subscriptionId": "s", "body": body});
    let contact = json!({"id": "11", "type": "User", "extensionNumber": "101", "account": {"id": ACCOUNT}, "phoneNumbers": [{"phoneNumber": OURS}]});
    let mut notified = contact.clone();
    notified["eventType"] = json!("Update");
    // Documents that bring the number of our side.
    let bring: Vec<(&str, Value)> = vec![
        ("phone numbers, v1", numbers(&[OURS])),
        (
            "phone numbers, v2",
            json!({"records": [{"id": "1", "phoneNumber": OURS, "usageType": "DirectNumber", "status": "Normal"}], "paging": {"page": 1}}),
        ),
        (
            "forwarding numbers",
            json!({"uri": uri("extension/11/forwarding-number?page=1"), "records": [{"id": "1", "phoneNumber": OURS, "label": "Mobile", "features": ["CallForwarding"]}]}),
        ),
        ("directory entries", json!({"records": [contact], "paging": {"page": 1}})),
        ("an account", json!({"uri": uri("").trim_end_matches('/'), "id": 700100200, "mainNumber": OURS, "status": "Confirmed"})),
        ("a directory notification", event("directory/entries", json!({"contacts": [notified]}))),
        (
            "a contact-centre number",
            event("phone-number?usageType=ContactCenterNumber", json!({"eventType": "Created", "phoneNumberInfo": {"id": "5", "phoneNumber": OURS}})),
        ),
    ];
    for (what, document) in bring {
        let documents = [vec![document, numbers(&[COLLEAGUE])], call("s-1", 3, OURS, COLLEAGUE)].concat();
        assert_eq!(judged(&["--account", ACCOUNT], &documents).brief(), ["s-1 1 INTERNAL"], "{what}");
    }
    let extensions = json!({"uri": uri("extension?page=1"), "records": [{"id": 11, "extensionNumber": "101", "name": "Ana", "type": "User", "status": "Enabled"}]});
    let documents = [vec![extensions, numbers(&[OURS])], call("s-1", 3, OURS, "101")].concat();
    assert_eq!(judged(&[], &documents).brief(), ["s-1 1 INTERNAL"], "an extension list");

    // Documents that are about a call.
    let one = record("s-1", json!({"phoneNumber": CUSTOMER}), json!({"phoneNumber": OURS}));
    let mut detailed = one.clone();
    detailed["legs"] =
        json!([{"legType": "Accept", "master": true, "direction": "Inbound", "from": one["from"], "to": one["to"], "result": "Accepted"}]);
    let session = json!({"id": "s-1", "accountId": ACCOUNT, "origin": {"type": "Call"}, "creationTime": "2026-01-05T08:00:00.000Z",
                         "parties": [party(json!({"phoneNumber": CUSTOMER}), json!({"phoneNumber": OURS}), "Disconnected")]});
    let notified =
        notification("s-1", 2, "2026-01-05T08:00:00.000Z", party(json!({"phoneNumber": CUSTOMER}), json!({"phoneNumber": OURS}), "Disconnected"));
    let calls: Vec<(&str, Value)> = vec![
        ("a notification", notified.clone()),
        ("a notification in pn_apns", json!({"uuid": "1", "ownerId": "2", "pn_apns": notified})),
        ("a session from REST", session),
        ("a Simple record", one.clone()),
        ("a Detailed record", detailed.clone()),
        ("a call-log response", json!({"uri": uri("call-log?view=Detailed"), "records": [detailed], "paging": {"page": 1}, "navigation": {}})),
        ("an array", json!([one])),
    ];
    for (what, document) in calls {
        assert_eq!(judged(&[], &[document]).brief(), ["s-1 1 EXTERNAL"], "{what}");
    }
    let silent = event("extension", json!({"extensionId": "11", "eventType": "Create"}));
    assert_eq!(judged(&[], &[silent]).out, "", "an extension notification");
}

#[test]
fn several_files_are_one_stream_in_the_given_order_however_they_are_laid_out() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: String| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let [first, second, third] = &call("s-1", 3, OURS, COLLEAGUE)[..] else { panic!("three") };
    let lists = write("lists.json", serde_json::to_string_pretty(&numbers(&[OURS, COLLEAGUE])).unwrap());
    let lines = write("lines", format!("{first}\r\n\r\n{second}\r\n"));
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let ran = run(&["classify", &path(&lists), &path(&lines), "-"], serde_json::to_string_pretty(&json!([third])).unwrap().as_bytes());
    assert_eq!((ran.status, ran.brief()), (0, vec!["s-1 1 INTERNAL".to_owned()]), "{}", ran.err);
    // The list last: what was decided without it is corrected, since time has gone on in between.
    let later = call("s-2", 9, CUSTOMER, OURS).iter().map(|document| format!("{document}\n")).collect();
    let (calls, later) = (write("calls", format!("{first}\n{second}\n{third}\n")), write("later", later));
    let ran = run(&["classify", &path(&calls), &path(&later), &path(&lists)], b"");
    assert_eq!(ran.brief(), ["s-1 2 INTERNAL", "s-2 1 EXTERNAL"]);
}

#[test]
fn a_document_without_indentation_goes_on_until_its_brackets_are_closed() {
    let record = |session: &str, from: &str| record(session, json!({"phoneNumber": from}), json!({"phoneNumber": OURS})).to_string();
    // A line break after every bracket, comma and colon that stands outside of a text; no text of these has one.
    let laid_out = |text: &str| text.replace('{', "{\n").replace('}', "\n}").replace("\":", "\":\n").replace("\",", "\",\n");
    let response = format!("{{\n\"records\": [\n{},\n{}\n],\n\"paging\":\n{{\n}}\n}}\n", laid_out(&record("s-1", CUSTOMER)), record("s-2", OURS));
    let ran = run(&["classify", "-"], format!("{response}{}\n", record("s-3", CUSTOMER)).as_bytes());
    assert_eq!((ran.status, ran.err.as_str()), (0, ""));
    assert_eq!(ran.brief(), ["s-1 1 EXTERNAL", "s-2 1 EXTERNAL", "s-3 1 EXTERNAL"]);
}

#[test]
fn a_line_that_was_cut_takes_no_other_along() {
    // Cut at every place, and each time followed by the whole line of another call.
    let line = |session: usize| call(&format!("s-{session:04}"), 3, CUSTOMER, OURS)[2].to_string();
    let places = 1..line(0).len();
    let lines: String = places.clone().map(|end| format!("{}\n{}\n", &line(0)[..end], line(end))).collect();
    let ran = run(&["classify", "-"], lines.as_bytes());
    assert_eq!(ran.status, 1);
    let named: Vec<_> = ran.err.lines().map(|line| line.split(": not JSON").next().unwrap()).collect();
    assert_eq!(named, places.clone().map(|end| format!("standard input:{}", 2 * end - 1)).collect::<Vec<_>>());
    assert_eq!(ran.brief(), places.map(|end| format!("s-{end:04} 1 EXTERNAL")).collect::<Vec<_>>());
}

#[test]
fn what_is_unreadable_is_named_with_its_line_and_the_rest_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("calls.jsonl");
    let [first, second, third] = &call("s-1", 3, CUSTOMER, OURS)[..] else { panic!("three") };
    let broken = "{\n  \"event\": \"x\",\n  \"body\": {\n    \"a\" 1\n  }\n}";
    std::fs::write(&path, format!("{first}\nno json\n{{\"what\":1}}\n{second}\n{broken}\n{third}\n{{\"cut\":\"")).unwrap();
    let name = path.to_str().unwrap();
    let ran = run(&["classify", name], b"");
    assert_eq!((ran.status, ran.brief()), (1, vec!["s-1 1 EXTERNAL".to_owned()]));
    let lines: Vec<&str> = ran.err.lines().collect();
    assert_eq!(lines.len(), 4, "{}", ran.err);
    for (line, begins) in lines.iter().zip(["2: not JSON", "3: no known kind", "8: not JSON", "12: not JSON"]) {
        assert!(line.starts_with(&format!("{name}:{begins}")), "{line}");
    }
    let ran = run(&["classify", "-", "--format", "table"], b"?\n");
    assert_eq!(ran.status, 1);
    assert!(ran.err.starts_with("standard input:1: "), "{}", ran.err);
    assert!(ran.err.ends_with("; 1 document unreadable\n"), "{}", ran.err);
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let rows: [(&[&str], &str); 9] = [
        (&["classify"], "<FILE>"),
        (&["classify", "/nowhere/at/all"], "/nowhere/at/all: No such file"),
        (&["classify", "/"], "it is a directory"),
        (&["classify", "-", "--country", "XX"], "ISO 3166-1"),
        (&["classify", "-", "--account", "a/b"], "account id"),
        (&["classify", "-", "--filter", "maybe"], "possible values: on, off"),
        (&["classify", "-", "--history", "maybe"], "possible values: on, off"),
        (&["classify", "-", "--format", "xml"], "possible values: jsonl, table, csv"),
        (&["classify", "-", "--unheard-of"], "--unheard-of"),
    ];
    for (args, message) in rows {
        let ran = run(args, b"");
        assert_eq!((ran.status, ran.out.as_str()), (2, ""), "{args:?}: {}", ran.err);
        assert!(ran.err.contains(message), "{args:?}: {}", ran.err);
    }
}

#[test]
fn a_temporary_directory_is_made_where_asked_and_goes_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(judged(&["--temp-dir", path], &call("s-1", 3, CUSTOMER, OURS)).brief(), ["s-1 1 EXTERNAL"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let ran = judge(&["--temp-dir", "/nowhere/at/all"], &[]);
    assert_eq!(ran.status, 3);
    assert!(ran.err.contains("temporary directory in /nowhere/at/all"), "{}", ran.err);
}

#[test]
fn nothing_is_too_old_and_nothing_is_forgotten_in_whatever_order() {
    let years: Vec<Value> = [2025, 2019, 2022]
        .iter()
        .map(|year| {
            let mut record = record(&format!("s-{year}"), json!({"phoneNumber": CUSTOMER}), json!({"phoneNumber": OURS}));
            record["startTime"] = json!(format!("{year}-01-05T07:00:00.000Z"));
            record
        })
        .collect();
    assert_eq!(judged(&[], &years).brief(), ["s-2019 1 EXTERNAL", "s-2022 1 EXTERNAL", "s-2025 1 EXTERNAL"]);
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let lines: String = (0..3_000).flat_map(|n| call(&format!("s-{n}"), 3, CUSTOMER, OURS)).map(|document| format!("{document}\n")).collect();
    for format in ["jsonl", "csv", "table"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_callsieve"))
            .args(["classify", "-", "--format", format])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""), "{format}");
    }
}

#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_callsieve"))
        .args(["classify", "-", "--temp-dir", folder.path().to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let made = || std::fs::read_dir(folder.path()).unwrap().count();
    let waited = |done: &dyn Fn() -> bool| {
        (0..500).any(|_| {
            done() || {
                std::thread::sleep(std::time::Duration::from_millis(20));
                false
            }
        })
    };
    // Held open, or the end of the input would end the process in its own way.
    let input = child.stdin.take();
    let is_open = || std::fs::read_dir(folder.path()).unwrap().flatten().any(|entry| has_file(&entry.path(), "CURRENT"));
    assert!(waited(&is_open), "the temporary database");
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert_eq!(made(), 0);
    drop(input);
}

/// A file of that name stands in the folder, or below.
#[cfg(unix)]
fn has_file(folder: &Path, name: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    entries.flatten().any(|entry| entry.file_name() == name || has_file(&entry.path(), name))
}

/// What a simulated company's documents give, against the truth.
fn agrees_with_the_truth(faults: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let (documents, truth) = (folder.path().join("documents"), folder.path().join("truth"));
    let simulate = ["simulate", "--seed", "7", "--hours", "4", "--lists", "--write", documents.to_str().unwrap(), "--truth", truth.to_str().unwrap()];
    let written = run(&[&simulate, faults].concat(), b"");
    assert_eq!(written.status, 0, "{}", written.err);
    let mut account = String::new();
    let mut expected: BTreeMap<String, bool> = BTreeMap::new();
    for line in std::fs::read_to_string(&truth).unwrap().lines() {
        let session: Value = serde_json::from_str(line).unwrap();
        session["account"].as_str().unwrap().clone_into(&mut account);
        expected.insert(session["session"].as_str().unwrap().to_owned(), session["external"].as_bool().unwrap());
    }
    // Directory entries don't name the account that was asked.
    let ran = run(&["classify", documents.to_str().unwrap(), "--account", &account], b"");
    assert_eq!(ran.status, 0, "{}", ran.err);
    let verdicts = ran.verdicts();
    let judged: BTreeMap<String, bool> =
        verdicts.iter().map(|v| (v["session_id"].as_str().unwrap().to_owned(), v["verdict"] == "EXTERNAL")).collect();
    assert_eq!(judged.len(), verdicts.len(), "one line per call");
    assert!(expected.len() > 400 && expected.values().any(|external| !external), "a company with calls of both kinds");
    let differing: Vec<_> = expected.iter().filter(|(session, external)| judged.get(*session) != Some(external)).collect();
    assert!(differing.is_empty(), "seed 7 {faults:?}: {differing:?}");
    assert_eq!(judged.len(), expected.len());
}

#[test]
fn a_simulated_companys_verdicts_equal_the_truth() {
    agrees_with_the_truth(&[]);
}

#[test]
fn duplicates_and_reordering_change_nothing() {
    agrees_with_the_truth(&["--duplicates", "0.2", "--reorder", "0.3", "--max-delay-ms", "60000"]);
}

// ---- design §1, Endpoints: what of a document identifies somebody, and what does not ----

/// A call between two sides as RingCentral gives them, over at once, of a party with these fields.
fn ended(from: Value, to: Value, fields: &Value) -> Value {
    let mut party = party(from, to, "Disconnected");
    for (name, value) in fields.as_object().unwrap() {
        party[name] = value.clone();
    }
    notification("s-1", 2, "2026-01-05T08:00:00.000Z", party)
}

/// The verdict of a company that has these two numbers.
fn verdict_of(call: Value) -> Value {
    judged(&[], &[numbers(&[OURS, COLLEAGUE]), call]).only()["verdict"].clone()
}

#[test]
fn the_own_account_id_on_a_party_proves_nothing() {
    for account in [json!(ACCOUNT), json!("800"), json!(null)] {
        for (from, expected) in [(CUSTOMER, "EXTERNAL"), (COLLEAGUE, "INTERNAL")] {
            let call = ended(json!({"phoneNumber": from}), json!({"phoneNumber": OURS}), &json!({"accountId": account}));
            assert_eq!(verdict_of(call), expected, "{from}, account {account}");
        }
    }
}

#[test]
fn a_missing_extension_id_proves_nothing() {
    let side = |number: &str, id: &Value| json!({"phoneNumber": number, "extensionId": id});
    for (of_party, of_sides) in [(json!(null), json!(null)), (json!("11"), json!(null)), (json!(null), json!("11")), (json!("11"), json!("11"))] {
        for (from, expected) in [(CUSTOMER, "EXTERNAL"), (COLLEAGUE, "INTERNAL")] {
            let call = ended(side(from, &of_sides), side(OURS, &of_sides), &json!({"extensionId": of_party}));
            assert_eq!(verdict_of(call), expected, "{from}, extension id {of_party} on the party, {of_sides} on the sides");
        }
    }
}

#[test]
fn a_caller_name_identifies_nobody_and_is_not_stored() {
    let name = "Quillon Sedgewick";
    let named = |number: &str| json!({"phoneNumber": number, "name": name});
    let documents = [numbers(&[OURS, COLLEAGUE]), ended(named(CUSTOMER), named(OURS), &json!({})), record("s-2", named(COLLEAGUE), named(OURS))];
    let ran = judged(&["--explain"], &documents);
    assert_eq!(ran.brief(), ["s-2 1 INTERNAL", "s-1 1 EXTERNAL"]);
    assert!(!ran.out.contains("Quillon"), "{}", ran.out);
    // A number, a short number or an extension in the name's place.
    for name in [COLLEAGUE, "104", "conference", "Ana"] {
        let call = ended(json!({"name": name}), json!({"phoneNumber": OURS, "name": name}), &json!({}));
        assert_eq!(verdict_of(call), "EXTERNAL", "{name}: a side with nothing but a name is withheld");
    }
}

#[test]
fn a_private_phone_of_the_forwarding_list_is_the_companys_and_one_that_no_query_returned_is_external() {
    let [listed, unlisted] = ["+12125550163", "+12125550164"];
    let forwarding = json!({
        "uri": format!("https://platform.example.com/restapi/v1.0/account/{ACCOUNT}/extension/11/forwarding-number"),
        "records": [{"id": "5", "phoneNumber": listed, "label": "Home", "type": "Home", "features": ["CallForwarding"]}]
    });
    for (to, expected) in [(listed, "INTERNAL"), (unlisted, "EXTERNAL")] {
        let call = ended(json!({"phoneNumber": OURS}), json!({"phoneNumber": to}), &json!({}));
        assert_eq!(judged(&[], &[numbers(&[OURS]), forwarding.clone(), call]).only()["verdict"], expected, "{to}");
    }
}

#[test]
fn a_directory_entry_of_a_federated_account_belongs_to_the_account_that_was_asked() {
    let federated = "+12125550170";
    let directory = json!({"records": [
        {"id": "21", "type": "User", "account": {"id": "800"}, "extensionNumber": "201", "phoneNumbers": [{"phoneNumber": federated}]}
    ], "paging": {"page": 1}});
    let call = ended(json!({"phoneNumber": OURS}), json!({"phoneNumber": federated}), &json!({}));
    for (asked, expected) in [(ACCOUNT, "INTERNAL"), ("900", "EXTERNAL")] {
        let verdict = judged(&["--account", asked], &[numbers(&[OURS]), directory.clone(), call.clone()]).only();
        assert_eq!((&verdict["account_id"], &verdict["verdict"]), (&json!(ACCOUNT), &json!(expected)), "asked: {asked}");
    }
}
