//! The read model: every task of the log as a row that can be looked up, filtered and listed.
//!
//! It is a second file that follows from the log and nothing else, so it is written lazily.
//! [`ReadModel::apply`] takes a durable record in memory; a thread writes what has gathered in
//! large transactions. Readers never notice: a task or a key is read from the file and what is
//! pending is added; a listing waits until what was applied before it is in the file. After a crash
//! the file is behind the log, and is fed again from [`ReadModel::flushed`] on.

mod codec;
mod copy;
mod filter;
mod flush;
mod fold;
mod listing;
mod pending;
mod read;
mod readers;
mod reserved;
mod row;
mod store;
mod stored;
mod write;

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::oneshot;
use wasmill_protocol::{Attempt, Digest, LogSeq, Payload, TaskId, TaskSpec, TenantName};
use wasmill_record::Record;
use wasmill_record::event::EventBody;
use wasmill_record::snapshot::Expired;

pub use self::copy::CopyError;
pub use self::filter::{Cursor, Page, ParseCursorError, Scan, ScanPage, TaskFilter};
use self::flush::{Gathered, Pipeline, Sweep};
use self::fold::TaskStanding;
use self::listing::Budget;
use self::pending::PendingEvent;
use self::read::Stored;
use self::readers::{Kind, Readers};
use self::reserved::Reserved;
pub use self::reserved::{OverQuota, Reservation};
pub use self::row::{BeganWith, HISTORY_ENTRIES_MAX, History, HistoryEntry, HistoryEvent, TaskRow};
pub use self::stored::submission_bytes;

/// The file in the data directory.
const FILE: &str = "read-model.sqlite";
/// The largest page of a listing.
pub const PAGE_TASKS_MAX: usize = 1000;
/// How long a listing waits for the file to catch up.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);

/// Every task of the log, final ones until their retention ends.
pub struct ReadModel {
    pipeline: Arc<Pipeline>,
    readers: Readers,
    reserved: Reserved,
    thread: Option<JoinHandle<()>>,
}

/// The read model cannot be opened.
#[derive(Debug, Error)]
pub enum OpenReadModelError {
    /// Its file cannot be used.
    #[error("cannot open the read model `{}`", path.display())]
    Storage {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// A question that cannot be answered.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The file cannot be read or changed.
    #[error("cannot {action} in the read model")]
    Storage {
        /// The action that was attempted.
        action: &'static str,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Applied records did not reach the file in time.
    #[error("the read model is behind: record {wanted} is not written yet{}", failure_text(failure.as_deref()))]
    Behind {
        /// The record that was waited for.
        wanted: LogSeq,
        /// Why the last try to write has failed, if it has.
        failure: Option<String>,
    },
}

fn failure_text(failure: Option<&str>) -> String {
    failure.map(|failure| format!(" ({failure})")).unwrap_or_default()
}

impl ReadModel {
    /// Opens the file in a data directory, or begins an empty one when there is none that can be
    /// used.
    ///
    /// # Errors
    ///
    /// When the directory cannot be used.
    pub fn open(dir: &Path) -> Result<Self, OpenReadModelError> {
        let path = dir.join(FILE);
        let failed = |source| OpenReadModelError::Storage { path: path.clone(), source };
        copy::clear(&path).map_err(|error| failed(error.into()))?;
        let (connection, position) = store::open_writer(&path)?;
        let sink = write::Sink::new(connection).map_err(|error| failed(error.into()))?;
        let stored = sink.stored().map_err(|error| failed(error.into()))?;
        let pipeline = Arc::new(Pipeline::new(position, stored));
        let worker = Arc::clone(&pipeline);
        let thread = thread::Builder::new()
            .name("read-model".to_owned())
            .spawn(move || worker.run(sink))
            .map_err(|error| failed(error.into()))?;
        Ok(Self { pipeline, readers: Readers::new(&path), reserved: Reserved::default(), thread: Some(thread) })
    }

    /// Takes in a durable record. Cheap; never waits for the file. Every reader sees it from here
    /// on.
    ///
    /// Records that it has already are ignored, so that the log can be fed from any earlier place.
    ///
    /// # Panics
    ///
    /// When a record was left out: rows would be wrong for ever.
    pub fn apply(&self, seq: LogSeq, record: &Arc<Record>) {
        self.pipeline.apply(seq, record);
    }

    /// The last record that was taken in.
    pub fn position(&self) -> LogSeq {
        self.pipeline.applied()
    }

    /// The last record that is in the file: after a restart the log is fed from the next one on, or
    /// any earlier one.
    pub fn flushed(&self) -> LogSeq {
        self.pipeline.flushed()
    }

    /// Whether so much waits to be written that nothing more should be submitted.
    pub fn lagging(&self) -> bool {
        self.pipeline.lagging()
    }

    /// Bytes that were taken in and are not in the file yet.
    pub fn pending_bytes(&self) -> u64 {
        self.pipeline.pending_bytes()
    }

    /// Bytes of the file with what is still in its write-ahead log; 0 when that cannot be told.
    pub fn file_bytes(&self) -> u64 {
        let path = self.readers.path();
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        [path, Path::new(&log)].iter().filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum()
    }

    /// Waits until [`ReadModel::lagging`] is over.
    pub async fn caught_up(&self) {
        self.pipeline.caught_up().await;
    }

    /// A task of a tenant; `None` when the tenant has none of this id.
    ///
    /// # Errors
    ///
    /// When the file cannot be read; never for a task of which everything is pending.
    pub async fn task(&self, tenant: &TenantName, id: TaskId) -> Result<Option<TaskRow>, ReadError> {
        let found = self.find(tenant, id).await?;
        Ok(found.map(|stored| stored.standing.into_row(stored.id, stored.spec)))
    }

    /// The events of a task of a tenant; `None` when the tenant has none of this id.
    ///
    /// # Errors
    ///
    /// As [`ReadModel::task`].
    pub async fn history(&self, tenant: &TenantName, id: TaskId) -> Result<Option<History>, ReadError> {
        Ok(self.find(tenant, id).await?.map(|stored| stored.standing.into_history()))
    }

    /// The checkpoint that an attempt of a task began with; `None` when the tenant has no task of
    /// this id.
    ///
    /// # Errors
    ///
    /// As [`ReadModel::task`].
    pub async fn began_with(
        &self,
        tenant: &TenantName,
        id: TaskId,
        attempt: Attempt,
    ) -> Result<Option<BeganWith>, ReadError> {
        Ok(self.find(tenant, id).await?.map(|stored| stored.standing.began_with(attempt)))
    }

    async fn find(&self, tenant: &TenantName, id: TaskId) -> Result<Option<Stored>, ReadError> {
        // Pending first, file second: what is written in between is in both, and each row knows up
        // to where it goes.
        let Gathered { found: mut events, erased, .. } = self.pipeline.events(Some(tenant), id);
        if let Some(erased) = erased {
            events.retain(|event| event.place > erased);
            return Ok(of_tenant(merge(id, None, &events), tenant));
        }
        if begins_a_task(&events) {
            return Ok(of_tenant(merge(id, None, &events), tenant));
        }
        let name = tenant.clone();
        let stored = self
            .readers
            .read(Kind::LookUp, Some(tenant.clone()), "look up a task", move |file| read::task(file, &name, id))
            .await?;
        Ok(of_tenant(merge(id, stored, &events), tenant))
    }

    /// [`ReadModel::tasks_shown`], as rows.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn tasks(
        &self,
        tenant: &TenantName,
        filter: &TaskFilter,
        limit: usize,
        cursor: Option<Cursor>,
    ) -> Result<Page, ReadError> {
        self.tasks_shown(tenant, filter, limit, cursor, |row| row).await
    }

    /// A tenant's tasks as `show` makes them where they are read, newest first: those that match
    /// `filter`, at most `limit` (and [`PAGE_TASKS_MAX`]), from `cursor` on. A page of large tasks
    /// ends earlier, after about 4 MiB of what a listing shows. It is read in short steps, each
    /// from the state of its own moment, between which others read. Only a few pages are being read
    /// at once, one or two of a tenant: the others wait for that and hold nothing.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or does not catch up within ten seconds.
    pub async fn tasks_shown<T: Send + 'static>(
        &self,
        tenant: &TenantName,
        filter: &TaskFilter,
        limit: usize,
        cursor: Option<Cursor>,
        show: impl Fn(TaskRow) -> T + Clone + Send + 'static,
    ) -> Result<Page<T>, ReadError> {
        self.flush().await?;
        let _place = self.readers.page(Some(tenant.clone())).await;
        let (tenant, filter, limit) = (tenant.clone(), filter.clone(), limit.clamp(1, PAGE_TASKS_MAX));
        let (mut page, mut next, mut budget) = (Page::default(), cursor, Budget::new(limit));
        loop {
            let (name, filter, show) = (tenant.clone(), filter.clone(), show.clone());
            let step = move |file: &rusqlite::Connection| {
                let found = listing::step(file, &name, &filter, &mut budget, next, show)?;
                Ok((found, budget))
            };
            let (found, left) = self.readers.read(Kind::Listing, Some(tenant.clone()), "list tasks", step).await?;
            page.tasks.extend(found.tasks);
            page.shown_bytes += found.shown_bytes;
            (page.next, next, budget) = (found.next, found.next, left);
            if next.is_none() || budget.is_spent() {
                return Ok(page);
            }
        }
    }

    /// Begins a listing of all that is there now, oldest first.
    ///
    /// # Errors
    ///
    /// As [`ReadModel::tasks`].
    pub async fn scan(&self) -> Result<Scan, ReadError> {
        self.flush().await?;
        self.readers.read(Kind::LookUp, None, "begin to list tasks", listing::scan).await
    }

    /// [`ReadModel::scan_page_shown`], as rows.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn scan_page(&self, tenant: &TenantName, filter: &TaskFilter, scan: Scan) -> Result<ScanPage, ReadError> {
        self.scan_page_shown(tenant, filter, scan, |row| row).await
    }

    /// The next page of a scan: a tenant's tasks that match `filter` as `show` makes them where
    /// they are read, in bounded bytes. Tasks that were removed meanwhile are left out.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub async fn scan_page_shown<T: Send + 'static>(
        &self,
        tenant: &TenantName,
        filter: &TaskFilter,
        scan: Scan,
        show: impl Fn(TaskRow) -> T + Send + 'static,
    ) -> Result<ScanPage<T>, ReadError> {
        let (asker, tenant, filter) = (Some(tenant.clone()), tenant.clone(), filter.clone());
        let page = move |file: &rusqlite::Connection| listing::scan_page(file, &tenant, &filter, scan, show);
        self.readers.read(Kind::Listing, asker, "list tasks", page).await
    }

    /// Makes an answer of what was found, in turn with the tenant's listings and on a thread that
    /// may block: what takes a millisecond or more does not keep the threads that serve everybody.
    ///
    /// # Errors
    ///
    /// When it panics.
    pub async fn show<T: Send + 'static>(
        &self,
        tenant: &TenantName,
        make: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ReadError> {
        self.readers.show(Some(tenant.clone()), make).await
    }

    /// The task that an idempotency key names with the fingerprint of its submission, and the last
    /// record that was considered.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub async fn key(&self, tenant: &TenantName, key: &str) -> Result<(Option<(TaskId, Digest)>, LogSeq), ReadError> {
        let Gathered { found, erased, applied: checked_to } = self.pipeline.key(tenant, key);
        let pending = found.filter(|pending| erased.is_none_or(|erased| pending.place > erased));
        if let Some(pending) = pending {
            return Ok((Some((pending.task, pending.fingerprint)), checked_to));
        }
        if erased.is_some() {
            return Ok((None, checked_to));
        }
        let (tenant, key) = (tenant.clone(), key.to_owned());
        let found = self
            .readers
            .read(Kind::LookUp, Some(tenant.clone()), "look up a key", move |file| read::key(file, &tenant, &key))
            .await?;
        Ok((found, checked_to))
    }

    /// The specs of tasks that hosts need, with the last checkpoint of each. Tasks that are unknown
    /// are left out, and so are all that the file holds when it cannot be read.
    pub async fn specs(&self, tasks: &[TaskId]) -> HashMap<TaskId, (Arc<TaskSpec>, Payload)> {
        let mut specs = HashMap::with_capacity(tasks.len());
        let mut in_file = Vec::new();
        for &id in tasks {
            let events = self.pipeline.events(None, id).found;
            match merge(id, None, &events) {
                Some(stored) => drop(specs.insert(id, (stored.spec, stored.standing.view.checkpoint))),
                None => in_file.push((id, events)),
            }
        }
        if in_file.is_empty() {
            return specs;
        }
        let read = self
            .readers
            .read(Kind::LookUp, None, "look up specs", move |file| {
                let look_up =
                    |(id, events): (TaskId, Vec<PendingEvent>)| Ok(merge(id, read::task_of_any(file, id)?, &events));
                in_file.into_iter().map(look_up).collect::<rusqlite::Result<Vec<_>>>()
            })
            .await;
        match read {
            Ok(found) => {
                specs.extend(
                    found
                        .into_iter()
                        .flatten()
                        .map(|stored| (stored.id, (stored.spec, stored.standing.view.checkpoint))),
                );
            }
            Err(error) => tracing::error!(error = &error as &dyn Error, "tasks cannot be dispatched"),
        }
        specs
    }

    /// Whether any task refers to a blob.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or does not catch up within ten seconds.
    pub async fn is_referenced(&self, digest: Digest) -> Result<bool, ReadError> {
        Ok(self.unreferenced(vec![digest]).await?.is_empty())
    }

    /// The given blobs that no task refers to.
    ///
    /// # Errors
    ///
    /// As [`ReadModel::is_referenced`].
    pub async fn unreferenced(&self, mut blobs: Vec<Digest>) -> Result<Vec<Digest>, ReadError> {
        self.flush().await?;
        let look = move |file: &rusqlite::Connection| {
            let mut unreferenced = Vec::new();
            for digest in blobs.drain(..) {
                if !read::is_referenced(file, digest)? {
                    unreferenced.push(digest);
                }
            }
            Ok(unreferenced)
        };
        self.readers.read(Kind::LookUp, None, "look for a blob", look).await
    }

    /// Blobs that tasks referred to and do not any more, and those of [`ReadModel::note_unneeded`];
    /// waits until there are some. They may be needed again, and by others. When there are too many
    /// the rest is left to whoever looks at all blobs.
    pub async fn unneeded(&self) -> Vec<Digest> {
        self.pipeline.unneeded().await
    }

    /// Notes blobs that were stored for what was refused afterwards, and modules that a tenant has
    /// removed.
    pub fn note_unneeded(&self, blobs: impl IntoIterator<Item = Digest>) {
        self.pipeline.note_unneeded(blobs);
    }

    /// Bytes that a tenant's tasks take, as they count towards its quota. Submissions are in it as
    /// soon as they were applied; results of attempts as soon as they are in the file:
    /// [`ReadModel::flush`] waits for that.
    pub fn stored_bytes(&self, tenant: &TenantName) -> u64 {
        self.pipeline.stored(tenant)
    }

    /// The tenants for which [`ReadModel::stored_bytes`] has changed by what came of attempts, or
    /// by what was removed, since this was last asked.
    pub fn stored_changed(&self) -> BTreeSet<TenantName> {
        self.pipeline.stored_changed()
    }

    /// Takes `bytes` of a tenant's quota until the answer is dropped: for a task that is on its
    /// way.
    ///
    /// # Errors
    ///
    /// When that would be over `bytes_max`.
    pub fn reserve(&self, tenant: &TenantName, bytes: u64, bytes_max: u64) -> Result<Reservation, OverQuota> {
        self.reserved.take(tenant, bytes, bytes_max, || self.stored_bytes(tenant))
    }

    /// Removes tasks whose retention is over, with their labels and keys. Answers how many.
    /// Done in small steps, between which the file goes on taking in what happens.
    ///
    /// # Errors
    ///
    /// When the file cannot be changed; what was removed until then stays removed.
    pub async fn sweep(&self, expired: Expired) -> Result<u64, ReadError> {
        let failed = |source| ReadError::Storage { action: "remove old tasks", source };
        let (answer, answered) = oneshot::channel();
        self.pipeline.sweep(Sweep { expired, removed: 0, answer });
        answered.await.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
    }

    /// Waits until everything that was applied before is in the file.
    ///
    /// # Errors
    ///
    /// [`ReadError::Behind`] when that takes more than ten seconds.
    pub async fn flush(&self) -> Result<(), ReadError> {
        let behind = |(wanted, failure)| ReadError::Behind { wanted, failure };
        self.pipeline.flush(FLUSH_PATIENCE).await.map_err(behind)
    }
}

impl Drop for ReadModel {
    fn drop(&mut self) {
        self.pipeline.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether the first event submits the task: then nothing of it is in the file that is not pending
/// too.
fn begins_a_task(events: &[PendingEvent]) -> bool {
    events.first().is_some_and(|first| matches!(first.event().body, EventBody::TaskSubmitted { .. }))
}

/// Adds what is pending to what is in the file. Events that the row holds already are passed over.
fn merge(id: TaskId, stored: Option<Stored>, events: &[PendingEvent]) -> Option<Stored> {
    let mut merged = stored;
    let held = merged.as_ref().map_or(LogSeq(0), |stored| stored.standing.seq);
    for pending in events.iter().filter(|pending| pending.place.0 > held) {
        let (seq, event) = (pending.place.0, pending.event());
        if let EventBody::TaskSubmitted { spec, edges, .. } = &event.body {
            let standing = TaskStanding::submitted(seq, event.at, spec, !edges.is_empty());
            merged = Some(Stored { id, spec: Arc::clone(spec), standing });
        } else if let Some(stored) = &mut merged {
            stored.standing.fold(seq, event);
        }
    }
    merged
}

fn of_tenant(stored: Option<Stored>, tenant: &TenantName) -> Option<Stored> {
    stored.filter(|stored| stored.spec.tenant == *tenant)
}
