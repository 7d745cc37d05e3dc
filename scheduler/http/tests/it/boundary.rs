//! The manifest proves the boundary: handlers reach the core, the log and the read model through `Handle` alone.

const MANIFEST: &str = include_str!("../../Cargo.toml");

/// The packages of the project that the interface may depend on. `wasmill-fabric` has the types of blobs that `Handle` hands out.
const ALLOWED: [&str; 7] = [
    "wasmill-protocol",
    "wasmill-record",
    "wasmill-api",
    "wasmill-fabric",
    "wasmill-scheduler",
    "wasmill-metrics",
    "wasmill-trace",
];

/// What writes the log or the read model.
const BANNED: [&str; 3] = ["rusqlite", "async-nats", "etcd-client"];

fn dependencies(manifest: &str) -> Vec<&str> {
    let lines = manifest.lines().skip_while(|line| line.trim() != "[dependencies]").skip(1);
    let names = lines.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split(['.', '=', ' ']).next());
    names.filter(|name| !name.is_empty() && !name.starts_with('#')).collect()
}

#[test]
fn the_interface_depends_on_no_core() {
    let dependencies = dependencies(MANIFEST);
    let ours: Vec<_> = dependencies.iter().copied().filter(|name| name.starts_with("wasmill-")).collect();
    assert_eq!(ours, ALLOWED);
    assert!(BANNED.iter().all(|name| !dependencies.contains(name)), "{dependencies:?}");
    assert!(!MANIFEST.contains("build-dependencies") && !MANIFEST.contains("target."), "nor by another way");
}

#[test]
fn a_core_would_be_seen() {
    let manifest = "[dependencies]\nwasmill-scheduler-core.workspace = true\nrusqlite = \"1\"\n\n[lints]\n";
    assert_eq!(dependencies(manifest), ["wasmill-scheduler-core", "rusqlite"]);
}
