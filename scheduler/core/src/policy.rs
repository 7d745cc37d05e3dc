//! Policies: the order in which tasks are served, and the hosts that they are placed on.
//!
//! A policy sees tenants, shapes and hosts, never single tasks, and is told what has changed, never
//! the whole world: it keeps what it needs. It is never trusted: the core checks every answer with
//! [`fits()`], drops what is wrong and counts it. One that lives outside the core is asked by
//! [`Ready::asks`](crate::Ready::asks) and delays nothing but its own decisions: see [`ask`].
//! Quotas, fencing and the guard against endless waits belong to the core. A decision is an event,
//! so a replay never asks a policy.

pub mod ask;
mod fair;
mod fifo;
mod fits;
mod heap;
mod least_loaded;
mod pack;
mod seat;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::sync::Arc;

use thiserror::Error;
use wasmill_protocol::{Digest, HostId, TenantName, Timestamp};

use crate::state::Labels;

pub use fair::Fair;
pub use fifo::Fifo;
pub(crate) use fits::Bytes;
pub use fits::{Misfit, fits};
pub use least_loaded::LeastLoaded;
pub use pack::Pack;
pub use seat::Seat;
pub(crate) use seat::{Seated, check_name};

/// The names that [`order_by_name`] knows.
pub const ORDERS: [&str; 2] = ["fair", "fifo"];

/// The names that [`place_by_name`] knows.
pub const PLACES: [&str; 2] = ["least_loaded", "pack"];

/// A built-in policy that orders.
pub fn order_by_name(name: &str) -> Option<Box<dyn Order>> {
    match name {
        "fair" => Some(Box::new(Fair)),
        "fifo" => Some(Box::new(Fifo)),
        _ => None,
    }
}

/// A built-in policy that places.
pub fn place_by_name(name: &str) -> Option<Box<dyn Place>> {
    match name {
        "least_loaded" => Some(Box::new(LeastLoaded::default())),
        "pack" => Some(Box::new(Pack::default())),
        _ => None,
    }
}

/// Orders tenants, and the shapes of each tenant.
///
/// A key holds until it is replaced. Of equal keys the tenant whose next task has waited longest
/// goes first, and of shapes of one tenant with equal keys the one of the highest priority, then
/// the one that has waited longest.
pub trait Order: Debug + Send {
    /// Its name. Another version of a policy has another name: a benched policy stays so
    /// under its name.
    fn name(&self) -> &str;

    /// Keys for what has changed, in the same order. A policy that was just seated is told
    /// everything.
    ///
    /// # Errors
    ///
    /// When a plugin trapped or ran out of time: the built-in default answers in its place.
    fn keys(&mut self, now: Timestamp, tenants: &[TenantView], shapes: &[ShapeView]) -> Result<Keys, PolicyFault>;

    /// Whether it tells the shapes of a tenant apart. If not it is not asked about them, and they
    /// all have the same key.
    fn orders_shapes(&self) -> bool {
        false
    }
}

/// Places tasks on hosts.
pub trait Place: Debug + Send {
    /// Its name. Another version of a policy has another name: a benched policy stays so
    /// under its name.
    fn name(&self) -> &str;

    /// Hosts that have appeared, changed or gone since the last call. A policy that was just seated
    /// is told all.
    fn changed(&mut self, hosts: &[HostChange]);

    /// Where to put what is wanted. To leave some or all of it out is to decline it for this round.
    /// The choices of an answer are not started yet: their effect is told by [`Place::changed`].
    ///
    /// # Errors
    ///
    /// When a plugin trapped or ran out of time: the built-in default decides this round.
    fn place(&mut self, now: Timestamp, wanted: &[Wanted]) -> Result<Vec<Choice>, PolicyFault>;
}

/// The key of a tenant or a shape in an order: `class` first, then `rank`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Key {
    /// Smaller goes strictly first.
    pub class: i64,
    /// Within a class, smaller goes first.
    pub rank: u64,
    /// How the rank changes when a task starts.
    pub stride: Stride,
}

impl Key {
    /// So many tasks have started.
    pub(crate) fn advance(&mut self, count: u32) {
        if let Stride::By(stride) = self.stride {
            self.rank = self.rank.saturating_add(stride.saturating_mul(count.into()));
        }
    }
}

/// How a rank changes when a task of the tenant or of the shape starts, until the key is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stride {
    /// It grows by so much.
    By(u64),
    /// It is since when the task has waited that is next, in microseconds: whatever rank was given.
    Oldest,
}

impl Default for Stride {
    fn default() -> Self {
        Self::By(0)
    }
}

/// Keys of tenants and of shapes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys {
    /// One for each tenant that was asked about.
    pub tenants: Vec<Key>,
    /// One for each shape that was asked about.
    pub shapes: Vec<Key>,
}

/// A number with what tells it from earlier uses of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Ref {
    /// The number; used again.
    pub slot: u32,
    /// Grows whenever it is.
    pub generation: u32,
}

/// A tenant with a task in the queue, as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantView {
    /// Which. Its number is never used again.
    pub id: u32,
    /// Its name.
    pub name: TenantName,
    /// Its weight, at least 1.
    pub weight: u32,
    /// Its class, -100 to 100: higher ones go strictly first.
    pub class: i8,
    /// Its tasks that run.
    pub running: u64,
    /// Its virtual time: slot time that it has used in microseconds, scaled by 1024 and divided by
    /// its weight. A tenant that had nothing to run has caught up, so idling saves nothing up.
    pub time: u64,
    /// By how much the virtual time grows when a task starts. When it has ended it is charged what
    /// it has used instead.
    pub charge: u64,
}

/// Tasks in the queue that are alike in everything that a policy may look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeView {
    /// Which.
    pub id: Ref,
    /// Whose, as in [`TenantView::id`].
    pub tenant_id: u32,
    /// The tenant's name.
    pub tenant: TenantName,
    /// -100 to 100, higher is more urgent among the tasks of its tenant.
    pub priority: i8,
    /// The module.
    pub module: Digest,
    /// The memory limit of each task.
    pub memory_bytes: u64,
    /// Labels that a host must carry.
    pub require: Arc<Labels>,
    /// Tasks in the queue.
    pub queued: u32,
    /// Since when the one of them that waits longest has been in the queue.
    pub oldest: Timestamp,
}

/// Tasks of one shape that are to be placed.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Which shape.
    pub shape: ShapeView,
    /// How many of its tasks.
    pub count: u32,
    /// Whether they may take places that are kept: see [`HostRoom::kept`].
    pub kept: bool,
    /// Kinds of hosts that can have what it needs, see [`HostRoom::kind`]; of one that has just
    /// enough memory not every host.
    pub kinds: Arc<[u32]>,
}

/// Some tasks of a shape on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Index into what was wanted.
    pub wanted: usize,
    /// Which host.
    pub host: Ref,
    /// How many tasks.
    pub count: u32,
}

/// The change of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostChange {
    /// Which.
    pub host: Ref,
    /// Its room; `None` when it is gone for good.
    pub room: Option<HostRoom>,
}

/// A host as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoom {
    /// Its name.
    pub id: HostId,
    /// Hosts of one kind carry the same labels among those that some shape requires, and about as
    /// much memory.
    pub kind: u32,
    /// Whether it takes new attempts.
    pub status: HostStatus,
    /// Attempts that it can take now.
    pub free: u32,
    /// Attempts that it can take beyond those, of tenants that run nothing or little: see
    /// [`kept`](wasmill_protocol::kept).
    pub kept: u32,
    /// Attempts that it has.
    pub attempts: u32,
    /// Guests that can run at the same time; what is above waits on the host.
    pub slots: u32,
    /// CPU cores for guests.
    pub cores: u32,
    /// Bytes of memory for guests.
    pub memory_bytes: u64,
    /// Memory limits of the attempts that it has, summed up: more than it has when some of them
    /// wait. The larger of what the leader has placed there and of what the host says, so that what
    /// an earlier leader has left there counts too.
    pub memory_promised: u64,
    /// A host that has promised so much takes nothing more: as much more than its memory as its
    /// attempts may be more than its slots.
    pub memory_most: u64,
    /// Tenants that it takes no more attempts of for now.
    pub sated: Arc<[TenantName]>,
    /// Its labels.
    pub labels: Arc<Labels>,
    /// CPU in use by guests, thousandths of one core.
    pub load_millicores: u32,
    /// Compiled modules that are ready to run.
    pub modules_cached: u32,
    /// Which these are, as far as the host has told it:
    /// [`MODULES_WARM_MAX`](wasmill_protocol::message::MODULES_WARM_MAX) at most, in order.
    pub modules_warm: Arc<[Digest]>,
    /// Memory limits of the attempts that have not ended there, as the host said last.
    pub memory_held: u64,
}

/// Whether a host takes new attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostStatus {
    /// It does.
    Ready,
    /// An operator drains it, or the host has asked for that.
    Draining,
    /// It is gone, or has not been heard of for too long.
    Lost,
}

impl HostRoom {
    /// Attempts that it can take now of a tenant that may, or may not, take what is kept. Kept
    /// places are taken last.
    pub fn left(&self, kept: bool) -> u32 {
        if self.memory_promised >= self.memory_most {
            return 0;
        }
        if kept { self.free.saturating_add(self.kept) } else { self.free }
    }

    /// The same of attempts with a memory limit. The last of them may exceed what the host
    /// promises.
    pub fn left_for(&self, kept: bool, memory_bytes: u64) -> u32 {
        let by_memory = self.memory_most.saturating_sub(self.memory_promised).div_ceil(memory_bytes.max(1));
        self.left(kept).min(u32::try_from(by_memory).unwrap_or(u32::MAX))
    }

    /// `count` attempts more.
    pub(crate) fn take(&mut self, count: u32, memory_bytes: u64) {
        assert!(count <= self.left(true), "a host takes no more attempts than it has room for");
        let of_free = count.min(self.free);
        self.free -= of_free;
        self.kept -= count - of_free;
        self.attempts += count;
        self.memory_promised = self.memory_promised.saturating_add(memory_bytes.saturating_mul(u64::from(count)));
    }

    /// The largest part in use of its slots and of its memory, as a number that compares as the
    /// parts do: 2^20 is all of it. More when attempts wait there.
    pub(crate) fn load(&self) -> u64 {
        // Memory is compared with 40 bits, so that it can be divided in 64.
        let shift = (u64::BITS - self.memory_bytes.leading_zeros()).saturating_sub(40);
        let part = |used: u64, all: u64| used.min(u64::MAX >> 20) * (1 << 20) / all.max(1);
        let slots = part(self.attempts.into(), self.slots.into());
        slots.max(part(self.memory_promised >> shift, self.memory_bytes >> shift))
    }
}

impl HostStatus {
    /// The stable name, as HTTP answers carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Lost => "lost",
        }
    }
}

/// A policy that did not answer: what happened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the policy did not answer: {reason}")]
pub struct PolicyFault {
    /// In a few words; the rest of a long text is dropped.
    pub reason: String,
}
