//! Timers and deadlines: decisions that follow from the time.

use wasmill_protocol::{FinalState, HostId};
use wasmill_record::event::{EndReason, EventBody};

use super::Core;
use crate::state::task::{Phase, Task};
use crate::state::{Slot, Timer};

/// A time that the present leader waits for. No log holds it: the next leader begins without.
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
        // Timers without end leave half of the budget to large work.
        let kept = if self.backlog.is_empty() { 0 } else { self.config.batch_max / 2 };
        let left = self.fire_timers(self.config.batch_max - kept);
        self.unfinished |= left == 0;
        self.work_off(left + kept);
        self.unfinished |= !self.backlog.is_empty();
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
            Phase::Running | Phase::Blocked | Phase::Unblocked => {
                unreachable!("only tasks that wait for a time have a timer")
            }
        }
    }
}
