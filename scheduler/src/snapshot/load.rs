//! Reading a snapshot.

use std::io;

use thiserror::Error;
use tokio::sync::mpsc;
use wasmill_fabric::{BlobError, Blobs};
use wasmill_protocol::LogSeq;
use wasmill_record::snapshot::{Part, PartError, SnapshotRef};
use wasmill_scheduler_core::state::{RestoreError, Restoring};

use super::{Chain, PARTS_WAITING_MAX, Snapshot, frames};
use crate::directory::Contents;

/// A snapshot that cannot be used.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The blob is not there, or not readable.
    #[error("cannot open it")]
    Open(#[from] BlobError),
    /// The blob is damaged.
    #[error("cannot read it")]
    Read(#[from] io::Error),
    /// A part is damaged, or of a newer version.
    #[error("cannot understand it")]
    Part(#[from] PartError),
    /// The parts do not make a state.
    #[error("cannot go on from it")]
    Restore(#[from] RestoreError),
    /// It does not end with the part that says how many there are.
    #[error("it has no end")]
    Cut,
    /// It is not the snapshot that the log names.
    #[error("it was taken at record {found}")]
    OtherSeq {
        /// Where it was taken.
        found: LogSeq,
    },
}

/// Reads the snapshot that a record names, and verifies it.
pub(crate) async fn load(blobs: &dyn Blobs, snapshot: &SnapshotRef) -> Result<Snapshot, LoadError> {
    let mut from = blobs.open(snapshot.digest).await?;
    let (sender, mut parts) = mpsc::channel::<Vec<u8>>(PARTS_WAITING_MAX);
    let reading = tokio::task::spawn_blocking(move || {
        let mut reading = Reading::default();
        while let Some(part) = parts.blocking_recv() {
            reading.take(Part::decode(&part)?)?;
        }
        reading.finish()
    });
    // The last bytes come only when the digest of all of them is right.
    let sent = send(&mut from, sender).await;
    let read = reading.await.map_err(|_| LoadError::Cut)?;
    // When the blob is damaged, what its parts say does not matter.
    sent?;
    let read = read?;
    match read.chain.last {
        found if found != snapshot.seq => Err(LoadError::OtherSeq { found }),
        _ => Ok(read),
    }
}

async fn send(from: &mut (impl tokio::io::AsyncRead + Unpin), parts: mpsc::Sender<Vec<u8>>) -> io::Result<()> {
    while let Some(part) = frames::read(from).await? {
        if parts.send(part).await.is_err() {
            // The reader says why it wants no more.
            break;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Reading {
    state: Restoring,
    chain: Option<Chain>,
    directory: Contents,
    parts: u64,
    ended: bool,
}

impl Reading {
    fn take(&mut self, part: Part) -> Result<(), LoadError> {
        if self.ended {
            return Err(LoadError::Cut);
        }
        match part {
            Part::Chain(chain) => {
                let last = self.state.seq().ok_or(RestoreError::Misplaced)?;
                self.chain = Some(Chain { last, hash: chain.hash, log_bytes: chain.log_bytes });
            }
            Part::Directory(part) => self.directory.add(part),
            Part::End { parts } if parts != self.parts => return Err(LoadError::Cut),
            Part::End { .. } => self.ended = true,
            part => self.state.take(part)?,
        }
        self.parts += 1;
        Ok(())
    }

    fn finish(self) -> Result<Snapshot, LoadError> {
        let (Some(chain), true) = (self.chain, self.ended) else { return Err(LoadError::Cut) };
        let state = self.state.finish()?;
        let mut directory = self.directory;
        directory.current = state.current().clone();
        Ok(Snapshot { chain, state, directory })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wasmill_fabric::embedded;
    use wasmill_protocol::Digest;
    use wasmill_protocol::{TaskId, TaskSpec, TenantName, Timestamp};
    use wasmill_record::event::{Event, EventBody};
    use wasmill_scheduler_core::State;

    use super::*;
    use crate::snapshot::store;

    fn state() -> (State, Contents) {
        let (mut state, mut contents) = (State::default(), Contents::of_empty_log());
        let module = Arc::default();
        let mut bodies = vec![EventBody::ModuleAdded { tenant: TenantName::default(), module }];
        for number in 0..10_000_u128 {
            let task = TaskId(uuid::Uuid::from_u128(number));
            bodies.push(EventBody::TaskSubmitted {
                task,
                spec: Arc::new(TaskSpec::default()),
                fingerprint: None,
                edges: Vec::new(),
            });
        }
        let events: Vec<_> = bodies.into_iter().map(|body| Event { at: Timestamp(5), body }).collect();
        state.apply_record(LogSeq(1), &events);
        events.iter().for_each(|event| contents.apply(event));
        (state, contents)
    }

    #[tokio::test]
    async fn what_was_stored_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = embedded::open(dir.path()).unwrap().blobs;
        let (mut state, contents) = state();
        let chain = Chain { last: LogSeq(1), hash: Digest([3; 32]), log_bytes: 77 };
        let stored = store(&*blobs, state.freeze(), Arc::new(contents.clone()), chain).await.unwrap();
        let loaded = load(&*blobs, &stored).await.unwrap();
        state.read_model_at(LogSeq(1));
        assert_eq!((loaded.chain, loaded.directory), (chain, contents));
        assert!(loaded.state == state, "the state is the same");

        let other = SnapshotRef { seq: LogSeq(2), ..stored };
        assert!(matches!(load(&*blobs, &other).await, Err(LoadError::OtherSeq { found: LogSeq(1) })));
        let missing = SnapshotRef { digest: Digest([9; 32]), ..stored };
        assert!(matches!(load(&*blobs, &missing).await, Err(LoadError::Open(BlobError::Unknown(_)))));
    }

    #[tokio::test]
    async fn f23_a_snapshot_that_was_changed_or_cut_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = embedded::open(dir.path()).unwrap().blobs;
        let (state, contents) = state();
        let chain = Chain { last: LogSeq(1), ..Chain::default() };
        let stored = store(&*blobs, state.freeze(), Arc::new(contents), chain).await.unwrap();
        let path = blobs.local_path(stored.digest).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in [0, 5, whole.len() / 2, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            assert!(matches!(load(&*blobs, &stored).await, Err(LoadError::Read(_))), "changed at {at}");
            // The same under a digest that is right: what is written there is still noticed.
            let renamed = blobs.put(whole[..at].to_vec().into()).await.unwrap();
            let renamed = SnapshotRef { digest: renamed.digest, ..stored };
            assert!(load(&*blobs, &renamed).await.is_err(), "cut at {at}");
        }
    }
}
