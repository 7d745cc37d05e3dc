//! A control node that leads: what it hears goes into its core, what follows is appended, and once that is durable it takes effect.

use std::sync::Arc;

use wasmill_protocol::message::{Assignment, FromHost, Heartbeat, HostAck, HostInfo, Report, ToHost};
use wasmill_protocol::{HostId, Incarnation, Term};
use wasmill_scheduler_core::{Input, MessageOut, ReplyTo};
use wasmill_scheduler_node::leading::{Append, Effects, End, Input as NodeInput, Loss, Overview, Ready};
use wasmill_scheduler_node::watch::Question;

use super::{Fault, Happening, Sender, World};
use crate::hosts::BatchAddress;
use crate::leader::AnswerTo;
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
        self.pump_leader(node)?;
        self.check_led_time(node)?;
        if self.is_clustered() {
            self.pump_appender(node)?;
            self.pump_seat(node)?;
            self.pump_following(node)?;
            self.pump_forwards(node)?;
        }
        self.arm_node(node);
        Ok(())
    }

    /// Carries out what a leadership says.
    pub(super) fn pump_leader(&mut self, node: usize) -> Checked {
        let bytes_max = self.options.cluster.as_ref().map_or(usize::MAX, |cluster| cluster.record_bytes_max);
        loop {
            let Some(leader) = self.nodes[node].leader() else { return Ok(()) };
            let ready = leader.node.take_ready(bytes_max);
            if ready.is_empty() {
                return Ok(());
            }
            let Ready { effects, appends, asks, ask_log, end } = ready;
            effects.into_iter().try_for_each(|effects| self.effects(node, effects))?;
            self.append(node, appends)?;
            asks.iter().for_each(|ask| self.asked_policy(node, ask));
            if let Some(question) = ask_log {
                self.ask_where_log_ends(node, question);
            }
            if let Some(end) = end {
                return self.leadership_ends(node, end);
            }
        }
    }

    /// A leader that appends nothing asks where the log ends. A disk always tells.
    fn ask_where_log_ends(&mut self, node: usize, question: Question) {
        if self.is_clustered() {
            return self.watch_end(node, question);
        }
        let sender = Sender { node, life: self.nodes[node].life };
        let end = Some(self.disk.last());
        self.tell_leader(sender, NodeInput::LogEnds { question, end });
    }

    fn append(&mut self, node: usize, appends: Vec<Append>) -> Checked {
        let count = appends.len();
        if appends.iter().any(|append| append.is_cut) {
            self.marks.hit(Mark::RecordCut);
            self.kill_in_between(node);
        }
        let Some(leader) = self.nodes[node].leader().filter(|_| count > 0) else { return Ok(()) };
        leader.handed_out(appends);
        if let Some(plant) = self.plant {
            self.act_early(node, plant)?;
        }
        if self.is_clustered() {
            self.append_to_log(node, count);
        } else {
            self.append_to_disk(count);
        }
        Ok(())
    }

    /// A leadership is over, and what it says follows from that.
    fn leadership_ends(&mut self, node: usize, end: End) -> Checked {
        match end {
            End::Lost(Loss::TermSeen(_)) => self.marks.hit(Mark::LeaderToldByHost),
            End::Lost(Loss::Replaced(_)) => self.marks.hit(Mark::LeaderToldByLog),
            End::Lost(Loss::Time) => self.marks.hit(Mark::ClockEndedLeadership),
            End::Lost(Loss::Lease | Loss::LogGone | Loss::Refused) | End::NoSpace | End::Shutdown => {}
        }
        if end == End::Shutdown {
            return self.leader_stops(node);
        }
        if self.is_clustered() {
            self.step_down(node);
            return Ok(());
        }
        hold!(end == End::Lost(Loss::Time), "a single machine gives up its leadership: {end:?}");
        self.machine_leads_again();
        Ok(())
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
        let due = leader.node.next_timeout();
        let latest = now.plus_ms(TICK_MS_MAX);
        let next = due.map_or(latest, |at| now.plus_us(at.us_since(clock)).min(latest));
        let next = next.max(now.plus_us(1));
        if leader.tick_at.wants(now, next) {
            let sender = Sender { node, life: self.nodes[node].life };
            self.at_time(next, Happening::NodeTick(sender));
        }
    }

    pub(super) fn node_tick(&mut self, sender: Sender) {
        let now = self.now;
        if let Some(process) = self.nodes[sender.node].alive(sender.life) {
            let clock = process.clock(now);
            if let Some(leader) = &mut process.leader
                && leader.tick_at.comes(now)
            {
                leader.node.step(clock, Input::Tick.into());
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
                leader.node.step(clock, input.into());
                self.touch_node(sender.node);
            }
        }
    }

    /// Tells a node what is not the core's, if that life of it leads.
    pub(super) fn tell_leader(&mut self, sender: Sender, input: NodeInput) {
        let now = self.now;
        if let Some(process) = self.nodes[sender.node].alive(sender.life) {
            let clock = process.clock(now);
            if let Some(leader) = &mut process.leader {
                leader.node.step(clock, input);
                self.touch_node(sender.node);
            }
        }
    }

    /// The planted bugs that do something before the record is durable.
    fn act_early(&mut self, node: usize, plant: Plant) -> Checked {
        let mut early = Effects::default();
        if let Some(waiting) = self.nodes[node].leader().and_then(|leader| leader.node.under_way().next_back()) {
            match plant {
                Plant::ReplyBeforeDurable => early.replies.clone_from(&waiting.replies),
                Plant::SendBeforeDurable => early.messages.clone_from(&waiting.messages),
                Plant::AckBeforeDurable => early.acks.clone_from(&waiting.acks),
                Plant::OverviewBeforeDurable => early.overviews.clone_from(&waiting.overviews),
                _ => {}
            }
        }
        self.effects(node, early)
    }

    /// Answers, acknowledges and sends: everything that this rests on is durable.
    pub(super) fn effects(&mut self, node: usize, effects: Effects) -> Checked {
        let seq = effects.seq;
        effects.work.into_iter().for_each(|work| self.begin_work(node, seq, work));
        for (reply_to, answer) in effects.replies {
            match self.nodes[node].leader().and_then(|leader| leader.answers.remove(&reply_to)) {
                Some(AnswerTo::Client(request)) => self.answer(node, request, answer)?,
                Some(AnswerTo::Node(name)) => self.answer_forwarded(node, name, answer.map(|done| (seq, done))),
                Some(AnswerTo::Host(..) | AnswerTo::Overview) | None => {}
            }
        }
        for (reply_to, overview) in effects.overviews {
            self.overview_told(node, reply_to, &overview)?;
        }
        for reply_to in effects.acks {
            let Some(leader) = self.nodes[node].leader() else { break };
            let term = leader.term();
            if let Some(AnswerTo::Host(address, message)) = leader.answers.remove(&reply_to) {
                self.acknowledge(node, term, address, &message)?;
            }
        }
        effects.messages.into_iter().try_for_each(|message| self.post(node, message))
    }

    /// Somebody asks what is going on, if a node leads.
    pub(super) fn ask_overview(&mut self) {
        let Some(&node) = self.listening().first() else { return };
        if self.nodes[node].paused_until > self.now {
            return;
        }
        let sender = Sender { node, life: self.nodes[node].life };
        let reply_to = self.nodes[node].leader().map(|leader| leader.reply_to(AnswerTo::Overview));
        if let Some(reply_to) = reply_to {
            self.tell_leader(sender, NodeInput::Overview(reply_to));
        }
    }

    /// What is told of the whole can be seen of each task.
    fn overview_told(&mut self, node: usize, reply_to: ReplyTo, overview: &Overview) -> Checked {
        let answer = self.nodes[node].leader().and_then(|leader| leader.answers.remove(&reply_to));
        if answer.is_none() {
            return Ok(());
        }
        self.marks.hit(Mark::OverviewTold);
        let (told, durable) = (overview.log_seq, self.oracle.seq());
        hold!(
            told <= durable || self.oracle.shortened,
            "an overview of record {told} is told, and {durable} is durable"
        );
        if told == durable && !self.oracle.shortened {
            let depth = overview.queue;
            let (open, unfinished) = (depth.waiting + depth.queued + depth.running, self.oracle.unfinished().count());
            hold!(open == unfinished as u64, "an overview tells of {open} tasks, the log of {unfinished}");
        }
        Ok(())
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

    pub(super) fn send(&mut self, node: usize, message: MessageOut) -> Checked {
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
        let to_host = Arc::new(ToHost { term: message.term, incarnation, assign, stop: message.stop });
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
        if !self.takes_in(node) {
            // Nobody listens any more, and it is sent again.
            return;
        }
        self.step_leader(sender, |leader| {
            let reply_to = leader.reply_to(AnswerTo::Host(address, Arc::clone(message)));
            Input::FromHost { reply_to, message: FromHost::clone(&seen) }
        });
    }

    /// Whether a leader, if this is one, has not been asked to stop.
    pub(super) fn takes_in(&mut self, node: usize) -> bool {
        self.nodes[node].leader().is_none_or(|leader| leader.node.is_open())
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
        let mut heard = heartbeat.clone();
        if self.plant == Some(Plant::MemoryPromisedTwice) {
            heard.memory_bytes *= 2;
        }
        self.step_leader(sender, |_| Input::Heartbeat(heard));
    }

    pub(super) fn host_ack(&mut self, sender: Sender, host: HostId, ack: HostAck) {
        if let Some(term) = ack.term_seen {
            self.tell_leader(sender, NodeInput::TermSeen(term));
        }
        if !ack.refused.is_empty() {
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
