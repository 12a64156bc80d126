//! What the lists show of the company at a time: the bodies of the account, extension, directory and number endpoints
//! (ringcentral.md D). Pure; the server and the file writer share them.

use super::company::{Company, ExtensionKind, PhoneNumber, Release};
use crate::event::Millis;
use serde_json::{Map, Value, json};

/// Which page of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// From 1.
    pub page: usize,
    /// Records per page, at least 1.
    pub per_page: usize,
}

impl Default for Page {
    fn default() -> Self {
        Self { page: 1, per_page: 100 }
    }
}

/// `paging`, with totals. An empty page has no start and end.
fn paging(page: Page, total: usize) -> Value {
    let start = (page.page - 1).saturating_mul(page.per_page);
    let shown = total.saturating_sub(start).min(page.per_page);
    let mut out = json!({
        "page": page.page,
        "perPage": page.per_page,
        "totalPages": total.div_ceil(page.per_page),
        "totalElements": total,
    });
    if shown > 0 {
        out["pageStart"] = start.into();
        out["pageEnd"] = (start + shown - 1).into();
    }
    out
}

/// `navigation` of a list whose address may have a query; `last` is unknown for the call log.
pub(super) fn navigation(uri: &str, page: Page, has_next: bool, last: Option<usize>) -> Value {
    let joint = if uri.contains('?') { '&' } else { '?' };
    let link = |n: usize| json!({ "uri": format!("{uri}{joint}page={n}&perPage={}", page.per_page) });
    let mut out = Map::new();
    out.insert("firstPage".into(), link(1));
    if has_next {
        out.insert("nextPage".into(), link(page.page + 1));
    }
    if page.page > 1 {
        out.insert("previousPage".into(), link(page.page - 1));
    }
    if let Some(last) = last {
        out.insert("lastPage".into(), link(last));
    }
    Value::Object(out)
}

fn cut(records: Vec<Value>, page: Page) -> (Vec<Value>, usize) {
    let total = records.len();
    let start = (page.page - 1).saturating_mul(page.per_page);
    (records.into_iter().skip(start).take(page.per_page).collect(), total)
}

/// A list as the v1 endpoints give it: uri, records, paging and navigation.
fn v1(uri: &str, records: Vec<Value>, page: Page) -> Value {
    let (records, total) = cut(records, page);
    let last = total.div_ceil(page.per_page).max(1);
    let joint = if uri.contains('?') { '&' } else { '?' };
    json!({
        "uri": format!("{uri}{joint}page={}&perPage={}", page.page, page.per_page),
        "records": records,
        "paging": paging(page, total),
        "navigation": navigation(uri, page, page.page < last, Some(last)),
    })
}

/// A list as v2 and the directory give it: records and paging.
fn v2(records: Vec<Value>, page: Page) -> Value {
    let (records, total) = cut(records, page);
    json!({ "records": records, "paging": paging(page, total) })
}

/// The lists of a company at one time, under one base address such as `https://platform.ringcentral.com`.
#[derive(Clone, Copy)]
pub struct AccountLists<'a> {
    /// Whose lists.
    pub company: &'a Company,
    /// Base of all addresses in the bodies.
    pub base: &'a str,
    /// The time at which the lists are read.
    pub at: Millis,
}

impl AccountLists<'_> {
    /// The account's address.
    #[must_use]
    pub fn account_uri(&self) -> String {
        format!("{}/restapi/v1.0/account/{}", self.base, self.company.account_id)
    }

    fn extension_uri(&self, id: u64) -> String {
        format!("{}/extension/{id}", self.account_uri())
    }

    /// Indices of the extensions that the lists show.
    fn listed(&self) -> impl Iterator<Item = usize> {
        self.company.extensions.iter().enumerate().filter(|(_, e)| e.exists_at(self.at) && e.listed_from <= self.at).map(|(n, _)| n)
    }

    /// The listed extension with that id.
    #[must_use]
    pub fn find_extension(&self, id: &str) -> Option<usize> {
        self.listed().find(|&n| self.company.extensions[n].id_text == id)
    }

    /// `GET /restapi/v1.0/account/{a}`.
    #[must_use]
    pub fn account(&self) -> Value {
        let operator = &self.company.extensions[0];
        json!({
            "uri": self.account_uri(),
            "id": self.company.account_id,
            "mainNumber": self.company.main_number(),
            "operator": { "uri": self.extension_uri(operator.id), "id": operator.id, "extensionNumber": operator.number },
            "serviceInfo": {
                "uri": format!("{}/service-info", self.account_uri()),
                "brand": {
                    "id": "1210",
                    "name": "RingCentral",
                    "homeCountry": { "id": "1", "uri": format!("{}/restapi/v1.0/dictionary/country/1", self.base), "name": "United States", "isoCode": "US", "callingCode": "1" },
                },
            },
            "regionalSettings": { "homeCountry": { "id": "1", "uri": format!("{}/restapi/v1.0/dictionary/country/1", self.base), "name": "United States", "isoCode": "US", "callingCode": "1" } },
            "setupWizardState": "Completed",
            "status": "Confirmed",
            "federated": !self.company.federated.is_empty(),
            "limits": { "maxExtensionNumberLength": 6, "siteCodeLength": 0, "shortExtensionNumberLength": 3 },
        })
    }

    /// `GET /restapi/v1.0/account/{a}/extension`; `kind` filters by type.
    #[must_use]
    pub fn extensions(&self, kind: Option<&str>, page: Page) -> Value {
        let records =
            self.listed().filter(|&n| kind.is_none_or(|k| self.company.extensions[n].kind.name() == k)).map(|n| self.extension(n)).collect();
        let query = kind.map(|k| format!("?type={k}")).unwrap_or_default();
        v1(&format!("{}/extension{query}", self.account_uri()), records, page)
    }

    /// One extension as the list and its own address give it.
    #[must_use]
    pub fn extension(&self, index: usize) -> Value {
        let e = &self.company.extensions[index];
        let mut contact = json!({ "company": self.company.name });
        if e.kind.talks() {
            contact["firstName"] = e.first_name.as_str().into();
            contact["lastName"] = e.last_name.as_str().into();
            contact["email"] = email(&e.id_text).into();
            if let Some(mobile) = &e.registered_mobile {
                contact["mobilePhone"] = mobile.as_str().into();
            }
        }
        json!({
            "uri": self.extension_uri(e.id),
            "id": e.id,
            "extensionNumber": e.number,
            "name": e.name(),
            "type": e.kind.name(),
            "status": "Enabled",
            "hidden": e.hidden,
            "contact": contact,
            "site": self.site_reference(e.site),
        })
    }

    fn site_reference(&self, site: usize) -> Value {
        if site == 0 {
            json!({ "id": "main-site", "uri": format!("{}/sites/main-site", self.account_uri()), "name": self.company.sites[0] })
        } else {
            json!({ "id": site.to_string(), "uri": format!("{}/sites/{site}", self.account_uri()), "name": self.company.sites[site] })
        }
    }

    /// `GET /restapi/v1.0/account/{a}/directory/entries`. With `accessible_sites_only`: of the site of who asks, the first extension.
    #[must_use]
    pub fn directory(&self, show_federated: bool, accessible_sites_only: bool, page: Page) -> Value {
        v2(self.contacts(show_federated, accessible_sites_only), page)
    }

    fn contacts(&self, show_federated: bool, accessible_sites_only: bool) -> Vec<Value> {
        let extensions = &self.company.extensions;
        let shown = self.listed().filter(|&n| !accessible_sites_only || extensions[n].site == extensions[0].site);
        let mut records: Vec<Value> = shown.filter_map(|n| self.company.contact(n, self.at)).collect();
        if show_federated {
            records.extend(self.company.federated_contacts());
        } else {
            for record in &mut records {
                if let Some(fields) = record.as_object_mut() {
                    fields.remove("account");
                }
            }
        }
        records
    }

    /// `POST /restapi/v1.0/account/{a}/directory/entries/search`: the contacts that have the text in one of the fields.
    #[must_use]
    pub fn search_directory(&self, wanted: &Value, accessible_sites_only: bool, page: Page) -> Value {
        let text = wanted["searchString"].as_str().unwrap_or_default().to_lowercase();
        let all = ["firstName", "lastName", "extensionNumber", "phoneNumber", "email", "department"];
        let fields: Vec<&str> = wanted["searchFields"].as_array().map_or(all.to_vec(), |given| given.iter().filter_map(Value::as_str).collect());
        let has = |value: &Value| value.as_str().is_some_and(|value| value.to_lowercase().contains(&text));
        let matches = |contact: &Value| {
            fields.iter().any(|field| match *field {
                "phoneNumber" => contact["phoneNumbers"].as_array().is_some_and(|numbers| numbers.iter().any(|number| has(&number["phoneNumber"]))),
                field => has(&contact[field]),
            })
        };
        let is = |name: &str, value: &Value| wanted[name].is_null() || wanted[name] == *value;
        let mut records = self.contacts(wanted["showFederated"] != false, accessible_sites_only);
        records
            .retain(|contact| is("extensionType", &contact["type"]) && is("siteId", &contact["site"]["id"]) && (text.is_empty() || matches(contact)));
        v2(records, page)
    }

    /// `GET /restapi/v1.0/account/{a}/directory/federation`; `None` if there is none.
    #[must_use]
    pub fn federation(&self) -> Option<Value> {
        if self.company.federated.is_empty() {
            return None;
        }
        let main = self.company.main_number();
        Some(json!({
            "id": format!("f-{}", self.company.account_id),
            "displayName": format!("{} and sister", self.company.name),
            "type": "Regular",
            "accounts": [
                { "id": self.company.account_id_text, "companyName": self.company.name, "mainNumber": { "phoneNumber": main, "usageType": "MainCompanyNumber" } },
                { "id": self.company.federated_account_id.to_string(), "companyName": "Sister Company Ltd." },
            ],
        }))
    }

    /// `GET …/extension/{e}/device`: a phone with a line for each of the extension's numbers.
    #[must_use]
    pub fn devices(&self, index: usize, page: Page) -> Value {
        let e = &self.company.extensions[index];
        let held = self.listed_numbers().filter(|(_, holder)| *holder == Some(index) && e.kind.talks());
        let lines: Vec<Value> = held
            .map(|(n, _)| {
                let payment = if n.toll_free { "TollFree" } else { "Local" };
                let info = json!({ "id": n.id, "phoneNumber": n.number, "usageType": n.usage, "paymentType": payment, "type": "VoiceFax" });
                json!({ "id": (n.id + 1).to_string(), "lineType": "Standalone", "phoneInfo": info })
            })
            .collect();
        let uri = format!("{}/device", self.extension_uri(e.id));
        let id = (e.id + 2).to_string();
        let device = json!({
            "id": id,
            "uri": format!("{}/device/{id}", self.account_uri()),
            "type": "SoftPhone",
            "name": format!("{}'s phone", e.name()),
            "status": "Online",
            "extension": { "id": e.id, "uri": self.extension_uri(e.id), "extensionNumber": e.number },
            "phoneLines": lines,
        });
        v1(&uri, if e.kind.talks() { vec![device] } else { Vec::new() }, page)
    }

    /// Numbers that a v1 list shows: not those of the inventory, nor those that left.
    fn listed_numbers(&self) -> impl Iterator<Item = (&PhoneNumber, Option<usize>)> {
        let listed = self.company.numbers.iter().filter(|n| n.listed_from <= self.at);
        listed.filter_map(|n| n.holding_at(self.at).map(|h| (n, h.extension)))
    }

    /// A number as a v1 list gives it.
    pub(super) fn number(&self, n: &PhoneNumber, holder: Option<usize>) -> Value {
        let mut out = json!({
            "uri": format!("{}/phone-number/{}", self.account_uri(), n.id),
            "id": n.id,
            "phoneNumber": n.number,
            "paymentType": if n.toll_free { "TollFree" } else { "Local" },
            "type": if n.usage == "CompanyFaxNumber" { "FaxOnly" } else { "VoiceFax" },
            "usageType": n.usage,
            "status": "Normal",
        });
        if let Some(holder) = holder {
            let e = &self.company.extensions[holder];
            out["extension"] = json!({ "id": e.id, "uri": self.extension_uri(e.id), "extensionNumber": e.number, "name": e.name() });
        }
        if n.usage == "ContactCenterNumber" {
            out["contactCenterProvider"] = json!({ "id": "1", "name": "RingCentral" });
        }
        out
    }

    /// `GET /restapi/v1.0/account/{a}/phone-number`.
    #[must_use]
    pub fn phone_numbers_v1(&self, usage: Option<&str>, page: Page) -> Value {
        let shown = self.listed_numbers().filter(|(n, _)| usage.is_none_or(|u| n.usage == u));
        let records = shown.map(|(n, holder)| self.number(n, holder)).collect();
        let query = usage.map(|u| format!("?usageType={u}")).unwrap_or_default();
        v1(&format!("{}/phone-number{query}", self.account_uri()), records, page)
    }

    /// `GET /restapi/v2/accounts/{a}/phone-numbers`: also the inventory, but no conferencing numbers.
    #[must_use]
    pub fn phone_numbers_v2(&self, usage: Option<&str>, page: Page) -> Value {
        let mut records = Vec::new();
        for n in self.company.numbers.iter().filter(|n| n.listed_from <= self.at && n.usage != "ConferencingNumber") {
            let holding = n.holding_at(self.at);
            let in_inventory = n.released.is_some_and(|(_, how)| how == Release::ToInventory);
            let shown_usage = match (holding, in_inventory) {
                (Some(_), _) => n.usage,
                (None, true) => "Inventory",
                (None, false) => continue,
            };
            if usage.is_some_and(|u| u != shown_usage) {
                continue;
            }
            let mut record = json!({
                "id": n.id.to_string(),
                "phoneNumber": n.number,
                "tollType": if n.toll_free { "TollFree" } else { "Toll" },
                "type": if n.usage == "CompanyFaxNumber" { "FaxOnly" } else { "VoiceFax" },
                "usageType": shown_usage,
                "status": "Normal",
                "byocNumber": false,
            });
            if let Some(e) = holding.and_then(|h| h.extension).map(|e| &self.company.extensions[e]) {
                record["extension"] = json!({ "id": e.id_text, "extensionNumber": e.number });
            }
            records.push(record);
        }
        v2(records, page)
    }

    /// `GET …/extension/{e}/phone-number`: its own numbers and the company numbers that it may use.
    #[must_use]
    pub fn extension_phone_numbers(&self, index: usize, page: Page) -> Value {
        let shown = self.listed_numbers().filter(|(n, holder)| *holder == Some(index) || n.usage == "MainCompanyNumber");
        let records = shown
            .map(|(n, holder)| {
                let mut out = self.number(n, holder);
                out["features"] = json!(["CallerId"]);
                out["country"] = json!({ "id": "1", "uri": format!("{}/restapi/v1.0/dictionary/country/1", self.base), "name": "United States" });
                if let Some(holder) = holder {
                    out["extension"]["type"] = self.company.extensions[holder].kind.name().into();
                }
                out
            })
            .collect();
        let id = self.company.extensions[index].id;
        v1(&format!("{}/phone-number", self.extension_uri(id)), records, page)
    }

    /// `GET …/extension/{e}/forwarding-number`.
    #[must_use]
    pub fn forwarding_numbers(&self, index: usize, page: Page) -> Value {
        let e = &self.company.extensions[index];
        let uri = format!("{}/forwarding-number", self.extension_uri(e.id));
        let records = e
            .registered_mobile
            .iter()
            .map(|mobile| {
                let id = (e.id + 1).to_string();
                json!({
                    "id": id,
                    "uri": format!("{uri}/{id}"),
                    "phoneNumber": mobile,
                    "label": "Mobile",
                    "features": ["CallFlip", "CallForwarding"],
                    "flipNumber": "3",
                    "type": "Mobile",
                })
            })
            .collect();
        v1(&uri, records, page)
    }

    /// All lists that a first synchronisation reads, in its order, each page as a document: the account, extensions,
    /// directory, numbers (v1 and v2), and the forwarding numbers of each extension.
    #[must_use]
    pub fn all(&self) -> Vec<Value> {
        let mut out = vec![self.account()];
        let whole = |of: &dyn Fn(Page) -> Value, out: &mut Vec<Value>| {
            for page in 1.. {
                let document = of(Page { page, per_page: 1_000 });
                let pages = document["paging"]["totalPages"].as_u64().unwrap_or(0);
                out.push(document);
                if page as u64 >= pages {
                    break;
                }
            }
        };
        whole(&|page| self.extensions(None, page), &mut out);
        whole(&|page| self.directory(true, false, page), &mut out);
        whole(&|page| self.phone_numbers_v1(None, page), &mut out);
        whole(&|page| self.phone_numbers_v2(None, page), &mut out);
        for index in self.listed().filter(|&n| self.company.extensions[n].kind.talks()) {
            out.push(self.forwarding_numbers(index, Page::default()));
        }
        out
    }
}

fn email(id: &str) -> String {
    format!("e{id}@example.com")
}

impl Company {
    /// A directory contact, or `None` for what the directory leaves out.
    pub(super) fn contact(&self, index: usize, at: Millis) -> Option<Value> {
        let e = &self.extensions[index];
        if e.hidden {
            return None;
        }
        let kind = e.kind.directory_name()?;
        let numbers: Vec<Value> = e
            .numbers
            .iter()
            .map(|&n| &self.numbers[n])
            .filter(|n| n.listed_from <= at && n.holding_at(at).is_some_and(|h| h.extension == Some(index)))
            .map(|n| json!({ "phoneNumber": n.number, "formattedPhoneNumber": formatted(&n.number), "e164": n.number, "usageType": n.usage, "type": "VoiceFax" }))
            .collect();
        let mut out = json!({
            "id": e.id_text,
            "type": kind,
            "status": "Enabled",
            "name": e.name(),
            "extensionNumber": e.number,
            "account": { "id": self.account_id_text, "companyName": self.name, "mainNumber": { "phoneNumber": self.main_number(), "usageType": "MainCompanyNumber" } },
            "phoneNumbers": numbers,
            "site": { "id": if e.site == 0 { "main-site".to_owned() } else { e.site.to_string() }, "name": self.sites[e.site] },
        });
        if e.kind.talks() && e.kind != ExtensionKind::Limited {
            out["firstName"] = e.first_name.as_str().into();
            out["lastName"] = e.last_name.as_str().into();
            out["email"] = email(&e.id_text).into();
            out["department"] = ["Sales", "Support", "Warehouse"][index % 3].into();
        }
        Some(out)
    }

    fn federated_contacts(&self) -> impl Iterator<Item = Value> {
        self.federated.iter().map(|f| {
            json!({
                "id": f.id.to_string(),
                "type": "User",
                "status": "Enabled",
                "name": format!("{} {}", f.first_name, f.last_name),
                "firstName": f.first_name,
                "lastName": f.last_name,
                "extensionNumber": f.extension_number,
                "account": { "id": self.federated_account_id.to_string(), "companyName": "Sister Company Ltd." },
                "phoneNumbers": [{ "phoneNumber": f.number, "formattedPhoneNumber": formatted(&f.number), "usageType": "DirectNumber", "type": "VoiceFax" }],
            })
        })
    }
}

/// As the directory formats: `+1 (205) 5550007`; other countries' numbers stay as they are.
pub(super) fn formatted(number: &str) -> String {
    match number.strip_prefix("+1") {
        Some(rest) if rest.len() == 10 => format!("+1 ({}) {}", &rest[..3], &rest[3..]),
        _ => number.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::CompanyConfig;

    fn numbers_in(list: &Value) -> Vec<&str> {
        list["records"].as_array().unwrap().iter().filter_map(|r| r["phoneNumber"].as_str()).collect()
    }

    #[test]
    fn a_number_is_listed_while_it_is_held_and_only_v2_knows_the_inventory() {
        let company = Company::generate(5, &CompanyConfig { changes_per_week: 60, ..CompanyConfig::default() });
        let whole = Page { page: 1, per_page: 10_000 };
        for (number, how) in company.numbers.iter().filter_map(|n| n.released.map(|(_, how)| (n, how))) {
            let (released_at, _) = number.released.unwrap();
            let v1_has =
                |at| numbers_in(&AccountLists { company: &company, base: "", at }.phone_numbers_v1(None, whole)).contains(&number.number.as_str());
            let v2_has =
                |at| numbers_in(&AccountLists { company: &company, base: "", at }.phone_numbers_v2(None, whole)).contains(&number.number.as_str());
            assert!(v1_has(released_at - 1) && v2_has(released_at - 1));
            assert!(!v1_has(number.listed_from - 1) && !v2_has(number.listed_from - 1));
            assert_eq!(v1_has(released_at), how == Release::Reassigned);
            assert_eq!(v2_has(released_at), how != Release::Gone);
        }
    }

    #[test]
    fn pages_join_to_the_whole_list() {
        let company = Company::generate(1, &CompanyConfig::default());
        let lists = AccountLists { company: &company, base: "https://x", at: company.config.start };
        let whole = lists.extensions(None, Page { page: 1, per_page: 1_000 });
        let mut joined = Vec::new();
        let mut page = 1;
        loop {
            let part = lists.extensions(None, Page { page, per_page: 7 });
            joined.extend(part["records"].as_array().unwrap().clone());
            if part["navigation"]["nextPage"].is_null() {
                break;
            }
            page += 1;
        }
        assert_eq!(&joined, whole["records"].as_array().unwrap());
        let beyond = lists.extensions(None, Page { page: 99, per_page: 7 });
        assert_eq!(beyond["records"], json!([]));
    }
}
