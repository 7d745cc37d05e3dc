//! What happens because time has passed.

use wasmill_protocol::{FinalState, HostId, TaskId};
use wasmill_record::event::{EndReason, EventBody};

use super::Core;
use crate::state::task::{Phase, Task};
use crate::state::tenants::TenantNumber;
use crate::state::{NONE, Slot, Timer};

/// What a leader waits for that no log holds: the next leader begins without.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deadline {
    /// Hosts that ran something when this leader began are given up.
    Awaited,
    /// A host that has left is forgotten.
    Left(HostId),
}

impl Core {
    /// Handles what is due, up to [`CoreConfig::batch_max`](crate::CoreConfig::batch_max) tasks.
    pub(super) fn advance(&mut self) {
        while let Some(deadline) = self.deadlines.take_due(self.now) {
            match deadline {
                Deadline::Awaited => self.give_up_awaited(),
                Deadline::Left(host) => self.forget_host(&host),
            }
        }
        let left = self.fire_timers(self.config.batch_max);
        let left = self.end_tasks_of_removed_tenants(left);
        self.unfinished |= left == 0;
    }

    /// Fires the timers whose time has come. Returns what is left of `budget`.
    fn fire_timers(&mut self, mut budget: u32) -> u32 {
        while budget > 0
            && let Some(&timer) = self.state.timers.due(self.now)
        {
            budget -= 1;
            match timer {
                Timer::Task(slot) => self.fire_task(slot),
            }
        }
        budget
    }

    /// Queues a task whose time has come, or ends one that waited too long.
    fn fire_task(&mut self, slot: Slot) {
        let Task { id: task, phase, .. } = self.state.tasks[slot];
        match phase {
            Phase::Waiting => self.emit(EventBody::TaskQueued { task }),
            Phase::Queued => {
                self.tally.tasks_expired += 1;
                self.emit(EventBody::TaskEnded { task, state: FinalState::Failed, reason: EndReason::Expired });
            }
            Phase::Running => unreachable!("only tasks that wait have a timer"),
        }
    }

    /// Ends tasks whose tenant is gone and that do not run. Returns what is left of `budget`.
    fn end_tasks_of_removed_tenants(&mut self, mut budget: u32) -> u32 {
        while budget > 0
            && let Some(&tenant) = self.removed_tenants.first()
        {
            let Some(task) = self.idle_task_of(tenant) else {
                self.removed_tenants.remove(&tenant);
                continue;
            };
            budget -= 1;
            let (state, reason) = (FinalState::Cancelled, EndReason::TenantRemoved);
            self.emit(EventBody::TaskEnded { task, state, reason });
            self.tally.tasks_cancelled += 1;
        }
        budget
    }

    fn idle_task_of(&self, tenant: TenantNumber) -> Option<TaskId> {
        let shapes = &self.state.tenants.find(tenant)?.shapes;
        let heads = shapes.iter().flat_map(|&shape| {
            let shape = self.state.shapes.shape(shape);
            [shape.queued.head, shape.waiting.head]
        });
        heads.into_iter().find(|&slot| slot != NONE).map(|slot| self.state.tasks[slot].id)
    }
}
