//! Commands that reach a node that does not lead: it sends them to the leader, and answers when it has read what the answer rests on.
//!
//! What nobody has heard is sent again. A command whose answer was lost may have been carried out: it is asked for again under the same name, which is
//! decided once and answered as often as it is asked.

use wasmill_protocol::command::{Command, Done, Refusal};
use wasmill_protocol::{LogSeq, Term};
use wasmill_scheduler_core::Input;

use super::{Happening, Sender, World};
use crate::clients::{PATIENCE_US, RequestId};
use crate::leader::{AnswerTo, ForwardAnswer};
use crate::marks::Mark;
use crate::network::Place;
use crate::node::{Forward, ForwardAddress, Forwarded};
use crate::oracle::Checked;
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
        cluster.forwards.insert(number, Forward { request, command, term, tries: 0, until });
        self.marks.hit(Mark::CommandForwarded);
        self.send_forward(ForwardAddress { node: sender.node, life: sender.life, number });
        Ok(())
    }

    /// Sends a command that waits, to the leader of the newest term that the node knows.
    fn send_forward(&mut self, from: ForwardAddress) {
        let Some(process) = self.nodes[from.node].alive(from.life) else { return };
        // A node that has led knows its own term at least.
        let known = process.fold.state.term().max(process.leader.as_ref().map_or(Term(0), |leader| leader.term()));
        let Some(cluster) = &mut process.cluster else { return };
        let Some(forward) = cluster.forwards.get_mut(&from.number) else { return };
        forward.tries += 1;
        let next_term = forward.tries > 1 && known > forward.term;
        forward.term = known.max(forward.term);
        let tries = forward.tries;
        let forwarded = Forwarded { from, tries, term: forward.term, command: forward.command.clone() };
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
    pub(super) fn forward_unanswered(&mut self, from: ForwardAddress, tries: u32) {
        let Some(process) = self.nodes[from.node].alive(from.life) else { return };
        let Some(cluster) = &process.cluster else { return };
        let Some(forward) = cluster.forwards.get(&from.number).filter(|forward| forward.tries == tries) else { return };
        let forwarded = Forwarded { from, tries, term: forward.term, command: forward.command.clone() };
        let Some(to) = self.leader_of(forwarded.term) else { return };
        self.marks.hit(Mark::CommandAskedAgain);
        for arrival in self.arrivals(Place::Node(from.node), Place::Node(to)) {
            self.at_time(arrival, Happening::Forwarded(to, Box::new(forwarded.clone())));
        }
        self.at(LOST_US, Happening::ForwardUnanswered(from, tries));
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
        let Forwarded { from, tries, term, command } = forwarded;
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
        leader.node.step(clock, Input::Command { reply_to, command }.into());
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
    pub(super) fn forward_timeout(&mut self, address: ForwardAddress, tries: u32) {
        let plant = self.plant;
        let Some(process) = self.nodes[address.node].alive(address.life) else { return };
        let Some(cluster) = &mut process.cluster else { return };
        let waits = |forward: &&mut Forward| forward.tries == tries;
        let Some(forward) = cluster.forwards.get_mut(&address.number).filter(waits) else { return };
        if plant == Some(Plant::RepeatWithoutIdentity) {
            self.clients.rename(&mut forward.command);
            return self.send_forward(address);
        }
        let request = forward.request;
        cluster.forwards.remove(&address.number);
        self.marks.hit(Mark::CommandUnanswered);
        self.at(0, Happening::Impatient(request));
    }
}
