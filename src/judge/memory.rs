//! A state in plain maps, for the tests of the core: every index is found by looking at every row.

use super::view::*;
use crate::event::*;
use compact_str::CompactString;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Default, Clone)]
pub struct MemoryState {
    pub accounts: BTreeMap<AccountId, Arc<AccountState>>,
    pub numbers: BTreeMap<(AccountId, CompactString), Arc<CompanyNumber>>,
    pub sessions: BTreeMap<(AccountId, SessionId), Session>,
    pub due: BTreeSet<DueWork>,
    /// Entries that rows imply, and that are settled.
    settled_waiting: BTreeSet<(AccountId, CompactString, SessionId)>,
    settled_gated: BTreeSet<(AccountId, SessionId)>,
    moved_ends: BTreeMap<(AccountId, SessionId), Millis>,
    /// How often a session's neighbours were asked for.
    pub visited: Cell<usize>,
}

impl State for MemoryState {
    fn apply(&mut self, changes: Changes) {
        for state in changes.accounts {
            self.accounts.insert(state.account_id.clone(), state);
        }
        for (account, number, row) in changes.numbers {
            match row {
                Some(row) => self.numbers.insert((account, number), row),
                None => self.numbers.remove(&(account, number)),
            };
        }
        for change in changes.sessions.into_iter().filter(|change| change.is_changed) {
            let key = (change.account_id.clone(), change.session_id.clone());
            let known = Indexed::of(self.sessions.get(&key).unwrap_or(&Session::default()));
            assert_eq!(known, change.before, "a change starts from what is there");
            self.settled_waiting.retain(|(account, _, session)| (account, session) != (&key.0, &key.1));
            self.settled_gated.remove(&key);
            if change.before.verdict.as_ref().map(|v| v.ended_at) != change.after.verdict.as_ref().map(|v| v.ended_at) {
                self.moved_ends.remove(&key);
            }
            if change.after == Session::default() {
                self.sessions.remove(&key);
            } else {
                self.sessions.insert(key, change.after);
            }
        }
        for (work, is_left) in changes.due {
            if is_left {
                self.due.insert(work);
            } else {
                self.due.remove(&work);
            }
        }
        for settled in changes.settled {
            match settled {
                Settled::Waiting(account, number, session) => {
                    self.settled_waiting.insert((account, number, session));
                }
                Settled::Gated(account, session) => {
                    self.settled_gated.insert((account, session));
                }
                Settled::Ended(_, Some(to), account, session) => {
                    self.moved_ends.insert((account, session), to);
                }
                Settled::Ended(_, None, account, session) => {
                    self.moved_ends.remove(&(account, session));
                }
            }
        }
    }
}

impl MemoryState {
    fn of(&self, account: &AccountId) -> impl Iterator<Item = (&SessionId, &Session)> {
        self.sessions.iter().filter(move |((a, _), _)| a == account).map(|((_, id), session)| (id, session))
    }
}

impl View for MemoryState {
    fn account(&self, account: &AccountId) -> Result<Option<Arc<AccountState>>, ViewError> {
        Ok(self.accounts.get(account).cloned())
    }

    fn number(&self, account: &AccountId, number: &str) -> Result<Option<Arc<CompanyNumber>>, ViewError> {
        Ok(self.numbers.get(&(account.clone(), number.into())).cloned())
    }

    fn session(&self, account: &AccountId, session: &SessionId) -> Result<Session, ViewError> {
        Ok(self.sessions.get(&(account.clone(), session.clone())).cloned().unwrap_or_default())
    }

    fn linking_to(&self, account: &AccountId, session: &SessionId) -> Result<SessionIds, ViewError> {
        self.visited.set(self.visited.get() + 1);
        Ok(self.of(account).filter(|(_, s)| s.evidence().is_some_and(|c| c.links.contains(session))).map(|(id, _)| id.clone()).collect())
    }

    fn with_legacy_id(&self, account: &AccountId, legacy_id: &str) -> Result<SessionIds, ViewError> {
        let has = |s: &Session| s.evidence().is_some_and(|c| c.legacy_session_ids.iter().any(|id| id == legacy_id));
        Ok(self.of(account).filter(|(_, s)| has(s)).map(|(id, _)| id.clone()).collect())
    }

    fn due_sessions(&self, until: Millis, limit: usize) -> Result<Vec<(AccountId, SessionId)>, ViewError> {
        let mut due: Vec<_> = self
            .sessions
            .iter()
            .filter_map(|((account, id), session)| Some((session.open.as_ref()?.deadline, account.clone(), id.clone())))
            .filter(|(at, _, _)| *at <= until)
            .collect();
        due.sort();
        Ok(due.into_iter().take(limit).map(|(_, account, id)| (account, id)).collect())
    }

    fn ended_sessions(&self, until: Millis, limit: usize) -> Result<Vec<(Millis, AccountId, SessionId)>, ViewError> {
        let mut ended: Vec<_> = self
            .sessions
            .iter()
            .filter_map(|(key, session)| {
                let at = self.moved_ends.get(key).copied().or(session.verdict.as_ref().map(|v| v.ended_at))?;
                Some((at, key.0.clone(), key.1.clone()))
            })
            .filter(|(at, _, _)| *at <= until)
            .collect();
        ended.sort();
        ended.truncate(limit);
        Ok(ended)
    }

    fn waiting_for(&self, account: &AccountId, number: &str, limit: usize) -> Result<Vec<SessionId>, ViewError> {
        let waits = |verdict: &CallVerdict| {
            verdict.endpoints.iter().any(|e| {
                matches!(e.reason, StandingReason::NotInSnapshot | StandingReason::UnknownShortNumber) && e.number.as_deref() == Some(number)
            })
        };
        Ok(self
            .of(account)
            .filter(|(_, s)| s.verdict.as_ref().is_some_and(|v| waits(v)))
            .filter(|(id, _)| !self.settled_waiting.contains(&(account.clone(), number.into(), (*id).clone())))
            .map(|(id, _)| id.clone())
            .take(limit)
            .collect())
    }

    fn gated(&self, account: &AccountId, limit: usize) -> Result<Vec<SessionId>, ViewError> {
        let is_gated = |s: &Session| s.open.as_ref().is_some_and(|r| r.gated) || s.verdict.as_ref().is_some_and(|v| !v.snapshot_complete);
        Ok(self
            .of(account)
            .filter(|(_, s)| is_gated(s))
            .filter(|(id, _)| !self.settled_gated.contains(&(account.clone(), (*id).clone())))
            .map(|(id, _)| id.clone())
            .take(limit)
            .collect())
    }

    fn remnants(&self, account: &AccountId, position: i64, limit: usize) -> Result<Vec<Remnant>, ViewError> {
        let numbers =
            self.numbers.iter().filter(|((a, _), row)| a == account && row.position <= position).map(|((_, n), _)| Remnant::Number(n.clone()));
        let is_old = |s: &Session| {
            s.open.as_ref().is_some_and(|r| r.record.position <= position) || s.verdict.as_ref().is_some_and(|v| v.position <= position)
        };
        let sessions = self.of(account).filter(|(_, s)| is_old(s)).map(|(id, _)| Remnant::Session(id.clone()));
        Ok(numbers.chain(sessions).take(limit).collect())
    }

    fn due_work(&self, limit: usize) -> Result<Vec<DueWork>, ViewError> {
        Ok(self.due.iter().take(limit).cloned().collect())
    }
}
