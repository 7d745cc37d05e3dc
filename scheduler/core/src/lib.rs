//! The scheduler's decisions, as a state machine without I/O.
//!
//! [`Core::step`] takes everything that can happen, [`Core::take_ready`] hands back what follows from it.
//! There is no clock, no randomness but a seed, no thread and no environment here, and every collection is ordered: the same
//! inputs give the same outputs, which is what makes the simulator's findings repeatable.

pub mod io;

pub use io::{Input, MessageOut, Ready, ReplyTo};
