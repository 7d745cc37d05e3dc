//! Commands that reach a node that does not lead: it sends them to the leader, and answers when it
//! has read what the answer rests on. What is sent to whom, how often, and what became of it is
//! decided by [`wasmill_scheduler_node::Forwards`]; here its calls are lost, late and doubled.

use wasmill_protocol::command::{Command, Refusal, Reply};
use wasmill_protocol::message::control::{ControlAnswer, ControlRequest};
use wasmill_protocol::{LogSeq, Term, Timestamp};
use wasmill_record::Record;
use wasmill_scheduler_core::Input;
use wasmill_scheduler_node::Heard;
use wasmill_scheduler_node::forward::{Action, Answer, Asked, ForwardId, Outcome, Told};
use wasmill_scheduler_node::heard::{CallName, Hearing};
use wasmill_scheduler_node::leading::{CommandName, Input as NodeInput};
use wasmill_scheduler_node::recorded::Fate;

use super::{Happening, Sender, World};
use crate::clients::RequestId;
use crate::leader::AnswerTo;
use crate::marks::Mark;
use crate::network::Place;
use crate::node::{CallFrom, ClusterSide, Forwarded, Waiting};
use crate::oracle::{Checked, hold};
use crate::plant::Plant;

/// After how long an answer counts as lost, in microseconds: a connection is known to be cut by
/// then.
const LOST_US: u64 = 1_000_000;
/// A leader that has answered a call gives the same answer for at least as long, in microseconds:
/// so long may a node ask for it.
const ANSWERED_US: u64 = 15_000_000;
/// About what a call has, in bytes.
const CALL_BYTES: usize = 1_000;

impl World {
    fn cluster_side(&mut self, sender: Sender) -> Option<&mut ClusterSide> {
        self.nodes[sender.node].alive(sender.life)?.cluster.as_deref_mut()
    }

    /// Sends a client's command to the leader.
    pub(super) fn forward(&mut self, sender: Sender, request: RequestId, command: Command) -> Checked {
        let now_us = self.now.0;
        let Some(cluster) = self.cluster_side(sender) else { return Ok(()) };
        hold!(cluster.forwards.has_room(), "node-{} forwards more than ever should here", sender.node);
        let id = cluster.forwards.ask(now_us, Asked::Commands(vec![command.clone()]));
        cluster.forwarding.insert(id, Waiting { request, command, asked_of: None });
        self.marks.hit(Mark::CommandForwarded);
        self.touch_node(sender.node);
        Ok(())
    }

    /// Does what a node's forwards say.
    pub(super) fn pump_forwards(&mut self, node: usize) -> Checked {
        let sender = Sender { node, life: self.nodes[node].life };
        loop {
            let Some(cluster) = self.cluster_side(sender) else { return Ok(()) };
            let actions = cluster.forwards.take_ready();
            if actions.is_empty() {
                break;
            }
            actions.into_iter().try_for_each(|action| self.act_for_forwards(sender, action))?;
        }
        self.arm_forwards(sender);
        Ok(())
    }

    fn act_for_forwards(&mut self, sender: Sender, action: Action) -> Checked {
        match action {
            Action::Ask { id, number, tries, term, request, .. } => {
                self.note_asked(sender, id, number, tries, term);
                self.ask_leader(sender, number, tries, term, request);
            }
            // What comes of it is not listened to.
            Action::Forget { .. } => {}
            Action::Concluded { fate, .. } => self.marks.hit(match fate {
                Fate::Done(..) => Mark::CommandFoundInLog,
                Fate::NotRecorded => Mark::CommandNotRecorded,
                Fate::Unknown => Mark::CommandFateUnknown,
            }),
            Action::Tell { id, told } => return self.told(sender, id, told),
        }
        Ok(())
    }

    fn note_asked(&mut self, sender: Sender, id: ForwardId, number: u64, tries: u32, term: Term) {
        let Some(cluster) = self.cluster_side(sender) else { return };
        let asker = cluster.asker;
        let before = cluster.forwarding.get_mut(&id).and_then(|waiting| waiting.asked_of.replace(term));
        if before.is_some() {
            self.marks.hit(Mark::CommandRetried);
        }
        if before.is_some_and(|before| before < term) {
            self.marks.hit(Mark::CommandRetriedInNextTerm);
        }
        if tries == 1 {
            self.oracle.calls.asked((asker, number), id.0);
        }
    }

    fn ask_leader(&mut self, sender: Sender, number: u64, tries: u32, term: Term, request: ControlRequest) {
        let ControlRequest::Commands(commands) = request else { return };
        let Some(cluster) = self.cluster_side(sender) else { return };
        let name = CallName { asker: cluster.asker, number };
        let lost_at = self.now.plus_us(LOST_US);
        // The servers know whether anybody listens in this term.
        let Some(to) = self.leader_of(term) else {
            self.marks.hit(Mark::CommandNobodyLed);
            let arrivals = self.arrivals(Place::Node(sender.node), Place::Node(sender.node));
            // What comes first counts.
            let (at, outcome) = match arrivals.into_iter().min().filter(|at| *at < lost_at) {
                Some(at) => (at, Outcome::Unheard),
                None => (lost_at, Outcome::Unanswered),
            };
            return self.at_time(at, Happening::ForwardEnds(sender, number, tries, Box::new(outcome)));
        };
        self.at_time(lost_at, Happening::ForwardEnds(sender, number, tries, Box::new(Outcome::Unanswered)));
        if tries > 1 {
            self.marks.hit(Mark::CommandAskedAgain);
        }
        let forwarded = Forwarded { from: CallFrom { sender, number, tries }, name, term, commands };
        for arrival in self.arrivals(Place::Node(sender.node), Place::Node(to)) {
            self.at_time(arrival, Happening::Forwarded(to, Box::new(forwarded.clone())));
        }
    }

    pub(super) fn leader_of(&self, term: Term) -> Option<usize> {
        let leads = |node: &usize| {
            let process = self.nodes[*node].process.as_ref();
            process.and_then(|process| process.leader.as_ref()).is_some_and(|leader| leader.term() == term)
        };
        (0..self.nodes.len()).find(leads)
    }

    /// A node answers its client as its forwards say.
    fn told(&mut self, sender: Sender, id: ForwardId, told: Told) -> Checked {
        let Some(cluster) = self.cluster_side(sender) else { return Ok(()) };
        let asker = cluster.asker;
        let Some(Waiting { request, mut command, .. }) = cluster.forwarding.remove(&id) else { return Ok(()) };
        let Told::Commands(mut answers) = told else { return Ok(()) };
        match answers.pop() {
            Some(Err(Refusal::OutcomeUnknown)) if self.plant == Some(Plant::RepeatWithoutIdentity) => {
                self.clients.rename(&mut command);
                self.forward(sender, request, command)
            }
            Some(Err(Refusal::OutcomeUnknown)) => {
                self.marks.hit(Mark::CommandUnanswered);
                self.at(0, Happening::Impatient(request));
                Ok(())
            }
            Some(answer) => {
                if answer == Err(Refusal::NotLeader) && !self.oracle.disaster {
                    self.oracle.calls.told_undone(asker, id.0)?;
                }
                self.answer(sender.node, request, answer.map(|(_, done)| done))
            }
            None => Ok(()),
        }
    }

    /// A node shows a record: its forwards go on.
    pub(super) fn note_read(&mut self, node: usize, seq: LogSeq, record: &Record) {
        let now_us = self.now.0;
        if let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) {
            cluster.forwards.read(now_us, seq, record);
            if !cluster.forwards.is_idle() {
                self.touch_node(node);
            }
        }
    }

    /// Something comes of asking a leader.
    pub(super) fn forward_ends(&mut self, sender: Sender, number: u64, tries: u32, mut outcome: Outcome) {
        let (now_us, plant) = (self.now.0, self.plant);
        let Some(process) = self.nodes[sender.node].alive(sender.life) else { return };
        let published = process.published;
        let Some(cluster) = &mut process.cluster else { return };
        let mut waits = false;
        if let Outcome::Answer(ControlAnswer::Replies(replies)) = &mut outcome {
            for reply in replies {
                if let Reply::Done { seq, .. } = reply {
                    waits |= *seq > published;
                    if plant == Some(Plant::FollowerAnswersEarly) {
                        *seq = LogSeq(0);
                    }
                }
            }
        }
        cluster.forwards.heard(now_us, number, tries, outcome);
        if waits {
            self.marks.hit(Mark::AnswerWaitedForRead);
        }
        self.touch_node(sender.node);
    }

    fn arm_forwards(&mut self, sender: Sender) {
        let now = self.now;
        let Some(cluster) = self.cluster_side(sender) else { return };
        let Some(next_us) = cluster.forwards.next_timeout_us() else { return };
        let next = Timestamp(next_us).max(now.plus_us(1));
        if cluster.forward_tick_at.wants(now, next) {
            self.at_time(next, Happening::ForwardTick(sender));
        }
    }

    pub(super) fn forward_tick(&mut self, sender: Sender) {
        let now = self.now;
        if let Some(cluster) = self.cluster_side(sender)
            && cluster.forward_tick_at.comes(now)
        {
            cluster.forwards.tick(now.0);
            self.touch_node(sender.node);
        }
    }

    /// Another node asks for its clients. What comes twice is decided once: the core forgets what
    /// is final, and would take it for new.
    pub(super) fn hear_forwarded(&mut self, node: usize, forwarded: Forwarded) -> Checked {
        let Forwarded { from, name, term, commands } = forwarded;
        let (now, plant) = (self.now, self.plant);
        if !self.takes_in(node) {
            return Ok(());
        }
        let leader = self.nodes[node].leader().filter(|leader| leader.term() == term);
        let Some(leader) = leader else { return Ok(()) };
        let hearing = leader.heard.commands(now.0, name, CALL_BYTES * commands.len(), from);
        let (heard, is_answered) = *leader.calls.entry(name).or_insert((now, false));
        hold!(
            !is_answered || now.us_since(heard) >= ANSWERED_US || matches!(hearing, Hearing::Tell(..)),
            "node-{node} is asked again for its answer to {name:?}, and says nothing"
        );
        match hearing {
            Hearing::Decide => {}
            Hearing::Tell(to, answer) => {
                self.marks.hit(Mark::CommandHeardTwice);
                self.marks.hit(Mark::CommandAnsweredTwice);
                self.send_answer(node, to, answer);
                if plant != Some(Plant::ForwardTakenTwice) {
                    return Ok(());
                }
            }
            Hearing::Waits | Hearing::Forgotten => {
                self.marks.hit(Mark::CommandHeardTwice);
                if plant != Some(Plant::ForwardTakenTwice) {
                    return Ok(());
                }
            }
        }
        self.decide(node, name, commands);
        Ok(())
    }

    fn decide(&mut self, node: usize, name: CallName, commands: Vec<Command>) {
        let sender = Sender { node, life: self.nodes[node].life };
        let CallName { asker, number } = name;
        for (command, place) in commands.into_iter().zip(0..) {
            let Some(reply_to) = self.nodes[node].leader().map(|leader| leader.reply_to(AnswerTo::Node(name))) else {
                return;
            };
            let input = match self.plant {
                Some(Plant::CommandUnnamed) => Input::Command { reply_to, command }.into(),
                _ => {
                    let name = CommandName { asker, number, place };
                    NodeInput::Named { name, reply_to, command: Box::new(command) }
                }
            };
            self.tell_leader(sender, input);
        }
    }

    /// Answers another node, and whoever asks for the same.
    pub(super) fn answer_forwarded(&mut self, node: usize, name: CallName, answer: Answer) {
        let reply = match answer {
            Ok((seq, done)) => Reply::Done { seq, done },
            Err(refusal) => Reply::Refused(refusal),
        };
        let answer = ControlAnswer::Replies(vec![reply]);
        let Some(leader) = self.nodes[node].leader() else { return };
        leader.calls.entry(name).and_modify(|(_, is_answered)| *is_answered = true);
        for to in leader.heard.answered(name, &answer) {
            self.send_answer(node, to, answer.clone());
        }
    }

    /// A leadership is over: nodes that wait for an answer need not wait any longer.
    pub(super) fn end_calls(&mut self, node: usize, heard: Heard<CallFrom, ControlAnswer>) {
        for to in heard.end() {
            self.send_answer(node, to, ControlAnswer::LeadershipLost);
        }
    }

    fn send_answer(&mut self, node: usize, to: CallFrom, answer: ControlAnswer) {
        let CallFrom { sender, number, tries } = to;
        for arrival in self.arrivals(Place::Node(node), Place::Node(sender.node)) {
            let outcome = Box::new(Outcome::Answer(answer.clone()));
            self.at_time(arrival, Happening::ForwardEnds(sender, number, tries, outcome));
        }
    }
}
