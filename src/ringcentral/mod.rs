//! The vendor. Only this module knows RingCentral's JSON.

pub mod client;
pub mod documents;
