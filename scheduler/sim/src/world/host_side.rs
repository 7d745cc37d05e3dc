//! The hosts' shells.

use std::sync::Arc;

use wasmill_host_core::{Input, Ready, ReplyTo};
use wasmill_protocol::message::{Assignment, Heartbeat, Report, ToHost};
use wasmill_protocol::{AttemptId, OutcomeKind, Payload, Term, Timestamp};

use super::{Fault, Happening, Sender, World};
use crate::guest::Plan;
use crate::hosts::BatchAddress;
use crate::marks::Mark;
use crate::network::{self, Place};
use crate::oracle::{Checked, hold};
use crate::plant::Plant;

/// How long a host waits for the answer to a batch, in microseconds.
const BATCH_TIMEOUT_US: u64 = wasmill_host_core::bounds::REPORT_TIMEOUT_MS * 1_000;
/// One tick of the sandbox: how long a guest goes on after it was stopped at most, in microseconds.
const TICK_US: u64 = 10_000;

impl World {
    /// Does what the host's core asks for, and sees to it that it is woken in time.
    pub(super) fn pump_host(&mut self, index: usize) -> Checked {
        loop {
            let host = &mut self.hosts[index];
            if host.paused_until > self.now {
                return Ok(());
            }
            let Some(core) = &mut host.core else { return Ok(()) };
            let ready = core.take_ready();
            if ready.is_empty() {
                break;
            }
            self.host_ready(index, ready)?;
        }
        self.arm_host(index);
        Ok(())
    }

    fn host_ready(&mut self, index: usize, ready: Ready) -> Checked {
        let life = self.hosts[index].life;
        for (reply_to, ack) in ready.acks {
            let Some(sender) = self.hosts[index].senders.remove(&reply_to) else { continue };
            let host = self.hosts[index].id.clone();
            for arrival in self.arrivals(Place::Host(index), Place::Node(sender.node)) {
                self.at_time(arrival, Happening::HostAck(sender, Box::new((host.clone(), ack.clone()))));
            }
        }
        for assignment in &ready.start {
            self.start_guest(index, assignment)?;
        }
        for id in ready.give_up {
            self.marks.hit(Mark::UnreadyGivenUp);
            self.hosts[index].readying.remove(&id);
        }
        for (id, _) in ready.stop {
            let delay = self.rng.below(TICK_US);
            self.at(delay, Happening::GuestStopped(index, life, id));
        }
        for batch in ready.batches {
            let address = self.hosts[index].address(index, &batch);
            self.hosts[index].batches.insert(batch.number, Arc::clone(&batch.message));
            for node in self.listening() {
                for arrival in self.arrivals(Place::Host(index), Place::Node(node)) {
                    self.at_time(arrival, Happening::FromHost(node, address, Arc::clone(&batch.message)));
                }
            }
            self.at(BATCH_TIMEOUT_US, Happening::BatchTimeout(address));
        }
        if let Some(heartbeat) = ready.heartbeat {
            let place = (heartbeat.host.clone(), heartbeat.incarnation);
            let credit = self.oracle.credits.entry(place.clone()).or_default();
            *credit = (*credit).max(heartbeat.credit);
            let promise = self.oracle.promises.entry(place).or_default();
            *promise = (*promise).max(promised_at_most(&heartbeat));
            let heartbeat = Arc::new(heartbeat);
            for node in self.listening() {
                for arrival in self.arrivals(Place::Host(index), Place::Node(node)) {
                    self.at_time(arrival, Happening::Heartbeat(node, Arc::clone(&heartbeat)));
                }
            }
        }
        if ready.drained && self.hosts[index].draining {
            self.fault(Fault::HostStops(index));
        }
        Ok(())
    }

    fn start_guest(&mut self, index: usize, assignment: &Assignment) -> Checked {
        if self.is_unready(index, assignment) {
            return Ok(());
        }
        let host = &mut self.hosts[index];
        let (life, id) = (host.life, assignment.id);
        host.run(assignment)?;
        let incarnation = host.core.as_ref().map_or(host.incarnation, |core| core.incarnation());
        self.oracle.guest_started(id, &host.id, incarnation)?;
        let plan = host.guests[&id].plan.clone();
        self.at(plan.run_us, Happening::GuestEnds(index, life, id));
        if let Some(checkpoint_us) = plan.checkpoint_us {
            self.at(checkpoint_us, Happening::GuestCheckpoint(index, life, id));
        }
        Ok(())
    }

    /// Whether the module of an attempt must be compiled first; then that begins.
    fn is_unready(&mut self, index: usize, assignment: &Assignment) -> bool {
        let host = &mut self.hosts[index];
        let (life, id) = (host.life, assignment.id);
        let Some(unready_us) = Plan::of(id, &assignment.spec).unready_us else { return false };
        if host.readied.contains(&id) || host.ran.contains_key(&id) {
            return false;
        }
        host.readying.insert(id);
        self.marks.hit(Mark::AttemptUnready);
        self.step_host(index, life, Input::Unready(Box::new(assignment.clone())));
        self.at(unready_us, Happening::GuestReadied(index, life, id));
        // A shell that forgets that it has said so.
        self.plant != Some(Plant::UnreadyStarted)
    }

    pub(super) fn guest_readied(&mut self, index: usize, life: u64, id: AttemptId) {
        if let Some(later) = self.deferred(index) {
            self.at_time(later, Happening::GuestReadied(index, life, id));
            return;
        }
        let host = &mut self.hosts[index];
        if host.life == life && host.readying.remove(&id) {
            host.readied.insert(id);
            self.step_host(index, life, Input::Readied { id, compile_us: 1 });
        }
    }

    fn arm_host(&mut self, index: usize) {
        let (now, host) = (self.now, &mut self.hosts[index]);
        let Some(next) = host.core.as_ref().and_then(|core| core.next_timeout()) else { return };
        let next = next.max(now.plus_us(1));
        if host.tick_at.wants(now, next) {
            let life = host.life;
            self.at_time(next, Happening::HostTick(index, life));
        }
    }

    /// Steps a host's core, unless that life of it is over.
    fn step_host(&mut self, index: usize, life: u64, input: Input) {
        let now = self.now;
        let host = &mut self.hosts[index];
        if host.life == life
            && let Some(core) = &mut host.core
        {
            core.step(now, input);
            self.touch_host(index);
        }
    }

    /// When a stopped process would see something that happens now; `None` if it is not stopped.
    pub(super) fn deferred(&self, index: usize) -> Option<Timestamp> {
        let until = self.hosts[index].paused_until;
        (until > self.now).then_some(until)
    }

    pub(super) fn host_tick(&mut self, index: usize, life: u64) {
        if let Some(later) = self.deferred(index) {
            self.at_time(later, Happening::HostTick(index, life));
            return;
        }
        if self.hosts[index].life == life && self.hosts[index].tick_at.comes(self.now) {
            self.step_host(index, life, Input::Tick);
        }
    }

    pub(super) fn reach_host(&mut self, index: usize, sender: Sender, message: &Arc<ToHost>) -> Checked {
        if let Some(later) = self.deferred(index) {
            self.at_time(later, Happening::ToHost(index, sender, Arc::clone(message)));
            return Ok(());
        }
        let host = &mut self.hosts[index];
        if host.core.is_none() {
            return Ok(());
        }
        let life = host.life;
        let stale = message.term < host.term_seen;
        host.term_seen = host.term_seen.max(message.term);
        let stopped: Vec<_> = message.stop.iter().map(|(id, _)| *id).collect();
        let mut message = ToHost::clone(message);
        match self.plant {
            Some(Plant::IncarnationIgnored) => message.incarnation = host.incarnation,
            Some(Plant::HostTrustsStaleLeader) => message.term = host.term_seen,
            Some(Plant::HostForgetsCancels) => {
                let core = host.core.as_ref();
                message.stop.retain(|(id, _)| core.is_some_and(|core| core.holds(*id)));
            }
            Some(Plant::HostForgetsRecent) => {
                let again = message.assign.iter().find(|assignment| host.ran.contains_key(&assignment.id));
                if let Some(again) = again.cloned() {
                    host.guests.remove(&again.id);
                    self.start_guest(index, &again)?;
                }
            }
            _ => {}
        }
        let host = &mut self.hosts[index];
        let heard = !stale && !host.lease_lost && message.incarnation == host.incarnation;
        if heard && message.assign.iter().any(|assignment| host.cancelled.contains(&assignment.id)) {
            self.marks.hit(Mark::CancelOvertook);
        }
        let stopped = if heard { stopped } else { Vec::new() };
        let holds = |id: &AttemptId| host.core.as_ref().is_some_and(|core| core.holds(*id));
        let new: Vec<_> = message.assign.iter().map(|assignment| assignment.id).filter(|id| !holds(id)).collect();
        let reply_to = ReplyTo(host.next_reply);
        host.next_reply += 1;
        host.senders.insert(reply_to, sender);
        self.step_host(index, life, Input::Message { reply_to, message });
        // What started before its cancel came is stopped.
        let host = &mut self.hosts[index];
        let runs = |id: &AttemptId| host.guests.contains_key(id);
        host.cancelled.extend(stopped.into_iter().filter(|id| !runs(id)));
        if stale {
            let core = self.hosts[index].core.as_ref();
            let taken = new.iter().find(|id| core.is_some_and(|core| core.holds(**id)));
            hold!(taken.is_none(), "{taken:?} was taken from a leader that the host knows to be replaced");
        }
        Ok(())
    }

    /// An answer to a batch: the first one counts, and ends the wait.
    pub(super) fn batch_acked(&mut self, address: BatchAddress, term: Term) -> Checked {
        if let Some(later) = self.deferred(address.host) {
            self.at_time(later, Happening::BatchAcked(address, term));
            return Ok(());
        }
        let host = &mut self.hosts[address.host];
        if host.life != address.life {
            return Ok(());
        }
        let Some(message) = host.batches.remove(&address.number) else { return Ok(()) };
        let Some(core) = &host.core else { return Ok(()) };
        if term < core.term() {
            self.marks.hit(Mark::StaleAckIgnored);
        }
        let held: Vec<_> = message.reports.iter().map(Report::id).filter(|id| core.holds(*id)).collect();
        let term = if self.plant == Some(Plant::StaleAckTrusted) { core.term().max(term) } else { term };
        self.step_host(address.host, address.life, Input::Acknowledged { number: address.number, term });
        let core = self.hosts[address.host].core.as_ref();
        let dropped = held.into_iter().find(|id| core.is_some_and(|core| !core.holds(*id)));
        if let Some(id) = dropped {
            hold!(
                !self.oracle.is_current(id),
                "the end of {id:?} was dropped by its host, and the log does not hold it"
            );
        }
        Ok(())
    }

    pub(super) fn batch_timeout(&mut self, address: BatchAddress) {
        if let Some(later) = self.deferred(address.host) {
            self.at_time(later, Happening::BatchTimeout(address));
            return;
        }
        let host = &mut self.hosts[address.host];
        // Answered already, or of another life.
        if host.life == address.life && host.batches.remove(&address.number).is_some() {
            self.step_host(address.host, address.life, Input::RequestFailed(address.number));
        }
    }

    pub(super) fn guest_ends(&mut self, index: usize, life: u64, id: AttemptId) {
        if let Some(later) = self.deferred(index) {
            self.at_time(later, Happening::GuestEnds(index, life, id));
            return;
        }
        let host = &mut self.hosts[index];
        let Some(guest) = host.guests.get(&id).filter(|_| host.life == life) else { return };
        if guest.plan.kills_host {
            self.fault(Fault::HostDies(index));
            let delay = 1_000_000 + network::delay_us(&self.options, &mut self.rng);
            self.at(delay, Happening::Fault(Fault::HostStarts(index)));
            return;
        }
        let kind = guest.plan.outcome;
        if let Some(input) = host.end(id, kind) {
            self.step_host(index, life, input);
        }
    }

    pub(super) fn guest_stopped(&mut self, index: usize, life: u64, id: AttemptId) {
        if let Some(later) = self.deferred(index) {
            self.at_time(later, Happening::GuestStopped(index, life, id));
            return;
        }
        let host = &mut self.hosts[index];
        if host.life == life
            && let Some(input) = host.end(id, OutcomeKind::Cancelled)
        {
            self.step_host(index, life, input);
        }
    }

    pub(super) fn guest_checkpoint(&mut self, index: usize, life: u64, id: AttemptId) {
        if let Some(later) = self.deferred(index) {
            self.at_time(later, Happening::GuestCheckpoint(index, life, id));
            return;
        }
        let host = &mut self.hosts[index];
        let Some(guest) = host.guests.get_mut(&id).filter(|_| host.life == life) else { return };
        guest.checkpoints += 1;
        let number = guest.checkpoints;
        let data = Payload::inline(bytes::Bytes::from_static(b"state"));
        self.step_host(index, life, Input::Checkpoint { id, number, data });
    }
}

/// How much memory a host lets be promised: as much more than it has as it takes attempts beyond
/// its slots.
fn promised_at_most(heartbeat: &Heartbeat) -> u64 {
    let (slots, most) = (heartbeat.slots.max(1), heartbeat.credit.max(heartbeat.slots));
    let bytes = u128::from(heartbeat.memory_bytes) * u128::from(most) / u128::from(slots);
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
