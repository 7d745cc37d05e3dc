//! Random stories, in which the index must decide as the model does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use wasmill_protocol::command::{Command, ModuleRef};
use wasmill_protocol::message::{FromHost, Heartbeat, HostInfo, Report};
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::tenant::Quotas;
use wasmill_protocol::{
    AttemptId, Digest, HostId, Incarnation, Limits, Outcome, OutcomeKind, Payload, TaskId, TaskSpec, TenantName, Term,
    Timestamp, Usage,
};
use wasmill_record::event::EventBody;

use super::Model;
use crate::config::CoreConfig;
use crate::io::{Input, ReplyTo};
use crate::leader::Core;
use crate::state::{Labels, Slot, State};

/// Sets of labels that tasks may require.
const NEEDS: u8 = 24;

/// Something that happens before a dispatch.
#[derive(Debug, Clone)]
enum Op {
    Submit { tenant: u8, priority: i8, memory_mib: u64, label: u8, count: u8 },
    Beat { host: u8, slots: u32, beyond: u32, memory_mib: u64, held_mib: u64, sated: Option<u8> },
    Leave { host: u8 },
    End { attempt: u8, run_ms: u64, returned: bool },
    Change { tenant: u8, weight: u32, class: i8, running: Option<u64>, memory_mib: Option<u64> },
    Cancel { task: u8 },
    After { ms: u64 },
    Dispatch { budget: u32 },
}

/// Things that happen, with tasks that require one of so many sets of labels.
fn ops(needs: u8) -> impl Strategy<Value = Vec<Op>> {
    let submit = (0..6u8, -1..2i8, prop::sample::select(vec![10, 300, 500, 600, 1_000]), 0..needs, 1..6u8).prop_map(
        |(tenant, priority, memory_mib, label, count)| Op::Submit { tenant, priority, memory_mib, label, count },
    );
    let beat =
        (0..5u8, 0..12u32, 0..8u32, prop::sample::select(vec![400, 550, 4_000]), prop::option::weighted(0.2, 0..6u8))
            .prop_flat_map(|beat| (Just(beat), prop::sample::select(vec![0, 0, 300, 2_000])))
            .prop_map(|((host, slots, beyond, memory_mib, sated), held_mib)| Op::Beat {
                host,
                slots,
                beyond,
                memory_mib,
                held_mib,
                sated,
            });
    let change = (0..6u8, 1..5u32, -1..2i8, prop::option::of(0..6u64), prop::option::of(0..3_000u64)).prop_map(
        |(tenant, weight, class, running, memory_mib)| Op::Change { tenant, weight, class, running, memory_mib },
    );
    let op = prop_oneof![
        6 => submit,
        4 => beat,
        1 => (0..5u8).prop_map(|host| Op::Leave { host }),
        6 => (any::<u8>(), 0..3_000u64, any::<bool>())
            .prop_map(|(attempt, run_ms, returned)| Op::End { attempt, run_ms, returned }),
        2 => change,
        1 => any::<u8>().prop_map(|task| Op::Cancel { task }),
        2 => (0..3_000u64).prop_map(|ms| Op::After { ms }),
        6 => (1..20u32).prop_map(|budget| Op::Dispatch { budget }),
    ];
    prop::collection::vec(op, 1..120)
}

struct Story {
    core: Core,
    now: Timestamp,
    tasks: u32,
    beats: u64,
    by_age: bool,
}

impl Story {
    fn new(order: &str) -> Self {
        let config = CoreConfig { order: order.into(), longest_wait_ms: 1 << 40, ..CoreConfig::default() };
        let mut story = Self {
            core: Core::new(1, config, State::default()),
            now: Timestamp(1_000_000_000),
            tasks: 0,
            beats: 0,
            by_age: order == "fifo",
        };
        let uptime = wasmill_protocol::Uptime::default();
        story.step(Input::Lead { term: Term(1), node: "n1".into(), passed_us: 0, uptime });
        for number in 0..6 {
            let (weight, quotas) = (1, Quotas::default());
            story.command(Command::CreateTenant { name: tenant(number), weight, class: 0, quotas });
            let module = Arc::new(ModuleInfo::default());
            story.command(Command::AddModule { tenant: tenant(number), module, alias: None });
        }
        for number in 0..5u8 {
            let labels = carried(number);
            story.step(Input::HostJoined(HostInfo { id: host(number), labels, ..HostInfo::default() }));
        }
        story
    }

    fn step(&mut self, input: Input) {
        self.core.step(self.now, input);
    }

    fn command(&mut self, command: Command) {
        self.step(Input::Command { reply_to: ReplyTo(0), command });
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Submit { tenant: of, priority, memory_mib, label, count } => {
                for _ in 0..count {
                    self.tasks += 1;
                    let limits = Limits { memory_bytes: memory_mib << 20, ..Limits::default() };
                    // The last of the labels is no host's.
                    let require = labels(label);
                    let spec = TaskSpec { tenant: tenant(of), priority, limits, require, ..TaskSpec::default() };
                    let module = ModuleRef::Digest(Digest::default());
                    let task = task(self.tasks);
                    self.command(Command::Submit { task, module, spec: Arc::new(spec), key: None, edges: Vec::new() });
                }
            }
            Op::Beat { host: number, slots, beyond, memory_mib, held_mib, sated } => {
                self.beats += 1;
                let attempts = self.core.hosts.get(&host(number)).map(|host| host.attempts()).unwrap_or_default();
                self.step(Input::Heartbeat(Heartbeat {
                    host: host(number),
                    number: self.beats,
                    attempts,
                    slots,
                    credit: slots + beyond,
                    memory_bytes: memory_mib << 20,
                    memory_held: held_mib << 20,
                    labels: carried(number),
                    sated: sated.map(tenant).into_iter().collect(),
                    ..Heartbeat::default()
                }));
            }
            Op::Leave { host: number } => {
                let labels = carried(number);
                self.step(Input::HostLeft(host(number), Incarnation(0)));
                self.step(Input::HostJoined(HostInfo { id: host(number), labels, ..HostInfo::default() }));
            }
            Op::End { attempt, run_ms, returned } => self.end(attempt, run_ms, returned),
            Op::Change { tenant: of, weight, class, running, memory_mib } => {
                let memory_bytes = memory_mib.map(|mib| mib << 20);
                let quotas = Some(Quotas { tasks_running: running, memory_bytes, ..Quotas::default() });
                let (weight, class) = (Some(weight), Some(class));
                self.command(Command::ChangeTenant { name: tenant(of), weight, class, quotas });
            }
            Op::Cancel { task: number } => {
                let id = task(u32::from(number) % self.tasks.max(1) + 1);
                if let Some(view) = self.core.state.task(id) {
                    self.command(Command::Cancel { tenant: view.tenant, task: id, reason: None });
                }
            }
            Op::After { ms } => self.now = self.now.plus_ms(ms),
            Op::Dispatch { budget } => self.dispatch(budget),
        }
    }

    fn end(&mut self, attempt: u8, run_ms: u64, returned: bool) {
        let running: Vec<_> = self.core.state.tasks().filter_map(|task| Some((task.attempt, task.host?.0))).collect();
        let Some((id, host)) = running.get(usize::from(attempt) % running.len().max(1)).cloned() else { return };
        let report = if returned {
            Report::Returned { id }
        } else {
            let usage = Usage { run_us: run_ms * 1_000, ..Usage::default() };
            let outcome = Arc::new(Outcome::new(OutcomeKind::Succeeded, ""));
            Report::Ended { id, outcome, usage, output: Payload::Empty, captured: Payload::Empty }
        };
        let message = FromHost { host, incarnation: Incarnation(0), reports: vec![report] };
        self.step(Input::FromHost { reply_to: ReplyTo(0), message });
    }

    /// Rounds as in a dispatch, each compared with the model's.
    fn dispatch(&mut self, budget: u32) {
        self.step(Input::Tick);
        self.core.dispatch.queue.put_back();
        let mut aside = BTreeSet::new();
        for _ in 0..8 {
            self.core.take_in_queue();
            self.core.take_in_hosts();
            self.core.dispatch.assert_consistent();
            let mut model = Model::of(&self.core, self.by_age, &aside);
            let room: u64 = model.rooms.values().map(|room| room.places[0] + room.places[1]).sum();
            let capacity = u64::from(budget).min(room);
            let chosen = model.choose(u32::try_from(capacity).unwrap());
            let placed = model.place(&self.core, &chosen);
            // A shape that finds no place is left out for the rest of the dispatch.
            let sum = |of: &[(Slot, u32)], slot: Slot| -> u32 {
                of.iter().filter(|(same, _)| *same == slot).map(|(_, count)| count).sum()
            };
            let wanted: Vec<_> = chosen.iter().map(|&(slot, count, _)| (slot, count)).collect();
            let found: Vec<_> = placed.iter().map(|&(slot, _, count)| (slot, count)).collect();
            aside.extend(wanted.iter().map(|(slot, _)| *slot).filter(|&slot| sum(&found, slot) < sum(&wanted, slot)));
            let expected = self.expected(&placed);
            let before = self.core.events_ready();
            let round = self.core.round(budget);
            let started = self.core.started_since(before);
            assert_eq!(started, expected, "the index decides as the model does");
            assert_eq!(u64::from(round.started), started.len() as u64);
            if started.is_empty() {
                break;
            }
        }
        self.core.take_ready();
        self.core.assert_consistent();
    }

    /// The tasks that start by this, in order, and where.
    fn expected(&self, placed: &[(Slot, u32, u32)]) -> Vec<(TaskId, HostId)> {
        let state = &self.core.state;
        let mut queues: BTreeMap<Slot, Vec<TaskId>> = BTreeMap::new();
        let mut expected = Vec::new();
        for &(slot, host, count) in placed {
            let queue = queues.entry(slot).or_insert_with(|| {
                let queued = state.shapes.shape(slot).queued;
                queued.slots(&state.tasks).map(|task| state.tasks[task].id).collect()
            });
            let id = self.core.hosts.values().find(|known| known.slot == host).unwrap().id().clone();
            expected.extend(queue.drain(..count as usize).map(|task| (task, id.clone())));
        }
        expected
    }
}

impl Core {
    fn started_since(&self, before: usize) -> Vec<(TaskId, HostId)> {
        let started = |body: &EventBody| match body {
            EventBody::AttemptStarted { id: AttemptId { task, .. }, host, .. } => Some((*task, host.clone())),
            _ => None,
        };
        self.events_since(before).filter_map(started).collect()
    }
}

fn tenant(number: u8) -> TenantName {
    format!("t{number}").parse().unwrap()
}

fn host(number: u8) -> HostId {
    HostId::from(format!("h{number}").as_str())
}

fn task(number: u32) -> TaskId {
    format!("01890a5d-ac96-774b-bcce-{number:012x}").parse().unwrap()
}

/// The labels of a host.
fn carried(host: u8) -> Labels {
    (4..NEEDS).flat_map(labels).chain(labels(host % 3)).collect()
}

/// None, one, two, one that no host carries, or one of many that every host carries.
fn labels(number: u8) -> Labels {
    let pair = |label: &str| (label.to_owned(), "yes".to_owned());
    match number {
        0 => Labels::new(),
        1 => [pair("gpu")].into(),
        2 => [pair("gpu"), pair("ssd")].into(),
        3 => [pair("moon")].into(),
        many => [pair(&format!("need-{many}"))].into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_index_decides_as_the_model_does(ops in ops(4), by_age in any::<bool>()) {
        let mut story = Story::new(if by_age { "fifo" } else { "fair" });
        ops.iter().for_each(|op| story.run(op));
    }

    #[test]
    fn the_index_decides_as_the_model_does_in_many_lanes(ops in ops(NEEDS), by_age in any::<bool>()) {
        let mut story = Story::new(if by_age { "fifo" } else { "fair" });
        ops.iter().for_each(|op| story.run(op));
    }
}
