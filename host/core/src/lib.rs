//! A host's decisions, as a state machine without I/O: which attempts it takes, when each starts
//! and stops, and what it reports.
//!
//! [`HostCore::step`] takes everything that can happen, [`HostCore::take_ready`] hands back what
//! follows from it, [`HostCore::next_timeout`] says when to step at the latest. There is no clock,
//! no thread and no environment here, and every collection is ordered: the same inputs give the
//! same outputs, so that the simulator runs exactly these decisions.
//!
//! Deliberately absent: limits of CPU, fuel and wall time. They are the sandbox's, which
//! measures them.

#![forbid(unsafe_code)]

pub mod bounds;
pub mod io;

mod admission;
mod core;
mod heartbeat;
mod outbox;
mod prefetch;
mod recent;
mod unready;
mod warm;

pub use crate::core::{Counters, HostCore};
pub use crate::io::{Batch, BatchNumber, Config, Ended, Input, Ready, ReplyTo, StopReason};
