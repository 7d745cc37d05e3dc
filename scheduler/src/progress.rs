//! How far running tasks say they are: soft facts from heartbeats, kept in memory only.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

use wasmill_protocol::message::{Heartbeat, Progress};
use wasmill_protocol::{HostId, TaskId};

/// The newest progress of running tasks.
#[derive(Default)]
pub struct ProgressBoard {
    by_host: RwLock<HashMap<HostId, HashMap<TaskId, Progress>>>,
}

impl ProgressBoard {
    /// Replaces what is known of one host.
    pub fn heard(&self, heartbeat: &Heartbeat) {
        let tasks = heartbeat.progress.iter().map(|(id, progress)| (id.task, progress.clone())).collect();
        let mut by_host = self.by_host.write().unwrap_or_else(PoisonError::into_inner);
        by_host.insert(heartbeat.host.clone(), tasks);
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
