//! Keys, revisions, and the history of changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use super::EtcdError;
use super::lease::{LeaseId, Leases};

/// A key with what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// The revision at which it came to be.
    pub create_revision: u64,
    /// The revision at which it was put last.
    pub mod_revision: u64,
    /// How often it was put since it came to be.
    pub version: u64,
    /// The lease that it ends with.
    pub lease: Option<LeaseId>,
}

/// Some keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Range {
    /// One.
    Key(String),
    /// All that begin so.
    Prefix(String),
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// Of which key.
    pub key: String,
    /// How what is there must relate to `target`.
    pub op: CompareOp,
    /// The property that is compared, and the value it is compared with.
    pub target: CompareTarget,
}

/// How two values relate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareOp {
    /// The same.
    Equal,
    /// Not the same.
    NotEqual,
    /// The present value is greater.
    Greater,
    /// The present value is less.
    Less,
}

/// The property that is compared. A key that is not there has revisions and a version of 0, and no
/// value that compares to anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompareTarget {
    /// [`KeyValue::create_revision`].
    CreateRevision(u64),
    /// [`KeyValue::mod_revision`].
    ModRevision(u64),
    /// [`KeyValue::version`].
    Version(u64),
    /// [`KeyValue::value`].
    Value(Bytes),
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Puts a key; it leaves the lease that it had.
    Put {
        /// Which.
        key: String,
        /// What.
        value: Bytes,
        /// The lease that it ends with from now on.
        lease: Option<LeaseId>,
    },
    /// Reads keys.
    Get(Range),
    /// Deletes keys.
    Delete(Range),
}

/// The result of one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResult {
    /// Was put.
    Put,
    /// Was read, by key.
    Got(Vec<KeyValue>),
    /// So many were deleted.
    Deleted(u64),
}

/// The result of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnResult {
    /// Whether the compares held.
    pub succeeded: bool,
    /// The revision after it.
    pub revision: u64,
    /// The result of each operation.
    pub results: Vec<OpResult>,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// At which revision.
    pub revision: u64,
    /// Which key.
    pub key: String,
    /// How.
    pub kind: EventKind,
}

/// How a key changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// It was put.
    Put(KeyValue),
    /// It is gone.
    Delete,
}

#[derive(Debug, Clone)]
pub(super) struct Store {
    revision: u64,
    keys: BTreeMap<String, KeyValue>,
    history: VecDeque<Event>,
    compacted: u64,
}

impl Default for Store {
    fn default() -> Self {
        // An empty etcd begins at revision 1.
        Self { revision: 1, keys: BTreeMap::new(), history: VecDeque::new(), compacted: 0 }
    }
}

impl Range {
    pub(super) fn contains(&self, key: &str) -> bool {
        match self {
            Self::Key(one) => one == key,
            Self::Prefix(prefix) => key.starts_with(prefix.as_str()),
        }
    }
}

impl Compare {
    /// The key came to be at this revision; 0 when it must not be there.
    pub fn created_at(key: &str, revision: u64) -> Self {
        let target = CompareTarget::CreateRevision(revision);
        Self { key: key.to_owned(), op: CompareOp::Equal, target }
    }
}

impl Store {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(super) fn range<'a>(&'a self, range: &'a Range) -> impl Iterator<Item = &'a KeyValue> {
        let from = match range {
            Range::Key(key) | Range::Prefix(key) => key,
        };
        self.keys.range(from.clone()..).map(|(_, found)| found).take_while(|found| range.contains(&found.key))
    }

    pub(super) fn key(&self, key: &str) -> Option<&KeyValue> {
        self.keys.get(key)
    }

    pub(super) fn holds(&self, compare: &Compare) -> bool {
        let found = self.keys.get(&compare.key);
        let number = |is: Option<u64>, wanted: u64| Some(is.unwrap_or(0).cmp(&wanted));
        let ordering = match &compare.target {
            CompareTarget::CreateRevision(wanted) => number(found.map(|found| found.create_revision), *wanted),
            CompareTarget::ModRevision(wanted) => number(found.map(|found| found.mod_revision), *wanted),
            CompareTarget::Version(wanted) => number(found.map(|found| found.version), *wanted),
            CompareTarget::Value(wanted) => found.map(|found| found.value.cmp(wanted)),
        };
        let Some(ordering) = ordering else { return false };
        match compare.op {
            CompareOp::Equal => ordering.is_eq(),
            CompareOp::NotEqual => ordering.is_ne(),
            CompareOp::Greater => ordering.is_gt(),
            CompareOp::Less => ordering.is_lt(),
        }
    }

    /// Does operations that were checked, as one change.
    pub(super) fn apply(&mut self, ops: &[Op], leases: &mut Leases) -> Vec<OpResult> {
        let revision = self.revision + 1;
        let results = ops
            .iter()
            .map(|op| match op {
                Op::Put { key, value, lease } => {
                    self.put(revision, key, value, *lease, leases);
                    OpResult::Put
                }
                Op::Get(range) => OpResult::Got(self.range(range).cloned().collect()),
                Op::Delete(range) => {
                    let gone: Vec<_> = self.range(range).map(|found| (found.key.clone(), found.lease)).collect();
                    for (key, lease) in &gone {
                        leases.detach(*lease, key);
                        self.delete(revision, key);
                    }
                    OpResult::Deleted(gone.len() as u64)
                }
            })
            .collect();
        self.close(revision);
        results
    }

    /// Deletes keys as one change.
    pub(super) fn delete_keys(&mut self, keys: BTreeSet<String>) {
        let revision = self.revision + 1;
        keys.iter().for_each(|key| self.delete(revision, key));
        self.close(revision);
    }

    /// The revision grows only when something has changed.
    fn close(&mut self, revision: u64) {
        if self.history.back().is_some_and(|event| event.revision == revision) {
            self.revision = revision;
        }
    }

    fn put(&mut self, revision: u64, key: &str, value: &Bytes, lease: Option<LeaseId>, leases: &mut Leases) {
        let before = self.keys.get(key);
        leases.detach(before.and_then(|before| before.lease), key);
        leases.attach(lease, key);
        let put = KeyValue {
            key: key.to_owned(),
            value: value.clone(),
            create_revision: before.map_or(revision, |before| before.create_revision),
            mod_revision: revision,
            version: before.map_or(1, |before| before.version + 1),
            lease,
        };
        self.keys.insert(key.to_owned(), put.clone());
        self.history.push_back(Event { revision, key: key.to_owned(), kind: EventKind::Put(put) });
    }

    fn delete(&mut self, revision: u64, key: &str) {
        if self.keys.remove(key).is_some() {
            self.history.push_back(Event { revision, key: key.to_owned(), kind: EventKind::Delete });
        }
    }

    /// The changes of the keys of a range from a revision on.
    pub(super) fn events<'a>(
        &'a self,
        range: &'a Range,
        from: u64,
    ) -> Result<impl Iterator<Item = &'a Event>, EtcdError> {
        if from < self.compacted {
            return Err(EtcdError::Compacted { revision: self.compacted });
        }
        let skipped = self.history.partition_point(|event| event.revision < from);
        Ok(self.history.range(skipped..).filter(|event| range.contains(&event.key)))
    }

    pub(super) fn compact(&mut self, revision: u64) -> Result<(), EtcdError> {
        if revision <= self.compacted {
            return Err(EtcdError::Compacted { revision: self.compacted });
        }
        self.compacted = revision.min(self.revision);
        let gone = self.history.partition_point(|event| event.revision < self.compacted);
        self.history.drain(..gone);
        Ok(())
    }

    /// Counts on from a higher revision, and marks everything before as compacted.
    pub(super) fn bump(&mut self, by: u64) {
        if by > 0 {
            self.revision += by;
            self.compacted = self.revision;
            self.history.clear();
        }
    }
}
