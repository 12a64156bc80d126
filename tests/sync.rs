//! The first synchronisation against the simulated RingCentral, with its rate limits.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use callsieve::event::{AccountId, Event, NumberQuery, decode_event};
use callsieve::judge::number::Country;
use callsieve::log::embedded::{EmbeddedLog, EmbeddedOptions, Retention};
use callsieve::log::{Topic, now, system_clock};
use callsieve::ringcentral::client::{Access, Client, ClientError};
use callsieve::roles::sync::{SyncError, first_pass, own_account};
use callsieve::simulate::{Company, CompanyConfig, Credentials, RateLimits, ServerConfig, serve};
use callsieve::state::database::{DatabaseOptions, Engine};
use std::collections::BTreeSet;
use std::sync::Arc;

fn access(base: &str, jwt: &str) -> Access {
    let Credentials { client_id, client_secret, .. } = Credentials::default();
    Access { base: base.to_owned(), client_id, client_secret, jwt: jwt.to_owned() }
}

#[tokio::test]
async fn everything_is_read_once_within_the_limits_and_completed_last() {
    let company = Arc::new(Company::generate(6, &CompanyConfig { users: 10, ..CompanyConfig::default() }));
    let origin = now();
    let limits = RateLimits { light: 10, medium: 4, heavy: 2, auth: 2, window_seconds: 1 };
    let clock = callsieve::simulate::Clock::Running { origin, speed: 1.0 };
    let config = ServerConfig { clock, limits: Some(limits), calls_per_hour: 60, history_hours: 20, ..ServerConfig::default() };
    let server = serve(company.clone(), config).await.unwrap();
    let client = Client::new(access(server.base_url(), "simulated-jwt")).unwrap();
    let account = own_account(&client).await.unwrap();
    assert_eq!(account, AccountId::parse(&company.account_id_text).unwrap());

    // The platform fails for a moment.
    server.fail("/directory/entries", reqwest::StatusCode::SERVICE_UNAVAILABLE, 2);

    let directory = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { partitions: 1, retention: Retention::default(), clock: system_clock() };
    let log = EmbeddedLog::open(directory.path(), &Engine::new(&DatabaseOptions::default()), &options).unwrap();
    let done = first_pass(&client, &log.appender(), &account, Country::DEFAULT, &now).await.unwrap();
    assert!(done.records > 1_000, "more than one page of calls: {done:?}");

    let records = log.reader().read(Topic::Events, 0, 0, 100_000).unwrap().records;
    let events: Vec<Event> = records.iter().map(|record| decode_event(record.value.as_deref().unwrap()).unwrap()).collect();
    let Some((Event::SnapshotCompleted(completed), before)) = events.split_last() else { panic!("{:?}", events.last()) };
    assert_eq!(completed.numbers_seen, i64::try_from(done.numbers).unwrap());
    let mut queries = BTreeSet::new();
    let mut in_directory = BTreeSet::new();
    let mut calls = 0;
    for event in before {
        match event {
            Event::NumbersObserved(observed) => {
                if observed.query == NumberQuery::Directory {
                    in_directory.extend(observed.numbers.iter().filter_map(|number| number.extension_id.clone()));
                }
                assert_eq!(observed.sync_id.as_deref(), Some(completed.sync_id.as_str()));
                queries.insert(observed.query);
            }
            Event::CallLegs(_) => calls += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(calls, done.records);
    let wanted = [NumberQuery::PhoneNumbers, NumberQuery::Directory, NumberQuery::ForwardingNumbers, NumberQuery::CallLogHistory];
    assert!(wanted.iter().all(|query| queries.contains(query)), "{queries:?}");
    for (site, name) in company.sites.iter().enumerate() {
        let seen = company.extensions.iter().filter(|e| e.site == site && in_directory.contains(e.id_text.as_str())).count();
        assert!(seen > 0, "nobody of {name} is in the directory that was read");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_missing_permission_is_an_error_that_says_so() {
    let company = Arc::new(Company::generate(6, &CompanyConfig::default()));
    let server = serve(company, ServerConfig { limits: None, ..ServerConfig::default() }).await.unwrap();
    let client = Client::new(access(server.base_url(), "simulated-jwt")).unwrap();
    let account = own_account(&client).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { partitions: 1, retention: Retention::default(), clock: system_clock() };
    let log = EmbeddedLog::open(directory.path(), &Engine::new(&DatabaseOptions::default()), &options).unwrap();
    server.fail("/phone-number", reqwest::StatusCode::FORBIDDEN, 1);
    let error = first_pass(&client, &log.appender(), &account, Country::DEFAULT, &now).await.unwrap_err();
    assert!(error.to_string().contains("ReadCompanyPhoneNumbers"), "{error}");
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_jwt_is_an_error_that_says_so() {
    let company = Arc::new(Company::generate(6, &CompanyConfig::default()));
    let server = serve(company, ServerConfig::default()).await.unwrap();
    let error = own_account(&Client::new(access(server.base_url(), "wrong")).unwrap()).await.unwrap_err();
    assert!(matches!(&error, SyncError::Client(ClientError::Refused { status, .. }) if *status == 400), "{error}");
    server.stop().await;
}
