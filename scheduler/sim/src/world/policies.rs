//! Policies outside: their answers are on their way for a while, and others may sit there when they
//! come.

use wasmill_protocol::policy::PolicyHook;
use wasmill_scheduler_core::Input;
use wasmill_scheduler_core::policy::ask::{Ask, AskId, PolicyAnswer};

use super::{Happening, Sender, World};
use crate::marks::Mark;
use crate::oracle::{Checked, hold};
use crate::plant::Plant;
use crate::policies::{spoil, trap};

impl World {
    /// Puts another policy on the agenda now and then.
    pub(super) fn plan_seatings(&mut self, fault_us: u64) {
        for _ in 0..self.options.policies.seatings {
            let at = self.rng.below(fault_us);
            self.at(at, Happening::PolicySeated);
        }
    }

    /// A leadership begins with the policies that the cluster has, whatever the one before had.
    pub(super) fn seat_policies(&mut self, node: usize) {
        for hook in [PolicyHook::Order, PolicyHook::Place] {
            self.seat_policy(node, hook);
        }
    }

    /// Another policy is seated where something leads.
    pub(super) fn policy_seated(&mut self) {
        let hook = if self.rng.chance(500) { PolicyHook::Order } else { PolicyHook::Place };
        if let Some(&node) = self.listening().first()
            && self.nodes[node].paused_until <= self.now
        {
            self.seat_policy(node, hook);
        }
    }

    fn seat_policy(&mut self, node: usize, hook: PolicyHook) {
        let seat = self.options.policies.seat(&mut self.rng, hook);
        if let Some(leader) = self.nodes[node].leader() {
            leader.policies.seated(hook);
        }
        let sender = Sender { node, life: self.nodes[node].life };
        self.tell_leader(sender, Input::PolicySeated(seat).into());
    }

    /// A policy is asked.
    pub(super) fn asked_policy(&mut self, node: usize, ask: &Ask) {
        let Some(leader) = self.nodes[node].leader() else { return };
        let answer = leader.policies.answer(ask);
        let like = self.options.policies;
        if self.rng.chance(like.absent) {
            return;
        }
        let answer = if self.rng.chance(like.traps) {
            trap()
        } else if self.rng.chance(like.wrong) {
            spoil(answer, &mut self.rng)
        } else if matches!(answer, PolicyAnswer::Choices(_)) && self.rng.chance(like.lazy) {
            PolicyAnswer::Choices(Vec::new())
        } else {
            answer
        };
        let sender = Sender { node, life: self.nodes[node].life };
        let delay = self.rng.below(like.answer_us);
        self.at(delay, Happening::PolicyAnswers(sender, Box::new((ask.id, answer))));
    }

    /// An answer comes back. One to an earlier question changes nothing, whoever sits there now.
    pub(super) fn policy_answers(&mut self, sender: Sender, id: AskId, answer: PolicyAnswer) -> Checked {
        let plant = self.plant;
        if self.nodes[sender.node].alive(sender.life).is_none() {
            return Ok(());
        }
        let Some(leader) = self.nodes[sender.node].leader() else { return Ok(()) };
        let last = leader.policies.asked_last.get(&id.hook).copied();
        let is_older = last != Some(id);
        let late = |leader: &crate::leader::Leader| leader.node.core().counters().by_name["policy_answers_late"];
        let (before, takes_in) = (late(leader), leader.node.is_open());
        let id = if plant == Some(Plant::AnswerOfOlderSeat) { last.unwrap_or(id) } else { id };
        self.tell_leader(sender, Input::PolicyAnswered { id, answer }.into());
        let Some(leader) = self.nodes[sender.node].leader() else { return Ok(()) };
        let is_dropped = late(leader) > before;
        hold!(!is_older || is_dropped || !takes_in, "an answer to the earlier question {id:?} is taken");
        self.marks.hit(if is_dropped { Mark::PolicyAnswerLate } else { Mark::PolicyAnswered });
        Ok(())
    }
}
