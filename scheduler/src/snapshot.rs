//! Snapshots as blobs: how they are written, found and read.
//!
//! A snapshot is what the core and the directory hold after a record, and the hash that the next
//! record must name. It is a stream of parts ([`wasmill_record::snapshot`]), each behind its
//! length, so that neither side holds all of it in memory. The log names it once it is stored; a
//! blob that no record names is nothing.

mod frames;
mod load;
mod search;
mod store;

use wasmill_scheduler_core::State;
use wasmill_scheduler_node::Chain;

use crate::directory::Contents;

pub use load::LoadError;
pub(crate) use load::load;
pub(crate) use search::{Search, newest_copy};
pub(crate) use store::store;

/// Parts on the way between the thread that makes or reads them and the blob.
const PARTS_WAITING_MAX: usize = 4;

/// What the log says up to a place.
pub(crate) struct Snapshot {
    pub(crate) chain: Chain,
    pub(crate) state: State,
    pub(crate) directory: Contents,
}

impl Snapshot {
    /// What a log says that has no record.
    pub(crate) fn of_empty_log() -> Self {
        Self { chain: Chain::default(), state: State::default(), directory: Contents::of_empty_log() }
    }
}
