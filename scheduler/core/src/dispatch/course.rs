//! The course of one dispatch: rounds, between which a policy outside may be asked.

use super::Dispatch;
use super::round::Round;
use crate::leader::Core;

/// Rounds of one dispatch: a later one uses what an earlier one could not place where it wanted.
const ROUNDS_MAX: u32 = 16;

/// How far a dispatch is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Course {
    /// Attempts that it may start still.
    left: u32,
    rounds: u32,
}

impl Core {
    /// Starts as many attempts as may start now, up to
    /// [`CoreConfig::dispatch_max`](crate::CoreConfig::dispatch_max).
    pub(crate) fn dispatch(&mut self) {
        if let Some((course, round)) = self.course() {
            self.run(course, round);
        }
        self.say_benched();
        self.ask_for_keys();
    }

    /// Holds rounds as long as something starts, or a policy is to be asked.
    fn run(&mut self, mut course: Course, mut decided: Option<Round>) {
        while course.rounds < ROUNDS_MAX && course.left > 0 {
            course.rounds += 1;
            let round = match decided.take() {
                Some(round) => round,
                None => self.round(course.left),
            };
            self.say_benched();
            course.left -= round.started;
            if round.is_asked {
                self.dispatch.course = Some(course);
                return;
            }
            if self.state.depth.queued == 0 || (round.started == 0 && !round.moved_on) {
                // Events that came while a policy was asked may let more tasks start.
                self.unfinished |= self.dispatch.is_awake;
                return;
            }
        }
        // Where nothing has started, nothing would start if the same was tried again at once.
        let has_started = course.left < self.config.dispatch_max;
        self.dispatch.is_awake |= has_started;
        self.unfinished |= self.dispatch.is_awake;
    }

    /// Policies that were benched are events.
    fn say_benched(&mut self) {
        while let Some(benched) = self.dispatch.take_news() {
            self.emit(benched);
            self.unfinished = true;
        }
    }

    /// The dispatch under way, or a new one when something has changed; `None` while a policy is
    /// waited for, and when there is nothing to do. With it the round that a policy has just
    /// decided, or could not.
    fn course(&mut self) -> Option<(Course, Option<Round>)> {
        self.take_key_answer();
        self.bench_silent();
        let round = self.resume();
        if self.dispatch.place.is_waiting() {
            return None;
        }
        let now = self.now;
        let Dispatch { course, place, is_awake, declined, queue, .. } = &mut self.dispatch;
        if let Some(course) = course.take() {
            return Some((course, round));
        }
        *is_awake |= place.stalls.next_due().is_some_and(|due| due <= now);
        if !std::mem::take(is_awake) {
            return None;
        }
        declined.clear();
        queue.put_back();
        place.begin();
        Some((Course { left: self.config.dispatch_max, rounds: 0 }, None))
    }
}
