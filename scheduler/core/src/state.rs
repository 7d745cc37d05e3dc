//! The fold over the log: all that decisions rest on and that must survive a restart.
//!
//! [`State::apply`] is the only code that changes a task. The leader calls it on what it decides, a follower on what it
//! reads: so both hold the same. No payload, no result and no final task is kept here: a task takes less than 400 bytes.

mod apply;
mod check;
mod interner;
mod keys;
mod placements;
pub(crate) mod shapes;
mod slab;
mod superseded;
pub(crate) mod task;
pub(crate) mod tenants;
mod views;

use std::collections::{BTreeMap, BTreeSet};

use wasmill_protocol::{LogSeq, TaskId, Term, Timestamp};

use crate::io::QueueDepth;
use interner::Interner;
use keys::Keys;
use placements::Placements;
use shapes::Shapes;
use slab::Slab;
use superseded::Superseded;
use task::{Patience, Task};
use tenants::Tenants;

pub use shapes::Labels;
pub(crate) use slab::{NONE, Slot};
pub use task::TaskView;
pub use tenants::ModuleEntry;

/// What the log says, without the tasks that are final.
///
/// `State::default()` is what an empty log says: the tenant `default` and nothing else. Two states that were made
/// by the same records are equal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    pub(crate) term: Term,
    pub(crate) time: Timestamp,
    pub(crate) last_seq: LogSeq,
    pub(crate) tenants: Tenants,
    pub(crate) tasks: Slab<Task>,
    pub(crate) by_id: BTreeMap<TaskId, Slot>,
    pub(crate) shapes: Shapes,
    pub(crate) patiences: Interner<Patience>,
    pub(crate) placements: Placements,
    /// When a waiting task is queued and when a queued one expires.
    pub(crate) timers: BTreeSet<(Timestamp, Slot)>,
    pub(crate) keys: Keys,
    pub(crate) superseded: Superseded,
    pub(crate) depth: QueueDepth,
}
