//! The state of one partition: a fold of its log, in RocksDB.
//!
//! Knows no log but positions. [`tables`] has the rows, [`keys`] their keys, [`Store`] the worker's view with the batch under way.

mod bulk;
pub mod database;
pub mod keys;
mod store;
pub mod tables;

pub use store::Store;
pub use tables::TableError;

#[cfg(test)]
mod tests;
