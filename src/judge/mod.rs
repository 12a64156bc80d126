//! The core: from facts about calls and numbers to verdicts.
//!
//! [`step`] is a pure function of the state's [`View`] and one record: no clock, no I/O, no randomness, no global state. It returns
//! [`Changes`] and [`Output`]s as values. The rules R1–R10 are those of the design; each has its tests here.

mod call;
mod endpoint;
pub mod number;
mod step;
mod verdict;
mod view;

pub use call::MOST_LEGS;
pub use step::*;
pub use verdict::{Differ, RULES, difference, is_waiting};
pub use view::*;

#[cfg(test)]
mod memory;
#[cfg(test)]
mod tests;
