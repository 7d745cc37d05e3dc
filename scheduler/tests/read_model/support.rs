//! A log in memory, and the read model that is fed with it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use uuid::Uuid;
use wasmill_fabric::embedded;
use wasmill_protocol::{
    Attempt, AttemptId, Digest, FinalState, HostId, Incarnation, LogSeq, Nonce, Outcome, OutcomeKind, Payload, TaskId,
    TaskSpec, TenantName, Timestamp, Usage,
};
use wasmill_record::Record;
use wasmill_record::event::{Event, EventBody, Sequel};
use wasmill_record::snapshot::{Expired, ReadModelCopy};
use wasmill_scheduler::read_model::{History, Page, ReadModel, TaskFilter, TaskRow};

/// When the first event happens.
pub(crate) const BEGIN: Timestamp = Timestamp(1_772_366_400_000_000);
/// From one record to the next.
pub(crate) const STEP_US: u64 = 1_000;

pub(crate) fn id(number: u64) -> TaskId {
    // As those that are drawn: growing, with the differences at both ends.
    TaskId(Uuid::from_u128(u128::from(number) << 80 | u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
}

pub(crate) fn tenant(name: &str) -> TenantName {
    name.parse().unwrap()
}

pub(crate) fn module(number: u8) -> Digest {
    Digest([number; 32])
}

pub(crate) fn blob(number: u8) -> Payload {
    Payload::Blob { digest: Digest([number; 32]), bytes: 100_000 }
}

pub(crate) fn spec(tenant_name: &str) -> TaskSpec {
    TaskSpec { tenant: tenant(tenant_name), module: module(1), ..TaskSpec::default() }
}

pub(crate) fn submitted(number: u64, spec: TaskSpec) -> EventBody {
    let fingerprint = spec.idempotency_key.as_ref().map(|_| Digest([number as u8; 32]));
    EventBody::TaskSubmitted { task: id(number), spec: Arc::new(spec), fingerprint, edges: Vec::new() }
}

pub(crate) fn attempt(number: u64, attempt: u32) -> AttemptId {
    AttemptId { task: id(number), attempt: Attempt(attempt), nonce: Nonce(7) }
}

pub(crate) fn started(number: u64, try_number: u32) -> EventBody {
    EventBody::AttemptStarted {
        id: attempt(number, try_number),
        host: HostId::from("host-1"),
        incarnation: Incarnation(1),
    }
}

pub(crate) fn ended(number: u64, try_number: u32, kind: OutcomeKind, next: Sequel) -> EventBody {
    EventBody::AttemptEnded {
        id: attempt(number, try_number),
        outcome: Arc::new(Outcome::new(kind, format!("attempt {try_number}"))),
        usage: Usage { cpu_us: u64::from(try_number), ..Usage::default() },
        output: if kind == OutcomeKind::Succeeded { Payload::inline("result".into()) } else { Payload::Empty },
        captured: Payload::inline(format!("log of {try_number}").into()),
        next,
    }
}

pub(crate) fn succeeded(number: u64, try_number: u32) -> EventBody {
    ended(number, try_number, OutcomeKind::Succeeded, Sequel::Final { state: FinalState::Succeeded })
}

/// Blobs in a directory of their own.
pub(crate) struct Blobs {
    pub(crate) blobs: Arc<dyn wasmill_fabric::Blobs>,
    pub(crate) dir: TempDir,
}

impl Blobs {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { blobs: embedded::open(dir.path()).unwrap().blobs, dir }
    }

    /// The file of a blob.
    pub(crate) fn file(&self, digest: Digest) -> PathBuf {
        self.blobs.local_path(digest).unwrap()
    }
}

/// The read model under test, and every record that it was fed with.
pub(crate) struct Fed {
    pub(crate) model: ReadModel,
    pub(crate) dir: TempDir,
    pub(crate) records: Vec<Arc<Record>>,
}

impl Fed {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { model: ReadModel::open(dir.path()).unwrap(), dir, records: Vec::new() }
    }

    /// When the events of the next record happen.
    pub(crate) fn now(&self) -> Timestamp {
        BEGIN.plus_us(self.records.len() as u64 * STEP_US)
    }

    /// One more record.
    pub(crate) fn feed(&mut self, bodies: impl IntoIterator<Item = EventBody>) -> LogSeq {
        let at = self.now();
        let events = bodies.into_iter().map(|body| Event { at, body }).collect();
        self.records.push(Arc::new(Record { version: 1, events, ..Record::default() }));
        let seq = LogSeq(self.records.len() as u64);
        self.model.apply(seq, &self.records[self.records.len() - 1]);
        seq
    }

    /// Stops in good order and starts again.
    pub(crate) fn reopen(self) -> Self {
        let Self { model, dir, records } = self;
        drop(model);
        Self { model: ReadModel::open(dir.path()).unwrap(), dir, records }
    }

    /// Stops, lets something be done to the file, and starts again.
    pub(crate) fn reopen_after(self, change: impl FnOnce(&rusqlite::Connection)) -> Self {
        let Self { model, dir, records } = self;
        drop(model);
        change(&rusqlite::Connection::open(dir.path().join("read-model.sqlite")).unwrap());
        Self { model: ReadModel::open(dir.path()).unwrap(), dir, records }
    }

    /// The read model that starts after a crash at this moment: the file as it is, then fed with
    /// the log from where it ends.
    pub(crate) fn crash(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(self.dir.path()).unwrap() {
            let entry = entry.unwrap();
            // The index of the write-ahead log is memory that a crash loses.
            if !entry.file_name().to_string_lossy().ends_with("-shm") {
                fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
            }
        }
        let model = ReadModel::open(dir.path()).unwrap();
        assert_eq!(model.position(), model.flushed());
        let crashed = Self { model, dir, records: self.records.clone() };
        crashed.feed_again(crashed.model.flushed());
        crashed
    }

    /// The read model that goes on elsewhere, from a copy and the log after it. Without a copy
    /// there is only the log.
    pub(crate) async fn moved(&self) -> Self {
        let blobs = Blobs::new();
        let copy = self.save(&blobs).await;
        let moved = Self { records: self.records.clone(), ..Self::new() };
        if copy.seq > LogSeq(0) {
            moved.model.restore(&*blobs.blobs, &copy).await.unwrap();
        }
        assert_eq!((moved.model.position(), moved.model.flushed()), (copy.seq, copy.seq));
        moved.feed_again(copy.seq);
        moved
    }

    /// Makes a copy.
    pub(crate) async fn save(&self, blobs: &Blobs) -> ReadModelCopy {
        let (seq, stat) = self.model.save(&*blobs.blobs).await.unwrap();
        ReadModelCopy { seq, digest: stat.digest, bytes: stat.bytes, ..ReadModelCopy::default() }
    }

    /// The read model that is filled from the log alone.
    pub(crate) fn rebuild(&self) -> Self {
        let rebuilt = Self { records: self.records.clone(), ..Self::new() };
        rebuilt.feed_again(LogSeq(0));
        rebuilt
    }

    /// Applies all records after `from`.
    pub(crate) fn feed_again(&self, from: LogSeq) {
        for (record, seq) in self.records.iter().zip(1..).skip(from.0 as usize) {
            self.model.apply(LogSeq(seq), record);
        }
    }

    pub(crate) async fn task(&self, tenant_name: &str, number: u64) -> Option<TaskRow> {
        self.model.task(&tenant(tenant_name), id(number)).await.unwrap()
    }

    pub(crate) async fn history(&self, tenant_name: &str, number: u64) -> Option<History> {
        self.model.history(&tenant(tenant_name), id(number)).await.unwrap()
    }

    pub(crate) async fn page(&self, tenant_name: &str, filter: &TaskFilter, limit: usize) -> Page {
        self.model.tasks(&tenant(tenant_name), filter, limit, None).await.unwrap()
    }

    /// All pages together.
    pub(crate) async fn list(&self, tenant_name: &str, filter: &TaskFilter, limit: usize) -> Vec<TaskRow> {
        let mut tasks = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.model.tasks(&tenant(tenant_name), filter, limit, cursor).await.unwrap();
            assert!(page.tasks.len() <= limit);
            tasks.extend(page.tasks);
            // Over the wire and back.
            cursor = page.next.map(|cursor| cursor.to_string().parse().unwrap());
            if cursor.is_none() {
                return tasks;
            }
        }
    }

    /// All pages of a scan together.
    pub(crate) async fn scan(&self, tenant_name: &str, filter: &TaskFilter) -> Vec<TaskRow> {
        let mut tasks = Vec::new();
        let mut rest = Some(self.model.scan().await.unwrap());
        while let Some(scan) = rest {
            let page = self.model.scan_page(&tenant(tenant_name), filter, scan).await.unwrap();
            tasks.extend(page.tasks);
            rest = page.rest;
        }
        tasks
    }

    /// Everything that readers can see of these tenants.
    pub(crate) async fn everything(&self, tenants: &[&str]) -> BTreeMap<(String, TaskId), (TaskRow, History)> {
        let mut all = BTreeMap::new();
        for name in tenants {
            for row in self.list(name, &TaskFilter::default(), 1_000).await {
                let history = self.model.history(&tenant(name), row.id).await.unwrap().unwrap();
                all.insert(((*name).to_owned(), row.id), (row, history));
            }
        }
        all
    }
}

/// The tasks that became final more than `retention` before `now`, in whatever record.
pub(crate) fn ended_before(now: Timestamp, retention: Duration) -> Expired {
    let retention_us = u64::try_from(retention.as_micros()).unwrap();
    let before = Timestamp(now.0.saturating_sub(retention_us));
    Expired { since: Timestamp(0), from: LogSeq(0), until: LogSeq(u64::MAX), before }
}
