//! The manifest proves the boundary: handlers reach the core, the log and the read model through
//! `Handle` alone.

#[path = "../../../../protocol/tests/shared/boundary.rs"]
mod shared;

use std::collections::BTreeSet;

/// The packages of the project that the interface may depend on. `wasmill-fabric` has the types of
/// blobs that `Handle` hands out.
const ALLOWED: [&str; 7] = [
    "wasmill-api",
    "wasmill-fabric",
    "wasmill-metrics",
    "wasmill-protocol",
    "wasmill-record",
    "wasmill-scheduler",
    "wasmill-trace",
];

/// Packages that write the log or the read model.
const BANNED: [&str; 3] = ["rusqlite", "async-nats", "etcd-client"];

#[test]
fn the_interface_depends_on_no_core() {
    let dependencies = shared::dependencies(include_str!("../../Cargo.toml"));
    let ours: BTreeSet<_> = dependencies.iter().copied().filter(|name| name.starts_with("wasmill-")).collect();
    assert_eq!(ours, BTreeSet::from(ALLOWED));
    assert!(BANNED.iter().all(|name| !dependencies.contains(name)), "{dependencies:?}");
}
