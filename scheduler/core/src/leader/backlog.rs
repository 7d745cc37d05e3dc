//! Work that is too large for one step: it is done in slices, and takes turns with other such work.
//!
//! No log holds it. The state shows how much of it is left, so the next leader finds it again when
//! it begins ([`Backlog::of`]).

use std::collections::{BTreeSet, VecDeque};

use wasmill_protocol::{FinalState, TaskId};
use wasmill_record::event::{EndReason, EventBody};

use super::Core;
use super::commands::TENANTS_MAX;
use crate::state::State;
use crate::state::tenants::TenantNumber;

/// Tasks that one piece of work handles before the next one has its turn.
const SLICE_TASKS_MAX: u32 = 64;
/// Pieces of work at the same time: one for each tenant, and [`Work::Unblock`].
const WORK_MAX: usize = TENANTS_MAX + 1;
const _: () = assert!(TENANTS_MAX < u32::MAX as usize, "tenants are numbered in 32 bits");

/// A piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Work {
    /// The tasks of a removed tenant that do not run are ended.
    EndTenant(TenantNumber),
    /// Tasks that wait for other tasks no more are queued or skipped.
    Unblock,
}

impl Work {
    /// Whether something may be left of it.
    fn is_left(self, state: &State) -> bool {
        match self {
            Self::EndTenant(tenant) => state.tenants.find(tenant).is_some(),
            Self::Unblock => state.unblocked.count > 0,
        }
    }
}

/// Work that is left, each piece once: the one in front has the next turn.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    line: VecDeque<Work>,
    known: BTreeSet<Work>,
}

impl Backlog {
    /// The work that earlier leaders have left.
    pub(super) fn of(state: &State) -> Self {
        let mut backlog = Self::default();
        let removed = state.tenants.entries().filter(|(_, entry)| entry.removed);
        removed.for_each(|(number, _)| backlog.push(Work::EndTenant(number), state));
        if state.unblocked.count > 0 {
            backlog.push(Work::Unblock, state);
        }
        backlog
    }

    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Adds work, unless it is there. O(log n); O(n) when the line is full, to drop work that has
    /// come to nothing meanwhile.
    pub(super) fn push(&mut self, work: Work, state: &State) {
        if self.line.len() >= WORK_MAX {
            self.line.retain(|work| work.is_left(state));
            self.known = self.line.iter().copied().collect();
            assert!(self.line.len() < WORK_MAX, "there is one piece of work for each tenant, and one more");
        }
        if self.known.insert(work) {
            self.line.push_back(work);
        }
    }

    /// Takes the work in front. Work that is not finished is pushed again.
    fn pop(&mut self) -> Option<Work> {
        let work = self.line.pop_front()?;
        self.known.remove(&work);
        Some(work)
    }

    /// Every piece is in the line once, and there is one for each tenant that has tasks to end.
    pub(super) fn assert_consistent(&self, state: &State) {
        assert_eq!(self.line.iter().copied().collect::<BTreeSet<_>>(), self.known);
        assert!(self.line.len() == self.known.len() && self.line.len() <= WORK_MAX, "each piece of work is there once");
        let unblocks = self.known.contains(&Work::Unblock);
        assert!(unblocks || state.unblocked.count == 0, "there is work for the tasks that are blocked no more");
        for (number, entry) in state.tenants.entries().filter(|(_, entry)| entry.removed) {
            let is_known = self.known.contains(&Work::EndTenant(number));
            assert!(is_known || unblocks || entry.tasks_queued == 0, "there is work for the tasks of {}", entry.name);
        }
    }
}

impl Core {
    /// Does slices of work in turns, `budget` tasks in all at most.
    pub(super) fn work_off(&mut self, mut budget: u32) {
        while budget > 0
            && let Some(work) = self.backlog.pop()
        {
            let slice = budget.min(SLICE_TASKS_MAX);
            let done = match work {
                Work::EndTenant(tenant) => self.end_tasks_of_removed(tenant, slice),
                Work::Unblock => self.unblock(slice),
            };
            assert!(done <= slice, "a slice is not exceeded");
            budget -= done;
            if done == slice {
                self.backlog.push(work, &self.state);
            }
        }
    }

    /// Ends at most `slice` tasks of a removed tenant that do not run. Returns how many; fewer than
    /// `slice` when no more are left.
    fn end_tasks_of_removed(&mut self, tenant: TenantNumber, slice: u32) -> u32 {
        let tasks = self.idle_tasks_of(tenant, slice as usize);
        for &task in &tasks {
            let (state, reason) = (FinalState::Cancelled, EndReason::TenantRemoved);
            self.emit(EventBody::TaskEnded { task, state, reason });
            self.tally.tasks_cancelled += 1;
        }
        tasks.len() as u32
    }

    /// Queues or skips at most `slice` tasks that wait for other tasks no more. Returns how many;
    /// fewer than `slice` when no more are left.
    fn unblock(&mut self, slice: u32) -> u32 {
        let mut done = 0;
        while done < slice
            && let Some(found) = self.state.tasks.find(self.state.unblocked.head)
        {
            done += 1;
            let task = found.id;
            let body = if self.state.owner(found).removed {
                self.tally.tasks_cancelled += 1;
                EventBody::TaskEnded { task, state: FinalState::Cancelled, reason: EndReason::TenantRemoved }
            } else if let Some(&predecessor) = self.state.skips.get(&self.state.unblocked.head) {
                self.tally.tasks_skipped += 1;
                EventBody::TaskEnded { task, state: FinalState::Skipped, reason: EndReason::Skipped { predecessor } }
            } else {
                EventBody::TaskQueued { task }
            };
            self.emit(body);
        }
        done
    }

    /// Tasks of a tenant that do not run. O(shapes of the tenant + `tasks_max`).
    fn idle_tasks_of(&self, tenant: TenantNumber, tasks_max: usize) -> Vec<TaskId> {
        let State { tasks, tenants, shapes, .. } = &self.state;
        let Some(entry) = tenants.find(tenant) else { return Vec::new() };
        let of_shape = |&shape| {
            let shape = shapes.shape(shape);
            shape.queued.slots(tasks).chain(shape.waiting.slots(tasks))
        };
        entry.shapes.iter().flat_map(of_shape).take(tasks_max).map(|slot| tasks[slot].id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_of_work_is_in_the_line_once() {
        let (mut backlog, state) = (Backlog::default(), State::default());
        [1, 2, 1].into_iter().for_each(|tenant| backlog.push(Work::EndTenant(tenant), &state));
        assert_eq!(backlog.pop(), Some(Work::EndTenant(1)));
        backlog.push(Work::EndTenant(1), &state);
        assert_eq!(
            [backlog.pop(), backlog.pop(), backlog.pop()],
            [Some(Work::EndTenant(2)), Some(Work::EndTenant(1)), None]
        );
    }

    #[test]
    fn a_full_line_drops_what_has_come_to_nothing() {
        let (mut backlog, state) = (Backlog::default(), State::default());
        (1..=WORK_MAX as u32 + 1).for_each(|tenant| backlog.push(Work::EndTenant(tenant), &state));
        backlog.assert_consistent(&state);
        assert_eq!(backlog.pop(), Some(Work::EndTenant(WORK_MAX as u32 + 1)), "nothing is left of the tenants before");
    }
}
