//! Removes blobs that have just become unneeded: checkpoints and logs that were replaced, results whose retention is over, payloads of what was refused.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use wasmill_fabric::{BlobError, UNNEEDED_AGAIN_AGE_MIN};
use wasmill_protocol::Digest;

use super::is_in_directory;
use crate::handle::{Handle, Shared};

/// Between two rounds: what comes in between is removed together.
const PAUSE: Duration = Duration::from_millis(500);
/// A blob that was too young is tried again after these times, and then left to the sweep.
const TRIES_AFTER: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(6), UNNEEDED_AGAIN_AGE_MIN.saturating_add(Duration::from_secs(2))];
/// Blobs that are to be tried again at most.
const LATER_MAX: usize = 64 * 1024;

/// Blobs that were too young to be removed, by when they are tried again, with how often they were.
type Later = BTreeMap<(Instant, Digest), usize>;

/// Removes them as they come, while this node leads: what a node that follows has not read yet may refer to any of them.
pub(super) async fn run(handle: &Handle) {
    let shared = handle.shared();
    let mut later = Later::new();
    loop {
        let due = later.first_key_value().map_or_else(|| Instant::now() + super::INTERVAL, |((due, _), _)| *due);
        let mut tries: BTreeMap<Digest, usize> = tokio::select! {
            blobs = shared.read_model.unneeded() => blobs.into_iter().map(|blob| (blob, 0)).collect(),
            () = tokio::time::sleep_until(due) => BTreeMap::new(),
        };
        while let Some(first) = later.first_entry().filter(|first| first.key().0 <= Instant::now()) {
            let ((_, blob), tried) = first.remove_entry();
            tries.entry(blob).or_insert(tried);
        }
        if handle.standing().leading
            && let Err(error) = remove(shared, tries, &mut later).await
        {
            tracing::warn!(%error, "cannot remove blobs that are not needed any more; the sweep will");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn remove(shared: &Shared, tries: BTreeMap<Digest, usize>, later: &mut Later) -> Result<(), BlobError> {
    let blobs = tries.keys().copied().filter(|blob| !is_in_directory(shared, *blob)).collect();
    let unreferenced = match shared.read_model.unreferenced(blobs).await {
        Ok(unreferenced) => unreferenced,
        Err(error) => {
            tracing::warn!(%error, "cannot tell which blobs are not needed any more; the sweep will");
            return Ok(());
        }
    };
    for blob in unreferenced {
        if shared.blobs.delete_unneeded(blob, SystemTime::now()).await? {
            continue;
        }
        match shared.blobs.stat(blob).await {
            Ok(_) => {}
            Err(BlobError::Unknown(_)) => continue,
            Err(error) => return Err(error),
        }
        let tried = tries.get(&blob).copied().unwrap_or(0);
        if let Some(after) = TRIES_AFTER.get(tried)
            && later.len() < LATER_MAX
        {
            later.insert((Instant::now() + *after, blob), tried + 1);
        }
    }
    Ok(())
}
