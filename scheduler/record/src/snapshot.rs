//! A snapshot: what the log says up to a record, as a stream of parts.
//!
//! These are documents, apart from the types that the scheduler works with, so that those can
//! change without breaking what is stored. Each part is small enough to be held in memory beside
//! the whole: a snapshot of millions of tasks is written and read part by part. MessagePack with
//! named fields and defaults, as records are.

mod columns;
mod current;
mod led_time;
mod part;

pub use columns::{TaskColumns, TaskPhase, TaskRow};
pub use current::{Current, ReadModelCopy, SNAPSHOTS_KEPT, SnapshotRef};
pub use led_time::{Expired, LedTime};
pub use part::{
    BeginPart, ChainPart, DirectoryPart, EdgeRow, Part, PlacementRow, RetryRulesRow, ShapeRow, SkipRow, SlabKind,
    SlabPlaces, SupersededRow, TenantModule, TenantRow,
};

use bytes::Bytes;
use thiserror::Error;

/// The version of snapshots that this code writes. A reader refuses a newer one.
pub const SNAPSHOT_VERSION: u32 = 1;

/// A part that cannot be used: nothing of its snapshot is.
#[derive(Debug, Error)]
pub enum PartError {
    /// Not a part, or one that this version does not know.
    #[error("cannot decode a part of a snapshot")]
    Decode(#[from] rmp_serde::decode::Error),
    /// Written by a newer version.
    #[error("the snapshot has version {version}, this program reads up to {SNAPSHOT_VERSION}: upgrade it")]
    Version {
        /// The version that was found.
        version: u32,
    },
}

impl Part {
    /// The bytes that are stored, without their length.
    ///
    /// # Panics
    ///
    /// Never for the types of this crate: MessagePack can express all of them.
    pub fn encode(&self) -> Bytes {
        match rmp_serde::to_vec_named(self) {
            Ok(bytes) => bytes.into(),
            Err(error) => unreachable!("a part of a snapshot is always encodable: {error}"),
        }
    }

    /// Reads what [`Part::encode`] wrote.
    ///
    /// # Errors
    ///
    /// When the bytes are no part, or a part that a newer version wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, PartError> {
        let part: Self = rmp_serde::from_slice(bytes)?;
        match part {
            Self::Begin(BeginPart { version, .. }) if version > SNAPSHOT_VERSION => Err(PartError::Version { version }),
            part => Ok(part),
        }
    }
}
