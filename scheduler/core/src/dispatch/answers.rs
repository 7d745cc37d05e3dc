//! Questions to policies outside, and what becomes of their answers.
//!
//! While the answer of the policy that places is waited for nothing else is placed, but everything
//! else goes on: tenants are ordered by the last keys, and what is not answered within
//! [`CoreConfig::ask_ms`](crate::CoreConfig::ask_ms) the built-in default places. It goes on doing
//! so until the policy comes back, be it with an answer that does not count any more, so that no
//! second question queues up behind the first.

use std::collections::BTreeSet;

use wasmill_protocol::policy::PolicyHook;
use wasmill_protocol::{TenantName, Timestamp};

use super::Dispatch;
use super::desk::AskResult;
use super::outside::Subject;
use super::queue::{Queue, is_stored_out, tenant_view};
use super::round::{Round, Started};
use super::seats::{Placing, checked};
use crate::leader::Core;
use crate::policy::ask::{AskId, PolicyAnswer, PolicyQuestion};
use crate::policy::{Choice, Key, Keys, PolicyFault, ShapeView, Wanted};
use crate::state::Slot;
use crate::state::tenants::{TenantEntry, TenantNumber};

impl Core {
    /// A policy outside answers.
    pub(crate) fn policy_answered(&mut self, id: AskId, answer: PolicyAnswer) {
        let Dispatch { order, place, .. } = &mut self.dispatch;
        let is_taken = match id.hook {
            PolicyHook::Order => order.asked().is_some_and(|policy| policy.desk.take(self.now, id, answer)),
            PolicyHook::Place => place.asked().is_some_and(|policy| policy.desk.take(self.now, id, answer)),
        };
        self.tally.policy_answers_late += u64::from(!is_taken);
    }

    /// When something is to be done about a policy.
    pub(crate) fn policies_due(&self) -> Option<Timestamp> {
        let (order, place) = (&self.dispatch.order, &self.dispatch.place);
        let stall_ms = self.config.stall_ms;
        [order.next_due(stall_ms), place.next_due(stall_ms)].into_iter().flatten().min()
    }

    /// The keys that were asked for are there, or the time for that is over.
    pub(super) fn take_key_answer(&mut self) {
        let Some(outcome) = self.dispatch.order.asked().and_then(|policy| policy.desk.outcome(self.now)) else {
            return;
        };
        let (subject, fault) = match outcome {
            AskResult::Answered(subject, PolicyAnswer::Keys(keys)) => {
                match checked(keys, subject.tenants.len(), subject.shapes.len()) {
                    Ok(keys) => return self.take_keys(&subject, keys),
                    Err(fault) => (subject, fault),
                }
            }
            AskResult::Answered(subject, PolicyAnswer::Fault(fault)) => (subject, fault),
            AskResult::Answered(subject, PolicyAnswer::Choices(_)) => {
                (subject, nonsense("places where keys were asked for"))
            }
            AskResult::TimedOut(subject) => (subject, self.timeout()),
        };
        let (sitting, now) = (self.dispatch.next_sitting(), self.now);
        let Dispatch { order, queue, .. } = &mut self.dispatch;
        if let Some(policy) = order.asked() {
            policy.ask_again(subject);
            policy.begin_anew(sitting);
        }
        order.failed(now, fault, &mut self.tally);
        // It is asked about everything anew.
        queue.touch_all();
        self.dispatch.wake();
    }

    fn take_keys(&mut self, subject: &Subject, mut keys: Keys) {
        self.take_in_queue();
        let Self { state, dispatch, stored_out, .. } = self;
        let Dispatch { queue, order, .. } = dispatch;
        let policy = order.asked().expect("its answer was just taken");
        policy.take_keys(subject, &mut keys);
        let is_there = |number| state.tenants.find(number).is_some_and(|entry| !entry.removed);
        subject.tenants.iter().filter(|number| !is_there(**number)).for_each(|number| policy.forget_tenant(*number));
        let tenants = subject.tenants.iter().zip(keys.tenants);
        let tenants = tenants.filter_map(|(number, key)| Some((*number, state.tenants.find(*number)?, key)));
        let shapes: Vec<_> =
            subject.shapes.iter().zip(keys.shapes).filter(|(shape, _)| queue.is_current(**shape)).collect();
        set_keys(queue, stored_out, tenants, shapes.into_iter().map(|(shape, key)| (shape.slot, key)));
    }

    /// Asks the policy that orders about what has changed.
    pub(super) fn ask_for_keys(&mut self) {
        let Self { state, dispatch, now, config, .. } = self;
        let Dispatch { queue, shares, order, .. } = dispatch;
        let Some(policy) = order.asked() else { return };
        let Some((tenants, shapes)) = policy.take_changed() else { return };
        let tenants = tenants.into_iter().filter(|number| queue.has_tenant(*number)).filter_map(|number| {
            let entry = state.tenants.find(number).filter(|entry| !entry.removed)?;
            Some(tenant_view(number, entry, shares.time(number), shares.charge(number, entry.weight).time()))
        });
        let tenants: Vec<_> = tenants.collect();
        let shapes = shapes.into_iter().filter(|slot| queue.has_shape(*slot)).map(|slot| queue.view(state, slot));
        let shapes: Vec<_> = shapes.collect();
        if tenants.is_empty() && shapes.is_empty() {
            return;
        }
        let (subject, question) = policy.question(&tenants, &shapes);
        let due = now.plus_ms(config.ask_ms);
        let ask = policy.desk.ask(state.term(), *now, due, subject, PolicyQuestion::Order(question));
        self.hand_out(ask);
    }

    /// Asks the policy that places. Chosen tasks stay in the queue until they start.
    pub(super) fn ask_for_places(&mut self, wanted: Vec<Wanted>, guarded: u32) -> Round {
        wanted.iter().for_each(|wish| self.give_back(wish));
        let Self { state, dispatch, now, config, .. } = self;
        let Dispatch { place, fleet, .. } = dispatch;
        let due = place.ask_until(*now, config.ask_ms);
        let policy = place.asked().expect("a policy outside is to be asked");
        let host = |slot| {
            let reference = fleet.reference(slot);
            (reference, fleet.room(reference))
        };
        let question = policy.question(&wanted, host, &state.tenants);
        let ask = policy.desk.ask(state.term(), *now, due, wanted, PolicyQuestion::Place(question));
        self.hand_out(ask);
        Round { started: guarded, moved_on: false, is_asked: true }
    }

    /// The places of wanted tasks are decided: by the policy, or by the default when the time is
    /// over.
    pub(super) fn resume(&mut self) -> Option<Round> {
        if self.dispatch.place.is_waiting() {
            self.take_in_queue();
            self.take_in_hosts();
        }
        let (wanted, fault) = match self.dispatch.place.asked()?.desk.outcome(self.now)? {
            AskResult::Answered(wanted, PolicyAnswer::Choices(choices)) => {
                let tasks: u64 = wanted.iter().map(|wish| u64::from(wish.count)).sum();
                if choices.len() as u64 <= tasks {
                    return Some(self.conclude(Placing::ByPolicy(choices), wanted, 0));
                }
                let reason = format!("{} choices for {tasks} tasks", choices.len());
                (wanted, PolicyFault { reason })
            }
            AskResult::Answered(wanted, PolicyAnswer::Fault(fault)) => (wanted, fault),
            AskResult::Answered(wanted, PolicyAnswer::Keys(_)) => {
                (wanted, nonsense("keys where places were asked for"))
            }
            AskResult::TimedOut(wanted) => (wanted, self.timeout()),
        };
        self.place_failed(fault);
        let choices = self.dispatch.place.place_by_default(self.now, &wanted);
        self.tally.policy_rounds_by_default += 1;
        Some(self.conclude(Placing::ByDefault(choices), wanted, 0))
    }

    /// Starts what is right of a policy's answer. One in which everything is wrong is no answer.
    pub(super) fn start_by_policy(&mut self, choices: Vec<Choice>, wanted: &mut [Wanted]) -> u32 {
        let changed = self.dispatch.place.take_changed_since();
        let Started { started, wrong, stale } = self.start(choices, wanted, &changed);
        self.tally.policy_choices_wrong += wrong;
        self.tally.policy_choices_stale += stale;
        if started > 0 || wrong == 0 || stale > 0 {
            return started;
        }
        self.place_failed(PolicyFault { reason: format!("all of its choices were wrong, {wrong} tasks") });
        self.tally.policy_rounds_by_default += 1;
        let choices = self.dispatch.place.place_by_default(self.now, wanted);
        self.start(choices, wanted, &UNCHANGED).started
    }

    /// The policy that places has failed: it is told everything again.
    pub(super) fn place_failed(&mut self, fault: PolicyFault) {
        let (sitting, now) = (self.dispatch.next_sitting(), self.now);
        let Dispatch { place, fleet, .. } = &mut self.dispatch;
        place.failed(now, fault, &mut self.tally);
        if let Some(policy) = place.asked() {
            policy.begin_anew(sitting, &fleet.all());
        }
    }

    /// A policy that does not come back decides no more.
    pub(super) fn bench_silent(&mut self) {
        let (now, stall_ms) = (self.now, self.config.stall_ms);
        let reason = || format!("it has not answered a question for {stall_ms} ms");
        let Dispatch { order, place, .. } = &mut self.dispatch;
        if order.asked().is_some_and(|policy| policy.desk.is_silent(now, stall_ms)) {
            order.bench(reason(), &mut self.tally);
        }
        if place.asked().is_some_and(|policy| policy.desk.is_silent(now, stall_ms)) {
            place.bench(reason(), &mut self.tally);
        }
    }

    /// A shape is left in the queue: the policy that has left it for too long decides no more.
    pub(super) fn note_left(&mut self, wish: &Wanted) {
        self.dispatch.declined.insert(wish.shape.id.slot);
        let place = &mut self.dispatch.place;
        let left_ms = place.stalls.leave(self.now, &wish.shape);
        if left_ms >= self.config.stall_ms {
            let tenant = &wish.shape.tenant;
            let reason =
                format!("it has left tasks of {tenant} in the queue for {left_ms} ms, and a host has a place for them");
            place.bench(reason, &mut self.tally);
        }
    }

    /// How many tasks of a shape its gates let start: there are so many, it is the shape that was
    /// meant, and the quotas of its tenant have room.
    pub(super) fn admitted(&self, shape: &ShapeView) -> u32 {
        let entry = self.state.tenants.find(shape.tenant_id);
        let entry = entry.filter(|entry| !entry.removed && !is_stored_out(&self.stored_out, entry));
        let known = self.state.shapes.find(shape.id.slot).filter(|_| self.dispatch.queue.is_current(shape.id));
        let (Some(entry), Some(known)) = (entry, known) else { return 0 };
        let left = |most: Option<u64>, used: u64| most.map_or(u64::MAX, |most| most.saturating_sub(used));
        let by_tasks = left(entry.quotas.tasks_running, entry.tasks_running);
        let by_memory = left(entry.quotas.memory_bytes, entry.memory_bytes) / shape.memory_bytes.max(1);
        known.queued.count.min(u32::try_from(by_tasks.min(by_memory)).unwrap_or(u32::MAX))
    }

    fn timeout(&self) -> PolicyFault {
        PolicyFault { reason: format!("no answer within {} ms", self.config.ask_ms) }
    }
}

fn nonsense(what: &str) -> PolicyFault {
    PolicyFault { reason: format!("it answered {what}") }
}

/// No host has changed while the policy decided: it decides at once.
pub(super) const UNCHANGED: BTreeSet<u32> = BTreeSet::new();

/// Puts tenants and shapes where their keys say: every answer goes through this.
pub(super) fn set_keys<'a>(
    queue: &mut Queue,
    stored_out: &BTreeSet<TenantName>,
    tenants: impl Iterator<Item = (TenantNumber, &'a TenantEntry, Key)>,
    shapes: impl Iterator<Item = (Slot, Key)>,
) {
    for (slot, key) in shapes {
        queue.set_shape_key(slot, key);
    }
    for (number, entry, key) in tenants {
        queue.set_tenant(number, entry, is_stored_out(stored_out, entry), key);
    }
}
