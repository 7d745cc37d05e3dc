//! Attempts by life of a host, according to the log.

use std::collections::BTreeMap;

use wasmill_protocol::{HostId, Incarnation};

use super::slab::{List, Slab, Slot};
use super::task::Task;

/// One life of a host with the tasks that run there, in the order in which they were placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placement {
    pub(crate) host: HostId,
    pub(crate) incarnation: Incarnation,
    pub(crate) tasks: List,
}

/// All lives of hosts that run something.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Placements {
    by_host: BTreeMap<(HostId, Incarnation), Slot>,
    placements: Slab<Placement>,
}

impl Placements {
    /// Places a task on one life of a host. `known` is where that was when the caller looked last.
    pub(crate) fn push(
        &mut self,
        tasks: &mut Slab<Task>,
        task: Slot,
        life: (&HostId, Incarnation),
        known: Option<Slot>,
    ) -> Slot {
        let is_of_life = |slot: &Slot| {
            self.placements.look_up(*slot).is_some_and(|placed| (&placed.host, placed.incarnation) == life)
        };
        let slot = known.filter(is_of_life).unwrap_or_else(|| self.slot_of(life));
        self.placements[slot].tasks.push_back(tasks, task);
        slot
    }

    fn slot_of(&mut self, (host, incarnation): (&HostId, Incarnation)) -> Slot {
        let key = (host.clone(), incarnation);
        if let Some(&slot) = self.by_host.get(&key) {
            return slot;
        }
        let placement = Placement { host: host.clone(), incarnation, tasks: List::default() };
        let slot = self.placements.insert(placement);
        self.by_host.insert(key, slot);
        slot
    }

    pub(crate) fn unlink(&mut self, tasks: &mut Slab<Task>, slot: Slot, task: Slot) {
        let placement = &mut self.placements[slot];
        placement.tasks.unlink(tasks, task);
        if placement.tasks.count == 0 {
            let indexed = self.by_host.remove(&(placement.host.clone(), placement.incarnation));
            assert!(indexed == Some(slot), "the index of hosts points at the placement");
            self.placements.remove(slot);
        }
    }

    /// The values by place. Cheap: nothing is copied until it changes.
    pub(crate) fn places(&self) -> Slab<Placement> {
        self.placements.clone()
    }

    /// From what is in each place. `None` when one life of a host is there twice.
    pub(crate) fn from_places(placements: Slab<Placement>) -> Option<Self> {
        let lives = placements.iter().map(|(slot, placed)| ((placed.host.clone(), placed.incarnation), slot));
        let by_host: BTreeMap<_, _> = lives.collect();
        (by_host.len() == placements.iter().count()).then_some(Self { by_host, placements })
    }

    /// A placement that some task has.
    pub(crate) fn placement(&self, slot: Slot) -> &Placement {
        &self.placements[slot]
    }

    /// The tasks that run on this life of a host.
    pub(crate) fn of(&self, host: &HostId, incarnation: Incarnation) -> List {
        match self.by_host.get(&(host.clone(), incarnation)) {
            Some(&slot) => self.placements[slot].tasks,
            None => List::default(),
        }
    }

    /// Lives of a host before `incarnation` that run something.
    pub(crate) fn before(&self, host: &HostId, incarnation: Incarnation) -> impl Iterator<Item = Incarnation> {
        let lives = self.by_host.range((host.clone(), Incarnation(0))..(host.clone(), incarnation));
        lives.map(|((_, life), _)| *life)
    }

    /// All of them, by host and incarnation.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Placement> {
        self.by_host.values().map(|&slot| &self.placements[slot])
    }
}
