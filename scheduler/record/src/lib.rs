//! The data that control nodes store: the events of the log, its records, and snapshots of what
//! they say.
//!
//! Nothing here does I/O. Everything that is stored has a default for every field: a reader one
//! minor version older or newer must still understand it (`tests/it/versions.rs` lists the pairs).

pub mod event;
mod record;
pub mod snapshot;

pub use record::{Decided, RECORD_VERSION, Record, RecordError};
