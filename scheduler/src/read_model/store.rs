//! The file: its tables, and how it is opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use wasmill_protocol::{LogSeq, TaskState};

use super::copy::CopyError;
use super::{OpenReadModelError, stored};

/// Marks the file as a Wasmill read model ("WmRm").
const APPLICATION_ID: i64 = 0x576d_526d;
/// The layout of the tables and of the values in them. A file of another layout is set aside and
/// filled again. Where the log has been trimmed that needs a copy of this layout, which nobody has
/// after a change: so whoever changes it also migrates a file of the layout before, in
/// [`open_existing`].
const LAYOUT: i64 = 1;
/// Statements that stay prepared in a connection.
const STATEMENTS_CACHED: usize = 64;
/// Pages of the write-ahead log after which it is moved into the file.
const CHECKPOINT_PAGES: i64 = 8192;
/// Memory for pages, of the connection that writes, in KiB.
const WRITER_CACHE_KIB: i64 = 32 * 1024;
/// Memory for pages, of each connection that reads, in KiB.
const READER_CACHE_KIB: i64 = 4 * 1024;

/// `row` numbers tasks in the order of the log, which is also that of `created`: newest first is
/// `row` descending, and a bound on `created` is a bound on `row`.
///
/// `tenant` and `module` are numbers, so that an entry of an index has a few bytes. A module's
/// number is of one tenant. A removed tenant keeps its number without a name until its tasks are
/// erased. Long specs are apart, so that an update does not move them.
const TABLES: &str = "
    CREATE TABLE position (seq INTEGER NOT NULL) STRICT;
    INSERT INTO position VALUES (0);
    CREATE TABLE tenant (no INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE) STRICT;
    CREATE TABLE module (
        no INTEGER PRIMARY KEY AUTOINCREMENT, tenant INTEGER NOT NULL, digest BLOB NOT NULL, UNIQUE (tenant, digest)
    ) STRICT;
    CREATE TABLE task (
        row INTEGER PRIMARY KEY,
        id BLOB NOT NULL,
        tenant INTEGER NOT NULL,
        module INTEGER NOT NULL,
        name TEXT,
        state INTEGER NOT NULL,
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        finished INTEGER,
        seq INTEGER NOT NULL,
        view BLOB NOT NULL,
        spec BLOB
    ) STRICT;
    CREATE UNIQUE INDEX task_id ON task (id);
    CREATE INDEX task_state ON task (tenant, state);
    CREATE INDEX task_module ON task (module);
    CREATE INDEX task_name ON task (tenant, name) WHERE name IS NOT NULL;
    CREATE INDEX task_finished ON task (finished) WHERE finished IS NOT NULL;
    CREATE TABLE spec_long (row INTEGER PRIMARY KEY, spec BLOB NOT NULL) STRICT;
    CREATE TABLE label (
        tenant INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, row INTEGER NOT NULL,
        PRIMARY KEY (tenant, key, value, row)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE key (
        tenant INTEGER NOT NULL, key TEXT NOT NULL, row INTEGER NOT NULL, fingerprint BLOB NOT NULL,
        PRIMARY KEY (tenant, key)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE blob (
        digest BLOB NOT NULL, row INTEGER NOT NULL, part INTEGER NOT NULL, PRIMARY KEY (digest, row, part)
    ) STRICT, WITHOUT ROWID;
";

/// The state of the file at its path.
enum FoundFile {
    Usable(Connection, LogSeq),
    Nothing,
    OtherLayout(i64),
}

/// Opens the file for writing, or begins a new one when there is none or it is not usable.
pub(super) fn open_writer(path: &Path) -> Result<(Connection, LogSeq), OpenReadModelError> {
    let failed = |source: rusqlite::Error| OpenReadModelError::Storage { path: path.to_owned(), source: source.into() };
    let cleared = match open_existing(path) {
        Ok(FoundFile::Usable(connection, position)) => return Ok((connection, position)),
        Ok(FoundFile::Nothing) => remove(path),
        Ok(FoundFile::OtherLayout(layout)) => set_aside(path, layout),
        Err(error)
            if matches!(error.sqlite_error_code(), Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)) =>
        {
            tracing::warn!(path = %path.display(), %error, "the read model is damaged; it is filled again");
            remove(path)
        }
        Err(error) => return Err(failed(error)),
    };
    cleared.map_err(|source| OpenReadModelError::Storage { path: path.to_owned(), source: source.into() })?;
    let connection = connect_writer(path).map_err(failed)?;
    let layout = format!("PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {LAYOUT};");
    connection.execute_batch(&format!("BEGIN; {TABLES} {layout} COMMIT;")).map_err(failed)?;
    stored::prepare(&connection).map_err(failed)?;
    Ok((connection, LogSeq(0)))
}

fn open_existing(path: &Path) -> rusqlite::Result<FoundFile> {
    if !path.exists() {
        return Ok(FoundFile::Nothing);
    }
    let connection = connect_writer(path)?;
    match layout(&connection)? {
        LAYOUT => match position(&connection)? {
            Some(position) => {
                stored::prepare(&connection)?;
                Ok(FoundFile::Usable(connection, position))
            }
            None => Ok(FoundFile::Nothing),
        },
        other => Ok(FoundFile::OtherLayout(other)),
    }
}

/// The layout of a file; negative when it is no read model at all.
fn layout(connection: &Connection) -> rusqlite::Result<i64> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok(if number("application_id")? == APPLICATION_ID { number("user_version")? } else { -1 })
}

fn position(connection: &Connection) -> rusqlite::Result<Option<LogSeq>> {
    let seq = connection.query_row("SELECT seq FROM position", [], |row| row.get::<_, i64>(0)).optional()?;
    Ok(seq.map(|seq| LogSeq(seq.cast_unsigned())))
}

/// Whether a file is a read model that holds the log up to `expected`.
pub(super) fn check(path: &Path, expected: LogSeq) -> Result<(), CopyError> {
    let found = open_reader(path)?;
    match layout(&found)? {
        LAYOUT => match position(&found)?.unwrap_or_default() {
            position if position == expected => Ok(()),
            found => Err(CopyError::Position { found, expected }),
        },
        found => Err(CopyError::Layout { found, known: LAYOUT }),
    }
}

/// Puts the file `with` in the place of `path`, and opens it for writing.
pub(super) fn replace(path: &Path, with: &Path) -> Result<Connection, CopyError> {
    let failed = |source| CopyError::File { action: "replace", path: path.to_owned(), source };
    remove(path).map_err(failed)?;
    fs::rename(with, path).map_err(failed)?;
    match open_existing(path)? {
        FoundFile::Usable(connection, _) => Ok(connection),
        FoundFile::Nothing | FoundFile::OtherLayout(_) => Err(failed(io::ErrorKind::InvalidData.into())),
    }
}

/// A consistent copy of the file as a new one, without what was erased, beside those who write.
/// Answers up to which record it holds the log.
pub(super) fn copy(path: &Path, to: &Path) -> rusqlite::Result<LogSeq> {
    open_reader(path)?.execute("VACUUM INTO ?1", [to.to_string_lossy()])?;
    Ok(position(&open_reader(to)?)?.unwrap_or_default())
}

/// Bytes of the file that are in use.
pub(super) fn bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let pages = number("page_count")? - number("freelist_count")?;
    Ok((pages * number("page_size")?).max(0).cast_unsigned())
}

fn connect_writer(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    // Not every commit is synced: what a power loss takes is read from the log again.
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    Ok(connection)
}

/// Opens the file for reading.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    Ok(connection)
}

fn connect(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    // Otherwise a statement that could use a partial index is planned anew for every value that is
    // bound.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// The database and the two files that SQLite keeps beside it.
fn files(path: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| with_suffix(path, suffix))
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Removes a database, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    files(path).iter().try_for_each(|file| unless_missing(fs::remove_file(file)))
}

/// Renames a file that another version has written: only that one can tell what is in it.
fn set_aside(path: &Path, layout: i64) -> io::Result<()> {
    let aside = with_suffix(path, &format!(".layout-{layout}"));
    tracing::warn!(
        path = %path.display(), kept = %aside.display(),
        "the read model has another layout: it is kept under another name and filled again"
    );
    files(path).iter().zip(&files(&aside)).try_for_each(|(from, to)| unless_missing(fs::rename(from, to)))
}

fn unless_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Every state, in the order of its stored number.
pub(super) const STATES: [TaskState; 7] = [
    TaskState::Waiting,
    TaskState::Queued,
    TaskState::Running,
    TaskState::Succeeded,
    TaskState::Failed,
    TaskState::Cancelled,
    TaskState::Skipped,
];

/// How a state is stored.
pub(super) fn state_number(state: TaskState) -> i64 {
    match state {
        TaskState::Waiting => 0,
        TaskState::Queued => 1,
        TaskState::Running => 2,
        TaskState::Succeeded => 3,
        TaskState::Failed => 4,
        TaskState::Cancelled => 5,
        TaskState::Skipped => 6,
    }
}

/// The inverse of [`state_number`].
pub(super) fn state_of(number: i64) -> Option<TaskState> {
    STATES.get(usize::try_from(number).ok()?).copied()
}
