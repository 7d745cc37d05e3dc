//! Attempts start, say what they do, end, and are stopped when the host has to let go of them.

use std::sync::Arc;

use wasmill_protocol::message::{Assignment, Progress, Report, StopCause};
use wasmill_protocol::{AttemptId, Incarnation, OutcomeKind, Payload, Timestamp};

use super::{HeldAttempt, HostCore, Phase, RunningAttempt};
use crate::bounds::PROGRESS_BYTES_MAX;
use crate::io::{Ended, StopReason};

impl HostCore {
    /// Starts what may start now.
    pub(super) fn start_waiting(&mut self) -> Vec<Assignment> {
        let mut start = Vec::new();
        while let Some((mut waiting, place)) = self.admission.start_next() {
            let queue_us = waiting.queue_us(self.now);
            let running = RunningAttempt {
                place,
                queue_us,
                taken: (waiting.taken_at, waiting.assignment.queue_us),
                compile_us: waiting.compile_us,
                stop: None,
                checkpoint_number: 0,
                progress: None,
            };
            self.prefetch.note_started(self.now.us_since(waiting.taken_at));
            self.counters.started += 1;
            self.held.insert(waiting.assignment.id, HeldAttempt::Running(running));
            waiting.assignment.queue_us = queue_us;
            start.push(waiting.assignment);
        }
        start
    }

    pub(super) fn handle_ended(&mut self, ended: Ended) {
        let id = ended.id;
        if let Some(place) = self.abandoned.remove(&id) {
            self.admission.release(&place);
            self.load.note_ended(self.now, &ended.usage.spent());
            return;
        }
        let running = match self.held.get(&id) {
            Some(HeldAttempt::Running(running)) => running,
            Some(HeldAttempt::Unready) => return self.handle_never_ready(ended),
            Some(HeldAttempt::Waiting | HeldAttempt::Ended) | None => return,
        };
        self.admission.release(&running.place);
        let Ended { mut outcome, mut usage, output, captured, .. } = ended;
        self.prefetch.note_ended();
        self.load.note_ended(self.now, &usage.spent());
        usage.queue_us = running.queue_us;
        usage.compile_us = running.compile_us;
        // One that was stopped by us and ended by itself in the same moment has a result like any
        // other.
        let stop = running.stop.filter(|_| outcome.kind == OutcomeKind::Cancelled);
        if stop.is_some_and(StopReason::hands_back) {
            self.counters.returned += 1;
            return self.end(Report::Returned { id });
        }
        if let Some(StopReason::Asked(cause)) = stop
            && cause != StopCause::Cancelled
        {
            Arc::make_mut(&mut outcome).message = cause.message().to_owned();
        }
        self.counters.ended += 1;
        self.end(Report::Ended { id, outcome, usage, output, captured });
    }

    pub(super) fn handle_checkpoint(&mut self, id: AttemptId, number: u32, data: Payload) {
        let Some(HeldAttempt::Running(running)) = self.held.get_mut(&id) else { return };
        if number > running.checkpoint_number {
            running.checkpoint_number = number;
            self.outbox.push_checkpoint(Report::Checkpoint { id, number, data });
        }
    }

    pub(super) fn handle_progress(&mut self, id: AttemptId, mut progress: Progress) {
        let Some(HeldAttempt::Running(running)) = self.held.get_mut(&id) else { return };
        progress.message.truncate(progress.message.floor_char_boundary(PROGRESS_BYTES_MAX));
        running.progress = Some(Box::new(progress));
    }

    pub(super) fn handle_drain(&mut self, mut stop_at: Timestamp, mut give_up_at: Timestamp) {
        match self.phase {
            Phase::Serving => self.pulse.ask(),
            Phase::Draining { stop_at: stop_before, give_up_at: give_up_before } => {
                stop_at = stop_at.min(stop_before);
                give_up_at = give_up_at.min(give_up_before);
            }
        }
        self.phase = Phase::Draining { stop_at: stop_at.min(give_up_at), give_up_at };
        for waiting in self.admission.remove_all() {
            self.counters.returned += 1;
            self.end(Report::Returned { id: waiting.assignment.id });
        }
        for id in self.give_up_unready() {
            self.counters.returned += 1;
            self.end(Report::Returned { id });
        }
    }

    /// Stops what still runs when the grace of a drain is over.
    pub(super) fn stop_at_grace(&mut self) {
        let Phase::Draining { stop_at, .. } = self.phase else { return };
        if self.now < stop_at {
            return;
        }
        for (id, held) in &mut self.held {
            if let HeldAttempt::Running(running) = held
                && running.stop.is_none()
            {
                running.stop = Some(StopReason::Drained);
                self.stops.push((*id, StopReason::Drained));
            }
        }
    }

    /// The leader has given everything that is here to other hosts: what runs is stopped, what is
    /// known of it is dropped.
    pub(super) fn handle_lease_lost(&mut self) {
        if !std::mem::replace(&mut self.leased, false) {
            return;
        }
        self.admission.remove_all();
        self.give_up_unready();
        self.outbox.clear();
        for (id, held) in std::mem::take(&mut self.held) {
            self.recent.insert(id, ());
            self.counters.abandoned += 1;
            if let HeldAttempt::Running(running) = held {
                if running.stop.is_none() {
                    self.stops.push((id, StopReason::Drained));
                }
                self.abandoned.insert(id, running.place);
            }
        }
    }

    pub(super) fn handle_lease_regained(&mut self, incarnation: Incarnation) {
        assert!(incarnation > self.incarnation, "a new life of the host with an old incarnation");
        // Without having heard of a loss there was one all the same: the incarnation before is
        // gone.
        self.handle_lease_lost();
        self.incarnation = incarnation;
        self.leased = true;
        self.pulse.announce();
        self.warm.tell_again();
    }
}
