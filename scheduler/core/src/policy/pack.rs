//! `pack`: fills one host before it uses the next.

use wasmill_protocol::Timestamp;

use super::heap::HostHeap;
use super::{Choice, HostChange, HostRoom, Place, PolicyFault, Wanted};

/// Keeps hosts empty, so that they can be taken away, and caches of compiled modules warm. Tasks
/// wait on a host where another one would start them at once.
#[derive(Debug)]
pub struct Pack(HostHeap);

impl Default for Pack {
    fn default() -> Self {
        let fullest_first = |room: &HostRoom| u64::MAX - u64::from(room.attempts);
        Self(HostHeap::new(fullest_first))
    }
}

impl Place for Pack {
    fn name(&self) -> &str {
        "pack"
    }

    fn changed(&mut self, hosts: &[HostChange]) {
        self.0.changed(hosts);
    }

    fn place(&mut self, _: Timestamp, wanted: &[Wanted]) -> Result<Vec<Choice>, PolicyFault> {
        Ok(self.0.place(wanted))
    }
}
