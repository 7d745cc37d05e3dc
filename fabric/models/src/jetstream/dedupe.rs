//! The ids of messages that came lately.

use std::collections::{BTreeMap, VecDeque};

use wasmill_protocol::Timestamp;

/// Remembers ids for a window of time, in memory alone.
#[derive(Debug, Clone)]
pub(super) struct Dedupe {
    window_ms: u64,
    by_id: BTreeMap<String, Entry>,
    /// In the order in which they came, to be forgotten in that order.
    by_age: VecDeque<(Timestamp, String)>,
}

/// Where a message with a known id is.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// `None` while it is proposed and not stored.
    seq: Option<u64>,
    at: Timestamp,
}

/// The knowledge of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing.
    Never,
    /// Proposed and not stored yet.
    InProcess,
    /// Stored under this number.
    At(u64),
}

impl Dedupe {
    pub(super) fn new(window_ms: u64) -> Self {
        Self { window_ms, by_id: BTreeMap::new(), by_age: VecDeque::new() }
    }

    pub(super) fn find(&mut self, now: Timestamp, id: &str) -> Seen {
        self.forget(now);
        match self.by_id.get(id) {
            None => Seen::Never,
            Some(Entry { seq: None, .. }) => Seen::InProcess,
            Some(Entry { seq: Some(seq), .. }) => Seen::At(*seq),
        }
    }

    /// A message with this id was proposed.
    pub(super) fn propose(&mut self, now: Timestamp, id: &str) {
        self.insert(now, id, None);
    }

    /// A proposed message was not stored after all.
    pub(super) fn drop_proposal(&mut self, id: &str) {
        if self.by_id.get(id).is_some_and(|entry| entry.seq.is_none()) {
            self.by_id.remove(id);
        }
    }

    /// A message with this id is stored.
    pub(super) fn store(&mut self, at: Timestamp, id: &str, seq: u64) {
        match self.by_id.get_mut(id) {
            Some(entry) => *entry = Entry { seq: Some(seq), at },
            None => self.insert(at, id, Some(seq)),
        }
    }

    fn insert(&mut self, at: Timestamp, id: &str, seq: Option<u64>) {
        self.by_id.insert(id.to_owned(), Entry { seq, at });
        self.by_age.push_back((at, id.to_owned()));
    }

    fn forget(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.by_age.front()
            && now >= at.plus_ms(self.window_ms)
        {
            let Some((at, id)) = self.by_age.pop_front() else { return };
            // Not the entry of a later message with the same id.
            if self.by_id.get(&id).is_some_and(|entry| entry.at <= at) {
                self.by_id.remove(&id);
            }
        }
    }
}
