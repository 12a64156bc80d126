//! One table or test per kind of document, in the shapes of the fact sheet, with ids and numbers of our own.

use super::*;
use crate::event::{CallLegs, CallSource, Direction, DirectoryResource, Endpoint, Media, NumberKind, NumberQuery};
use proptest::prelude::*;
use serde_json::{Value, json};

const ACCOUNT: &str = "700100200";
const SESSION: &str = "s-5f0c1e2d3b4az19c1d2e3f40z1a2b3c40000";

fn asked() -> Asked<'static> {
    Asked { account: None, received_at: None, country: Country::DEFAULT, history: true }
}

fn read(document: &Value) -> Document {
    read_document(document.to_string().as_bytes(), &asked()).unwrap_or_else(|e| panic!("{e}: {document}"))
}

fn refusal(document: &Value) -> String {
    read_document(document.to_string().as_bytes(), &asked()).expect_err("refused").to_string()
}

fn calls(document: &Document) -> Vec<&CallLegs> {
    let calls = document.events.iter().filter_map(|event| if let Event::CallLegs(legs) = event { Some(legs) } else { None });
    calls.collect()
}

fn only_call(document: &Value) -> CallLegs {
    let document = read(document);
    let [call] = calls(&document)[..] else { panic!("one call in {document:?}") };
    call.clone()
}

/// Account, query, and each number with its kind, extension, usage type and contact's account, written in one line.
fn numbers(document: &Document) -> Vec<String> {
    let mut lines = Vec::new();
    for event in &document.events {
        let Event::NumbersObserved(observed) = event else { continue };
        for n in &observed.numbers {
            let kind = if n.kind == NumberKind::Extension { "ext" } else { "phone" };
            let or_dash = |text: &Option<CompactString>| text.as_deref().unwrap_or("-").to_owned();
            let (extension, usage, contact) = (or_dash(&n.extension_id), or_dash(&n.usage_type), or_dash(&n.contact_account_id));
            lines.push(format!("{} {} {kind} {} {extension} {usage} {contact}", observed.account_id, observed.query.symbol(), n.number));
        }
    }
    lines
}

/// Account, resource, id, change and hints, written in one line.
fn changes(document: &Document) -> Vec<String> {
    let changed = document.events.iter().filter_map(|event| if let Event::DirectoryChanged(change) = event { Some(change) } else { None });
    changed.map(|c| format!("{} {:?} {} {:?} {:?}", c.account_id, c.resource, c.resource_id.as_deref().unwrap_or("-"), c.change, c.hints)).collect()
}

fn endpoint(number: &str, extension_id: &str, extension_number: &str) -> Endpoint {
    let some = |text: &str| (!text.is_empty()).then(|| CompactString::new(text));
    Endpoint { number: some(number), extension_id: some(extension_id), extension_number: some(extension_number) }
}

fn at(text: &str) -> Millis {
    values::parse_time(text).unwrap()
}

fn party() -> Value {
    json!({
        "id": "p-5f0c1e2d3b4az19c1d2e3f40z1a2b3c40000-2", "accountId": ACCOUNT, "extensionId": "700100301", "direction": "Inbound",
        "from": {"phoneNumber": "+14155550142", "name": "WIRELESS CALLER"},
        "to": {"phoneNumber": "+16505550177", "name": "Ana", "extensionId": "700100301"},
        "status": {"code": "Answered", "rcc": false}, "missedCall": false, "standAlone": false, "muted": false
    })
}

fn telephony() -> Value {
    json!({
        "uuid": "1234567890123456789", "event": format!("/restapi/v1.0/account/{ACCOUNT}/extension/700100301/telephony/sessions"),
        "timestamp": "2026-03-04T05:06:07.123Z", "subscriptionId": "a-b", "ownerId": "700100301",
        "body": {
            "sequence": 4, "sessionId": "55667788", "telephonySessionId": SESSION, "serverId": "10.1.2.3.TAM",
            "eventTime": "2026-03-04T05:06:07.100Z", "parties": [party()], "origin": {"type": "Call"}
        }
    })
}

/// The notification with one field of its body, or of its first party, replaced.
fn telephony_with(path: &str, value: Value) -> Value {
    let mut document = telephony();
    *document.pointer_mut(path).unwrap_or_else(|| panic!("{path}")) = value;
    document
}

#[test]
fn a_telephony_notification_says_what_happened_to_its_party() {
    let call = only_call(&telephony());
    assert_eq!((call.account_id.as_str(), call.session_id.as_str()), (ACCOUNT, SESSION));
    assert_eq!(call.legacy_session_id.as_deref(), Some("55667788"));
    assert_eq!((call.source, call.sequence, call.media, call.is_final), (CallSource::Webhook, Some(4), Media::Voice, false));
    assert_eq!((call.occurred_at, call.received_at), (at("2026-03-04T05:06:07.100Z"), at("2026-03-04T05:06:07.123Z")));
    assert_eq!(call.origin.as_deref(), Some("Call"));
    let [leg] = &call.legs[..] else { panic!("one leg") };
    assert_eq!(leg.leg_id.as_str(), "p-5f0c1e2d3b4az19c1d2e3f40z1a2b3c40000-2");
    assert_eq!((leg.direction, leg.extension_id.as_deref()), (Direction::Inbound, Some("700100301")));
    assert_eq!((&leg.from, &leg.to), (&endpoint("+14155550142", "", ""), &endpoint("+16505550177", "700100301", "")));
    assert_eq!((leg.status.as_deref(), leg.reason.as_deref(), leg.recorded), (Some("Answered"), None, false));
}

#[test]
fn what_pn_apns_wraps_is_the_same() {
    let inner = telephony();
    let wrapped = json!({"uuid": "1", "subscriptionId": "a-b", "ownerId": "2", "pn_apns": inner});
    assert_eq!(only_call(&wrapped), only_call(&inner));
}

#[test]
fn missing_sides_and_values_of_other_types_are_empty() {
    let sides = [json!(null), json!({}), json!({"name": "x"}), json!({"phoneNumber": " "}), json!("x"), json!([1]), json!({"phoneNumber": {"a": 1}})];
    for side in sides {
        let call = only_call(&telephony_with("/body/parties/0/from", side.clone()));
        assert!(call.legs[0].from.is_empty(), "{side}");
    }
    let call = only_call(&telephony_with("/body/parties/0/extensionId", json!(700_100_301)));
    assert_eq!(call.legs[0].extension_id.as_deref(), Some("700100301"));
}

#[test]
fn which_session_and_which_legacy_id_a_notification_names() {
    let legacy = |id: &str| format!("legacy:{id}");
    let rows = [
        (json!(SESSION), json!("77"), SESSION.to_owned(), Some("77")),
        (json!(SESSION), json!(77), SESSION.to_owned(), Some("77")),
        (json!(SESSION), json!("0"), SESSION.to_owned(), None),
        (json!(SESSION), json!(" "), SESSION.to_owned(), None),
        (json!(SESSION), json!(null), SESSION.to_owned(), None),
        (json!(SESSION), json!(SESSION), SESSION.to_owned(), None),
        (json!(null), json!("77"), legacy("77"), Some("77")),
        (json!(""), json!(77), legacy("77"), Some("77")),
        (json!("0"), json!("77"), legacy("77"), Some("77")),
    ];
    for (telephony_id, session_id, session, legacy) in rows {
        let mut document = telephony_with("/body/telephonySessionId", telephony_id.clone());
        document["body"]["sessionId"] = session_id.clone();
        let call = only_call(&document);
        assert_eq!((call.session_id.as_str(), call.legacy_session_id.as_deref()), (&*session, legacy), "{telephony_id} {session_id}");
    }
}

#[test]
fn which_peer_a_party_moved_to() {
    let other = "s-0b1c2d3e4f50z19c1d2e3f40z1a2b3c40000";
    let rows = [
        (json!({"telephonySessionId": other, "sessionId": "88", "partyId": "p-1"}), Some(other)),
        (json!({"sessionId": other, "partyId": "p-1"}), Some(other)),
        (json!({"telephonySessionId": "0", "sessionId": other}), Some(other)),
        (json!({"sessionId": "88"}), None),
        (json!({"sessionId": "0"}), None),
        (json!({"telephonySessionId": " "}), None),
        (json!({"telephonySessionId": SESSION}), None),
        (json!(null), None),
    ];
    for (peer, expected) in rows {
        let call = only_call(&telephony_with("/body/parties/0/status", json!({"code": "Gone", "reason": "AttendedTransfer", "peerId": peer})));
        let leg = &call.legs[0];
        assert_eq!(leg.peer_session_id.as_deref(), expected, "{peer}");
        assert_eq!((leg.status.as_deref(), leg.reason.as_deref()), (Some("Gone"), Some("AttendedTransfer")));
    }
}

#[test]
fn recordings_fax_and_times_of_a_notification() {
    for (recordings, recorded) in [(json!([{"id": "9", "active": true}]), true), (json!([]), false), (json!(null), false)] {
        let mut document = telephony();
        document["body"]["parties"][0]["recordings"] = recordings;
        assert_eq!(only_call(&document).legs[0].recorded, recorded);
    }
    for (code, media) in [("FaxReceive", Media::Fax), ("faxreceive", Media::Fax), ("VoiceMail", Media::Voice), ("Tds", Media::Voice)] {
        assert_eq!(only_call(&telephony_with("/body/parties/0/status/code", json!(code))).media, media, "{code}");
    }
    let sent = at("2026-03-04T05:06:07.123Z");
    assert_eq!(only_call(&telephony_with("/body/eventTime", json!("2026-03-04T05:06:06.000+0000"))).occurred_at, at("2026-03-04T05:06:06Z"));
    assert_eq!(only_call(&telephony_with("/body/eventTime", json!(null))).occurred_at, sent);
    assert_eq!(only_call(&telephony_with("/timestamp", json!(null))).received_at, at("2026-03-04T05:06:07.100Z"));
}

#[test]
fn which_account_a_document_is_of() {
    let path = |account: &str| json!(format!("/restapi/v1.0/account/{account}/telephony/sessions"));
    let asked_account = AccountId::parse("900").unwrap();
    // Path, account in the body, account of the party, account asked, account of the document.
    let rows = [
        (path("700"), Some("701"), Some("702"), Some(&asked_account), "700"),
        (path("~"), Some("701"), Some("702"), Some(&asked_account), "701"),
        (path("{accountId}"), None, Some("702"), Some(&asked_account), "702"),
        (path("%7E"), None, None, Some(&asked_account), "900"),
        (path("~"), None, None, None, "~"),
    ];
    for (event, in_body, of_party, account, expected) in rows {
        let mut document = telephony_with("/event", event.clone());
        document["body"]["accountId"] = json!(in_body);
        document["body"]["parties"][0]["accountId"] = json!(of_party);
        let read = read_document(document.to_string().as_bytes(), &Asked { account, ..asked() }).unwrap();
        assert_eq!(calls(&read)[0].account_id.as_str(), expected, "{event}");
    }
}

#[test]
fn notifications_about_something_else_say_nothing() {
    let presence = json!({"extensionId": "1", "telephonyStatus": "Ringing", "sequence": 7, "activeCalls": [{"telephonySessionId": SESSION}]});
    let rows = [
        ("/restapi/v1.0/account/700/extension/1/presence?detailedTelephonyState=true", presence),
        ("/restapi/v1.0/subscription/a-b?threshold=60&interval=15", json!({"expiresIn": 60})),
        ("/restapi/v1.0/account/700/extension/1/message-store", json!({"changes": []})),
        ("/restapi/v1.0/account/700/extension/1/favorite", json!({"extensionId": "1"})),
        ("/something/new", json!(null)),
    ];
    for (event, body) in rows {
        let document = read(&json!({"uuid": "u", "event": event, "timestamp": "2026-03-04T05:06:07.123Z", "subscriptionId": "s", "body": body}));
        assert!(document.events.is_empty() && document.unreadable.is_empty(), "{event}");
        assert_eq!(document.arrived_at, Some(at("2026-03-04T05:06:07.123Z")));
    }
}

fn notification(event: &str, body: &Value) -> Document {
    read(&json!({"uuid": "u", "event": event, "timestamp": "2026-03-04T05:06:07.123+0000", "subscriptionId": "s", "body": body}))
}

#[test]
fn extension_notifications_are_a_reason_to_query_again() {
    let list = json!({"extensions": [
        {"extensionId": "11", "eventType": "Delete"}, {"extensionId": 12, "eventType": "Create"},
        {"extensionId": "13", "eventType": "Update", "hints": ["ExtensionInfo", "CompanyNumbers"]}
    ]});
    let rows = [
        (
            "/restapi/v1.0/account/700/extension",
            list,
            vec!["700 Extension 11 Deleted []", "700 Extension 12 Created []", "700 Extension 13 Updated [\"ExtensionInfo\", \"CompanyNumbers\"]"],
        ),
        (
            "/restapi/v1.0/account/700/extension",
            json!({"extensionId": "11", "eventType": "Create", "ownerId": "1"}),
            vec!["700 Extension 11 Created []"],
        ),
        ("/restapi/v1.0/account/~/extension/13", json!({"eventType": "Update", "hints": ["Limits"]}), vec!["~ Extension 13 Updated [\"Limits\"]"]),
        ("/restapi/v1.0/account/700/extension/13", json!({"extensionId": "13", "eventType": "Renamed"}), vec!["700 Extension 13 Unknown []"]),
    ];
    for (event, body, expected) in rows {
        let document = notification(event, &body);
        assert_eq!(changes(&document), expected);
        assert_eq!(numbers(&document), Vec::<String>::new());
        let Event::DirectoryChanged(change) = &document.events[0] else { panic!("a change") };
        assert_eq!(
            (change.resource, change.occurred_at, change.received_at),
            (DirectoryResource::Extension, at("2026-03-04T05:06:07.123Z"), change.occurred_at)
        );
    }
}

#[test]
fn directory_notifications_bring_the_contacts_numbers_unless_they_delete() {
    let contact = |event_type: &str, account: &str| {
        json!({"contacts": [{
            "eventType": event_type, "id": "42", "type": "User", "status": "Enabled", "name": "Ana", "extensionNumber": "103",
            "account": {"id": account}, "site": {"id": "main-site"},
            "phoneNumbers": [{"phoneNumber": "+16505550177", "usageType": "DirectNumber", "type": "VoiceFax"}]
        }]})
    };
    let path = "/restapi/v1.0/account/700/directory/entries";
    let own = ["700 NOTIFICATION phone +16505550177 42 DirectNumber -", "700 NOTIFICATION ext 103 42 - -"];
    let federated = ["700 NOTIFICATION phone +16505550177 42 DirectNumber 800", "700 NOTIFICATION ext 103 42 - 800"];
    let rows = [
        ("Update", "700", "Updated", &own[..]),
        ("Created", "700", "Created", &own[..]),
        ("Update", "800", "Updated", &federated[..]),
        ("Delete", "700", "Deleted", &[]),
        ("Deleted", "700", "Deleted", &[]),
        ("Moved", "700", "Unknown", &own[..]),
    ];
    for (event_type, account, change, expected) in rows {
        let document = notification(path, &contact(event_type, account));
        assert_eq!(changes(&document), [format!("700 DirectoryEntry 42 {change} []")]);
        assert_eq!(numbers(&document), expected, "{event_type}");
    }
    let nameless = notification("/restapi/v1.0/account/~/directory/entries", &contact("Update", "800"));
    assert_eq!(numbers(&nameless)[0], "800 NOTIFICATION phone +16505550177 42 DirectNumber -");
    assert_eq!(changes(&notification(path, &json!({}))), ["700 DirectoryEntry - Unknown []"]);
}

#[test]
fn contact_centre_notifications_bring_their_number_unless_they_delete() {
    let body = |event_type: &str| {
        let uri = "https://platform.example.com/restapi/v1.0/account/700/phone-number/5";
        json!({"eventType": event_type, "phoneNumberInfo": {"uri": uri, "id": "5", "phoneNumber": "+12025550141", "usageType": "ContactCenterNumber"}})
    };
    let path = "/restapi/v1.0/account/{accountId}/phone-number?usageType=ContactCenterNumber";
    for (event_type, change, brings) in [("Created", "Created", true), ("Updated", "Updated", true), ("Deleted", "Deleted", false)] {
        let document = notification(path, &body(event_type));
        assert_eq!(changes(&document), [format!("700 PhoneNumber 5 {change} []")]);
        let expected: &[&str] = if brings { &["700 NOTIFICATION phone +12025550141 - ContactCenterNumber -"] } else { &[] };
        assert_eq!(numbers(&document), expected);
    }
}

#[test]
fn a_telephony_session_from_rest_shows_all_its_parties() {
    let session = json!({
        "id": SESSION, "origin": {"type": "Conference"}, "creationTime": "2026-03-04T05:06:07.000Z",
        "parties": [
            {"id": "p-1", "direction": "Outbound", "owner": {"accountId": "700", "extensionId": 11}, "extensionId": 11,
             "from": {"extensionId": "11", "phoneNumber": "+16505550177"}, "to": {"phoneNumber": "conference"},
             "status": {"code": "Gone", "peerId": {"sessionId": "s-other", "partyId": "p-9"}}},
            {"id": "p-2", "accountId": "700", "owner": {"accountId": "700", "extensionId": "11"}, "direction": "Inbound",
             "to": {"phoneNumber": "+14155550142"}, "status": {"code": "Answered"}, "recordings": [{"id": "1", "active": true}]}
        ]
    });
    for document in [session.clone(), json!({"session": session})] {
        let call = only_call(&document);
        assert_eq!((call.account_id.as_str(), call.session_id.as_str()), ("700", SESSION));
        assert_eq!((call.source, call.sequence, call.is_final), (CallSource::SessionLookup, None, false));
        assert_eq!((call.occurred_at, call.received_at), (at("2026-03-04T05:06:07Z"), at("2026-03-04T05:06:07Z")));
        assert_eq!(call.legs.len(), 2);
        assert_eq!((call.legs[0].extension_id.as_deref(), call.legs[0].peer_session_id.as_deref()), (Some("11"), Some("s-other")));
        // Whoever watches the call is not the outside party's extension.
        assert_eq!((call.legs[1].extension_id.as_deref(), call.legs[1].recorded), (None, true));
    }
}

fn simple_record() -> Value {
    json!({
        "uri": "https://platform.example.com/restapi/v1.0/account/700/extension/11/call-log/AbC?view=Simple", "id": "AbC",
        "sessionId": "99887766", "telephonySessionId": SESSION, "partyId": "p-1", "startTime": "2026-03-04T05:00:00.000Z",
        "duration": 61, "durationMs": 60_500, "type": "Voice", "direction": "Outbound", "action": "VoIP Call", "result": "Call connected",
        "reason": "Accepted", "extension": {"id": 11, "uri": "https://platform.example.com/restapi/v1.0/account/700/extension/11"},
        "from": {"phoneNumber": "+16505550177", "extensionId": 11, "name": "Ana"}, "to": {"phoneNumber": "14155550142", "dialedPhoneNumber": "4155550142"}
    })
}

fn record_with(changes: &Value) -> Value {
    let mut record = simple_record();
    for (key, value) in changes.as_object().unwrap() {
        record[key] = value.clone();
    }
    record
}

#[test]
fn a_simple_record_is_one_leg() {
    let call = only_call(&simple_record());
    assert_eq!((call.account_id.as_str(), call.session_id.as_str(), call.legacy_session_id.as_deref()), ("700", SESSION, Some("99887766")));
    assert_eq!((call.source, call.sequence, call.media, call.is_final), (CallSource::CallLog, None, Media::Voice, true));
    assert_eq!((call.occurred_at, call.ended_at), (at("2026-03-04T05:00:00Z"), Some(at("2026-03-04T05:01:00.500Z"))));
    assert_eq!(call.received_at, at("2026-03-04T05:01:00.500Z"));
    let [leg] = &call.legs[..] else { panic!("one leg") };
    assert_eq!((leg.leg_id.as_str(), leg.direction, leg.extension_id.as_deref()), ("p-1", Direction::Outbound, Some("11")));
    assert_eq!((&leg.from, &leg.to), (&endpoint("+16505550177", "11", ""), &endpoint("14155550142", "", "")));
    assert_eq!((leg.status.as_deref(), leg.reason.as_deref(), leg.leg_type.as_deref()), (None, Some("Accepted"), None));
}

#[test]
fn a_record_says_that_it_was_answered_by_its_result_or_by_its_reason() {
    for (result, reason, expected) in [
        (json!("Call connected"), json!("Unknown"), Some("Call connected")),
        (json!("Call connected"), json!("Accepted"), Some("Accepted")),
        (json!("Missed"), json!("No Answer"), Some("No Answer")),
        (json!("Missed"), json!(null), Some("Missed")),
    ] {
        let call = only_call(&record_with(&json!({"result": result, "reason": reason, "finished": true})));
        assert_eq!(call.legs[0].reason.as_deref(), expected);
    }
}

#[test]
fn what_could_take_many_times_its_bytes_is_bounded() {
    let many = |n: usize| Value::Array(vec![json!({}); n]);
    let mut notification = telephony();
    notification["body"]["parties"] = many(10_001);
    assert!(refusal(&notification).contains("a list within it has more than 10000 elements"), "{}", refusal(&notification));
    let mut records = vec![json!(1); 5_000];
    records.push(simple_record());
    for document in [json!({"records": records}), json!(records)] {
        let read = read(&document);
        assert_eq!((calls(&read).len(), read.unreadable.len()), (1, 1_000));
    }
    assert!(read_document(json!({"records": vec![1; 5_000]}).to_string().as_bytes(), &asked()).is_err());
}

#[test]
fn when_a_record_is_finished() {
    let rows = [
        (json!({"finished": true}), true),
        (json!({"finished": false}), false),
        (json!({"finished": true, "result": "In Progress"}), false),
        (json!({"result": "In Progress"}), false),
        (json!({"result": null}), false),
        (json!({"result": null, "finished": true}), true),
        (json!({"result": "Missed"}), true),
        (json!({"result": "Something new"}), true),
    ];
    for (changes, finished) in rows {
        let call = only_call(&record_with(&changes));
        assert_eq!((call.is_final, call.ended_at.is_some()), (finished, finished), "{changes}");
        // What an unfinished record says of sides can be wrong, and nothing takes a leg back.
        assert_eq!(!call.legs.is_empty(), finished, "{changes}");
    }
}

#[test]
fn which_medium_a_record_is_of() {
    let rows = [
        (json!({}), Media::Voice),
        (json!({"type": null}), Media::Voice),
        (json!({"type": "Fax", "result": "Sent"}), Media::Fax),
        (json!({"result": "Fax Receipt Error"}), Media::Fax),
        (json!({"legs": [{"type": "Voice", "legType": "FaxSent"}]}), Media::Fax),
        (json!({"type": "Meeting"}), Media::Other),
    ];
    for (changes, media) in rows {
        assert_eq!(only_call(&record_with(&changes)).media, media, "{changes}");
    }
}

#[test]
fn a_detailed_record_is_its_legs() {
    let (us, them) = (json!({"phoneNumber": "+16505550177", "extensionId": "11"}), json!({"phoneNumber": "14155550142"}));
    let mobile = json!({"phoneNumber": "+12125550163"});
    let record = record_with(&json!({
        "direction": "Inbound", "from": them, "to": us, "partyId": "p-2", "recording": {"id": "1"},
        "legs": [
            {"legType": "Accept", "master": true, "direction": "Inbound", "from": them, "to": us, "partyId": "p-2", "result": "Accepted"},
            {"legType": "FindMe", "direction": "Outbound", "from": us, "to": mobile, "partyId": "p-2", "extension": {"id": 12}, "recording": {"id": "2"}},
            {"legType": "FindMe", "direction": "Outbound", "from": us, "to": mobile}
        ]
    }));
    let call = only_call(&record);
    let shown: Vec<_> =
        call.legs.iter().map(|leg| (leg.leg_id.as_str(), leg.extension_id.as_deref().unwrap_or(""), leg.leg_type.as_deref().unwrap_or(""))).collect();
    assert_eq!(shown, [("p-2", "11", "Accept"), ("log:AbC:1", "12", "FindMe"), ("log:AbC:2", "11", "FindMe")]);
    assert_eq!(call.legs[1].to, endpoint("+12125550163", "", ""));
    assert_eq!((call.legs[0].reason.as_deref(), call.legs[0].recorded, call.legs[1].recorded), (Some("Accepted"), false, true));
}

#[test]
fn a_record_is_a_leg_itself_where_its_legs_lack_one_of_its_sides() {
    let (us, them, other) = (json!({"phoneNumber": "+16505550177"}), json!({"phoneNumber": "14155550142"}), json!({"phoneNumber": "+12125550163"}));
    let empty = json!({"name": "Ana"});
    // Direction, from, to, the leg's from and to; whether the record is a leg.
    let rows = [
        ("Inbound", &them, &us, &them, &us, false),
        ("Inbound", &them, &us, &us, &them, false),
        ("Inbound", &them, &us, &other, &us, true),
        ("Inbound", &them, &us, &them, &empty, true),
        ("Outbound", &empty, &them, &us, &them, false),
        ("Inbound", &them, &empty, &them, &us, false),
        ("Inbound", &empty, &us, &them, &us, true),
        ("Inbound", &empty, &us, &empty, &us, false),
        // The leg's own empty side is the record's extension, and nobody who hides.
        ("Inbound", &empty, &empty, &us, &empty, true),
        ("Outbound", &us, &empty, &empty, &us, true),
    ];
    for (direction, from, to, leg_from, leg_to, itself) in rows {
        let leg = json!({"legType": "Accept", "direction": direction, "from": leg_from, "to": leg_to});
        let call = only_call(&record_with(&json!({"direction": direction, "from": from, "to": to, "partyId": null, "legs": [leg]})));
        let ids: Vec<_> = call.legs.iter().map(|leg| leg.leg_id.as_str()).collect();
        let expected: &[&str] = if itself { &["log:AbC:0", "log:AbC:r"] } else { &["log:AbC:0"] };
        assert_eq!(ids, expected, "{direction} {from} {to} {leg_from} {leg_to}");
    }
}

#[test]
fn a_warm_transfer_links_sessions_and_loses_no_link() {
    let leg = |extra: Value| {
        let mut leg = json!({"legType": "Accept", "direction": "Outbound", "from": simple_record()["from"], "to": simple_record()["to"]});
        leg.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        leg
    };
    let to = |id: &str| json!({"telephonySessionId": id});
    let rows = [
        (json!({"transferTarget": to("s-2")}), vec!["s-2"]),
        (json!({"transferee": to("s-3")}), vec!["s-3"]),
        (json!({"transferTarget": to("s-2"), "transferee": to("s-3")}), vec!["s-2", "s-3"]),
        (json!({"transferTarget": to(SESSION), "transferee": to("0")}), vec![]),
        (json!({"transferTarget": to("s-2"), "legs": [leg(json!({})), leg(json!({"transferee": to("s-3")}))]}), vec!["s-2", "s-3"]),
        (
            json!({"transferTarget": to("s-2"), "legs": [leg(json!({"transferee": to("s-3"), "transferTarget": to("s-4")}))]}),
            vec!["s-4", "s-2", "s-3"],
        ),
    ];
    for (changes, expected) in rows {
        let call = only_call(&record_with(&changes));
        let peers: Vec<_> = call.legs.iter().filter_map(|leg| leg.peer_session_id.as_deref()).collect();
        assert_eq!(peers, expected, "{changes}");
    }
}

#[test]
fn a_call_log_response_is_its_records_and_keeps_going_after_a_bad_one() {
    let uri = "https://platform.example.com/restapi/v1.0/account/700/call-log?page=1&perPage=100";
    let later = record_with(
        &json!({"id": "Later", "uri": "https://platform.example.com/restapi/v1.0/account/~/call-log/Later", "startTime": "2026-03-05T00:00:00Z", "telephonySessionId": null}),
    );
    let bad = record_with(&json!({"telephonySessionId": null, "sessionId": "0"}));
    let document = read(&json!({"uri": uri, "records": [later, bad, simple_record()], "paging": {"page": 1}, "navigation": {}}));
    assert_eq!(document.arrived_at, Some(at("2026-03-05T00:01:00.500Z")));
    let calls = calls(&document);
    let ids: Vec<_> = calls.iter().map(|call| (call.account_id.as_str(), call.session_id.as_str(), call.received_at)).collect();
    let arrived = document.arrived_at.unwrap();
    assert_eq!(ids, [("700", "legacy:99887766", arrived), ("700", SESSION, arrived)]);
    assert_eq!(document.unreadable.len(), 1);
    assert_eq!(
        document.unreadable[0].to_string(),
        "record 1: the call-log record names no session: it needs a telephonySessionId, or a sessionId other than \"0\""
    );
}

#[test]
fn r4_a_finished_records_company_sides_are_numbers_of_the_company() {
    let own = |number: &str| json!({"phoneNumber": number, "extensionId": "11"});
    let other = |number: &str| json!({"phoneNumber": number});
    let rows = [
        (json!({"from": own("16505550177"), "to": other("+14155550142")}), vec!["16505550177"]),
        (json!({"from": own("+16505550177"), "to": own("+16505550188")}), vec!["+16505550177", "+16505550188"]),
        // The same number, normalised, stands on a side without an extension id: of the record, or of a leg.
        (json!({"from": own("16505550177"), "to": other("+1 (650) 555-0177")}), vec![]),
        (
            json!({"from": own("16505550177"), "to": other("+14155550142"), "legs": [{"from": other("+16505550177"), "to": own("+16505550188")}]}),
            vec!["+16505550188"],
        ),
        (json!({"from": own("103"), "to": own("+1855201XXXX")}), vec![]),
        (json!({"from": own("anonymous"), "to": other("+14155550142")}), vec![]),
        (json!({"from": other("+16505550177"), "to": other("+14155550142")}), vec![]),
        (json!({"from": own("+16505550177"), "result": "In Progress"}), vec![]),
        (json!({"from": own("+16505550177"), "type": "Fax"}), vec!["+16505550177"]),
    ];
    for (changes, expected) in rows {
        let record = record_with(&changes);
        let expected: Vec<_> = expected.iter().map(|number| format!("700 CALL_LOG_HISTORY phone {number} 11 - -")).collect();
        assert_eq!(numbers(&read(&record)), expected, "{changes}");
        let without = read_document(record.to_string().as_bytes(), &Asked { history: false, ..asked() }).unwrap();
        assert_eq!(numbers(&without), Vec::<String>::new(), "{changes}");
    }
    let twice = read(&json!({"records": [simple_record(), simple_record()]}));
    assert_eq!(numbers(&twice), ["700 CALL_LOG_HISTORY phone +16505550177 11 - -"]);
}

#[test]
fn lists_of_numbers() {
    let at = |path: &str| format!("https://platform.example.com/restapi/v1.0/account/700{path}");
    let rows = [
        (
            "phone numbers, v1",
            json!({"uri": at("/phone-number"), "records": [
                {"id": 1, "phoneNumber": "18555550101", "usageType": "MainCompanyNumber", "type": "VoiceFax", "features": ["CallerId"]},
                {"id": 2, "phoneNumber": "+16505550177", "usageType": "DirectNumber", "extension": {"id": 11, "extensionNumber": "101"},
                 "status": "Pending", "temporaryNumber": {"id": "3", "phoneNumber": "+16505550199"}}
            ], "navigation": {}}),
            vec![
                "700 PHONE_NUMBERS phone 18555550101 - MainCompanyNumber -",
                "700 PHONE_NUMBERS phone +16505550177 11 DirectNumber -",
                "700 PHONE_NUMBERS phone +16505550199 11 DirectNumber -",
            ],
        ),
        (
            "phone numbers, v2",
            json!({"records": [
                {"id": "1", "phoneNumber": "+16505550165", "usageType": "DirectNumber", "tollType": "Toll"},
                {"id": "2", "phoneNumber": "+16505550166", "usageType": "Inventory", "tollType": "Toll"}
            ], "paging": {"page": 1}}),
            vec!["~ PHONE_NUMBERS phone +16505550165 - DirectNumber -", "~ INVENTORY phone +16505550166 - Inventory -"],
        ),
        (
            "forwarding numbers",
            json!({"uri": at("/extension/11/forwarding-number"), "records": [
                {"id": "5", "phoneNumber": "+12125550163", "label": "Home", "type": "Home", "features": ["CallForwarding"]},
                {"id": "6", "phoneNumber": "+12125550164", "label": "App", "type": "ExtensionApps", "extension": {"id": "12"}},
                {"id": "7", "label": "Another app", "type": "ExtensionApps", "extension": {"id": "13", "extensionNumber": "103"}}
            ]}),
            vec!["700 FORWARDING_NUMBERS phone +12125550163 11 - -", "700 FORWARDING_NUMBERS phone +12125550164 11 - -"],
        ),
        (
            "directory entries",
            json!({"records": [
                {"id": "11", "type": "User", "status": "Enabled", "account": {"id": "700"}, "extensionNumber": "101", "firstName": "Ana",
                 "phoneNumbers": [{"phoneNumber": "+16505550177", "usageType": "DirectNumber"}, {"formattedPhoneNumber": "+1 (650) 555-0178", "usageType": "MobileNumber"},
                                  {"phoneNumber": "2079460123", "e164": "+442079460123", "usageType": "ContactNumber"}]},
                {"id": "21", "type": "User", "account": {"id": "800", "mainNumber": {"phoneNumber": "+16505550100", "usageType": "MainCompanyNumber"}}, "extensionNumber": 201}
            ], "paging": {"page": 1}}),
            vec![
                "700 DIRECTORY phone +16505550177 11 DirectNumber -",
                "700 DIRECTORY phone +1 (650) 555-0178 11 MobileNumber -",
                "700 DIRECTORY phone +442079460123 11 ContactNumber -",
                "700 DIRECTORY ext 101 11 - -",
                "800 DIRECTORY phone +16505550100 - MainCompanyNumber -",
                "800 DIRECTORY ext 201 21 - -",
            ],
        ),
        (
            "extensions",
            json!({"uri": at("/extension"), "records": [
                {"uri": at("/extension/11"), "id": 11, "extensionNumber": "101", "name": "Ana", "type": "User", "contact": {"businessPhone": "+12125550163"}},
                {"uri": at("/extension/12"), "id": 12, "name": "Unassigned", "type": "User", "contact": {}},
                {"uri": at("/extension/13"), "id": 13, "name": "A room", "type": "Room", "status": "Enabled"}
            ]}),
            vec!["700 EXTENSIONS ext 101 11 - -"],
        ),
        (
            "an account",
            json!({"uri": at(""), "id": 700, "mainNumber": "18885550114", "operator": {"id": 11, "extensionNumber": "101"}, "status": "Confirmed"}),
            vec!["700 PHONE_NUMBERS phone 18885550114 - MainCompanyNumber -"],
        ),
        ("a single entry", json!({"id": "11", "phoneNumbers": [{"phoneNumber": "+16505550177"}]}), vec!["~ DIRECTORY phone +16505550177 11 - -"]),
        ("an empty list", json!({"records": [], "paging": {}}), vec![]),
    ];
    for (what, document, expected) in rows {
        let read = read(&document);
        assert_eq!(numbers(&read), expected, "{what}");
        assert_eq!((read.arrived_at, read.unreadable.len()), (None, 0), "{what}");
    }
}

#[test]
fn a_directory_entry_belongs_to_the_account_that_was_asked() {
    let entry = json!({"id": "21", "account": {"id": "800"}, "extensionNumber": "201", "phoneNumbers": []});
    let account = AccountId::parse("700").unwrap();
    let read = read_document(entry.to_string().as_bytes(), &Asked { account: Some(&account), ..asked() }).unwrap();
    assert_eq!(numbers(&read), ["700 DIRECTORY ext 201 21 - 800"]);
}

#[test]
fn blocked_callers_are_no_numbers_of_the_company() {
    let blocked = json!({"uri": "https://x/restapi/v1.0/account/700/extension/11/caller-blocking/phone-numbers", "records": [
        {"id": "1", "uri": "https://x/1", "phoneNumber": "+14155550142", "label": "spam", "status": "Blocked"}
    ]});
    let private = json!({"id": 1, "uri": "https://x/address-book/contact/1", "firstName": "Bo", "homePhone": "+14155550142"});
    for document in [blocked, private] {
        assert!(read_document(document.to_string().as_bytes(), &asked()).is_err(), "{document}");
    }
}

#[test]
fn an_event_has_at_most_a_thousand_numbers() {
    let records: Vec<_> = (0..2_500).map(|n| json!({"phoneNumber": format!("+1650555{n:04}"), "usageType": "DirectNumber"})).collect();
    let document = read(&json!({"records": records}));
    let sizes: Vec<_> =
        document.events.iter().map(|event| if let Event::NumbersObserved(observed) = event { observed.numbers.len() } else { 0 }).collect();
    assert_eq!(sizes, [1_000, 1_000, 500]);
}

#[test]
fn a_wrapper_says_when_its_document_arrived() {
    let wrapped = json!({"received_at": "2026-03-04T06:00:00.000Z", "document": telephony()});
    let now = Asked { received_at: Some(5), ..asked() };
    for asked in [asked(), now] {
        let read = read_document(wrapped.to_string().as_bytes(), &asked).unwrap();
        assert_eq!((read.arrived_at, calls(&read)[0].received_at), (Some(at("2026-03-04T06:00:00Z")), at("2026-03-04T06:00:00Z")));
    }
    let plain = read_document(telephony().to_string().as_bytes(), &now).unwrap();
    assert_eq!((plain.arrived_at, calls(&plain)[0].received_at), (Some(5), 5));
    assert_eq!(refusal(&json!({"received_at": "noon", "document": telephony()})), DocumentError::NoTime.to_string());
}

#[test]
fn what_has_no_time_waits_for_one() {
    let mut document = read(&record_with(&json!({"startTime": "soon", "direction": "Outbound"})));
    assert_eq!((document.arrived_at, calls(&document)[0].received_at), (None, 0));
    document.receive_at(7);
    assert_eq!((document.arrived_at, calls(&document)[0].received_at, calls(&document)[0].occurred_at), (Some(7), 7, 7));
    let Event::NumbersObserved(observed) = &document.events[0] else { panic!("numbers first") };
    assert_eq!((observed.query, observed.observed_at), (NumberQuery::CallLogHistory, 7));
}

#[test]
fn the_elements_of_an_array_are_documents() {
    let number = |number: &str| json!({"phoneNumber": number, "usageType": "DirectNumber"});
    let document = read(&json!([number("+16505550101"), telephony(), number("+16505550102"), {"hello": 1}, 5]));
    let received: Vec<_> = document
        .events
        .iter()
        .map(|event| match event {
            Event::CallLegs(legs) => legs.received_at,
            Event::NumbersObserved(observed) => observed.observed_at,
            other => panic!("{other:?}"),
        })
        .collect();
    let sent = at("2026-03-04T05:06:07.123Z");
    assert_eq!(received, [0, sent, sent]);
    let errors: Vec<_> = document.unreadable.iter().map(|e| e.to_string().split(": ").next().unwrap().to_owned()).collect();
    assert_eq!(errors, ["element 3", "element 4"]);
}

#[test]
fn bad_input_says_what_is_wrong_with_it() {
    let long = "s".repeat(300);
    let rows: Vec<(Vec<u8>, &str)> = vec![
        (b"".to_vec(), "not JSON: EOF while parsing a value at line 1 column 0"),
        (b"{\"a\":\n 1,}".to_vec(), "not JSON: trailing comma at line 2 column 4"),
        (b"{} {}".to_vec(), "not JSON: trailing characters at line 1 column 4"),
        (b"{\"a\":\n\"\xff\"}".to_vec(), "not JSON: invalid UTF-8 at line 2 column 2"),
        (b"17".to_vec(), "no known kind of RingCentral document: it has no fields, since it is no object"),
        (b"{}".to_vec(), "no known kind of RingCentral document: it has no fields;"),
        (b"{\"b\":1,\"a\":{}}".to_vec(), "no known kind of RingCentral document: it has b, a;"),
        (b"{\"errorCode\":\"CMN-102\",\"message\":\"not found\"}".to_vec(), "no known kind of RingCentral document: it has errorCode, message;"),
        (b"{\"event\":\"a\",\"event\":\"b\"}".to_vec(), "the document cannot be read: duplicate field `event`"),
        (b"[[[[[[{}]]]]]]".to_vec(), ""),
        (telephony_with("/body", json!({})).to_string().into_bytes(), "the telephony notification names no session: it needs a telephonySessionId"),
        (
            telephony_with("/body/telephonySessionId", json!("s\u{0}1")).to_string().into_bytes(),
            "telephony session id \"s\\01\" is not usable: it holds a control character",
        ),
        (telephony_with("/body/telephonySessionId", json!(long)).to_string().into_bytes(), "telephony session id \"sss"),
        (telephony_with("/body/parties/0/id", json!(null)).to_string().into_bytes(), "a party lacks id"),
        (
            telephony_with("/event", json!("/restapi/v1.0/account/a b/telephony/sessions")).to_string().into_bytes(),
            "account id \"a b\" is not usable",
        ),
        (record_with(&json!({"partyId": null, "id": null})).to_string().into_bytes(), "the call-log record lacks id"),
    ];
    for (bytes, expected) in rows {
        let shown = String::from_utf8_lossy(&bytes).into_owned();
        match read_document(&bytes, &asked()) {
            Err(error) => assert!(error.to_string().starts_with(expected), "{shown}: {error}"),
            Ok(document) => assert!(expected.is_empty() && !document.unreadable.is_empty(), "{shown}: {document:?}"),
        }
    }
}

#[test]
fn long_texts_are_cut() {
    let call = only_call(&telephony_with("/body/parties/0/from/phoneNumber", json!("é".repeat(1_000))));
    assert_eq!(call.legs[0].from.number.as_deref(), Some(&*"é".repeat(128)));
}

#[test]
fn deep_nesting_is_refused_and_breaks_nothing() {
    for json in
        ["[".repeat(100_000), "{\"body\":".repeat(100_000), format!("{{\"event\":\"e\",\"body\":{}1{}}}", "[".repeat(5_000), "]".repeat(5_000))]
    {
        let _ = read_document(json.as_bytes(), &asked());
    }
}

/// What the general way gives for a document that the fast way can read.
fn read_generally(json: &str) -> Result<Document, DocumentError> {
    let mut read = Document::default();
    read_any(json, &asked(), 0, &mut |document| read = document)?;
    Ok(read)
}

fn sides() -> impl Strategy<Value = Value> {
    let number = prop_oneof!["\\+1[2-9][0-9]{9}", "[0-9]{3,5}", Just("conference".to_owned()), "\\PC{0,12}"];
    let id = prop_oneof![Just(json!(null)), (1u64..1_000_000).prop_map(|n| json!(n)), (1u64..1_000_000).prop_map(|n| json!(n.to_string()))];
    prop_oneof![
        Just(json!(null)),
        Just(json!({})),
        (number, id, "\\PC{0,8}").prop_map(|(n, e, name)| json!({"phoneNumber": n, "extensionId": e, "name": name}))
    ]
}

fn parties() -> impl Strategy<Value = Vec<Value>> {
    let code = prop_oneof![Just("Setup"), Just("Answered"), Just("Disconnected"), Just("Gone"), Just("FaxReceive"), Just("Unheard Of")];
    let peer = prop_oneof![Just(json!(null)), Just(json!({"sessionId": "0"})), "s-[0-9a-z]{8}".prop_map(|id| json!({"telephonySessionId": id}))];
    let party =
        ("p-[0-9a-z]{6}-[1-9]", any::<bool>(), sides(), sides(), code, peer, any::<bool>()).prop_map(|(id, inbound, from, to, code, peer, rec)| {
            let recordings = if rec { json!([{"id": "1", "active": true}]) } else { json!([]) };
            let direction = if inbound { "Inbound" } else { "Outbound" };
            json!({"id": id, "direction": direction, "from": from, "to": to, "status": {"code": code, "peerId": peer}, "recordings": recordings})
        });
    proptest::collection::vec(party, 0..4)
}

fn notifications() -> impl Strategy<Value = Value> {
    (parties(), "s-[0-9a-f]{32}", "[0-9]{1,12}", 2i64..500, any::<bool>()).prop_map(|(parties, session, legacy, sequence, wrapped)| {
        let mut document = telephony();
        document["body"]["parties"] = json!(parties);
        document["body"]["telephonySessionId"] = json!(session);
        document["body"]["sessionId"] = json!(legacy);
        document["body"]["sequence"] = json!(sequence);
        if wrapped { json!({"uuid": "1", "pn_apns": document}) } else { document }
    })
}

/// What a text or an integer of the document is to become.
fn kept(value: &Value) -> Option<String> {
    let text = value.as_str().map(ToOwned::to_owned).or_else(|| value.as_u64().map(|n| n.to_string()))?;
    (!text.trim_ascii().is_empty()).then_some(text)
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_document(&bytes, &asked());
    }

    #[test]
    fn no_damage_to_a_document_panics(which in 0usize..4, at in any::<proptest::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let document = match which {
            0 => telephony(),
            1 => simple_record(),
            2 => json!({"session": {"id": SESSION, "parties": [party()]}}),
            _ => json!([{"records": [{"phoneNumber": "1", "usageType": "x"}]}, {"received_at": "2026-01-01T00:00:00Z", "document": telephony()}]),
        };
        let mut bytes = document.to_string().into_bytes();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = byte }
        let _ = read_document(&bytes, &asked());
    }

    #[test]
    fn the_parties_of_a_notification_come_back(document in notifications()) {
        let call = only_call(&document);
        let inner = document.get("pn_apns").unwrap_or(&document);
        let parties = inner["body"]["parties"].as_array().unwrap();
        prop_assert_eq!(call.session_id.as_str(), inner["body"]["telephonySessionId"].as_str().unwrap());
        prop_assert_eq!(call.sequence, inner["body"]["sequence"].as_i64());
        prop_assert_eq!(call.legs.len(), parties.len());
        prop_assert_eq!(call.media == Media::Fax, parties.iter().any(|p| p["status"]["code"] == "FaxReceive"));
        for (leg, party) in call.legs.iter().zip(parties) {
            prop_assert_eq!(leg.leg_id.as_str(), party["id"].as_str().unwrap());
            prop_assert_eq!(leg.direction == Direction::Inbound, party["direction"] == "Inbound");
            prop_assert_eq!(leg.status.as_deref(), party["status"]["code"].as_str());
            prop_assert_eq!(leg.recorded, !party["recordings"].as_array().unwrap().is_empty());
            prop_assert_eq!(leg.peer_session_id.as_deref(), party["status"]["peerId"]["telephonySessionId"].as_str());
            for (side, given) in [(&leg.from, &party["from"]), (&leg.to, &party["to"])] {
                prop_assert_eq!(side.number.as_deref().map(ToOwned::to_owned), kept(&given["phoneNumber"]));
                prop_assert_eq!(side.extension_id.as_deref().map(ToOwned::to_owned), kept(&given["extensionId"]));
            }
        }
    }

    #[test]
    fn the_fast_way_gives_what_the_general_way_gives(document in notifications()) {
        let json = document.to_string();
        let fast = notifications::read_plain_telephony(&json, &asked()).unwrap().expect("the fast way fits").arrive(&asked());
        let general = read_generally(&json).unwrap();
        prop_assert_eq!(fast.events, general.events);
        prop_assert_eq!(fast.arrived_at, general.arrived_at);
    }
}
