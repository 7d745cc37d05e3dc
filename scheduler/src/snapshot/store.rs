//! Writing a snapshot.

use std::sync::Arc;

use thiserror::Error;
use tokio::sync::mpsc;
use wasmill_fabric::{BlobError, Blobs};
use wasmill_record::snapshot::{self, Part, SnapshotRef};
use wasmill_scheduler_core::state::Frozen;

use super::{Chain, PARTS_WAITING_MAX, frames};
use crate::directory::Contents;

/// A snapshot that was not stored.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    /// The blob cannot be written.
    #[error("cannot store the snapshot")]
    Blob(#[from] BlobError),
    /// The thread that writes its parts has ended early.
    #[error("cannot store the snapshot: its parts were not made to the end")]
    Cut,
}

/// Stores what was taken hold of. The parts are made on a thread of their own; dropping the future
/// ends it and leaves nothing.
pub(crate) async fn store(
    blobs: &dyn Blobs,
    frozen: Frozen,
    directory: Arc<Contents>,
    chain: Chain,
) -> Result<SnapshotRef, StoreError> {
    assert_eq!(frozen.seq(), chain.last, "state and chain are those of one record");
    let (sender, mut frames) = mpsc::channel(PARTS_WAITING_MAX);
    let making = tokio::task::spawn_blocking(move || {
        let mut parts = 0;
        for part in parts_of(frozen, &directory, chain) {
            parts += 1;
            if sender.blocking_send(frames::encode(&part)).is_err() {
                return;
            }
        }
        let _ = sender.blocking_send(frames::encode(&Part::End { parts }));
    });
    let mut writer = blobs.create().await?;
    while let Some(frame) = frames.recv().await {
        writer.write(frame).await?;
    }
    making.await.map_err(|_| StoreError::Cut)?;
    let stat = writer.finish(Box::new(|_| true)).await?;
    Ok(SnapshotRef { seq: chain.last, digest: stat.digest, bytes: stat.bytes, log_bytes: chain.log_bytes })
}

/// The first part tells which snapshot it is.
fn parts_of(frozen: Frozen, directory: &Contents, chain: Chain) -> impl Iterator<Item = Part> + '_ {
    let Chain { hash, log_bytes, .. } = chain;
    let mut state = frozen.into_parts();
    let begin = state.next();
    begin
        .into_iter()
        .chain([Part::Chain(snapshot::ChainPart { hash, log_bytes })])
        .chain(directory.parts().map(Part::Directory))
        .chain(state)
}
