//! The hosts that are known, by slot and by id.

use std::collections::BTreeMap;

use wasmill_protocol::HostId;

use super::hosts::Host;

/// Hosts, each under the slot in which dispatch counts it: where that is at hand no names are
/// compared.
#[derive(Debug, Default)]
pub(crate) struct HostTable {
    by_id: BTreeMap<HostId, u32>,
    /// By slot.
    hosts: Vec<Option<Host>>,
    /// The slot that was looked up last: what a host says is usually about itself.
    recent: u32,
}

impl HostTable {
    /// The host in a slot.
    pub(crate) fn at(&self, slot: u32) -> Option<&Host> {
        self.hosts.get(slot as usize)?.as_ref()
    }

    /// The host in a slot.
    pub(crate) fn at_mut(&mut self, slot: u32) -> Option<&mut Host> {
        self.hosts.get_mut(slot as usize)?.as_mut()
    }

    /// The host with an id.
    pub(crate) fn get(&self, id: &HostId) -> Option<&Host> {
        self.at(self.slot(id)?)
    }

    /// The host with an id.
    pub(crate) fn get_mut(&mut self, id: &HostId) -> Option<&mut Host> {
        let slot = self.slot(id)?;
        self.recent = slot;
        self.at_mut(slot)
    }

    /// Whether there is a host with this id.
    pub(crate) fn contains(&self, id: &HostId) -> bool {
        self.slot(id).is_some()
    }

    /// All of them, by id.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Host> {
        self.by_id.values().filter_map(|&slot| self.at(slot))
    }

    /// Puts a host into its slot, in the place of what it was before.
    pub(super) fn insert(&mut self, host: Host) {
        let index = host.slot as usize;
        if self.hosts.len() <= index {
            self.hosts.resize_with(index + 1, || None);
        }
        self.by_id.insert(host.info.id.clone(), host.slot);
        self.hosts[index] = Some(host);
    }

    /// Forgets a host.
    pub(super) fn remove(&mut self, id: &HostId) {
        if let Some(slot) = self.by_id.remove(id) {
            self.hosts[slot as usize] = None;
        }
    }

    fn slot(&self, id: &HostId) -> Option<u32> {
        let is_recent = self.at(self.recent).is_some_and(|host| host.info.id == *id);
        if is_recent { Some(self.recent) } else { self.by_id.get(id).copied() }
    }
}
