//! The SQL of the log. Everything here blocks.

use std::path::Path;

use bytes::Bytes;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use thiserror::Error;
use wasmill_protocol::LogSeq;

/// Marks the file as a Wasmill log ("WmLg").
const APPLICATION_ID: i64 = 0x576d_4c67;
/// The layout of the tables.
const LAYOUT: i64 = 1;
/// Statements that stay prepared.
const STATEMENTS_CACHED: usize = 16;

/// The rows of the log, and the only connection that writes them.
pub(super) struct Store {
    connection: Connection,
    trimmed: LogSeq,
    last: LogSeq,
}

/// The file cannot be used.
#[derive(Debug, Error)]
pub(super) enum StoreOpenError {
    #[error("sqlite failed")]
    Sqlite(#[from] rusqlite::Error),
    #[error("{0}")]
    Damaged(String),
}

/// Records that were not written; the transaction was rolled back.
#[derive(Debug)]
pub(super) enum StoreError {
    /// The disk is full. SQLite undid the transaction by itself.
    NoSpace,
    /// Anything else, above all a failed write or fsync: the state of the file is not known any
    /// more.
    Storage(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::NoSpace,
            _ => Self::Storage(error.to_string()),
        }
    }
}

impl Store {
    /// Opens the file or creates it, and recovers what a crash left.
    pub(super) fn open(path: &Path) -> Result<Self, StoreOpenError> {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
        // FULL: the write-ahead log is synced at every commit. This is where an acknowledged record
        // becomes durable.
        connection.pragma_update(None, "synchronous", "full")?;
        // Checkpoints are started by the writer, see `checkpoint.rs`.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        create_tables(&connection)?;
        let (trimmed, last) = ends_of_log(&connection)?;
        Ok(Self { connection, trimmed, last })
    }

    /// The sequence number of the last durable record.
    pub(super) fn last(&self) -> LogSeq {
        self.last
    }

    /// The sequence number of the first record that is still there; one more than the last when
    /// there is none.
    pub(super) fn first(&self) -> LogSeq {
        self.trimmed.next()
    }

    /// Appends records after the last one, all or none, and makes them durable.
    pub(super) fn append(&mut self, records: &[Bytes]) -> Result<(), StoreError> {
        match records {
            [] => {}
            // A lone record is its own transaction: this saves two statements where latency counts
            // most.
            [record] => insert(&self.connection, self.last.next(), record)?,
            records => {
                let transaction = self.connection.transaction()?;
                let mut seq = self.last;
                for record in records {
                    seq = seq.next();
                    insert(&transaction, seq, record)?;
                }
                transaction.commit()?;
            }
        }
        self.last = LogSeq(self.last.0 + records.len() as u64);
        Ok(())
    }

    /// Removes up to `rows_max` of the oldest records that are not after `to`. Whether none of
    /// these are left.
    pub(super) fn trim(&mut self, to: LogSeq, rows_max: u32) -> Result<bool, StoreError> {
        let transaction = self.connection.transaction()?;
        let to = to.min(self.last);
        let reached: Option<i64> = transaction
            .prepare_cached("SELECT max(seq) FROM (SELECT seq FROM record WHERE seq <= ?1 ORDER BY seq LIMIT ?2)")?
            .query_row(params![to.0.cast_signed(), rows_max], |row| row.get(0))?;
        let Some(reached) = reached else { return Ok(true) };
        transaction.prepare_cached("DELETE FROM record WHERE seq <= ?1")?.execute([reached])?;
        // Without this the numbering would begin anew when the last record goes.
        transaction.prepare_cached("UPDATE trimmed SET seq = ?1")?.execute([reached])?;
        transaction.commit()?;
        self.trimmed = LogSeq(reached.cast_unsigned());
        Ok(self.trimmed == to)
    }

    /// Moves what can be moved from the write-ahead log into the database without waiting for
    /// anybody.
    pub(super) fn checkpoint(&self) -> Result<(), StoreError> {
        Ok(checkpoint(&self.connection)?)
    }

    /// Lets the file grow to this many pages only: how a test fills the disk.
    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages_max: u32) {
        self.connection.pragma_update_and_check(None, "max_page_count", pages_max, |_| Ok(())).expect("is a pragma");
    }
}

/// A connection for reading.
pub(super) fn reader(path: &Path) -> rusqlite::Result<Connection> {
    connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// A connection for checkpoints.
pub(super) fn checkpointer(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "synchronous", "full")?;
    Ok(connection)
}

/// See [`Store::checkpoint`].
pub(super) fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?.query_row([], |_| Ok(()))
}

/// Records from `from` to `to` in order: at most `records_max`, and no further one once there are
/// `bytes_max`.
pub(super) fn read(
    connection: &Connection,
    from: LogSeq,
    to: LogSeq,
    records_max: usize,
    bytes_max: usize,
) -> rusqlite::Result<Vec<(LogSeq, Bytes)>> {
    let mut statement =
        connection.prepare_cached("SELECT seq, bytes FROM record WHERE seq BETWEEN ?1 AND ?2 ORDER BY seq")?;
    let mut rows = statement.query([from.0.cast_signed(), to.0.cast_signed()])?;
    let mut records = Vec::new();
    let mut bytes_read = 0;
    while records.len() < records_max
        && bytes_read < bytes_max
        && let Some(row) = rows.next()?
    {
        let seq: i64 = row.get(0)?;
        let bytes = Bytes::from(row.get::<_, Vec<u8>>(1)?);
        bytes_read += bytes.len();
        records.push((LogSeq(seq.cast_unsigned()), bytes));
    }
    Ok(records)
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    Ok(connection)
}

fn create_tables(connection: &Connection) -> Result<(), StoreOpenError> {
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let layout: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match (application, layout) {
        (0, 0) => {}
        (APPLICATION_ID, LAYOUT) => return Ok(()),
        (APPLICATION_ID, newer) => {
            return Err(StoreOpenError::Damaged(format!("its layout is {newer}, this program knows {LAYOUT}")));
        }
        (other, _) => return Err(StoreOpenError::Damaged(format!("it belongs to another application ({other:#x})"))),
    }
    connection.execute_batch(&format!(
        "BEGIN;
         CREATE TABLE record (seq INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
         CREATE TABLE trimmed (seq INTEGER NOT NULL) STRICT;
         INSERT INTO trimmed VALUES (0);
         PRAGMA application_id = {APPLICATION_ID};
         PRAGMA user_version = {LAYOUT};
         COMMIT;"
    ))?;
    Ok(())
}

/// The last record that was trimmed away, and the last sequence number that was ever given out.
fn ends_of_log(connection: &Connection) -> Result<(LogSeq, LogSeq), StoreOpenError> {
    let number =
        |sql| connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0)).optional().map(Option::flatten);
    let trimmed = number("SELECT seq FROM trimmed")?.unwrap_or(0);
    let first = number("SELECT min(seq) FROM record")?;
    let last = number("SELECT max(seq) FROM record")?.unwrap_or(trimmed);
    if first.is_some_and(|first| first != trimmed + 1) {
        return Err(StoreOpenError::Damaged(format!("record {} is missing", trimmed + 1)));
    }
    Ok((LogSeq(trimmed.cast_unsigned()), LogSeq(last.cast_unsigned())))
}

fn insert(connection: &Connection, seq: LogSeq, record: &Bytes) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO record (seq, bytes) VALUES (?1, ?2)")?
        .execute(params![seq.0.cast_signed(), record.as_ref()])?;
    Ok(())
}
