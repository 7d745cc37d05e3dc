//! The words that Wasmill's processes share: identifiers, tasks, outcomes, commands and messages.
//!
//! Nothing here does I/O, reads a clock or draws a random number, so that the pure cores can depend
//! on all of it. Everything that travels has a default for every field: a reader one minor version
//! older or newer must still understand it (`tests/it/versions.rs` lists the pairs).

pub mod command;
pub mod ids;
pub mod kept;
pub mod limits;
pub mod message;
pub mod module;
pub mod outcome;
pub mod payload;
pub mod policy;
pub mod task;
pub mod tenant;
pub mod text;
pub mod time;
pub mod trace;

pub use ids::{Attempt, AttemptId, Digest, HostId, Incarnation, LogSeq, Nonce, TaskId, TenantName, Term};
pub use limits::Limits;
pub use outcome::{Outcome, OutcomeKind, TrapCode, Usage};
pub use payload::Payload;
pub use task::{FinalState, TaskSpec, TaskState};
pub use time::{Timestamp, Uptime};
pub use trace::TraceParent;
