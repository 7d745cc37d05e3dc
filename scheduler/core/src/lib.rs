//! The scheduler's decisions, as a state machine without I/O.
//!
//! [`Core::step`] takes everything that can happen, [`Core::take_ready`] hands back what follows
//! from it. There is no clock, no randomness but a seed, no thread and no environment here, and
//! every collection is ordered: the same inputs give the same outputs, which is what makes the
//! simulator's findings repeatable.
//!
//! Reading order: [`io`] says what goes in and out, [`state`] is the fold over the log, `leader`
//! decides, `dispatch` finds what is next and where it runs, [`policy`] orders and places.

#![forbid(unsafe_code)]

pub mod clock;
pub mod config;
mod dispatch;
pub mod io;
pub mod leader;
pub mod policy;
mod random;
pub mod state;

pub use config::{ConfigError, CoreConfig};
pub use io::{Input, MessageOut, Ready, ReplyTo};
pub use leader::Core;
pub use state::State;
