//! What a text in a number's place is: a phone number, a short number, a word, or nothing that can be identified.
//!
//! The table of endpoint kinds is in design §1; the values to expect in ringcentral.md G. Phone numbers go through a port of
//! libphonenumber; those in the North American plan that are E.164 already need no parser, and are most of them.

use crate::event::E164;
use compact_str::CompactString;
use rlibphonenumber::{NumberLengthType, PHONE_NUMBER_UTIL, PhoneNumber, Region};

/// A home country, for numbers without a plus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Country(Region);

impl Country {
    /// The United States: what holds for an account that never said otherwise (design §5).
    pub const DEFAULT: Self = Self(Region::US);

    /// Parses an ISO 3166-1 alpha-2 code such as `US`; `None` for one that has no numbering plan.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        let region: Region = code.to_ascii_uppercase().parse().ok()?;
        PHONE_NUMBER_UTIL.get_country_code_for_region(region).map(|_| Self(region))
    }
}

/// What a text in a number's place is, by itself: without the snapshot and without the rest of the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NumberText {
    /// A full phone number, normalised.
    Phone(E164),
    /// At most 8 digits: an extension number, or one that nobody knows (`911`).
    Short(CompactString),
    /// A phone number whose last digits the call log hides (`+1855201XXXX`).
    Masked(Mask),
    /// The caller hides.
    Withheld,
    /// A conference, a park location, a feature code.
    Service,
    /// No number at all.
    Unintelligible,
}

/// A masked number: `+`, then digits and at least one `X`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask(CompactString);

impl Mask {
    /// Every visible digit agrees, and so does the length.
    #[must_use]
    pub fn fits(&self, number: &str) -> bool {
        let (mask, number) = (self.0.as_bytes(), number.as_bytes());
        mask.len() == number.len() && mask.iter().zip(number).all(|(m, n)| m == n || *m == b'X')
    }

    /// What every number that it fits begins with.
    #[must_use]
    pub fn shown(&self) -> &str {
        self.0.split('X').next().unwrap_or_default()
    }
}

const WITHHELD: [&str; 4] = ["anonymous", "blocked", "restricted", "unavailable"];

/// The longest short number, in digits (ringcentral.md D).
const SHORT: usize = 8;

/// Longer texts than any way to write a number are not even tried.
const LONGEST: usize = 64;

/// What a text in a number's place is.
#[must_use]
pub fn read_number(text: &str, home: Country) -> NumberText {
    if let Some(number) = north_american(text) {
        return NumberText::Phone(number);
    }
    let text = text.trim();
    if WITHHELD.iter().any(|word| text.eq_ignore_ascii_case(word)) {
        return NumberText::Withheld;
    }
    if text == "conference" || is_service_code(text) {
        return NumberText::Service;
    }
    if text.len() > LONGEST {
        return NumberText::Unintelligible;
    }
    // `*67` hides the caller's number for one call, `*82` shows it: neither belongs to the number dialled.
    let dialled = text.strip_prefix("*67").or_else(|| text.strip_prefix("*82")).unwrap_or(text);
    // The main number and an extension, dialled as one: the number is what is in the snapshot.
    let number = dialled.split_once('*').map_or(dialled, |(number, _)| number).trim();
    if !number.is_empty() && number.len() <= SHORT && number.bytes().all(|b| b.is_ascii_digit()) {
        return NumberText::Short(number.into());
    }
    if is_masked(number) {
        return NumberText::Masked(Mask(number.to_ascii_uppercase().into()));
    }
    parse_phone(number, home).map_or(NumberText::Unintelligible, NumberText::Phone)
}

/// A full phone number, normalised to E.164; `None` for everything else.
#[must_use]
pub fn normalise(text: &str, home: Country) -> Option<E164> {
    match read_number(text, home) {
        NumberText::Phone(number) => Some(number),
        _ => None,
    }
}

/// `+1`, an area code and seven digits: what the parser would give back unchanged, since neither a trunk prefix nor
/// another length is possible there.
fn north_american(text: &str) -> Option<E164> {
    let national = text.strip_prefix("+1")?.as_bytes();
    let plain = national.len() == 10 && (b'2'..=b'9').contains(&national[0]) && national.iter().all(u8::is_ascii_digit);
    if plain { E164::parse(text).ok() } else { None }
}

/// `*` and two to four digits: park locations and feature codes.
fn is_service_code(text: &str) -> bool {
    text.strip_prefix('*').is_some_and(|digits| (2..=4).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn is_masked(text: &str) -> bool {
    let Some(rest) = text.strip_prefix('+') else { return false };
    (7..=15).contains(&rest.len())
        && rest.bytes().any(|b| b.eq_ignore_ascii_case(&b'x'))
        && rest.as_bytes()[0].is_ascii_digit()
        && rest.bytes().all(|b| b.is_ascii_digit() || b.eq_ignore_ascii_case(&b'x'))
}

/// The parser finds numbers in running text and spells out letters; here a text is a number as a whole or it is none.
fn parse_phone(text: &str, home: Country) -> Option<E164> {
    let looks_dialled =
        text.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | ' ' | '(' | ')' | '-' | '.' | '/' | '\u{a0}' | '\u{2010}'..='\u{2015}'));
    if !looks_dialled {
        return None;
    }
    let is_possible = |number: &PhoneNumber| number.is_possible_with_reason() == Ok(NumberLengthType::IsPossible);
    let at_home = PhoneNumber::parse(text, Some(home.0)).ok().filter(is_possible);
    let number = match at_home {
        Some(number) if text.starts_with('+') || number.is_valid() => number,
        // The call log's plain numbers have their country's code first (ringcentral.md G shows it for +1, and we take it for all).
        at_home => without_plus(text).or(at_home)?,
    };
    E164::parse(&number.format_as(rlibphonenumber::PhoneNumberFormat::E164)).ok()
}

/// A number of any country, its code first, that lacks the plus.
fn without_plus(text: &str) -> Option<PhoneNumber> {
    if !(11..=15).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    PhoneNumber::parse(format!("+{text}"), None).ok().filter(PhoneNumber::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn phone(text: &str) -> NumberText {
        NumberText::Phone(E164::parse(text).unwrap())
    }

    #[test]
    fn what_a_text_in_a_numbers_place_is() {
        let us = Country::DEFAULT;
        let rows: &[(&str, NumberText)] = &[
            ("+14083388064", phone("+14083388064")),
            ("12055550010", phone("+12055550010")),
            ("2055550010", phone("+12055550010")),
            ("(866)123-4567", phone("+18661234567")),
            ("+1(720)408-4360", phone("+17204084360")),
            ("+1 (205) 5641589", phone("+12055641589")),
            ("+18885551932*104", phone("+18885551932")),
            ("*67+14083388064", phone("+14083388064")),
            ("*674083388064", phone("+14083388064")),
            ("*824083388064", phone("+14083388064")),
            ("+441161008581", phone("+441161008581")),
            ("+44 (0)116 1008581", phone("+441161008581")),
            ("+6442001092", phone("+6442001092")),
            ("11101", NumberText::Short("11101".into())),
            ("102", NumberText::Short("102".into())),
            ("911", NumberText::Short("911".into())),
            ("*67102", NumberText::Short("102".into())),
            ("anonymous", NumberText::Withheld),
            ("Anonymous", NumberText::Withheld),
            ("blocked", NumberText::Withheld),
            ("RESTRICTED", NumberText::Withheld),
            ("unavailable", NumberText::Withheld),
            ("conference", NumberText::Service),
            ("*801", NumberText::Service),
            ("*67", NumberText::Service),
            ("*8011", NumberText::Service),
            ("*80111", NumberText::Unintelligible),
            ("*8", NumberText::Unintelligible),
            ("+1855201XXXX", NumberText::Masked(Mask("+1855201XXXX".into()))),
            ("+XXXXXXXXXXX", NumberText::Unintelligible),
            ("conference call", NumberText::Unintelligible),
            ("WIRELESS CALLER", NumberText::Unintelligible),
            ("SMITH 4155550123", NumberText::Unintelligible),
            ("1-800-FLOWERS", NumberText::Unintelligible),
            ("#1052016@sip.ringcentral.com:5060", NumberText::Unintelligible),
            ("+999", NumberText::Unintelligible),
            ("+1555", NumberText::Unintelligible),
            ("", NumberText::Unintelligible),
            ("+", NumberText::Unintelligible),
            ("555123456", NumberText::Unintelligible),
        ];
        for (text, expected) in rows {
            assert_eq!(&read_number(text, us), expected, "{text:?}");
        }
    }

    #[test]
    fn numbers_without_a_plus_belong_to_the_home_country() {
        let gb = Country::parse("gb").unwrap();
        assert_eq!(read_number("0116 100 8581", gb), phone("+441161008581"));
        assert_eq!(read_number("441161008581", gb), phone("+441161008581"));
        let de = Country::parse("de").unwrap();
        // Where it is none of theirs, with the code of another first.
        for (text, home, expected) in [
            ("442079460123", Country::DEFAULT, "+442079460123"),
            ("16505550177", gb, "+16505550177"),
            ("16505550177", de, "+16505550177"),
            ("03020451234", de, "+493020451234"),
            ("493020451234", de, "+493020451234"),
            ("2079460123", gb, "+442079460123"),
        ] {
            assert_eq!(read_number(text, home), phone(expected), "{text}");
        }
        assert_eq!(read_number("99999999999", Country::DEFAULT), NumberText::Unintelligible);
        assert_eq!(Country::parse("XX"), None);
        assert_eq!(Country::parse(""), None);
    }

    #[test]
    fn a_mask_fits_what_agrees_in_every_visible_digit() {
        let NumberText::Masked(mask) = read_number("+1855201XXXX", Country::DEFAULT) else { panic!("masked") };
        for (number, fits) in [("+18552010000", true), ("+18552019999", true), ("+18552029999", false), ("+1855201999", false)] {
            assert_eq!(mask.fits(number), fits, "{number}");
        }
    }

    proptest! {
        #[test]
        fn the_fast_path_gives_what_the_parser_gives(area in 200u64..1000, rest in 0u64..10_000_000) {
            let text = format!("+1{area}{rest:07}");
            let fast = north_american(&text);
            prop_assert!(fast.is_some());
            prop_assert_eq!(fast, parse_phone(&text, Country::DEFAULT));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,70}") {
            let _ = read_number(&text, Country::DEFAULT);
        }

        #[test]
        fn normalising_twice_is_normalising_once(text in "\\+?[0-9 ()*-]{5,18}") {
            if let Some(number) = normalise(&text, Country::DEFAULT) {
                prop_assert_eq!(normalise(number.as_str(), Country::DEFAULT), Some(number));
            }
        }
    }
}
