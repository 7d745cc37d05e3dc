//! Heartbeats: what a host has is compared with what it should have, both ways.

use std::sync::Arc;

use wasmill_protocol::message::{Heartbeat, MODULES_WARM_MAX, StopCause};
use wasmill_protocol::{AttemptId, Digest, HostId, OutcomeKind, Timestamp};

use super::Core;
use super::flight::{Flight, FlightCheck};
use super::hosts::Host;
use crate::config::CoreConfig;
use crate::state::tenants::TenantNumber;

/// Attempts that are read from one heartbeat; no host has more.
const ATTEMPTS_READ_MAX: usize = 65_536;

/// The consequences of one heartbeat.
#[derive(Debug, Default)]
struct Differences {
    /// Not confirmed in time: to be sent again.
    resend: Vec<AttemptId>,
    /// To be told again to stop, or at all because it is not ours.
    stop: Vec<(AttemptId, StopCause)>,
    /// Asked to stop, and the host does not have it: stopped.
    stopped: Vec<AttemptId>,
    /// Never confirmed for too long.
    timed_out: Vec<AttemptId>,
    /// Virtual time of tenants whose attempts have run for longer than they were charged for.
    ran_on: Vec<(TenantNumber, u64)>,
}

impl Core {
    /// A host says what it does. Stale and unknown heartbeats are only counted.
    pub(super) fn heartbeat(&mut self, heartbeat: Heartbeat) {
        let id = heartbeat.host.clone();
        let expected = |host: &&mut Host| {
            let newer = host.heartbeat.as_ref().is_none_or(|last| heartbeat.number > last.number);
            let is_of_life = host.joined && host.incarnation() == heartbeat.incarnation;
            is_of_life && !host.info.is_another_process(heartbeat.process) && newer
        };
        let Some(host) = self.hosts.get_mut(&id).filter(expected) else {
            self.tally.host_news_stale += 1;
            return;
        };
        let before = (host.room(self.now, &self.config), host.credit_stale);
        host.last_seen = self.now;
        host.credit_stale = false;
        if *host.labels != heartbeat.labels {
            host.labels = Arc::new(heartbeat.labels.clone());
        }
        if *host.sated != *heartbeat.sated {
            host.sated = heartbeat.sated.as_slice().into();
        }
        let superseded = &self.state.superseded;
        let differences = host.compare(&heartbeat, self.now, &self.config, |id| superseded.contains(id));
        host.count_memory(&heartbeat, self.now);
        if let Some(warm) = &heartbeat.modules_warm {
            host.note_warm(warm);
        }
        host.heartbeat = Some(heartbeat);
        if (host.room(self.now, &self.config), false) != before {
            self.dispatch.fleet.touch(host.slot);
        }
        self.settle(&id, differences);
        self.dispatch.wake();
    }

    fn settle(&mut self, id: &HostId, differences: Differences) {
        let Differences { resend, stop, stopped, timed_out, ran_on } = differences;
        let host = self.hosts.get_mut(id).expect("it has just been heard");
        let (slot, incarnation) = (host.slot, host.incarnation());
        if !timed_out.is_empty() {
            host.distrusted_until = self.now.plus_ms(self.config.distrust_ms);
            self.dispatch.fleet.touch(slot);
        }
        for (tenant, time) in ran_on {
            self.dispatch.shares.run_on(tenant, time);
            self.dispatch.touch_tenant(tenant);
        }
        for (attempt, cause) in stop {
            self.tally.cancels_resent += 1;
            self.outbox.stop(slot, incarnation, attempt, cause);
        }
        for attempt in resend {
            self.tally.assignments_resent += 1;
            let task = self.state.by_id[&attempt.task];
            let queue_us = self.now.us_since(self.state.tasks[task].queued_at);
            self.outbox.assign_again(slot, incarnation, attempt, queue_us);
        }
        for attempt in stopped {
            let slot = self.state.by_id[&attempt.task];
            self.end_without_result(slot, OutcomeKind::Cancelled, format!("host {id} does not have it any more"));
        }
        for attempt in timed_out.into_iter().rev() {
            self.tally.assignments_timed_out += 1;
            let slot = self.state.by_id[&attempt.task];
            self.end_without_result(slot, OutcomeKind::Returned, format!("not confirmed by host {id}"));
        }
    }
}

impl Host {
    /// Notes which modules are ready to run.
    fn note_warm(&mut self, modules: &[Digest]) {
        let mut modules = modules[..modules.len().min(MODULES_WARM_MAX)].to_vec();
        modules.sort_unstable();
        modules.dedup();
        if *self.modules_warm != *modules {
            self.modules_warm = modules.into();
        }
    }

    /// Notes what the heartbeat lists, and finds what differs.
    fn compare(
        &mut self,
        heartbeat: &Heartbeat,
        now: Timestamp,
        config: &CoreConfig,
        given_up: impl Fn(&AttemptId) -> bool,
    ) -> Differences {
        let mut found = Differences::default();
        let strangers_before = std::mem::take(&mut self.strangers);
        if heartbeat.partial && strangers_before.len() < ATTEMPTS_READ_MAX {
            // Strangers that are not listed this time are not gone for that.
            self.strangers.clone_from(&strangers_before);
        }
        for &id in heartbeat.attempts.iter().take(ATTEMPTS_READ_MAX) {
            match self.flights.get_mut(&id) {
                Some(flight) => flight.listed(heartbeat.number, now),
                None => {
                    // One that has just ended is listed until the acknowledgement arrives: it is
                    // left alone unless it stays.
                    if given_up(&id) || strangers_before.contains(&id) {
                        found.stop.push((id, StopCause::NotCurrent));
                    }
                    self.strangers.insert(id);
                }
            }
        }
        let attempts = self.flights.len() as u64;
        let running = attempts.min(heartbeat.slots.into());
        for (&id, flight) in &mut self.flights {
            flight.charge_what_runs_on((running, attempts), now, &mut found);
            match flight.compare(heartbeat, now, config) {
                FlightCheck::Nothing => {}
                FlightCheck::Resend => found.resend.push(id),
                FlightCheck::TellAgain(cause) => found.stop.push((id, cause)),
                FlightCheck::Stopped => found.stopped.push(id),
                FlightCheck::TimedOut => found.timed_out.push(id),
            }
        }
        found
    }
}

impl Flight {
    /// Charges an attempt that runs for longer than was thought when it was placed. Which attempts
    /// of the host run and which wait there is not known, so the slots count for all of them in
    /// equal parts; what each has really used is charged instead when it has ended.
    fn charge_what_runs_on(&mut self, (running, attempts): (u64, u64), now: Timestamp, found: &mut Differences) {
        let held_us = now.us_since(self.placed_at);
        if !self.is_confirmed() || held_us <= self.charge.us() {
            return;
        }
        let more = self.charge.extend(held_us.saturating_mul(running) / attempts, self.weight);
        match found.ran_on.last_mut().filter(|(tenant, _)| *tenant == self.tenant) {
            Some((_, time)) => *time = time.saturating_add(more),
            None => found.ran_on.push((self.tenant, more)),
        }
    }
}
