//! The host's decisions from outside: scenarios, invariants under random inputs, and what a pure
//! crate may depend on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod boundary;
mod drain;
mod invariants;
mod lease;
mod messages;
mod reports;
mod unready;
mod world;
