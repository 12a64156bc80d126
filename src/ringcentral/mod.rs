//! The vendor. Only this module knows RingCentral's JSON.

pub mod documents;
