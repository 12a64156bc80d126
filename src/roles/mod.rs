//! What runs: each role wires the parts together. Only here (and in `cli`) are threads, tasks and servers started.

pub mod bring_up;
pub mod partition;
pub mod processor;
