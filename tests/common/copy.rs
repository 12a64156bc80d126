//! A partition's state as rows: to be copied, lost, and put back.

use callsieve::state::database::{Database, Family};

/// A row of the state: family, key, value.
pub type Row = (Family, Vec<u8>, Vec<u8>);

/// Every row.
pub fn copy_state(database: &Database) -> Vec<Row> {
    let mut copy = Vec::new();
    for family in Family::ALL {
        let mut rows = database.iterate(database.family(family), rocksdb::ReadOptions::default());
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            copy.push((family, key.to_vec(), value.to_vec()));
            rows.next();
        }
    }
    copy
}

/// The state is what the copy holds; nothing, for a lost disk.
pub fn replace_state(database: &Database, copy: &[Row]) {
    let mut batch = rocksdb::WriteBatch::default();
    for (family, key, _) in copy_state(database) {
        batch.delete_cf(database.family(family), key);
    }
    for (family, key, value) in copy {
        batch.put_cf(database.family(*family), key, value);
    }
    database.write(batch).unwrap();
}
