//! What is committed of a partition, and how it stands in the metadata of Kafka's committed offset.

use super::{Position, PositionError, Topic};
use std::fmt;
use std::str::FromStr;

/// Where a partition's outputs end that are committed: after the last record of each topic, as its delivery told. `None` where it isn't known.
///
/// The brokers are not asked, since one that was away for a while and believes to lead a partition tells an end from before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputEnds([Option<i64>; Topic::ALL.len()]);

impl OutputEnds {
    /// Where a topic's outputs end.
    #[must_use]
    pub fn get(&self, topic: Topic) -> Option<i64> {
        self.0[topic.index()]
    }

    /// Notes where a topic's outputs end.
    pub fn set(&mut self, topic: Topic, end: i64) {
        self.0[topic.index()] = Some(end);
    }
}

/// A position, where the outputs end that belong to it, of how many partitions, and who committed it. Its text is the position's, the ends by
/// [`Topic::index`] with commas between them, `-` for one that isn't known, and the number of partitions; where the holder says where it answers, that
/// address. Between them are spaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// How far the partition is.
    pub position: Position,
    /// Where to read the output topics up to.
    pub ends: OutputEnds,
    /// How many partitions there were: by another number each account would be in another.
    pub partitions: u32,
    /// The address under which other instances reach the one that committed this, without spaces: `http://10.0.0.7:8080`.
    pub holder: Option<String>,
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
        write!(f, " {}", self.partitions)?;
        self.holder.as_ref().map_or(Ok(()), |holder| write!(f, " {holder}"))
    }
}

impl FromStr for Committed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(' ');
        let position: Position = parts.next().unwrap_or_default().parse().map_err(|error: PositionError| error.to_string())?;
        let mut ends = OutputEnds::default();
        // What a later version adds is left alone.
        for (known, text) in ends.0.iter_mut().zip(parts.next().ok_or("it doesn't say where outputs end")?.split(',')) {
            *known = match text {
                "-" => None,
                number => Some(number.parse().map_err(|_| format!("{number:?} is no offset"))?),
            };
        }
        let partitions = parts.next().and_then(|number| number.parse().ok()).ok_or("it doesn't say of how many partitions it is one")?;
        let holder = parts.next().filter(|holder| !holder.is_empty()).map(str::to_owned);
        Ok(Self { position, ends, partitions, holder })
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
            for holder in [None, Some("http://[::1]:8080".to_owned())] {
                let committed = Committed { position, ends, partitions: 12, holder };
                assert_eq!(committed.to_string().parse(), Ok(committed));
            }
            ends.set(topic, n as i64 * 10);
        }
        assert_eq!(Committed { position, ends, partitions: 12, holder: None }.to_string(), "2:7:5:3:4 0,10,20,30,40,50 12");
        assert_eq!("2:7:5:3:4 -,-,9,-,-,-,11 12 http://a more".parse::<Committed>().unwrap().ends.get(Topic::CallVerdicts), Some(9));
        for bad in ["", "7", "2:7:5:3:4", "2:7:5:3:4 x 12", "2:7:5:3:4 1,,2 12", "2:7:5:3:4 0,1", "2:7:5:3:4 0,1 http://a"] {
            assert!(bad.parse::<Committed>().is_err(), "{bad}");
        }
    }
}
