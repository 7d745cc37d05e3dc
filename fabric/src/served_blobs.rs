//! Blobs for hosts, served by control nodes over the bus.
//!
//! A host holds credentials for its own subjects and for nothing else, so it cannot look into the store, list it, or remove anything from it. It asks whichever
//! control node hears it; only an upload in pieces stays with the node that began it. A digest names what it stands for, so
//! neither side has to trust the other: both check it.

mod client;
mod server;
mod uploads;

use bytes::Bytes;
use serde::Serialize;

pub use client::ServedBlobs;
pub use server::{ServeBlobsConfig, serve_blobs};

/// What a message needs besides the bytes of a piece.
const OVERHEAD_BYTES: usize = 1024;
/// The longest piece, however long a message may be: what one request keeps in memory.
const PIECE_BYTES_MAX: usize = 1024 * 1024;

/// How long a piece may be on a bus that carries messages of `payload_bytes_max`.
fn piece_bytes(payload_bytes_max: usize) -> usize {
    payload_bytes_max.saturating_sub(OVERHEAD_BYTES).clamp(1, PIECE_BYTES_MAX)
}

fn encode<T: Serialize>(message: &T) -> Bytes {
    match rmp_serde::to_vec_named(message) {
        Ok(bytes) => bytes.into(),
        Err(error) => unreachable!("messages are always encodable: {error}"),
    }
}
