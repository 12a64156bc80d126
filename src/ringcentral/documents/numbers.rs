//! Numbers of a company: phone numbers, forwarding numbers, directory entries, extensions, accounts (ringcentral.md D).

use super::values::{List, Object, Text};
use super::{Asked, DocumentError, Reading, Referred, UNDATED, account_in, extension_in, parse};
use crate::event::{AccountId, Event, NumberKind, NumberQuery, NumbersObserved, ObservedNumber};
use serde::Deserialize;
use smallvec::SmallVec;

/// The most numbers of one event; what is more goes into the next.
const MOST_NUMBERS: usize = 1_000;

/// Numbers gathered from one document, by account and query, in the order of their appearance.
#[derive(Default)]
pub(super) struct Observed(Vec<(AccountId, NumberQuery, Vec<ObservedNumber>)>);

impl Observed {
    pub(super) fn push(&mut self, account: &AccountId, query: NumberQuery, number: ObservedNumber) {
        // Nearly always the newest group.
        match self.0.iter_mut().rev().find(|(of, by, _)| of == account && *by == query) {
            Some((_, _, numbers)) => numbers.push(number),
            None => self.0.push((account.clone(), query, vec![number])),
        }
    }

    pub(super) fn into_events(self) -> SmallVec<[Event; 1]> {
        let mut events = SmallVec::new();
        for (account_id, query, mut numbers) in self.0 {
            while !numbers.is_empty() {
                let rest = numbers.split_off(numbers.len().min(MOST_NUMBERS));
                let observed = NumbersObserved { account_id: account_id.clone(), query, observed_at: UNDATED, sync_id: None, numbers };
                events.push(Event::NumbersObserved(observed));
                numbers = rest;
            }
        }
        events
    }
}

/// A phone number of an account, as the lists of both versions and notifications give it.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct PhoneNumber<'a> {
    #[serde(borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow)]
    pub(super) uri: Text<'a>,
    #[serde(borrow)]
    phone_number: Text<'a>,
    #[serde(borrow)]
    e164: Text<'a>,
    #[serde(borrow)]
    formatted_phone_number: Text<'a>,
    #[serde(borrow)]
    usage_type: Text<'a>,
    #[serde(borrow)]
    extension: Referred<'a>,
    /// While a number is ported, this one serves in its place.
    #[serde(borrow)]
    temporary_number: Object<TemporaryNumber<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct TemporaryNumber<'a> {
    #[serde(borrow)]
    phone_number: Text<'a>,
}

impl PhoneNumber<'_> {
    pub(super) fn observe(&self, account: &AccountId, query: NumberQuery, observed: &mut Observed) {
        // The full one first: the others may be as people typed them, so of no country.
        let own = self.e164.kept().or_else(|| self.phone_number.kept()).or_else(|| self.formatted_phone_number.kept());
        for number in own.into_iter().chain(self.temporary_number.0.phone_number.kept()) {
            let number = ObservedNumber {
                number,
                kind: NumberKind::Phone,
                extension_id: self.extension.0.id.kept(),
                usage_type: self.usage_type.kept(),
                contact_account_id: None,
            };
            observed.push(account, query, number);
        }
    }
}

/// A directory entry. A notification gives the whole one, and what happened to it.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Contact<'a> {
    #[serde(borrow)]
    pub(super) event_type: Text<'a>,
    /// The contact's extension.
    #[serde(borrow)]
    pub(super) id: Text<'a>,
    #[serde(borrow)]
    account: Object<ContactAccount<'a>>,
    #[serde(borrow)]
    extension_number: Text<'a>,
    #[serde(borrow)]
    phone_numbers: List<Object<PhoneNumber<'a>>>,
}

/// The account that a contact belongs to.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct ContactAccount<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    main_number: Object<PhoneNumber<'a>>,
}

impl Contact<'_> {
    /// The account that was asked, as the document names it; where none is known, the contact's own (design §1: an entry belongs to the
    /// account that was asked, also when it comes from a federated one).
    pub(super) fn account(&self, named: Option<&AccountId>, asked: &Asked) -> Result<AccountId, DocumentError> {
        if let Some(account) = named.or(asked.account) {
            return Ok(account.clone());
        }
        let own = self.account.0.id.as_str().map(AccountId::parse).transpose()?;
        Ok(asked.account_or(own))
    }

    pub(super) fn observe(&self, account: &AccountId, query: NumberQuery, observed: &mut Observed) {
        let extension_id = self.id.kept();
        let contact_account_id = self.account.0.id.kept().filter(|own| own != account.as_str());
        // The main number is its account's, and no extension's.
        let of_account = (&self.account.0.main_number.0, None);
        for (number, extension_id) in self.phone_numbers.0.iter().map(|Object(number)| (number, extension_id.clone())).chain([of_account]) {
            let mut numbers = Observed::default();
            number.observe(account, query, &mut numbers);
            for mut number in numbers.0.into_iter().flat_map(|(_, _, numbers)| numbers) {
                number.extension_id.clone_from(&extension_id);
                number.contact_account_id.clone_from(&contact_account_id);
                observed.push(account, query, number);
            }
        }
        if let Some(number) = self.extension_number.kept() {
            observed.push(account, query, ObservedNumber { number, kind: NumberKind::Extension, extension_id, usage_type: None, contact_account_id });
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Extension<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    uri: Text<'a>,
    #[serde(borrow)]
    extension_number: Text<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Account<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    #[serde(borrow)]
    uri: Text<'a>,
    #[serde(borrow)]
    main_number: Text<'a>,
}

impl Reading<'_> {
    /// The account's inventory stands in the same list (v2), and is a query of its own (design R3).
    pub(super) fn read_phone_number(&mut self, text: &str) -> Result<(), DocumentError> {
        let number: PhoneNumber = parse(text, "the phone number")?;
        let account = self.account(&number.uri)?;
        let query = if number.usage_type.is("Inventory") { NumberQuery::Inventory } else { NumberQuery::PhoneNumbers };
        number.observe(&account, query, &mut self.observed);
        Ok(())
    }

    /// The extension stands in the address; the record names one only where the number is an app's (vendor's OpenAPI document).
    pub(super) fn read_forwarding_number(&mut self, text: &str) -> Result<(), DocumentError> {
        let mut number: PhoneNumber = parse(text, "the forwarding number")?;
        let account = self.account(&number.uri)?;
        let of = extension_in(self.uri).or_else(|| extension_in(number.uri.as_str().unwrap_or("")));
        number.usage_type = Text::default();
        let mut numbers = Observed::default();
        number.observe(&account, NumberQuery::ForwardingNumbers, &mut numbers);
        for mut number in numbers.0.into_iter().flat_map(|(_, _, numbers)| numbers) {
            number.extension_id = of.clone().or(number.extension_id);
            self.observed.push(&account, NumberQuery::ForwardingNumbers, number);
        }
        Ok(())
    }

    pub(super) fn read_contact(&mut self, text: &str) -> Result<(), DocumentError> {
        let contact: Contact = parse(text, "the directory entry")?;
        let account = contact.account(account_in(self.uri)?.as_ref(), self.asked)?;
        contact.observe(&account, NumberQuery::Directory, &mut self.observed);
        Ok(())
    }

    /// Its short number only: the phone numbers under `contact` are typed in by people, and none of the snapshot's queries (design R3).
    pub(super) fn read_extension(&mut self, text: &str) -> Result<(), DocumentError> {
        let extension: Extension = parse(text, "the extension")?;
        let account = self.account(&extension.uri)?;
        if let Some(number) = extension.extension_number.kept() {
            let extension_id = extension.id.kept();
            let number = ObservedNumber { number, kind: NumberKind::Extension, extension_id, usage_type: None, contact_account_id: None };
            self.observed.push(&account, NumberQuery::Extensions, number);
        }
        Ok(())
    }

    /// The main number. An account's own id names it as well as an address does.
    pub(super) fn read_account(&mut self, text: &str) -> Result<(), DocumentError> {
        let account: Account = parse(text, "the account")?;
        let named = match account_in(account.uri.as_str().unwrap_or(""))? {
            None => account.id.as_str().map(AccountId::parse).transpose()?,
            named => named,
        };
        let id = self.asked.account_or(named);
        if let Some(number) = account.main_number.kept() {
            let usage_type = Some("MainCompanyNumber".into());
            let number = ObservedNumber { number, kind: NumberKind::Phone, extension_id: None, usage_type, contact_account_id: None };
            self.observed.push(&id, NumberQuery::PhoneNumbers, number);
        }
        Ok(())
    }
}
