//! The control node: the shell around the scheduler's core, HTTP, and the read model.
//!
//! The driver ([`driver`]) is the only one that steps the core. Everything else talks to it through
//! [`handle::Handle`].

pub mod clock;
pub mod directory;
pub mod driver;
pub mod finals;
pub mod handle;
pub mod metrics;
pub mod progress;
pub mod read_model;
mod snapshot;
pub mod sweep;

pub use handle::Handle;
