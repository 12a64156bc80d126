//! Promoting a replay: the live processor is asked to judge again what differs.
//!
//! Nothing is published here. A `Rejudge` names the revision that it is meant for, so one that comes twice, or too late, does nothing; and it names
//! the rules, so that a processor which would say something else does nothing either.

use super::compare::{accounts, compare};
use super::{Kind, Replay};
use crate::event::{AccountId, Event, Rejudge, encode_event};
use crate::log::kafka::Kafka;
use crate::log::{Appender, Headers, Input};
use anyhow::{Context, bail};
use std::collections::BTreeSet;

/// So many are made durable at once.
const BATCH: usize = 1_000;

/// What a promotion did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promoted {
    /// Calls that are to be judged again.
    pub asked: u64,
    /// Calls that only the replay has, which nothing can be asked of.
    pub only_replay: u64,
}

impl Replay {
    /// Appends a `Rejudge` for each call that differs, of all accounts or of one; `told` gets how many are durable, and how many there are. Done
    /// again, it asks for what still differs. Waits for the network; not for threads of an async runtime.
    ///
    /// # Errors
    /// If the replay has not finished, if the live processor would judge by other rules or settings than it did, and if the log can't be reached;
    /// what was told as durable stays.
    pub fn promote(&self, account: Option<&AccountId>, mut told: impl FnMut(u64, u64)) -> anyhow::Result<Promoted> {
        let (own, begun) = self.finished()?;
        let live = Kafka::connect(self.live.clone())?;
        let mut asked = Vec::new();
        let compared = compare(&live.reader(), &own.reader(), &begun, account, |difference| {
            let (Kind::ToExternal | Kind::ToInternal | Kind::Other, Some(verdict)) = (difference.kind, &difference.live) else { return Ok(()) };
            asked.push(Rejudge {
                account_id: difference.account_id,
                session_id: difference.session_id,
                expected_revision: verdict.revision,
                replay_id: begun.id.as_str().into(),
                rules: Some(begun.rules.as_str().into()),
            });
            Ok(())
        })?;
        if let Some((_, rules)) = compared.live_rules.filter(|(_, rules)| *rules != begun.rules) {
            bail!(
                "the live processor judges by the rules {rules} (so its newest verdict says), and the replay {} by the rules {}: bring the live processor to the version \
                 that the replay was run with, let it judge a call, and promote again; or replay with the live one's version",
                self.name,
                begun.rules
            );
        }
        let (now, then) = (accounts(&live.reader(), live.partitions())?, accounts(&own.reader(), own.partitions())?);
        for account in asked.iter().map(|rejudge| &rejudge.account_id).collect::<BTreeSet<_>>() {
            if now.get(account).map(|state| &state.settings) != then.get(account).map(|state| &state.settings) {
                bail!(
                    "the settings of account {account} have changed since the replay {} was begun, so its calls would be judged otherwise than `diff` shows: \
                     drop the replay and begin anew, or promote other accounts by --account",
                    self.name
                );
            }
        }
        let total = asked.len() as u64;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting")?;
        let appender = live.appender();
        let mut durable = 0;
        for batch in asked.chunks(BATCH) {
            let input = |rejudge: &Rejudge| Input {
                account: rejudge.account_id.to_string(),
                value: encode_event(&Event::Rejudge(rejudge.clone())),
                headers: Headers::new(),
            };
            runtime
                .block_on(appender.append_all(batch.iter().map(input).collect()))
                .with_context(|| format!("{durable} of {total} calls were asked for; promote again for the rest"))?;
            durable += batch.len() as u64;
            told(durable, total);
        }
        Ok(Promoted { asked: total, only_replay: compared.counts.of(Kind::OnlyReplay) })
    }
}
