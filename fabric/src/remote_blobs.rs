//! Blobs over the bus: for hosts, which have no right to touch what the blobs are kept in.
//!
//! A host asks any control node that is there. It can store blobs and read those whose digest it
//! knows; it can neither list nor remove any. The pieces of a large blob go to one node,
//! which keeps it in a file until it is whole. Both ends verify by the digest.
//!
//! The last part of every subject is the host's id, so that a server can forbid it to speak for
//! another host.

mod client;
mod messages;
mod read;
mod serve;
mod uploads;
mod write;

use std::time::Duration;

use crate::Bus;

pub use client::RemoteBlobs;
pub use serve::serve_blobs;

/// Room in a message beside the bytes that it carries.
const FRAME_BYTES: usize = 1_024;
/// Bytes that one message carries, unless the bus takes less.
const PIECE_BYTES: usize = 512 * 1024;
/// How long a control node may take for an answer. The first piece of a large blob comes when the
/// node itself has all of it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes that one message carries.
fn piece_bytes(bus: &dyn Bus) -> usize {
    PIECE_BYTES.min(bus.payload_bytes_max().saturating_sub(FRAME_BYTES)).max(1)
}
