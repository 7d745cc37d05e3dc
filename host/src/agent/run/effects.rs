//! Carries out the core's effects.

use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument;
use wasmill_fabric::Content;
use wasmill_host_core::bounds::REPORT_TIMEOUT_MS;
use wasmill_host_core::{Batch, Ended, Input, Ready, ReplyTo, StopReason};
use wasmill_protocol::message::{Assignment, ReportAck, subjects};
use wasmill_protocol::{AttemptId, Outcome, OutcomeKind, Payload, Usage};

use super::{Agent, Done};
use crate::channel::{self, FromSandbox, ToSandbox};
use crate::compile::Payer;
use crate::engine::Profile;
use crate::trace;

impl Agent {
    /// Does everything that follows from the steps so far. Returns whether the host is drained.
    pub(super) fn settle(&mut self) -> bool {
        self.step(Input::Tick);
        loop {
            let Ready { acks, start, give_up, stop, batches, heartbeat, drained } = self.core.take_ready();
            let nothing_left = start.is_empty() && stop.is_empty();
            for (ReplyTo(index), ack) in acks {
                let responder = usize::try_from(index).ok().and_then(|index| self.responders.get_mut(index)?.take());
                if let Some(responder) = responder {
                    responder.respond(Content::of(ack));
                }
            }
            self.responders.clear();
            start.into_iter().for_each(|assignment| self.start(assignment));
            for id in give_up {
                if let Some(readying) = self.readying.remove(&id) {
                    readying.abort();
                }
            }
            stop.into_iter().for_each(|(id, reason)| self.stop(id, reason));
            batches.into_iter().for_each(|batch| self.report(batch));
            if let Some(heartbeat) = heartbeat.filter(|_| !self.publishing) {
                self.publishing = true;
                self.metrics.beat(&heartbeat);
                let sent = self.bus.publish(&subjects::heartbeats(&self.info.id), Content::of(heartbeat).into_bytes());
                self.doing.spawn(async move {
                    if let Err(error) = sent.await {
                        tracing::debug!("a heartbeat was not sent: {error}");
                    }
                    Done::Published
                });
            }
            // To start or stop can end an attempt at once, which is another step.
            if nothing_left || drained {
                self.flush();
                return drained;
            }
        }
    }

    fn start(&mut self, assignment: Assignment) {
        if let Some(ended) = self.known.ask(&assignment) {
            trace::queued(&assignment);
            tracing::debug!(task = %assignment.id.task, "the result is known already");
            return self.hear_sandbox(FromSandbox::Ended(Box::new(ended)));
        }
        let profile = Profile::of(&assignment.spec.limits, assignment.spec.seed_of(assignment.id.task));
        if !self.readiness.is_ready(assignment.spec.module, profile) {
            return self.make_ready(assignment, profile);
        }
        trace::queued(&assignment);
        match self.preparation.at_once(&assignment) {
            Some(work) => self.outgoing.push_back(ToSandbox::Start(work)),
            None => {
                let id = assignment.id;
                let fetch = self.preparation.clone().fetch(assignment);
                let handle = self.doing.spawn(async move { Done::Prepared(id, fetch.await) });
                self.fetching.insert(id, handle);
            }
        }
    }

    /// The attempt gives its place back until its module is ready.
    fn make_ready(&mut self, assignment: Assignment, profile: Profile) {
        let id = assignment.id;
        self.known.forget(id);
        let payer = Payer { tenant: assignment.spec.tenant.clone(), ms_per_s: assignment.compile_ms_per_s };
        let ready =
            self.preparation.clone().make_ready(Arc::clone(&self.readiness), assignment.spec.module, profile, payer);
        let ready = ready.instrument(trace::prepare(&assignment));
        let handle = self.doing.spawn(async move { Done::Readied(id, ready.await) });
        self.readying.insert(id, handle);
        self.step(Input::Unready(Box::new(assignment)));
    }

    fn stop(&mut self, id: AttemptId, reason: StopReason) {
        let (reason, cause) = match reason {
            StopReason::Asked(cause) => (channel::StopReason::Asked, cause.as_str()),
            StopReason::Drained => (channel::StopReason::Drained, "drained"),
        };
        tracing::debug!(task = %id.task, attempt = id.attempt.0, cause, "an attempt is stopped");
        if let Some(fetch) = self.fetching.remove(&id) {
            fetch.abort();
            return self.end_here(id, OutcomeKind::Cancelled, "stopped before it started");
        }
        self.outgoing.push_back(ToSandbox::Stop(id, reason));
    }

    /// Ends an attempt that never reached the sandbox.
    pub(super) fn end_here(&mut self, id: AttemptId, kind: OutcomeKind, message: &str) {
        self.end_unstarted(id, Outcome::new(kind, message), 0);
    }

    pub(super) fn end_unstarted(&mut self, id: AttemptId, outcome: Outcome, compile_us: u64) {
        self.known.forget(id);
        let (output, captured) = (Payload::Empty, Payload::Empty);
        let usage = Usage { compile_us, ..Usage::default() };
        self.step(Input::Ended(Ended { id, outcome: Arc::new(outcome), usage, output, captured }));
    }

    fn report(&mut self, batch: Batch) {
        let (bus, subject) = (Arc::clone(&self.bus), subjects::reports(&self.info.id));
        self.doing.spawn(async move {
            let timeout = Duration::from_millis(REPORT_TIMEOUT_MS);
            let reports = batch.message.reports.len();
            let answer = bus.ask(&subject, Content::of(batch.message), timeout).await;
            let ack = match answer {
                Ok(answer) => answer.read::<ReportAck>().map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = &ack {
                tracing::debug!(reports, "reports were not acknowledged: {reason}");
            }
            Done::Reported(batch.number, ack.ok())
        });
    }

    /// Gives the sandbox as much as its channel takes.
    pub(super) fn flush(&mut self) {
        while let Some(next) = self.outgoing.pop_front() {
            if let Err(error) = self.to_sandbox.try_send(next) {
                // A closed channel is noticed by the loop, which waits for room.
                self.outgoing.push_front(error.into_inner());
                return;
            }
        }
    }
}
