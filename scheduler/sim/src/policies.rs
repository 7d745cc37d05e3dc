//! Policies that live outside the core: they answer from what they were told and from nothing else,
//! late, wrong, or not at all.

use std::collections::BTreeMap;

use wasmill_protocol::Digest;
use wasmill_protocol::policy::PolicyHook;
use wasmill_scheduler_core::policy::ask::{
    Ask, AskId, HostFacts, Outside, PlaceQuestion, PolicyAnswer, PolicyQuestion, TenantFacts,
};
use wasmill_scheduler_core::policy::{Choice, HostStatus, Key, Keys, ORDERS, PLACES, PolicyFault, Ref, Seat, Stride};

use crate::rng::Rng;

/// What policies outside are like in one simulated cluster.
#[derive(Debug, Clone, Copy)]
pub struct PolicyOptions {
    /// Of 1000 seats, how many are for a policy outside.
    pub outside: u64,
    /// Of 1000 questions, how many are never answered.
    pub absent: u64,
    /// Of 1000 answers, how many are traps.
    pub traps: u64,
    /// Of 1000 answers, how many are nonsense in part or altogether.
    pub wrong: u64,
    /// Of 1000 answers, how many place nothing.
    pub lazy: u64,
    /// The longest ordinary time until an answer, in microseconds.
    pub answer_us: u64,
    /// How often another policy is seated.
    pub seatings: u64,
}

impl PolicyOptions {
    /// Draws from a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut sometimes = |max: u64| if rng.chance(500) { rng.skewed(max) } else { 0 };
        let (absent, traps, wrong, lazy) = (sometimes(100), sometimes(200), sometimes(500), sometimes(1_000));
        let (answer_us, seatings) = (1 + sometimes(60_000), sometimes(20));
        Self { outside: *rng.pick(&[0, 500, 1_000]), absent, traps, wrong, lazy, answer_us, seatings }
    }

    /// Every policy that is built in, or one outside.
    pub fn seat(self, rng: &mut Rng, hook: PolicyHook) -> Seat {
        if rng.chance(self.outside) {
            let number = u8::try_from(rng.below(4)).unwrap_or(0) + 1;
            let (name, digest) = (format!("outside-{number}"), Digest([number; 32]));
            return Seat::outside(hook, Outside { name, digest, orders_shapes: number < 3, ..Outside::default() });
        }
        let names = match hook {
            PolicyHook::Order => ORDERS,
            PolicyHook::Place => PLACES,
        };
        Seat::built_in(hook, rng.pick::<&str>(&names)).expect("it is built in")
    }
}

/// The policies outside that a leader asks.
#[derive(Debug, Default)]
pub struct Policies {
    minds: BTreeMap<PolicyHook, Mind>,
    /// The last question to each.
    pub asked_last: BTreeMap<PolicyHook, AskId>,
}

/// What one sitting of a policy remembers.
#[derive(Debug, Default)]
struct Mind {
    sitting: u64,
    hosts: BTreeMap<Ref, HostFacts>,
    memory_of: BTreeMap<Ref, u64>,
}

impl Policies {
    /// Another policy is seated: nothing that was asked before counts.
    pub fn seated(&mut self, hook: PolicyHook) {
        self.asked_last.remove(&hook);
    }

    /// What a policy answers, before anything goes wrong with it.
    pub fn answer(&mut self, ask: &Ask) -> PolicyAnswer {
        self.asked_last.insert(ask.id.hook, ask.id);
        let mind = self.minds.entry(ask.id.hook).or_default();
        if mind.sitting != ask.id.sitting {
            *mind = Mind { sitting: ask.id.sitting, ..Mind::default() };
        }
        match &ask.question {
            // Those that run least go first, and small shapes before large ones.
            PolicyQuestion::Order(question) => {
                let key = |tenant: &TenantFacts| Key {
                    class: -i64::from(tenant.class),
                    rank: tenant.running,
                    stride: Stride::By(1),
                };
                mind.memory_of.extend(question.news.shapes.iter().map(|shape| (shape.id, shape.memory_bytes)));
                let shape_key = |shape: Ref| Key { rank: mind.memory_of[&shape], ..Key::default() };
                let shapes = question.shapes.iter().map(|shape| shape_key(shape.id)).collect();
                PolicyAnswer::Keys(Keys { tenants: question.tenants.iter().map(key).collect(), shapes })
            }
            PolicyQuestion::Place(question) => PolicyAnswer::Choices(mind.place(question)),
        }
    }
}

impl Mind {
    /// The first host that has room, as far as what was told says so.
    fn place(&mut self, question: &PlaceQuestion) -> Vec<Choice> {
        self.memory_of.extend(question.news.shapes.iter().map(|shape| (shape.id, shape.memory_bytes)));
        for news in &question.hosts {
            self.hosts.retain(|host, _| host.slot != news.host.slot);
            if let Some(facts) = &news.facts {
                self.hosts.insert(news.host, facts.clone());
            }
        }
        let mut choices = Vec::new();
        let mut hosts = self.hosts.clone();
        for (wanted, wish) in question.wanted.iter().enumerate() {
            let memory_bytes = self.memory_of[&wish.shape.id];
            let mut left = wish.count;
            for (host, facts) in &mut hosts {
                let may = facts.status == HostStatus::Ready && memory_bytes <= facts.memory_bytes;
                let by_memory = facts.memory_most.saturating_sub(facts.memory_promised).div_ceil(memory_bytes.max(1));
                let count = left.min(facts.free).min(u32::try_from(by_memory).unwrap_or(u32::MAX));
                if may && count > 0 {
                    choices.push(Choice { wanted, host: *host, count });
                    left -= count;
                    facts.free -= count;
                    facts.memory_promised += memory_bytes * u64::from(count);
                }
            }
        }
        choices
    }
}

/// Makes nonsense of an answer.
pub fn spoil(answer: PolicyAnswer, rng: &mut Rng) -> PolicyAnswer {
    match answer {
        PolicyAnswer::Choices(mut choices) => {
            for choice in &mut choices {
                match rng.below(6) {
                    0 => choice.host.generation += 1,
                    1 => choice.host.slot = u32::MAX,
                    2 => choice.wanted = usize::MAX,
                    3 => choice.count = u32::MAX,
                    4 => choice.host.slot = 0,
                    _ => {}
                }
            }
            if rng.chance(200) { PolicyAnswer::Keys(Keys::default()) } else { PolicyAnswer::Choices(choices) }
        }
        PolicyAnswer::Keys(mut keys) => {
            match rng.below(3) {
                0 => drop(keys.tenants.pop()),
                1 => return PolicyAnswer::Choices(Vec::new()),
                _ => keys.tenants.iter_mut().for_each(|key| {
                    *key = Key { class: i64::MAX, rank: rng.draw(), stride: Stride::By(rng.draw()) };
                }),
            }
            PolicyAnswer::Keys(keys)
        }
        fault @ PolicyAnswer::Fault(_) => fault,
    }
}

/// What comes from a policy that has trapped.
pub fn trap() -> PolicyAnswer {
    PolicyAnswer::Fault(PolicyFault { reason: "unreachable executed".to_owned() })
}
