//! What runs: each role wires the parts together. (ARCHITECTURE.md, Invariants, lists what else starts a thread.)

// The processor.
mod backend;
pub mod bring_up;
mod bring_ups;
pub mod held;
mod holders;
pub mod partition;
pub mod processor;
mod standby;

// HTTP.
pub mod api;
mod documents;
mod forward;
pub mod ingress;
mod instruments;
pub mod problem;
mod rate;
mod shared;
mod startup;
mod stream;

// What commands run.
pub mod dead_letters;
mod progress;
pub mod repartition;
pub mod replay;
pub mod service;
mod simulation;
pub mod sync;
mod terminal;
