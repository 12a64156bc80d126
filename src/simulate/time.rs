//! Times as RingCentral writes them: RFC 3339 in UTC with milliseconds.

use serde::{Serialize, Serializer};
use std::fmt;

/// Milliseconds since 1970 UTC, written as `2026-01-05T08:00:00.000Z`.
///
/// Written by hand because a generated file holds three of them per notification, and a general formatter took longer than
/// all the rest of a notification.
#[derive(Clone, Copy)]
pub(super) struct Rfc3339(pub i64);

impl Rfc3339 {
    fn bytes(self) -> [u8; 24] {
        let mut out = *b"0000-00-00T00:00:00.000Z";
        let days = self.0.div_euclid(86_400_000);
        let millis = self.0.rem_euclid(86_400_000);
        let (year, month, day) = civil(days);
        for (value, at, width) in [
            (year, 0, 4),
            (month, 5, 2),
            (day, 8, 2),
            (millis / 3_600_000, 11, 2),
            (millis / 60_000 % 60, 14, 2),
            (millis / 1_000 % 60, 17, 2),
            (millis % 1_000, 20, 3),
        ] {
            let mut rest = value;
            for place in out[at..at + width].iter_mut().rev() {
                *place = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        out
    }
}

/// The Gregorian date of a count of days since 1970-01-01 (Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year.rem_euclid(10_000), month, day)
}

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.bytes()).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(std::str::from_utf8(&self.bytes()).map_err(serde::ser::Error::custom)?)
    }
}

/// Reads a time of a request: RFC 3339 with `Z`, `+0000` or an offset, or a date.
pub(super) fn parse(text: &str) -> Option<i64> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_millisecond());
    }
    let date: jiff::civil::Date = text.parse().ok()?;
    format!("{date}T00:00:00Z").parse::<jiff::Timestamp>().ok().map(|time| time.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_jiff_reads() {
        for millis in [0, 951_782_400_000, 1_709_164_800_123, 1_767_600_000_000, 4_102_444_799_999, -1] {
            assert_eq!(parse(&Rfc3339(millis).to_string()), Some(millis), "{millis}");
        }
        assert_eq!(Rfc3339(1_767_600_000_007).to_string(), "2026-01-05T08:00:00.007Z");
    }

    #[test]
    fn reads_the_forms_of_requests() {
        assert_eq!(parse("2026-01-05"), Some(1_767_571_200_000));
        assert_eq!(parse("2026-01-05T08:00:00+00:00"), Some(1_767_600_000_000));
        assert_eq!(parse("yesterday"), None);
    }
}
