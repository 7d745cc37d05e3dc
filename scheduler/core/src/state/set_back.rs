//! Times that lie ahead when a term begins at an earlier time than the record before it: a clock
//! was ahead.

use wasmill_protocol::Timestamp;

use super::State;
use super::slab::Slot;
use super::task::{Phase, Task};
use super::timers::Timer;

impl State {
    /// The time is `at` from here on. Durations that were counted from a later time are counted
    /// from now: waits for a retry, patience in the queue. A time that somebody has asked for stays
    /// as it is. O(tasks), and as rare as a clock that is set back.
    pub(super) fn set_back(&mut self, at: Timestamp) {
        let slots: Vec<Slot> = self.by_id.values().copied().collect();
        for slot in slots {
            let task = &self.tasks[slot];
            let (phase, shape) = (task.phase, task.shape);
            let retry_rules = self.retry_rules.value(task.retry_rules);
            let (queued_at, timer) = match task.phase {
                Phase::Queued if task.queued_at > at => {
                    // Never zero, which means no timer.
                    let expires = retry_rules.expires_ms.map(|expires_ms| at.plus_ms(expires_ms).max(Timestamp(1)));
                    (at, expires.unwrap_or_default())
                }
                Phase::Waiting if task.failures > 0 => {
                    (task.queued_at, task.timer.min(at.plus_ms(retry_rules.backoff_ms_max).max(Timestamp(1))))
                }
                _ => continue,
            };
            self.move_timer(slot, timer);
            self.tasks[slot].queued_at = queued_at;
            if phase == Phase::Queued {
                self.shapes.set_back(shape, at);
            }
        }
    }

    fn move_timer(&mut self, slot: Slot, timer: Timestamp) {
        let Task { timer: before, .. } = self.tasks[slot];
        if before != timer {
            if before != Timestamp(0) {
                self.timers.remove(before, Timer::Task(slot));
            }
            if timer != Timestamp(0) {
                self.timers.insert(timer, Timer::Task(slot));
            }
            self.tasks[slot].timer = timer;
        }
    }
}
