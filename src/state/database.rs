//! The RocksDB of one partition: opening it, its column families, its errors.
//!
//! One database holds everything of a partition, so that what belongs together is written in one batch. The state's own
//! column families are [`Family`]; whoever shares the database names further ones when opening it ([`Extra`]). What stands
//! in a family, and how its keys are made, is no business of this file.

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB, DBCompressionType, DBPinnableSlice,
    DBRawIterator, DBRecoveryMode, ErrorKind, FlushOptions, IngestExternalFileOptions, LogLevel, Options, ReadOptions, SstFileWriter, WriteBatch,
    WriteBufferManager, WriteOptions,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, TryLockError};
use std::time::Duration;

/// Why a database didn't do what it was asked. Every error names the operation and the directory.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DatabaseError {
    /// Another process, or another part of this one, has it open.
    #[error(
        "{}: another process has this data directory open. Stop the callsieve that uses it, or give this one a --data-dir of its own \
         (a lock left behind by a process that died doesn't count)",
        path.display()
    )]
    Locked {
        /// The database's directory.
        path: PathBuf,
    },
    /// The disk, or the quota, is full.
    #[error("{operation} {}: no space left on the device; free some, then start again: {source}", path.display())]
    DiskFull {
        /// What was tried.
        operation: &'static str,
        /// The database's directory.
        path: PathBuf,
        /// RocksDB's words.
        source: rocksdb::Error,
    },
    /// Its files could not be merged into larger ones, which takes room for them beside the old ones.
    #[error("merging the files in {}: most likely there was no space left on the device for them; free some, then start again", path.display())]
    Unmerged {
        /// The database's directory.
        path: PathBuf,
    },
    /// What is on disk isn't what was written, or the disk doesn't give it.
    #[error("{operation} {}: the data on disk is corrupt, or can't be read; look after the disk: {source}", path.display())]
    Corrupt {
        /// What was tried.
        operation: &'static str,
        /// The database's directory.
        path: PathBuf,
        /// RocksDB's words.
        source: rocksdb::Error,
    },
    /// It holds column families that this run doesn't know.
    #[error(
        "{}: it holds {families:?}, which this run doesn't use: the directory belongs to another kind of log or to a newer callsieve; \
         give another --data-dir",
        path.display()
    )]
    UnknownFamilies {
        /// The database's directory.
        path: PathBuf,
        /// The families' names.
        families: Vec<String>,
    },
    /// The directory can't be made.
    #[error("creating {}: {why}", path.display())]
    Directory {
        /// The database's directory.
        path: PathBuf,
        /// The system's words.
        why: String,
    },
    /// Anything else that RocksDB refuses.
    #[error("{operation} {}: {source}", path.display())]
    Other {
        /// What was tried.
        operation: &'static str,
        /// The database's directory.
        path: PathBuf,
        /// RocksDB's words.
        source: rocksdb::Error,
    },
}

impl DatabaseError {
    /// Sorts RocksDB's error by what a person can do about it. `operation` is a participle: "writing", "opening".
    #[must_use]
    pub fn new(operation: &'static str, path: &Path, source: rocksdb::Error) -> Self {
        let path = path.to_path_buf();
        match Fault::of(operation, &source.kind(), source.as_ref()) {
            Fault::Corrupt => Self::Corrupt { operation, path, source },
            Fault::Full => Self::DiskFull { operation, path, source },
            Fault::Locked => Self::Locked { path },
            Fault::Other => Self::Other { operation, path, source },
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Corrupt,
    Full,
    Locked,
    Other,
}

impl Fault {
    /// RocksDB has no kind of its own for a full disk, a lock and a bad block; the words are those of the operating system.
    fn of(operation: &str, kind: &ErrorKind, words: &str) -> Self {
        match kind {
            ErrorKind::Corruption => Self::Corrupt,
            ErrorKind::IOError if words.contains("No space left") || words.contains("quota exceeded") => Self::Full,
            ErrorKind::IOError if words.contains("While lock file") || words.contains("lock hold by current process") => Self::Locked,
            // EIO of what should be there. One that can't be written says nothing of that.
            ErrorKind::IOError if operation != "writing" && words.contains("Input/output error") => Self::Corrupt,
            _ => Self::Other,
        }
    }
}

/// The state's column families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// The copy's position with the partition's time, and where to read the output topics from.
    Meta,
    /// Settings and gates.
    Accounts,
    /// The snapshots.
    Numbers,
    /// Sessions with facts that no verdict contains, and faxes.
    Open,
    /// Calls that have one.
    Judged,
    /// Account and unknown number → judged calls.
    Waiting,
    /// Links between sessions, in reverse, and legacy ids.
    Links,
    /// Judged calls by the time at which they ended.
    Retention,
    /// Work that is left, and sessions that wait for the account's snapshot or were judged without it.
    Due,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 9] =
        [Self::Meta, Self::Accounts, Self::Numbers, Self::Open, Self::Judged, Self::Waiting, Self::Links, Self::Retention, Self::Due];

    /// Its name on disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Accounts => "accounts",
            Self::Numbers => "numbers",
            Self::Open => "open",
            Self::Judged => "judged",
            Self::Waiting => "waiting",
            Self::Links => "links",
            Self::Retention => "retention",
            Self::Due => "due",
        }
    }

    const fn access(self) -> Access {
        match self {
            Self::Meta | Self::Accounts | Self::Numbers | Self::Open | Self::Judged | Self::Waiting | Self::Links => Access::Points,
            Self::Retention | Self::Due => Access::Ranges,
        }
    }
}

/// How a column family is mostly read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// By single keys, often ones that aren't there: a bloom filter of 10 bits per key (one false answer in a hundred).
    Points,
    /// By short ranges.
    Ranges,
    /// Written and read in key order, like a file: large blocks, no filter.
    Log,
}

/// A column family that is no part of the state.
#[derive(Debug, Clone, Copy)]
pub struct Extra {
    /// Its name on disk.
    pub name: &'static str,
    /// How it is read.
    pub access: Access,
}

/// Sizes, shared by all databases of an [`Engine`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseOptions {
    /// Bytes for blocks read from disk, their indices and filters included.
    pub cache_bytes: usize,
    /// Bytes for what is written and not yet in files. When they are used up, the largest buffer is written out.
    pub write_buffer_bytes: usize,
    /// Threads for writing buffers out and compacting, for all databases together.
    pub background_jobs: u16,
    /// Whether writes go to a write-ahead log. Without one (state that is brought up from Kafka), a crash loses what was
    /// not yet in files: always a whole number of batches, the newest ones, in all column families alike.
    pub write_ahead_log: bool,
}

impl Default for DatabaseOptions {
    /// 128 MiB of cache, 128 MiB of write buffers, two background jobs, with a write-ahead log.
    fn default() -> Self {
        Self { cache_bytes: 128 << 20, write_buffer_bytes: 128 << 20, background_jobs: 2, write_ahead_log: true }
    }
}

/// How long the write-ahead log may get before the oldest buffers are written out. It is what opening has to replay:
/// 48 MiB take about a quarter of a second.
const MAX_WAL_BYTES: u64 = 48 << 20;

/// What databases of one process share: cache, write buffers, background threads.
#[derive(Clone)]
pub struct Engine {
    /// Options for the database; they own the write-buffer manager, so a clone counts against the same budget.
    base: Options,
    cache: Cache,
    buffer_bytes: usize,
    write_ahead_log: bool,
    /// Held while a database's files are merged.
    merging: Arc<Mutex<()>>,
}

impl Engine {
    /// Allocates nothing yet; memory is taken as it is used.
    #[must_use]
    pub fn new(options: &DatabaseOptions) -> Self {
        let mut base = Options::default();
        base.create_if_missing(true);
        base.create_missing_column_families(true);
        // One worker writes each database, so a plain insertion will do.
        base.set_allow_concurrent_memtable_write(false);
        base.set_max_background_jobs(i32::from(options.background_jobs.max(1)));
        // Stalling is left to RocksDB's own triggers: one partition that writes much must not stop the others.
        base.set_write_buffer_manager(&WriteBufferManager::new_write_buffer_manager(options.write_buffer_bytes, false));
        base.set_max_total_wal_size(MAX_WAL_BYTES);
        // After a power cut the end of the write-ahead log may be torn. What was synced is before it, and is kept.
        base.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        base.set_track_and_verify_wals_in_manifest(true);
        // With files opened as they are needed, opening a database doesn't get slower with its size.
        base.set_max_open_files(256);
        base.set_skip_stats_update_on_db_open(true);
        // By itself a database would start up to 15 threads for each of its families to open their few files, which takes longer than opening them.
        base.set_max_file_opening_threads(1);
        // Spread the writing out of large files, so that a sync of the write-ahead log doesn't wait behind it.
        base.set_bytes_per_sync(1 << 20);
        base.set_wal_bytes_per_sync(512 << 10);
        base.set_log_level(LogLevel::Warn);
        base.set_keep_log_file_num(2);
        base.set_max_log_file_size(4 << 20);
        base.set_stats_dump_period_sec(0);
        base.set_stats_persist_period_sec(0);
        // Without a write-ahead log only a flush of all families together leaves state and position consistent.
        base.set_atomic_flush(!options.write_ahead_log);
        Self {
            base,
            cache: Cache::new_lru_cache(options.cache_bytes),
            buffer_bytes: (options.write_buffer_bytes / 4).clamp(1 << 20, 64 << 20),
            write_ahead_log: options.write_ahead_log,
            merging: Arc::default(),
        }
    }

    fn family_options(&self, access: Access) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        // In the cache, indices and filters count against its budget; those of the newest files stay.
        table.set_cache_index_and_filter_blocks(true);
        table.set_cache_index_and_filter_blocks_with_high_priority(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        // In parts: the filter of a file with millions of short keys is larger than a shard of the cache, and would be read anew for each key.
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_metadata_block_size(16 << 10);
        table.set_pin_top_level_index_and_filter(true);
        table.set_format_version(5);
        match access {
            Access::Points => {
                table.set_block_size(8 << 10);
                table.set_bloom_filter(10.0, false);
            }
            Access::Ranges => table.set_block_size(16 << 10),
            Access::Log => table.set_block_size(64 << 10),
        }
        let mut options = Options::default();
        options.set_block_based_table_factory(&table);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_write_buffer_size(self.buffer_bytes);
        options.set_max_write_buffer_number(3);
        // Of all families of all partitions: the default of a megabyte each would be memory that holds nothing.
        options.set_arena_block_size(128 << 10);
        options.set_level_compaction_dynamic_level_bytes(true);
        if access == Access::Points {
            // Every call begins with reads of keys that aren't there: a filter answers them without a walk through the buffer. It is made with each
            // buffer, and counts against the budget: 64 KiB are 10 bits a key for 50,000, as many verdicts as a full buffer has.
            options.set_memtable_prefix_bloom_ratio(0.002);
            options.set_memtable_whole_key_filtering(true);
        }
        if access == Access::Log {
            // Keys only grow, so files don't overlap and move down without being rewritten; large ones are dropped whole.
            options.set_target_file_size_base(64 << 20);
        }
        options
    }
}

/// How often it is looked whether a merge is done, or cut off.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// In the directory of a database of which a read or a write found that it is corrupt.
const MARK: &str = "CORRUPT";

/// An open database. Closed when the last handle is dropped.
pub struct Database {
    db: DB,
    /// For reads of single keys; making them anew each time would cost as much as a hit in memory.
    reads: ReadOptions,
    path: PathBuf,
    engine: Engine,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Database({})", self.path.display())
    }
}

impl Database {
    /// Opens the database in `path`, making the directory and the column families that it lacks.
    ///
    /// # Errors
    /// If the directory can't be made or read, is in use, is corrupt, or has column families that aren't named here.
    pub fn open(path: &Path, engine: &Engine, extra: &[Extra]) -> Result<Self, DatabaseError> {
        std::fs::create_dir_all(path).map_err(|e| DatabaseError::Directory { path: path.to_path_buf(), why: e.to_string() })?;
        let known: Vec<(&str, Access)> = [("default", Access::Ranges)]
            .into_iter()
            .chain(Family::ALL.into_iter().map(|f| (f.name(), f.access())))
            .chain(extra.iter().map(|e| (e.name, e.access)))
            .collect();
        refuse_unknown(path, &engine.base, &known)?;
        let descriptors = known.iter().map(|(name, access)| ColumnFamilyDescriptor::new(*name, engine.family_options(*access)));
        let db = DB::open_cf_descriptors(&engine.base, path, descriptors).map_err(|e| DatabaseError::new("opening", path, e))?;
        Ok(Self { db, reads: ReadOptions::default(), path: path.to_path_buf(), engine: engine.clone() })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what is written survives the end of the process at once.
    #[must_use]
    pub fn has_write_ahead_log(&self) -> bool {
        self.engine.write_ahead_log
    }

    /// RocksDB itself, for what isn't offered here; errors become [`DatabaseError`] by [`Database::error`].
    #[must_use]
    pub fn raw(&self) -> &DB {
        &self.db
    }

    /// The handle of a column family of the state. It is looked up by name: once per batch, not once per key.
    #[must_use]
    pub fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("opening a database makes every family of the state")
    }

    /// The handle of an extra column family; `None` when it wasn't named at opening.
    #[must_use]
    pub fn extra(&self, name: &str) -> Option<&ColumnFamily> {
        self.db.cf_handle(name)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// If the disk can't be read, or what is on it is corrupt.
    pub fn get(&self, family: &ColumnFamily, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, DatabaseError> {
        self.db.get_pinned_cf_opt(family, key, &self.reads).map_err(|e| self.error("reading", e))
    }

    /// An iterator, not yet positioned. When it ends, ask it for its status, by [`Database::finished`].
    #[must_use]
    pub fn iterate(&self, family: &ColumnFamily, options: ReadOptions) -> DBRawIterator<'_> {
        self.db.raw_iterator_cf_opt(family, options)
    }

    /// An iterator that isn't valid any more has come to its end, or failed: this tells which.
    ///
    /// # Errors
    /// If it failed, as [`Database::get`] does.
    pub fn finished(&self, iterator: &DBRawIterator<'_>) -> Result<(), DatabaseError> {
        iterator.status().map_err(|e| self.error("reading", e))
    }

    /// Writes a batch, whole or not at all. It survives the end of the process (where there is a write-ahead log), not a power cut.
    ///
    /// # Errors
    /// If the disk is full, or can't be written.
    pub fn write(&self, batch: WriteBatch) -> Result<(), DatabaseError> {
        let mut options = WriteOptions::default();
        options.disable_wal(!self.engine.write_ahead_log);
        self.db.write_opt(batch, &options).map_err(|e| self.error("writing", e))
    }

    /// Writes a batch, and returns when it, and all written before it, survives a power cut too. Without a write-ahead log
    /// there is nothing to sync, and it is like [`Database::write`].
    ///
    /// # Errors
    /// As [`Database::write`].
    pub fn write_synced(&self, batch: WriteBatch) -> Result<(), DatabaseError> {
        let mut options = WriteOptions::default();
        options.set_sync(self.engine.write_ahead_log);
        options.disable_wal(!self.engine.write_ahead_log);
        self.db.write_opt(batch, &options).map_err(|e| self.error("writing", e))
    }

    /// Adds rows as a file of their own, past the write buffers: whole or not at all, and durable at once. They come in key order, each key once. For
    /// many rows at once, of which few have been written by [`Database::write`] since the last time: those would have to go to a file before. They
    /// aren't compressed, since merging does that.
    ///
    /// # Errors
    /// If the disk is full or can't be written, or the rows aren't in key order.
    pub fn ingest<'a>(&self, family: Family, rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<(), DatabaseError> {
        let mut rows = rows.peekable();
        if rows.peek().is_none() {
            return Ok(());
        }
        let failed = |e| self.error("writing", e);
        let path = self.path.join(format!("restored.{}", family.name()));
        let mut options = self.engine.family_options(family.access());
        options.set_compression_type(DBCompressionType::None);
        // One that a crash has left may also be a file of the database: it must not be written over.
        let _ = std::fs::remove_file(&path);
        let mut file = SstFileWriter::create(&options);
        file.open(&path).map_err(failed)?;
        for (key, value) in rows {
            file.put(key, value).map_err(failed)?;
        }
        file.finish().map_err(failed)?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        self.db.ingest_external_file_cf_opts(self.family(family), &options, vec![path]).map_err(failed)
    }

    /// Merges all files into larger ones, and waits for that. Whether it came to something, [`Database::unmerged_files`] tells. Returns false if it
    /// was cut off: then nothing is merged or written out any more until the database is opened again.
    pub fn merge(&self, is_cancelled: &dyn Fn() -> bool) -> bool {
        // One database at a time: one that waits for RocksDB's threads couldn't be cut off.
        let _merging = loop {
            match self.engine.merging.try_lock() {
                Err(TryLockError::WouldBlock) if is_cancelled() => return false,
                Err(TryLockError::WouldBlock) => std::thread::sleep(LOOK_EVERY),
                Ok(merging) => break merging,
                Err(TryLockError::Poisoned(merging)) => break merging.into_inner(),
            }
        };
        let mut options = CompactOptions::default();
        // Beside RocksDB's own merging, where that is on.
        options.set_exclusive_manual_compaction(false);
        std::thread::scope(|scope| {
            let merging = scope.spawn(|| {
                for family in Family::ALL {
                    self.db.compact_range_cf_opt(self.family(family), None::<&[u8]>, None::<&[u8]>, &options);
                }
            });
            loop {
                if is_cancelled() {
                    self.db.cancel_all_background_work(false);
                    return false;
                }
                if merging.is_finished() {
                    return true;
                }
                std::thread::sleep(LOOK_EVERY);
            }
        })
    }

    /// How many files a family has at most that aren't merged yet.
    ///
    /// # Errors
    /// If RocksDB doesn't say.
    pub fn unmerged_files(&self) -> Result<u64, DatabaseError> {
        let mut most = 0;
        for family in Family::ALL {
            let files = self.db.property_int_value_cf(self.family(family), "rocksdb.num-files-at-level0").map_err(|e| self.error("reading", e))?;
            most = most.max(files.unwrap_or(0));
        }
        Ok(most)
    }

    /// Whether files are merged into larger ones as they come.
    ///
    /// # Errors
    /// If RocksDB doesn't take the setting.
    pub fn set_merging(&self, is_on: bool) -> Result<(), DatabaseError> {
        for family in Family::ALL {
            let setting = [("disable_auto_compactions", if is_on { "false" } else { "true" })];
            self.db.set_options_cf(self.family(family), &setting).map_err(|e| self.error("setting", e))?;
        }
        Ok(())
    }

    /// Writes out what is in the write buffers, all families together.
    ///
    /// # Errors
    /// As [`Database::write`].
    pub fn flush(&self) -> Result<(), DatabaseError> {
        self.db
            .flush_cfs_opt(&Family::ALL.map(|family| self.family(family)).each_ref(), &FlushOptions::default())
            .map_err(|e| self.error("writing", e))
    }

    /// RocksDB's error with this database's path. Of one that is corrupt a mark stays in its directory.
    #[must_use]
    pub fn error(&self, operation: &'static str, source: rocksdb::Error) -> DatabaseError {
        let error = DatabaseError::new(operation, &self.path, source);
        if matches!(error, DatabaseError::Corrupt { .. }) {
            // Whoever finds it next finds the same.
            let _ = std::fs::write(self.path.join(MARK), format!("{error}\n"));
        }
        error
    }

    /// Whether the database in `path` was found corrupt once.
    #[must_use]
    pub fn is_marked_corrupt(path: &Path) -> bool {
        path.join(MARK).exists()
    }
}

/// RocksDB opens a database only with all its column families; its own words for one too many don't say what to do.
fn refuse_unknown(path: &Path, options: &Options, known: &[(&str, Access)]) -> Result<(), DatabaseError> {
    if !path.join("CURRENT").exists() {
        return Ok(());
    }
    let present = DB::list_cf(options, path).map_err(|e| DatabaseError::new("opening", path, e))?;
    let families: Vec<String> = present.into_iter().filter(|name| !known.iter().any(|(k, _)| k == name)).collect();
    if families.is_empty() { Ok(()) } else { Err(DatabaseError::UnknownFamilies { path: path.to_path_buf(), families }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(write_ahead_log: bool) -> Engine {
        Engine::new(&DatabaseOptions { write_ahead_log, ..DatabaseOptions::default() })
    }

    #[test]
    fn what_was_written_is_there_after_opening_again() {
        for write_ahead_log in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let engine = engine(write_ahead_log);
            for round in 0u8..3 {
                let db = Database::open(dir.path(), &engine, &[]).unwrap();
                for family in Family::ALL {
                    let cf = db.family(family);
                    assert_eq!(db.get(cf, b"k").unwrap().map(|v| v.to_vec()), round.checked_sub(1).map(|r| vec![r]), "{family:?}");
                }
                let mut batch = WriteBatch::default();
                for family in Family::ALL {
                    batch.put_cf(db.family(family), b"k", [round]);
                }
                db.write(batch).unwrap();
            }
        }
    }

    const CHILD_DIR: &str = "CALLSIEVE_TEST_DATABASE_DIR";

    fn engine_that_flushes_often() -> Engine {
        Engine::new(&DatabaseOptions { write_buffer_bytes: 2 << 20, write_ahead_log: false, ..DatabaseOptions::default() })
    }

    fn count(db: &Database, family: Family) -> Option<u64> {
        db.get(db.family(family), b"count").unwrap().map(|v| u64::from_be_bytes(v.as_ref().try_into().unwrap()))
    }

    /// Runs in a process of its own, which the test after it kills.
    #[test]
    #[ignore = "the child of without_a_write_ahead_log_a_kill_leaves_whole_batches"]
    fn child_that_writes_until_killed() {
        let Ok(dir) = std::env::var(CHILD_DIR) else { return };
        let db = Database::open(Path::new(&dir), &engine_that_flushes_often(), &[]).unwrap();
        let began = count(&db, Family::Meta).unwrap_or(0);
        for n in began + 1.. {
            let mut batch = WriteBatch::default();
            // The families fill at different rates, so each would be written out at its own time.
            batch.put_cf(db.family(Family::Meta), b"count", n.to_be_bytes());
            batch.put_cf(db.family(Family::Judged), b"count", n.to_be_bytes());
            batch.put_cf(db.family(Family::Judged), n.to_be_bytes(), vec![7; 2_000]);
            db.write(batch).unwrap();
            if n == began + 5_000 {
                println!("enough");
            }
        }
    }

    #[test]
    fn without_a_write_ahead_log_a_kill_leaves_whole_batches() {
        let dir = tempfile::tempdir().unwrap();
        let mut before = None;
        for _ in 0..3 {
            let mut child = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "state::database::tests::child_that_writes_until_killed", "--ignored", "--nocapture"])
                .env(CHILD_DIR, dir.path())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
            let enough = lines.map_while(Result::ok).any(|line| line.ends_with("enough"));
            // On Unix this is SIGKILL.
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(enough, "the child didn't run");
            let db = Database::open(dir.path(), &engine_that_flushes_often(), &[]).unwrap();
            let now = count(&db, Family::Meta);
            assert!(now > before, "nothing of 10 MB was written out: {now:?}");
            assert_eq!(now, count(&db, Family::Judged), "part of a batch");
            before = now;
        }
    }

    #[test]
    fn a_second_opener_is_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(true);
        let _first = Database::open(dir.path(), &engine, &[]).unwrap();
        let error = Database::open(dir.path(), &engine, &[]).unwrap_err();
        assert!(matches!(error, DatabaseError::Locked { .. }), "{error:?}");
        assert!(error.to_string().contains("--data-dir"), "{error}");
        assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
    }

    #[test]
    fn a_directory_of_another_kind_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(true);
        drop(Database::open(dir.path(), &engine, &[Extra { name: "log.events", access: Access::Log }]).unwrap());
        let error = Database::open(dir.path(), &engine, &[]).unwrap_err();
        assert!(error.to_string().contains("log.events"), "{error}");
    }

    #[test]
    fn corruption_is_called_so() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(true);
        drop(Database::open(dir.path(), &engine, &[]).unwrap());
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST") {
                std::fs::write(path, b"not a manifest at all, not a manifest at all").unwrap();
            }
        }
        let error = Database::open(dir.path(), &engine, &[]).unwrap_err();
        assert!(matches!(error, DatabaseError::Corrupt { operation: "opening", .. }), "{error:?}");
    }

    #[test]
    fn faults_are_told_apart_by_rocksdbs_words() {
        for (operation, kind, words, fault) in [
            (
                "reading",
                ErrorKind::IOError,
                "IO error: No space left on device: While appending to file: /d/12.log: No space left on device",
                Fault::Full,
            ),
            ("reading", ErrorKind::IOError, "IO error: While lock file: /d/LOCK: Resource temporarily unavailable", Fault::Locked),
            (
                "opening",
                ErrorKind::IOError,
                "IO error: lock hold by current process, acquire time 1 acquiring thread 2: /d/LOCK: No locks available",
                Fault::Locked,
            ),
            ("reading", ErrorKind::IOError, "IO error: While open a file for appending: /d/LOCKS/1.log: Permission denied", Fault::Other),
            ("reading", ErrorKind::Corruption, "Corruption: block checksum mismatch", Fault::Corrupt),
            ("reading", ErrorKind::IOError, "IO error: While pread offset 0 len 53: /d/12.sst: Input/output error", Fault::Corrupt),
            ("writing", ErrorKind::IOError, "IO error: While appending to file: /d/12.sst: Input/output error", Fault::Other),
        ] {
            assert_eq!(Fault::of(operation, &kind, words), fault, "{words}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(matches!(Database::open(&file.join("db"), &engine(true), &[]), Err(DatabaseError::Directory { .. })));
    }
}
