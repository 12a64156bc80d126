//! What stands in the metadata of a committed offset.

use crate::log::{Position, Topic};
use std::fmt;
use std::str::FromStr;

/// Where a partition's outputs end that are committed: after the last record of each topic, as its delivery told. `None` where it isn't known.
///
/// The brokers are not asked, since one that was away for a while and believes to lead a partition tells an end from before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct OutputEnds([Option<i64>; Topic::ALL.len()]);

impl OutputEnds {
    pub(super) fn get(&self, topic: Topic) -> Option<i64> {
        self.0[topic.index()]
    }

    pub(super) fn set(&mut self, topic: Topic, end: i64) {
        self.0[topic.index()] = Some(end);
    }
}

/// A position, and where the outputs end that belong to it. Its text is the position's, a space, and the ends by [`Topic::index`] with commas between
/// them, `-` for one that isn't known. The position alone, as earlier versions wrote it, knows none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Committed {
    pub(super) position: Position,
    pub(super) ends: OutputEnds,
}

impl fmt::Display for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.position)?;
        for (n, end) in self.ends.0.iter().enumerate() {
            f.write_str(if n == 0 { " " } else { "," })?;
            match end {
                Some(end) => write!(f, "{end}")?,
                None => f.write_str("-")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Committed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(' ');
        let position: Position = parts.next().unwrap_or_default().parse().map_err(|error: crate::log::PositionError| error.to_string())?;
        let mut ends = OutputEnds::default();
        if let Some(list) = parts.next() {
            // What a later version adds is left alone.
            for (known, text) in ends.0.iter_mut().zip(list.split(',')) {
                *known = match text {
                    "-" => None,
                    number => Some(number.parse().map_err(|_| format!("{number:?} is no offset"))?),
                };
            }
        }
        Ok(Self { position, ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_committed_comes_back_from_its_text() {
        let position = Position { next: 7, partition_time: 5, low_water: 3, low_water_time: 4 };
        let mut ends = OutputEnds::default();
        for (n, topic) in Topic::ALL.into_iter().enumerate() {
            let committed = Committed { position, ends };
            assert_eq!(committed.to_string().parse(), Ok(committed));
            ends.set(topic, n as i64 * 10);
        }
        assert_eq!(Committed { position, ends }.to_string(), "2:7:5:3:4 0,10,20,30,40,50");
        assert_eq!("2:7:5:3:4".parse(), Ok(Committed { position, ends: OutputEnds::default() }), "as it was written before");
        assert_eq!("2:7:5:3:4 -,-,9,-,-,-,11 more".parse::<Committed>().unwrap().ends.get(Topic::CallVerdicts), Some(9));
        for bad in ["", "7", "2:7:5:3:4 x", "2:7:5:3:4 1,,2"] {
            assert!(bad.parse::<Committed>().is_err(), "{bad}");
        }
    }
}
