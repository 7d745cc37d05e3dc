//! Removes what nobody needs any more: final tasks after their retention, and blobs that nothing refers to.

mod unneeded;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::{BlobError, BlobStat};
use wasmill_protocol::Digest;

use crate::handle::{Handle, Shared};

/// How often is swept.
const INTERVAL: Duration = Duration::from_secs(600);
/// Younger blobs are left alone: the record that refers to them may be on its way.
const BLOB_AGE_MIN: Duration = Duration::from_secs(3600);

/// Sweeps at once and every ten minutes, and removes all the time what has just become unneeded, until `shutdown`. At once, because a read model that was filled again
/// shows what had been removed before.
pub async fn run(handle: Handle, retention: Duration, shutdown: CancellationToken) {
    let sweeping = async {
        loop {
            once(&handle, retention, SystemTime::now()).await;
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = sweeping => {}
        () = unneeded::run(&handle) => {}
    }
}

/// Sweeps once; blobs as of `now`, and only while this node leads: what it has not read yet may refer to any of them.
pub async fn once(handle: &Handle, retention: Duration, now: SystemTime) {
    let shared = handle.shared();
    match shared.read_model.sweep_retention(shared.clock.now(), retention).await {
        Ok(0) => {}
        Ok(tasks) => tracing::info!(tasks, "removed tasks whose retention is over"),
        Err(error) => tracing::warn!(%error, "cannot remove tasks whose retention is over"),
    }
    if !handle.standing().leading {
        return;
    }
    match sweep_blobs(shared, now).await {
        Ok(0) => {}
        Ok(blobs) => tracing::info!(blobs, "removed blobs that nothing refers to"),
        Err(error) => tracing::warn!(%error, "cannot sweep the blobs"),
    }
}

/// Removes blobs that are old enough and that no task, no module and no snapshot refers to. Answers how many.
async fn sweep_blobs(shared: &Shared, now: SystemTime) -> Result<u64, BlobError> {
    let blobs = Arc::clone(&shared.blobs);
    let (mut removed, mut count, mut bytes) = (0, 0, 0);
    let mut list = blobs.list();
    while let Some(blob) = list.next().await {
        let blob = blob?;
        if is_old(&blob, now) && !is_referenced(shared, &blob).await {
            // A blob that is stored anew at this moment is young again and stays.
            if blobs.delete_older(blob.digest, now - BLOB_AGE_MIN).await? {
                removed += 1;
                continue;
            }
        }
        (count, bytes) = (count + 1, bytes + blob.bytes);
    }
    shared.metrics.blobs(count, bytes);
    Ok(removed)
}

fn is_old(blob: &BlobStat, now: SystemTime) -> bool {
    now.duration_since(blob.modified).is_ok_and(|age| age >= BLOB_AGE_MIN)
}

async fn is_referenced(shared: &Shared, blob: &BlobStat) -> bool {
    // When in doubt the blob stays.
    is_in_directory(shared, blob.digest) || shared.read_model.is_referenced(blob.digest).await.unwrap_or(true)
}

/// Whether a blob is a module, a snapshot or a copy of the read model.
fn is_in_directory(shared: &Shared, digest: Digest) -> bool {
    let directory = shared.directory.read();
    directory.current.contains(&digest) || directory.modules.values().any(|modules| modules.contains_key(&digest))
}
