//! The models know the traps of the servers that they stand for.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod boundary;
mod election;
mod etcd;
mod faults;
mod jetstream;
