//! One suite per trait, run against every implementation, and what only one implementation
//! promises.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod blobs;
mod bus;
mod cluster;
mod conformance;
mod embedded;
mod log;
mod membership;
mod models;
mod remote_blobs;
