//! The rules R1–R10 and the tables of design §1, in telephony words: one row a case.

use super::memory::MemoryState;
use super::*;
use crate::event::*;
use compact_str::CompactString;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const ACCOUNT: &str = "809646016";
/// Numbers of the company.
const ALICE: &str = "+12055550101";
const BOB: &str = "+12055550102";
const MAIN: &str = "+18885550100";
/// Others.
const CUSTOMER: &str = "+14155550123";
const STRANGER: &str = "+14155550199";
const T0: Millis = 1_700_000_000_000;
const S: Millis = 1_000;
const MIN: Millis = 60_000;
const H: Millis = 3_600_000;
const D: Millis = 24 * H;
/// Ticks that anything here takes at most; more are a worker that never comes to rest.
const MOST_TICKS: usize = 100_000;

fn account() -> AccountId {
    AccountId::parse(ACCOUNT).unwrap()
}

fn sid(text: &str) -> SessionId {
    SessionId::parse(text).unwrap()
}

/// A side from a word: a number, `ext:ID` for an extension without a number, `number/ID` for both, `#102` for an extension number, empty.
fn side(text: &str) -> Endpoint {
    let some = |t: &str| Some(CompactString::new(t)).filter(|t| !t.is_empty());
    if let Some(id) = text.strip_prefix("ext:") {
        return Endpoint { extension_id: some(id), ..Endpoint::default() };
    }
    if let Some(number) = text.strip_prefix('#') {
        return Endpoint { extension_number: some(number), ..Endpoint::default() };
    }
    match text.split_once('/') {
        Some((number, id)) => Endpoint { number: some(number), extension_id: some(id), extension_number: None },
        None => Endpoint { number: some(text), ..Endpoint::default() },
    }
}

fn leg(id: &str, from: &str, to: &str, status: &str) -> Leg {
    Leg {
        leg_id: LegId::parse(id).unwrap(),
        direction: Direction::Inbound,
        extension_id: None,
        from: side(from),
        to: side(to),
        status: Some(CompactString::new(status)).filter(|s| !s.is_empty()),
        reason: None,
        leg_type: None,
        peer_session_id: None,
        recorded: false,
    }
}

fn said(session: &str, at: Millis, leg: Leg) -> CallLegs {
    CallLegs { legs: [leg].into(), ..CallLegs::without_legs(ACCOUNT, session, at) }
}

fn record(session: &str, start: Millis, end: Millis, legs: Vec<Leg>) -> CallLegs {
    CallLegs { source: CallSource::CallLog, is_final: true, ended_at: Some(end), legs: legs.into(), ..said(session, start, leg("x", "", "", "")) }
}

/// The fold of a log, with its clock.
#[derive(Clone)]
struct Fold {
    state: MemoryState,
    offset: i64,
    now: Millis,
    published: Vec<Output>,
    refused: Vec<String>,
    most_published: usize,
    /// Sessions whose neighbours one step has looked for.
    most_visited: usize,
}

impl Fold {
    /// An account whose gate is not open yet.
    fn gated() -> Self {
        Self { state: MemoryState::default(), offset: 0, now: T0, published: Vec::new(), refused: Vec::new(), most_published: 0, most_visited: 0 }
    }

    /// An account with its snapshot: Alice, Bob and the main number.
    fn new() -> Self {
        let mut fold = Self::gated();
        fold.numbers(&[ALICE, BOB, MAIN]);
        fold.complete();
        fold
    }

    fn event(&mut self, event: &Event) -> &mut Self {
        self.state.visited.set(0);
        let stepped = step(&mut self.state, At { offset: self.offset, time: self.now }, event).unwrap();
        self.offset += 1;
        self.most_published = self.most_published.max(stepped.outputs.len());
        self.most_visited = self.most_visited.max(self.state.visited.get());
        self.published.extend(stepped.outputs);
        self.refused.extend(stepped.refused);
        self
    }

    fn legs(&mut self, facts: CallLegs) -> &mut Self {
        self.now = self.now.max(facts.received_at);
        self.event(&Event::CallLegs(facts))
    }

    fn says(&mut self, session: &str, leg: Leg) -> &mut Self {
        let facts = said(session, self.now, leg);
        self.legs(facts)
    }

    fn observe(&mut self, query: NumberQuery, numbers: Vec<ObservedNumber>) -> &mut Self {
        let observed = NumbersObserved { account_id: account(), query, observed_at: self.now, sync_id: None, numbers };
        self.event(&Event::NumbersObserved(observed))
    }

    fn numbers(&mut self, numbers: &[&str]) -> &mut Self {
        self.observe(NumberQuery::PhoneNumbers, numbers.iter().map(|n| observed(n, NumberKind::Phone)).collect())
    }

    fn extension_numbers(&mut self, numbers: &[&str]) -> &mut Self {
        self.observe(NumberQuery::Extensions, numbers.iter().map(|n| observed(n, NumberKind::Extension)).collect())
    }

    fn complete(&mut self) -> &mut Self {
        let completed = SnapshotCompleted { account_id: account(), sync_id: "1".into(), completed_at: self.now, numbers_seen: 0 };
        self.event(&Event::SnapshotCompleted(completed))
    }

    fn settings(&mut self, change: impl FnOnce(&mut AccountSettings)) -> &mut Self {
        let mut settings = AccountSettings::defaults(account());
        change(&mut settings);
        self.event(&Event::AccountSettings(settings))
    }

    /// Time passes, with ticks as a worker appends them.
    fn wait(&mut self, time: Millis) -> &mut Self {
        let until = self.now + time;
        for ticks in 0.. {
            assert!(ticks < MOST_TICKS, "the account comes to no rest by {until}: {:?}", self.state.due);
            let next = self.state.sessions.values().filter_map(|s| s.open.as_ref()).map(|r| r.deadline).min();
            let is_due = !self.state.due.is_empty() || next.is_some_and(|at| at <= self.now);
            match next {
                _ if is_due => {}
                Some(at) if at <= until => self.now = at,
                _ => break,
            }
            self.event(&Event::Tick(Tick { at: self.now }));
        }
        self.now = until;
        self.event(&Event::Tick(Tick { at: until }))
    }

    fn settle(&mut self) -> &mut Self {
        self.wait(10 * S)
    }

    /// Everything that only time holds back.
    fn finish(&mut self) -> &mut Self {
        self.wait(4 * D)
    }

    fn verdict_of(&self, session: &str) -> Option<CallVerdict> {
        self.state.sessions.get(&(account(), sid(session))).and_then(|s| s.verdict.as_deref().cloned())
    }

    #[track_caller]
    fn verdict(&self, session: &str) -> CallVerdict {
        self.verdict_of(session).expect("the session has its verdict")
    }

    fn revisions(&self, session: &str) -> Vec<(i32, Verdict, RevisionCause)> {
        self.published
            .iter()
            .filter_map(|o| match o {
                Output::Verdict(v) if v.session_id.as_str() == session => Some((v.revision, v.verdict, v.cause)),
                _ => None,
            })
            .collect()
    }
}

fn observed(number: &str, kind: NumberKind) -> ObservedNumber {
    ObservedNumber { number: number.into(), kind, extension_id: None, usage_type: None, contact_account_id: None }
}

/// A call between two people that is over at once.
fn over(from: &str, to: &str) -> Leg {
    leg("p-1", from, to, "Disconnected")
}

#[track_caller]
fn judged(fold: &mut Fold, from: &str, to: &str) -> CallVerdict {
    fold.says("s-1", over(from, to)).settle();
    fold.verdict("s-1")
}

#[track_caller]
fn endpoint(verdict: &CallVerdict, number: &str) -> JudgedEndpoint {
    verdict.endpoints.iter().find(|e| e.number.as_deref() == Some(number)).unwrap_or_else(|| panic!("{number} in {:?}", verdict.endpoints)).clone()
}

use Disposition::{Disregard, Ingest};
use Verdict::{External, Internal};

// ---- R1, R2 ----

#[test]
fn r1_internal_only_when_every_endpoint_of_every_leg_is_the_companys() {
    for (from, to, expected) in [
        (ALICE, BOB, Internal),
        (ALICE, MAIN, Internal),
        (ALICE, CUSTOMER, External),
        (CUSTOMER, ALICE, External),
        (CUSTOMER, STRANGER, External),
        ("ext:7", "ext:8", Internal),
        (ALICE, "ext:8", Internal),
        (CUSTOMER, "ext:8", External),
    ] {
        assert_eq!(judged(&mut Fold::new(), from, to).verdict, expected, "{from} calls {to}");
    }
}

#[test]
fn r1_one_leg_with_an_outsider_among_many_is_enough() {
    let mut fold = Fold::new();
    for n in 0..20 {
        fold.says("s-1", leg(&format!("p-{n}"), ALICE, BOB, "Disconnected"));
    }
    fold.says("s-1", leg("p-20", ALICE, CUSTOMER, "Disconnected")).settle();
    assert_eq!(fold.verdict("s-1").verdict, External);
}

#[test]
fn r2_an_attempt_to_add_an_outsider_makes_the_call_external() {
    for reason in ["NoAnswer", "TargetBusy", "Cancelled", "InvalidNumber", "Rejected", "DestinationBlocked"] {
        let mut fold = Fold::new();
        fold.says("s-1", leg("p-1", ALICE, BOB, "Answered"));
        fold.says("s-1", leg("p-2", ALICE, CUSTOMER, "Proceeding"));
        fold.says("s-1", Leg { reason: Some(reason.into()), ..leg("p-2", ALICE, CUSTOMER, "Disconnected") });
        fold.says("s-1", leg("p-1", ALICE, BOB, "Disconnected")).settle();
        let verdict = fold.verdict("s-1");
        assert_eq!(verdict.verdict, External, "{reason}");
        assert!(!endpoint(&verdict, CUSTOMER).answered && endpoint(&verdict, BOB).answered, "{reason}");
    }
}

#[test]
fn a_callers_party_is_answered_before_anyone_picks_up_and_says_nothing_of_the_callee() {
    for (callee_status, picked_up) in [("Proceeding", false), ("Answered", true)] {
        let mut fold = Fold::new();
        let callers = |status| Leg { direction: Direction::Outbound, ..leg("p-1", ALICE, BOB, status) };
        fold.says("s-1", callers("Answered")).says("s-1", leg("p-2", ALICE, BOB, callee_status));
        fold.says("s-1", callers("Disconnected")).says("s-1", leg("p-2", ALICE, BOB, "Disconnected")).settle();
        let verdict = fold.verdict("s-1");
        assert!(endpoint(&verdict, ALICE).answered, "{callee_status}");
        assert_eq!(endpoint(&verdict, BOB).answered, picked_up, "{callee_status}");
    }
}

#[test]
fn r2_a_participant_who_left_before_the_end_counts() {
    let mut fold = Fold::new();
    fold.says("s-1", leg("p-1", CUSTOMER, MAIN, "Answered")).says("s-1", leg("p-1", CUSTOMER, MAIN, "Disconnected"));
    fold.says("s-1", leg("p-2", ALICE, BOB, "Answered")).wait(H);
    assert_eq!(fold.verdict_of("s-1"), None, "Alice and Bob are still talking");
    fold.says("s-1", leg("p-2", ALICE, BOB, "Disconnected")).settle();
    assert_eq!(fold.verdict("s-1").verdict, External);
}

#[test]
fn r2_nothing_a_later_event_says_removes_a_number_from_a_leg() {
    let mut fold = Fold::new();
    fold.says("s-1", leg("p-1", ALICE, CUSTOMER, "Proceeding")).says("s-1", leg("p-1", ALICE, BOB, "Disconnected")).settle();
    let verdict = fold.verdict("s-1");
    assert_eq!((verdict.verdict, verdict.endpoints.len()), (External, 3));
}

// ---- R3 ----

#[test]
fn r3_a_number_once_returned_is_internal_for_ever() {
    let mut fold = Fold::new();
    // The next passes return other numbers only.
    fold.wait(300 * D).numbers(&[ALICE]).complete();
    assert_eq!(judged(&mut fold, ALICE, BOB).verdict, Internal);
}

#[test]
fn r3_a_reassigned_number_keeps_its_history() {
    let mut fold = Fold::new();
    for extension in ["11", "12", "13"] {
        let number = ObservedNumber { extension_id: Some(extension.into()), ..observed(ALICE, NumberKind::Phone) };
        fold.observe(NumberQuery::Directory, vec![number]);
    }
    let row = fold.state.numbers[&(account(), ALICE.into())].clone();
    assert_eq!(row.extension_id.as_deref(), Some("13"));
    assert_eq!(row.previous_extension_ids, ["11", "12"]);
    assert_eq!(row.queries, [NumberQuery::PhoneNumbers, NumberQuery::Directory]);
}

#[test]
fn r3_every_way_to_write_a_number_is_that_number() {
    for written in ["(205) 555-0101", "12055550101", "2055550101", "+1 205 555 0101", "*672055550101"] {
        assert_eq!(judged(&mut Fold::new(), written, BOB).verdict, Internal, "{written}");
    }
}

#[test]
fn r3_exclusions_work_when_a_number_is_observed_and_never_on_what_is_in() {
    let federated = ObservedNumber { contact_account_id: Some("777".into()), ..observed(CUSTOMER, NumberKind::Phone) };
    let fax = ObservedNumber { usage_type: Some("CompanyFaxNumber".into()), ..observed(CUSTOMER, NumberKind::Phone) };
    for (number, exclude) in [
        (federated, (|s: &mut AccountSettings| s.include_federated = false) as fn(&mut AccountSettings)),
        (fax, |s: &mut AccountSettings| s.excluded_usage_types = vec!["CompanyFaxNumber".into()]),
    ] {
        let mut open = Fold::new();
        open.observe(NumberQuery::Directory, vec![number.clone()]).settings(exclude);
        assert_eq!(judged(&mut open, ALICE, CUSTOMER).verdict, Internal, "it was in before the setting");
        let mut closed = Fold::new();
        closed.settings(exclude).observe(NumberQuery::Directory, vec![number]);
        assert_eq!(judged(&mut closed, ALICE, CUSTOMER).verdict, External, "it is left out");
    }
}

#[test]
fn r3_more_queries_are_settings_that_work_when_a_number_is_observed() {
    for query in [NumberQuery::Inventory, NumberQuery::Devices] {
        let mut fold = Fold::new();
        fold.observe(query, vec![observed(CUSTOMER, NumberKind::Phone)]);
        assert_eq!(judged(&mut fold, ALICE, CUSTOMER).verdict, External, "{query:?} is not among the settings");
        fold.settings(|s| s.queries = vec![query]).settle();
        assert_eq!(fold.verdict("s-1").verdict, External, "what was left out stays out until it is observed again");
        fold.observe(query, vec![observed(CUSTOMER, NumberKind::Phone)]).settings(|s| s.queries.clear()).settle();
        assert_eq!(fold.verdict("s-1").verdict, Internal, "what is in stays in");
        let known: Vec<_> = fold.state.numbers[&(account(), CUSTOMER.into())].queries.clone();
        assert_eq!(known, [query]);
    }
}

#[test]
fn r3_the_own_account_as_a_contacts_account_is_no_federation() {
    let mut fold = Fold::new();
    let own = ObservedNumber { contact_account_id: Some(ACCOUNT.into()), ..observed(CUSTOMER, NumberKind::Phone) };
    fold.settings(|s| s.include_federated = false).observe(NumberQuery::Directory, vec![own]);
    assert_eq!(judged(&mut fold, ALICE, CUSTOMER).verdict, Internal);
}

#[test]
fn r3_more_numbers_than_a_writer_may_send_are_refused_whole() {
    let mut fold = Fold::new();
    let numbers: Vec<_> = (0..1001).map(|n| observed(&format!("+1205556{n:04}"), NumberKind::Phone)).collect();
    fold.observe(NumberQuery::PhoneNumbers, numbers);
    assert_eq!(fold.refused.len(), 1);
    assert_eq!(fold.state.numbers.len(), 3);
}

// ---- R5 ----

#[test]
fn r5_a_number_that_becomes_known_late_corrects_the_verdict() {
    let mut fold = Fold::new();
    assert_eq!(judged(&mut fold, ALICE, CUSTOMER).verdict, External);
    fold.wait(D).numbers(&[STRANGER]);
    assert_eq!(fold.verdict("s-1").revision, 1, "another number changes nothing");
    fold.numbers(&[CUSTOMER]);
    let verdict = fold.verdict("s-1");
    assert_eq!((verdict.verdict, verdict.revision, verdict.cause), (Internal, 2, RevisionCause::SnapshotGrew));
    assert_eq!(verdict.previous_verdict, Some(External));
    assert_eq!(verdict.history.iter().map(|r| (r.revision, r.verdict)).collect::<Vec<_>>(), [(1, External)]);
    let known = endpoint(&verdict, CUSTOMER);
    assert_eq!((known.reason, known.known_since), (StandingReason::InSnapshot, Some(fold.now)));
    assert_eq!(known.known_by, ["PHONE_NUMBERS"]);
}

#[test]
fn r5_an_extension_number_that_becomes_known_late_corrects_the_verdict() {
    let mut fold = Fold::new();
    assert_eq!(judged(&mut fold, ALICE, "4591").verdict, External);
    fold.extension_numbers(&["4591"]);
    assert_eq!(fold.verdict("s-1").verdict, Internal);
}

#[test]
fn r5_two_unknown_numbers_need_both() {
    let mut fold = Fold::new();
    assert_eq!(judged(&mut fold, STRANGER, CUSTOMER).verdict, External);
    fold.numbers(&[CUSTOMER]);
    assert_eq!((fold.verdict("s-1").verdict, fold.verdict("s-1").revision), (External, 2), "a standing has changed, the verdict has not");
    fold.numbers(&[STRANGER]);
    assert_eq!((fold.verdict("s-1").verdict, fold.verdict("s-1").revision), (Internal, 3));
}

#[test]
fn r5_numbers_that_arrive_together_have_a_call_judged_once() {
    let mut fold = Fold::new();
    judged(&mut fold, CUSTOMER, STRANGER);
    fold.most_visited = 0;
    fold.numbers(&[CUSTOMER, STRANGER]);
    assert_eq!((fold.verdict("s-1").verdict, fold.verdict("s-1").revision, fold.most_visited), (Internal, 2, 1));
}

#[test]
fn r5_a_number_that_many_calls_wait_for_is_worked_off_in_bounded_steps() {
    let mut fold = Fold::new();
    for n in 0..2_500 {
        fold.says(&format!("s-{n}"), over(ALICE, CUSTOMER));
    }
    fold.settle();
    fold.most_published = 0;
    fold.numbers(&[CUSTOMER]);
    assert!(fold.state.due.len() == 1, "work is left");
    fold.settle();
    assert!(fold.most_published <= MOST_OUTPUTS, "{}", fold.most_published);
    assert!(fold.state.due.is_empty());
    assert!((0..2_500).all(|n| fold.verdict(&format!("s-{n}")).verdict == Internal));
}

// ---- R6 ----

#[test]
fn r6_filtering_is_opt_in() {
    for (filter, to, expected) in [(false, BOB, Ingest), (false, CUSTOMER, Ingest), (true, BOB, Disregard), (true, CUSTOMER, Ingest)] {
        let mut fold = Fold::new();
        fold.settings(|s| s.filter_internal = filter);
        assert_eq!(judged(&mut fold, ALICE, to).disposition, expected, "filter {filter}, to {to}");
    }
}

#[test]
fn r6_settings_hold_for_what_is_decided_after_them() {
    let mut fold = Fold::new();
    assert_eq!(judged(&mut fold, ALICE, BOB).disposition, Ingest);
    fold.settings(|s| s.filter_internal = true).wait(D);
    assert_eq!((fold.verdict("s-1").disposition, fold.verdict("s-1").revision), (Ingest, 1), "the past stays");
    let rejudge = |revision| rejudge("s-1", revision);
    fold.event(&rejudge(2));
    assert_eq!(fold.verdict("s-1").revision, 1, "another revision than the one that was to be replaced");
    fold.event(&rejudge(1));
    assert_eq!((fold.verdict("s-1").disposition, fold.verdict("s-1").cause), (Disregard, RevisionCause::Replay));
    fold.event(&rejudge(1)).event(&rejudge(2));
    assert_eq!(fold.verdict("s-1").revision, 2, "nothing would differ");
}

fn rejudge(session: &str, expected_revision: i32) -> Event {
    Event::Rejudge(Rejudge { account_id: account(), session_id: sid(session), expected_revision, replay_id: "r".into(), rules: Some(RULES.into()) })
}

#[test]
fn a_call_is_judged_again_only_by_the_rules_that_the_replay_went_by() {
    let mut fold = Fold::new();
    judged(&mut fold, ALICE, BOB);
    fold.settings(|s| s.filter_internal = true);
    let Event::Rejudge(asked) = rejudge("s-1", 1) else { unreachable!() };
    fold.event(&Event::Rejudge(Rejudge { rules: Some("0".into()), ..asked.clone() }));
    assert_eq!(fold.verdict("s-1").revision, 1, "other rules than these");
    fold.event(&Event::Rejudge(Rejudge { rules: None, ..asked }));
    assert_eq!(fold.verdict("s-1").revision, 2, "an earlier version's names none");
}

#[test]
fn an_open_conversation_a_fax_and_a_call_that_is_gone_are_not_judged_again() {
    let mut fold = Fold::new();
    // Linked with one that goes on.
    fold.says("s-1", gone_to("s-2", ALICE, BOB)).settle();
    assert_eq!(fold.verdict("s-1").revision, 1);
    fold.says("s-2", leg("b", ALICE, BOB, "Answered")).settings(|s| s.filter_internal = true);
    fold.event(&rejudge("s-1", 1)).event(&rejudge("s-2", 1));
    assert_eq!((fold.verdict("s-1").revision, fold.verdict_of("s-2")), (1, None), "the closing judges anew");
    fold.says("s-2", leg("b", ALICE, BOB, "Disconnected")).settle();
    assert_eq!((fold.verdict("s-1").revision, fold.verdict("s-1").cause), (2, RevisionCause::SessionsLinked));
    // One of them asks for both, and only once.
    fold.settings(|s| s.filter_internal = false).event(&rejudge("s-2", 1)).event(&rejudge("s-1", 2));
    assert_eq!(["s-1", "s-2"].map(|s| (fold.verdict(s).revision, fold.verdict(s).cause)), [(3, RevisionCause::Replay), (2, RevisionCause::Replay)]);

    fold.says("s-3", over(ALICE, BOB)).settle();
    let fax = CallLegs { media: Media::Fax, ..said("s-3", fold.now, over(ALICE, BOB)) };
    fold.legs(fax).settle();
    let before = fold.published.len();
    fold.event(&rejudge("s-3", 1)).event(&rejudge("never-seen", 1)).event(&rejudge("never-seen", 0));
    assert_eq!(fold.published.len(), before);
    fold.wait(401 * D);
    assert_eq!(fold.verdict_of("s-1"), None);
    let before = fold.published.len();
    fold.event(&rejudge("s-1", 3)).event(&rejudge("s-2", 2));
    assert_eq!(fold.published.len(), before, "forgotten");
}

#[test]
fn a_country_without_numbers_is_refused() {
    let mut fold = Fold::new();
    fold.settings(|s| s.country = "XX".into());
    assert!(fold.refused[0].contains("XX"), "{:?}", fold.refused);
    fold.settings(|s| s.country = "GB".into()).numbers(&["0116 100 8581"]);
    assert!(fold.state.numbers.contains_key(&(account(), "+441161008581".into())));
}

// ---- R7 ----

#[test]
fn r7_a_fax_gets_no_verdict_and_one_that_it_has_is_withdrawn() {
    let fax = |leg| CallLegs { media: Media::Fax, ..said("s-1", T0, leg) };
    let mut fold = Fold::new();
    fold.legs(fax(over(CUSTOMER, ALICE))).finish();
    assert_eq!(fold.verdict_of("s-1"), None);

    let mut fold = Fold::new();
    judged(&mut fold, CUSTOMER, ALICE);
    fold.legs(fax(leg("p-1", "", "", "")));
    assert_eq!(fold.verdict_of("s-1"), None);
    assert!(fold.published.contains(&Output::VerdictGone(account(), sid("s-1"))));
    fold.says("s-1", over(CUSTOMER, BOB)).finish();
    assert_eq!(fold.verdict_of("s-1"), None, "a fax once is one for good");
}

#[test]
fn r7_a_fax_that_only_its_legacy_id_names_is_one_under_its_real_name_in_any_order() {
    let real = CallLegs { legacy_session_id: Some("4711".into()), ..said("s-1", T0, over(CUSTOMER, ALICE)) };
    let fax = CallLegs { media: Media::Fax, ..record("legacy:4711", T0, T0 + S, vec![leg("log:1:0", CUSTOMER, ALICE, "")]) };
    let swapped = (CallLegs { media: Media::Fax, ..real.clone() }, CallLegs { media: Media::Voice, ..fax.clone() });
    for order in [[&real, &fax], [&fax, &real], [&swapped.0, &swapped.1], [&swapped.1, &swapped.0]] {
        let mut fold = Fold::new();
        for facts in order {
            fold.event(&Event::CallLegs(facts.clone())).settle();
        }
        fold.finish();
        assert_eq!((fold.verdict_of("s-1"), fold.verdict_of("legacy:4711")), (None, None));
    }
}

#[test]
fn r7_what_is_neither_voice_nor_fax_is_no_call() {
    let mut fold = Fold::new();
    fold.legs(CallLegs { media: Media::Other, ..said("s-1", T0, over(CUSTOMER, ALICE)) }).finish();
    assert_eq!(fold.verdict_of("s-1"), None);
}

#[test]
fn r7_the_endpoints_of_a_fax_count_in_no_conversation() {
    let mut fold = Fold::new();
    fold.says("s-1", Leg { peer_session_id: Some("s-2".into()), ..leg("p-1", ALICE, BOB, "Gone") });
    fold.says("s-2", over(CUSTOMER, ALICE)).settle();
    assert_eq!(fold.verdict("s-1").verdict, External);
    let now = fold.now;
    fold.legs(CallLegs { media: Media::Fax, ..said("s-2", now, leg("p-9", "", "", "")) }).settle();
    let verdict = fold.verdict("s-1");
    assert_eq!((verdict.verdict, verdict.linked_sessions.len()), (Internal, 0));
    assert_eq!(fold.verdict_of("s-2"), None);
}

#[test]
fn r7_what_waited_for_an_open_session_is_judged_once_that_turns_out_a_fax() {
    let mut fold = Fold::new();
    judged(&mut fold, CUSTOMER, ALICE);
    fold.says("s-2", Leg { peer_session_id: Some("s-1".into()), ..leg("p-1", ALICE, BOB, "Answered") });
    fold.numbers(&[CUSTOMER]).settle();
    assert_eq!(fold.verdict("s-1").verdict, External, "its conversation is open");
    let now = fold.now;
    fold.legs(CallLegs { media: Media::Fax, ..said("s-2", now, leg("p-9", "", "", "")) }).settle();
    assert_eq!((fold.verdict("s-1").verdict, fold.verdict("s-1").revision), (Internal, 2));
}

/// One of a conversation that stays open is judged by itself after 48 hours, and the others when what kept it open turns out a fax.
#[test]
fn r7_what_was_published_of_one_session_alone_reaches_the_others_once_the_open_one_turns_out_a_fax() {
    let mut fold = Fold::new();
    let linked = |to: &str, leg| Leg { peer_session_id: Some(to.into()), ..leg };
    fold.says("s-1", linked("s-2", leg("p-1", ALICE, BOB, "Gone")));
    fold.says("s-2", over(ALICE, BOB)).settle();
    assert_eq!((fold.verdict("s-1").verdict, fold.verdict("s-2").verdict), (Internal, Internal));
    fold.says("s-2", linked("s-3", leg("p-2", ALICE, CUSTOMER, "Disconnected")));
    for _ in 0..5 {
        fold.says("s-3", leg("p-1", BOB, ALICE, "Answered")).wait(12 * H);
    }
    assert_eq!((fold.verdict("s-1").verdict, fold.verdict("s-2").verdict), (Internal, External), "it is open");
    let now = fold.now;
    fold.legs(CallLegs { media: Media::Fax, ..said("s-3", now, leg("p-9", "", "", "")) }).settle();
    assert_eq!((fold.verdict("s-1").verdict, fold.verdict("s-2").verdict), (External, External));
}

// ---- R8 ----

#[test]
fn r8_no_verdict_before_the_call_has_ended() {
    for status in ["Setup", "Proceeding", "Answered", "Hold", "Parked", "VoiceMail", "VoiceMailScreening", "FaxReceive", "SomethingNew", ""] {
        let mut fold = Fold::new();
        fold.says("s-1", leg("p-1", ALICE, BOB, status)).wait(23 * H);
        assert_eq!(fold.verdict_of("s-1"), None, "{status}");
    }
    for status in ["Disconnected", "Gone", "disconnected", "GONE"] {
        let mut fold = Fold::new();
        fold.says("s-1", leg("p-1", ALICE, BOB, status)).settle();
        assert_eq!(fold.verdict("s-1").ended_by, EndedBy::LastLeg, "{status}");
    }
}

#[test]
fn r8_a_lost_end_is_waited_for_24_hours_and_the_verdict_says_so() {
    let mut fold = Fold::new();
    fold.says("s-1", leg("p-1", ALICE, BOB, "Answered")).wait(H).says("s-1", leg("p-1", ALICE, BOB, "Hold"));
    fold.wait(D - S);
    assert_eq!(fold.verdict_of("s-1"), None);
    fold.wait(2 * S);
    assert_eq!(fold.verdict("s-1").ended_by, EndedBy::IdleLimit);
}

#[test]
fn r8_no_verdict_before_the_first_snapshot_is_complete() {
    let mut fold = Fold::gated();
    fold.numbers(&[ALICE]).says("s-1", over(ALICE, BOB)).wait(47 * H);
    assert_eq!(fold.verdict_of("s-1"), None);
    fold.numbers(&[BOB]);
    assert_eq!(fold.verdict_of("s-1"), None);
    fold.complete();
    let verdict = fold.verdict("s-1");
    assert_eq!((verdict.verdict, verdict.revision, verdict.snapshot_complete), (Internal, 1, true));
}

#[test]
fn r8_the_wait_for_the_snapshot_is_48_hours_from_the_event_that_ended_the_call() {
    let mut fold = Fold::gated();
    fold.says("s-1", leg("p-1", ALICE, BOB, "Answered")).wait(H).says("s-1", over(ALICE, BOB)).wait(48 * H - S);
    assert_eq!(fold.verdict_of("s-1"), None);
    fold.wait(2 * S);
    let verdict = fold.verdict("s-1");
    assert_eq!((verdict.verdict, verdict.snapshot_complete), (External, false));
    fold.numbers(&[ALICE, BOB]).complete().settle();
    let verdict = fold.verdict("s-1");
    assert_eq!((verdict.verdict, verdict.snapshot_complete, verdict.revision > 1), (Internal, true, true));
}

#[test]
fn r8_a_gate_that_opens_for_many_calls_does_so_in_bounded_steps() {
    let mut fold = Fold::gated();
    for n in 0..2_500 {
        fold.says(&format!("s-{n}"), over(ALICE, BOB));
    }
    fold.wait(H).numbers(&[ALICE, BOB]);
    fold.most_published = 0;
    fold.complete().settle();
    assert!(fold.most_published <= MOST_OUTPUTS, "{}", fold.most_published);
    assert!((0..2_500).all(|n| fold.verdict(&format!("s-{n}")).verdict == Internal));
}

// ---- R9 and the table of endpoint kinds ----

#[test]
fn r9_what_cannot_be_identified_makes_the_call_external_and_the_reason_says_which() {
    use StandingReason::*;
    for (other, reason) in [
        ("anonymous", Withheld),
        ("Blocked", Withheld),
        ("restricted", Withheld),
        ("unavailable", Withheld),
        ("", Withheld),
        ("911", UnknownShortNumber),
        ("WIRELESS CALLER", Unintelligible),
        ("+1855201XXXX", Masked),
        ("+999123", Unintelligible),
        (CUSTOMER, NotInSnapshot),
    ] {
        let verdict = judged(&mut Fold::new(), ALICE, other);
        assert_eq!(verdict.verdict, External, "{other:?}");
        assert!(verdict.endpoints.iter().any(|e| e.reason == reason && e.standing == Standing::External), "{other:?}: {:?}", verdict.endpoints);
    }
}

#[test]
fn r9_a_call_without_any_judged_endpoint_is_external() {
    assert_eq!(judged(&mut Fold::new(), "conference", "*801").verdict, External);
    let mut fold = Fold::new();
    fold.legs(record("s-1", T0, T0 + S, vec![])).settle();
    assert_eq!(fold.verdict("s-1").verdict, External);
}

/// Bob talks to each of these, in a company whose extension 104 is known; it knows the numbers of `known`, too.
#[track_caller]
fn each_is(known: &[&str], rows: &[(&str, EndpointKind, Standing, Option<&str>)]) {
    for (text, kind, standing, number) in rows {
        let mut fold = Fold::new();
        fold.numbers(known).extension_numbers(&["104"]);
        let verdict = judged(&mut fold, BOB, text);
        let found = verdict.endpoints.iter().find(|e| e.number.as_deref() != Some(BOB)).unwrap();
        assert_eq!((found.kind, found.standing, found.number.as_deref()), (*kind, *standing, *number), "{text:?}");
        let expected = if *standing == Standing::External { External } else { Internal };
        assert_eq!(verdict.verdict, expected, "{text:?}");
    }
}

#[test]
fn kind_phone_is_a_number_in_any_writing_without_its_dial_prefix_and_a_member_of_the_snapshot_or_not() {
    let written = [
        ("+14083388064", "+14083388064"),
        ("12055550010", "+12055550010"),
        ("(866)123-4567", "+18661234567"),
        ("+18885551932*104", "+18885551932"),
        ("*6714083388064", "+14083388064"),
        ("*82(866)123-4567", "+18661234567"),
        ("+44 20 7946 0018", "+442079460018"),
    ];
    for (text, number) in written {
        each_is(&[], &[(text, EndpointKind::Phone, Standing::External, Some(number))]);
        each_is(&[number], &[(text, EndpointKind::Phone, Standing::Internal, Some(number))]);
    }
}

#[test]
fn kind_extension_has_an_extension_id_or_number_and_no_phone_number_and_is_internal() {
    each_is(
        &[],
        &[
            ("ext:77", EndpointKind::Extension, Standing::Internal, None),
            ("#105", EndpointKind::Extension, Standing::Internal, Some("105")),
            ("105/77", EndpointKind::Extension, Standing::Internal, Some("105")),
            ("10500123/77", EndpointKind::Extension, Standing::Internal, Some("10500123")),
            ("104", EndpointKind::Extension, Standing::Internal, Some("104")),
        ],
    );
}

#[test]
fn kind_withheld_is_a_caller_who_hides_or_a_side_that_stays_empty_and_is_external() {
    each_is(
        &[],
        &[
            ("anonymous", EndpointKind::Withheld, Standing::External, Some("anonymous")),
            ("blocked", EndpointKind::Withheld, Standing::External, Some("blocked")),
            ("restricted", EndpointKind::Withheld, Standing::External, Some("restricted")),
            ("unavailable", EndpointKind::Withheld, Standing::External, Some("unavailable")),
            // Withheld is withheld, also from the company's own phone.
            ("anonymous/77", EndpointKind::Withheld, Standing::External, Some("anonymous")),
            ("", EndpointKind::Withheld, Standing::External, None),
        ],
    );
}

#[test]
fn kind_unintelligible_is_no_number_or_a_short_one_that_nobody_knows_is_kept_as_it_came_and_is_external() {
    each_is(
        &[],
        &[
            ("WIRELESS CALLER", EndpointKind::Unintelligible, Standing::External, Some("WIRELESS CALLER")),
            ("+999123", EndpointKind::Unintelligible, Standing::External, Some("+999123")),
            ("1-800-FLOWERS", EndpointKind::Unintelligible, Standing::External, Some("1-800-FLOWERS")),
            ("911", EndpointKind::Unintelligible, Standing::External, Some("911")),
            ("105", EndpointKind::Unintelligible, Standing::External, Some("105")),
            ("+1855201XXXX", EndpointKind::Unintelligible, Standing::External, Some("+1855201XXXX")),
            // Exactly the word, exactly two to four digits: these are no service.
            ("Conference", EndpointKind::Unintelligible, Standing::External, Some("Conference")),
            ("*8", EndpointKind::Unintelligible, Standing::External, Some("*8")),
            ("*80111", EndpointKind::Unintelligible, Standing::External, Some("*80111")),
        ],
    );
}

#[test]
fn kind_service_is_a_conference_a_park_location_or_a_feature_code_and_is_neutral() {
    each_is(
        &[],
        &[
            ("conference", EndpointKind::Service, Standing::Neutral, Some("conference")),
            ("*80", EndpointKind::Service, Standing::Neutral, Some("*80")),
            ("*801", EndpointKind::Service, Standing::Neutral, Some("*801")),
            ("*8011", EndpointKind::Service, Standing::Neutral, Some("*8011")),
        ],
    );
    assert_eq!(judged(&mut Fold::new(), CUSTOMER, "conference").verdict, External, "it makes no call internal");
}

#[test]
fn a_short_number_is_internal_when_it_comes_with_an_extension_id_anywhere_in_the_call() {
    let mut fold = Fold::new();
    fold.says("s-1", leg("p-1", ALICE, "11101", "Setup"));
    fold.says("s-1", leg("p-2", "11104/55", "11101/56", "Disconnected"));
    fold.says("s-1", leg("p-1", ALICE, "11101", "Disconnected")).settle();
    assert_eq!(fold.verdict("s-1").verdict, Internal);
}

#[test]
fn a_known_extension_number_is_internal_without_an_extension_id() {
    let mut fold = Fold::new();
    fold.extension_numbers(&["104"]);
    assert_eq!(judged(&mut fold, ALICE, "104").verdict, Internal);
    let mut other = Fold::new();
    other.extension_numbers(&["105"]);
    assert_eq!(judged(&mut other, ALICE, "104").verdict, External);
}

#[test]
fn a_full_number_with_an_extension_id_is_judged_by_its_number() {
    let verdict = judged(&mut Fold::new(), ALICE, &format!("{CUSTOMER}/77"));
    assert_eq!(verdict.verdict, External);
    assert_eq!(endpoint(&verdict, CUSTOMER).extension_id.as_deref(), Some("77"), "the explanation notes the extension");
    let mut fold = Fold::new();
    fold.settings(|s| s.trust_extension_id = true);
    let verdict = judged(&mut fold, ALICE, &format!("{CUSTOMER}/77"));
    assert_eq!((verdict.verdict, endpoint(&verdict, CUSTOMER).reason), (Internal, StandingReason::TrustedExtension));
}

#[test]
fn a_second_number_on_a_side_is_a_second_endpoint_and_an_empty_side_that_is_filled_was_never_withheld() {
    let mut fold = Fold::new();
    fold.says("s-1", leg("p-1", ALICE, "", "Setup")).says("s-1", leg("p-1", ALICE, BOB, "Disconnected")).settle();
    assert_eq!(fold.verdict("s-1").verdict, Internal);
    fold.says("s-2", leg("p-1", ALICE, BOB, "Setup")).says("s-2", leg("p-1", ALICE, MAIN, "Disconnected")).settle();
    assert_eq!(fold.verdict("s-2").endpoints.len(), 3);
}

#[test]
fn one_person_as_a_direct_number_and_as_a_short_number_is_two_endpoints_both_internal() {
    let mut fold = Fold::new();
    fold.says("s-1", leg("p-1", ALICE, "11101/56", "Disconnected")).says("s-1", leg("p-2", "11104/55", "11101/56", "Disconnected")).settle();
    let verdict = fold.verdict("s-1");
    assert_eq!((verdict.verdict, verdict.endpoints.len()), (Internal, 3));
}

#[test]
fn a_call_log_leg_whose_company_side_is_empty_is_the_records_own_extension() {
    for (direction, from, to, expected) in [
        (Direction::Outbound, "", ALICE, Internal),
        (Direction::Inbound, ALICE, "", Internal),
        (Direction::Outbound, ALICE, "", External),
        (Direction::Inbound, "", ALICE, External),
        (Direction::Unknown, "", ALICE, External),
    ] {
        let own = Leg { direction, extension_id: Some("55".into()), ..leg("log:1:0", from, to, "") };
        let mut fold = Fold::new();
        fold.legs(record("s-1", T0, T0 + S, vec![own])).settle();
        assert_eq!(fold.verdict("s-1").verdict, expected, "{direction:?} {from:?} {to:?}");
    }
}

#[test]
fn an_empty_side_of_a_call_log_leg_is_filled_from_the_webhook_party_with_the_same_id() {
    let mut fold = Fold::new();
    fold.legs(record("s-1", T0, T0 + S, vec![leg("p-1", "", ALICE, "")]));
    fold.says("s-1", leg("p-1", BOB, ALICE, "Disconnected")).settle();
    assert_eq!(fold.verdict("s-1").verdict, Internal);
}

#[test]
fn a_masked_number_equals_any_endpoint_that_fits_its_visible_digits() {
    for (masked, expected) in [("+1205555XXXX", Internal), ("+1205556XXXX", External), ("+120555501XX", Internal), ("+1888555XXXX", External)] {
        let mut fold = Fold::new();
        fold.says("s-1", over(ALICE, BOB));
        fold.legs(record("s-1", T0, T0 + S, vec![leg("log:1:0", masked, BOB, "")])).settle();
        assert_eq!(fold.verdict("s-1").verdict, expected, "{masked}: it never matches a number of the snapshot alone");
    }
}

// ---- R10 ----

#[test]
fn r10_the_verdict_carries_the_participants_that_are_set_to_record() {
    for (recorded, expected) in [(None, vec!["55", "56"]), (Some(vec!["56", "99"]), vec!["56"]), (Some(vec![]), vec![])] {
        let mut fold = Fold::new();
        let recorded: Option<Vec<&str>> = recorded;
        fold.settings(|s| s.recorded_extensions = recorded.map(|ids| ids.into_iter().map(CompactString::new).collect()));
        let verdict = judged(&mut fold, &format!("{ALICE}/55"), &format!("{BOB}/56"));
        assert_eq!(verdict.recorded_extensions, expected);
        assert_eq!(verdict.disposition, Ingest, "the disposition stays as R6 has it");
    }
}

// ---- conversations ----

fn gone_to(peer: &str, from: &str, to: &str) -> Leg {
    Leg { peer_session_id: Some(peer.into()), ..leg("p-1", from, to, "Gone") }
}

#[test]
fn linked_sessions_share_their_endpoints_in_both_directions() {
    // A warm transfer: Alice talks to Bob (s-2) while the customer waits (s-1), then leaves them to each other.
    let mut fold = Fold::new();
    fold.says("s-1", leg("p-2", CUSTOMER, ALICE, "Answered")).says("s-2", leg("p-2", ALICE, BOB, "Answered"));
    fold.says("s-2", gone_to("s-1", ALICE, BOB));
    fold.says("s-2", leg("p-2", ALICE, BOB, "Disconnected")).wait(H);
    assert_eq!(fold.verdict_of("s-2"), None, "its conversation goes on");
    fold.says("s-1", leg("p-2", CUSTOMER, ALICE, "Disconnected")).settle();
    for (session, other) in [("s-1", "s-2"), ("s-2", "s-1")] {
        let verdict = fold.verdict(session);
        assert_eq!((verdict.verdict, verdict.linked_sessions.clone()), (External, vec![sid(other)]), "{session}");
    }
    assert_eq!(endpoint(&fold.verdict("s-2"), CUSTOMER).session_id, Some(sid("s-1")));
    assert_eq!(endpoint(&fold.verdict("s-1"), CUSTOMER).session_id, None);
}

#[test]
fn a_peer_that_was_never_seen_counts_as_over_and_its_link_is_kept() {
    let mut fold = Fold::new();
    fold.says("s-1", gone_to("s-2", ALICE, BOB)).settle();
    let verdict = fold.verdict("s-1");
    assert_eq!((verdict.verdict, verdict.call.links.to_vec()), (Internal, vec![sid("s-2")]));
    fold.wait(H).says("s-2", over(CUSTOMER, ALICE)).settle();
    let verdict = fold.verdict("s-1");
    assert_eq!((verdict.verdict, verdict.cause), (External, RevisionCause::SessionsLinked));
}

#[test]
fn ids_that_identify_nothing_link_nothing() {
    for id in ["0", "", " ", "s-1"] {
        let mut fold = Fold::new();
        fold.says("s-1", gone_to(id, ALICE, BOB)).settle();
        assert!(fold.verdict("s-1").call.links.is_empty(), "{id:?}");
    }
    let mut fold = Fold::new();
    for session in ["s-1", "s-2"] {
        let now = fold.now;
        fold.legs(CallLegs { legacy_session_id: Some("0".into()), ..said(session, now, over(ALICE, BOB)) });
    }
    fold.settle();
    assert!(fold.verdict("s-1").linked_sessions.is_empty(), "conference sessions share the id 0 and nothing else");
}

#[test]
fn sessions_that_share_a_legacy_id_are_linked() {
    let mut fold = Fold::new();
    for (session, to) in [("s-1", BOB), ("s-2", CUSTOMER)] {
        let now = fold.now;
        fold.legs(CallLegs { legacy_session_id: Some("4711".into()), ..said(session, now, over(ALICE, to)) });
    }
    fold.settle();
    assert_eq!(fold.verdict("s-1").verdict, External);
}

#[test]
fn a_record_without_a_session_id_belongs_to_the_session_with_its_legacy_id() {
    let real = |fold: &mut Fold| {
        let now = fold.now;
        fold.legs(CallLegs { legacy_session_id: Some("4711".into()), ..said("s-1", now, over(ALICE, BOB)) }).settle();
    };
    let legacy = |fold: &mut Fold| {
        let facts = record("legacy:4711", T0, T0 + S, vec![leg("log:1:0", ALICE, CUSTOMER, "")]);
        fold.legs(facts).settle();
    };
    let mut fold = Fold::new();
    real(&mut fold);
    legacy(&mut fold);
    assert_eq!((fold.verdict("s-1").verdict, fold.verdict_of("legacy:4711")), (External, None));

    let mut fold = Fold::new();
    legacy(&mut fold);
    assert_eq!(fold.verdict("legacy:4711").superseded_by, None);
    real(&mut fold);
    assert_eq!(fold.verdict("s-1").verdict, External);
    let superseded = fold.verdict("legacy:4711");
    assert_eq!((superseded.superseded_by, superseded.cause), (Some(sid("s-1")), RevisionCause::Superseded));
}

#[test]
fn a_side_that_a_party_shows_under_one_name_of_its_session_was_never_withheld_under_the_other() {
    let real = |fold: &mut Fold| {
        let now = fold.now;
        fold.legs(CallLegs { legacy_session_id: Some("4711".into()), ..said("s-1", now, leg("p-2", &format!("{ALICE}/55"), BOB, "Disconnected")) })
            .settle();
    };
    let legacy = |fold: &mut Fold| {
        fold.legs(record("legacy:4711", T0, T0 + S, vec![leg("p-2", "", BOB, "")])).settle();
    };
    for order in [[&real as &dyn Fn(&mut Fold), &legacy], [&legacy, &real]] {
        let mut fold = Fold::new();
        order.into_iter().for_each(|happens| happens(&mut fold));
        assert_eq!(fold.verdict("s-1").verdict, Internal);
    }
    // Where two real sessions share the id, too, whichever of them comes first.
    let other = |fold: &mut Fold| {
        let now = fold.now;
        fold.legs(CallLegs { legacy_session_id: Some("4711".into()), ..said("s-0", now, leg("p-0", ALICE, BOB, "Disconnected")) }).settle();
    };
    for order in [[&real as &dyn Fn(&mut Fold), &legacy, &other], [&legacy, &real, &other], [&other, &real, &legacy], [&legacy, &other, &real]] {
        let mut fold = Fold::new();
        order.into_iter().for_each(|happens| happens(&mut fold));
        assert_eq!(fold.verdict("s-1").verdict, Internal);
    }
    // Of a session that shares none a party with the same id is another one.
    let mut fold = Fold::new();
    fold.legs(CallLegs { legacy_session_id: Some("4712".into()), ..said("s-2", T0, gone_to("legacy:4711", ALICE, BOB)) });
    fold.says("s-2", leg("p-2", ALICE, BOB, "Disconnected"));
    legacy(&mut fold);
    assert_eq!(fold.verdict("s-2").verdict, External);
}

#[test]
fn ringouts_two_sessions_are_two_calls() {
    let mut fold = Fold::new();
    for (session, legacy, to) in [("s-1", "1000", BOB), ("s-2", "3000", CUSTOMER)] {
        let now = fold.now;
        fold.legs(CallLegs { origin: Some("RingOut".into()), legacy_session_id: Some(legacy.into()), ..said(session, now, over(ALICE, to)) });
    }
    fold.settle();
    assert_eq!((fold.verdict("s-1").verdict, fold.verdict("s-2").verdict), (Internal, External));
}

#[test]
fn a_late_leg_opens_the_conversation_again_and_holds_back_revisions() {
    let mut fold = Fold::new();
    fold.says("s-1", gone_to("s-2", ALICE, CUSTOMER)).says("s-2", over(ALICE, BOB)).settle();
    fold.says("s-2", leg("p-9", BOB, STRANGER, "Answered")).wait(H);
    fold.numbers(&[CUSTOMER]).wait(H);
    assert_eq!((fold.verdict("s-1").revision, fold.verdict("s-2").revision), (1, 1), "held back");
    fold.says("s-2", leg("p-9", BOB, STRANGER, "Disconnected")).settle();
    let verdict = fold.verdict("s-1");
    assert_eq!(verdict.revision, 2);
    assert_eq!(endpoint(&verdict, CUSTOMER).standing, Standing::Internal);
    assert_eq!(endpoint(&verdict, STRANGER).standing, Standing::External);
}

#[test]
fn a_session_that_is_over_for_48_hours_gets_its_verdict_though_its_conversation_goes_on() {
    let mut fold = Fold::new();
    fold.says("s-1", gone_to("s-2", ALICE, BOB));
    for _ in 0..52 {
        fold.says("s-2", leg("p-1", CUSTOMER, ALICE, "Answered")).wait(H);
    }
    let verdict = fold.verdict("s-1");
    assert_eq!((verdict.ended_by, verdict.verdict), (EndedBy::ConversationOpen, External));
    assert_eq!(fold.verdict_of("s-2"), None);
    assert!(verdict.decided_at >= T0 + 48 * H);
}

#[test]
fn a_conversation_follows_256_sessions_and_keeps_the_other_links() {
    let mut fold = Fold::new();
    for n in 0..300 {
        fold.says(&format!("s-{n:03}"), gone_to(&format!("s-{:03}", n + 1), ALICE, BOB));
    }
    fold.settle().wait(H);
    for n in [0, 150, 299] {
        let verdict = fold.verdict(&format!("s-{n:03}"));
        assert_eq!((verdict.linked_sessions.len(), verdict.call.links.len()), (255, 1), "{n}");
    }
    assert!(fold.most_published <= MOST_OUTPUTS);
}

#[test]
fn one_record_does_bounded_work_on_a_conversation_of_256_sessions() {
    let mut fold = Fold::new();
    // The first one goes on, so all the others' deadlines come at once, and each finds that there is nothing to be done yet.
    for n in 0..MOST_SESSIONS {
        let leg = leg("p-1", CUSTOMER, ALICE, if n == 0 { "Answered" } else { "Disconnected" });
        fold.says(&format!("s-{n}"), Leg { peer_session_id: Some("s-0".into()), ..leg });
    }
    fold.settle();
    assert!(fold.state.sessions.values().all(|s| s.verdict.is_none()));
    fold.says("s-0", leg("p-1", CUSTOMER, ALICE, "Disconnected")).settle().numbers(&[CUSTOMER]);
    assert!(fold.state.sessions.values().all(|s| s.verdict.as_ref().is_some_and(|v| (v.verdict, v.linked_sessions.len()) == (Internal, 255))));
    // A step has three parts.
    let most = 3 * (MOST_VISITS + MOST_SESSIONS);
    assert!(fold.most_visited <= most && fold.most_published <= MOST_OUTPUTS, "{} visits, {} outputs", fold.most_visited, fold.most_published);
}

// ---- when has a call ended? ----

#[test]
fn a_finished_record_ends_a_session_whose_last_event_was_lost() {
    let mut fold = Fold::new();
    fold.says("s-1", leg("p-1", ALICE, BOB, "Answered"));
    fold.wait(MIN).legs(CallLegs { received_at: T0 + MIN, ..record("s-1", T0, T0 + 30 * S, vec![]) }).settle();
    assert_eq!(fold.verdict("s-1").ended_by, EndedBy::CallLog);
}

#[test]
fn a_record_that_a_leg_outlives_by_more_than_5_seconds_ends_nothing() {
    for (later, is_over) in [(0, true), (5 * S, true), (5 * S + 1, false), (MIN, false)] {
        let mut fold = Fold::new();
        fold.legs(said("s-1", T0 + 30 * S + later, leg("p-1", ALICE, BOB, "Answered")));
        fold.legs(record("s-1", T0, T0 + 30 * S, vec![])).wait(H);
        assert_eq!(fold.verdict_of("s-1").is_some(), is_over, "{later} ms after the record's end");
    }
}

#[test]
fn a_look_up_that_finds_nothing_ends_a_known_session_and_makes_no_unknown_one() {
    let nothing = |at| CallLegs { source: CallSource::SessionLookup, is_final: true, legs: vec![].into(), ..said("s-1", at, leg("x", "", "", "")) };
    let mut fold = Fold::new();
    fold.says("s-1", leg("p-1", ALICE, BOB, "Answered")).wait(MIN);
    let now = fold.now;
    fold.legs(nothing(now)).settle();
    assert_eq!(fold.verdict("s-1").ended_by, EndedBy::SessionLookup);
    let mut fold = Fold::new();
    fold.legs(nothing(T0)).finish();
    assert!(fold.state.sessions.is_empty());
}

#[test]
fn an_unfinished_record_ends_nothing() {
    let mut fold = Fold::new();
    fold.legs(CallLegs { is_final: false, ..record("s-1", T0, T0 + S, vec![leg("log:1:0", ALICE, BOB, "")]) }).wait(H);
    assert_eq!(fold.verdict_of("s-1"), None);
}

#[test]
fn the_settle_time_waits_for_parties_that_appear_a_moment_later() {
    let mut fold = Fold::new();
    fold.says("s-1", over(ALICE, MAIN)).wait(2 * S).says("s-1", leg("p-3", ALICE, CUSTOMER, "Answered")).wait(H);
    assert_eq!(fold.verdict_of("s-1"), None);
    fold.says("s-1", leg("p-3", ALICE, CUSTOMER, "Disconnected")).settle();
    assert_eq!(fold.revisions("s-1").len(), 1);
}

#[test]
fn a_gap_in_the_sequence_is_waited_for_30_seconds() {
    for (sequences, waits) in [(vec![2, 3], false), (vec![2, 4], true), (vec![3], true), (vec![2, 4, 3], false), (vec![], false)] {
        let mut fold = Fold::new();
        for sequence in &sequences {
            let now = fold.now;
            fold.legs(CallLegs { sequence: Some(*sequence), ..said("s-1", now, over(ALICE, BOB)) });
        }
        if sequences.is_empty() {
            fold.says("s-1", over(ALICE, BOB));
        }
        fold.wait(4 * S);
        assert_eq!(fold.verdict_of("s-1").is_none(), waits, "{sequences:?}");
        fold.wait(30 * S);
        assert!(fold.verdict_of("s-1").is_some(), "{sequences:?}");
    }
}

#[test]
fn a_judged_session_takes_in_what_is_material_and_nothing_else() {
    let now = T0 + H;
    let rows: Vec<(&str, CallLegs, bool)> = vec![
        ("the same again", said("s-1", T0, over(ALICE, BOB)), false),
        ("another status of the leg", said("s-1", now, leg("p-1", ALICE, BOB, "Answered")), false),
        ("another leg of the same people", said("s-1", now, leg("p-2", BOB, ALICE, "Disconnected")), false),
        ("a new number", said("s-1", now, leg("p-2", BOB, CUSTOMER, "Disconnected")), true),
        ("an extension id", said("s-1", now, leg("p-1", ALICE, &format!("{BOB}/56"), "Disconnected")), true),
        ("a link", said("s-1", now, gone_to("s-7", ALICE, BOB)), true),
        ("a legacy id", CallLegs { legacy_session_id: Some("5".into()), ..said("s-1", now, over(ALICE, BOB)) }, true),
        ("a participant that is recorded", said("s-1", now, Leg { extension_id: Some("55".into()), ..over(ALICE, BOB) }), true),
        ("a record that says the same", record("s-1", T0, T0 + S, vec![leg("log:1:0", ALICE, BOB, "")]), false),
    ];
    for (what, facts, is_material) in rows {
        let mut fold = Fold::new();
        judged(&mut fold, ALICE, BOB);
        fold.wait(H).legs(facts);
        let session = fold.state.sessions[&(account(), sid("s-1"))].clone();
        assert_eq!(session.open.is_some(), is_material, "{what}");
        fold.settle();
        assert_eq!(fold.verdict("s-1").revision, if is_material { 2 } else { 1 }, "{what}");
        assert!(fold.state.sessions[&(account(), sid("s-1"))].open.is_none(), "{what}: every material fact ends in a published record");
    }
}

/// Who is recorded of a session stays known of it, also while another of its conversation shows the same.
#[test]
fn r10_a_recorded_participant_of_its_own_is_kept_when_the_session_that_had_it_before_turns_out_a_fax() {
    let mut fold = Fold::new();
    fold.settings(|s| s.recorded_extensions = Some(vec!["7".into()]));
    let owned = |leg| Leg { extension_id: Some("7".into()), ..leg };
    fold.says("s-1", Leg { peer_session_id: Some("s-2".into()), ..leg("p-1", ALICE, BOB, "Gone") });
    fold.says("s-2", owned(over(BOB, ALICE))).settle();
    fold.says("s-1", owned(leg("p-1", ALICE, BOB, "Gone"))).settle();
    let now = fold.now;
    fold.legs(CallLegs { media: Media::Fax, ..said("s-2", now, leg("p-9", "", "", "")) }).settle();
    assert_eq!(fold.verdict("s-1").recorded_extensions, ["7"]);
}

// ---- bounds, open-calls, retention, removal ----

#[test]
fn a_call_keeps_4096_legs_and_losing_one_makes_it_external() {
    let mut fold = Fold::new();
    for n in 0..MOST_LEGS {
        fold.says("s-1", leg(&format!("p-{n}"), ALICE, BOB, "Disconnected"));
    }
    fold.settle();
    assert_eq!((fold.verdict("s-1").verdict, fold.verdict("s-1").call.legs.len()), (Internal, MOST_LEGS));
    fold.says("s-1", leg("p-more", ALICE, MAIN, "Disconnected")).settle();
    let verdict = fold.verdict("s-1");
    assert_eq!((verdict.verdict, verdict.call.legs_dropped, verdict.call.legs.len()), (External, 1, MOST_LEGS));
}

#[test]
fn nothing_published_is_larger_than_900_kb() {
    let mut fold = Fold::new();
    for n in 0..MOST_LEGS {
        let mut leg = leg(&format!("p-{}-{n}", "x".repeat(200)), ALICE, &format!("+1415{n:07}"), "Disconnected");
        leg.from.extension_id = Some(format!("{:0>200}", n).into());
        fold.says("s-1", leg);
    }
    fold.wait(MIN);
    let verdict = fold.verdict("s-1");
    let size = encode(&verdict).len();
    assert!((400_000..900_000).contains(&size), "{size}");
    assert!(verdict.endpoints_omitted > 0 && verdict.endpoints.iter().all(|e| e.standing == Standing::External), "external ones come first");
    assert!(verdict.call.legs_dropped > 0 && verdict.verdict == External);
}

/// Also where it is open still, and goes to open-calls: whatever has no room counts as dropped.
#[test]
fn an_open_call_that_is_published_is_no_larger_than_900_kb() {
    let text = |n: usize| CompactString::from(format!("{n:0>256}"));
    let mut fold = Fold::new();
    // Few legs with all values that a side keeps, many with one, one session that has heard of a thousand others; in small events, and in large ones.
    for (session, legs, values, peers, in_one) in [
        ("s-1", 60, 16, 0, false),
        ("s-2", 60, 16, 0, true),
        ("s-3", MOST_LEGS, 1, 0, false),
        ("s-4", 2_000, 1, 2_000, true),
        ("s-5", 28, 16, 28, true),
    ] {
        let one = |n: usize, value: usize| {
            let side = |kind: usize| Some(text((n * 16 + value) * 8 + kind));
            let from = Endpoint { number: side(0), extension_id: side(1), extension_number: side(2) };
            let to = Endpoint { number: side(3), extension_id: side(4), extension_number: side(5) };
            let peer = (n < peers).then(|| CompactString::from(format!("s-{n:0>200}")));
            Leg { from, to, extension_id: side(6), peer_session_id: peer, ..leg(&format!("p-{n:0>300}"), ALICE, BOB, "Answered") }
        };
        let all: Vec<Leg> = (0..legs).flat_map(|n| (0..values).map(move |value| (n, value))).map(|(n, value)| one(n, value)).collect();
        for some in all.chunks(if in_one { all.len() } else { 1 }) {
            fold.legs(CallLegs { legs: some.iter().cloned().collect(), ..said(session, T0, some[0].clone()) });
        }
    }
    fold.wait(11 * MIN);
    let open: Vec<&OpenCall> =
        fold.published.iter().filter_map(|output| if let Output::Open(row) = output { Some(&row.record) } else { None }).collect();
    assert_eq!(open.len(), 5);
    for record in open {
        let (size, dropped) = (encode(record).len(), record.call.legs_dropped);
        assert!((600_000..900_000).contains(&size), "{}: {size}", record.session_id);
        assert_eq!(dropped > 0, record.session_id.as_str() != "s-5", "{}: {size}", record.session_id);
    }
}

/// The kept endpoints alone lead from a number to the verdict. Of those that are external the first ones are kept, so as long as any
/// is, one of them waits; when an omitted one's number arrives, nothing that is published changes.
#[test]
fn a_verdict_with_more_unknown_numbers_than_it_can_name_turns_internal_when_all_have_arrived_in_any_order() {
    let numbers: Vec<String> = (0..2_000).map(|n| format!("+1415555{n:04}")).collect();
    let call = || {
        let legs = numbers.iter().enumerate().map(|(n, number)| leg(&format!("p-{}-{n}", "x".repeat(150)), ALICE, number, "Disconnected"));
        let mut fold = Fold::new();
        fold.legs(CallLegs { legs: legs.collect(), ..said("s-1", T0, over(ALICE, BOB)) });
        fold.settle();
        fold
    };
    let mut fold = call();
    let verdict = fold.verdict("s-1");
    assert_eq!((verdict.verdict, verdict.call.legs_dropped), (External, 0));
    let named: BTreeSet<_> = verdict.endpoints.iter().filter_map(|e| e.number.as_deref()).collect();
    let (kept, omitted): (Vec<_>, Vec<_>) = numbers.iter().map(String::as_str).partition(|number| named.contains(number));
    assert!(verdict.endpoints_omitted > 1 && omitted.len() + 1 >= usize::try_from(verdict.endpoints_omitted).unwrap(), "Alice, too");

    let last_kept = kept[kept.len() - 1];
    let orders = [[&omitted[..], &kept].concat(), [&kept[..], &omitted].concat(), [&kept[..kept.len() - 1], &omitted, &[last_kept]].concat()];
    let mut newest = Vec::new();
    for (n, order) in orders.iter().enumerate() {
        let mut fold = if n == 0 { std::mem::replace(&mut fold, Fold::new()) } else { call() };
        for (at, some) in order.chunks(400).enumerate() {
            assert_eq!(fold.verdict("s-1").verdict, External, "order {n}, before chunk {at}");
            fold.numbers(some).settle();
        }
        let verdict = fold.verdict("s-1");
        assert_eq!(verdict.verdict, Internal, "order {n}");
        newest.push(verdict.endpoints.into_iter().filter_map(|e| e.number).collect::<BTreeSet<_>>());
        check_history(&fold);
    }
    assert!(newest.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_side_keeps_16_values_and_losing_one_makes_the_call_external() {
    let mut fold = Fold::new();
    let numbers: Vec<String> = (0..17).map(|n| format!("+120555502{n:02}")).collect();
    fold.numbers(&numbers.iter().map(String::as_str).collect::<Vec<_>>());
    for (n, number) in numbers.iter().enumerate() {
        fold.says("s-1", over(ALICE, number)).settle();
        assert_eq!(fold.verdict("s-1").verdict, if n < 16 { Internal } else { External }, "{n}");
    }
}

#[test]
fn facts_that_have_waited_for_10_minutes_go_to_open_calls_until_a_verdict_contains_them() {
    let mut fold = Fold::new();
    fold.says("s-1", leg("p-1", ALICE, BOB, "Answered")).wait(10 * MIN - S);
    let open = |fold: &Fold| fold.published.iter().filter(|o| matches!(o, Output::Open(_))).count();
    assert_eq!(open(&fold), 0);
    fold.wait(2 * S);
    assert_eq!(open(&fold), 1);
    fold.wait(5 * H);
    assert_eq!(open(&fold), 1, "nothing is new");
    fold.says("s-1", leg("p-1", ALICE, BOB, "Hold")).wait(11 * MIN);
    assert_eq!(open(&fold), 2);
    fold.says("s-1", over(ALICE, BOB)).settle();
    assert_eq!(fold.published.last(), Some(&Output::OpenGone(account(), sid("s-1"))));

    let mut short = Fold::new();
    short.says("s-1", over(ALICE, BOB)).settle();
    assert!(!short.published.iter().any(|o| matches!(o, Output::Open(_) | Output::OpenGone(..))), "short calls never go there");
}

#[test]
fn a_conversation_is_forgotten_as_a_whole_400_days_after_its_last_sessions_end() {
    let mut fold = Fold::new();
    fold.says("s-1", gone_to("s-2", ALICE, BOB)).settle();
    fold.wait(D).says("s-2", over(CUSTOMER, ALICE)).settle();
    fold.wait(400 * D - H);
    assert!(fold.verdict_of("s-1").is_some(), "its conversation is younger");
    fold.wait(2 * D);
    assert!(fold.state.sessions.is_empty());
    for session in ["s-1", "s-2"] {
        assert!(fold.published.contains(&Output::VerdictGone(account(), sid(session))), "{session}");
    }
    assert_eq!(fold.state.numbers.len(), 3, "numbers are never forgotten");
    fold.refused.clear();
    fold.event(&Event::CallLegs(said("s-1", T0, over(ALICE, BOB))));
    assert!(fold.refused[0].contains("retention"), "{:?}", fold.refused);
}

#[test]
fn a_fax_stays_until_retention() {
    let mut fold = Fold::new();
    fold.legs(CallLegs { media: Media::Fax, ..said("s-1", T0, over(CUSTOMER, ALICE)) }).wait(399 * D);
    assert_eq!(fold.state.sessions.len(), 1);
    fold.wait(2 * D);
    assert!(fold.state.sessions.is_empty());
    assert_eq!(fold.published.last(), Some(&Output::OpenGone(account(), sid("s-1"))));
}

#[test]
fn a_removed_account_is_erased_in_bounded_steps_and_may_come_back() {
    let mut fold = Fold::new();
    for n in 0..1_500 {
        fold.says(&format!("s-{n}"), over(ALICE, CUSTOMER));
    }
    fold.settle().says("s-open", leg("p-1", ALICE, BOB, "Answered")).wait(11 * MIN);
    fold.most_published = 0;
    fold.event(&Event::AccountRemoved(AccountRemoved { account_id: account(), removed_at: T0 }));
    // It is connected again at once.
    fold.numbers(&[ALICE]).complete().says("s-0", over(ALICE, BOB)).settle();
    assert!(fold.most_published <= MOST_OUTPUTS);
    assert_eq!(fold.state.sessions.len(), 1);
    assert_eq!((fold.verdict("s-0").revision, fold.verdict("s-0").verdict), (1, External), "Bob's number was erased");
    assert_eq!(fold.state.numbers.keys().map(|(_, n)| n.as_str()).collect::<Vec<_>>(), [ALICE]);
    let gone: BTreeSet<_> = fold
        .published
        .iter()
        .filter_map(|o| match o {
            Output::VerdictGone(_, session) => Some(session.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(gone.len(), 1_500);
    assert!(fold.published.contains(&Output::OpenGone(account(), sid("s-open"))));
    assert!(fold.published.contains(&Output::NumberGone(account(), BOB.into())));
}

// ---- properties ----

/// A truth: what is said about some sessions, and which numbers become known.
#[allow(clippy::large_enum_variant, reason = "nearly all are calls")]
#[derive(Clone)]
enum Fact {
    Call(CallLegs),
    Number(&'static str, NumberKind),
}

/// One line, so that a failure shows the shortest history at a glance.
impl std::fmt::Debug for Fact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = |e: &Endpoint| format!("{}/{}", e.number.as_deref().unwrap_or(""), e.extension_id.as_deref().unwrap_or(""));
        match self {
            Self::Number(number, _) => write!(f, "number {number}"),
            Self::Call(c) => {
                write!(
                    f,
                    "{} {:?} at {}s seq {:?} legacy {:?} {:?}",
                    c.session_id,
                    c.source,
                    (c.occurred_at - T0) / S,
                    c.sequence,
                    c.legacy_session_id,
                    c.media
                )?;
                for l in &c.legs {
                    write!(f, " [{} {} -> {} {:?} peer {:?}]", l.leg_id, side(&l.from), side(&l.to), l.status, l.peer_session_id)?;
                }
                Ok(())
            }
        }
    }
}

/// Who is on a side of a leg: fixed by the leg, as in life.
fn who(session: &str, leg: usize, is_from: bool, truth: usize) -> &'static str {
    const PEOPLE: [&str; 14] =
        [ALICE, BOB, ALICE, BOB, CUSTOMER, STRANGER, "anonymous", "", "11101/56", "4591", "ext:57", "conference", "+1415555XXXX", "+12055550101/55"];
    PEOPLE[(session.len() * 7 + session.as_bytes()[session.len() - 1] as usize * 3 + leg * 5 + usize::from(is_from) * 11 + truth) % PEOPLE.len()]
}

/// What one event shows of a side: all of it, or (as the first one of a leg often does) the number without its extension id.
///
/// A side that one event leaves empty and another fills is not generated: of a leg that a judged call learns late and knows
/// everybody of already, nothing is kept (design §1), so a still later event that shows less of it would count as withheld.
fn shown(side: &'static str, is_whole: bool) -> String {
    if is_whole { side.to_owned() } else { side.split('/').next().unwrap_or_default().to_owned() }
}

fn arb_fact(truth: usize) -> impl Strategy<Value = Fact> {
    let session = prop_oneof![Just("s-1"), Just("s-2"), Just("s-3"), Just("legacy:9")];
    let status = prop_oneof![Just("Setup"), Just("Answered"), Just("Disconnected"), Just("Gone")];
    let shows = prop::bool::weighted(0.7);
    let legacy = prop::option::weighted(0.2, Just("9"));
    let peer = prop::option::weighted(0.15, prop_oneof![Just("s-1"), Just("s-2"), Just("s-3"), Just("s-never-seen")]);
    let call = (session, 0..4usize, shows, shows, status, 0..600i64, legacy, peer, 0..20u8, prop::option::of(2..6i64)).prop_map(
        move |(session, n, from, to, status, at, legacy, peer, kind, sequence)| {
            let (from, to) = (shown(who(session, n, true, truth), from), shown(who(session, n, false, truth), to));
            // Sessions that share a legacy id are one call: the one that may be a fax shares it with no voice call.
            let legacy = legacy.filter(|_| session != "s-3");
            // Party ids are unique to their session.
            let mut one = leg(&format!("p-{session}-{n}"), &from, &to, status);
            one.peer_session_id = peer.map(CompactString::from);
            let mut facts = CallLegs { sequence, legacy_session_id: legacy.map(CompactString::new), ..said(session, T0 + at * S, one) };
            if kind == 1 || session.starts_with("legacy") {
                let id = |l: &Leg| LegId::parse(&format!("log:{session}-{n}:{}", l.leg_id)).unwrap();
                let legs = facts.legs.iter().map(|l| Leg { leg_id: id(l), status: None, ..l.clone() }).collect();
                facts = CallLegs { legacy_session_id: facts.legacy_session_id.clone(), ..record(session, T0 + at * S, T0 + (at + 60) * S, legs) };
            }
            if kind == 2 && session == "s-3" {
                facts.media = Media::Fax;
            }
            Fact::Call(facts)
        },
    );
    let number = prop_oneof![
        Just((CUSTOMER, NumberKind::Phone)),
        Just((STRANGER, NumberKind::Phone)),
        Just(("4591", NumberKind::Extension)),
        Just(("11101", NumberKind::Extension))
    ]
    .prop_map(|(n, kind)| Fact::Number(n, kind));
    prop_oneof![9 => call, 1 => number]
}

/// A way to deliver facts: each at least once, in some order, with waits in between.
fn arb_delivery(facts: usize) -> impl Strategy<Value = Vec<(usize, Millis)>> {
    let wait = prop_oneof![6 => 0..5 * S, 3 => 0..5 * MIN, 1 => 0..30 * H];
    (Just((0..facts).collect::<Vec<_>>()).prop_shuffle(), prop::collection::vec((0..facts.max(1), wait), facts..facts + 6)).prop_map(
        move |(order, extra)| {
            let mut delivery: Vec<(usize, Millis)> = order.iter().zip(&extra).map(|(n, (_, wait))| (*n, *wait)).collect();
            delivery.extend(extra.iter().skip(facts).map(|(n, wait)| (n % facts.max(1), *wait)));
            delivery
        },
    )
}

type Delivery = Vec<(usize, Millis)>;

fn arb_truth() -> impl Strategy<Value = (Vec<Fact>, Delivery, Delivery)> {
    (0..14usize).prop_flat_map(|truth| prop::collection::vec(arb_fact(truth), 1..14)).prop_flat_map(|facts| {
        let n = facts.len();
        (Just(facts), arb_delivery(n), arb_delivery(n))
    })
}

/// Verdict, disposition, endpoints with their standings, linked sessions, recorded extensions, legacy ids.
type Lasting = (Verdict, Disposition, BTreeSet<String>, Vec<SessionId>, Vec<CompactString>, Vec<CompactString>);

impl Fold {
    fn deliver(&mut self, fact: &Fact) {
        match fact {
            Fact::Call(facts) => {
                let facts = CallLegs { received_at: self.now, ..facts.clone() };
                self.event(&Event::CallLegs(facts));
            }
            Fact::Number(number, NumberKind::Phone) => {
                self.numbers(&[number]);
            }
            Fact::Number(number, NumberKind::Extension) => {
                self.extension_numbers(&[number]);
            }
        }
    }

    fn deliver_all(&mut self, facts: &[Fact], delivery: &[(usize, Millis)]) {
        for (n, wait) in delivery {
            self.deliver(&facts[*n]);
            self.wait(*wait);
        }
        self.finish();
    }

    /// What must not depend on how the facts arrived: what a revision is published for, of every call.
    fn newest(&self) -> BTreeMap<String, Lasting> {
        self.state
            .sessions
            .iter()
            .filter_map(|((_, id), session)| {
                let v = session.verdict.as_ref().filter(|v| v.superseded_by.is_none())?;
                let endpoints =
                    v.endpoints.iter().map(|e| format!("{:?} {:?} {:?} {:?} {:?}", e.number, e.extension_id, e.kind, e.standing, e.reason)).collect();
                let linked = v.linked_sessions.iter().filter(|s| s.as_legacy().is_none()).cloned().collect();
                let legacy = v.call.legacy_session_ids.to_vec();
                Some((id.to_string(), (v.verdict, v.disposition, endpoints, linked, v.recorded_extensions.clone(), legacy)))
            })
            .collect()
    }
}

fn check_history(fold: &Fold) {
    let mut revisions: BTreeMap<SessionId, i32> = BTreeMap::new();
    let mut verdicts: BTreeMap<SessionId, Verdict> = BTreeMap::new();
    for output in &fold.published {
        match output {
            Output::Verdict(v) => {
                let last = revisions.insert(v.session_id.clone(), v.revision).unwrap_or(0);
                assert_eq!(v.revision, last + 1, "revisions of {} are without gaps or repetition", v.session_id);
                assert_eq!(v.previous_verdict, verdicts.insert(v.session_id.clone(), v.verdict));
            }
            Output::VerdictGone(_, session) => {
                revisions.remove(session);
                verdicts.remove(session);
            }
            _ => {}
        }
    }
}

/// Which conversations are open, by design §1, from what was said alone.
///
/// Of a judged session, what is not material is dropped. Which facts those are is not computed here: one that surely is material (a
/// number, a link or a legacy id nobody had said of the session) opens it, any other one can only end it. So nothing here calls a conversation open
/// that isn't.
#[derive(Default)]
struct Heard(BTreeMap<SessionId, HeardSession>);

#[derive(Default)]
struct HeardSession {
    /// Whether the leg is over, and its newest notification.
    legs: BTreeMap<LegId, (bool, Option<Millis>)>,
    record_ends: Option<Millis>,
    first_heard_at: Millis,
    heard_at: Millis,
    links: BTreeSet<SessionId>,
    legacy_ids: BTreeSet<CompactString>,
    numbers: BTreeSet<CompactString>,
    is_fax: bool,
    /// Something was said that no verdict contains.
    has_news: bool,
}

impl Heard {
    fn take_in(&mut self, facts: &CallLegs, now: Millis) {
        let is_known_by = |legacy: &str| self.0.iter().find(|(id, s)| id.as_legacy().is_none() && s.legacy_ids.contains(legacy));
        let real = facts.session_id.as_legacy().and_then(is_known_by).map(|(id, _)| id.clone());
        let id = real.unwrap_or_else(|| facts.session_id.clone());
        let links = facts.legs.iter().filter_map(|l| l.peer_session_id.as_deref()).map(sid).filter(|peer| *peer != id);
        let legacy_ids = facts.legacy_session_id.iter().cloned().chain(facts.session_id.as_legacy().map(CompactString::new));
        let numbers = facts.legs.iter().flat_map(|l| [&l.from.number, &l.to.number]).flatten().filter(|n| !n.contains("XXXX")).cloned();
        let session = self.0.entry(id.clone()).or_insert_with(|| HeardSession { has_news: true, first_heard_at: now, ..HeardSession::default() });
        session.has_news |= links.fold(false, |news, link| session.links.insert(link) | news)
            | legacy_ids.fold(false, |news, id| session.legacy_ids.insert(id) | news)
            | numbers.fold(false, |news, number| session.numbers.insert(number) | news);
        session.is_fax |= facts.media == Media::Fax;
        session.record_ends = session.record_ends.max(facts.ended_at.filter(|_| facts.is_final));
        for leg in &facts.legs {
            let is_over = matches!(leg.status.as_deref(), Some("Disconnected" | "Gone"));
            if let Some(known) = session.legs.get_mut(&leg.leg_id) {
                known.0 |= is_over;
            } else if session.has_news || is_over {
                session.legs.insert(leg.leg_id.clone(), (is_over, None));
            }
            if session.has_news
                && facts.source == CallSource::Webhook
                && let Some(known) = session.legs.get_mut(&leg.leg_id)
            {
                known.1 = known.1.max(Some(facts.occurred_at));
            }
        }
        if session.has_news {
            session.heard_at = now;
        }
    }

    fn judged(&mut self, session: &SessionId) {
        if let Some(session) = self.0.get_mut(session) {
            session.has_news = false;
        }
    }

    /// Those of the session's conversation that are not over at this time.
    fn open_sessions(&self, session: &SessionId, now: Millis) -> BTreeSet<SessionId> {
        let mut conversation: BTreeSet<&SessionId> = BTreeSet::from([session]);
        loop {
            let is_linked = |(id, s): &(&SessionId, &HeardSession)| {
                let mut members = conversation.iter().filter_map(|member| self.0.get_key_value(*member));
                let is_neighbour = |(other, o): (&SessionId, &HeardSession)| {
                    s.links.contains(other) || o.links.contains(id) || !s.legacy_ids.is_disjoint(&o.legacy_ids)
                };
                !s.is_fax && members.any(is_neighbour)
            };
            let grown: BTreeSet<&SessionId> = self.0.iter().filter(is_linked).map(|(id, _)| id).chain(conversation.iter().copied()).collect();
            if grown == conversation {
                break;
            }
            conversation = grown;
        }
        conversation.into_iter().filter(|id| self.0.get(*id).is_some_and(|s| !s.is_over(now))).cloned().collect()
    }
}

impl HeardSession {
    fn is_over(&self, now: Millis) -> bool {
        let outlives = |end: Millis| self.legs.values().any(|(is_over, at)| !is_over && at.is_some_and(|at| at > end + 5 * S));
        !self.has_news
            || (!self.legs.is_empty() && self.legs.values().all(|(is_over, _)| *is_over))
            || self.record_ends.is_some_and(|end| !outlives(end))
            || self.heard_at + 24 * H <= now
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: std::env::var("PROPTEST_CASES").map_or(400, |cases| cases.parse().unwrap()), ..ProptestConfig::default() })]

    #[test]
    fn any_order_duplication_and_delay_of_the_same_facts_leads_to_the_same_newest_verdicts((facts, one, other) in arb_truth()) {
        let (mut a, mut b) = (Fold::new(), Fold::new());
        a.deliver_all(&facts, &one);
        b.deliver_all(&facts, &other);
        prop_assert_eq!(a.newest(), b.newest());
        check_history(&a);
        check_history(&b);
    }

    #[test]
    fn a_complete_new_leg_never_turns_external_into_internal(facts in (0..14usize).prop_flat_map(|truth| prop::collection::vec(arb_fact(truth), 1..10)), from in 0..4usize, to in 0..4usize) {
        let mut fold = Fold::new();
        let order: Vec<_> = (0..facts.len()).map(|n| (n, 0)).collect();
        fold.deliver_all(&facts, &order);
        let before = fold.newest();
        let complete = [ALICE, BOB, CUSTOMER, MAIN];
        fold.says("s-1", leg("p-new", complete[from], complete[to], "Disconnected")).finish();
        for (session, after) in fold.newest() {
            if let Some(was) = before.get(&session) {
                // A number that a masked one was hiding is knowledge, not only a leg.
                let masks = was.2.iter().any(|e| e.contains("Masked"));
                prop_assert!(!(was.0 == External && after.0 == Internal) || masks, "{}", session);
            }
        }
    }

    #[test]
    fn a_new_number_never_turns_internal_into_external(facts in (0..14usize).prop_flat_map(|truth| prop::collection::vec(arb_fact(truth), 1..10))) {
        let mut fold = Fold::new();
        let order: Vec<_> = (0..facts.len()).map(|n| (n, 0)).collect();
        fold.deliver_all(&facts, &order);
        let before = fold.newest();
        fold.numbers(&[CUSTOMER, STRANGER]).extension_numbers(&["4591", "11101"]).finish();
        for (session, after) in fold.newest() {
            prop_assert!(!(before[&session].0 == Internal && after.0 == External), "{}", session);
        }
    }

    #[test]
    fn accounts_never_leak_into_each_other(facts in (0..14usize).prop_flat_map(|truth| prop::collection::vec(arb_fact(truth), 1..12))) {
        let other = AccountId::parse("8096460160").unwrap();
        let mut alone = Fold::new();
        let mut beside = Fold::new();
        for fact in &facts {
            alone.deliver(fact);
            beside.deliver(fact);
            if let Fact::Call(facts) = fact {
                let foreign = CallLegs { account_id: other.clone(), ..facts.clone() };
                beside.event(&Event::CallLegs(foreign));
                let observed = NumbersObserved { account_id: other.clone(), query: NumberQuery::Directory, observed_at: T0, sync_id: None,
                    numbers: vec![observed(CUSTOMER, NumberKind::Phone), observed(STRANGER, NumberKind::Phone)] };
                beside.event(&Event::NumbersObserved(observed));
            }
        }
        alone.finish();
        beside.finish();
        let own = |fold: &Fold| -> Vec<_> {
            let mine = fold.state.sessions.iter().filter(|((a, _), _)| *a == account());
            mine.filter_map(|((_, id), s)| s.verdict.as_ref().map(|v| (id.clone(), v.verdict, v.endpoints.clone(), v.linked_sessions.clone()))).collect()
        };
        prop_assert_eq!(own(&alone), own(&beside));
    }

    #[test]
    fn nothing_is_published_for_a_conversation_that_is_open((facts, one, _) in arb_truth()) {
        let mut fold = Fold::new();
        let mut heard = Heard::default();
        for (n, wait) in &one {
            if let Fact::Call(facts) = &facts[*n] {
                heard.take_in(facts, fold.now);
            }
            let known = fold.published.len();
            fold.deliver(&facts[*n]);
            fold.wait(*wait);
            for output in &fold.published[known..] {
                let Output::Verdict(v) = output else { continue };
                let open = heard.open_sessions(&v.session_id, v.decided_at);
                let is_allowed = match v.ended_by {
                    EndedBy::ConversationOpen => !open.contains(&v.session_id) && v.decided_at >= heard.0[&v.session_id].first_heard_at + 48 * H,
                    _ => open.is_empty(),
                };
                prop_assert!(is_allowed, "revision {} of {} ({:?}), while open: {:?}", v.revision, v.session_id, v.ended_by, open);
                heard.judged(&v.session_id);
            }
        }
    }
}

// ---- what time brings about and what the record brings, in one step ----

#[test]
fn r5_a_number_that_arrives_with_the_record_that_closes_the_call_corrects_it() {
    let mut fold = Fold::new();
    fold.says("s-1", over(ALICE, CUSTOMER));
    fold.now += H;
    fold.numbers(&[CUSTOMER]);
    assert_eq!((fold.verdict("s-1").verdict, fold.verdict("s-1").revision), (Internal, 2));
}

#[test]
fn r8_a_snapshot_that_is_complete_with_the_record_that_ends_the_wait_opens_the_gate() {
    let mut fold = Fold::gated();
    fold.numbers(&[ALICE, BOB]).says("s-1", over(ALICE, BOB));
    fold.now += 49 * H;
    fold.complete();
    assert!(fold.verdict("s-1").snapshot_complete);
}

#[test]
fn what_time_brings_about_contains_the_records_before_and_none_of_the_present_one() {
    let mut fold = Fold::new();
    fold.says("s-1", over(ALICE, BOB));
    fold.now += H;
    fold.says("s-1", leg("p-2", ALICE, CUSTOMER, "Disconnected"));
    let session = fold.state.sessions[&(account(), sid("s-1"))].clone();
    assert_eq!(session.verdict.unwrap().position + 1, session.open.unwrap().record.position);
}

#[test]
fn a_leg_whose_people_the_conversation_knows_already_still_ends_in_its_own_sessions_record() {
    let mut fold = Fold::new();
    fold.says("s-1", gone_to("s-2", ALICE, BOB)).says("s-2", over(CUSTOMER, ALICE)).settle();
    fold.says("s-1", leg("p-9", CUSTOMER, BOB, "Disconnected")).settle();
    let now = fold.now;
    fold.legs(CallLegs { media: Media::Fax, ..said("s-2", now, leg("p-9", "", "", "")) }).settle();
    assert_eq!(fold.verdict("s-1").verdict, External, "the customer was on this session, too");
}

#[test]
fn a_fax_that_had_a_verdict_keeps_its_evidence_on_a_topic() {
    let mut fold = Fold::new();
    judged(&mut fold, CUSTOMER, ALICE);
    let now = fold.now;
    fold.legs(CallLegs { media: Media::Fax, ..said("s-1", now, over(CUSTOMER, ALICE)) });
    let told = &fold.published[fold.published.len() - 2..];
    assert!(matches!(told, [Output::VerdictGone(..), Output::Open(row)] if row.record.call.legs.len() == 1), "{told:?}");
}

#[test]
fn no_time_stops_the_partition() {
    for time in [Millis::MAX, Millis::MIN] {
        let mut fold = Fold::new();
        fold.now = time;
        let facts = CallLegs { occurred_at: time, ended_at: Some(time), ..said("s-1", T0, over(ALICE, BOB)) };
        fold.event(&Event::CallLegs(facts)).numbers(&[CUSTOMER]).event(&Event::Tick(Tick { at: time }));
    }
}

/// However many there are: a few are looked through, more are found by an index.
#[test]
fn an_endpoint_that_comes_again_is_the_same_one() {
    for count in [1_usize, 15, 16, 17, 18, 40] {
        let mut fold = Fold::new();
        let number = |n: usize| format!("+1415555{n:04}");
        // Each twice; the second time earlier, and with a smaller owner.
        for (turn, at) in [("2", 10 * S), ("1", 5 * S)] {
            for n in 0..count {
                let side = format!("{}/9{turn}", number(n));
                let facts = said("s-1", T0 + at + i64::try_from(n).unwrap(), leg(&format!("p-{turn}-{n}"), &side, ALICE, "Disconnected"));
                fold.legs(CallLegs { received_at: fold.now, ..facts });
            }
        }
        fold.settle();
        let verdict = fold.verdict("s-1");
        let found: Vec<_> = verdict
            .endpoints
            .iter()
            .filter_map(|e| Some((e.number.clone()?.to_string(), e.joined_at, e.extension_id.clone()?.to_string())))
            .collect();
        let expected: Vec<_> = (0..count).map(|n| (number(n), T0 + 5 * S + i64::try_from(n).unwrap(), "91".to_owned())).collect();
        assert_eq!(found, expected, "{count}");
    }
}
