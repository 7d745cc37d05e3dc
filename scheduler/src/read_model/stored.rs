//! The bytes of tasks, as they count towards the quota `stored_bytes` of their tenant.
//!
//! It follows from what a task is and not from how the file holds it, so that it is the same on
//! every node. Bytes that several tasks have in common count for each.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};
use wasmill_protocol::{Payload, TaskSpec, TenantName};

use super::codec::decode;
use super::fold::View;
use super::row::{HistoryEntry, HistoryEvent};

/// The bytes of a task beside its texts and payloads: its row, and its place in every index.
const TASK_BYTES: u64 = 512;
/// An entry of its history without its text.
const HISTORY_ENTRY_BYTES: u64 = 64;

/// Raised when a task comes to count otherwise: then all are counted anew.
const COUNTING: i64 = 1;

/// The bytes of a task that has just been accepted.
pub fn submission_bytes(spec: &TaskSpec) -> u64 {
    spec_bytes(spec) + HISTORY_ENTRY_BYTES
}

/// The part that never changes.
pub(super) fn spec_bytes(spec: &TaskSpec) -> u64 {
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let map = |map: &BTreeMap<String, String>| map.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    let texts = text(&spec.name)
        + text(&spec.description)
        + text(&spec.idempotency_key)
        + spec.args.iter().map(String::len).sum::<usize>()
        + map(&spec.env)
        + map(&spec.labels)
        + map(&spec.require);
    TASK_BYTES + texts as u64 + spec.input.byte_count()
}

/// The part that changes with what happens to it.
pub(super) fn view_bytes(view: &View) -> u64 {
    let payloads = [&view.output, &view.captured, &view.checkpoint].map(Payload::byte_count);
    let resumed = view.resumed.iter().map(|(_, payload)| payload.byte_count()).sum::<u64>();
    let outcome = view
        .outcome
        .as_ref()
        .map_or(0, |outcome| outcome.message.len() + outcome.backtrace.iter().map(String::len).sum::<usize>());
    let history = view.history.iter().map(entry_bytes).sum::<u64>();
    payloads.iter().sum::<u64>() + resumed + outcome as u64 + history
}

fn entry_bytes(entry: &HistoryEntry) -> u64 {
    let text = match &entry.event {
        HistoryEvent::AttemptEnded { message, .. } => message.len(),
        HistoryEvent::CancelRequested { reason: Some(reason) } => reason.len(),
        _ => 0,
    };
    HISTORY_ENTRY_BYTES + text as u64
}

/// The tables of what is counted.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS stored (tenant INTEGER PRIMARY KEY, bytes INTEGER NOT NULL) STRICT;
    CREATE TABLE IF NOT EXISTS counting (version INTEGER NOT NULL) STRICT;
";

/// Makes sure that the file knows what each tenant has stored: counts everything once where an
/// earlier version did not count, or did otherwise.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(TABLES)?;
    let version: Option<i64> = connection.query_row("SELECT version FROM counting", [], |row| row.get(0)).optional()?;
    if version == Some(COUNTING) {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let counted = count(connection);
    connection.execute_batch(if counted.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    counted
}

fn count(connection: &Connection) -> rusqlite::Result<()> {
    let mut by_tenant = BTreeMap::<i64, u64>::new();
    let mut tasks = connection.prepare(
        "SELECT tenant, view, coalesce(task.spec, spec_long.spec)
         FROM task LEFT JOIN spec_long ON spec_long.row = task.row",
    )?;
    let mut rows = tasks.query([])?;
    while let Some(row) = rows.next()? {
        let (view, spec) = (decode::<View>(row, 1)?, decode::<TaskSpec>(row, 2)?);
        *by_tenant.entry(row.get(0)?).or_default() += spec_bytes(&spec) + view_bytes(&view);
    }
    connection.execute_batch("DELETE FROM stored; DELETE FROM counting;")?;
    for (tenant, bytes) in by_tenant {
        connection
            .prepare_cached("INSERT INTO stored (tenant, bytes) VALUES (?1, ?2)")?
            .execute(params![tenant, bytes.cast_signed()])?;
    }
    connection.execute("INSERT INTO counting (version) VALUES (?1)", [COUNTING]).map(|_| ())
}

/// The stored bytes of every tenant, as the file says.
pub(super) fn totals(connection: &Connection) -> rusqlite::Result<Vec<(TenantName, u64)>> {
    let mut totals = Vec::new();
    let mut tenants = connection
        .prepare("SELECT name, bytes FROM stored JOIN tenant ON no = stored.tenant WHERE name IS NOT NULL")?;
    let mut rows = tenants.query([])?;
    while let Some(row) = rows.next()? {
        // A name that is none cannot be asked for.
        if let Ok(name) = row.get_ref(0)?.as_str()?.parse() {
            totals.push((name, row.get::<_, i64>(1)?.cast_unsigned()));
        }
    }
    Ok(totals)
}

/// Changes what a tenant has stored by `more`, which may be negative. Gives the sum, with the name
/// of the tenant while it has one.
pub(super) fn change(connection: &Connection, tenant: i64, more: i64) -> rusqlite::Result<Option<(TenantName, u64)>> {
    let bytes: i64 = connection
        .prepare_cached(
            "INSERT INTO stored (tenant, bytes) VALUES (?1, ?2)
             ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + ?2 RETURNING bytes",
        )?
        .query_row([tenant, more], |row| row.get(0))?;
    assert!(bytes >= 0, "tenant {tenant} has stored {bytes} bytes");
    let name: Option<Option<String>> = connection
        .prepare_cached("SELECT name FROM tenant WHERE no = ?1")?
        .query_row([tenant], |row| row.get(0))
        .optional()?;
    Ok(name.flatten().and_then(|name| name.parse().ok()).map(|name| (name, bytes.cast_unsigned())))
}
