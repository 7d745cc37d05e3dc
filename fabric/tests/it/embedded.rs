//! The implementation inside one process: every suite, and what it promises beyond them.

mod crash;
mod directory;
mod storage;

use std::path::Path;

use wasmill_fabric::{Fabric, embedded};

use crate::conformance::{Fixture, conformance};

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let embedded = embedded::open(&dir.path().join("data")).unwrap();
    Fixture {
        log: embedded.log,
        blobs: embedded.blobs,
        bus: embedded.bus,
        membership: embedded.membership,
        _keep: Box::new(dir),
    }
}

fn open(dir: &Path) -> Fabric {
    embedded::open(dir).unwrap_or_else(|error| panic!("{error}"))
}

conformance!(crate::embedded::fixture);
