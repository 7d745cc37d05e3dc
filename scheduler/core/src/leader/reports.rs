//! Reports of hosts about attempts.

use std::sync::Arc;

use wasmill_protocol::message::{FromHost, Report};
use wasmill_protocol::{AttemptId, HostId, Incarnation, Outcome, OutcomeKind, Payload, Usage};
use wasmill_record::event::{EventBody, Sequel};

use super::Core;
use super::retry::{AttemptHistory, FaultBounds, sequel_of};
use crate::io::ReplyTo;
use crate::state::task::Phase;
use crate::state::{EventSlots, Slot};

/// A longer run time than this is not believed, in microseconds: one day.
const RUN_US_MAX: u64 = 86_400_000_000;

/// The end of an attempt, as it was reported.
#[derive(Debug, Default)]
pub(super) struct Ending {
    pub(super) outcome: Arc<Outcome>,
    pub(super) usage: Usage,
    pub(super) output: Payload,
    pub(super) captured: Payload,
}

impl Core {
    /// Takes in the reports and acknowledges all of them: what is not accepted would not be
    /// accepted later either.
    pub(super) fn reported(&mut self, reply_to: ReplyTo, message: FromHost) {
        let FromHost { host, incarnation, reports } = message;
        for report in reports {
            self.tally.reports += 1;
            let Some(slot) = self.current(report.id(), &host, incarnation) else {
                self.not_current(&report, &host);
                continue;
            };
            match report {
                Report::Ended { outcome, usage, output, captured, .. } => {
                    self.end_attempt(slot, Ending { outcome, usage, output, captured });
                }
                Report::Checkpoint { id, number, data } => {
                    if number > self.state.tasks[slot].checkpoint {
                        self.emit(EventBody::CheckpointSaved { id, number, data });
                    }
                }
                Report::Returned { .. } => {
                    self.end_without_result(slot, OutcomeKind::Returned, format!("handed back by host {host}"));
                    self.wait_for_heartbeat(&host);
                }
            }
        }
        self.ready.acks.push(reply_to);
    }

    /// A host did not take these attempts.
    pub(super) fn assign_refused(&mut self, host: &HostId, attempts: &[AttemptId]) {
        let Some(incarnation) = self.hosts.get(host).map(|host| host.incarnation()) else { return };
        for &id in attempts {
            let Some(slot) = self.current(id, host, incarnation) else { continue };
            // The refusal of a repeated message says nothing about an attempt that the host has
            // shown to hold.
            if self.hosts.get(host).is_some_and(|host| host.holds(id)) {
                continue;
            }
            self.tally.assignments_refused += 1;
            self.end_without_result(slot, OutcomeKind::Returned, format!("not taken by host {host}"));
            self.wait_for_heartbeat(host);
        }
    }

    /// The task whose current attempt is `id` on this life of this host.
    fn current(&self, id: AttemptId, host: &HostId, incarnation: Incarnation) -> Option<Slot> {
        let slot = *self.state.by_id.get(&id.task)?;
        let task = &self.state.tasks[slot];
        if !task.runs(id) {
            return None;
        }
        let placement = self.state.placements.placement(task.placement);
        (placement.host == *host && placement.incarnation == incarnation).then_some(slot)
    }

    /// A report that changes nothing. It is recorded when it tells of an attempt that was given up,
    /// or comes from a host that does not have the attempt, once for each attempt; a mere repeat is
    /// only counted.
    fn not_current(&mut self, report: &Report, host: &HostId) {
        let id = report.id();
        let foreign = self.state.by_id.get(&id.task).is_some_and(|&slot| {
            let task = &self.state.tasks[slot];
            task.runs(id) && !task.late_recorded
        });
        let given_up = self.state.superseded.contains(&id) && matches!(report, Report::Ended { .. });
        if foreign || given_up {
            self.tally.reports_late += 1;
            self.emit(EventBody::ReportLate { id, host: host.clone() });
        } else {
            self.tally.reports_repeated += 1;
        }
    }

    /// Ends the current attempt of the task in `slot` without a report of its own.
    pub(super) fn end_without_result(&mut self, slot: Slot, kind: OutcomeKind, message: String) {
        let cancelled = self.state.tasks[slot].cancel_requested;
        let kind = if cancelled { OutcomeKind::Cancelled } else { kind };
        self.end_attempt(slot, Ending { outcome: Arc::new(Outcome::new(kind, message)), ..Ending::default() });
    }

    /// Ends the current attempt of the task in `slot` and decides what becomes of the task.
    pub(super) fn end_attempt(&mut self, slot: Slot, ending: Ending) {
        let task = &self.state.tasks[slot];
        assert!(task.phase == Phase::Running, "only a running attempt ends");
        let id = task.attempt_id();
        let tenant = self.state.shapes.shape(task.shape).key.tenant;
        let owner = self.state.tenants.entry(tenant);
        let (weight, tenant_removed) = (owner.weight, owner.removed);
        let past = AttemptHistory {
            retry: self.state.retry_rules.value(task.retry_rules).retry(),
            failures: task.failures,
            hosts_lost: task.hosts_lost,
            host_faults: task.host_faults,
            cancel_requested: task.cancel_requested,
            tenant_removed,
        };
        let placed_on = &self.state.placements.placement(task.placement).host;
        let flight = self.hosts.get_mut(placed_on).and_then(|host| {
            self.dispatch.fleet.touch(host.slot);
            host.ended(id)
        });
        let bounds =
            FaultBounds { hosts_lost_max: self.config.hosts_lost_max, host_faults_max: self.config.host_faults_max };
        let Ending { outcome, usage, mut output, mut captured } = ending;
        let next = sequel_of(outcome.kind, &past, bounds, self.now, &mut self.random);
        if tenant_removed {
            (output, captured) = (Payload::Empty, Payload::Empty);
        } else {
            let charge = flight.as_ref().map(|flight| flight.charge).unwrap_or_default();
            // A lost host cannot say how long the attempt has run, and it was the tenant's all that
            // time.
            let held_us = flight.filter(|_| outcome.kind == OutcomeKind::HostLost);
            let held_us = held_us.map_or(0, |flight| self.now.us_since(flight.placed_at));
            let run_us = usage.spent().run_us.max(held_us).min(RUN_US_MAX);
            self.dispatch.shares.ended(tenant, weight, run_us, charge);
        }
        self.dispatch.touch_tenant(tenant);
        if !matches!(next, Sequel::Final { .. }) {
            // A failed attempt can have a result; that of one which is tried again is nobody's.
            output = Payload::Empty;
        }
        self.tally.attempt_ended(outcome.kind, next);
        let known = EventSlots { task: Some(slot), placement: None };
        self.emit_at(EventBody::AttemptEnded { id, outcome, usage, output, captured, next }, known);
    }
}
