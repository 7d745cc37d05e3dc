//! Tasks by column: a million of them take a third of what they would take one by one.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use wasmill_protocol::ids::{Attempt, Nonce, TaskId};
use wasmill_protocol::time::Timestamp;

const ID_BYTES: usize = size_of::<TaskId>();
const CANCEL_REQUESTED: u8 = 1;
const LATE_RECORDED: u8 = 2;

/// A task that is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TaskRow {
    /// Its place.
    pub slot: u32,
    /// Its id.
    pub id: TaskId,
    /// Where it stands.
    pub phase: TaskPhase,
    /// It was asked to stop while it ran.
    pub cancel_requested: bool,
    /// A late report of the current attempt was recorded.
    pub late_recorded: bool,
    /// Hosts that were lost while they ran it.
    pub hosts_lost: u8,
    /// Faults of hosts that it has met.
    pub host_faults: u8,
    /// The current or the last attempt.
    pub attempt: Attempt,
    /// The nonce of that attempt.
    pub nonce: Nonce,
    /// Attempts that failed and were charged.
    pub failures: u32,
    /// The newest checkpoint of the current attempt.
    pub checkpoint: u32,
    /// When it last became queued.
    pub queued_at: Timestamp,
    /// When it is queued, or expires; zero is never.
    pub timer: Timestamp,
    /// The place of its shape.
    pub shape: u32,
    /// The place of its rules for retries.
    pub retry_rules: u32,
    /// The place of its placement, counted from 1; 0 is none.
    pub placement: u32,
    /// The place of the task that follows in the list that this one is in, counted from 1; 0 is
    /// none.
    pub next: u32,
    /// The place of the first edge that leaves it, counted from 1; 0 is none.
    pub edges_leaving: u32,
    /// The place of the first edge that leads to it, counted from 1; 0 is none.
    pub edges_leading: u32,
}

/// Where a task stands that is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TaskPhase {
    /// For a time or a retry.
    #[default]
    Waiting,
    /// Could start now.
    Queued,
    /// An attempt is assigned to a host.
    Running,
    /// Waits for other tasks.
    Blocked,
    /// Waits for nothing more, and is to be queued or skipped.
    Unblocked,
}

/// The values of many [`TaskRow`]s, one column for each field. A column that is not there holds
/// nothing but zeros, so that what most tasks do not have takes no space, and a field can be added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskColumns {
    /// The place that `offsets` are counted from.
    first: u32,
    /// Places, ascending. Not there when they follow each other without a gap from `first` on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    offsets: Vec<u32>,
    /// 16 bytes each. This column is always there.
    ids: Bytes,
    #[serde(skip_serializing_if = "Bytes::is_empty")]
    phases: Bytes,
    /// Sums of [`CANCEL_REQUESTED`] and [`LATE_RECORDED`].
    #[serde(skip_serializing_if = "Bytes::is_empty")]
    flags: Bytes,
    #[serde(skip_serializing_if = "Bytes::is_empty")]
    hosts_lost: Bytes,
    #[serde(skip_serializing_if = "Bytes::is_empty")]
    host_faults: Bytes,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    attempts: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nonces: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failures: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checkpoints: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    queued_at: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    timers: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    shapes: Vec<u32>,
    #[serde(rename = "patiences", skip_serializing_if = "Vec::is_empty")]
    retry_rules: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    placements: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    edges_leaving: Vec<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    edges_leading: Vec<u32>,
}

impl TaskColumns {
    /// Columns of these rows, whose places ascend.
    pub fn pack(rows: &[TaskRow]) -> Self {
        let first = rows.first().map_or(0, |row| row.slot);
        let dense = (first..).zip(rows).all(|(slot, row)| slot == row.slot);
        let flags = |row: &TaskRow| {
            (u8::from(row.cancel_requested) * CANCEL_REQUESTED) | (u8::from(row.late_recorded) * LATE_RECORDED)
        };
        Self {
            first,
            offsets: if dense { Vec::new() } else { rows.iter().map(|row| row.slot - first).collect() },
            ids: rows.iter().flat_map(|row| *row.id.0.as_bytes()).collect(),
            phases: column(rows, |row| row.phase.number()).into(),
            flags: column(rows, flags).into(),
            hosts_lost: column(rows, |row| row.hosts_lost).into(),
            host_faults: column(rows, |row| row.host_faults).into(),
            attempts: column(rows, |row| row.attempt.0),
            nonces: column(rows, |row| row.nonce.0),
            failures: column(rows, |row| row.failures),
            checkpoints: column(rows, |row| row.checkpoint),
            queued_at: column(rows, |row| row.queued_at.0),
            timers: column(rows, |row| row.timer.0),
            shapes: column(rows, |row| row.shape),
            retry_rules: column(rows, |row| row.retry_rules),
            placements: column(rows, |row| row.placement),
            next: column(rows, |row| row.next),
            edges_leaving: column(rows, |row| row.edges_leaving),
            edges_leading: column(rows, |row| row.edges_leading),
        }
    }

    /// The rows. Ends early at a row that is not complete or that stands nowhere this version
    /// knows: then there are fewer than [`TaskColumns::count`].
    pub fn rows(&self) -> impl Iterator<Item = TaskRow> + '_ {
        (0..self.count()).map_while(|index| self.row(index))
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.ids.len() / ID_BYTES
    }

    fn row(&self, index: usize) -> Option<TaskRow> {
        let offset = if self.offsets.is_empty() { u32::try_from(index).ok()? } else { *self.offsets.get(index)? };
        let flags = value(&self.flags, index)?;
        Some(TaskRow {
            slot: self.first.checked_add(offset)?,
            id: TaskId(Uuid::from_bytes(*self.ids.get(index * ID_BYTES..)?.first_chunk()?)),
            phase: TaskPhase::of_number(value(&self.phases, index)?)?,
            cancel_requested: flags & CANCEL_REQUESTED != 0,
            late_recorded: flags & LATE_RECORDED != 0,
            hosts_lost: value(&self.hosts_lost, index)?,
            host_faults: value(&self.host_faults, index)?,
            attempt: Attempt(value(&self.attempts, index)?),
            nonce: Nonce(value(&self.nonces, index)?),
            failures: value(&self.failures, index)?,
            checkpoint: value(&self.checkpoints, index)?,
            queued_at: Timestamp(value(&self.queued_at, index)?),
            timer: Timestamp(value(&self.timers, index)?),
            shape: value(&self.shapes, index)?,
            retry_rules: value(&self.retry_rules, index)?,
            placement: value(&self.placements, index)?,
            next: value(&self.next, index)?,
            edges_leaving: value(&self.edges_leaving, index)?,
            edges_leading: value(&self.edges_leading, index)?,
        })
    }
}

impl TaskPhase {
    fn number(self) -> u8 {
        match self {
            Self::Waiting => 0,
            Self::Queued => 1,
            Self::Running => 2,
            Self::Blocked => 3,
            Self::Unblocked => 4,
        }
    }

    /// The inverse of [`TaskPhase::number`].
    fn of_number(number: u8) -> Option<Self> {
        let phases = [Self::Waiting, Self::Queued, Self::Running, Self::Blocked, Self::Unblocked];
        phases.get(usize::from(number)).copied()
    }
}

/// Nothing at all when every value is zero.
fn column<T: Default + PartialEq>(rows: &[TaskRow], value: impl Fn(&TaskRow) -> T) -> Vec<T> {
    let zero = T::default();
    if rows.iter().all(|row| value(row) == zero) { Vec::new() } else { rows.iter().map(value).collect() }
}

/// A value of a column; `None` when the column is too short.
fn value<T: Default + Copy>(column: &[T], index: usize) -> Option<T> {
    if column.is_empty() { Some(T::default()) } else { column.get(index).copied() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(slot: u32) -> TaskRow {
        TaskRow { slot, id: TaskId(Uuid::from_u128(u128::from(slot) << 90 | 5)), ..TaskRow::default() }
    }

    fn full(slot: u32) -> TaskRow {
        TaskRow {
            phase: TaskPhase::Running,
            cancel_requested: true,
            late_recorded: slot.is_multiple_of(2),
            hosts_lost: 1,
            host_faults: 2,
            attempt: Attempt(3),
            nonce: Nonce(u64::MAX),
            failures: 4,
            checkpoint: 5,
            queued_at: Timestamp(6),
            timer: Timestamp(7),
            shape: 8,
            retry_rules: 9,
            placement: 10,
            next: u32::MAX,
            edges_leaving: 11,
            edges_leading: 12,
            ..row(slot)
        }
    }

    #[test]
    fn rows_come_back_as_they_were() {
        for rows in [vec![], vec![row(0)], vec![row(3), row(4), row(5)], vec![full(0), row(7), full(4_095)]] {
            let columns = TaskColumns::pack(&rows);
            let bytes = rmp_serde::to_vec_named(&columns).unwrap();
            let read: TaskColumns = rmp_serde::from_slice(&bytes).unwrap();
            assert_eq!((read.count(), read.rows().collect::<Vec<_>>()), (rows.len(), rows));
        }
    }

    #[test]
    fn what_most_tasks_do_not_have_takes_no_space() {
        let rows: Vec<_> =
            (0..1000).map(|slot| TaskRow { next: slot, phase: TaskPhase::Queued, ..row(slot) }).collect();
        let bytes = rmp_serde::to_vec_named(&TaskColumns::pack(&rows)).unwrap().len();
        assert!(bytes < 1000 * (16 + 1 + 3) + 100, "{bytes}");
    }

    #[test]
    fn columns_that_are_too_short_are_noticed() {
        let mut columns = TaskColumns::pack(&[full(1), full(2)]);
        columns.failures.pop();
        assert_eq!((columns.count(), columns.rows().count()), (2, 1));
        let columns = TaskColumns { phases: Bytes::from_static(&[1, 5]), ..TaskColumns::pack(&[row(1), row(2)]) };
        assert_eq!((columns.count(), columns.rows().count()), (2, 1), "a phase of the future");
    }
}
