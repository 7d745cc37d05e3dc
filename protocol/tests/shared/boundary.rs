//! The common part of the tests of each pure package: its manifest proves the boundary.

use std::collections::BTreeSet;

/// The packages that a manifest depends on.
///
/// # Panics
///
/// When it depends on something by another way than `[dependencies]`.
pub(crate) fn dependencies(manifest: &str) -> BTreeSet<&str> {
    let mut section = "";
    let mut dependencies = BTreeSet::new();
    for line in manifest.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if section == "dependencies"
            && let Some((name, _)) = line.split_once(['.', ' ', '='])
        {
            dependencies.insert(name);
        }
        assert!(!section.starts_with("target.") && section != "build-dependencies", "unexpected section `{section}`");
    }
    dependencies
}

#[test]
fn a_runtime_would_be_seen() {
    let manifest = "[package]\nname = \"x\"\n\n[dependencies]\ntokio.workspace = true\nrand = \"1\"\n\n[lints]\nworkspace = true\n";
    assert_eq!(dependencies(manifest), BTreeSet::from(["rand", "tokio"]));
}
