//! Idempotency keys that the read model may not have yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use wasmill_protocol::{Digest, LogSeq, TaskId};

use super::tenants::TenantNumber;

/// The task of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyEntry {
    pub(crate) task: TaskId,
    pub(crate) fingerprint: Digest,
}

/// Keys of recent records. Their memory is bounded by how far the read model lags.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct IdempotencyKeys {
    by_tenant: BTreeMap<TenantNumber, BTreeMap<Arc<str>, KeyEntry>>,
    /// Oldest first.
    records: VecDeque<RecordKeys>,
    /// Keys of events that are in no record yet.
    gathered: Vec<(TenantNumber, Arc<str>)>,
    /// Whether the newest of `records` may still get another number.
    newest_open: bool,
    /// Keys of records up to this one may be forgotten.
    pub(crate) forgotten_to: LogSeq,
}

/// The keys of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RecordKeys {
    /// `None` until the driver has said it.
    seq: Option<LogSeq>,
    keys: Vec<(TenantNumber, Arc<str>)>,
}

impl IdempotencyKeys {
    pub(crate) fn find(&self, tenant: TenantNumber, key: &str) -> Option<KeyEntry> {
        self.by_tenant.get(&tenant)?.get(key).copied()
    }

    pub(crate) fn insert(&mut self, tenant: TenantNumber, key: &str, entry: KeyEntry) {
        let key: Arc<str> = Arc::from(key);
        self.by_tenant.entry(tenant).or_default().insert(Arc::clone(&key), entry);
        self.gathered.push((tenant, key));
    }

    /// The events so far were handed out, to become one record.
    pub(crate) fn close_record(&mut self) {
        let keys = std::mem::take(&mut self.gathered);
        self.newest_open = !keys.is_empty();
        if self.newest_open {
            self.records.push_back(RecordKeys { seq: None, keys });
        }
    }

    /// The record that was handed out last has its number for good.
    pub(crate) fn settle_record(&mut self) {
        self.newest_open = false;
    }

    /// The events that were handed out last are in record `seq`. When the driver had to split it
    /// into several, the last one counts: to remember a key for longer is never wrong.
    pub(crate) fn appended(&mut self, seq: LogSeq) {
        if self.newest_open
            && let Some(newest) = self.records.back_mut()
        {
            newest.seq = Some(seq);
        }
    }

    /// The read model holds every record up to `seq`.
    pub(crate) fn forget_to(&mut self, seq: LogSeq) {
        self.forgotten_to = self.forgotten_to.max(seq);
        while let Some(oldest) = self.records.front()
            && oldest.seq.is_some_and(|seq| seq <= self.forgotten_to)
        {
            let oldest = self.records.pop_front().expect("the loop has seen it");
            for (tenant, key) in oldest.keys {
                // A removed tenant's keys are gone already.
                if let Some(keys) = self.by_tenant.get_mut(&tenant) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.by_tenant.remove(&tenant);
                    }
                }
            }
        }
        self.newest_open &= !self.records.is_empty();
    }

    pub(crate) fn remove_tenant(&mut self, tenant: TenantNumber) {
        self.by_tenant.remove(&tenant);
    }

    /// How many keys are remembered.
    pub(crate) fn len(&self) -> usize {
        self.by_tenant.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: fn() -> KeyEntry = || KeyEntry { task: TaskId::default(), fingerprint: Digest::default() };

    #[test]
    fn keys_are_kept_until_the_read_model_has_them() {
        let mut keys = IdempotencyKeys::default();
        keys.insert(0, "a", ENTRY());
        keys.close_record();
        keys.insert(0, "b", ENTRY());
        keys.appended(LogSeq(1));
        keys.forget_to(LogSeq(1));
        assert_eq!(keys.find(0, "a"), None);
        assert_eq!(keys.find(0, "b"), Some(ENTRY()), "not in a record yet");
        keys.close_record();
        keys.appended(LogSeq(2));
        keys.appended(LogSeq(3));
        keys.forget_to(LogSeq(2));
        assert_eq!(keys.find(0, "b"), Some(ENTRY()), "the events were split, it may be in the second record");
        keys.forget_to(LogSeq(3));
        assert_eq!((keys.len(), keys.forgotten_to), (0, LogSeq(3)));
    }

    #[test]
    fn a_record_that_is_known_already_is_forgotten_at_once() {
        let mut keys = IdempotencyKeys::default();
        keys.forget_to(LogSeq(9));
        keys.insert(0, "a", ENTRY());
        keys.close_record();
        keys.appended(LogSeq(4));
        keys.forget_to(LogSeq(0));
        assert_eq!(keys.len(), 0);
    }
}
