//! A state from the parts of a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thiserror::Error;
use wasmill_protocol::policy::BenchedRow;
use wasmill_protocol::{HostId, LogSeq, TaskId, Timestamp};
use wasmill_record::snapshot::{
    BeginPart, Current, EdgeRow, Part, PlacementRow, RetryRulesRow, ShapeRow, SlabKind, SlabPlaces, TaskColumns,
    TaskPhase, TaskRow, TenantRow,
};

use super::counted_from_0;
use crate::io::{BenchedPolicy, QueueDepth};
use crate::state::State;
use crate::state::benched::Benched;
use crate::state::edges::{EdgeEntry, Edges, Links};
use crate::state::interner::Interner;
use crate::state::placements::{Placement, Placements};
use crate::state::shapes::{Shape, ShapeKey, Shapes};
use crate::state::slab::{List, NONE, Slab, SlabBuilder, Slot};
use crate::state::superseded::Superseded;
use crate::state::task::{Phase, RetryRules, Task};
use crate::state::tenants::{Belongings, ModuleEntry, TenantEntry, TenantNumber, Tenants};
use crate::state::timers::Timer;

/// Parts that are not those of one snapshot. The parts that were read are dropped.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RestoreError {
    /// The first part is not what a snapshot begins with, or a part of something else came.
    #[error("a part does not belong where it is")]
    Misplaced,
    /// Two parts contradict each other.
    #[error("what the snapshot says of {of} is contradictory")]
    Contradiction {
        /// Of what.
        of: &'static str,
    },
}

/// Takes the parts of a snapshot one after the other.
#[derive(Debug, Default)]
pub struct Restoring {
    begin: Option<BeginPart>,
    tenants: BTreeMap<TenantNumber, TenantEntry>,
    retry_rules: SlabBuilder<(RetryRules, u32)>,
    shapes: SlabBuilder<Shape>,
    placements: SlabBuilder<Placement>,
    tasks: SlabBuilder<Task>,
    edges: SlabBuilder<EdgeEntry>,
    skips: BTreeMap<Slot, TaskId>,
    superseded: Superseded,
    benched: Benched,
    drained: BTreeSet<HostId>,
    current: Current,
}

const RETRY_RULES: &str = "policies for retries";
const SHAPES: &str = "shapes";
const PLACEMENTS: &str = "placements";
const TASKS: &str = "tasks";
const TENANTS: &str = "tenants";
const EDGES: &str = "edges";

impl Restoring {
    /// Takes the next part.
    ///
    /// # Errors
    ///
    /// When it does not fit to those before, or is none of the state's.
    pub fn take(&mut self, part: Part) -> Result<(), RestoreError> {
        match (part, &self.begin) {
            (Part::Begin(begin), None) => self.begin = Some(begin),
            (Part::Begin(_) | Part::Chain(_) | Part::Directory(_) | Part::End { .. }, _) | (_, None) => {
                return Err(RestoreError::Misplaced);
            }
            (Part::Places(places), _) => self.places(&places),
            (Part::Tenant(row), _) => {
                let (number, entry) = tenant_entry(row);
                check(self.tenants.insert(number, entry).is_none(), TENANTS)?;
            }
            (Part::RetryRules(rows), _) => {
                let put = |row: RetryRulesRow| self.retry_rules.put(row.slot, (retry_rules(&row), 0));
                check(rows.into_iter().all(put), RETRY_RULES)?;
            }
            (Part::Shapes(rows), _) => {
                check(rows.into_iter().all(|row| self.shapes.put(row.slot, shape(row))), SHAPES)?;
            }
            (Part::Placements(rows), _) => {
                check(rows.into_iter().all(|row| self.placements.put(row.slot, placement(row))), PLACEMENTS)?;
            }
            (Part::Tasks(columns), _) => self.tasks(&columns)?,
            (Part::Edges(rows), _) => check(rows.iter().all(|row| self.edges.put(row.slot, edge(row))), EDGES)?,
            (Part::Skips(rows), _) => self.skips.extend(rows.into_iter().map(|row| (row.slot, row.predecessor))),
            (Part::Superseded(rows), _) => rows.iter().for_each(|row| self.superseded.push(row)),
            (Part::Benched(rows), _) => rows.into_iter().for_each(|row| self.benched.insert(benched(row))),
            (Part::Drained(rows), _) => self.drained.extend(rows),
            (Part::Current(current), _) => self.current = current,
        }
        Ok(())
    }

    /// The state, when all parts were taken. Its idempotency keys are for the read model to know,
    /// which must hold every record up to [`State::last_seq`] before anything is decided.
    ///
    /// # Errors
    ///
    /// When parts are missing or contradict each other.
    pub fn finish(self) -> Result<State, RestoreError> {
        let BeginPart { seq, term, leader, time, tenant_next, led, unblocked, .. } =
            self.begin.ok_or(RestoreError::Misplaced)?;
        let mut tasks = built(self.tasks, TASKS)?;
        let mut shapes = built(self.shapes, SHAPES)?;
        let mut retry_rules = built(self.retry_rules, RETRY_RULES)?;
        let mut placements = built(self.placements, PLACEMENTS)?;
        let mut tenants = self.tenants;
        for (_, task) in tasks.iter() {
            count(task, &mut shapes, &mut retry_rules, &mut tenants).ok_or(contradiction(TASKS))?;
        }
        let (depth, unblocked) = link(&mut tasks, &mut shapes, &mut placements, counted_from_0(unblocked))?;
        let edges = edges(self.edges, &tasks, &self.skips)?;
        for (slot, shape) in shapes.iter() {
            let tenant = tenants.get_mut(&shape.key.tenant).ok_or(contradiction(SHAPES))?;
            check(shape.tasks > 0, SHAPES)?;
            tenant.shapes.insert(slot);
        }
        check(retry_rules.iter().all(|(_, (_, users))| *users > 0), RETRY_RULES)?;
        let timed = tasks.iter().filter(|(_, task)| task.phase != Phase::Blocked && task.timer.0 > 0);
        let mut state = State {
            term,
            leader,
            time,
            led,
            last_seq: seq,
            tenants: Tenants::from_entries(tenants, tenant_next).ok_or(contradiction(TENANTS))?,
            by_id: tasks.iter().map(|(slot, task)| (task.id, slot)).collect(),
            shapes: Shapes::from_places(shapes).ok_or(contradiction(SHAPES))?,
            retry_rules: Interner::from_places(retry_rules).ok_or(contradiction(RETRY_RULES))?,
            placements: Placements::from_places(placements).ok_or(contradiction(PLACEMENTS))?,
            timers: timed.map(|(slot, task)| (task.timer, Timer::Task(slot))).collect(),
            edges,
            unblocked,
            skips: self.skips,
            superseded: self.superseded,
            depth,
            benched: self.benched,
            drained: self.drained,
            current: self.current,
            ..State::default()
        };
        check(state.by_id.len() as u64 == depth.waiting + depth.queued + depth.running, TASKS)?;
        state.tasks = tasks;
        state.keys.forget_to(seq);
        Ok(state)
    }

    /// The record that the snapshot ends with, once its first part was taken.
    pub fn seq(&self) -> Option<LogSeq> {
        self.begin.as_ref().map(|begin| begin.seq)
    }

    fn places(&mut self, places: &SlabPlaces) {
        let SlabPlaces { of, count, vacant } = places;
        match of {
            SlabKind::Tasks => self.tasks.add_places(*count, vacant),
            SlabKind::Shapes => self.shapes.add_places(*count, vacant),
            SlabKind::RetryRules => self.retry_rules.add_places(*count, vacant),
            SlabKind::Placements => self.placements.add_places(*count, vacant),
            SlabKind::Edges => self.edges.add_places(*count, vacant),
        }
    }

    fn tasks(&mut self, columns: &TaskColumns) -> Result<(), RestoreError> {
        let put = columns.rows().filter(|row| self.tasks.put(row.slot, task(row))).count();
        check(put == columns.count(), TASKS)
    }
}

fn contradiction(of: &'static str) -> RestoreError {
    RestoreError::Contradiction { of }
}

fn check(holds: bool, of: &'static str) -> Result<(), RestoreError> {
    if holds { Ok(()) } else { Err(contradiction(of)) }
}

fn built<T: Clone>(builder: SlabBuilder<T>, of: &'static str) -> Result<Slab<T>, RestoreError> {
    builder.build().ok_or(contradiction(of))
}

/// Counts a task where it belongs. `None` when it belongs to something that is not there.
fn count(
    task: &Task,
    shapes: &mut Slab<Shape>,
    retry_rules: &mut Slab<(RetryRules, u32)>,
    tenants: &mut BTreeMap<TenantNumber, TenantEntry>,
) -> Option<()> {
    shapes.look_up(task.shape)?;
    retry_rules.look_up(task.retry_rules)?;
    retry_rules[task.retry_rules].1 += 1;
    let shape = &mut shapes[task.shape];
    shape.tasks += 1;
    let tenant = tenants.get_mut(&shape.key.tenant)?;
    if task.phase == Phase::Running {
        tenant.tasks_running += 1;
        tenant.memory_bytes = tenant.memory_bytes.saturating_add(shape.key.memory_bytes);
    } else {
        tenant.tasks_queued += 1;
    }
    Some(())
}

/// Threads the lists of shapes and placements, in which every task must be exactly once.
fn link(
    tasks: &mut Slab<Task>,
    shapes: &mut Slab<Shape>,
    placements: &mut Slab<Placement>,
    unblocked: Slot,
) -> Result<(QueueDepth, List), RestoreError> {
    let mut depth = QueueDepth::default();
    // A list that came back to a task would go on for ever.
    let mut left = tasks.iter().count();
    let mut relink = |head: Slot, belongs: &dyn Fn(&Task) -> bool, sum: &mut u64| {
        let list = List::relink(tasks, head, |_, task| {
            let more = left > 0;
            left = left.saturating_sub(1);
            more && belongs(task)
        });
        *sum += list.map_or(0, |list| u64::from(list.count));
        list.ok_or(contradiction(TASKS))
    };
    let with_tasks: Vec<Slot> = shapes.iter().map(|(slot, _)| slot).collect();
    for &slot in &with_tasks {
        let Shape { queued, waiting, .. } = shapes[slot];
        let is = |phases: &'static [Phase]| move |task: &Task| phases.contains(&task.phase) && task.shape == slot;
        shapes[slot].queued = relink(queued.head, &is(&[Phase::Queued]), &mut depth.queued)?;
        shapes[slot].waiting = relink(waiting.head, &is(&[Phase::Waiting, Phase::Blocked]), &mut depth.waiting)?;
    }
    let unblocked = relink(unblocked, &|task: &Task| task.phase == Phase::Unblocked, &mut depth.waiting)?;
    let slots: Vec<Slot> = placements.iter().map(|(slot, _)| slot).collect();
    for slot in slots {
        let head = placements[slot].tasks.head;
        let runs_here = move |task: &Task| task.phase == Phase::Running && task.placement == slot;
        placements[slot].tasks = relink(head, &runs_here, &mut depth.running)?;
    }
    for slot in with_tasks {
        // A former version has not written it: then the queue is as old as its first task.
        let Shape { queued, since, .. } = &mut shapes[slot];
        *since = if queued.count == 0 { Timestamp::MAX } else { (*since).min(tasks[queued.head].queued_at) };
    }
    check(left == 0, TASKS)?;
    Ok((depth, unblocked))
}

/// The edges, by which tasks are blocked, and nothing else.
fn edges(
    edges: SlabBuilder<EdgeEntry>,
    tasks: &Slab<Task>,
    skips: &BTreeMap<Slot, TaskId>,
) -> Result<Edges, RestoreError> {
    let edges = Edges::from_places(built(edges, EDGES)?, tasks).ok_or(contradiction(EDGES))?;
    let mut blocked = tasks.iter().map(|(_, task)| (task.phase == Phase::Blocked, task.edges_leading != NONE));
    check(blocked.all(|(is_blocked, has_edges)| is_blocked == has_edges), EDGES)?;
    let is_unblocked = |slot: &Slot| tasks.look_up(*slot).is_some_and(|task| task.phase == Phase::Unblocked);
    check(skips.keys().all(is_unblocked), EDGES)?;
    Ok(edges)
}

/// An edge without its links back.
fn edge(row: &EdgeRow) -> EdgeEntry {
    let links = |next| Links { prev: NONE, next: counted_from_0(next) };
    let (leaving, leading) = (links(row.leaving_next), links(row.leading_next));
    EdgeEntry { from: row.from, to: row.to, on: row.on, leaving, leading }
}

fn tenant_entry(row: TenantRow) -> (TenantNumber, TenantEntry) {
    let modules: BTreeMap<_, _> = row
        .modules
        .into_iter()
        .map(|module| (module.digest, ModuleEntry { bytes: module.bytes, kind: module.kind }))
        .collect();
    let module_bytes = modules.values().map(|module| module.bytes).sum();
    let entry = TenantEntry {
        name: row.name,
        weight: row.weight,
        class: row.class,
        quotas: row.quotas,
        removed: row.removed,
        tasks_queued: 0,
        tasks_running: 0,
        memory_bytes: 0,
        belongings: Arc::new(Belongings {
            modules,
            module_bytes,
            aliases: row.aliases,
            tokens: row.tokens,
            admins: row.admins,
        }),
        shapes: Default::default(),
    };
    (row.number, entry)
}

fn retry_rules(row: &RetryRulesRow) -> RetryRules {
    let RetryRulesRow { attempts_max, backoff_ms, backoff_ms_max, on, expires_ms, .. } = *row;
    RetryRules { attempts_max, backoff_ms, backoff_ms_max, on, expires_ms }
}

fn shape(row: ShapeRow) -> Shape {
    let key = ShapeKey {
        tenant: row.tenant,
        priority: row.priority,
        memory_bytes: row.memory_bytes,
        module: row.module,
        require: Arc::new(row.require),
    };
    let since = if row.since == Timestamp(0) { Timestamp::MAX } else { row.since };
    Shape { key, tasks: 0, queued: beginning(row.queued), waiting: beginning(row.waiting), since }
}

fn placement(row: PlacementRow) -> Placement {
    Placement { host: row.host, incarnation: row.incarnation, tasks: beginning(row.running) }
}

fn beginning(stored: u32) -> List {
    List::beginning(counted_from_0(stored))
}

/// A task without its link back.
fn task(row: &TaskRow) -> Task {
    Task {
        id: row.id,
        nonce: row.nonce,
        queued_at: row.queued_at,
        timer: row.timer,
        shape: row.shape,
        retry_rules: row.retry_rules,
        placement: counted_from_0(row.placement),
        edges_leaving: counted_from_0(row.edges_leaving),
        edges_leading: counted_from_0(row.edges_leading),
        prev: NONE,
        next: counted_from_0(row.next),
        attempt: row.attempt,
        failures: row.failures,
        checkpoint: row.checkpoint,
        hosts_lost: row.hosts_lost,
        host_faults: row.host_faults,
        phase: match row.phase {
            TaskPhase::Waiting => Phase::Waiting,
            TaskPhase::Queued => Phase::Queued,
            TaskPhase::Running => Phase::Running,
            TaskPhase::Blocked => Phase::Blocked,
            TaskPhase::Unblocked => Phase::Unblocked,
        },
        cancel_requested: row.cancel_requested,
        late_recorded: row.late_recorded,
    }
}

fn benched(row: BenchedRow) -> BenchedPolicy {
    let BenchedRow { hook, policy, reason, at, digest } = row;
    BenchedPolicy { hook, policy, digest, reason, at }
}
