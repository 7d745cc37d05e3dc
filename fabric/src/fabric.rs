//! The four traits together: what a process stands on.

use std::sync::Arc;

use crate::{Blobs, Bus, Log, Membership};

/// The fabric of a control node. Cheap to clone.
#[derive(Clone)]
pub struct Fabric {
    /// The log.
    pub log: Arc<dyn Log>,
    /// Payloads, results and modules.
    pub blobs: Arc<dyn Blobs>,
    /// Messages between control nodes and hosts.
    pub bus: Arc<dyn Bus>,
    /// Elections and hosts.
    pub membership: Arc<dyn Membership>,
}

/// The fabric of a host: it has no right to touch the log. Cheap to clone.
#[derive(Clone)]
pub struct HostFabric {
    /// Payloads, results and modules; in a cluster as control nodes serve them with
    /// [`serve_blobs`](crate::remote_blobs::serve_blobs).
    pub blobs: Arc<dyn Blobs>,
    /// Messages to and from control nodes.
    pub bus: Arc<dyn Bus>,
    /// In which a host can make itself known and nothing else.
    pub membership: Arc<dyn Membership>,
}

impl Fabric {
    /// The fabric of a host in the same process.
    pub fn of_host(&self) -> HostFabric {
        let Self { blobs, bus, membership, .. } = self.clone();
        HostFabric { blobs, bus, membership }
    }
}
