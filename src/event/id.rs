//! Identifiers and numbers, each a type of its own, made only by parsing.
//!
//! Their texts are bounded and free of control characters, so that they can stand in keys as they are.

use compact_str::CompactString;
use serde::de::{Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

/// Why a text is no identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not usable: {why}")]
pub struct IdError {
    what: &'static str,
    text: String,
    why: &'static str,
}

impl IdError {
    fn new(what: &'static str, text: &str, why: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), why }
    }

    /// What is wrong with the text.
    #[must_use]
    pub fn why(&self) -> &'static str {
        self.why
    }
}

/// A text that is usable as an id of the kind `T`, where it stands. Made only by checking.
#[derive(Debug)]
pub struct IdRef<'a, T>(&'a str, PhantomData<T>);

impl<'a, T> IdRef<'a, T> {
    /// Its text.
    #[must_use]
    pub fn as_str(self) -> &'a str {
        self.0
    }
}

// Not derived: that would ask the same of `T`.
impl<T> Clone for IdRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for IdRef<'_, T> {}

impl<T> PartialEq for IdRef<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for IdRef<'_, T> {}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident($text:ty), $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name($text);

        impl $name {
            /// Checks a text, and copies nothing.
            ///
            /// # Errors
            /// If it is none; says why.
            pub fn check(text: &str) -> Result<IdRef<'_, Self>, IdError> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                match check(text) {
                    Ok(()) => Ok(IdRef(text, PhantomData)),
                    Err(why) => Err(IdError::new($what, text, why)),
                }
            }

            /// Parses it; the error says what is wrong with the text.
            ///
            /// # Errors
            /// As [`Self::check`].
            pub fn parse(text: &str) -> Result<Self, IdError> {
                Self::check(text).map(|id| id.to_id())
            }

            /// It, where it stands.
            #[must_use]
            pub fn as_ref(&self) -> IdRef<'_, Self> {
                IdRef(&self.0, PhantomData)
            }

            /// Its text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl IdRef<'_, $name> {
            /// It by itself.
            #[must_use]
            pub fn to_id(self) -> $name {
                $name(self.0.into())
            }
        }

        impl TryFrom<CompactString> for $name {
            type Error = IdError;
            fn try_from(text: CompactString) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for CompactString {
            fn from(id: $name) -> Self {
                CompactString::new(&*id.0)
            }
        }

        // Not derived from a conversion: that would copy the text each time.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        // Not derived either: a text that is borrowed from the input is checked where it stands.
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Parsed;
                impl Visitor<'_> for Parsed {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("a text that is usable as ", $what))
                    }
                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Parsed)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

fn bounded(text: &str, most: usize) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > most {
        return Err("it is too long");
    }
    // Without an early end: so it is done many bytes at once.
    if text.bytes().fold(false, |found, b| found | (b < 0x20) | (b == 0x7f)) {
        return Err("it holds a control character");
    }
    Ok(())
}

text_id!(
    /// A RingCentral account id: decimal digits in practice. 1 to 64 letters, digits, `~`, `_`, `-` or `.`;
    /// so it never holds the `/` that separates the parts of a topic key.
    AccountId(CompactString),
    "account id",
    |text| {
        bounded(text, 64)?;
        if text.bytes().all(|b| b.is_ascii_alphanumeric() || b"~_-.".contains(&b)) {
            Ok(())
        } else {
            Err("an account id has only letters, digits and ~ _ - .")
        }
    }
);

text_id!(
    /// A `telephonySessionId`, opaque, or `legacy:` and a legacy session id (design §1, Sessions). 1 to 256 bytes.
    ///
    /// Longer than fits in place, and copied into keys, rows and indices with each event: so a copy shares the text.
    SessionId(Arc<str>),
    "telephony session id",
    |text| bounded(text, 256)
);

text_id!(
    /// A party id, or `log:`, a call-log record's id, `:` and the leg's position. 1 to 320 bytes. A copy shares the text.
    LegId(Arc<str>),
    "leg id",
    |text| bounded(text, 320)
);

text_id!(
    /// A phone number in E.164 form: `+`, then 7 to 15 digits, the first of them not 0. Made only by parsing.
    E164(CompactString),
    "E.164 number",
    |text| {
        let digits = text.strip_prefix('+').ok_or("it lacks the plus")?.as_bytes();
        if (7..=15).contains(&digits.len()) && digits[0] != b'0' && digits.iter().all(u8::is_ascii_digit) {
            Ok(())
        } else {
            Err("E.164 is a plus and 7 to 15 digits")
        }
    }
);

/// Starts the id of a session that only its legacy id names.
pub const LEGACY: &str = "legacy:";

impl SessionId {
    /// The session that a legacy id stands for while no other is known.
    ///
    /// # Errors
    /// If it is too long, or holds a control character.
    pub fn legacy(legacy_session_id: &str) -> Result<Self, IdError> {
        Self::parse(&format!("{LEGACY}{legacy_session_id}"))
    }

    /// The legacy id, for a session that has no other name.
    #[must_use]
    pub fn as_legacy(&self) -> Option<&str> {
        self.as_ref().as_legacy()
    }
}

impl<'a> IdRef<'a, SessionId> {
    /// The same as [`SessionId::as_legacy`].
    #[must_use]
    pub fn as_legacy(self) -> Option<&'a str> {
        self.0.strip_prefix(LEGACY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_account_id() {
        for good in ["809646016", "~", "a.b-c_d"] {
            assert_eq!(AccountId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a/b", "a b", "a\0", &"9".repeat(65), "ü"] {
            assert!(AccountId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_a_session_id() {
        for good in ["s-a0d17930c96bdz18b67acb764z37759330000", "Y3Mx/NzE4=", "legacy:402936341008"] {
            assert_eq!(SessionId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "s\0", "s\n", &"s".repeat(257)] {
            assert!(SessionId::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(SessionId::legacy("77").unwrap().as_legacy(), Some("77"));
        assert_eq!(SessionId::parse("s-1").unwrap().as_legacy(), None);
    }

    #[test]
    fn what_is_e164() {
        for good in ["+14083388064", "+441161008581", "+6442001092"] {
            assert!(E164::parse(good).is_ok(), "{good}");
        }
        for bad in ["14083388064", "+0123456789", "+123", "+1234567890123456", "+1408338806X", ""] {
            assert!(E164::parse(bad).is_err(), "{bad}");
        }
    }
}
