//! The core: from facts about calls and numbers to verdicts. Pure: no clock, no I/O, no randomness, no global state.

pub mod number;
