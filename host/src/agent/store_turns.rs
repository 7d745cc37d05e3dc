//! The turns for storing a blob: attempts in turns by tenant, what is large one after the other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use wasmill_fabric::{Blobs, Reminder};
use wasmill_protocol::TenantName;

use super::results::{Large, Stored, store};
use super::{LARGE_STORE_BYTES, LARGE_STORES_MAX, STORES_MAX, STORES_PER_TENANT_MAX};
use crate::slots::{Permit, SlotLimits, Slots};

/// How long what an attempt ended with waits for space before it is tried again.
const NO_SPACE_PAUSE: Duration = Duration::from_secs(1);

/// See the module. Cheap to clone: clones share their turns.
#[derive(Clone)]
pub(super) struct StoreTurns {
    all: Arc<Slots>,
    large: Arc<Slots>,
    problems: Arc<Mutex<Problems>>,
}

/// Problems of stores that were told already.
#[derive(Default)]
struct Problems {
    checkpoint: Reminder,
    space: Reminder,
}

/// Held while a blob is stored.
pub(super) struct Turn {
    _all: Permit,
    _large: Option<Permit>,
}

impl StoreTurns {
    pub(super) fn new() -> Self {
        Self {
            all: Slots::new(SlotLimits::endless_lines(STORES_MAX, STORES_PER_TENANT_MAX)),
            large: Slots::new(SlotLimits::endless_lines(LARGE_STORES_MAX, 1)),
            problems: Arc::default(),
        }
    }

    /// Stores a large result or checkpoint when its turn comes. A result is stored when there is
    /// space, however long that takes.
    pub(super) async fn store(&self, blobs: &dyn Blobs, tenant: &TenantName, mut large: Large) -> Stored {
        loop {
            let turn = self.turn(tenant.clone(), large.bytes()).await;
            let is_worth_saying = |problem: &str| self.problems().checkpoint.is_due(Instant::now(), problem);
            large = match store(blobs, large, is_worth_saying).await {
                Ok(stored) => return stored,
                Err(large) => large,
            };
            // Others may have less to store.
            drop(turn);
            if self.problems().space.is_due(Instant::now(), "") {
                tracing::warn!("no space is left for results; their attempts end when there is");
            }
            tokio::time::sleep(NO_SPACE_PAUSE).await;
        }
    }

    fn problems(&self) -> MutexGuard<'_, Problems> {
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of `bytes` of a tenant.
    async fn turn(&self, tenant: TenantName, bytes: usize) -> Turn {
        // A store that waits for its turn among the large ones keeps none of the others from
        // theirs.
        let large = match bytes as u64 > LARGE_STORE_BYTES {
            true => Some(self.large.turn(&tenant).await),
            false => None,
        };
        Turn { _all: self.all.turn(&tenant).await, _large: large }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::SystemTime;

    use bytes::Bytes;
    use futures::FutureExt;
    use futures::future::BoxFuture;
    use futures::stream::BoxStream;
    use wasmill_fabric::{BlobError, BlobReader, BlobStat, BlobWriter};
    use wasmill_host_core::Input;
    use wasmill_protocol::{AttemptId, Digest, Outcome, OutcomeKind, Payload, Usage};

    use super::*;
    use crate::channel::Ended;

    /// Has no space until it has been asked three times.
    #[derive(Default)]
    struct Full {
        asked: AtomicUsize,
    }

    impl Blobs for Full {
        fn put(&self, bytes: Bytes) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
            let no_space = Err(BlobError::NoSpace { action: "store a blob".to_owned() });
            let stat =
                BlobStat { digest: Digest([7; 32]), bytes: bytes.len() as u64, modified: SystemTime::UNIX_EPOCH };
            let is_full = self.asked.fetch_add(1, Ordering::Relaxed) < 3;
            std::future::ready(if is_full { no_space } else { Ok(stat) }).boxed()
        }

        fn create(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>, BlobError>> {
            unreachable!("nothing is streamed")
        }

        fn read(&self, _: Digest, _: u64) -> BoxFuture<'_, Result<Bytes, BlobError>> {
            unreachable!("nothing is read")
        }

        fn open(&self, _: Digest) -> BoxFuture<'_, Result<BlobReader, BlobError>> {
            unreachable!("nothing is read")
        }

        fn stat(&self, _: Digest) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
            unreachable!("nothing is looked at")
        }

        fn delete(&self, _: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
            unreachable!("nothing is removed")
        }

        fn list(&self) -> BoxStream<'_, Result<BlobStat, BlobError>> {
            unreachable!("nothing is listed")
        }

        fn local_path(&self, _: Digest) -> Option<PathBuf> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_attempt_ended_with_waits_for_space_and_a_checkpoint_does_not() {
        let large = Bytes::from(vec![0; 100_000]);
        let (id, usage, captured) = (AttemptId::default(), Usage::default(), Bytes::new());
        let (turns, blobs) = (StoreTurns::new(), Full::default());
        let checkpoint = Large::Checkpoint(id, 1, large.clone());
        assert!(matches!(turns.store(&blobs, &tenant("a"), checkpoint).await, Stored::Checkpoint(None)));
        let outcome = Outcome { kind: OutcomeKind::Succeeded, ..Outcome::default() };
        let ended = Ended { id, tenant: tenant("a"), outcome, usage, output: large, captured, repeatable: false };
        let began = tokio::time::Instant::now();
        let stored = turns.store(&blobs, &tenant("a"), Large::Ended(Box::new(ended))).await;
        assert_eq!(began.elapsed(), 2 * NO_SPACE_PAUSE);
        let Stored::Ended(Input::Ended(ended)) = stored else { panic!("it is an end") };
        assert_eq!(ended.outcome.kind, OutcomeKind::Succeeded);
        assert_eq!(ended.output, Payload::Blob { digest: Digest([7; 32]), bytes: 100_000 });
    }

    fn tenant(name: &str) -> TenantName {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn b39_what_is_large_goes_one_after_the_other_and_past_it_what_is_small() {
        let (turns, large) = (StoreTurns::new(), LARGE_STORE_BYTES as usize + 1);
        let first = turns.turn(tenant("a"), large).now_or_never().expect("nobody is before it");
        assert!(turns.turn(tenant("a"), large).now_or_never().is_none());
        let small = turns.turn(tenant("a"), large - 1).now_or_never().expect("it is small");
        let other = turns.turn(tenant("b"), large).now_or_never().expect("it is another tenant's");
        drop(first);
        assert!(turns.turn(tenant("a"), large).now_or_never().is_some());
        drop((small, other));
    }
}
