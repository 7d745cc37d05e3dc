//! Fuzz targets of the core: stories that are read from bytes. Their checks are those of the core's
//! tests.

#![allow(dead_code, reason = "the tests use more of what is shared with them")]

#[path = "../../tests/it/model.rs"]
mod model;
#[path = "../../tests/it/names.rs"]
mod names;
#[path = "../../tests/it/owners.rs"]
mod owners;
#[path = "../../tests/it/story.rs"]
mod story;
mod targets;
#[path = "../../tests/it/world.rs"]
mod world;

/// Arbitrary sequences of what can happen.
pub fn story(bytes: &[u8]) {
    targets::story(bytes);
}

/// The same, with policies that answer arbitrarily.
pub fn policy(bytes: &[u8]) {
    targets::policy(bytes);
}
