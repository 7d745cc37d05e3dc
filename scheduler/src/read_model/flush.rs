//! Applied records, and the thread that writes them into the file.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot, watch};
use wasmill_fabric::Reminder;
use wasmill_protocol::{Digest, LogSeq, TaskId, TenantName};
use wasmill_record::Record;
use wasmill_record::snapshot::Expired;

use super::copy::CopyError;
use super::pending::{EventPosition, Generation, PendingEvent, PendingKey};
use super::store;
use super::write::{Sink, Written};

/// Pending records are written when they take this much memory. Large transactions pay: a task that
/// was submitted and has ended in the meantime is written once, and pages are written once for many
/// tasks.
const FLUSH_BYTES: u64 = 24 * 1024 * 1024;
/// Pending records are written after this time at the latest.
const FLUSH_DELAY: Duration = Duration::from_millis(250);
/// With this much pending, those who submit must wait.
const PENDING_BYTES_MAX: u64 = 4 * FLUSH_BYTES;
/// After a failure it is tried again after this time: the disk may have space again.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Tasks that one transaction erases or sweeps: flushes come in between.
const REMOVED_ROWS_MAX: u32 = 1000;

/// Blobs that are noted as not needed at most; what is over it is left to the sweep.
const UNNEEDED_MAX: usize = 64 * 1024;

/// The state that the flush thread shares with everybody else.
pub(super) struct Pipeline {
    state: Mutex<State>,
    wake: Condvar,
    flushed: watch::Sender<LogSeq>,
    lagging: watch::Sender<bool>,
    /// The same as a plain flag, asked for every submission.
    lagging_now: AtomicBool,
    /// There are blobs that may not be needed.
    unneeded: Notify,
}

struct State {
    /// The generation that gathers.
    gathering: Generation,
    /// The generation that is being written.
    writing: Option<Arc<Generation>>,
    applied: LogSeq,
    /// Since when `gathering` is not empty.
    since: Option<Instant>,
    /// Somebody waits for everything up to here to be in the file.
    wanted: LogSeq,
    /// The stored bytes of tenants, as the file says.
    stored: HashMap<TenantName, u64>,
    /// Tenants for which that has changed.
    stored_changed: BTreeSet<TenantName>,
    /// Blobs that no task refers to any more, as the file says; see [`super::ReadModel::unneeded`].
    unneeded: Vec<Digest>,
    sweeps: VecDeque<Sweep>,
    replacement: Option<Replacement>,
    failure: Option<String>,
    stopping: bool,
    /// The thread has lost its file.
    ended: bool,
}

/// A request to remove tasks whose retention is over.
pub(super) struct Sweep {
    pub(super) expired: Expired,
    pub(super) removed: u64,
    pub(super) answer: oneshot::Sender<rusqlite::Result<u64>>,
}

/// A request to go on with another file.
pub(super) struct Replacement {
    pub(super) path: PathBuf,
    /// The file that takes the place of `path`; it was checked and holds the log up to `position`.
    pub(super) with: PathBuf,
    pub(super) position: LogSeq,
    pub(super) answer: oneshot::Sender<Result<(), CopyError>>,
}

/// The pending changes of a task or a key, at one moment.
pub(super) struct Gathered<T> {
    pub(super) found: T,
    /// Where the tenant was last removed, if that is pending: the file still has what was before.
    pub(super) erased: Option<EventPosition>,
    /// The last record that was applied.
    pub(super) applied: LogSeq,
}

/// The next step of the thread.
enum Work {
    Write(Arc<Generation>, LogSeq),
    Sweep(Sweep),
    Replace(Replacement),
    Erase,
    Stop,
}

impl Pipeline {
    /// Nothing is pending; the file holds the log up to `position`.
    pub(super) fn new(position: LogSeq, stored: Vec<(TenantName, u64)>) -> Self {
        Self {
            state: Mutex::new(State {
                gathering: Generation::default(),
                writing: None,
                applied: position,
                since: None,
                wanted: LogSeq(0),
                stored: stored.into_iter().collect(),
                stored_changed: BTreeSet::new(),
                unneeded: Vec::new(),
                sweeps: VecDeque::new(),
                replacement: None,
                failure: None,
                stopping: false,
                ended: false,
            }),
            wake: Condvar::new(),
            flushed: watch::Sender::new(position),
            lagging: watch::Sender::new(false),
            lagging_now: AtomicBool::new(false),
            unneeded: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`super::ReadModel::apply`].
    pub(super) fn apply(&self, seq: LogSeq, record: &Arc<Record>) {
        let mut state = self.state();
        if seq <= state.applied {
            return;
        }
        assert!(seq == state.applied.next(), "record {seq} was applied after record {}", state.applied);
        let bytes_before = state.gathering.bytes();
        let was_empty = state.gathering.is_empty();
        state.gathering.push(seq, record);
        state.applied = seq;
        let bytes = state.gathering.bytes();
        if was_empty {
            state.since = Some(Instant::now());
        }
        if was_empty || (bytes_before < FLUSH_BYTES && bytes >= FLUSH_BYTES) {
            self.wake.notify_one();
        }
        self.tell_lag(&state);
    }

    fn tell_lag(&self, state: &State) {
        let writing = state.writing.as_ref().map_or(0, |writing| writing.bytes());
        let lagging = state.gathering.bytes() + writing > PENDING_BYTES_MAX;
        if self.lagging_now.load(Ordering::Relaxed) != lagging {
            self.lagging_now.store(lagging, Ordering::Relaxed);
            self.lagging.send_replace(lagging);
        }
    }

    pub(super) fn applied(&self) -> LogSeq {
        self.state().applied
    }

    pub(super) fn flushed(&self) -> LogSeq {
        *self.flushed.borrow()
    }

    pub(super) fn lagging(&self) -> bool {
        self.lagging_now.load(Ordering::Relaxed)
    }

    pub(super) async fn caught_up(&self) {
        if self.lagging() {
            // The sender is in `self`, so this ends for no other reason.
            let _ = self.lagging.subscribe().wait_for(|lagging| !lagging).await;
        }
    }

    /// Asks for everything that is applied now to be written, and waits for that at most
    /// `patience`, and not at all while the file cannot be written. On giving up says what was
    /// waited for, and why the last try to write has failed if it has.
    pub(super) async fn flush(&self, patience: Duration) -> Result<(), (LogSeq, Option<String>)> {
        let wanted = {
            let mut state = self.state();
            state.wanted = state.applied;
            self.wake.notify_one();
            if let Some(failure) = state.failure.clone() {
                return Err((state.applied, Some(failure)));
            }
            state.applied
        };
        let mut flushed = self.flushed.subscribe();
        match tokio::time::timeout(patience, flushed.wait_for(|flushed| *flushed >= wanted)).await {
            Ok(_) => Ok(()),
            Err(_) => Err((wanted, self.state().failure.clone())),
        }
    }

    /// The pending changes of a task. `tenant` is asked for removals.
    pub(super) fn events(&self, tenant: Option<&TenantName>, task: TaskId) -> Gathered<Vec<PendingEvent>> {
        self.gather(tenant, |generations| {
            let mut events = Vec::new();
            for generation in generations {
                generation.collect_events(task, &mut events);
            }
            events
        })
    }

    /// The pending task under an idempotency key.
    pub(super) fn key(&self, tenant: &TenantName, key: &str) -> Gathered<Option<PendingKey>> {
        self.gather(Some(tenant), |generations| generations.filter_map(|generation| generation.key(tenant, key)).last())
    }

    fn gather<T>(
        &self,
        tenant: Option<&TenantName>,
        find: impl FnOnce(&mut dyn Iterator<Item = &Generation>) -> T,
    ) -> Gathered<T> {
        let state = self.state();
        // Older first.
        let generations = || state.writing.as_deref().into_iter().chain([&state.gathering]);
        let erased = tenant.and_then(|tenant| generations().rev().find_map(|generation| generation.erased(tenant)));
        Gathered { found: find(&mut generations()), erased, applied: state.applied }
    }

    /// Bytes that are pending.
    pub(super) fn pending_bytes(&self) -> u64 {
        let state = self.state();
        state.gathering.bytes() + state.writing.as_ref().map_or(0, |writing| writing.bytes())
    }

    /// The stored bytes of a tenant; of tasks that run as they were last written.
    pub(super) fn stored(&self, tenant: &TenantName) -> u64 {
        let state = self.state();
        let mut submitted = 0;
        for generation in [Some(&state.gathering), state.writing.as_deref()].into_iter().flatten() {
            submitted += generation.submitted(tenant);
            if generation.erased(tenant).is_some() {
                return submitted;
            }
        }
        submitted + state.stored.get(tenant).copied().unwrap_or(0)
    }

    /// The tenants that have more or less stored than when this was last asked.
    pub(super) fn stored_changed(&self) -> BTreeSet<TenantName> {
        std::mem::take(&mut self.state().stored_changed)
    }

    /// Notes blobs that may not be needed.
    pub(super) fn note_unneeded(&self, blobs: impl IntoIterator<Item = Digest>) {
        let mut state = self.state();
        let room = UNNEEDED_MAX - state.unneeded.len();
        state.unneeded.extend(blobs.into_iter().take(room));
        if !state.unneeded.is_empty() {
            self.unneeded.notify_one();
        }
    }

    /// Takes all that were noted; waits until there are some.
    pub(super) async fn unneeded(&self) -> Vec<Digest> {
        loop {
            let blobs = std::mem::take(&mut self.state().unneeded);
            if !blobs.is_empty() {
                return blobs;
            }
            self.unneeded.notified().await;
        }
    }

    fn take_written(&self, state: &mut State, written: Written) {
        for (tenant, bytes) in written.stored {
            if !state.stored_changed.contains(&tenant) {
                state.stored_changed.insert(tenant.clone());
            }
            if bytes == 0 {
                state.stored.remove(&tenant);
            } else {
                state.stored.insert(tenant, bytes);
            }
        }
        let room = UNNEEDED_MAX - state.unneeded.len();
        state.unneeded.extend(written.unneeded.into_iter().take(room));
        if !state.unneeded.is_empty() {
            self.unneeded.notify_one();
        }
    }

    /// Queues a sweep.
    pub(super) fn sweep(&self, sweep: Sweep) {
        self.state().sweeps.push_back(sweep);
        self.wake.notify_one();
    }

    /// Queues the replacement of the file. Nothing may be applied until it is answered.
    pub(super) fn replace(&self, replacement: Replacement) {
        let mut state = self.state();
        // Without the thread nobody would ever answer: dropping it tells.
        state.replacement = (!state.ended).then_some(replacement);
        self.wake.notify_one();
    }

    /// Lets the thread write what is pending, and end.
    pub(super) fn stop(&self) {
        self.state().stopping = true;
        self.wake.notify_one();
    }

    /// The flush thread.
    pub(super) fn run(&self, mut sink: Sink) {
        // A crash may have left rows of removed tenants.
        let mut erasing = true;
        loop {
            match self.next_work(erasing) {
                Work::Write(generation, position) => erasing |= self.write(&mut sink, generation, position),
                Work::Sweep(sweep) => self.sweep_some(&mut sink, sweep),
                Work::Replace(replacement) => {
                    let Some(replaced) = self.replaced(sink, replacement) else { return };
                    sink = replaced;
                    // The copy may have been made before all of a removed tenant was erased.
                    erasing = true;
                }
                Work::Erase => {
                    erasing = self.erase_some(&mut sink);
                }
                Work::Stop => return,
            }
        }
    }

    fn next_work(&self, erasing: bool) -> Work {
        let mut state = self.state();
        loop {
            let now = Instant::now();
            let due = state.since.map(|since| since + FLUSH_DELAY);
            let wanted = state.wanted > self.flushed() || state.stopping || state.gathering.bytes() >= FLUSH_BYTES;
            if !state.gathering.is_empty() && (wanted || due.is_some_and(|due| due <= now)) {
                return state.take();
            }
            if state.stopping {
                return Work::Stop;
            }
            if let Some(replacement) = state.replacement.take() {
                return Work::Replace(replacement);
            }
            if let Some(sweep) = state.sweeps.pop_front() {
                return Work::Sweep(sweep);
            }
            if erasing {
                return Work::Erase;
            }
            state = match due {
                Some(due) => {
                    let waited = self.wake.wait_timeout(state, due.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Writes a generation, again and again until it works or the process stops. Whether a tenant
    /// was removed.
    fn write(&self, sink: &mut Sink, generation: Arc<Generation>, position: LogSeq) -> bool {
        let mut reminder = Reminder::default();
        let written = loop {
            let error = match sink.write(&generation, position) {
                Ok(written) => break written,
                Err(error) => error,
            };
            if reminder.is_due(Instant::now(), &error.to_string()) {
                tracing::error!(%error, %position, "cannot write the read model; it is tried again every second");
            }
            let mut state = self.state();
            state.failure = Some(error.to_string());
            let waited = self.wake.wait_timeout_while(state, RETRY_DELAY, |state| !state.stopping);
            if waited.unwrap_or_else(PoisonError::into_inner).0.stopping {
                // Unwritten records are read from the log at the next start.
                return false;
            }
        };
        let mut state = self.state();
        state.writing = None;
        self.take_written(&mut state, written);
        state.failure = None;
        self.tell_lag(&state);
        drop(state);
        self.flushed.send_replace(position);
        let removed = generation.removed_a_tenant();
        // Freeing what the events held takes long; nobody waits for it here.
        drop(generation);
        removed
    }

    /// The file is closed, replaced and opened. `None` when that has failed: there is no file to go
    /// on with.
    fn replaced(&self, sink: Sink, replacement: Replacement) -> Option<Sink> {
        let Replacement { path, with, position, answer } = replacement;
        drop(sink);
        let replaced = store::replace(&path, &with).and_then(|connection| {
            let sink = Sink::new(connection)?;
            let stored = sink.stored()?;
            Ok((sink, stored))
        });
        let (sink, stored) = match replaced {
            Ok(sink) => sink,
            Err(error) => {
                self.state().ended = true;
                drop(answer.send(Err(error)));
                return None;
            }
        };
        let mut state = self.state();
        assert!(state.applied < position, "the file held record {} already", state.applied);
        state.gathering = Generation::default();
        state.since = None;
        state.applied = position;
        state.stored = stored.into_iter().collect();
        drop(state);
        self.flushed.send_replace(position);
        drop(answer.send(Ok(())));
        Some(sink)
    }

    fn sweep_some(&self, sink: &mut Sink, mut sweep: Sweep) {
        match sink.sweep_some(sweep.expired, REMOVED_ROWS_MAX) {
            Ok((0, _)) => drop(sweep.answer.send(Ok(sweep.removed))),
            Ok((removed, written)) => {
                sweep.removed += removed;
                let mut state = self.state();
                self.take_written(&mut state, written);
                state.sweeps.push_front(sweep);
            }
            Err(error) => drop(sweep.answer.send(Err(error))),
        }
    }

    /// Whether more is to be erased.
    fn erase_some(&self, sink: &mut Sink) -> bool {
        match sink.erase_some(REMOVED_ROWS_MAX) {
            Ok((more, written)) => {
                self.take_written(&mut self.state(), written);
                more
            }
            Err(error) => {
                tracing::warn!(%error, "cannot erase tasks of removed tenants; it is tried again later");
                false
            }
        }
    }
}

impl State {
    fn take(&mut self) -> Work {
        let next = Generation::sized_like(&self.gathering);
        let generation = Arc::new(std::mem::replace(&mut self.gathering, next));
        self.since = None;
        self.writing = Some(Arc::clone(&generation));
        let position = self.applied;
        Work::Write(generation, position)
    }
}
