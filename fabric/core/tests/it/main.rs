//! The dependencies of a pure crate.
