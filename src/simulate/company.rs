//! The company: extensions of every type, their numbers and how those change, its people's mobiles, and who calls it.
//!
//! Company numbers and outside numbers come from different area codes, with the exchange 555 (and the United Kingdom's
//! range for drama), so that no outsider has a company number by chance and nobody's real number stands in a test.

use super::lists::AccountLists;
use super::time::Rfc3339;
use crate::event::Millis;
use rand::{Rng, SeedableRng, seq::IndexedRandom};
use rand_chacha::ChaCha8Rng;

/// How big a company is and how much of it changes.
#[derive(Debug, Clone)]
pub struct CompanyConfig {
    /// People with an extension when the company starts. At least 8 are made.
    pub users: usize,
    /// Call queues, of 3 to 10 members each. At least 1 is made.
    pub queues: usize,
    /// Colleagues of a federated account, whose numbers the directory lists under another account id.
    pub federated: usize,
    /// When the company starts: the time at which its first numbers are assigned. Milliseconds since 1970 UTC.
    pub start: Millis,
    /// How long numbers and people come and go, in days from `start`; afterwards all stays as it is.
    pub days: u32,
    /// Changes per week: a user's number is replaced by another, a user is hired, a user leaves (a third each).
    pub changes_per_week: u32,
    /// How long a new number may make calls before a list shows it, in minutes at most.
    pub listing_delay_minutes: u32,
}

impl Default for CompanyConfig {
    /// 40 users from 2026-01-05T08:00Z, 60 days with 10 changes a week.
    fn default() -> Self {
        Self { users: 40, queues: 2, federated: 3, start: 1_767_600_000_000, days: 60, changes_per_week: 10, listing_delay_minutes: 120 }
    }
}

/// What an extension is (the `type` of the vendor's extension list).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtensionKind {
    /// A person.
    User,
    /// A person with a softphone only.
    DigitalUser,
    /// A person without a phone.
    VirtualUser,
    /// A fax machine's extension.
    FaxUser,
    /// A call queue.
    Department,
    /// An interactive menu.
    IvrMenu,
    /// A message that is played.
    Announcement,
    /// A mailbox.
    Voicemail,
    /// A loudspeaker group.
    PagingOnly,
    /// Phones that share a line.
    SharedLinesGroup,
    /// A place to park calls.
    ParkLocation,
    /// A phone in a common area.
    Limited,
    /// An application; the directory leaves it out.
    ApplicationExtension,
    /// A site.
    Site,
}

impl ExtensionKind {
    /// The vendor's word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "User",
            Self::DigitalUser => "DigitalUser",
            Self::VirtualUser => "VirtualUser",
            Self::FaxUser => "FaxUser",
            Self::Department => "Department",
            Self::IvrMenu => "IvrMenu",
            Self::Announcement => "Announcement",
            Self::Voicemail => "Voicemail",
            Self::PagingOnly => "PagingOnly",
            Self::SharedLinesGroup => "SharedLinesGroup",
            Self::ParkLocation => "ParkLocation",
            Self::Limited => "Limited",
            Self::ApplicationExtension => "ApplicationExtension",
            Self::Site => "Site",
        }
    }

    /// The directory's word for it, or `None` where it lists no such extension (ringcentral.md D, directory traps).
    #[must_use]
    pub fn directory_name(self) -> Option<&'static str> {
        match self {
            Self::DigitalUser | Self::VirtualUser | Self::FaxUser => Some("User"),
            Self::ApplicationExtension => None,
            other => Some(other.name()),
        }
    }

    /// Does a person with a phone sit there?
    #[must_use]
    pub fn talks(self) -> bool {
        matches!(self, Self::User | Self::DigitalUser | Self::Limited)
    }
}

/// An extension.
#[derive(Debug, Clone)]
pub struct Extension {
    /// Its id.
    pub id: u64,
    /// Its id as events write it.
    pub id_text: String,
    /// Its short number.
    pub number: String,
    /// First name of a person, or the name of anything else.
    pub first_name: String,
    /// Last name of a person, else empty.
    pub last_name: String,
    /// What it is.
    pub kind: ExtensionKind,
    /// Left out of the directory by its administrator.
    pub hidden: bool,
    /// Index into [`Company::sites`].
    pub site: usize,
    /// From when on it exists.
    pub created: Millis,
    /// From when on the lists show it; it may make calls before.
    pub listed_from: Millis,
    /// From when on it exists no more.
    pub deleted: Option<Millis>,
    /// Indices into [`Company::numbers`] of all the numbers that it ever holds.
    pub numbers: Vec<usize>,
    /// A private mobile that stands in its forwarding list: a company number, since that list shows it.
    pub registered_mobile: Option<String>,
    /// A private phone that no list shows: nobody's in the company.
    pub private_phone: Option<String>,
    /// A queue's members, as indices into [`Company::extensions`].
    pub members: Vec<usize>,
}

impl Extension {
    /// First and last name.
    #[must_use]
    pub fn name(&self) -> String {
        if self.last_name.is_empty() { self.first_name.clone() } else { format!("{} {}", self.first_name, self.last_name) }
    }

    /// Does it exist at that time?
    #[must_use]
    pub fn exists_at(&self, at: Millis) -> bool {
        self.created <= at && self.deleted.is_none_or(|deleted| at < deleted)
    }
}

/// Who holds a number during a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// From when on.
    pub from: Millis,
    /// From when on no more.
    pub until: Option<Millis>,
    /// The extension, as an index into [`Company::extensions`]; `None` for a number of the company itself.
    pub extension: Option<usize>,
}

/// What becomes of a number that its holder gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// It is kept in the inventory: v2 lists it as `Inventory`, v1 does not list it.
    ToInventory,
    /// It has left the account: no list shows it.
    Gone,
    /// Another user has it.
    Reassigned,
}

/// A phone number of the company.
#[derive(Debug, Clone)]
pub struct PhoneNumber {
    /// Its id.
    pub id: u64,
    /// In E.164.
    pub number: String,
    /// The vendor's usage type.
    pub usage: &'static str,
    /// Toll-free or not.
    pub toll_free: bool,
    /// From when on the lists show it; calls by it begin at its first holding, which is earlier for numbers that come later.
    pub listed_from: Millis,
    /// Who holds it, in order of time.
    pub holdings: Vec<Holding>,
    /// When its first holder gave it up, and what became of it.
    pub released: Option<(Millis, Release)>,
}

impl PhoneNumber {
    /// The holding at that time.
    #[must_use]
    pub fn holding_at(&self, at: Millis) -> Option<&Holding> {
        self.holdings.iter().find(|h| h.from <= at && h.until.is_none_or(|until| at < until))
    }
}

/// A colleague of a federated account.
#[derive(Debug, Clone)]
pub(super) struct FederatedColleague {
    pub id: u64,
    pub first_name: String,
    pub last_name: String,
    pub extension_number: String,
    pub number: String,
}

/// Something that changed the directory, of which RingCentral sends a notification.
#[derive(Debug, Clone, Copy)]
pub(super) struct DirectoryChange {
    pub at: Millis,
    pub extension: usize,
    pub event_type: &'static str,
}

/// A company: what the lists show of it at each time, and who is in it. See [`Company::generate`].
#[derive(Debug, Clone)]
pub struct Company {
    /// The seed that it came from.
    pub seed: u64,
    /// How it was made.
    pub config: CompanyConfig,
    /// The account id.
    pub account_id: u64,
    /// The account id as events write it.
    pub account_id_text: String,
    /// Its name.
    pub name: String,
    /// Names of its sites; the first is the main site.
    pub sites: Vec<&'static str>,
    /// All the extensions that it ever has.
    pub extensions: Vec<Extension>,
    /// All the numbers that it ever has. The first is the main number.
    pub numbers: Vec<PhoneNumber>,
    pub(super) federated_account_id: u64,
    pub(super) federated: Vec<FederatedColleague>,
    pub(super) changes: Vec<DirectoryChange>,
    /// A contact-centre number that comes two days after the start: an index into `numbers`.
    contact_centre: usize,
}

const FIRST_NAMES: [&str; 20] = [
    "Alice", "Bashir", "Chiara", "Deng", "Elif", "Farah", "Goran", "Hana", "Ivo", "Jun", "Kofi", "Leila", "Mateo", "Nadia", "Olu", "Priya", "Quinn",
    "Rosa", "Sven", "Tomás",
];
const LAST_NAMES: [&str; 20] = [
    "Abara", "Brandt", "Costa", "Dlamini", "Eriksen", "Fischer", "Gupta", "Haddad", "Ivanova", "Jansen", "Kimura", "Lopez", "Moreau", "Novak",
    "O'Neil", "Petrov", "Rossi", "Silva", "Tanaka", "Ueda",
];
const COMPANY_AREAS: [&str; 4] = ["205", "650", "720", "408"];
const OUTSIDE_AREAS: [&str; 9] = ["212", "303", "312", "415", "503", "617", "646", "702", "808"];

/// A number of somebody who is not of the company.
pub(super) fn outside_number(rng: &mut ChaCha8Rng) -> String {
    if rng.random_ratio(1, 20) {
        return format!("+447700900{:03}", rng.random_range(0..1_000));
    }
    let area = OUTSIDE_AREAS[rng.random_range(0..OUTSIDE_AREAS.len())];
    // The lower half is for callers; the upper half for the private phones of employees.
    format!("+1{area}555{:04}", rng.random_range(0..5_000))
}

struct Builder {
    rng: ChaCha8Rng,
    company: Company,
    next_number: usize,
    next_short: u32,
    next_id: u64,
    next_private: usize,
}

impl Builder {
    fn id(&mut self) -> u64 {
        self.next_id += self.rng.random_range(1..40) * 1_000;
        self.next_id
    }

    fn new_number(&mut self, usage: &'static str, from: Millis, listed_from: Millis, extension: Option<usize>) -> usize {
        let area = COMPANY_AREAS[self.next_number % COMPANY_AREAS.len()];
        let number = format!("+1{area}555{:04}", self.next_number / COMPANY_AREAS.len() % 10_000);
        self.next_number += 1;
        self.push_number(number, usage, false, from, listed_from, extension)
    }

    fn push_number(
        &mut self,
        number: String,
        usage: &'static str,
        toll_free: bool,
        from: Millis,
        listed_from: Millis,
        extension: Option<usize>,
    ) -> usize {
        let id = self.id();
        let index = self.company.numbers.len();
        let holdings = vec![Holding { from, until: None, extension }];
        self.company.numbers.push(PhoneNumber { id, number, usage, toll_free, listed_from, holdings, released: None });
        if let Some(extension) = extension {
            self.company.extensions[extension].numbers.push(index);
        }
        index
    }

    fn private_number(&mut self) -> String {
        let area = OUTSIDE_AREAS[self.next_private % OUTSIDE_AREAS.len()];
        let number = format!("+1{area}555{:04}", 5_000 + self.next_private / OUTSIDE_AREAS.len() % 5_000);
        self.next_private += 1;
        number
    }

    fn extension(&mut self, kind: ExtensionKind, name: Option<String>, created: Millis) -> usize {
        let id = self.id();
        // 911 and 933 are emergency services' numbers, which no extension may have.
        while matches!(self.next_short, 911 | 933) {
            self.next_short += 1;
        }
        let number = self.next_short.to_string();
        self.next_short += 1;
        let (first_name, last_name) = match name {
            Some(name) => (name, String::new()),
            None => (
                FIRST_NAMES[self.rng.random_range(0..FIRST_NAMES.len())].to_owned(),
                LAST_NAMES[self.rng.random_range(0..LAST_NAMES.len())].to_owned(),
            ),
        };
        let site = self.rng.random_range(0..self.company.sites.len());
        self.company.extensions.push(Extension {
            id,
            id_text: id.to_string(),
            number,
            first_name,
            last_name,
            kind,
            hidden: false,
            site,
            created,
            listed_from: created,
            deleted: None,
            numbers: Vec::new(),
            registered_mobile: None,
            private_phone: None,
            members: Vec::new(),
        });
        self.company.extensions.len() - 1
    }

    fn user(&mut self, kind: ExtensionKind, created: Millis, listed_from: Millis) -> usize {
        let index = self.extension(kind, None, created);
        self.new_number("DirectNumber", created, listed_from, Some(index));
        self.company.extensions[index].listed_from = listed_from;
        if self.rng.random_ratio(1, 2) {
            let mobile = self.private_number();
            self.company.extensions[index].registered_mobile = Some(mobile);
        }
        if self.rng.random_ratio(1, 3) {
            let phone = self.private_number();
            self.company.extensions[index].private_phone = Some(phone);
        }
        index
    }

    fn change(&mut self, at: Millis, extension: usize, event_type: &'static str) {
        self.company.changes.push(DirectoryChange { at, extension, event_type });
    }

    /// Gives up a number at a time: to the inventory, out of the account, or to another user.
    fn release(&mut self, number: usize, at: Millis, users: &[usize]) {
        let release = [Release::ToInventory, Release::Gone, Release::Reassigned][self.rng.random_range(0..3)];
        if let Some(last) = self.company.numbers[number].holdings.last_mut() {
            last.until = Some(at);
        }
        self.company.numbers[number].released = Some((at, release));
        if release == Release::Reassigned {
            let heirs: Vec<usize> =
                users.iter().copied().filter(|&u| self.company.extensions[u].deleted.is_none() && self.company.extensions[u].created <= at).collect();
            match heirs.choose(&mut self.rng) {
                Some(&heir) => {
                    self.company.numbers[number].holdings.push(Holding { from: at, until: None, extension: Some(heir) });
                    self.company.extensions[heir].numbers.push(number);
                    self.change(at, heir, "Update");
                }
                None => self.company.numbers[number].released = Some((at, Release::ToInventory)),
            }
        }
    }

    /// Replaces a user's number, hires somebody, or lets somebody leave.
    fn one_change(&mut self, at: Millis, users: &mut Vec<usize>) {
        let delay = i64::from(self.rng.random_range(0..=self.company.config.listing_delay_minutes)) * 60_000;
        // Only who is listed with all numbers changes again, and who was hired stays for two days: each number of the
        // company is in a list that a daily refresh sees, since one that never was could not be known to anybody.
        let start = self.company.config.start;
        let settled = |&u: &usize| {
            let extension = &self.company.extensions[u];
            let listed = extension.numbers.iter().all(|&n| self.company.numbers[n].listed_from < at);
            let seen = extension.created == start || extension.created + 2 * 86_400_000 < at;
            extension.deleted.is_none() && !extension.hidden && seen && listed
        };
        let present: Vec<usize> = users.iter().copied().filter(settled).collect();
        match self.rng.random_range(0..3) {
            0 => {
                let Some(&user) = present.choose(&mut self.rng) else { return };
                let held = |n: &&usize| self.company.numbers[**n].holding_at(at).is_some_and(|h| h.extension == Some(user) && h.until.is_none());
                let Some(&old) = self.company.extensions[user].numbers.iter().find(held) else { return };
                // A number is given up once: numbers that change hands for ever would leave the company without any of its first.
                if self.company.numbers[old].released.is_some() {
                    return;
                }
                self.release(old, at, users);
                self.new_number("DirectNumber", at, at + delay, Some(user));
                self.change(at + delay, user, "Update");
            }
            1 => {
                let user = self.user(ExtensionKind::User, at, at + delay);
                users.push(user);
                self.change(at + delay, user, "Create");
            }
            _ => {
                // Enough people stay for every kind of call.
                if present.len() <= 8 {
                    return;
                }
                let Some(&user) = present.choose(&mut self.rng) else { return };
                self.company.extensions[user].deleted = Some(at);
                let held: Vec<usize> = self.company.extensions[user]
                    .numbers
                    .iter()
                    .copied()
                    .filter(|&n| self.company.numbers[n].holdings.last().is_some_and(|h| h.extension == Some(user) && h.until.is_none()))
                    .collect();
                for number in held {
                    self.release(number, at, users);
                }
                self.change(at, user, "Delete");
            }
        }
    }
}

impl Company {
    /// Makes a company. The same seed and configuration make the same company.
    #[must_use]
    pub fn generate(seed: u64, config: &CompanyConfig) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let account_id = 400_000_000_000 + u64::from(rng.random::<u32>()) * 10 + 8;
        let company = Self {
            seed,
            config: config.clone(),
            account_id,
            account_id_text: account_id.to_string(),
            name: format!("{} Logistics Inc.", LAST_NAMES[rng.random_range(0..LAST_NAMES.len())]),
            sites: vec!["Main Site", "West branch"],
            extensions: Vec::new(),
            numbers: Vec::new(),
            federated_account_id: account_id + 777_000,
            federated: Vec::new(),
            changes: Vec::new(),
            contact_centre: 0,
        };
        let mut b = Builder { rng, company, next_number: 0, next_short: 101, next_id: account_id + 1_000, next_private: 0 };
        let start = config.start;
        b.push_number("+18885550100".to_owned(), "MainCompanyNumber", true, start, start, None);
        b.push_number("+18885550101".to_owned(), "AdditionalCompanyNumber", true, start, start, None);
        for usage in ["CompanyNumber", "CompanyFaxNumber", "ContactCenterNumber", "ConferencingNumber"] {
            b.new_number(usage, start, start, None);
        }
        b.push_number("+447700901001".to_owned(), "CompanyNumber", false, start, start, None);
        let comes = start + 2 * 86_400_000;
        b.company.contact_centre = b.new_number("ContactCenterNumber", comes, comes + i64::from(config.listing_delay_minutes) * 60_000, None);
        let mut users = Vec::new();
        for n in 0..config.users.max(8) {
            let kind = if n % 7 == 6 { ExtensionKind::DigitalUser } else { ExtensionKind::User };
            users.push(b.user(kind, start, start));
        }
        for (kind, name, usage) in [
            (ExtensionKind::IvrMenu, "Main Menu", Some("DirectNumber")),
            (ExtensionKind::Announcement, "Opening Hours", None),
            (ExtensionKind::Voicemail, "Sales Mailbox", None),
            (ExtensionKind::FaxUser, "Fax Desk", Some("DirectNumber")),
            (ExtensionKind::VirtualUser, "Reception", None),
            (ExtensionKind::PagingOnly, "Warehouse Speakers", None),
            (ExtensionKind::SharedLinesGroup, "Front Desk", Some("DirectNumber")),
            (ExtensionKind::ParkLocation, "Park 1", None),
            (ExtensionKind::Limited, "Lobby Phone", None),
            (ExtensionKind::ApplicationExtension, "Dialler", Some("DirectNumber")),
            (ExtensionKind::Site, "West branch", None),
        ] {
            let index = b.extension(kind, Some(name.to_owned()), start);
            if let Some(usage) = usage {
                b.new_number(usage, start, start, Some(index));
            }
        }
        for n in 0..config.queues.max(1) {
            let index = b.extension(ExtensionKind::Department, Some(format!("Queue {}", n + 1)), start);
            b.new_number("DirectNumber", start, start, Some(index));
            let size = b.rng.random_range(3..=10.min(users.len()));
            b.company.extensions[index].members = users.choose_multiple(&mut b.rng, size).copied().collect();
        }
        // One person the administrator has hidden: in the number lists, not in the directory.
        b.company.extensions[users[2]].hidden = true;
        for _ in 0..config.federated {
            let id = b.id();
            let first_name = FIRST_NAMES[b.rng.random_range(0..FIRST_NAMES.len())].to_owned();
            let last_name = LAST_NAMES[b.rng.random_range(0..LAST_NAMES.len())].to_owned();
            let number = format!("+1916555{:04}", 100 + b.company.federated.len());
            let extension_number = (201 + b.company.federated.len()).to_string();
            b.company.federated.push(FederatedColleague { id, first_name, last_name, extension_number, number });
        }
        let changes = u64::from(config.days) * u64::from(config.changes_per_week) / 7;
        let span = i64::from(config.days) * 86_400_000;
        let mut times: Vec<Millis> = (0..changes).map(|_| start + b.rng.random_range(1..span.max(2))).collect();
        times.sort_unstable();
        for at in times {
            b.one_change(at, &mut users);
        }
        b.company.changes.sort_by_key(|change| change.at);
        b.company
    }

    /// The company's main number.
    #[must_use]
    pub fn main_number(&self) -> &str {
        &self.numbers[0].number
    }

    /// The numbers under which outsiders reach the company as such at a time: the main number and others without an extension.
    pub(super) fn company_numbers(&self, at: Millis) -> impl Iterator<Item = &str> {
        let voice = |n: &&PhoneNumber| !matches!(n.usage, "CompanyFaxNumber" | "ConferencingNumber");
        let held = self.numbers.iter().filter(voice).filter(move |n| n.holding_at(at).is_some_and(|h| h.extension.is_none()));
        held.map(|n| n.number.as_str())
    }

    /// The number that an extension calls from at a time.
    #[must_use]
    pub fn direct_number(&self, extension: usize, at: Millis) -> Option<&str> {
        let numbers = self.extensions.get(extension)?.numbers.iter().map(|&n| &self.numbers[n]);
        numbers.filter(|n| n.holding_at(at).is_some_and(|h| h.extension == Some(extension))).map(|n| n.number.as_str()).next_back()
    }

    /// The notifications of changes to extensions, the directory and contact-centre numbers that happen in a time span: from
    /// inclusive, until exclusive.
    #[must_use]
    pub fn directory_notifications(&self, from: Millis, until: Millis) -> Vec<super::Notification> {
        let first = self.changes.partition_point(|c| c.at < from);
        let last = self.changes.partition_point(|c| c.at < until);
        let changes = self.changes[first..last.max(first)].iter().enumerate();
        let mut out: Vec<_> = changes.flat_map(|(n, change)| self.notifications_of(*change, (first + n) as u64)).collect();
        let new = &self.numbers[self.contact_centre];
        if (from..until).contains(&new.listed_from) {
            let number = AccountLists { company: self, base: "https://platform.ringcentral.com", at: new.listed_from }.number(new, None);
            out.push(super::Notification {
                due: new.listed_from + 600,
                timestamp: new.listed_from + 300,
                uuid: format!("{:08x}-0003-4000-8000-000000000000", self.seed as u32),
                event: format!("/restapi/v1.0/account/{}/phone-number?usageType=ContactCenterNumber", self.account_id),
                body: serde_json::json!({ "eventType": "Created", "phoneNumberInfo": number }).to_string(),
            });
        }
        out
    }

    fn notifications_of(&self, change: DirectoryChange, n: u64) -> Vec<super::Notification> {
        let extension = &self.extensions[change.extension];
        let mut out = Vec::new();
        let uuid = |kind: u64| format!("{:08x}-{:04x}-4000-8000-{:012x}", self.seed as u32, kind, n);
        let hints = if change.event_type == "Update" { ",\"hints\":[\"CompanyNumbers\"]" } else { "" };
        out.push(super::Notification {
            due: change.at + 400,
            timestamp: change.at + 200,
            uuid: uuid(1),
            event: format!("/restapi/v1.0/account/{}/extension", self.account_id),
            body: format!("{{\"extensions\":[{{\"extensionId\":\"{}\",\"eventType\":\"{}\"{hints}}}]}}", extension.id_text, change.event_type),
        });
        if let Some(mut contact) = self.contact(change.extension, change.at) {
            contact["eventType"] = change.event_type.into();
            out.push(super::Notification {
                due: change.at + 900,
                timestamp: change.at + 500,
                uuid: uuid(2),
                event: format!("/restapi/v1.0/account/{}/directory/entries", self.account_id),
                body: serde_json::json!({ "contacts": [contact] }).to_string(),
            });
        }
        out
    }

    /// A short line for a person: what this company is.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{} (account {}), {} extensions, {} numbers, {} directory changes from {}",
            self.name,
            self.account_id,
            self.extensions.len(),
            self.numbers.len(),
            self.changes.len(),
            Rfc3339(self.config.start)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_same_seed_makes_the_same_company() {
        let config = CompanyConfig::default();
        assert_eq!(format!("{:?}", Company::generate(7, &config)), format!("{:?}", Company::generate(7, &config)));
        assert_ne!(format!("{:?}", Company::generate(7, &config)), format!("{:?}", Company::generate(8, &config)));
    }

    #[test]
    fn numbers_are_unique_and_never_an_outsiders() {
        let company = Company::generate(3, &CompanyConfig { users: 300, ..CompanyConfig::default() });
        let mut inside: HashSet<&str> = HashSet::new();
        for number in &company.numbers {
            assert!(inside.insert(&number.number), "{} twice", number.number);
        }
        let private = company.extensions.iter().flat_map(|e| e.registered_mobile.iter().chain(&e.private_phone));
        for number in private {
            assert!(inside.insert(number), "{number} twice");
        }
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for _ in 0..20_000 {
            let number = outside_number(&mut rng);
            assert!(!inside.contains(number.as_str()), "{number}");
        }
    }

    #[test]
    fn numbers_come_before_they_are_listed_and_go_in_every_way() {
        let company = Company::generate(5, &CompanyConfig { changes_per_week: 60, ..CompanyConfig::default() });
        assert!(company.numbers.iter().any(|n| n.holdings[0].from < n.listed_from));
        for way in [Release::ToInventory, Release::Gone, Release::Reassigned] {
            assert!(company.numbers.iter().any(|n| n.released.is_some_and(|(_, how)| how == way)), "{way:?}");
        }
        for number in &company.numbers {
            for pair in number.holdings.windows(2) {
                assert!(pair[0].until.is_some_and(|until| until <= pair[1].from), "{number:?}");
            }
        }
    }

    #[test]
    fn every_new_number_is_announced_by_the_directory() {
        let company = Company::generate(5, &CompanyConfig { changes_per_week: 60, ..CompanyConfig::default() });
        let end = company.config.start + 100 * 86_400_000;
        let all: String = company.directory_notifications(0, end).into_iter().map(|n| n.body).collect();
        for number in company.numbers.iter().filter(|n| n.holdings[0].from > company.config.start) {
            assert!(all.contains(&number.number), "{}", number.number);
        }
    }
}
