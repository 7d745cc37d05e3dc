//! Removes what nobody needs any more: final tasks after their retention, and blobs that nothing refers to.
//!
//! No wall clock has a part in it: retention is counted by the time for which somebody has led, and a blob's age by the uptime of this process.

mod unneeded;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::{BlobError, BlobStat, uptime};
use wasmill_protocol::Digest;

use crate::handle::{Handle, Shared};

/// How often is swept.
const INTERVAL: Duration = Duration::from_secs(600);
/// A blob that nothing refers to is removed when it has been seen like that for this long: the record that refers to it may be on its way.
const BLOB_AGE_MIN: Duration = Duration::from_secs(3600);
/// Blobs that are remembered; of more some wait until others are gone.
const BLOBS_MAX: usize = 1 << 20;

/// Sweeps at once and every ten minutes, and removes all the time what has just become unneeded, until `shutdown`. At once, because a read model that was filled again
/// shows what had been removed before.
pub async fn run(handle: Handle, retention: Duration, shutdown: CancellationToken) {
    let sweeping = async {
        let mut sweep = Sweep::default();
        loop {
            sweep.once(&handle, retention, Duration::from_micros(uptime::now_us())).await;
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = sweeping => {}
        () = unneeded::run(&handle) => {}
    }
}

/// What was seen so far.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Blobs that nothing referred to: when each was last written, and the uptime when that was first seen.
    unused: HashMap<Digest, (SystemTime, Duration)>,
}

impl Sweep {
    /// Sweeps once, at an uptime; blobs only while this node leads: what it has not read yet may refer to any of them.
    pub async fn once(&mut self, handle: &Handle, retention: Duration, uptime: Duration) {
        let shared = handle.shared();
        let mut removed = 0;
        for expired in shared.clock.expired(retention) {
            match shared.read_model.sweep(expired).await {
                Ok(tasks) => removed += tasks,
                Err(error) => tracing::warn!(%error, "cannot remove tasks whose retention is over"),
            }
        }
        if removed > 0 {
            tracing::info!(tasks = removed, "removed tasks whose retention is over");
        }
        if !handle.standing().leading {
            self.unused.clear();
            return;
        }
        match self.blobs(shared, uptime).await {
            Ok(0) => {}
            Ok(blobs) => tracing::info!(blobs, "removed blobs that nothing refers to"),
            Err(error) => tracing::warn!(%error, "cannot sweep the blobs"),
        }
    }

    /// Removes blobs that no task, no module and no snapshot has referred to for long enough. Answers how many.
    async fn blobs(&mut self, shared: &Shared, uptime: Duration) -> Result<u64, BlobError> {
        let blobs = Arc::clone(&shared.blobs);
        let mut before = std::mem::take(&mut self.unused);
        let (mut removed, mut count, mut bytes) = (0, 0, 0);
        let mut list = blobs.list();
        while let Some(blob) = list.next().await {
            let blob = blob?;
            if is_referenced(shared, &blob).await {
                (count, bytes) = (count + 1, bytes + blob.bytes);
                continue;
            }
            // One that was stored anew since is young again.
            let seen = before.remove(&blob.digest).filter(|(modified, _)| *modified == blob.modified);
            let since = seen.map_or(uptime, |(_, since)| since);
            if uptime.saturating_sub(since) >= BLOB_AGE_MIN {
                // A blob that is stored anew at this moment stays.
                let later = blob.modified + Duration::from_nanos(1);
                if blobs.delete_older(blob.digest, later).await? {
                    removed += 1;
                    continue;
                }
            } else if self.unused.len() < BLOBS_MAX {
                self.unused.insert(blob.digest, (blob.modified, since));
            }
            (count, bytes) = (count + 1, bytes + blob.bytes);
        }
        shared.metrics.blobs(count, bytes);
        Ok(removed)
    }
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
