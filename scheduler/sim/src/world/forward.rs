//! Commands that reach a node that does not lead: it sends them to the leader, and answers when it has read what the answer rests on.
//!
//! What nobody has heard is sent again. A command whose answer was lost may have been carried out: it is asked for again under the same name, which is
//! decided once and answered as often as it is asked. Once a later term has begun the log tells whether it was recorded.

use wasmill_protocol::command::{Command, Done, Refusal};
use wasmill_protocol::{LogSeq, Term};
use wasmill_scheduler_core::Input;
use wasmill_scheduler_node::leading::{CommandName, Input as NodeInput};
use wasmill_scheduler_node::recorded::Fate;

use super::{Happening, Sender, World};
use crate::clients::{PATIENCE_US, RequestId};
use crate::leader::{AnswerTo, ForwardAnswer};
use crate::marks::Mark;
use crate::network::Place;
use crate::node::{Forward, ForwardAddress, Forwarded};
use crate::oracle::{Checked, Violation};
use crate::plant::Plant;

/// For how long a leader is looked for that hears a command, in microseconds.
const LEADER_PATIENCE_US: u64 = 5_000_000;
/// Between two looks for a leader, in microseconds.
const LEADER_RETRY_US: u64 = 200_000;
/// After how long an answer counts as lost, in microseconds: a connection is known to be cut by then.
const LOST_US: u64 = 1_000_000;
/// How long the leader may take, in microseconds: longer than clients wait here.
const ANSWER_US: u64 = PATIENCE_US + 5_000_000;

impl World {
    /// Sends a client's command to the leader.
    pub(super) fn forward(&mut self, sender: Sender, request: RequestId, command: Command) -> Checked {
        let until = self.now.plus_us(LEADER_PATIENCE_US);
        let Some(process) = self.nodes[sender.node].alive(sender.life) else { return Ok(()) };
        let term = process.fold.state.term();
        let Some(cluster) = &mut process.cluster else { return Ok(()) };
        let number = cluster.number();
        cluster.forwards.insert(number, Forward { request, command, term, position: LogSeq(0), tries: 0, until });
        self.marks.hit(Mark::CommandForwarded);
        self.send_forward(ForwardAddress { node: sender.node, life: sender.life, number });
        Ok(())
    }

    /// Sends a command that waits, to the leader of the newest term that the node knows.
    fn send_forward(&mut self, from: ForwardAddress) {
        let Some(process) = self.nodes[from.node].alive(from.life) else { return };
        // A node that has led knows its own term at least.
        let known = process.fold.state.term().max(process.leader.as_ref().map_or(Term(0), |leader| leader.term()));
        let published = process.published;
        let Some(cluster) = &mut process.cluster else { return };
        let asker = cluster.asker;
        let Some(forward) = cluster.forwards.get_mut(&from.number) else { return };
        forward.position = published;
        forward.tries += 1;
        let next_term = forward.tries > 1 && known > forward.term;
        forward.term = known.max(forward.term);
        let tries = forward.tries;
        let forwarded = Forwarded { from, asker, tries, term: forward.term, command: forward.command.clone() };
        if tries > 1 {
            self.marks.hit(Mark::CommandRetried);
        }
        if next_term {
            self.marks.hit(Mark::CommandRetriedInNextTerm);
        }
        // The servers know whether anybody listens in this term.
        let Some(to) = self.leader_of(forwarded.term) else {
            self.marks.hit(Mark::CommandNobodyLed);
            for arrival in self.arrivals(Place::Node(from.node), Place::Node(from.node)) {
                self.at_time(arrival, Happening::ForwardUnheard(from, tries));
            }
            self.at(ANSWER_US, Happening::ForwardTimeout(from, tries));
            return;
        };
        for arrival in self.arrivals(Place::Node(from.node), Place::Node(to)) {
            self.at_time(arrival, Happening::Forwarded(to, Box::new(forwarded.clone())));
        }
        self.at(LOST_US, Happening::ForwardUnanswered(from, tries));
        self.at(ANSWER_US, Happening::ForwardTimeout(from, tries));
    }

    /// No answer has come yet: the same leader is asked for it again, for as long as it leads and the client waits.
    pub(super) fn forward_unanswered(&mut self, from: ForwardAddress, tries: u32) -> Checked {
        if self.found_in_log(from, tries)? {
            return Ok(());
        }
        let Some(process) = self.nodes[from.node].alive(from.life) else { return Ok(()) };
        let Some(cluster) = &process.cluster else { return Ok(()) };
        let asker = cluster.asker;
        let waits = |forward: &&Forward| forward.tries == tries;
        let Some(forward) = cluster.forwards.get(&from.number).filter(waits) else { return Ok(()) };
        let forwarded = Forwarded { from, asker, tries, term: forward.term, command: forward.command.clone() };
        let Some(to) = self.leader_of(forwarded.term) else { return Ok(()) };
        self.marks.hit(Mark::CommandAskedAgain);
        for arrival in self.arrivals(Place::Node(from.node), Place::Node(to)) {
            self.at_time(arrival, Happening::Forwarded(to, Box::new(forwarded.clone())));
        }
        self.at(LOST_US, Happening::ForwardUnanswered(from, tries));
        Ok(())
    }

    /// Answers a client whose command is recorded, whether the leader has said so or not. Whether it is.
    fn found_in_log(&mut self, address: ForwardAddress, tries: u32) -> Result<bool, Violation> {
        let Some(process) = self.nodes[address.node].alive(address.life) else { return Ok(false) };
        let Some(cluster) = &mut process.cluster else { return Ok(false) };
        let name = (named(address, tries), 0);
        let Some((_, done)) = cluster.recorded.done(name) else { return Ok(false) };
        let Some(forward) = cluster.forwards.remove(&address.number) else { return Ok(false) };
        self.marks.hit(Mark::CommandFoundInLog);
        self.answer(address.node, forward.request, Ok(done))?;
        Ok(true)
    }

    /// A node has read where a later term begins: what became of the commands that it has asked of earlier leaders is known now.
    pub(super) fn clear_up_forwards(&mut self, node: usize, began: LogSeq, term: Term) -> Checked {
        let life = self.nodes[node].life;
        let unread = self.plant == Some(Plant::FateUnread);
        let Some(cluster) = self.nodes[node].process.as_ref().and_then(|process| process.cluster.as_ref()) else {
            return Ok(());
        };
        let asked = cluster.forwards.iter().filter(|(_, forward)| forward.term < term);
        let fates: Vec<_> = asked
            .map(|(&number, forward)| {
                let address = ForwardAddress { node, life, number };
                let name = (named(address, forward.tries), 0);
                let fate = cluster.recorded.fate(name, forward.position, began);
                (address, if unread { Fate::NotRecorded } else { fate })
            })
            .collect();
        for (address, fate) in fates {
            match fate {
                Fate::Done(_, done) => {
                    self.marks.hit(Mark::CommandFoundInLog);
                    if let Some(request) = self.take_forward(address) {
                        self.answer(node, request, Ok(done))?;
                    }
                }
                Fate::Unknown => {
                    self.marks.hit(Mark::CommandFateUnknown);
                    if let Some(request) = self.take_forward(address) {
                        self.at(0, Happening::Impatient(request));
                    }
                }
                Fate::NotRecorded => {
                    self.marks.hit(Mark::CommandNotRecorded);
                    self.send_forward(address);
                }
            }
        }
        Ok(())
    }

    fn take_forward(&mut self, address: ForwardAddress) -> Option<RequestId> {
        let cluster = self.nodes[address.node].process.as_mut()?.cluster.as_mut()?;
        cluster.forwards.remove(&address.number).map(|forward| forward.request)
    }

    /// Answers another node, and remembers what.
    pub(super) fn answer_forwarded(&mut self, node: usize, to: ForwardAddress, tries: u32, answer: ForwardAnswer) {
        if let Some(leader) = self.nodes[node].leader() {
            leader.forwards_heard.insert((to, tries), Some(answer.clone()));
        }
        self.send_answer(node, to, answer);
    }

    fn send_answer(&mut self, node: usize, to: ForwardAddress, (seq, answer): ForwardAnswer) {
        for arrival in self.arrivals(Place::Node(node), Place::Node(to.node)) {
            self.at_time(arrival, Happening::ForwardAnswered(to, seq, answer.clone()));
        }
    }

    fn leader_of(&self, term: Term) -> Option<usize> {
        let leads = |node: &usize| {
            let process = self.nodes[*node].process.as_ref();
            process.and_then(|process| process.leader.as_ref()).is_some_and(|leader| leader.term() == term)
        };
        (0..self.nodes.len()).find(leads)
    }

    /// Another node asks for its clients. What comes twice is decided once: the core forgets what is final, and would take it for new.
    pub(super) fn hear_forwarded(&mut self, node: usize, forwarded: Forwarded) {
        let Forwarded { from, asker, tries, term, command } = forwarded;
        let now = self.now;
        let twice = self.plant == Some(Plant::ForwardTakenTwice);
        if !self.takes_in(node) {
            return;
        }
        let Some(process) = &mut self.nodes[node].process else { return };
        let clock = process.clock(now);
        let Some(leader) = process.leader.as_mut().filter(|leader| leader.term() == term) else { return };
        if let Some(before) = leader.forwards_heard.get(&(from, tries)).cloned()
            && !twice
        {
            self.marks.hit(Mark::CommandHeardTwice);
            if let Some(answer) = before {
                self.marks.hit(Mark::CommandAnsweredTwice);
                self.send_answer(node, from, answer);
            }
            return;
        }
        leader.forwards_heard.insert((from, tries), None);
        let reply_to = leader.reply_to(AnswerTo::Node(from, tries));
        let name = CommandName { asker, number: named(from, tries), place: 0 };
        let input = match self.plant {
            Some(Plant::CommandUnnamed) => Input::Command { reply_to, command }.into(),
            _ => NodeInput::Named { name, reply_to, command: Box::new(command) },
        };
        leader.node.step(clock, input);
        self.touch_node(node);
    }

    /// Nobody has heard the command: it is sent again while there is patience.
    pub(super) fn forward_unheard(&mut self, address: ForwardAddress, tries: u32) -> Checked {
        let now = self.now;
        let Some(process) = self.nodes[address.node].alive(address.life) else { return Ok(()) };
        let leads = process.leader.is_some();
        let Some(cluster) = &mut process.cluster else { return Ok(()) };
        let Some(forward) = cluster.forwards.get(&address.number).filter(|forward| forward.tries == tries) else {
            return Ok(());
        };
        if forward.until <= now {
            let request = forward.request;
            cluster.forwards.remove(&address.number);
            return self.answer(address.node, request, Err(Refusal::NotLeader));
        }
        if leads {
            // Its own bus brings the command back to it.
            self.send_forward(address);
            return Ok(());
        }
        self.at(LEADER_RETRY_US, Happening::ForwardAgain(address, tries));
        Ok(())
    }

    pub(super) fn forward_again(&mut self, address: ForwardAddress, tries: u32) {
        let Some(process) = self.nodes[address.node].alive(address.life) else { return };
        let Some(cluster) = &process.cluster else { return };
        if cluster.forwards.get(&address.number).is_some_and(|forward| forward.tries == tries) {
            self.send_forward(address);
        }
    }

    pub(super) fn forward_answered(
        &mut self,
        address: ForwardAddress,
        seq: LogSeq,
        answer: Result<Done, Refusal>,
    ) -> Checked {
        let plant = self.plant;
        let Some(process) = self.nodes[address.node].alive(address.life) else { return Ok(()) };
        let published = process.published;
        let Some(cluster) = &mut process.cluster else { return Ok(()) };
        let Some(forward) = cluster.forwards.remove(&address.number) else { return Ok(()) };
        // A refusal changes nothing, so there is nothing to read.
        if answer.is_err() || seq <= published || plant == Some(Plant::FollowerAnswersEarly) {
            return self.answer(address.node, forward.request, answer);
        }
        self.marks.hit(Mark::AnswerWaitedForRead);
        cluster.unread.push_back((seq, forward.request, answer));
        Ok(())
    }

    /// The leader has not answered: what became of the command is not known, and that is what the client hears.
    pub(super) fn forward_timeout(&mut self, address: ForwardAddress, tries: u32) -> Checked {
        let plant = self.plant;
        let Some(process) = self.nodes[address.node].alive(address.life) else { return Ok(()) };
        let Some(cluster) = &mut process.cluster else { return Ok(()) };
        let waits = |forward: &&mut Forward| forward.tries == tries;
        let Some(forward) = cluster.forwards.get_mut(&address.number).filter(waits) else { return Ok(()) };
        if plant == Some(Plant::RepeatWithoutIdentity) {
            self.clients.rename(&mut forward.command);
            self.send_forward(address);
            return Ok(());
        }
        if self.found_in_log(address, tries)? {
            return Ok(());
        }
        let Some(request) = self.take_forward(address) else { return Ok(()) };
        self.marks.hit(Mark::CommandUnanswered);
        self.at(0, Happening::Impatient(request));
        Ok(())
    }
}

/// The number of a try of a command among everything that its node asks.
fn named(address: ForwardAddress, tries: u32) -> u64 {
    address.number << 16 | u64::from(tries)
}
