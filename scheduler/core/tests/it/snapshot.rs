//! Snapshots that are damaged in a way that no digest tells: they are refused and nothing panics.

use std::sync::Arc;

use wasmill_protocol::command::{Command, ModuleRef};
use wasmill_protocol::message::{Heartbeat, HostInfo};
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::tenant::{Quotas, Token};
use wasmill_protocol::{HostId, TaskSpec, Term};
use wasmill_record::snapshot::{BeginPart, ChainPart, Part, TaskColumns, TaskRow};
use wasmill_scheduler_core::state::RestoreError;
use wasmill_scheduler_core::{CoreConfig, Input, ReplyTo, State};

use crate::names::{digest, task_id};
use crate::world::World;

const TASKS: usize = 5;

/// Two tasks run, two are queued, one waits; three others have ended.
fn parts() -> Vec<Part> {
    let mut world = World::new(CoreConfig::default());
    let command = |world: &mut World, command| world.step(Input::Command { reply_to: ReplyTo(1), command });
    world.step(Input::Lead {
        term: Term(1),
        node: "n1".into(),
        passed_us: 0,
        uptime: wasmill_protocol::Uptime::default(),
    });
    let tenant: wasmill_protocol::TenantName = "acme".parse().unwrap();
    let quotas = Quotas { tasks_queued: Some(100), ..Quotas::default() };
    command(&mut world, Command::CreateTenant { name: tenant.clone(), weight: 2, class: -7, quotas });
    let module = Arc::new(ModuleInfo { digest: digest("m"), bytes: 7, ..ModuleInfo::default() });
    command(&mut world, Command::AddModule { tenant: tenant.clone(), module, alias: Some("app".into()) });
    let token = Token { id: "t".into(), tenant: tenant.clone(), hash: digest("t"), ..Token::default() };
    command(&mut world, Command::AddToken { token });
    for number in 1..=TASKS + 3 {
        let not_before = world.now.plus_ms(if number == TASKS { 1_000 } else { 0 });
        let spec = Arc::new(TaskSpec { tenant: tenant.clone(), not_before, ..TaskSpec::default() });
        let module = ModuleRef::Digest(digest("m"));
        command(&mut world, Command::Submit { task: task_id(number), module, spec, key: None, edges: Vec::new() });
    }
    for number in TASKS + 1..=TASKS + 3 {
        command(&mut world, Command::Cancel { tenant: tenant.clone(), task: task_id(number), reason: None });
    }
    let host = HostId::from("h");
    world.step(Input::HostJoined(HostInfo { id: host.clone(), ..HostInfo::default() }));
    world.step(Input::Heartbeat(Heartbeat {
        host,
        credit: 2,
        slots: 2,
        memory_bytes: 1 << 40,
        ..Heartbeat::default()
    }));
    world.take_ready();
    let depth = world.core.queue_depth();
    assert_eq!((depth.waiting, depth.queued, depth.running), (1, 2, 2));
    world.core.state().to_snapshot()
}

/// The error of a snapshot after a change.
fn changed(change: impl FnOnce(&mut Vec<Part>)) -> Result<State, RestoreError> {
    let mut parts = parts();
    change(&mut parts);
    State::from_snapshot(parts)
}

fn columns(parts: &mut [Part]) -> &mut TaskColumns {
    let tasks = parts.iter_mut().find_map(|part| if let Part::Tasks(tasks) = part { Some(tasks) } else { None });
    tasks.expect("there are tasks")
}

/// The error of a snapshot after a change of its tasks.
fn with_rows(change: impl FnOnce(&mut [TaskRow])) -> Result<State, RestoreError> {
    changed(|parts| {
        let columns = columns(parts);
        let mut rows: Vec<_> = columns.rows().collect();
        assert_eq!(rows.len(), TASKS);
        change(&mut rows);
        *columns = TaskColumns::pack(&rows);
    })
}

#[test]
fn a_part_that_is_missing_is_noticed() {
    let all = parts().len();
    assert!(changed(|_| {}).is_ok());
    for missing in 0..all {
        let mut left_out = None;
        let result = changed(|parts| left_out = Some(parts.remove(missing)));
        let left_out = left_out.unwrap();
        // A part that says nothing need not be there.
        let needless = match &left_out {
            Part::Places(places) => places.count == 0,
            Part::Tenant(tenant) => tenant.name.as_str() == "default",
            Part::Superseded(rows) => rows.is_empty(),
            Part::Benched(_) | Part::Current(_) => true,
            _ => false,
        };
        assert_eq!(result.is_ok(), needless, "without {left_out:?}");
    }
}

#[test]
fn a_part_that_is_there_twice_or_elsewhere_is_noticed() {
    assert!(changed(|parts| parts.swap(0, 1)).is_err());
    assert_eq!(
        changed(|parts| parts.insert(1, Part::Begin(BeginPart::default()))).unwrap_err(),
        RestoreError::Misplaced
    );
    assert_eq!(changed(|parts| parts.push(Part::Chain(ChainPart::default()))).unwrap_err(), RestoreError::Misplaced);
    let again = |is: fn(&Part) -> bool| {
        changed(|parts| {
            let part = parts.iter().find(|part| is(part)).unwrap().clone();
            parts.push(part);
        })
    };
    assert!(again(|part| matches!(part, Part::Tasks(_))).is_err());
    assert!(again(|part| matches!(part, Part::Tenant(_))).is_err());
    assert!(again(|part| matches!(part, Part::Shapes(_))).is_err());
}

type Change = Box<dyn Fn(&mut [TaskRow])>;

#[test]
fn lists_that_do_not_hold_each_task_once_are_noticed() {
    let contradiction = RestoreError::Contradiction { of: "tasks" };
    assert_eq!(contradiction.to_string(), "what the snapshot says of tasks is contradictory");
    let mut changes: Vec<Change> = vec![
        Box::new(|rows| rows.iter_mut().for_each(|row| row.next = 0)),
        Box::new(|rows| rows[0].shape = 99),
        Box::new(|rows| rows[0].retry_rules = 99),
        Box::new(|rows| rows[1].id = rows[0].id),
        Box::new(|rows| rows[TASKS - 1].slot = 99),
        Box::new(|rows| rows.iter_mut().for_each(|row| row.placement = 0)),
    ];
    for index in 0..TASKS {
        // In a circle, to a place of another list, to a vacant one, and to nowhere.
        for next in 1..=TASKS as u32 + 3 {
            changes.push(Box::new(move |rows| {
                rows[index].next = if rows[index].next == next { 99 } else { next };
            }));
        }
    }
    for (number, change) in changes.iter().enumerate() {
        assert_eq!(with_rows(change).err(), Some(contradiction.clone()), "change {number}");
    }
}
