//! Commands that reach a node that does not lead: it sends them to the leader, and answers when it has read what the answer rests on.

use wasmill_protocol::LogSeq;
use wasmill_protocol::command::{Command, Done, Refusal};
use wasmill_scheduler_core::Input;

use super::{Happening, Sender, World};
use crate::clients::{PATIENCE_US, RequestId};
use crate::leader::AnswerTo;
use crate::marks::Mark;
use crate::network::Place;
use crate::node::{Forward, ForwardAddress, Forwarded};
use crate::oracle::Checked;
use crate::plant::Plant;

/// How long a node waits for the leader's answer before it asks again, in microseconds.
const FORWARD_US: u64 = 2_000_000;
/// How long it waits when nobody leads in the term that it knows, in microseconds.
const NOBODY_US: u64 = 200_000;

impl World {
    /// Sends a client's command to the leader.
    pub(super) fn forward(&mut self, sender: Sender, request: RequestId, command: Command) -> Checked {
        let until = self.now.plus_us(PATIENCE_US);
        let Some(process) = self.nodes[sender.node].alive(sender.life) else { return Ok(()) };
        let term = process.fold.state.term();
        let Some(cluster) = &mut process.cluster else { return Ok(()) };
        if term.0 == 0 {
            return self.answer(sender.node, request, Err(Refusal::NotLeader));
        }
        let number = cluster.number();
        cluster.forwards.insert(number, Forward { request, command, term, tries: 0, until });
        self.marks.hit(Mark::CommandForwarded);
        self.send_forward(ForwardAddress { node: sender.node, life: sender.life, number });
        Ok(())
    }

    /// Sends a command that waits, to the leader of the newest term that the node knows.
    fn send_forward(&mut self, from: ForwardAddress) {
        let Some(process) = self.nodes[from.node].alive(from.life) else { return };
        let term = process.fold.state.term();
        let Some(cluster) = &mut process.cluster else { return };
        let Some(forward) = cluster.forwards.get_mut(&from.number) else { return };
        forward.tries += 1;
        if forward.tries > 1 {
            self.marks.hit(Mark::CommandRetried);
            if term > forward.term {
                self.marks.hit(Mark::CommandRetriedInNextTerm);
            }
            if self.plant == Some(Plant::RepeatWithoutIdentity) {
                self.clients.rename(&mut forward.command);
            }
        }
        forward.term = term.max(forward.term);
        let (tries, forwarded) = (forward.tries, Forwarded { from, term: forward.term, command: forward.command.clone() });
        // Where it goes is decided when it gets there: whoever leads in this term listens.
        let to = self.leader_of(forwarded.term).map_or(Place::Nats, Place::Node);
        for arrival in self.arrivals(Place::Node(from.node), to) {
            self.at_time(arrival, Happening::Forwarded(Box::new(forwarded.clone())));
        }
        self.at(FORWARD_US, Happening::ForwardTimeout(from, tries));
    }

    fn leader_of(&self, term: wasmill_protocol::Term) -> Option<usize> {
        let leads = |node: &usize| {
            let process = self.nodes[*node].process.as_ref();
            process.and_then(|process| process.leader.as_ref()).is_some_and(|leader| leader.term == term)
        };
        (0..self.nodes.len()).find(leads)
    }

    pub(super) fn hear_forwarded(&mut self, forwarded: Forwarded) {
        let Some(node) = self.leader_of(forwarded.term) else {
            self.marks.hit(Mark::CommandNobodyLed);
            for arrival in self.arrivals(Place::Nats, Place::Node(forwarded.from.node)) {
                self.at_time(arrival, Happening::ForwardAnswered(forwarded.from, LogSeq(0), Err(Refusal::NotLeader)));
            }
            return;
        };
        let paused_until = self.nodes[node].paused_until;
        if paused_until > self.now {
            self.at_time(paused_until, Happening::Forwarded(Box::new(forwarded)));
            return;
        }
        let Forwarded { from, command, .. } = forwarded;
        let now = self.now;
        if let Some((seq, done)) = self.known_by_id(node, &command) {
            self.marks.hit(Mark::CommandKnownById);
            for arrival in self.arrivals(Place::Node(node), Place::Node(from.node)) {
                self.at_time(arrival, Happening::ForwardAnswered(from, seq, Ok(done.clone())));
            }
            return;
        }
        let Some(process) = &mut self.nodes[node].process else { return };
        let clock = process.clock(now);
        if let Some(leader) = &mut process.leader {
            if leader.answers_node(from) {
                // Its record is on its way: one answer is enough. The core could have forgotten the task by now.
                return;
            }
            let reply_to = leader.reply_to(AnswerTo::Node(from));
            leader.core.step(clock, Input::Command { reply_to, command });
            self.touch_node(node);
        }
    }

    /// A task that the leader's readers can see: its submission came before, and was carried out. The core forgets what is final, so it is
    /// not the core that knows.
    fn known_by_id(&self, node: usize, command: &Command) -> Option<(LogSeq, Done)> {
        let Command::Submit { task, .. } = command else { return None };
        let published = self.nodes[node].process.as_ref()?.published;
        let seq = self.oracle.submitted_at(*task)?;
        (seq <= published).then_some((seq, Done::Accepted { task: *task }))
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
        let Some(forward) = cluster.forwards.get(&address.number) else { return Ok(()) };
        if answer == Err(Refusal::NotLeader) {
            // Not carried out, at least by whoever said so: asked again as soon as somebody leads.
            let tries = forward.tries;
            self.at(NOBODY_US, Happening::ForwardTimeout(address, tries));
            return Ok(());
        }
        let request = forward.request;
        cluster.forwards.remove(&address.number);
        if seq <= published || plant == Some(Plant::FollowerAnswersEarly) {
            return self.answer(address.node, request, answer);
        }
        self.marks.hit(Mark::AnswerWaitedForRead);
        cluster.unread.push_back((seq, request, answer));
        Ok(())
    }

    pub(super) fn forward_timeout(&mut self, address: ForwardAddress, tries: u32) -> Checked {
        let now = self.now;
        let Some(process) = self.nodes[address.node].alive(address.life) else { return Ok(()) };
        let leads = process.leader.is_some();
        let Some(cluster) = &mut process.cluster else { return Ok(()) };
        let Some(forward) = cluster.forwards.get(&address.number) else { return Ok(()) };
        if forward.tries != tries {
            return Ok(());
        }
        if forward.until <= now {
            // The client has gone.
            cluster.forwards.remove(&address.number);
            return Ok(());
        }
        if leads {
            // This node leads now: the command has come to the right place, maybe for the second time.
            let Some(Forward { request, mut command, .. }) = cluster.forwards.remove(&address.number) else {
                return Ok(());
            };
            if self.plant == Some(Plant::RepeatWithoutIdentity) {
                self.clients.rename(&mut command);
            }
            return match self.known_by_id(address.node, &command) {
                Some((_, done)) => self.answer(address.node, request, Ok(done)),
                None => self.looked_up(Sender { node: address.node, life: address.life }, request, command),
            };
        }
        self.send_forward(address);
        Ok(())
    }
}
