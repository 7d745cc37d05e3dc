//! Removes what nobody needs any more: final tasks after their retention, and blobs that nothing
//! refers to.
//!
//! No wall clock has a part in it: retention is counted by the time for which somebody has led, and
//! a blob's age by the uptime of this process.

mod unneeded;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::{BlobError, BlobStat, uptime};
use wasmill_protocol::Digest;
use wasmill_scheduler_node::sweep::{self, Step};

use crate::handle::{Handle, Shared};

/// How long what has just become unneeded is waited for at most.
const UNNEEDED_WAIT: Duration = Duration::from_secs(600);

/// Sweeps when it is due, and removes all the time what has just become unneeded, until `shutdown`.
pub async fn run(handle: Handle, retention: Duration, shutdown: CancellationToken) {
    let sweeping = async {
        let mut sweep = Sweep::new(retention);
        loop {
            let now_us = uptime::now_us();
            sweep.once(&handle, Duration::from_micros(now_us)).await;
            tokio::time::sleep(Duration::from_micros(sweep.decided.next_timeout_us().saturating_sub(now_us))).await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = sweeping => {}
        () = unneeded::run(&handle) => {}
    }
}

/// Carries out what [`sweep::Sweep`] says.
#[derive(Debug)]
pub struct Sweep {
    decided: sweep::Sweep<SystemTime>,
}

impl Sweep {
    /// Nothing was swept yet.
    pub fn new(retention: Duration) -> Self {
        let retention_us = u64::try_from(retention.as_micros()).unwrap_or(u64::MAX);
        Self { decided: sweep::Sweep::new(sweep::Config::for_retention(retention_us)) }
    }

    /// Sweeps once, at an uptime.
    pub async fn once(&mut self, handle: &Handle, uptime: Duration) {
        let (shared, uptime_us) = (handle.shared(), u64::try_from(uptime.as_micros()).unwrap_or(u64::MAX));
        shared.clock.led_time(|led, passed_us| self.decided.begin(uptime_us, led, passed_us));
        let mut removed = 0;
        while let Some(step) = self.decided.next(handle.standing().leading) {
            match step {
                Step::Tasks(expired) => match shared.read_model.sweep(expired).await {
                    Ok(tasks) => removed += tasks,
                    Err(error) => tracing::warn!(%error, "cannot remove tasks whose retention is over"),
                },
                Step::Blobs => match self.blobs(shared, uptime_us).await {
                    Ok(0) => {}
                    Ok(blobs) => tracing::info!(blobs, "removed blobs that nothing refers to"),
                    Err(error) => tracing::warn!(%error, "cannot sweep the blobs"),
                },
            }
        }
        if removed > 0 {
            tracing::info!(tasks = removed, "removed tasks whose retention is over");
        }
    }

    /// Removes blobs that no task, no module and no snapshot has referred to for long enough.
    /// Answers how many.
    async fn blobs(&mut self, shared: &Shared, uptime_us: u64) -> Result<u64, BlobError> {
        let blobs = Arc::clone(&shared.blobs);
        let (mut removed, mut count, mut bytes) = (0, 0, 0);
        let mut list = blobs.list();
        while let Some(blob) = list.next().await {
            let blob = blob?;
            let is_referenced = is_referenced(shared, &blob).await;
            if self.decided.blob(uptime_us, blob.digest, blob.modified, is_referenced) {
                // A blob that is stored anew at this moment stays.
                let later = blob.modified + Duration::from_nanos(1);
                if blobs.delete_older(blob.digest, later).await? {
                    removed += 1;
                    continue;
                }
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
