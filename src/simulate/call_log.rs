//! The simulated RingCentral's call log: of the account and of an extension, single records, and the calls that go on (ringcentral.md C).

use super::HOUR_MS;
use super::calls::LogRecord;
use super::lists::{Page, navigation};
use super::rest::{Parameters, Reply, Shared, began_in, lock};
use super::time::Rfc3339;
use crate::event::Millis;
use serde_json::{Value, json};

/// Active calls show what was so long ago.
const ACTIVE_LAG: Millis = 5_000;

const FILTERS: [&str; 6] = ["direction", "type", "sessionId", "telephonySessionId", "extensionNumber", "phoneNumber"];

fn is_detailed(query: &Parameters) -> Result<bool, Reply> {
    match query.get("view") {
        None | Some("Simple") => Ok(false),
        Some("Detailed") => Ok(true),
        Some(other) => Err(Reply::bad_parameter("view", other)),
    }
}

/// The account's records, or those in which an extension takes part.
pub(super) fn list(shared: &Shared, query: &Parameters, of: Option<u64>) -> Result<Reply, Reply> {
    let page = query.page(100, 1_000)?;
    let now = shared.now();
    let to = query.time("dateTo")?.unwrap_or(now);
    let from = query.time("dateFrom")?.unwrap_or(to - 24 * HOUR_MS);
    let detailed = is_detailed(query)?;
    let plain = of.is_none() && FILTERS.iter().all(|name| query.get(name).is_none());
    let mut skip = (page.page - 1).saturating_mul(page.per_page);
    let mut records = Vec::new();
    let mut has_next = false;
    let first_hour = from.max(shared.history_from()).div_euclid(HOUR_MS);
    'hours: for hour in (first_hour..=to.min(now).div_euclid(HOUR_MS)).rev() {
        // A whole hour whose last call has long ended has a count that stays.
        let whole = plain && hour * HOUR_MS >= from && (hour + 1) * HOUR_MS <= to && (hour + 3) * HOUR_MS < now;
        if whole && let Some(count) = lock(&shared.counts).get(&hour).copied().filter(|count| *count <= skip) {
            skip -= count;
            continue;
        }
        let of_hour = shared.records_of_hour(hour);
        if whole {
            lock(&shared.counts).insert(hour, of_hour.len());
        }
        for record in of_hour.into_iter().filter(|r| (from..to).contains(&r.started()) && (plain || is_wanted(r, query, of))) {
            if skip > 0 {
                skip -= 1;
            } else if records.len() < page.per_page {
                records.push(record);
            } else {
                has_next = true;
                break 'hours;
            }
        }
    }
    let mut address = format!("{}/call-log?dateFrom={}&dateTo={}", owner_uri(shared, of), Rfc3339(from), Rfc3339(to));
    for name in ["view"].iter().chain(&FILTERS) {
        if let Some(value) = query.get(name) {
            address.push_str(&format!("&{name}={value}"));
        }
    }
    Ok(shown(shared, &address, page, &records, detailed, has_next))
}

/// One record of the account, once the call log shows it.
pub(super) fn record(shared: &Shared, query: &Parameters, id: &str, of: Option<u64>) -> Result<Reply, Reply> {
    let detailed = is_detailed(query)?;
    let now = shared.now();
    // The id has its session's in it, which tells when that began.
    let hour = began_in(id).filter(|began| *began <= now).map(|began| began.div_euclid(HOUR_MS));
    let made = hour.into_iter().flat_map(|hour| [hour, hour - 1]).map(|hour| shared.records_made_in(hour));
    let visible = |r: &&LogRecord| r.id == id && r.available_at <= now && r.started() >= shared.history_from() && is_wanted(r, query, of);
    let found = made.into_iter().find_map(|records| records.iter().find(visible).cloned());
    let found = found.ok_or_else(|| Reply::not_found("callRecordId"))?;
    let document = serde_json::to_value(found.document(&shared.lists().account_uri(), detailed));
    document.map(Reply::ok).map_err(|_| Reply::not_found("callRecordId"))
}

/// The calls that go on, as they are told of a little later, and those that have just ended.
pub(super) fn active(shared: &Shared, query: &Parameters, of: Option<u64>) -> Result<Reply, Reply> {
    let page = query.page(100, 1_000)?;
    let detailed = is_detailed(query)?;
    let seen_at = shared.now() - ACTIVE_LAG;
    let hour = seen_at.div_euclid(HOUR_MS);
    let mut records: Vec<LogRecord> = Vec::new();
    for hour in hour - 2..=hour {
        let made = shared.records_made_in(hour);
        records.extend(made.iter().filter_map(|r| r.as_active(seen_at)).filter(|r| is_wanted(r, query, of)));
    }
    records.sort_by(|a, b| b.started().cmp(&a.started()).then_with(|| a.id.cmp(&b.id)));
    let skip = (page.page - 1).saturating_mul(page.per_page);
    let has_next = records.len() > skip.saturating_add(page.per_page);
    let records: Vec<LogRecord> = records.into_iter().skip(skip).take(page.per_page).collect();
    let address = format!("{}/active-calls?view={}", owner_uri(shared, of), if detailed { "Detailed" } else { "Simple" });
    Ok(shown(shared, &address, page, &records, detailed, has_next))
}

fn owner_uri(shared: &Shared, of: Option<u64>) -> String {
    let account = shared.lists().account_uri();
    of.map_or_else(|| account.clone(), |id| format!("{account}/extension/{id}"))
}

/// A page: without totals, as the call log has none.
fn shown(shared: &Shared, address: &str, page: Page, records: &[LogRecord], detailed: bool, has_next: bool) -> Reply {
    let account = shared.lists().account_uri();
    let start = (page.page - 1).saturating_mul(page.per_page);
    let mut paging = json!({ "page": page.page, "perPage": page.per_page });
    if !records.is_empty() {
        paging["pageStart"] = start.into();
        paging["pageEnd"] = (start + records.len() - 1).into();
    }
    let documents: Vec<Value> = records.iter().filter_map(|r| serde_json::to_value(r.document(&account, detailed)).ok()).collect();
    Reply::ok(json!({
        "uri": format!("{address}&page={}&perPage={}", page.page, page.per_page),
        "records": documents,
        "paging": paging,
        "navigation": navigation(address, page, has_next, None),
    }))
}

fn is_wanted(record: &LogRecord, query: &Parameters, of: Option<u64>) -> bool {
    let master = &record.legs[0];
    let is = |name: &str, test: &dyn Fn(&str) -> bool| query.get(name).is_none_or(test);
    let side = |test: &dyn Fn(&super::LogParty) -> bool| record.legs.iter().any(|leg| test(&leg.from) || test(&leg.to));
    of.is_none_or(|id| record.extension_id == Some(id) || record.legs.iter().any(|leg| leg.extension_id == Some(id)))
        && is("direction", &|d| d == master.direction)
        && is("type", &|kind| kind == "Voice")
        && is("sessionId", &|id| id == record.legacy_session_id)
        && is("telephonySessionId", &|id| id == record.telephony_session_id)
        && is("extensionNumber", &|n| side(&|p| p.extension_number.as_deref() == Some(n)))
        // Without its plus (ringcentral.md C).
        && is("phoneNumber", &|n| side(&|p| p.phone_number.as_deref().is_some_and(|phone| phone.trim_start_matches('+') == n)))
}
