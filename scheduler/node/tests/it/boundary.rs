//! The manifest proves the boundary: nothing that runs, waits, reads a clock or draws numbers can be reached from the node machine.

use std::collections::BTreeSet;

const MANIFEST: &str = include_str!("../../Cargo.toml");

/// What the node machine may depend on. Each of these is pure itself.
const ALLOWED: [&str; 6] =
    ["bytes", "sha2", "thiserror", "wasmill-protocol", "wasmill-record", "wasmill-scheduler-core"];

fn dependencies(manifest: &str) -> BTreeSet<&str> {
    let names = manifest
        .lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', '=', ' ']).next());
    names.filter(|name| !name.is_empty() && !name.starts_with('#')).collect()
}

#[test]
fn the_node_machine_depends_on_no_runtime() {
    assert_eq!(dependencies(MANIFEST), BTreeSet::from(ALLOWED));
    assert!(!MANIFEST.contains("build-dependencies") && !MANIFEST.contains("target."), "nor by another way");
}

#[test]
fn a_runtime_would_be_seen() {
    let manifest = "[package]\nname = \"x\"\n\n[dependencies]\ntokio.workspace = true\nrand = \"1\"\n\n[lints]\nworkspace = true\n";
    assert_eq!(dependencies(manifest), BTreeSet::from(["rand", "tokio"]));
}
