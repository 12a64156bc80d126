//! The first synchronisation of an account: its numbers, then the calls of the last 90 days, then the word that this was all.

use crate::event::{AccountId, Event, IdError, Millis, SnapshotCompleted, encode_event};
use crate::judge::number::Country;
use crate::log::{Appender, Headers, Input, LogError};
use crate::ringcentral::client::{Client, ClientError};
use crate::ringcentral::documents::{Asked, DocumentError, read_document};
use bytes::Bytes;
use jiff::Timestamp;

/// Records of one page: the most that the lists allow.
const PER_PAGE: usize = 1_000;
/// How far back the call log is read (design R4).
const HISTORY: Millis = 90 * 24 * 3_600_000;

/// Why a synchronisation ended early. What it has appended stays, and is harmless when it comes again.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// RingCentral didn't answer, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A page says nothing that can be read.
    #[error("{path}: {reason}")]
    Document {
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        reason: DocumentError,
    },
    /// The account's own id is no id.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What a synchronisation has read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Synchronised {
    /// Pages and single documents.
    pub pages: u64,
    /// Numbers that the lists and the history gave, as often as they came.
    pub numbers: u64,
    /// Call-log records.
    pub records: u64,
}

/// Asks for the account that the client's user belongs to.
///
/// # Errors
/// If RingCentral gives no answer or refuses, or its answer has no id that an account can have.
pub async fn own_account(client: &Client) -> Result<AccountId, SyncError> {
    let path = "/restapi/v1.0/account/~";
    let document = client.get(path, &[]).await?;
    Ok(AccountId::parse(&Client::id_of(path, &document)?)?)
}

/// A pass under way.
struct Pass<'a> {
    client: &'a Client,
    appender: &'a dyn Appender,
    account: &'a AccountId,
    country: Country,
    clock: &'a (dyn Fn() -> Millis + Send + Sync),
    id: String,
    done: Synchronised,
}

/// Reads everything once (design R3, R4), appends it, and then `SnapshotCompleted`.
///
/// # Errors
/// If RingCentral gives no answer or refuses, a page can't be read, or the log doesn't take its events.
pub async fn first_pass(
    client: &Client,
    appender: &dyn Appender,
    account: &AccountId,
    country: Country,
    clock: &(dyn Fn() -> Millis + Send + Sync),
) -> Result<Synchronised, SyncError> {
    let begun = clock();
    let mut pass = Pass { client, appender, account, country, clock, id: format!("first-{begun}"), done: Synchronised::default() };
    let base = format!("/restapi/v1.0/account/{account}");
    let document = client.get(&base, &[]).await?;
    pass.take_in(&base, &document, false).await?;
    let extensions = pass.list(&format!("{base}/extension"), &[], true).await?;
    // By default sites that the user doesn't see are left out (ringcentral.md D).
    pass.list(&format!("{base}/directory/entries"), &[("showFederated", "true"), ("accessibleSitesOnly", "false")], false).await?;
    pass.list(&format!("{base}/phone-number"), &[], false).await?;
    pass.list(&format!("/restapi/v2/accounts/{account}/phone-numbers"), &[], false).await?;
    for extension in &extensions {
        match pass.list(&format!("{base}/extension/{extension}/forwarding-number"), &[], false).await {
            // It has gone since the list of extensions was read.
            Err(SyncError::Client(ClientError::Refused { status, .. })) if status == reqwest::StatusCode::NOT_FOUND => {}
            done => drop(done?),
        }
    }
    let from = Timestamp::from_millisecond(begun - HISTORY).unwrap_or(Timestamp::MIN).to_string();
    pass.list(&format!("{base}/call-log"), &[("view", "Detailed"), ("dateFrom", &from)], false).await?;
    let completed = SnapshotCompleted {
        account_id: account.clone(),
        sync_id: pass.id.as_str().into(),
        completed_at: clock(),
        numbers_seen: i64::try_from(pass.done.numbers).unwrap_or(i64::MAX),
    };
    append(appender, account, [&Event::SnapshotCompleted(completed)]).await?;
    Ok(pass.done)
}

/// Appends events of one account, in their order.
///
/// # Errors
/// If the log doesn't take them; some may be there.
pub async fn append(appender: &dyn Appender, account: &AccountId, events: impl IntoIterator<Item = &Event>) -> Result<(), SyncError> {
    let input = |event| Input { account: account.to_string(), value: encode_event(event), headers: Headers::new() };
    appender.append_all(events.into_iter().map(input).collect()).await?;
    Ok(())
}

impl Pass<'_> {
    /// Reads a list to its end. Returns the ids of its records where they are wanted.
    async fn list(&mut self, path: &str, query: &[(&str, &str)], wants_ids: bool) -> Result<Vec<String>, SyncError> {
        let mut ids = Vec::new();
        let client = self.client;
        let is_history = path.ends_with("/call-log");
        client
            .pages(path, query, PER_PAGE, async |page: Bytes| -> Result<(), SyncError> {
                if wants_ids {
                    ids.extend(Client::ids_in(path, &page)?);
                }
                self.take_in(path, &page, is_history).await
            })
            .await?;
        Ok(ids)
    }

    async fn take_in(&mut self, path: &str, page: &[u8], history: bool) -> Result<(), SyncError> {
        self.done.pages += 1;
        let asked = Asked { account: Some(self.account), received_at: Some((self.clock)()), country: self.country, history };
        let mut document = match read_document(page, &asked) {
            Ok(document) => document,
            // A list without records names no kind, and need not.
            Err(_) if Client::ids_in(path, page).is_ok_and(|ids| ids.is_empty()) => return Ok(()),
            Err(reason) => return Err(SyncError::Document { path: path.to_owned(), reason }),
        };
        for reason in &document.unreadable {
            tracing::warn!(path, %reason, "a record is left out");
        }
        // What a page says about another account isn't this one's to take in.
        document.events.retain(|event| event.account_id() == Some(self.account));
        for event in &mut document.events {
            match event {
                Event::NumbersObserved(observed) => {
                    observed.sync_id = Some(self.id.as_str().into());
                    self.done.numbers += observed.numbers.len() as u64;
                }
                Event::CallLegs(_) => self.done.records += 1,
                _ => {}
            }
        }
        append(self.appender, self.account, &document.events).await
    }
}
