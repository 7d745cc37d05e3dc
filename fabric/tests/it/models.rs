//! The models of JetStream and etcd that the simulator runs on, under the machines of the clustered
//! fabric: what holds for real servers holds for them. Each suite runs once with servers that
//! answer, and once with each kind of trouble that must not be noticed.

mod log;
mod membership;

use std::sync::Arc;

use wasmill_fabric::embedded;

use crate::conformance::{Fixture, log_conformance, membership_conformance};

use self::log::{ModelLog, Trouble};
use self::membership::ModelMembership;

/// Blobs and bus have no models: they are the embedded ones.
fn fixture(replicated: bool, trouble: Trouble, troubled_etcd: bool) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let embedded = embedded::open(&dir.path().join("data")).unwrap();
    Fixture {
        log: Arc::new(ModelLog::new(replicated, trouble)),
        blobs: embedded.blobs,
        bus: embedded.bus,
        membership: Arc::new(ModelMembership::new(troubled_etcd)),
        _keep: Box::new(dir),
    }
}

/// One server that answers.
mod calm {
    use super::*;

    async fn fixture() -> Fixture {
        super::fixture(false, Trouble::None, false)
    }

    log_conformance!(crate::models::calm::fixture);
    membership_conformance!(crate::models::calm::fixture);
}

/// A group of servers of which every third acknowledgement is lost, and etcd fails every other
/// campaign and keepalive.
mod lossy {
    use super::*;

    async fn fixture() -> Fixture {
        super::fixture(true, Trouble::AcksLost, true)
    }

    log_conformance!(crate::models::lossy::fixture);
    membership_conformance!(crate::models::lossy::fixture);
}

/// One server that is killed in the middle of every fifth record, which is stored or is not.
mod killed {
    use super::*;

    async fn fixture() -> Fixture {
        super::fixture(false, Trouble::Kills, false)
    }

    log_conformance!(crate::models::killed::fixture);
}

/// A server that forgets every id between two tries, so that only reading back tells.
mod forgetful {
    use super::*;

    async fn fixture() -> Fixture {
        super::fixture(false, Trouble::IdsForgotten, false)
    }

    log_conformance!(crate::models::forgetful::fixture);
}
