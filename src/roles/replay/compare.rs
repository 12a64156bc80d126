//! What a replay says otherwise than the live processor: its verdicts against the newest live ones, by what a revision is published for.

use super::{Begun, Part, Replay, newest, read};
use crate::event::{AccountId, AccountSettings, AccountState, CallVerdict, Media, Millis, OpenCall, SessionId, Verdict};
use crate::judge::{Differ, difference};
use crate::log::Topic;
use crate::log::kafka::{Kafka, KafkaReader};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Kind {
    /// Nothing published would differ.
    Same,
    /// Internal now, external in the replay.
    ToExternal,
    /// External now, internal in the replay.
    ToInternal,
    /// The same verdict, but something else that a revision is published for.
    Other,
    /// Only the replay has a verdict.
    OnlyReplay,
    /// Only the live processor has one.
    OnlyLive,
    /// Its conversation goes on: it is judged anew when that ends.
    Open,
    /// The live processor has judged it by something that came after the replay's end.
    Newer,
}

/// Something that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// A participant (its number, or `extension` and its id), whose reason codes follow; or a field of the verdict.
    pub what: String,
    /// As it is; `None`: it isn't there.
    pub live: Option<String>,
    /// As the replay has it.
    pub replay: Option<String>,
}

/// A call of which something differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The account.
    pub account_id: AccountId,
    /// The session.
    pub session_id: SessionId,
    /// What becomes of it.
    pub kind: Kind,
    /// The newest live verdict.
    pub live: Option<CallVerdict>,
    /// The replay's.
    pub replay: Option<CallVerdict>,
    /// Why.
    pub changed: Vec<Changed>,
}

/// Calls by what becomes of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts(pub BTreeMap<Kind, u64>);

impl Counts {
    /// How many.
    #[must_use]
    pub fn of(&self, kind: Kind) -> u64 {
        self.0.get(&kind).copied().unwrap_or(0)
    }
}

/// What the comparison came by.
pub(super) struct Compared {
    pub counts: Counts,
    /// The rules of the live verdict that was decided last, and when that was.
    pub live_rules: Option<(Millis, String)>,
}

impl Replay {
    /// Compares the verdicts of a replay that has finished, all or one account's, and gives each difference. Waits for the network.
    ///
    /// # Errors
    /// If it has not finished, the topics can't be read, or `take` fails.
    pub fn diff(&self, account: Option<&AccountId>, take: impl FnMut(Difference) -> anyhow::Result<()>) -> anyhow::Result<Counts> {
        let (own, begun) = self.finished()?;
        let live = Kafka::connect(self.live.clone())?;
        Ok(compare(&live.reader(), &own.reader(), &begun, account, take)?.counts)
    }
}

/// See [`Replay::diff`].
pub(super) fn compare(
    live: &KafkaReader,
    own: &KafkaReader,
    begun: &Begun,
    account: Option<&AccountId>,
    mut take: impl FnMut(Difference) -> anyhow::Result<()>,
) -> anyhow::Result<Compared> {
    let mut compared = Compared { counts: Counts::default(), live_rules: None };
    for (partition, part) in (0..).zip(&begun.parts) {
        let own = Own::read(own, partition)?;
        let mut live = newest(live, Topic::CallVerdicts, partition)?;
        let mut one = |key: &[u8], live: Option<CallVerdict>, replay: Option<CallVerdict>| {
            let of = live.as_ref().or(replay.as_ref()).map(|verdict| (verdict.account_id.clone(), verdict.session_id.clone()));
            let Some((account_id, session_id)) = of.filter(|(of, _)| account.is_none_or(|account| account == of)) else { return Ok(()) };
            let kind = own.kind(key, part, live.as_ref(), replay.as_ref());
            *compared.counts.0.entry(kind).or_default() += 1;
            if kind == Kind::Same {
                return Ok(());
            }
            let changed = live.as_ref().zip(replay.as_ref()).map(|(live, replay)| changed(live, replay)).unwrap_or_default();
            take(Difference { account_id, session_id, kind, live, replay, changed })
        };
        for (key, value) in &own.verdicts {
            let live = live.remove(key).map(|value| read(Topic::CallVerdicts, key, &value)).transpose()?;
            note_rules(&mut compared.live_rules, live.as_ref());
            one(key, live, Some(read(Topic::CallVerdicts, key, value)?))?;
        }
        for (key, value) in live {
            let live = read(Topic::CallVerdicts, &key, &value)?;
            note_rules(&mut compared.live_rules, Some(&live));
            one(&key, Some(live), None)?;
        }
    }
    Ok(compared)
}

fn note_rules(newest: &mut Option<(Millis, String)>, live: Option<&CallVerdict>) {
    if let Some(live) = live.filter(|live| newest.as_ref().is_none_or(|(at, _)| *at < live.decided_at)) {
        *newest = Some((live.decided_at, live.rules.to_string()));
    }
}

/// A partition of a replay's own topics.
struct Own {
    verdicts: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What it could not judge yet; true: a fax, which is never judged.
    open: BTreeMap<Vec<u8>, bool>,
    settings: BTreeMap<AccountId, AccountSettings>,
}

impl Own {
    fn read(own: &KafkaReader, partition: u32) -> anyhow::Result<Self> {
        let mut open = BTreeMap::new();
        for (key, value) in newest(own, Topic::OpenCalls, partition)? {
            let record: OpenCall = read(Topic::OpenCalls, &key, &value)?;
            open.insert(key, record.call.media == Media::Fax);
        }
        let mut settings = BTreeMap::new();
        for (key, value) in newest(own, Topic::AccountStates, partition)? {
            let state: AccountState = read(Topic::AccountStates, &key, &value)?;
            settings.extend(state.settings.map(|of| (state.account_id, of)));
        }
        Ok(Self { verdicts: newest(own, Topic::CallVerdicts, partition)?, open, settings })
    }

    fn is_open(&self, key: &[u8]) -> bool {
        self.open.get(key).is_some_and(|is_fax| !is_fax)
    }

    /// Some session of the conversation has no verdict of the replay, or has facts beyond it.
    fn is_conversation_open(&self, key: &[u8], verdict: &CallVerdict) -> bool {
        let of = |session: &SessionId| format!("{}/{session}", verdict.account_id).into_bytes();
        self.is_open(key) || verdict.linked_sessions.iter().map(of).any(|key| self.is_open(&key) || !self.verdicts.contains_key(&key))
    }

    fn kind(&self, key: &[u8], part: &Part, live: Option<&CallVerdict>, replay: Option<&CallVerdict>) -> Kind {
        // By time alone it may have been judged with the position before.
        let is_newer = |live: &CallVerdict| live.position >= part.end || live.decided_at > part.time;
        match (live, replay) {
            (Some(live), Some(replay)) => {
                let defaults = || Cow::Owned(AccountSettings::defaults(live.account_id.clone()));
                let settings = self.settings.get(&live.account_id).map_or_else(defaults, Cow::Borrowed);
                match (live.verdict, replay.verdict) {
                    _ if difference(live, replay, &settings, Differ::ByReplay).is_none() => Kind::Same,
                    _ if is_newer(live) => Kind::Newer,
                    _ if self.is_conversation_open(key, replay) => Kind::Open,
                    (from, to) if from == to => Kind::Other,
                    (_, Verdict::External) => Kind::ToExternal,
                    (_, Verdict::Internal) => Kind::ToInternal,
                }
            }
            (Some(live), None) if is_newer(live) => Kind::Newer,
            (Some(_), None) if self.is_open(key) => Kind::Open,
            (Some(_), None) => Kind::OnlyLive,
            (None, _) => Kind::OnlyReplay,
        }
    }
}

/// A symbol as it stands in JSON.
fn symbol(value: impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A field's text.
type Field<'a> = &'a dyn Fn(&CallVerdict) -> String;

/// What differs: participants first, then fields of the verdict itself.
fn changed(live: &CallVerdict, replay: &CallVerdict) -> Vec<Changed> {
    let (before, after) = (participants(live), participants(replay));
    let mut changed = Vec::new();
    for what in before.keys().chain(after.keys().filter(|what| !before.contains_key(*what))) {
        let (live, replay) = (before.get(what).cloned(), after.get(what).cloned());
        if live != replay {
            changed.push(Changed { what: what.clone(), live, replay });
        }
    }
    let list = |texts: &mut dyn Iterator<Item = String>| texts.collect::<Vec<_>>().join(" ");
    let sessions = |sessions: &[SessionId]| list(&mut sessions.iter().map(ToString::to_string));
    let fields: [(&str, Field<'_>); 8] = [
        ("disposition", &|verdict| symbol(verdict.disposition)),
        ("snapshot_complete", &|verdict| verdict.snapshot_complete.to_string()),
        ("recorded_extensions", &|verdict| list(&mut verdict.recorded_extensions.iter().map(ToString::to_string))),
        ("linked_sessions", &|verdict| sessions(&verdict.linked_sessions)),
        ("superseded_by", &|verdict| verdict.superseded_by.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("call.links", &|verdict| sessions(&verdict.call.links)),
        ("call.legacy_session_ids", &|verdict| list(&mut verdict.call.legacy_session_ids.iter().map(ToString::to_string))),
        ("call.legs_dropped", &|verdict| verdict.call.legs_dropped.to_string()),
    ];
    for (what, field) in fields {
        let (live, replay) = (field(live), field(replay));
        if live != replay {
            changed.push(Changed { what: what.to_owned(), live: Some(live), replay: Some(replay) });
        }
    }
    if changed.is_empty() {
        changed.push(Changed { what: "call.legs".to_owned(), live: None, replay: None });
    }
    changed
}

/// Everybody who took part, with the reasons for the standing of each.
fn participants(verdict: &CallVerdict) -> BTreeMap<String, String> {
    let mut participants: BTreeMap<String, String> = BTreeMap::new();
    for endpoint in &verdict.endpoints {
        let who = match (&endpoint.number, &endpoint.extension_id) {
            (Some(number), _) => number.to_string(),
            (None, Some(id)) => format!("extension {id}"),
            (None, None) => "nobody".to_owned(),
        };
        let reason = symbol(endpoint.reason);
        let reasons = participants.entry(who).or_default();
        if !reasons.split(' ').any(|known| known == reason) {
            *reasons = [reasons.as_str(), &reason].join(" ").trim().to_owned();
        }
    }
    participants
}

/// The accounts as they stand.
pub(super) fn accounts(reader: &KafkaReader, partitions: u32) -> anyhow::Result<BTreeMap<AccountId, AccountState>> {
    let mut accounts = BTreeMap::new();
    for partition in 0..partitions {
        for (key, value) in newest(reader, Topic::AccountStates, partition)? {
            let state: AccountState = read(Topic::AccountStates, &key, &value)?;
            accounts.insert(state.account_id.clone(), state);
        }
    }
    Ok(accounts)
}
