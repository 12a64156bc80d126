//! `callsieve run --simulate`: a simulated company, attached to the service as a real one would be, over HTTP.

use super::service::Service;
use super::sync::{append, first_pass, own_account};
use super::terminal::Terminal;
use crate::event::json::rfc3339;
use crate::event::{AccountId, AccountSettings, Event, Millis};
use crate::judge::number::Country;
use crate::log::system_clock;
use crate::log::{Topic, partition_of};
use crate::ringcentral::client::{Access, Client};
use crate::simulate::{Clock, Company, CompanyConfig, Server, ServerConfig, serve};
use anyhow::{Context, ensure};
use jiff::Timestamp;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::task::JoinHandle;

/// One call a second, at the usual speed.
const CALLS_PER_HOUR: u32 = 60;
const HISTORY_HOURS: u32 = 24;
/// Calls of earlier runs that are shown at the start.
const MOST_KNOWN: usize = 5;

/// A company that lives beside the service.
pub(super) struct Simulation {
    server: Server,
    terminal: JoinHandle<()>,
}

impl Simulation {
    /// Starts the company and its RingCentral, subscribes to it, synchronises it, and lets its calls come.
    ///
    /// # Errors
    /// If the service's state or log fails, or the simulated RingCentral can't be started, subscribed to or synchronised.
    pub async fn attach(service: &Service, seed: u64, speed: f64, verification_token: &str) -> anyhow::Result<Self> {
        let clock = system_clock();
        // The same company at every start, so that its calls are the same, too: what an earlier run has taken in comes again as it was.
        let started_at = first_of_last_year(clock());
        let company = Arc::new(Company::generate(seed, &CompanyConfig { start: started_at, days: 730, ..CompanyConfig::default() }));
        let account = AccountId::parse(&company.account_id_text)?;
        // An earlier run may have been faster than time; its company goes on where it was.
        let known = service.newest_verdicts(&account, MOST_KNOWN).await?;
        let origin = clock().max(known.first().map_or(0, |newest| newest.ended_at + 1));
        let config = ServerConfig {
            clock: Clock::Running { origin, speed },
            calls_per_hour: CALLS_PER_HOUR,
            history_hours: HISTORY_HOURS,
            // The vendor's 10 lists a minute would make the first synchronisation take minutes.
            limits: None,
            ..ServerConfig::default()
        };
        let credentials = config.credentials.clone();
        let server = serve(company.clone(), config).await.context("starting the simulated RingCentral")?;
        let client = Client::new(Access {
            base: server.base_url().to_owned(),
            client_id: credentials.client_id,
            client_secret: credentials.client_secret,
            jwt: credentials.jwt,
        })?;
        let own = own_account(&client).await?;
        ensure!(own == account, "the simulated RingCentral says that its account is {own}, not {account}");
        let base = format!("http://{}", reachable(service.address()));
        let partition = partition_of(account.as_str(), service.partitions());
        let reader = service.reader();
        let from = reader.clone();
        let end = tokio::task::spawn_blocking(move || from.end(Topic::CallVerdicts, partition)).await??;
        let mut terminal = Terminal::new(account.clone(), origin);
        terminal.introduce(&company.summary(), &base, &known);
        let terminal = tokio::spawn(terminal.follow(reader, partition, end, service.stopping()));

        let appender = service.appender();
        append(&*appender, &account, [&Event::AccountSettings(filtering(account.clone(), origin))]).await?;
        // First the subscription: what happens during the synchronisation waits at the gate and isn't lost.
        client.subscribe(&format!("{base}/webhooks/ringcentral/{account}"), verification_token).await?;
        let read = first_pass(&client, &*appender, &account, Country::DEFAULT, &*clock).await.context("synchronising the simulated company")?;
        tracing::info!(%account, pages = read.pages, numbers = read.numbers, calls = read.records, "the first synchronisation is complete");
        Ok(Self { server, terminal })
    }

    /// Ends the company, so that it sends nothing more.
    pub async fn stop(self) {
        // A connection that is kept open must not hold up the end.
        let _ = tokio::time::timeout(std::time::Duration::from_secs(2), self.server.stop()).await;
        self.terminal.abort();
        let _ = self.terminal.await;
    }
}

/// The first of January of the year before, in UTC.
fn first_of_last_year(now: Millis) -> Millis {
    let year: i64 = rfc3339(now).to_string()[..4].parse().unwrap_or(1970);
    let first = format!("{:04}-01-01T00:00:00Z", (year - 1).max(0)).parse::<Timestamp>();
    first.map_or(0, Timestamp::as_millisecond)
}

/// The defaults with the filter on, so that both dispositions show.
fn filtering(account: AccountId, now: i64) -> AccountSettings {
    AccountSettings { filter_internal: true, updated_at: now, ..AccountSettings::defaults(account) }
}

/// An address under which this machine reaches what listens on `address`.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_company_begins_with_the_year_before() {
        assert_eq!(first_of_last_year(1_767_600_000_000), 1_735_689_600_000);
    }
}
