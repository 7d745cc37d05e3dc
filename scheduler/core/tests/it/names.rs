//! Short names for ids, so that scenarios can be read.

use std::collections::BTreeMap;

use wasmill_protocol::{Attempt, AttemptId, Digest, TaskId};

/// Tasks by name, and the attempts that have started.
#[derive(Debug, Default)]
pub(crate) struct Names {
    tasks: BTreeMap<String, TaskId>,
    names: BTreeMap<TaskId, String>,
    attempts: BTreeMap<(TaskId, Attempt), AttemptId>,
    modules: BTreeMap<Digest, String>,
}

/// The id of the task with a number.
pub(crate) fn task_id(number: usize) -> TaskId {
    format!("01890a5d-ac96-774b-bcce-{number:012x}").parse().unwrap()
}

/// A digest that begins with the text.
pub(crate) fn digest(text: &str) -> Digest {
    let mut bytes = [0; 32];
    for (byte, letter) in bytes.iter_mut().zip(text.bytes()) {
        *byte = letter;
    }
    Digest(bytes)
}

impl Names {
    /// The id of the task with this name; a new one gets the next number.
    pub(crate) fn task(&mut self, name: &str) -> TaskId {
        if let Some(&id) = self.tasks.get(name) {
            return id;
        }
        let id = task_id(self.tasks.len() + 1);
        self.tasks.insert(name.to_owned(), id);
        self.names.insert(id, name.to_owned());
        id
    }

    /// An attempt that has started: `t1#2`, or `t1` for the newest.
    pub(crate) fn attempt(&mut self, text: &str) -> AttemptId {
        let (name, number) = text.split_once('#').map_or((text, None), |(name, number)| (name, Some(number)));
        let task = self.task(name);
        let started = |attempt: u32| self.attempts.get(&(task, Attempt(attempt))).copied();
        match number {
            Some(number) => started(number.parse().unwrap()),
            None => self.attempts.range((task, Attempt(0))..=(task, Attempt(u32::MAX))).next_back().map(|(_, id)| *id),
        }
        .unwrap_or_else(|| panic!("attempt `{text}` has not started"))
    }

    pub(crate) fn started(&mut self, id: AttemptId) {
        self.attempts.insert((id.task, id.attempt), id);
    }

    pub(crate) fn module(&mut self, name: &str) -> Digest {
        let digest = digest(name);
        self.modules.insert(digest, name.to_owned());
        digest
    }

    pub(crate) fn module_name(&self, digest: &Digest) -> &str {
        self.modules.get(digest).map_or("?", String::as_str)
    }

    pub(crate) fn task_name(&self, id: TaskId) -> &str {
        self.names.get(&id).map_or("?", String::as_str)
    }

    /// A text in which tasks are called by their names.
    pub(crate) fn shortened(&self, text: &str) -> String {
        self.names.iter().fold(text.to_owned(), |text, (id, name)| text.replace(&id.to_string(), name))
    }

    pub(crate) fn attempt_name(&self, id: AttemptId) -> String {
        format!("{}#{}", self.task_name(id.task), id.attempt)
    }
}
