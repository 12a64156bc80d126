//! Values of vendor JSON, read leniently: what has another type than expected counts as absent, since unknown fields and
//! values are never an error (design §5).
//!
//! They borrow from the document where they can. What remains an error is what makes the text no JSON, or ambiguous
//! (a field that comes twice), or no text (half a surrogate pair).

use crate::event::Millis;
use compact_str::CompactString;
use jiff::Timestamp;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// The longest text that is taken over, in bytes; what is longer is cut.
const LONGEST: usize = 256;

/// The longest list within a record or a notification. RingCentral's are far shorter; an element takes many times the bytes that it may stand in.
const MOST_ELEMENTS: usize = 10_000;

/// A text, or an integer as one (ids come as either, ringcentral.md B2).
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Text<'a>(Option<Cow<'a, str>>);

impl Text<'_> {
    /// What it says; blank says nothing.
    pub(super) fn as_str(&self) -> Option<&str> {
        self.0.as_deref().filter(|text| !text.trim_ascii().is_empty())
    }

    /// To be kept: at most 256 bytes of it.
    pub(super) fn kept(&self) -> Option<CompactString> {
        self.as_str().map(cut)
    }

    pub(super) fn is(&self, word: &str) -> bool {
        self.as_str().is_some_and(|text| text.eq_ignore_ascii_case(word))
    }
}

/// At most 256 bytes of it, whole characters.
fn cut(text: &str) -> CompactString {
    if text.len() <= LONGEST {
        return CompactString::new(text);
    }
    let end = (0..=LONGEST).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    CompactString::new(&text[..end])
}

/// A time: RFC 3339, also with an offset such as `+0000`, or a number of milliseconds.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Time(pub(super) Option<Millis>);

/// An integer, also written as a text.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Int(pub(super) Option<i64>);

/// A truth value, also written as a text.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Flag(pub(super) Option<bool>);

/// Whether a list has elements, or an object is there.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(super) struct Filled(pub(super) bool);

/// An object; anything else counts as an empty one.
#[derive(Debug, Default)]
pub(super) struct Object<T>(pub(super) T);

/// A list; anything else counts as an empty one.
#[derive(Debug)]
pub(super) struct List<T>(pub(super) SmallVec<[T; 1]>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(SmallVec::new())
    }
}

/// RFC 3339 in milliseconds since 1970. The form that nearly every time has is read without the general parser.
pub(super) fn parse_time(text: &str) -> Option<Millis> {
    utc_time(text.as_bytes()).or_else(|| text.trim().parse::<Timestamp>().ok().map(Timestamp::as_millisecond))
}

/// `2018-06-05T00:14:50.147Z`, or without the fraction; `None` for every other form.
fn utc_time(text: &[u8]) -> Option<Millis> {
    let fraction = match text.len() {
        20 => None,
        24 if text[19] == b'.' => Some(&text[20..23]),
        _ => return None,
    };
    let shape = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (text.len() - 1, b'Z')];
    if shape.iter().any(|(at, mark)| text[*at] != *mark) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().try_fold(0i64, |sum, d| d.is_ascii_digit().then(|| sum * 10 + i64::from(d - b'0')));
    let (year, month, day) = (number(&text[..4])?, number(&text[5..7])?, number(&text[8..10])?);
    let (hour, minute, second) = (number(&text[11..13])?, number(&text[14..16])?, number(&text[17..19])?);
    // Days that not every month has, and leap seconds, are for the general parser.
    if !(1..=12).contains(&month) || !(1..=28).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since 1970-01-01, with years that begin in March, so that the leap day is a year's last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + year * 365 + year / 4 - year / 100 + day_of_year - 719_468;
    let milliseconds = fraction.map_or(Some(0), number)?;
    Some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1_000 + milliseconds)
}

/// Reads past the rest of a list.
fn skip_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<(), A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

/// Reads past the rest of an object.
fn skip_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<(), A::Error> {
    while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

macro_rules! anything {
    () => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any value")
        }
    };
}

macro_rules! absent {
    ($($method:ident($type:ty)),*) => {
        $(fn $method<E>(self, _: $type) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        })*
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(Self::Value::default())
        }
    };
}

macro_rules! no_list {
    () => {
        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            skip_list(list).map(|()| Self::Value::default())
        }
    };
}

macro_rules! no_object {
    () => {
        fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Self::Value, A::Error> {
            skip_object(object).map(|()| Self::Value::default())
        }
    };
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<'a>(PhantomData<&'a str>);
        impl<'de: 'a, 'a> Visitor<'de> for Read<'a> {
            type Value = Text<'a>;
            anything!();
            absent!(visit_bool(bool), visit_f64(f64));
            no_list!();
            no_object!();
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'a>, E> {
                Ok(Text(Some(Cow::Borrowed(text))))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'a>, E> {
                Ok(Text(Some(Cow::Owned(text.to_owned()))))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Text<'a>, E> {
                Ok(Text(Some(Cow::Owned(number.to_string()))))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Text<'a>, E> {
                Ok(Text(Some(Cow::Owned(number.to_string()))))
            }
        }
        deserializer.deserialize_any(Read(PhantomData))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Time;
            anything!();
            absent!(visit_bool(bool), visit_f64(f64));
            no_list!();
            no_object!();
            fn visit_str<E>(self, text: &str) -> Result<Time, E> {
                Ok(Time(parse_time(text)))
            }
            fn visit_i64<E>(self, at: i64) -> Result<Time, E> {
                Ok(Time(Some(at)))
            }
            fn visit_u64<E>(self, at: u64) -> Result<Time, E> {
                Ok(Time(i64::try_from(at).ok()))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Int;
            anything!();
            absent!(visit_bool(bool), visit_f64(f64));
            no_list!();
            no_object!();
            fn visit_str<E>(self, text: &str) -> Result<Int, E> {
                Ok(Int(text.trim().parse().ok()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Int, E> {
                Ok(Int(Some(number)))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Int, E> {
                Ok(Int(i64::try_from(number).ok()))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Flag;
            anything!();
            absent!(visit_i64(i64), visit_u64(u64), visit_f64(f64));
            no_list!();
            no_object!();
            fn visit_bool<E>(self, flag: bool) -> Result<Flag, E> {
                Ok(Flag(Some(flag)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Flag, E> {
                Ok(Flag(text.trim().to_ascii_lowercase().parse().ok()))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl<'de> Deserialize<'de> for Filled {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Filled;
            anything!();
            absent!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Filled, A::Error> {
                let filled = list.next_element::<IgnoredAny>()?.is_some();
                skip_list(list).map(|()| Filled(filled))
            }
            fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Filled, A::Error> {
                skip_object(object).map(|()| Filled(true))
            }
        }
        deserializer.deserialize_any(Read)
    }
}

impl<'de, T: Deserialize<'de> + Default> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Default> Visitor<'de> for Read<T> {
            type Value = Object<T>;
            anything!();
            absent!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));
            no_list!();
            fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(object)).map(Object)
            }
        }
        deserializer.deserialize_any(Read(PhantomData))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Read<T> {
            type Value = List<T>;
            anything!();
            absent!(visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str));
            no_object!();
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List<T>, A::Error> {
                let mut elements = SmallVec::new();
                while let Some(element) = list.next_element()? {
                    if elements.len() == MOST_ELEMENTS {
                        return Err(serde::de::Error::custom(format_args!("a list within it has more than {MOST_ELEMENTS} elements")));
                    }
                    elements.push(element);
                }
                Ok(List(elements))
            }
        }
        deserializer.deserialize_any(Read(PhantomData))
    }
}

/// The names of an object's fields, for a message: at most twelve of them.
pub(super) struct Keys(pub(super) String);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Keys;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Keys, A::Error> {
                let mut keys: Vec<String> = Vec::new();
                let mut more = 0;
                while let Some((key, _)) = object.next_entry::<Cow<'de, str>, IgnoredAny>()? {
                    if keys.len() < 12 {
                        keys.push(key.chars().take(40).flat_map(char::escape_default).collect());
                    } else {
                        more += 1;
                    }
                }
                let mut text = if keys.is_empty() { "no fields".to_owned() } else { keys.join(", ") };
                if more > 0 {
                    text.push_str(&format!(" and {more} more"));
                }
                Ok(Keys(text))
            }
        }
        deserializer.deserialize_map(Read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_value_of_another_type_counts_as_absent() {
        let texts = [("\"a\"", Some("a")), ("12", Some("12")), ("-1", Some("-1")), ("\" \"", None), ("null", None)];
        let others = [("[1,[2]]", None), ("{\"a\":{}}", None), ("1.5", None), ("true", None), ("\"a\\u0062\"", Some("ab"))];
        for (json, expected) in texts.into_iter().chain(others) {
            assert_eq!(serde_json::from_str::<Text>(json).unwrap().as_str(), expected, "{json}");
        }
        for (json, expected) in [("3", Some(3)), ("\"3\"", Some(3)), ("\"x\"", None), ("[]", None), ("18446744073709551615", None)] {
            assert_eq!(serde_json::from_str::<Int>(json).unwrap().0, expected, "{json}");
        }
        for (json, expected) in [("true", Some(true)), ("\"False\"", Some(false)), ("1", None), ("{}", None), ("null", None)] {
            assert_eq!(serde_json::from_str::<Flag>(json).unwrap().0, expected, "{json}");
        }
        for (json, expected) in [("[{}]", true), ("[]", false), ("{}", true), ("null", false), ("\"x\"", false)] {
            assert_eq!(serde_json::from_str::<Filled>(json).unwrap().0, expected, "{json}");
        }
        for json in ["null", "7", "\"x\"", "[1]", "{}"] {
            assert_eq!(serde_json::from_str::<Object<Int>>(json).unwrap().0, Int(None), "{json}");
            assert!(serde_json::from_str::<List<Int>>(json).is_ok(), "{json}");
        }
    }

    #[test]
    fn every_way_to_write_a_time() {
        let at = 1_528_157_690_147;
        let rows = [
            ("\"2018-06-05T00:14:50.147Z\"", Some(at)),
            ("\"2018-06-05T00:14:50.147+0000\"", Some(at)),
            ("\"2018-06-04T17:14:50.147-07:00\"", Some(at)),
            ("\"2018-06-05T00:14:50Z\"", Some(at - 147)),
            ("1528157690147", Some(at)),
            ("\"2018-02-30T00:14:50.147Z\"", None),
            ("\"2018-06-05\"", None),
            ("\"yesterday\"", None),
            ("null", None),
        ];
        for (json, expected) in rows {
            assert_eq!(serde_json::from_str::<Time>(json).unwrap().0, expected, "{json}");
        }
    }

    #[test]
    fn a_text_is_cut_at_a_whole_character() {
        assert_eq!(cut(&"é".repeat(200)).len(), 256);
        assert_eq!(cut(&format!("a{}", "é".repeat(200))).len(), 255);
        assert_eq!(cut("short"), "short");
    }

    proptest! {
        #[test]
        fn the_short_way_to_read_a_time_gives_what_the_parser_gives(at in 0i64..4_102_444_800_000, whole in any::<bool>()) {
            let at = if whole { at - at % 1_000 } else { at };
            let time = Timestamp::from_millisecond(at).unwrap();
            let text = if whole { format!("{time:.0}") } else { format!("{time:.3}") };
            prop_assert_eq!(parse_time(&text), Some(at));
            prop_assert_eq!(utc_time(text.as_bytes()).unwrap_or(at), at);
        }
    }
}
