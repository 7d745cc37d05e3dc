//! A control node that leads: what it hears goes into its core, what follows is appended, and once that is durable it takes effect.

use std::sync::Arc;

use wasmill_protocol::message::{Assignment, FromHost, Heartbeat, HostAck, HostInfo, Report, ToHost};
use wasmill_protocol::{HostId, Incarnation, LogSeq, Term};
use wasmill_scheduler_core::{Input, MessageOut, Ready};

use super::{Fault, Happening, Sender, World};
use crate::hosts::BatchAddress;
use crate::leader::{APPENDS_IN_FLIGHT_MAX, AnswerTo};
use crate::marks::Mark;
use crate::network::Place;
use crate::oracle::{Checked, hold};
use crate::plant::Plant;

/// The longest time without a tick of the core, as in the real driver, in milliseconds.
const TICK_MS_MAX: u64 = 1_000;

impl World {
    /// Hands out everything that a node has decided, and sees to it that it is woken in time.
    pub(super) fn pump_node(&mut self, node: usize) -> Checked {
        if self.nodes[node].paused_until > self.now {
            return Ok(());
        }
        self.append_decided(node)?;
        self.check_led_time(node)?;
        if self.is_clustered() {
            self.pump_appender(node)?;
            self.pump_seat(node)?;
        }
        self.arm_node(node);
        Ok(())
    }

    /// Appends what the core has decided, as far as the log has room.
    fn append_decided(&mut self, node: usize) -> Checked {
        let bytes_max = self.options.cluster.as_ref().map_or(usize::MAX, |cluster| cluster.record_bytes_max);
        let plant = self.plant;
        loop {
            let now = self.now;
            let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
            let clock = process.clock(now);
            let Some(leader) = &mut process.leader else { return Ok(()) };
            let count = leader.take_appends(clock, bytes_max, plant);
            if count == 0 {
                return Ok(());
            }
            if count > 1 {
                self.marks.hit(Mark::RecordCut);
                self.kill_in_between(node);
            }
            if let Some(plant) = plant {
                self.act_early(node, plant)?;
            }
            if self.is_clustered() {
                self.append_to_log(node, count)?;
            } else {
                self.append_to_disk(count);
            }
        }
    }

    /// A removal was cut from what follows from it: only a leader that is gone in between leaves the one without the other.
    fn kill_in_between(&mut self, node: usize) {
        let cuts = self.options.cluster.as_ref().is_some_and(|cluster| cluster.removals_cut);
        if cuts && !self.healed {
            let delay = self.rng.below(2 * self.options.append_us + 1_000);
            self.at(delay, Happening::Fault(Fault::NodeDies(node)));
        }
    }

    fn arm_node(&mut self, node: usize) {
        let now = self.now;
        let Some(process) = &mut self.nodes[node].process else { return };
        let clock = process.clock(now);
        let Some(leader) = &mut process.leader else { return };
        // While the log is busy nothing that is due could be written: the end of an append wakes the core anyway.
        let busy = leader.appends.len() >= APPENDS_IN_FLIGHT_MAX;
        let due = leader.core.next_timeout().filter(|_| !busy);
        let latest = now.plus_ms(TICK_MS_MAX);
        let next = due.map_or(latest, |at| now.plus_us(at.us_since(clock)).min(latest));
        let next = next.max(now.plus_us(1));
        if leader.tick_at.is_none_or(|armed| armed > next || armed < now) {
            leader.tick_at = Some(next);
            let sender = Sender { node, life: self.nodes[node].life };
            self.at_time(next, Happening::NodeTick(sender));
        }
    }

    pub(super) fn node_tick(&mut self, sender: Sender) {
        let now = self.now;
        if let Some(process) = self.nodes[sender.node].alive(sender.life) {
            let clock = process.clock(now);
            if let Some(leader) = &mut process.leader
                && leader.tick_at.is_some_and(|at| at <= now)
            {
                leader.tick_at = None;
                leader.core.step(clock, Input::Tick);
                self.touch_node(sender.node);
            }
        }
    }

    /// Steps the core of a node, if that life of it leads.
    fn step_leader(&mut self, sender: Sender, input: impl FnOnce(&mut crate::leader::Leader) -> Input) {
        let now = self.now;
        if let Some(process) = self.nodes[sender.node].alive(sender.life) {
            let clock = process.clock(now);
            if let Some(leader) = &mut process.leader {
                let input = input(leader);
                leader.core.step(clock, input);
                self.touch_node(sender.node);
            }
        }
    }

    /// The planted bugs that do something before the record is durable.
    fn act_early(&mut self, node: usize, plant: Plant) -> Checked {
        let mut early = Ready::default();
        if let Some(append) = self.nodes[node].leader().and_then(|leader| leader.appends.back_mut()) {
            let ready = &mut append.ready;
            match plant {
                Plant::ReplyBeforeDurable => early.replies = std::mem::take(&mut ready.replies),
                Plant::SendBeforeDurable => early.messages = std::mem::take(&mut ready.messages),
                Plant::AckBeforeDurable => early.acks = std::mem::take(&mut ready.acks),
                _ => {}
            }
        }
        self.effects(node, LogSeq(0), early)
    }

    /// Answers, acknowledges and sends: everything up to record `seq` is durable.
    pub(super) fn effects(&mut self, node: usize, seq: LogSeq, ready: Ready) -> Checked {
        for (reply_to, answer) in ready.replies {
            match self.nodes[node].leader().and_then(|leader| leader.answers.remove(&reply_to)) {
                Some(AnswerTo::Client(request)) => self.answer(node, request, answer)?,
                Some(AnswerTo::Node(address, tries)) => self.answer_forwarded(node, address, tries, (seq, answer)),
                Some(AnswerTo::Host(..)) | None => {}
            }
        }
        for reply_to in ready.acks {
            let Some(leader) = self.nodes[node].leader() else { break };
            let term = leader.term;
            if let Some(AnswerTo::Host(address, message)) = leader.answers.remove(&reply_to) {
                self.acknowledge(node, term, address, &message)?;
            }
        }
        ready.messages.into_iter().try_for_each(|message| self.send(node, message))
    }

    fn acknowledge(&mut self, node: usize, term: Term, address: BatchAddress, message: &FromHost) -> Checked {
        for report in &message.reports {
            if let Report::Ended { id, .. } | Report::Returned { id } = report {
                // A leader that was replaced may say so of attempts that it does not know: its term tells.
                hold!(
                    term < self.oracle.term() || !self.oracle.is_current(*id),
                    "the end of {id:?} was acknowledged before it was durable"
                );
            }
        }
        for arrival in self.arrivals(Place::Node(node), Place::Host(address.host)) {
            self.at_time(arrival, Happening::BatchAcked(address, term));
        }
        Ok(())
    }

    fn send(&mut self, node: usize, message: MessageOut) -> Checked {
        let mut assign = Vec::new();
        for (id, queue_us) in message.assign {
            self.oracle.sent(id)?;
            // After a disaster nobody knows what the log holds.
            let Some(life) = self.oracle.tasks.get(&id.task) else { continue };
            let spec = Arc::clone(&life.spec);
            assign.push(Assignment { id, spec, queue_us, ..Assignment::default() });
        }
        let Some(index) = self.hosts.iter().position(|host| host.id == message.host) else { return Ok(()) };
        let incarnation = message.incarnation;
        let to_host = Arc::new(ToHost { term: message.term, incarnation, assign, cancel: message.cancel });
        let sender = Sender { node, life: self.nodes[node].life };
        for arrival in self.arrivals(Place::Node(node), Place::Host(index)) {
            self.at_time(arrival, Happening::ToHost(index, sender, Arc::clone(&to_host)));
        }
        Ok(())
    }

    pub(super) fn hear_host(&mut self, node: usize, address: BatchAddress, message: &Arc<FromHost>) {
        let mut seen = Arc::clone(message);
        match self.plant {
            Some(Plant::NonceIgnored) => self.forge_nonces(Arc::make_mut(&mut seen)),
            Some(Plant::ReportSwallowed) if self.rng.chance(50) => Arc::make_mut(&mut seen).reports.clear(),
            _ => {}
        }
        let sender = Sender { node, life: self.nodes[node].life };
        self.step_leader(sender, |leader| {
            let reply_to = leader.reply_to(AnswerTo::Host(address, Arc::clone(message)));
            Input::FromHost { reply_to, message: FromHost::clone(&seen) }
        });
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

    pub(super) fn heartbeat(&mut self, node: usize, heartbeat: &Heartbeat) {
        let sender = Sender { node, life: self.nodes[node].life };
        self.step_leader(sender, |_| Input::Heartbeat(heartbeat.clone()));
    }

    pub(super) fn host_ack(&mut self, sender: Sender, host: HostId, ack: HostAck) {
        let replaced = |term: Term| ack.term_seen.is_some_and(|seen| seen > term);
        let leader = self.nodes[sender.node].alive(sender.life).and_then(|process| process.leader.as_ref());
        if leader.is_some_and(|leader| replaced(leader.term)) {
            self.marks.hit(Mark::LeaderToldByHost);
            self.step_down(sender.node);
        } else if !ack.refused.is_empty() {
            self.step_leader(sender, |_| Input::AssignRefused { host, attempts: ack.refused });
        }
    }

    pub(super) fn host_joined(&mut self, sender: Sender, info: HostInfo) {
        self.step_leader(sender, |_| Input::HostJoined(info));
    }

    pub(super) fn host_left(&mut self, sender: Sender, host: HostId, incarnation: Incarnation) {
        self.step_leader(sender, |_| Input::HostLeft(host, incarnation));
    }

    /// The nodes that lead, or believe so: they hear what hosts send.
    pub(super) fn listening(&self) -> Vec<usize> {
        let leads =
            |node: &&crate::node::SimNode| node.process.as_ref().is_some_and(|process| process.leader.is_some());
        self.nodes.iter().enumerate().filter(|(_, node)| leads(node)).map(|(index, _)| index).collect()
    }
}
