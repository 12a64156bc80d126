//! What is committed with the outputs.

use std::fmt;
use std::str::FromStr;

/// How far a partition is: committed together with the outputs and the state that contain it.
///
/// Its text stands in the metadata of Kafka's committed offset, and in the embedded log: `2:` (the version), then the four numbers in decimal,
/// with `:` between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The next input offset to read.
    pub next: i64,
    /// The partition's time: the largest timestamp of a record before `next`, in milliseconds since 1970.
    pub partition_time: i64,
    /// The oldest input offset with a material fact that no published record contains; `next` if there is none. Retention never passes it.
    pub low_water: i64,
    /// The partition's time with the event at `low_water`, so that events which are taken in again from there have the time that they had.
    pub low_water_time: i64,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "2:{}:{}:{}:{}", self.next, self.partition_time, self.low_water, self.low_water_time)
    }
}

/// A text is no position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no position: {why}")]
pub struct PositionError {
    text: String,
    why: &'static str,
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Self, PositionError> {
        let no = |why| PositionError { text: text.chars().take(80).collect(), why };
        let mut parts = text.split(':');
        if parts.next() != Some("2") {
            return Err(no("its version isn't 2"));
        }
        let mut number = || parts.next().and_then(|part| part.parse::<i64>().ok()).ok_or_else(|| no("it isn't four numbers"));
        let position = Self { next: number()?, partition_time: number()?, low_water: number()?, low_water_time: number()? };
        if position.to_string() != text {
            return Err(no("it isn't written as positions are"));
        }
        if position.next < 0 || position.low_water < 0 || position.low_water > position.next {
            return Err(no("its offsets can't be"));
        }
        Ok(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_position_comes_back_from_its_text(next in 0..=i64::MAX, partition_time: i64, behind in 0..=i64::MAX, low_water_time: i64) {
            let position = Position { next, partition_time, low_water: next - behind.min(next), low_water_time };
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }

        #[test]
        fn any_text_is_parsed_or_refused(text: String) {
            if let Ok(position) = text.parse::<Position>() {
                prop_assert_eq!(position.to_string(), text);
            }
        }
    }

    #[test]
    fn what_is_no_position() {
        assert!("2:7:1700000000000:5:1699999999000".parse::<Position>().is_ok());
        for bad in [
            "",
            "2",
            "2:7",
            "2:7:0",
            "2:7:0:5",
            "2:7:0:5:0:",
            "2:7:0:5:0:0",
            "1:7:0:5:0",
            "2:+7:0:5:0",
            "2:07:0:5:0",
            "2: 7:0:5:0",
            "2:-1:0:-1:0",
            "2:7:0:8:0",
            "2:7:0:-1:0",
            "2:9223372036854775808:0:0:0",
        ] {
            assert!(bad.parse::<Position>().is_err(), "{bad}");
        }
    }
}
