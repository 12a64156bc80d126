//! What runs: each role wires the parts together. Only here (and in `cli`) are threads, tasks and servers started.

pub mod api;
mod backend;
pub mod bring_up;
mod bring_ups;
pub mod dead_letters;
mod documents;
mod early;
mod elsewhere;
pub mod held;
mod holders;
pub mod ingress;
mod instruments;
pub mod partition;
pub mod problem;
pub mod processor;
mod progress;
mod rate;
pub mod repartition;
pub mod replay;
pub mod service;
mod shared;
mod simulation;
mod standby;
mod stream;
pub mod sync;
mod terminal;
