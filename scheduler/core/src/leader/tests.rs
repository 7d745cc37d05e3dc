//! Policies that misbehave: nothing is overloaded, nothing stalls, everything is counted.

use std::sync::Arc;

use wasmill_protocol::command::{Command, ModuleRef};
use wasmill_protocol::message::{FromHost, Heartbeat, HostInfo, Report, StopCause};
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::{Digest, HostId, Incarnation, TaskId, TaskSpec, TenantName, Term, Timestamp, Uptime};
use wasmill_record::event::{Event, EventBody};

use super::Core;
use crate::config::CoreConfig;
use crate::io::{Input, ReplyTo};
use crate::policy::{
    Choice, Fair, HostChange, Keys, LeastLoaded, Order, Place, PolicyFault, Ref, ShapeView, TenantView, Wanted,
};
use crate::state::State;

const START: Timestamp = Timestamp(1_000_000_000);
const MODULE: Digest = Digest([7; 32]);

fn task(number: usize) -> TaskId {
    format!("01890a5d-ac96-774b-bcce-{number:012x}").parse().unwrap()
}

/// A leader with two hosts of four places each and `tasks` tasks, which the policies have not seen
/// yet.
fn leader(tasks: usize, order: impl Order + 'static, place: impl Place + 'static) -> Core {
    let mut core = Core::new(1, CoreConfig::default(), State::default());
    core.step(START, lead(1, "n1"));
    core.seat_order(Box::new(order));
    core.seat_place(Box::new(place));
    let module = Arc::new(ModuleInfo { digest: MODULE, ..ModuleInfo::default() });
    let command = Command::AddModule { tenant: TenantName::default(), module, alias: None };
    core.step(START, Input::Command { reply_to: ReplyTo(0), command });
    (0..tasks).for_each(|number| submit(&mut core, number));
    for host in ["h1", "h2"] {
        core.step(START, Input::HostJoined(HostInfo { id: host.into(), ..HostInfo::default() }));
    }
    beat(&mut core, START, 1);
    core
}

/// A leadership of a node whose clocks say nothing.
fn lead(term: u64, node: &str) -> Input {
    Input::Lead { term: Term(term), node: node.into(), passed_us: 0, uptime: Uptime::default() }
}

/// Two shapes, so that there is something to order.
fn submit(core: &mut Core, number: usize) {
    let spec = Arc::new(TaskSpec { module: MODULE, priority: i8::from(number % 2 == 1), ..TaskSpec::default() });
    let command =
        Command::Submit { task: task(number), module: ModuleRef::Digest(MODULE), spec, key: None, edges: Vec::new() };
    core.step(START, Input::Command { reply_to: ReplyTo(0), command });
}

fn beat(core: &mut Core, now: Timestamp, number: u64) {
    for host in ["h1", "h2"] {
        let attempts = core.hosts.get(&HostId::from(host)).unwrap().flights.keys().copied().collect();
        let heartbeat = Heartbeat {
            host: host.into(),
            incarnation: Incarnation(0),
            number,
            attempts,
            credit: 4,
            slots: 4,
            memory_bytes: 1 << 40,
            ..Heartbeat::default()
        };
        core.step(now, Input::Heartbeat(heartbeat));
    }
}

fn running(core: &mut Core) -> u64 {
    core.take_ready();
    core.assert_consistent();
    core.queue_depth().running
}

#[derive(Debug)]
struct Answers(Vec<Choice>);

impl Place for Answers {
    fn name(&self) -> &str {
        "answers"
    }

    fn changed(&mut self, _: &[HostChange]) {}

    fn place(&mut self, _: Timestamp, _: &[Wanted]) -> Result<Vec<Choice>, PolicyFault> {
        Ok(self.0.clone())
    }
}

#[test]
fn wrong_choices_are_dropped_and_counted() {
    let choice = |wanted, slot, count| Choice { wanted, host: Ref { slot, generation: 0 }, count };
    let wrong = vec![
        choice(9, 0, 1),
        choice(0, 9, 2),
        choice(0, 0, 100),
        choice(0, 1, 1),
        choice(usize::MAX, u32::MAX, u32::MAX),
        // The host that had this number before.
        Choice { wanted: 0, host: Ref { slot: 1, generation: 9 }, count: 1 },
    ];
    let mut core = leader(6, Fair, Answers(wrong));
    assert!(running(&mut core) > 0);
    assert!(core.hosts().iter().all(|host| host.attempts <= 4), "no host above its credit");
    assert!(core.tally.policy_choices_wrong > u64::from(u32::MAX));
    core.assert_consistent();
}

/// Declines everything.
#[derive(Debug)]
struct Lazy;

impl Place for Lazy {
    fn name(&self) -> &str {
        "lazy"
    }

    fn changed(&mut self, _: &[HostChange]) {}

    fn place(&mut self, _: Timestamp, _: &[Wanted]) -> Result<Vec<Choice>, PolicyFault> {
        Ok(Vec::new())
    }
}

#[test]
fn what_a_policy_never_places_is_placed_when_it_is_overdue() {
    let mut core = leader(3, Fair, Lazy);
    assert_eq!(running(&mut core), 0);
    let waiting = core.explain(task(0), START).unwrap();
    assert_eq!(waiting.waiting_for.as_deref(), Some("policy declined"));
    let overdue = START.plus_ms(core.config.longest_wait_ms);
    beat(&mut core, overdue, 2);
    assert_eq!((running(&mut core), core.tally.attempts_overdue), (3, 3));
}

/// Traps every time.
#[derive(Debug)]
struct Broken;

impl Broken {
    fn fault<T>() -> Result<T, PolicyFault> {
        Err(PolicyFault { reason: "out of fuel".into() })
    }
}

impl Order for Broken {
    fn name(&self) -> &str {
        "broken"
    }

    fn keys(&mut self, _: Timestamp, _: &[TenantView], _: &[ShapeView]) -> Result<Keys, PolicyFault> {
        Self::fault()
    }
}

impl Place for Broken {
    fn name(&self) -> &str {
        "broken"
    }

    fn changed(&mut self, _: &[HostChange]) {}

    fn place(&mut self, _: Timestamp, _: &[Wanted]) -> Result<Vec<Choice>, PolicyFault> {
        Self::fault()
    }
}

/// E02
#[test]
fn the_default_decides_for_a_policy_that_traps_and_then_replaces_it() {
    let mut core = leader(6, Broken, Broken);
    assert_eq!(running(&mut core), 6, "nothing waits for the policy");
    let faults = core.tally.policy_faults;
    assert!(faults > 0);
    for number in 2..20u8 {
        submit(&mut core, usize::from(number) * 10);
        submit(&mut core, usize::from(number) * 10 + 1);
        let host = core.hosts.values().find(|host| !host.flights.is_empty()).unwrap();
        let reports = host.flights.keys().take(1).map(|&id| Report::Returned { id }).collect();
        let message = FromHost { host: host.info.id.clone(), incarnation: Incarnation(0), reports };
        core.step(START, Input::FromHost { reply_to: ReplyTo(0), message });
        beat(&mut core, START, u64::from(number));
        running(&mut core);
    }
    assert_eq!(core.tally.policies_benched, 2, "one for the order, one for the place");
    assert_eq!(core.tally.policy_faults, 12, "five each are forgiven");
}

/// The record with the removal is durable, and what asked the running task to stop was in the next
/// one, which was lost with the leader.
#[test]
fn a_new_leader_asks_what_runs_of_removed_tenants_to_stop() {
    let tenant: TenantName = "gone".parse().unwrap();
    let host = HostInfo { id: "h1".into(), ..HostInfo::default() };
    let mut first = Core::new(1, CoreConfig::default(), State::default());
    let ask = |core: &mut Core, command| core.step(START, Input::Command { reply_to: ReplyTo(0), command });
    first.step(START, lead(1, "n1"));
    let quotas = Default::default();
    ask(&mut first, Command::CreateTenant { name: tenant.clone(), weight: 1, class: 0, quotas });
    let module = Arc::new(ModuleInfo { digest: MODULE, ..ModuleInfo::default() });
    ask(&mut first, Command::AddModule { tenant: tenant.clone(), module, alias: None });
    let spec = Arc::new(TaskSpec { tenant: tenant.clone(), module: MODULE, ..TaskSpec::default() });
    ask(
        &mut first,
        Command::Submit { task: task(1), module: ModuleRef::Digest(MODULE), spec, key: None, edges: Vec::new() },
    );
    first.step(START, Input::HostJoined(host.clone()));
    first.step(START, Input::HostJoined(HostInfo { id: "h2".into(), ..HostInfo::default() }));
    beat(&mut first, START, 1);
    let mut log = first.take_ready().events;
    assert_eq!(first.queue_depth().running, 1);
    ask(&mut first, Command::RemoveTenant { name: tenant });
    let removal = first.take_ready().events;
    assert!(matches!(
        removal[..],
        [Event { body: EventBody::TenantRemoved { .. }, .. }, Event { body: EventBody::CancelRequested { .. }, .. }]
    ));
    log.push(removal[0].clone());

    let mut state = State::default();
    for event in &log {
        state.apply(event);
    }
    let mut next = Core::new(2, CoreConfig::default(), state);
    next.step(START, lead(2, "n2"));
    let asked = next.take_ready().events;
    let is_asked =
        |event: &&Event| matches!(event.body, EventBody::CancelRequested { task: asked, .. } if asked == task(1));
    assert_eq!(asked.iter().filter(is_asked).count(), 1, "{asked:?}");
    next.step(START, Input::HostJoined(host));
    let sent: Vec<_> = next.take_ready().messages.into_iter().flat_map(|message| message.stop).collect();
    let sent: Vec<_> = sent.iter().map(|(id, cause)| (id.task, *cause)).collect();
    assert_eq!(sent, [(task(1), StopCause::TenantRemoved)]);
    next.assert_consistent();
}

/// Two tenants with more tasks than one step ends.
#[test]
fn the_tasks_of_removed_tenants_end_in_slices_that_take_turns() {
    let config = CoreConfig { batch_max: 128, ..CoreConfig::default() };
    let mut core = Core::new(1, config.clone(), State::default());
    core.step(START, lead(1, "n1"));
    let ask = |core: &mut Core, command| core.step(START, Input::Command { reply_to: ReplyTo(0), command });
    let tenants: [TenantName; 2] = ["a", "b"].map(|name| name.parse().unwrap());
    let module = Arc::new(ModuleInfo { digest: MODULE, ..ModuleInfo::default() });
    for (index, tenant) in tenants.iter().enumerate() {
        ask(&mut core, Command::CreateTenant { name: tenant.clone(), weight: 1, class: 0, quotas: Default::default() });
        ask(&mut core, Command::AddModule { tenant: tenant.clone(), module: module.clone(), alias: None });
        for number in 0..100 {
            let spec = Arc::new(TaskSpec { tenant: tenant.clone(), module: MODULE, ..TaskSpec::default() });
            let (task, module) = (task(index * 100 + number), ModuleRef::Digest(MODULE));
            ask(&mut core, Command::Submit { task, module, spec, key: None, edges: Vec::new() });
        }
    }
    tenants.iter().for_each(|tenant| ask(&mut core, Command::RemoveTenant { name: tenant.clone() }));
    let left =
        |core: &Core| tenants.clone().map(|name| core.state().tasks().filter(|task| task.tenant == name).count());
    core.take_ready();
    assert_eq!((left(&core), core.next_timeout()), ([36, 36], Some(START)), "one slice of each");
    core.assert_consistent();
    // The next leader finds the work that is left.
    let mut next = Core::new(2, config, core.state().clone());
    next.step(START, lead(2, "n2"));
    next.assert_consistent();
    next.take_ready();
    assert_eq!((left(&next), next.next_timeout()), ([0, 0], None));
    next.assert_consistent();
}

/// Answers with one key too few.
#[derive(Debug)]
struct Short;

impl Order for Short {
    fn name(&self) -> &str {
        "short"
    }

    fn keys(&mut self, _: Timestamp, tenants: &[TenantView], _: &[ShapeView]) -> Result<Keys, PolicyFault> {
        Ok(Keys { tenants: vec![Default::default(); tenants.len() - 1], shapes: Vec::new() })
    }
}

#[test]
fn too_few_keys_are_a_fault() {
    let mut core = leader(6, Short, LeastLoaded::default());
    assert_eq!(running(&mut core), 6);
    assert!(core.tally.policy_faults > 0);
}

#[test]
fn f53_a_host_counts_whose_rival_had_a_later_life_and_has_left() {
    let mut core = Core::new(1, CoreConfig::default(), State::default());
    core.step(START, lead(1, "n1"));
    let joined = |life: u64| HostInfo { id: "h1".into(), incarnation: Incarnation(life), ..HostInfo::default() };
    let life = |core: &Core| core.hosts()[0].info.incarnation;
    core.step(START, Input::HostJoined(joined(5)));
    core.step(START, Input::HostJoined(joined(4)));
    assert_eq!(life(&core), Incarnation(5), "news of a life that is over");
    core.step(START, Input::HostLeft("h1".into(), Incarnation(5)));
    core.step(START, Input::HostJoined(joined(4)));
    assert_eq!(life(&core), Incarnation(4));
}
