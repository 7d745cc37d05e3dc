//! The life of one task, as a newcomer would write it down.

use std::sync::Arc;

use wasmill_protocol::task::{Edge, RetryOn};
use wasmill_protocol::{Attempt, AttemptId, FinalState, OutcomeKind, Payload, TaskSpec, Term, Timestamp};
use wasmill_record::event::{EndReason, Event, EventBody, Sequel};

use super::{Checked, Oracle, Violation, hold};
use crate::marks::{Mark, Marks};

/// Where a task stands according to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not before this time, nor before the tasks that it waits for have ended.
    Waiting(Timestamp),
    /// Could start.
    Queued,
    /// With a current attempt.
    Running(AttemptId),
    /// Final.
    Ended(FinalState),
}

/// What the log says of one task.
#[derive(Debug)]
pub struct Life {
    /// What was submitted.
    pub spec: Arc<TaskSpec>,
    /// What it waits for first.
    pub edges: Vec<Edge>,
    /// Where it stands.
    pub phase: Phase,
    /// Somebody asked for it to stop.
    pub cancel_asked: bool,
    /// Its tenant was removed: nobody may have its result.
    pub orphaned: bool,
    /// The term in which that was.
    pub orphaned_in: Term,
    attempts: u32,
    own_failures: u32,
    hosts_lost: u32,
    checkpoint: u32,
}

impl Life {
    /// A task that was just accepted.
    pub(super) fn new(at: Timestamp, spec: Arc<TaskSpec>, edges: Vec<Edge>) -> Self {
        let waits = !edges.is_empty() || spec.not_before > at;
        let phase = if waits { Phase::Waiting(spec.not_before) } else { Phase::Queued };
        Self {
            spec,
            edges,
            phase,
            cancel_asked: false,
            orphaned: false,
            orphaned_in: Term(0),
            attempts: 0,
            own_failures: 0,
            hosts_lost: 0,
            checkpoint: 0,
        }
    }

    /// Whether an attempt has started.
    pub(super) fn was_tried(&self) -> bool {
        self.attempts > 0
    }

    /// The current attempt.
    pub fn current(&self) -> Option<AttemptId> {
        match self.phase {
            Phase::Running(id) => Some(id),
            Phase::Waiting(_) | Phase::Queued | Phase::Ended(_) => None,
        }
    }

    pub(super) fn started(&mut self, id: AttemptId) -> Checked {
        hold!(self.phase == Phase::Queued, "{id:?} was started while the task was {:?}", self.phase);
        hold!(id.attempt == Attempt(self.attempts + 1), "{id:?} follows attempt {}", self.attempts);
        hold!(!self.cancel_asked, "{id:?} was started after the task was asked to stop");
        self.attempts += 1;
        self.checkpoint = 0;
        self.phase = Phase::Running(id);
        Ok(())
    }

    /// It is `at`, and was later before: what waits for another try waits no longer than it may from now on.
    pub(super) fn set_back(&mut self, at: Timestamp) {
        if let Phase::Waiting(until) = &mut self.phase
            && self.own_failures > 0
        {
            *until = (*until).min(at.plus_ms(self.spec.retry.backoff_ms_max));
        }
    }

    pub(super) fn event(&mut self, event: &Event, marks: &mut Marks) -> Checked {
        let body = &event.body;
        hold!(!matches!(self.phase, Phase::Ended(_)), "an event after the end {:?}: {body:?}", self.phase);
        match body {
            EventBody::TaskQueued { task } => {
                let Phase::Waiting(until) = self.phase else {
                    return Err(Violation(format!("{task} was queued while {:?}", self.phase)));
                };
                hold!(event.at >= until, "{task} was queued at {:?}, before {until:?}", event.at);
                self.phase = Phase::Queued;
            }
            EventBody::CancelRequested { .. } => self.cancel_asked = true,
            EventBody::CheckpointSaved { id, number, .. } => {
                marks.hit(Mark::CheckpointSaved);
                hold!(self.current() == Some(*id), "a checkpoint of {id:?} while {:?}", self.phase);
                hold!(*number > self.checkpoint, "checkpoint {number} of {id:?} after {}", self.checkpoint);
                self.checkpoint = *number;
            }
            EventBody::AttemptEnded { id, outcome, output, next, .. } => {
                hold!(self.current() == Some(*id), "{id:?} ended while {:?}", self.phase);
                if self.orphaned {
                    hold!(*output == Payload::Empty, "{id:?} of a removed tenant was recorded with its result");
                } else if outcome.kind == OutcomeKind::Succeeded {
                    Oracle::check_output(*id, output)?;
                }
                self.ended(event.at, outcome.kind, *next, marks)?;
            }
            EventBody::TaskEnded { state, reason, task } => {
                hold!(self.current().is_none(), "{task} ended without its attempt {:?}", self.phase);
                self.mark_end(reason, marks);
                self.phase = Phase::Ended(*state);
            }
            _ => {}
        }
        Ok(())
    }

    fn ended(&mut self, at: Timestamp, kind: OutcomeKind, next: Sequel, marks: &mut Marks) -> Checked {
        let own = !matches!(kind, OutcomeKind::HostLost | OutcomeKind::HostFault | OutcomeKind::Returned);
        self.own_failures += u32::from(own && kind != OutcomeKind::Succeeded);
        self.hosts_lost += u32::from(kind == OutcomeKind::HostLost);
        let retry = self.spec.retry;
        self.phase = match next {
            Sequel::Final { state } => {
                let succeeded = kind == OutcomeKind::Succeeded && !self.orphaned;
                hold!(succeeded == (state == FinalState::Succeeded), "{kind:?} made a task {state:?}");
                if state == FinalState::Failed {
                    self.check_failed(kind)?;
                }
                self.mark_final(kind, state, marks);
                Phase::Ended(state)
            }
            Sequel::Retry { not_before } => {
                marks.hit(Mark::AttemptRetried);
                hold!(own, "{kind:?} is not the task's own failure and uses up a retry");
                hold!(self.own_failures < retry.attempts_max, "a retry after {} own failures", self.own_failures);
                hold!(!self.cancel_asked, "a task that was asked to stop is tried again");
                let on_any = retry.on == RetryOn::AnyFailure;
                let never = matches!(kind, OutcomeKind::Rejected | OutcomeKind::ModuleInvalid | OutcomeKind::Cancelled);
                hold!(!never && (on_any || kind == OutcomeKind::Errored), "{kind:?} was tried again");
                let latest = at.plus_ms(retry.backoff_ms_max);
                hold!(
                    not_before <= latest,
                    "the next attempt waits until {not_before:?}, at most {latest:?} is allowed"
                );
                if not_before > at { Phase::Waiting(not_before) } else { Phase::Queued }
            }
            Sequel::Requeue => {
                marks.hit(if kind == OutcomeKind::HostLost { Mark::AttemptLost } else { Mark::AttemptReturned });
                hold!(!own, "{kind:?} is the task's own failure and was not counted");
                hold!(!self.cancel_asked, "a task that was asked to stop is queued again");
                Phase::Queued
            }
        };
        Ok(())
    }

    /// A task fails only when nothing is left to try.
    fn check_failed(&self, kind: OutcomeKind) -> Checked {
        let used_up = self.own_failures >= self.spec.retry.attempts_max;
        let tried_again = kind == OutcomeKind::Errored
            || (self.spec.retry.on == RetryOn::AnyFailure
                && matches!(kind, OutcomeKind::Trapped | OutcomeKind::FuelExhausted | OutcomeKind::DeadlineExceeded));
        hold!(used_up || !tried_again || self.cancel_asked, "{kind:?} failed the task with attempts left");
        hold!(
            kind != OutcomeKind::HostLost || self.hosts_lost >= 3,
            "failed after {} hosts were lost",
            self.hosts_lost
        );
        Ok(())
    }

    fn mark_final(&self, kind: OutcomeKind, state: FinalState, marks: &mut Marks) {
        match state {
            FinalState::Succeeded => marks.hit(Mark::TaskSucceeded),
            FinalState::Failed => marks.hit(Mark::TaskFailed),
            FinalState::Cancelled => marks.hit(Mark::TaskCancelledRunning),
            FinalState::Skipped => {}
        }
        if kind == OutcomeKind::HostLost && state == FinalState::Failed {
            marks.hit(Mark::TaskQuarantined);
        }
    }

    fn mark_end(&self, reason: &EndReason, marks: &mut Marks) {
        match reason {
            EndReason::Cancelled { .. } => marks.hit(Mark::TaskCancelledWaiting),
            EndReason::Expired => marks.hit(Mark::TaskExpired),
            // A skipped one is marked by its edges.
            EndReason::TenantRemoved | EndReason::Skipped { .. } => {}
        }
    }
}
