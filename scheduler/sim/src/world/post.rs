//! Messages to hosts, which wait for their payloads and leave in their order.

use wasmill_protocol::{HostId, Term};
use wasmill_scheduler_core::MessageOut;
use wasmill_scheduler_node::Post;
use wasmill_scheduler_node::post::Action;

use super::{Happening, Sender, World};
use crate::marks::Mark;
use crate::oracle::{Checked, hold};
use crate::plant::Plant;

/// Of 1000 messages with attempts, how many wait until payloads are read.
const PAYLOADS_READ: u64 = 100;
/// How long that takes at most, in microseconds.
const READ_US_MAX: u64 = 3_000_000;

impl World {
    /// A message was decided, and what it rests on is durable.
    pub(super) fn post(&mut self, node: usize, message: MessageOut) -> Checked {
        let host = message.host.clone();
        let Some(leader) = self.nodes[node].leader() else { return Ok(()) };
        let post = leader.posts.entry(host.clone()).or_default();
        if !message.assign.is_empty() {
            post.decided.push_back(message.assign.iter().map(|(id, _)| *id).collect());
        }
        if self.plant == Some(Plant::PostUnordered) && self.rng.chance(1_000 - PAYLOADS_READ) {
            return self.leave(node, message);
        }
        if let Some(post) = self.nodes[node].leader().and_then(|leader| leader.posts.get_mut(&host)) {
            let has_room = post.post.decided(message);
            hold!(has_room, "more messages wait for {host} than ever should here");
        }
        self.carry(node, &host)
    }

    /// Does what the post of a host says.
    fn carry(&mut self, node: usize, host: &HostId) -> Checked {
        loop {
            let Some(leader) = self.nodes[node].leader() else { return Ok(()) };
            let term = leader.term();
            let Some(post) = leader.posts.get_mut(host) else { return Ok(()) };
            let actions = post.post.take_ready();
            if actions.is_empty() {
                return Ok(());
            }
            for action in actions {
                match action {
                    Action::Attach(message) => self.attach(node, term, message),
                    Action::SendAttached => {
                        let post = self.nodes[node].leader().and_then(|leader| leader.posts.get_mut(host));
                        if let Some(message) = post.and_then(|post| post.front.take()) {
                            self.leave(node, message)?;
                        }
                        self.post_of(node, host, |post| post.answered());
                    }
                    Action::Send(cancels) => {
                        self.marks.hit(Mark::CancelLeftBefore);
                        self.send(node, cancels)?;
                        self.post_of(node, host, |post| post.answered());
                    }
                }
            }
        }
    }

    fn post_of(&mut self, node: usize, host: &HostId, step: impl FnOnce(&mut Post<MessageOut>)) {
        if let Some(post) = self.nodes[node].leader().and_then(|leader| leader.posts.get_mut(host)) {
            step(&mut post.post);
        }
    }

    /// Most payloads are at hand.
    fn attach(&mut self, node: usize, term: Term, message: MessageOut) {
        let (sender, host) = (Sender { node, life: self.nodes[node].life }, message.host.clone());
        let reads = !message.assign.is_empty() && self.options.read_model_lag > 0 && self.rng.chance(PAYLOADS_READ);
        let delay = if reads { Some(self.rng.skewed(READ_US_MAX)) } else { None };
        let Some(post) = self.nodes[node].leader().and_then(|leader| leader.posts.get_mut(&host)) else { return };
        post.front = Some(message);
        match delay {
            Some(delay) => self.at(delay, Happening::PayloadsAttached(sender, Box::new((term, host)))),
            None => post.post.attached(),
        }
    }

    pub(super) fn payloads_attached(&mut self, sender: Sender, term: Term, host: &HostId) -> Checked {
        let Some(process) = self.nodes[sender.node].alive(sender.life) else { return Ok(()) };
        if process.leader.as_ref().is_some_and(|leader| leader.term() == term) {
            self.post_of(sender.node, host, |post| post.attached());
            self.carry(sender.node, host)?;
        }
        Ok(())
    }

    /// A message leaves: none with attempts before one that was decided earlier.
    fn leave(&mut self, node: usize, message: MessageOut) -> Checked {
        let Some(leader) = self.nodes[node].leader() else { return Ok(()) };
        if let Some(post) = leader.posts.get_mut(&message.host).filter(|_| !message.assign.is_empty()) {
            let first = post.decided.pop_front();
            let is_next = first.is_some_and(|first| first.iter().eq(message.assign.iter().map(|(id, _)| id)));
            hold!(is_next, "attempts are sent to {} before others that were decided earlier", message.host);
        }
        self.send(node, message)
    }
}
