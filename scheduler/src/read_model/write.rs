//! Writing a generation of records into the file, and removing tasks from it. Runs on the flush
//! thread only.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params, params_from_iter};
use wasmill_protocol::{Digest, LogSeq, Payload, TaskId, TaskSpec, TenantName};
use wasmill_record::event::{Event, EventBody};
use wasmill_record::snapshot::Expired;

use super::codec::{STANDING_COLUMNS, decode, encode, id_bytes, standing, time_number};
use super::fold::{RESUMED_KEPT, TaskStanding, View};
use super::pending::{Generation, TaskIdHasher};
use super::store::state_number;
use super::stored::{self, spec_bytes, view_bytes};

/// A spec of at least this many bytes has a table of its own.
const SPEC_LONG_BYTES_MIN: usize = 1024;
/// Numbers of tenants and modules that are remembered; all are forgotten when there are more.
const NUMBERS_MAX: usize = 16 * 1024;

/// Which payload of a task a blob holds.
#[derive(Clone, Copy)]
enum Part {
    Input = 0,
    Output = 1,
    Captured = 2,
    Checkpoint = 3,
    /// The first of those that attempts began with; the others follow.
    Resumed = 4,
}

/// The blobs of a task, one for each part.
type Parts = [Option<Digest>; Part::Resumed as usize + RESUMED_KEPT];

/// The connection that writes, with what it knows by heart.
pub(super) struct Sink {
    connection: Connection,
    row_next: i64,
    tenants: BTreeMap<TenantName, i64>,
    modules: BTreeMap<(i64, Digest), i64>,
    scratch: Vec<u8>,
    changed: Changed,
}

/// The changes of a transaction beside the tasks.
#[derive(Default)]
struct Changed {
    /// By how much what tenants have stored has grown.
    stored: BTreeMap<i64, i64>,
    /// Tenants that have nothing any more.
    removed: Vec<TenantName>,
    /// Blobs that something referred to and does not any more.
    released: Vec<Digest>,
}

/// The changes beside the tasks, for readers in memory.
#[derive(Default)]
pub(super) struct Written {
    /// The stored bytes of tenants, in order: a later entry counts.
    pub(super) stored: Vec<(TenantName, u64)>,
    /// Blobs that no task refers to any more.
    pub(super) unneeded: Vec<Digest>,
}

/// Tasks that a transaction changes, folded in memory and written once.
#[derive(Default)]
struct Changes {
    by_id: HashMap<TaskId, usize, BuildHasherDefault<TaskIdHasher>>,
    tasks: Vec<Change>,
}

struct Change {
    id: TaskId,
    standing: TaskStanding,
    origin: Origin,
}

enum Origin {
    /// Submitted in this transaction.
    New { spec: Arc<TaskSpec>, fingerprint: Option<Digest> },
    /// Read from the file.
    Stored { row: i64, tenant: i64, bytes: u64, blobs: Box<Parts> },
}

impl Sink {
    pub(super) fn new(connection: Connection) -> rusqlite::Result<Self> {
        let row_last: Option<i64> = connection.query_row("SELECT max(row) FROM task", [], |row| row.get(0))?;
        Ok(Self {
            connection,
            row_next: row_last.unwrap_or(0) + 1,
            tenants: BTreeMap::new(),
            modules: BTreeMap::new(),
            scratch: Vec::new(),
            changed: Changed::default(),
        })
    }

    /// The stored bytes of every tenant.
    pub(super) fn stored(&self) -> rusqlite::Result<Vec<(TenantName, u64)>> {
        stored::totals(&self.connection)
    }

    /// Writes all of a generation or nothing; the file then holds the log up to `position`.
    pub(super) fn write(&mut self, generation: &Generation, position: LogSeq) -> rusqlite::Result<Written> {
        let row_next = self.row_next;
        let result = self.transaction(|sink| {
            let mut changes = Changes::default();
            for (seq, event) in generation.events() {
                sink.take(&mut changes, seq, event)?;
            }
            sink.store(changes)?;
            sink.connection
                .prepare_cached("UPDATE position SET seq = ?1")?
                .execute([position.0.cast_signed()])
                .map(|_| ())
        });
        if result.is_err() {
            self.row_next = row_next;
        }
        result.map(|((), written)| written)
    }

    fn transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<(T, Written)> {
        self.connection.execute_batch("BEGIN IMMEDIATE")?;
        let result = work(self)
            .and_then(|value| Ok((value, self.settle()?)))
            .and_then(|done| self.connection.execute_batch("COMMIT").map(|()| done));
        if result.is_err() {
            self.changed = Changed::default();
            // Numbers that were given out in the transaction are not in the file.
            self.tenants.clear();
            self.modules.clear();
            if !self.connection.is_autocommit() {
                self.connection.execute_batch("ROLLBACK")?;
            }
        }
        result
    }

    /// The end of a transaction: what tenants have stored, and which blobs nobody refers to any
    /// more.
    fn settle(&mut self) -> rusqlite::Result<Written> {
        let Changed { stored, removed, mut released } = std::mem::take(&mut self.changed);
        let mut written = Written { stored: removed.into_iter().map(|name| (name, 0)).collect(), ..Written::default() };
        for (tenant, more) in stored {
            written.stored.extend(stored::change(&self.connection, tenant, more)?);
        }
        released.sort_unstable();
        released.dedup();
        let mut referenced = self.connection.prepare_cached("SELECT 1 FROM blob WHERE digest = ?1 LIMIT 1")?;
        for digest in released {
            if !referenced.exists([digest.0])? {
                written.unneeded.push(digest);
            }
        }
        Ok(written)
    }

    fn grow(&mut self, tenant: i64, after: u64, before: u64) {
        if after != before {
            *self.changed.stored.entry(tenant).or_default() += after.cast_signed() - before.cast_signed();
        }
    }

    fn take(&mut self, changes: &mut Changes, seq: LogSeq, event: &Event) -> rusqlite::Result<()> {
        match &event.body {
            EventBody::TaskSubmitted { task, spec, fingerprint, edges } => {
                let standing = TaskStanding::submitted(seq, event.at, spec, !edges.is_empty());
                let origin = Origin::New { spec: Arc::clone(spec), fingerprint: *fingerprint };
                changes.push(Change { id: *task, standing, origin });
                Ok(())
            }
            EventBody::TenantRemoved { tenant } => {
                // Earlier events go with the tenant; later ones may be of a new one with the same
                // name.
                self.store(std::mem::take(changes))?;
                self.forget_tenant(tenant)
            }
            body => {
                let Some(task) = body.task() else { return Ok(()) };
                let index = match changes.by_id.get(&task) {
                    Some(index) => *index,
                    // A task that is gone with its tenant or its retention: what still happens to
                    // it is of no interest.
                    None => match self.load(task)? {
                        Some(change) => changes.push(change),
                        None => return Ok(()),
                    },
                };
                let standing = &mut changes.tasks[index].standing;
                let before = blobs_of_view(&standing.view);
                standing.fold(seq, event);
                // Also those that were never written: one checkpoint after the other in one
                // transaction.
                let after = blobs_of_view(&standing.view);
                self.changed.released.extend(before.into_iter().flatten().filter(|blob| !after.contains(&Some(*blob))));
                Ok(())
            }
        }
    }

    fn load(&self, id: TaskId) -> rusqlite::Result<Option<Change>> {
        self.connection
            .prepare_cached(&format!("SELECT row, tenant, {STANDING_COLUMNS} FROM task WHERE id = ?1"))?
            .query_row([id_bytes(&id)], |row| {
                let standing = standing(row, 2)?;
                let (bytes, blobs) = (view_bytes(&standing.view), Box::new(blobs_of_view(&standing.view)));
                let origin = Origin::Stored { row: row.get(0)?, tenant: row.get(1)?, bytes, blobs };
                Ok(Change { id, standing, origin })
            })
            .optional()
    }

    fn store(&mut self, changes: Changes) -> rusqlite::Result<()> {
        for change in changes.tasks {
            match change.origin {
                Origin::New { spec, fingerprint } => self.insert(change.id, &change.standing, &spec, fingerprint)?,
                Origin::Stored { row, tenant, bytes, blobs } => {
                    self.grow(tenant, view_bytes(&change.standing.view), bytes);
                    self.update(row, &change.standing, *blobs)?;
                }
            }
        }
        Ok(())
    }

    fn insert(
        &mut self,
        id: TaskId,
        standing: &TaskStanding,
        spec: &TaskSpec,
        fingerprint: Option<Digest>,
    ) -> rusqlite::Result<()> {
        let row = self.row_next;
        self.row_next += 1;
        let tenant = self.tenant(&spec.tenant)?;
        let module = self.module(tenant, spec.module)?;
        self.grow(tenant, spec_bytes(spec) + view_bytes(&standing.view), 0);
        let mut spec_bytes = std::mem::take(&mut self.scratch);
        encode(spec, &mut spec_bytes);
        let long = spec_bytes.len() >= SPEC_LONG_BYTES_MIN;
        if long {
            self.connection
                .prepare_cached("INSERT INTO spec_long (row, spec) VALUES (?1, ?2)")?
                .execute(params![row, spec_bytes])?;
        }
        let mut view = Vec::with_capacity(256);
        encode(&standing.view, &mut view);
        self.connection
            .prepare_cached(
                "INSERT INTO task (row, id, tenant, module, name, state, created, updated, finished, seq, view, spec)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?
            .execute(params![
                row,
                id_bytes(&id),
                tenant,
                module,
                spec.name,
                state_number(standing.state),
                time_number(standing.created_at),
                time_number(standing.updated_at),
                standing.finished_at.map(time_number),
                standing.seq.0.cast_signed(),
                view,
                (!long).then_some(&spec_bytes),
            ])?;
        self.scratch = spec_bytes;
        for (key, value) in &spec.labels {
            self.connection
                .prepare_cached("INSERT INTO label (tenant, key, value, row) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![tenant, key, value, row])?;
        }
        if let (Some(key), Some(fingerprint)) = (&spec.idempotency_key, fingerprint) {
            self.connection
                .prepare_cached("REPLACE INTO key (tenant, key, row, fingerprint) VALUES (?1, ?2, ?3, ?4)")?
                .execute(params![tenant, key, row, fingerprint.0])?;
        }
        let mut blobs = blobs_of_view(&standing.view);
        blobs[Part::Input as usize] = spec.input.blob();
        self.change_blobs(row, Parts::default(), blobs)
    }

    fn update(&mut self, row: i64, standing: &TaskStanding, blobs: Parts) -> rusqlite::Result<()> {
        let mut view = std::mem::take(&mut self.scratch);
        encode(&standing.view, &mut view);
        self.connection
            .prepare_cached(
                "UPDATE task SET state = ?2, updated = ?3, finished = ?4, seq = ?5, view = ?6 WHERE row = ?1",
            )?
            .execute(params![
                row,
                state_number(standing.state),
                time_number(standing.updated_at),
                standing.finished_at.map(time_number),
                standing.seq.0.cast_signed(),
                view,
            ])?;
        self.scratch = view;
        self.change_blobs(row, blobs, blobs_of_view(&standing.view))
    }

    fn change_blobs(&mut self, row: i64, before: Parts, after: Parts) -> rusqlite::Result<()> {
        for (part, (before, after)) in (0..).zip(before.into_iter().zip(after)) {
            if before == after {
                continue;
            }
            if let Some(digest) = before {
                self.connection
                    .prepare_cached("DELETE FROM blob WHERE digest = ?1 AND row = ?2 AND part = ?3")?
                    .execute(params![digest.0, row, part])?;
                self.changed.released.push(digest);
            }
            if let Some(digest) = after {
                self.connection
                    .prepare_cached("INSERT INTO blob (digest, row, part) VALUES (?1, ?2, ?3)")?
                    .execute(params![digest.0, row, part])?;
            }
        }
        Ok(())
    }

    fn tenant(&mut self, name: &TenantName) -> rusqlite::Result<i64> {
        if let Some(no) = self.tenants.get(name) {
            return Ok(*no);
        }
        self.connection.prepare_cached("INSERT OR IGNORE INTO tenant (name) VALUES (?1)")?.execute([name.as_str()])?;
        let no = self
            .connection
            .prepare_cached("SELECT no FROM tenant WHERE name = ?1")?
            .query_row([name.as_str()], |row| row.get(0))?;
        if self.tenants.len() >= NUMBERS_MAX {
            self.tenants.clear();
        }
        self.tenants.insert(name.clone(), no);
        Ok(no)
    }

    fn module(&mut self, tenant: i64, digest: Digest) -> rusqlite::Result<i64> {
        if let Some(no) = self.modules.get(&(tenant, digest)) {
            return Ok(*no);
        }
        self.connection
            .prepare_cached("INSERT OR IGNORE INTO module (tenant, digest) VALUES (?1, ?2)")?
            .execute(params![tenant, digest.0])?;
        let no = self
            .connection
            .prepare_cached("SELECT no FROM module WHERE tenant = ?1 AND digest = ?2")?
            .query_row(params![tenant, digest.0], |row| row.get(0))?;
        if self.modules.len() >= NUMBERS_MAX {
            self.modules.clear();
        }
        self.modules.insert((tenant, digest), no);
        Ok(no)
    }

    /// From here on nothing of the tenant is found; its rows are erased bit by bit.
    fn forget_tenant(&mut self, tenant: &TenantName) -> rusqlite::Result<()> {
        self.tenants.remove(tenant);
        self.changed.removed.push(tenant.clone());
        self.connection
            .prepare_cached("UPDATE tenant SET name = NULL WHERE name = ?1")?
            .execute([tenant.as_str()])
            .map(|_| ())
    }

    /// Erases up to `rows_max` tasks of removed tenants. Whether more are left.
    pub(super) fn erase_some(&mut self, rows_max: u32) -> rusqlite::Result<(bool, Written)> {
        self.transaction(|sink| {
            let removed: Option<i64> = sink
                .connection
                .prepare_cached("SELECT no FROM tenant WHERE name IS NULL LIMIT 1")?
                .query_row([], |row| row.get(0))
                .optional()?;
            let Some(tenant) = removed else { return Ok(false) };
            let rows = sink.rows(
                "SELECT row FROM task INDEXED BY task_state WHERE tenant = ?1 LIMIT ?2",
                [tenant, i64::from(rows_max)],
            )?;
            if rows.is_empty() {
                sink.connection.prepare_cached("DELETE FROM module WHERE tenant = ?1")?.execute([tenant])?;
                sink.connection.prepare_cached("DELETE FROM tenant WHERE no = ?1")?.execute([tenant])?;
                sink.connection.prepare_cached("DELETE FROM stored WHERE tenant = ?1")?.execute([tenant])?;
                sink.modules.clear();
            }
            rows.into_iter().try_for_each(|row| sink.delete(row))?;
            Ok(true)
        })
    }

    /// Removes up to `rows_max` tasks whose retention is over. How many.
    pub(super) fn sweep_some(&mut self, expired: Expired, rows_max: u32) -> rusqlite::Result<(u64, Written)> {
        let Expired { since, from, until, before } = expired;
        let seq = |seq: LogSeq| i64::try_from(seq.0).unwrap_or(i64::MAX);
        self.transaction(|sink| {
            let rows = sink.rows(
                "SELECT row FROM task INDEXED BY task_finished
                 WHERE finished >= ?1 AND finished < ?2 AND seq >= ?3 AND seq < ?4 ORDER BY finished LIMIT ?5",
                [time_number(since), time_number(before), seq(from), seq(until), i64::from(rows_max)],
            )?;
            let count = rows.len() as u64;
            rows.into_iter().try_for_each(|row| sink.delete(row))?;
            Ok(count)
        })
    }

    fn rows(&self, sql: &str, values: impl IntoIterator<Item = i64>) -> rusqlite::Result<Vec<i64>> {
        self.connection.prepare_cached(sql)?.query_map(params_from_iter(values), |row| row.get(0))?.collect()
    }

    /// Removes a task with all that points at it.
    fn delete(&mut self, row: i64) -> rusqlite::Result<()> {
        let (tenant, spec, view) = self
            .connection
            .prepare_cached(
                "SELECT tenant, view, coalesce(task.spec, spec_long.spec)
                 FROM task LEFT JOIN spec_long ON spec_long.row = task.row WHERE task.row = ?1",
            )?
            .query_row([row], |stored| {
                Ok((stored.get::<_, i64>(0)?, decode::<TaskSpec>(stored, 2)?, decode::<View>(stored, 1)?))
            })?;
        for (key, value) in &spec.labels {
            self.connection
                .prepare_cached("DELETE FROM label WHERE tenant = ?1 AND key = ?2 AND value = ?3 AND row = ?4")?
                .execute(params![tenant, key, value, row])?;
        }
        if let Some(key) = &spec.idempotency_key {
            // Only if it still names this task.
            self.connection
                .prepare_cached("DELETE FROM key WHERE tenant = ?1 AND key = ?2 AND row = ?3")?
                .execute(params![tenant, key, row])?;
        }
        self.grow(tenant, 0, spec_bytes(&spec) + view_bytes(&view));
        let mut blobs = blobs_of_view(&view);
        blobs[Part::Input as usize] = spec.input.blob();
        self.change_blobs(row, blobs, Parts::default())?;
        self.connection.prepare_cached("DELETE FROM spec_long WHERE row = ?1")?.execute([row])?;
        self.connection.prepare_cached("DELETE FROM task WHERE row = ?1")?.execute([row])?;
        Ok(())
    }
}

impl Changes {
    fn push(&mut self, change: Change) -> usize {
        let index = self.tasks.len();
        self.by_id.insert(change.id, index);
        self.tasks.push(change);
        index
    }
}

/// The blobs that a view refers to, by part; the input is not among them.
fn blobs_of_view(view: &View) -> Parts {
    let mut blobs = Parts::default();
    let parts: [(Part, &Payload); 3] =
        [(Part::Output, &view.output), (Part::Captured, &view.captured), (Part::Checkpoint, &view.checkpoint)];
    for (part, payload) in parts {
        blobs[part as usize] = payload.blob();
    }
    for (blob, (_, payload)) in blobs[Part::Resumed as usize..].iter_mut().zip(&view.resumed) {
        *blob = payload.blob();
    }
    blobs
}
