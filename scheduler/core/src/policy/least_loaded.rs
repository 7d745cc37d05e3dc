//! `least_loaded`: every task goes where the least is in use.

use wasmill_protocol::Timestamp;

use super::heap::HostHeap;
use super::{Choice, HostChange, HostRoom, Place, PolicyFault, Wanted};

/// Spreads tasks, so that each starts as early as it can. The load of a host is the larger of two
/// parts: of its slots that have an attempt, and of its memory that attempts may use.
#[derive(Debug)]
pub struct LeastLoaded(HostHeap);

impl Default for LeastLoaded {
    fn default() -> Self {
        Self(HostHeap::new(HostRoom::load))
    }
}

impl LeastLoaded {
    /// Whether some host has room for one of these tasks.
    pub(crate) fn has_room(&self, wish: &Wanted) -> bool {
        self.0.has_room(wish)
    }
}

impl Place for LeastLoaded {
    fn name(&self) -> &str {
        "least_loaded"
    }

    fn changed(&mut self, hosts: &[HostChange]) {
        self.0.changed(hosts);
    }

    fn place(&mut self, _: Timestamp, wanted: &[Wanted]) -> Result<Vec<Choice>, PolicyFault> {
        Ok(self.0.place(wanted))
    }
}
