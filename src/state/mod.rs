//! The state of one partition: a fold of its log, in RocksDB.

pub mod database;
