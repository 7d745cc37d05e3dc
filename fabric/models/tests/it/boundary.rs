//! The manifest proves the boundary: nothing that runs, waits, reads a clock or draws numbers can
//! be reached from the models.

#[path = "../../../../protocol/tests/shared/bans.rs"]
mod bans;
#[path = "../../../../protocol/tests/shared/boundary.rs"]
mod shared;

use std::collections::BTreeSet;

#[test]
fn it_depends_on_pure_packages_alone() {
    let dependencies = shared::dependencies(include_str!("../../Cargo.toml"));
    assert_eq!(dependencies, BTreeSet::from(["bytes", "thiserror", "wasmill-protocol"]));
}

#[test]
fn what_is_banned_has_a_reason() {
    bans::assert_bans(include_str!("../../clippy.toml"));
}
