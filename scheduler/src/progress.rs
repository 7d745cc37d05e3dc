//! How far running tasks say they are: soft facts from heartbeats, kept in memory only.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use wasmill_protocol::message::{Heartbeat, Progress};
use wasmill_protocol::{HostId, TaskId};

/// Tasks of one host that are kept from earlier heartbeats; no host has more.
const TASKS_PER_HOST_MAX: usize = 65_536;

/// The newest progress of running tasks.
#[derive(Default)]
pub struct ProgressBoard {
    by_host: RwLock<HashMap<HostId, HashMap<TaskId, Progress>>>,
}

impl ProgressBoard {
    /// Takes in what a host says. What it said before of attempts that it still has stays known:
    /// not everything fits into every heartbeat.
    pub fn heard(&self, heartbeat: &Heartbeat) {
        let said = heartbeat.progress.iter().map(|(id, progress)| (id.task, progress.clone()));
        let mut said: HashMap<_, _> = said.collect();
        let mut by_host = self.by_host.write().unwrap_or_else(PoisonError::into_inner);
        let known = by_host.entry(heartbeat.host.clone()).or_default();
        if known.keys().any(|task| !said.contains_key(task)) {
            let held: HashSet<_> = heartbeat.attempts.iter().map(|id| id.task).collect();
            let before = known.drain().filter(|(task, _)| heartbeat.partial || held.contains(task));
            let before: Vec<_> = before.take(TASKS_PER_HOST_MAX).collect();
            for (task, progress) in before {
                said.entry(task).or_insert(progress);
            }
        }
        *known = said;
    }

    /// A host is gone, and what its tasks said with it.
    pub fn left(&self, host: &HostId) {
        self.by_host.write().unwrap_or_else(PoisonError::into_inner).remove(host);
    }

    /// What a task that runs on `host` said last.
    pub fn of(&self, host: &HostId, task: TaskId) -> Option<Progress> {
        self.by_host.read().unwrap_or_else(PoisonError::into_inner).get(host)?.get(&task).cloned()
    }
}
