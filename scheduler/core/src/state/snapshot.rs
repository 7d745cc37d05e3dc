//! The state as a snapshot, and back.
//!
//! Written down is what cannot be computed from the rest: the values in their places, and the order
//! of every list. Indices, counts and timers are made anew. The state that is read is equal to the
//! one that was written, to the number of every place, and so decides the same from there on.
//!
//! Deliberately absent: idempotency keys. A node that starts from a snapshot has a read model that
//! holds every record up to it, and looks them up there.

mod restore;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wasmill_protocol::policy::BenchedRow;
use wasmill_protocol::tenant::Quotas;
use wasmill_protocol::{HostId, LogSeq, TaskId, TenantName};
use wasmill_record::snapshot::{
    BeginPart, Current, EdgeRow, Part, PlacementRow, RetryRulesRow, SNAPSHOT_VERSION, ShapeRow, SkipRow, SlabKind,
    SlabPlaces, TaskColumns, TaskPhase, TaskRow, TenantModule, TenantRow,
};

use super::State;
use super::edges::EdgeEntry;
use super::placements::Placement;
use super::shapes::Shape;
use super::slab::{CHUNK, NONE, Slab, Slot};
use super::superseded::Superseded;
use super::task::{Phase, RetryRules, Task};
use super::tenants::{Belongings, TenantEntry, TenantNumber};

use crate::io::BenchedPolicy;

pub use restore::{RestoreError, Restoring};

/// Rows of one part at most.
const ROWS_PER_PART: usize = 1024;
/// Vacant places in one part at most.
const VACANT_PER_PART: usize = 1 << 16;
const _: () = assert!(CHUNK.is_multiple_of(ROWS_PER_PART), "a chunk is written in whole parts");

/// The state as it was at one record, while the state itself goes on.
///
/// It shares everything large with the state. A chunk that the state changes meanwhile is copied
/// then, 4,096 tasks at once.
#[derive(Debug)]
pub struct Frozen {
    begin: BeginPart,
    tenants: Vec<FrozenTenant>,
    tasks: Slab<Task>,
    shapes: Slab<Shape>,
    retry_rules: Slab<(RetryRules, u32)>,
    placements: Slab<Placement>,
    edges: Slab<EdgeEntry>,
    skips: BTreeMap<Slot, TaskId>,
    superseded: Superseded,
    benched: Vec<BenchedRow>,
    drained: BTreeSet<HostId>,
    current: Current,
}

#[derive(Debug)]
struct FrozenTenant {
    number: TenantNumber,
    name: TenantName,
    weight: u32,
    class: i8,
    quotas: Quotas,
    removed: bool,
    belongings: Arc<Belongings>,
}

impl State {
    /// Takes hold of the state as it is after the last record. O(tenants) and a pointer for every
    /// 4,096 tasks.
    ///
    /// Call it between two records: events that were applied since the last one would be in it,
    /// too.
    pub fn freeze(&self) -> Frozen {
        let Self { term, time, last_seq: seq, .. } = *self;
        let (leader, tenant_next, led) = (self.leader.clone(), self.tenants.next(), self.led.clone());
        let unblocked = counted_from_1(self.unblocked.head);
        Frozen {
            begin: BeginPart { version: SNAPSHOT_VERSION, seq, term, leader, time, tenant_next, led, unblocked },
            tenants: self.tenants.entries().map(|(number, entry)| freeze_tenant(number, entry)).collect(),
            tasks: self.tasks.clone(),
            shapes: self.shapes.places(),
            retry_rules: self.retry_rules.places(),
            placements: self.placements.places(),
            edges: self.edges.places(),
            skips: self.skips.clone(),
            superseded: self.superseded.clone(),
            benched: self.benched.iter().map(benched_row).collect(),
            drained: self.drained.clone(),
            current: self.current.clone(),
        }
    }

    /// All parts of a snapshot at once: [`State::freeze`] and [`Frozen::into_parts`] for small
    /// states.
    pub fn to_snapshot(&self) -> Vec<Part> {
        self.freeze().into_parts().collect()
    }

    /// Reads what [`State::to_snapshot`] gave.
    ///
    /// # Errors
    ///
    /// When the parts are not those of one snapshot.
    pub fn from_snapshot(parts: impl IntoIterator<Item = Part>) -> Result<Self, RestoreError> {
        let mut restoring = Restoring::default();
        parts.into_iter().try_for_each(|part| restoring.take(part))?;
        restoring.finish()
    }
}

fn benched_row(benched: &BenchedPolicy) -> BenchedRow {
    let BenchedPolicy { hook, policy, digest, reason, at } = benched.clone();
    BenchedRow { hook, policy, reason, at, digest }
}

fn freeze_tenant(number: TenantNumber, entry: &TenantEntry) -> FrozenTenant {
    FrozenTenant {
        number,
        name: entry.name.clone(),
        weight: entry.weight,
        class: entry.class,
        quotas: entry.quotas,
        removed: entry.removed,
        belongings: Arc::clone(&entry.belongings),
    }
}

impl Frozen {
    /// The last record that is in it.
    pub fn seq(&self) -> LogSeq {
        self.begin.seq
    }

    /// The parts in the order in which they are stored, [`Part::Begin`] first. [`Part::End`] is
    /// whose who adds parts of his own.
    pub fn into_parts(self) -> impl Iterator<Item = Part> {
        let begin = std::iter::once(Part::Begin(self.begin));
        let places = places(SlabKind::RetryRules, &self.retry_rules)
            .into_iter()
            .chain(places(SlabKind::Shapes, &self.shapes))
            .chain(places(SlabKind::Placements, &self.placements))
            .chain(places(SlabKind::Tasks, &self.tasks))
            // A former version knows no edges, and need not as long as there has never been one.
            .chain(if self.edges.places() > 0 { places(SlabKind::Edges, &self.edges) } else { Vec::new() });
        let tenants = self.tenants.into_iter().map(|tenant| Part::Tenant(tenant_row(tenant)));
        let retry_rules = rows(self.retry_rules.into_chunks(), ROWS_PER_PART, retry_rules_row).map(Part::RetryRules);
        let shapes = rows(self.shapes.into_chunks(), ROWS_PER_PART, shape_row).map(Part::Shapes);
        let placements = rows(self.placements.into_chunks(), ROWS_PER_PART, placement_row).map(Part::Placements);
        let tasks =
            rows(self.tasks.into_chunks(), CHUNK, task_row).map(|rows| Part::Tasks(Box::new(TaskColumns::pack(&rows))));
        let edges = rows(self.edges.into_chunks(), ROWS_PER_PART, edge_row).map(Part::Edges);
        let skips: Vec<_> = self.skips.into_iter().map(|(slot, predecessor)| SkipRow { slot, predecessor }).collect();
        let skips: Vec<_> = skips.chunks(ROWS_PER_PART).map(|rows| Part::Skips(rows.to_vec())).collect();
        let superseded: Vec<_> = self.superseded.rows().collect();
        let superseded: Vec<_> = superseded.chunks(ROWS_PER_PART).map(|rows| Part::Superseded(rows.to_vec())).collect();
        let drained: Vec<_> = self.drained.into_iter().collect();
        let drained: Vec<_> = drained.chunks(ROWS_PER_PART).map(|rows| Part::Drained(rows.to_vec())).collect();
        begin
            .chain(places)
            .chain(tenants)
            .chain(retry_rules)
            .chain(shapes)
            .chain(placements)
            .chain(tasks)
            .chain(edges)
            .chain(skips)
            .chain(superseded)
            .chain((!self.benched.is_empty()).then_some(Part::Benched(self.benched)))
            .chain(drained)
            .chain(std::iter::once(Part::Current(self.current)))
    }
}

fn places<T>(of: SlabKind, slab: &Slab<T>) -> Vec<Part> {
    let count = slab.places() as u32;
    let part = |vacant: &[Slot]| Part::Places(SlabPlaces { of, count, vacant: vacant.to_vec() });
    match slab.vacant() {
        [] => vec![part(&[])],
        vacant => vacant.chunks(VACANT_PER_PART).map(part).collect(),
    }
}

/// Rows of what is in the places of a slab, at most `rows_max` together. A chunk is let go once its
/// rows were made.
fn rows<T, R>(
    chunks: impl Iterator<Item = (Slot, Arc<Vec<Option<T>>>)>,
    rows_max: usize,
    row: fn(Slot, &T) -> R,
) -> impl Iterator<Item = Vec<R>> {
    let rows = move |(first, places): (Slot, &[Option<T>])| -> Vec<R> {
        (first..).zip(places).filter_map(|(slot, place)| place.as_ref().map(|value| row(slot, value))).collect()
    };
    let parts = move |(first, chunk): (Slot, Arc<Vec<Option<T>>>)| -> Vec<Vec<R>> {
        (first..).step_by(rows_max).zip(chunk.chunks(rows_max)).map(rows).filter(|rows| !rows.is_empty()).collect()
    };
    chunks.flat_map(parts)
}

fn tenant_row(tenant: FrozenTenant) -> TenantRow {
    let FrozenTenant { number, name, weight, class, quotas, removed, belongings } = tenant;
    let modules = belongings.modules.iter();
    TenantRow {
        number,
        name,
        weight,
        class,
        quotas,
        removed,
        modules: modules
            .map(|(&digest, entry)| TenantModule { digest, bytes: entry.bytes, kind: entry.kind })
            .collect(),
        aliases: belongings.aliases.clone(),
        tokens: belongings.tokens.clone(),
        admins: belongings.admins.clone(),
    }
}

fn retry_rules_row(slot: Slot, (retry_rules, _): &(RetryRules, u32)) -> RetryRulesRow {
    let RetryRules { attempts_max, backoff_ms, backoff_ms_max, on, expires_ms } = *retry_rules;
    RetryRulesRow { slot, attempts_max, backoff_ms, backoff_ms_max, on, expires_ms }
}

fn shape_row(slot: Slot, shape: &Shape) -> ShapeRow {
    let key = &shape.key;
    ShapeRow {
        slot,
        tenant: key.tenant,
        priority: key.priority,
        memory_bytes: key.memory_bytes,
        module: key.module,
        require: (*key.require).clone(),
        queued: counted_from_1(shape.queued.head),
        waiting: counted_from_1(shape.waiting.head),
        since: shape.since,
    }
}

fn placement_row(slot: Slot, placement: &Placement) -> PlacementRow {
    let Placement { host, incarnation, tasks } = placement;
    PlacementRow { slot, host: host.clone(), incarnation: *incarnation, running: counted_from_1(tasks.head) }
}

fn task_row(slot: Slot, task: &Task) -> TaskRow {
    TaskRow {
        slot,
        id: task.id,
        phase: match task.phase {
            Phase::Waiting => TaskPhase::Waiting,
            Phase::Queued => TaskPhase::Queued,
            Phase::Running => TaskPhase::Running,
            Phase::Blocked => TaskPhase::Blocked,
            Phase::Unblocked => TaskPhase::Unblocked,
        },
        cancel_requested: task.cancel_requested,
        late_recorded: task.late_recorded,
        hosts_lost: task.hosts_lost,
        host_faults: task.host_faults,
        attempt: task.attempt,
        nonce: task.nonce,
        failures: task.failures,
        checkpoint: task.checkpoint,
        queued_at: task.queued_at,
        timer: task.timer,
        shape: task.shape,
        retry_rules: task.retry_rules,
        placement: counted_from_1(task.placement),
        next: counted_from_1(task.next),
        edges_leaving: counted_from_1(task.edges_leaving),
        edges_leading: counted_from_1(task.edges_leading),
    }
}

fn edge_row(slot: Slot, edge: &EdgeEntry) -> EdgeRow {
    let EdgeEntry { from, to, on, leaving, leading } = edge;
    let (leaving_next, leading_next) = (counted_from_1(leaving.next), counted_from_1(leading.next));
    EdgeRow { slot, from: *from, to: *to, on: *on, leaving_next, leading_next }
}

/// Places that may be [`NONE`] are stored so that none is 0.
fn counted_from_1(slot: Slot) -> u32 {
    slot.wrapping_add(1)
}

/// The inverse of [`counted_from_1`].
fn counted_from_0(stored: u32) -> Slot {
    stored.wrapping_sub(1)
}

const _: () = assert!(NONE.wrapping_add(1) == 0);
