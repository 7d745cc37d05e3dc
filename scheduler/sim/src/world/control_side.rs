//! The control node's shell.

use std::sync::Arc;

use wasmill_protocol::command::Done;
use wasmill_protocol::message::{Assignment, FromHost, Heartbeat, HostAck, HostInfo, Report, ToHost};
use wasmill_protocol::{HostId, Incarnation, LogSeq};
use wasmill_scheduler_core::{Input, MessageOut, Ready};

use super::{Fault, Happening, World};
use crate::control::{APPENDS_IN_FLIGHT_MAX, AnswerTo};
use crate::hosts::BatchAddress;
use crate::marks::Mark;
use crate::network;
use crate::oracle::Checked;
use crate::plant::Plant;

/// How long an append of a troubled disk takes at most, in microseconds.
const SLOW_APPEND_US: u64 = 5_000_000;

impl World {
    /// Appends what the core has decided, and sees to it that it is woken in time.
    pub(super) fn pump_control(&mut self) -> Checked {
        let now = self.now;
        while let Some(control) = &mut self.control {
            let Some(mut append) = control.next_append(now, self.plant) else { break };
            let delay = self.append_delay();
            if let Some(plant) = self.plant {
                self.act_early(plant, &mut append.ready)?;
            }
            let last = self.control.as_ref().and_then(|control| control.appends.back()).map(|append| append.seq);
            // An append without events waits for what is before it, and for nothing else.
            let delay = if append.events.is_empty() && last.is_none() { 0 } else { delay };
            let seq = append.seq;
            if let Some(control) = &mut self.control {
                control.appends.push_back(append);
                if control.appends.len() == 1 {
                    self.at(delay, Happening::Durable(seq, self.control_life));
                }
                if self.kill_armed {
                    self.at(delay / 2, Happening::Fault(Fault::ControlDies));
                }
            }
        }
        self.arm_control();
        Ok(())
    }

    fn append_delay(&mut self) -> u64 {
        if self.rng.chance(self.options.slow_appends) {
            self.marks.hit(Mark::AppendSlow);
            return self.rng.below(SLOW_APPEND_US);
        }
        50 + self.rng.skewed(self.options.append_us)
    }

    fn arm_control(&mut self) {
        let Some(control) = &mut self.control else { return };
        // The real driver ticks once a second at least.
        let latest = self.now.plus_ms(1_000);
        // While the log is busy nothing that is due could be written: the end of an append wakes the core anyway.
        let busy = control.appends.len() >= APPENDS_IN_FLIGHT_MAX;
        let due = control.core.next_timeout().filter(|_| !busy);
        let next = due.map_or(latest, |at| at.min(latest)).max(self.now.plus_us(1));
        if control.tick_at.is_none_or(|armed| armed > next || armed < self.now) {
            control.tick_at = Some(next);
            self.at_time(next, Happening::ControlTick(self.control_life));
        }
    }

    pub(super) fn control_tick(&mut self, life: u64) {
        let now = self.now;
        if let Some(control) = self.control.as_mut().filter(|_| self.control_life == life)
            && control.tick_at == Some(now)
        {
            control.tick_at = None;
            control.core.step(now, Input::Tick);
        }
    }

    /// The planted bugs that do something before the record is durable.
    fn act_early(&mut self, plant: Plant, ready: &mut Ready) -> Checked {
        let mut early = Ready::default();
        match plant {
            Plant::ReplyBeforeDurable => early.replies = std::mem::take(&mut ready.replies),
            Plant::SendBeforeDurable => early.messages = std::mem::take(&mut ready.messages),
            Plant::AckBeforeDurable => early.acks = std::mem::take(&mut ready.acks),
            _ => {}
        }
        self.effects(early)
    }

    pub(super) fn durable(&mut self, seq: LogSeq, life: u64) -> Checked {
        let now = self.now;
        let lag = self.rng.below(self.options.read_model_lag + 1);
        let Some(control) = self.control.as_mut().filter(|_| self.control_life == life) else { return Ok(()) };
        let Some(append) = control.appends.pop_front() else { return Ok(()) };
        assert_eq!(append.seq, seq, "appends end in order");
        let next = control.appends.front().map(|append| append.seq);
        if !append.events.is_empty() {
            self.disk.records.push(Arc::clone(&append.events));
            control.core.step(now, Input::ReadModelAt(LogSeq(seq.0.saturating_sub(lag))));
            self.oracle.durable(seq, &append.events, &mut self.marks)?;
        }
        if let Some(next) = next {
            let delay = self.append_delay();
            self.at(delay, Happening::Durable(next, life));
        }
        self.effects(append.ready)
    }

    /// Answers, acknowledges and sends: everything before it is durable.
    fn effects(&mut self, ready: Ready) -> Checked {
        for (reply_to, answer) in ready.replies {
            let Some(AnswerTo::Client(request)) =
                self.control.as_mut().and_then(|control| control.answers.remove(&reply_to))
            else {
                continue;
            };
            match &answer {
                Ok(Done::Accepted { task } | Done::Repeated { task }) => self.oracle.told_accepted(*task)?,
                Ok(Done::Cancelled) => self.told_cancelled(request)?,
                Ok(Done::CancelAsked) if self.plant == Some(Plant::CancelAnsweredEarly) => {
                    self.told_cancelled(request)?
                }
                _ => {}
            }
            let delay = network::delay_us(&self.options, &mut self.rng);
            self.at(delay, Happening::Answered(request, answer));
        }
        for reply_to in ready.acks {
            let Some(AnswerTo::Host(address, message)) =
                self.control.as_mut().and_then(|control| control.answers.remove(&reply_to))
            else {
                continue;
            };
            self.acknowledge(address, &message)?;
        }
        ready.messages.into_iter().try_for_each(|message| self.send(message))
    }

    fn told_cancelled(&self, request: crate::clients::RequestId) -> Checked {
        match self.clients.open.get(&request) {
            Some(wasmill_protocol::command::Command::Cancel { task, .. }) => self.oracle.told_cancelled(*task),
            _ => Ok(()),
        }
    }

    fn acknowledge(&mut self, address: BatchAddress, message: &FromHost) -> Checked {
        for report in &message.reports {
            if let Report::Ended { id, .. } | Report::Returned { id } = report {
                self.oracle.told_reported(*id)?;
            }
        }
        for arrival in self.arrivals(address.host) {
            self.at_time(arrival, Happening::BatchAcked(address));
        }
        Ok(())
    }

    fn send(&mut self, message: MessageOut) -> Checked {
        let mut assign = Vec::new();
        for (id, queue_us) in message.assign {
            self.oracle.sent(id)?;
            let spec = Arc::clone(&self.oracle.tasks[&id.task].spec);
            assign.push(Assignment { id, spec, queue_us, ..Assignment::default() });
        }
        let Some(index) = self.hosts.iter().position(|host| host.id == message.host) else { return Ok(()) };
        let incarnation = message.incarnation;
        let to_host = Arc::new(ToHost { term: message.term, incarnation, assign, cancel: message.cancel });
        for arrival in self.arrivals(index) {
            self.at_time(arrival, Happening::ToHost(index, Arc::clone(&to_host)));
        }
        Ok(())
    }

    /// When copies of a message between the control node and a host arrive; none while the host is cut off.
    pub(super) fn arrivals(&mut self, host: usize) -> Vec<wasmill_protocol::Timestamp> {
        if self.hosts[host].cut_until > self.now {
            return Vec::new();
        }
        network::arrivals(self.now, &self.options, &mut self.rng, &mut self.marks)
    }

    pub(super) fn hear_host(&mut self, address: BatchAddress, message: &Arc<FromHost>) {
        let now = self.now;
        let mut seen = Arc::clone(message);
        match self.plant {
            Some(Plant::NonceIgnored) => self.forge_nonces(Arc::make_mut(&mut seen)),
            Some(Plant::ReportSwallowed) if self.rng.chance(50) => Arc::make_mut(&mut seen).reports.clear(),
            _ => {}
        }
        if let Some(control) = &mut self.control {
            let reply_to = control.reply_to(AnswerTo::Host(address, Arc::clone(message)));
            control.core.step(now, Input::FromHost { reply_to, message: FromHost::clone(&seen) });
        }
    }

    /// Makes every report look like one of the current attempt, wherever that runs.
    fn forge_nonces(&self, message: &mut FromHost) {
        for report in &mut message.reports {
            let (Report::Ended { id, .. } | Report::Checkpoint { id, .. } | Report::Returned { id }) = report;
            let current = self.oracle.tasks.get(&id.task).and_then(|life| life.current());
            if let Some(current) = current {
                *id = current;
                if let Some((host, incarnation)) = self.oracle.attempts.get(&current) {
                    message.host = host.clone();
                    message.incarnation = *incarnation;
                }
            }
        }
    }

    pub(super) fn heartbeat(&mut self, heartbeat: &Heartbeat) {
        let now = self.now;
        if let Some(control) = &mut self.control {
            control.core.step(now, Input::Heartbeat(heartbeat.clone()));
        }
    }

    pub(super) fn host_ack(&mut self, host: HostId, ack: HostAck) {
        let now = self.now;
        if let Some(control) = &mut self.control
            && !ack.refused.is_empty()
        {
            control.core.step(now, Input::AssignRefused { host, attempts: ack.refused });
        }
    }

    pub(super) fn host_joined(&mut self, info: HostInfo, life: u64) {
        let now = self.now;
        if let Some(control) = self.control.as_mut().filter(|_| self.control_life == life) {
            control.core.step(now, Input::HostJoined(info));
        }
    }

    pub(super) fn host_left(&mut self, host: HostId, incarnation: Incarnation, life: u64) {
        let now = self.now;
        if let Some(control) = self.control.as_mut().filter(|_| self.control_life == life) {
            control.core.step(now, Input::HostLeft(host, incarnation));
        }
    }
}
