//! The fold over the log: all that decisions rest on and that must survive a restart.
//!
//! [`State::apply`] is the only code that changes a task. The leader calls it on what it decides, a
//! follower on what it reads: so both hold the same. No payload, no result and no final task is
//! kept here: a task takes less than 400 bytes.

mod apply;
mod benched;
mod check;
mod edges;
mod interner;
mod keys;
mod load;
mod placements;
mod set_back;
pub(crate) mod shapes;
mod slab;
mod snapshot;
mod superseded;
pub(crate) mod task;
pub(crate) mod tenants;
mod timers;
mod views;

use std::collections::{BTreeMap, BTreeSet};

use wasmill_protocol::{HostId, LogSeq, TaskId, Term, Timestamp};
use wasmill_record::snapshot::{Current, LedTime};

use crate::io::QueueDepth;
use benched::Benched;
use edges::Edges;
use interner::Interner;
use keys::IdempotencyKeys;
use placements::Placements;
use shapes::Shapes;
use slab::{List, Slab};
use superseded::Superseded;
use task::{RetryRules, Task};
use tenants::Tenants;

pub(crate) use apply::EventSlots;
pub use apply::{Owner, Owners};
pub use load::{Load, TenantLoad};
pub use shapes::Labels;
pub(crate) use slab::{NONE, Slot};
pub use snapshot::{Frozen, RestoreError, Restoring};
pub use task::TaskView;
pub use tenants::{ModuleEntry, TenantNumber};
pub(crate) use timers::{Timer, Timers};

/// The state that the log tells, without the tasks that are final.
///
/// `State::default()` is what an empty log says: the tenant `default` and nothing else. Two states
/// that were made by the same records are equal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    pub(crate) term: Term,
    /// Whose term it is.
    pub(crate) leader: String,
    pub(crate) time: Timestamp,
    pub(crate) led: LedTime,
    pub(crate) last_seq: LogSeq,
    pub(crate) tenants: Tenants,
    pub(crate) tasks: Slab<Task>,
    pub(crate) by_id: BTreeMap<TaskId, Slot>,
    pub(crate) shapes: Shapes,
    pub(crate) retry_rules: Interner<RetryRules>,
    pub(crate) placements: Placements,
    /// The timers of tasks.
    pub(crate) timers: Timers<Timer>,
    pub(crate) edges: Edges,
    /// Tasks that wait for other tasks no more, and that no event has queued or ended yet.
    pub(crate) unblocked: List,
    /// The unblocked tasks that are to be skipped, each with the task that it has waited for and
    /// that did not end as it should.
    pub(crate) skips: BTreeMap<Slot, TaskId>,
    pub(crate) keys: IdempotencyKeys,
    pub(crate) superseded: Superseded,
    /// Hosts that get no new attempts, whether they are there or not.
    pub(crate) drained: BTreeSet<HostId>,
    pub(crate) depth: QueueDepth,
    pub(crate) current: Current,
    /// Policies in whose place the built-in default decides.
    pub(crate) benched: Benched,
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::*;

    /// Bytes that one entry of a B-tree takes when the tree has grown by appending: nodes of 11
    /// entries, of which 6 are used.
    const fn b_tree_entry(key_and_value: usize) -> usize {
        key_and_value * 11 / 6 + 4
    }

    #[test]
    fn a_task_takes_less_than_400_bytes_with_all_its_indices() {
        let task = size_of::<Option<Task>>() + size_of::<Slot>();
        let by_id = b_tree_entry(size_of::<(TaskId, Slot)>());
        let timer = b_tree_entry(size_of::<(Timestamp, Timer)>());
        // Usually shared; at worst every task has its own.
        let retry_rules = b_tree_entry(size_of::<(RetryRules, Slot)>()) + size_of::<(RetryRules, u32)>();
        assert_eq!(size_of::<Option<Task>>(), 88);
        assert!(task + by_id + timer < 200, "{task} {by_id} {timer}");
        assert!(task + by_id + timer + retry_rules < 400, "{retry_rules}");
    }
}
