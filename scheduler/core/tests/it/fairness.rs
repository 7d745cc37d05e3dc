//! Shares over time, measured in slots and not in tasks.

use std::sync::Arc;

use wasmill_protocol::command::{Command, ModuleRef};
use wasmill_protocol::message::{FromHost, Heartbeat, HostInfo, Report};
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::tenant::Quotas;
use wasmill_protocol::{
    AttemptId, HostId, Incarnation, Outcome, OutcomeKind, Payload, TaskSpec, TenantName, Term, Timestamp, Usage,
};
use wasmill_scheduler_core::{CoreConfig, Input, ReplyTo};

use crate::names::{digest, task_id};
use crate::world::World;

/// A tenant whose queue never runs dry.
struct Flood {
    tenant: TenantName,
    /// How long its tasks run, in turns.
    run_ms: Vec<u64>,
    /// Slot time that it had.
    had_ms: u64,
    tasks: std::ops::Range<usize>,
}

/// Lets the tenants, each with a weight and the times that its tasks run in turns, flood a host
/// with `slots` slots for `seconds`. Returns the slot time that each had, in milliseconds.
fn shares(slots: u32, seconds: u64, tenants: &[(u32, Vec<u64>)]) -> Vec<u64> {
    let mut world = World::new(CoreConfig::default());
    world.step(Input::Lead {
        term: Term(1),
        node: "n1".into(),
        passed_us: 0,
        uptime: wasmill_protocol::Uptime::default(),
    });
    let mut floods = Vec::new();
    for (number, (weight, run_ms)) in tenants.iter().enumerate() {
        let weight = *weight;
        let tenant: TenantName = format!("t{number}").parse().unwrap();
        let first = number * 1_000_000;
        floods.push(Flood { tenant: tenant.clone(), run_ms: run_ms.clone(), had_ms: 0, tasks: first..first });
        let create = Command::CreateTenant { name: tenant.clone(), weight, class: 0, quotas: Quotas::default() };
        world.step(Input::Command { reply_to: ReplyTo(0), command: create });
        let module = Arc::new(ModuleInfo { digest: digest("m"), ..ModuleInfo::default() });
        let command = Command::AddModule { tenant, module, alias: None };
        world.step(Input::Command { reply_to: ReplyTo(0), command });
    }
    world.step(Input::HostJoined(HostInfo { id: host(), ..HostInfo::default() }));
    let end = world.now.plus_ms(seconds * 1_000);
    let mut running: Vec<(Timestamp, AttemptId, usize)> = Vec::new();
    let mut beats = 0;
    while world.now < end {
        floods.iter_mut().for_each(|flood| flood.fill(&mut world));
        beats += 1;
        world.step(Input::Heartbeat(heartbeat(slots, beats, running.iter().map(|(_, id, _)| *id).collect())));
        for (id, _) in world.take_ready().messages.into_iter().flat_map(|message| message.assign) {
            let index = floods.iter().position(|flood| id.task < task_id(flood.tasks.end)).unwrap();
            running.push((world.now.plus_ms(floods[index].run_ms(id)), id, index));
        }
        assert!(running.len() <= slots as usize);
        world.now = running.iter().map(|(at, ..)| *at).min().unwrap();
        for (_, id, index) in running.extract_if(.., |(at, ..)| *at <= world.now).collect::<Vec<_>>() {
            let run_ms = floods[index].run_ms(id);
            floods[index].had_ms += run_ms;
            let usage = Usage { run_us: run_ms * 1_000, ..Usage::default() };
            let outcome = Arc::new(Outcome::new(OutcomeKind::Succeeded, ""));
            let report = Report::Ended { id, outcome, usage, output: Payload::Empty, captured: Payload::Empty };
            let message = FromHost { host: host(), incarnation: Incarnation(0), reports: vec![report] };
            world.step(Input::FromHost { reply_to: ReplyTo(0), message });
        }
    }
    floods.iter().map(|flood| flood.had_ms).collect()
}

impl Flood {
    fn run_ms(&self, id: AttemptId) -> u64 {
        let number =
            self.tasks.clone().rev().find(|&number| task_id(number) == id.task).expect("it is one of its tasks");
        self.run_ms[(number - self.tasks.start) % self.run_ms.len()]
    }

    fn fill(&mut self, world: &mut World) {
        let waiting = world.core.state().tasks().filter(|task| task.tenant == self.tenant).count();
        for _ in waiting..40 {
            let task = task_id(self.tasks.end);
            self.tasks.end += 1;
            let spec = Arc::new(TaskSpec { tenant: self.tenant.clone(), ..TaskSpec::default() });
            let command =
                Command::Submit { task, module: ModuleRef::Digest(digest("m")), spec, key: None, edges: Vec::new() };
            world.step(Input::Command { reply_to: ReplyTo(0), command });
        }
    }
}

fn host() -> HostId {
    "h1".into()
}

fn heartbeat(slots: u32, number: u64, attempts: Vec<AttemptId>) -> Heartbeat {
    Heartbeat { host: host(), number, attempts, slots, credit: slots, memory_bytes: 1 << 40, ..Heartbeat::default() }
}

/// Asserts that each tenant had its share to within a tenth.
fn check(slots: u32, tenants: &[(u32, u64)]) {
    let runs: Vec<_> = tenants.iter().map(|(weight, run_ms)| (*weight, vec![*run_ms])).collect();
    let had = shares(slots, 20, &runs);
    let (sum, weights): (u64, u64) = (had.iter().sum(), tenants.iter().map(|(weight, _)| u64::from(*weight)).sum());
    for (had_ms, (weight, _)) in had.iter().zip(tenants) {
        let due_ms = sum * u64::from(*weight) / weights;
        assert!(had_ms.abs_diff(due_ms) <= due_ms / 10, "{had:?} for {tenants:?} on {slots} slots");
    }
}

#[test]
fn equal_weights_have_equal_shares_whatever_their_tasks_take() {
    check(1, &[(1, 100), (1, 100)]);
    check(4, &[(1, 20), (1, 500)]);
}

#[test]
fn shares_follow_weights() {
    check(1, &[(3, 100), (1, 100)]);
    check(4, &[(5, 50), (2, 100), (1, 30)]);
}

/// Bursts of long and of short tasks: the short ones must not be given back what a long one costs.
#[test]
fn bursts_of_long_and_short_tasks_buy_nothing() {
    let bursts = [vec![2_000; 32], vec![1; 256]].concat();
    let had = shares(32, 40, &[(1, bursts), (1, vec![500])]);
    let sum: u64 = had.iter().sum();
    assert!(had.iter().all(|had_ms| had_ms * 10 >= sum * 4), "{had:?}");
}
