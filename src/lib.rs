//! callsieve: one explained verdict, internal or external, for each of a company's RingCentral calls.
//!
//! The layers, each using only those below it: `cli`, `roles`, `registry`, (`ringcentral`, `simulate`, `log`, `state`), `judge`, `event`.
//! ARCHITECTURE.md tells the whole.

pub mod cli;
pub mod event;
pub mod judge;
pub mod log;
pub mod registry;
pub mod ringcentral;
pub mod roles;
pub mod simulate;
pub mod state;
#[cfg(waits_replaced)]
mod waits;

/// A tenth more legs a second than with glibc's (docs/performance.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
