//! Looking tasks up in the file. Everything here blocks.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use wasmill_protocol::{Digest, TaskId, TaskSpec, TenantName};

use super::codec::{STANDING_COLUMNS, decode, id_bytes, standing};
use super::fold::TaskStanding;

/// A task in the file.
pub(super) struct Stored {
    pub(super) id: TaskId,
    pub(super) spec: Arc<TaskSpec>,
    pub(super) standing: TaskStanding,
}

/// A task of a tenant.
pub(super) fn task(connection: &Connection, tenant: &TenantName, id: TaskId) -> rusqlite::Result<Option<Stored>> {
    let sql = select("task.id = ?1 AND tenant = (SELECT no FROM tenant WHERE name = ?2)");
    connection.prepare_cached(&sql)?.query_row(params![id_bytes(&id), tenant.as_str()], stored).optional()
}

/// A task, whoever's it is.
pub(super) fn task_of_any(connection: &Connection, id: TaskId) -> rusqlite::Result<Option<Stored>> {
    connection.prepare_cached(&select("task.id = ?1"))?.query_row([id_bytes(&id)], stored).optional()
}

/// The task in a row. It can be gone since the row was found.
pub(super) fn task_in(connection: &Connection, row: i64) -> rusqlite::Result<Option<Stored>> {
    connection.prepare_cached(&select("task.row = ?1"))?.query_row([row], stored).optional()
}

/// The task that an idempotency key names, and the fingerprint of its submission.
pub(super) fn key(
    connection: &Connection,
    tenant: &TenantName,
    key: &str,
) -> rusqlite::Result<Option<(TaskId, Digest)>> {
    connection
        .prepare_cached(
            "SELECT task.id, key.fingerprint FROM key JOIN task ON task.row = key.row
             WHERE key.tenant = (SELECT no FROM tenant WHERE name = ?1) AND key.key = ?2",
        )?
        .query_row([tenant.as_str(), key], |row| Ok((id(row.get(0)?), Digest(row.get(1)?))))
        .optional()
}

/// Whether a task refers to a blob.
pub(super) fn is_referenced(connection: &Connection, digest: Digest) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM blob WHERE digest = ?1 LIMIT 1")?.exists([digest.0])
}

fn select(condition: &str) -> String {
    format!(
        "SELECT task.id, coalesce(task.spec, (SELECT spec FROM spec_long WHERE spec_long.row = task.row)), {STANDING_COLUMNS}
         FROM task WHERE {condition}"
    )
}

fn stored(row: &rusqlite::Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored { id: id(row.get(0)?), spec: Arc::new(decode(row, 1)?), standing: standing(row, 2)? })
}

fn id(bytes: [u8; 16]) -> TaskId {
    TaskId(uuid::Uuid::from_bytes(bytes))
}
