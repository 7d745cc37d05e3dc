//! The clients that wait for the end of a task.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use wasmill_protocol::TaskId;
use wasmill_record::Record;
use wasmill_record::event::{EventBody, Sequel};

/// Waiters by task. Sharded, because every `run` request registers here.
pub struct Finals {
    hasher: RandomState,
    shards: [Mutex<HashMap<TaskId, Vec<oneshot::Sender<FinalNotice>>>>; SHARDS],
}

const SHARDS: usize = 16;

/// The event that made a task final, durable by now.
#[derive(Debug, Clone)]
pub struct FinalNotice {
    record: Arc<Record>,
    index: usize,
}

impl FinalNotice {
    /// The event: [`EventBody::AttemptEnded`] with [`Sequel::Final`], or
    /// [`EventBody::TaskEnded`].
    pub fn event(&self) -> &EventBody {
        &self.record.events[self.index].body
    }
}

/// A registered wait. Dropping it ends the registration at the task's end at the latest.
#[derive(Debug)]
pub struct FinalWait {
    receiver: oneshot::Receiver<FinalNotice>,
}

impl FinalWait {
    /// Waits for the end; `None` when this node stops, or cannot tell.
    pub async fn ended(self) -> Option<FinalNotice> {
        self.receiver.await.ok()
    }
}

impl Finals {
    /// Nobody waits.
    pub fn new() -> Self {
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::default()) }
    }

    /// Registers a wait. The caller looks at the task's state *after* this, or it might wait for an
    /// end that has passed.
    pub fn wait(&self, task: TaskId) -> FinalWait {
        let (sender, receiver) = oneshot::channel();
        let mut shard = self.shard(task);
        let waiters = shard.entry(task).or_default();
        waiters.retain(|waiter| !waiter.is_closed());
        waiters.push(sender);
        FinalWait { receiver }
    }

    /// Forgets waits that were given up, of this task: called by whoever gave up.
    pub fn forget(&self, task: TaskId) {
        let mut shard = self.shard(task);
        if let Some(waiters) = shard.get_mut(&task) {
            waiters.retain(|waiter| !waiter.is_closed());
            if waiters.is_empty() {
                shard.remove(&task);
            }
        }
    }

    /// Ends every wait without an end: this node has not seen all that happened and begins anew.
    pub fn interrupt(&self) {
        for shard in &self.shards {
            shard.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }

    /// Wakes everybody who waits for a task that ends in this record.
    pub fn announce(&self, record: &Arc<Record>) {
        for (index, event) in record.events.iter().enumerate() {
            let (EventBody::AttemptEnded { next: Sequel::Final { .. }, .. } | EventBody::TaskEnded { .. }) = event.body
            else {
                continue;
            };
            let Some(task) = event.body.task() else { continue };
            let Some(waiters) = self.shard(task).remove(&task) else { continue };
            for waiter in waiters {
                let _ = waiter.send(FinalNotice { record: Arc::clone(record), index });
            }
        }
    }

    fn shard(&self, task: TaskId) -> MutexGuard<'_, HashMap<TaskId, Vec<oneshot::Sender<FinalNotice>>>> {
        let index = usize::try_from(self.hasher.hash_one(task) % SHARDS as u64).unwrap_or(0);
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Finals {
    fn default() -> Self {
        Self::new()
    }
}
