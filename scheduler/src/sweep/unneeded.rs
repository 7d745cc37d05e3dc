//! Removes blobs that have just become unneeded, by no wall clock: checkpoints and logs that were replaced, results whose retention is over, modules that no tenant has any more,
//! payloads of what was refused.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use wasmill_fabric::{BlobError, UNNEEDED_AGAIN_AGE_MIN, UNNEEDED_ONCE_AGE_MIN};
use wasmill_protocol::Digest;

use super::is_in_directory;
use crate::handle::{Handle, Shared};

/// Between two rounds: what comes in between is removed together.
const PAUSE: Duration = Duration::from_millis(500);
/// A blob that became unneeded is tried after these times, counted from the first look at it or the last try, and then left to the sweep.
const TRIES_AFTER: [Duration; 3] =
    [UNNEEDED_ONCE_AGE_MIN, Duration::from_secs(6), UNNEEDED_AGAIN_AGE_MIN.saturating_add(Duration::from_secs(2))];
/// Blobs that are to be tried at most.
const LATER_MAX: usize = 64 * 1024;

/// A blob that is to be tried.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// When it was last written, by the clock of whoever keeps it.
    modified: SystemTime,
    /// When it was first seen like that.
    at: Instant,
    /// How often it was tried.
    tried: usize,
}

/// Blobs by when they are tried.
type Later = BTreeMap<(Instant, Digest), Seen>;

/// Removes them as they come, while this node leads: what a node that follows has not read yet may refer to any of them.
pub(super) async fn run(handle: &Handle) {
    let shared = handle.shared();
    let mut later = Later::new();
    loop {
        let due = later.first_key_value().map_or_else(|| Instant::now() + super::UNNEEDED_WAIT, |((due, _), _)| *due);
        let mut tries: BTreeMap<Digest, Option<Seen>> = tokio::select! {
            blobs = shared.read_model.unneeded() => blobs.into_iter().map(|blob| (blob, None)).collect(),
            () = tokio::time::sleep_until(due) => BTreeMap::new(),
        };
        while let Some(first) = later.first_entry().filter(|first| first.key().0 <= Instant::now()) {
            let ((_, blob), seen) = first.remove_entry();
            tries.insert(blob, Some(seen));
        }
        if handle.standing().leading
            && let Err(error) = remove(shared, tries, &mut later).await
        {
            tracing::warn!(%error, "cannot remove blobs that are not needed any more; the sweep will");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn remove(shared: &Shared, tries: BTreeMap<Digest, Option<Seen>>, later: &mut Later) -> Result<(), BlobError> {
    let blobs = tries.keys().copied().filter(|blob| !is_in_directory(shared, *blob)).collect();
    let unreferenced = match shared.read_model.unreferenced(blobs).await {
        Ok(unreferenced) => unreferenced,
        Err(error) => {
            tracing::warn!(%error, "cannot tell which blobs are not needed any more; the sweep will");
            return Ok(());
        }
    };
    for blob in unreferenced {
        let before = tries.get(&blob).copied().flatten();
        if let Some(seen) = before
            && shared.blobs.delete_unneeded(blob, seen.modified, seen.at.elapsed()).await?
        {
            continue;
        }
        let modified = match shared.blobs.stat(blob).await {
            Ok(stat) => stat.modified,
            Err(BlobError::Unknown(_)) => continue,
            Err(error) => return Err(error),
        };
        let (now, tried) = (Instant::now(), before.map_or(0, |seen| seen.tried + 1));
        // One that was stored anew since is young again.
        let at = before.filter(|seen| seen.modified == modified).map_or(now, |seen| seen.at);
        if let Some(after) = TRIES_AFTER.get(tried)
            && later.len() < LATER_MAX
        {
            later.insert((now + *after, blob), Seen { modified, at, tried });
        }
    }
    Ok(())
}
