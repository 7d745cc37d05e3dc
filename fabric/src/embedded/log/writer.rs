//! The one thread that writes the log. The records that wait for it become one transaction: while a
//! commit syncs the next group gathers.

use std::collections::VecDeque;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use wasmill_protocol::LogSeq;

use super::LogState;
use super::checkpoint::Checkpoints;
use super::store::{Store, StoreError};
use crate::embedded::disk::Disk;
use crate::log::Broken;
use crate::{AppendError, LogError};

/// Commands that wait for the writer.
pub(super) const COMMANDS_WAITING_MAX: usize = 1024;
/// Once a group has this many bytes no further record joins it: a commit must not take seconds.
const GROUP_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Records that one transaction trims: appends come in between.
const TRIM_ROWS_MAX: u32 = 256;

/// A request to the writer.
pub(super) enum Command {
    Append { expected_last: LogSeq, record: Bytes, caller: Caller },
    Trim { to: LogSeq, answer: oneshot::Sender<Result<(), LogError>> },
}

/// The caller that waits for the outcome of an append.
pub(super) struct Caller {
    /// Shared by all appends of one leadership.
    pub(super) broken: Arc<Broken>,
    pub(super) answer: oneshot::Sender<Result<LogSeq, AppendError>>,
}

impl Caller {
    fn tell(self, expected_last: LogSeq, outcome: Result<LogSeq, AppendError>) {
        let outcome = outcome.map_err(|error| self.broken.after(expected_last, error));
        // Nobody may wait for it any more, which is fine.
        let _ = self.answer.send(outcome);
    }
}

/// The thread's handle; dropping it lets the thread finish what waits, and joins it.
pub(super) struct Writer {
    commands: Option<SyncSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        path: &Path,
        store: Store,
        disk: Arc<Disk>,
        state: watch::Sender<LogState>,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let checkpoints = Checkpoints::start(path)?;
        let (sender, commands) = sync_channel(COMMANDS_WAITING_MAX);
        let work = Loop::new(store, disk, checkpoints, commands, state);
        let thread = thread::Builder::new().name("log-writer".to_owned()).spawn(move || work.run())?;
        Ok(Self { commands: Some(sender), thread: Some(thread) })
    }

    /// Queues a command; waits while the queue is full. When the writer is gone the command is
    /// dropped, which its `answer` tells.
    pub(super) fn send(&self, command: Command) {
        if let Some(commands) = &self.commands {
            let _ = commands.send(command);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Loop {
    store: Store,
    disk: Arc<Disk>,
    checkpoints: Checkpoints,
    commands: Receiver<Command>,
    state: watch::Sender<LogState>,
    group: Group,
    trims: VecDeque<(LogSeq, oneshot::Sender<Result<(), LogError>>)>,
    /// Why nothing is appended any more.
    poisoned: Option<Arc<str>>,
}

/// Records that become durable together, and who waits for each.
#[derive(Default)]
struct Group {
    records: Vec<Bytes>,
    callers: Vec<Caller>,
    bytes: usize,
}

impl Loop {
    fn new(
        store: Store,
        disk: Arc<Disk>,
        checkpoints: Checkpoints,
        commands: Receiver<Command>,
        state: watch::Sender<LogState>,
    ) -> Self {
        Self {
            store,
            disk,
            checkpoints,
            commands,
            state,
            group: Group::default(),
            trims: VecDeque::new(),
            poisoned: None,
        }
    }

    fn run(mut self) {
        loop {
            if self.trims.is_empty() {
                let Ok(command) = self.commands.recv() else { break };
                self.accept(command);
            }
            while self.group.bytes < GROUP_BYTES_MAX {
                match self.commands.try_recv() {
                    Ok(command) => self.accept(command),
                    Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
                }
            }
            self.commit();
            self.trim();
        }
    }

    fn accept(&mut self, command: Command) {
        match command {
            Command::Append { expected_last, record, caller } => match self.admit(&caller.broken, expected_last) {
                Ok(()) => {
                    self.group.bytes += record.len();
                    self.group.records.push(record);
                    self.group.callers.push(caller);
                }
                Err(error) => caller.tell(expected_last, Err(error)),
            },
            Command::Trim { to, answer } => self.trims.push_back((to, answer)),
        }
    }

    /// Whether a record can follow what is in the log and in the group.
    fn admit(&self, broken: &Broken, expected_last: LogSeq) -> Result<(), AppendError> {
        let seq = expected_last.next();
        if let Some(reason) = &self.poisoned {
            return Err(AppendError::Storage { seq, reason: reason.to_string() });
        }
        broken.check(expected_last)?;
        let last = LogSeq(self.store.last().0 + self.group.records.len() as u64);
        if expected_last == last { Ok(()) } else { Err(AppendError::Conflict { expected_last, last }) }
    }

    fn commit(&mut self) {
        if self.group.records.is_empty() {
            return;
        }
        let group = std::mem::take(&mut self.group);
        let mut seq = self.store.last();
        let result = {
            let _commit = self.disk.commit();
            self.store.append(&group.records)
        };
        match &result {
            Ok(()) => {
                // Readers first: whoever hears of its record also finds it.
                self.state.send_modify(|state| state.last = self.store.last());
            }
            Err(StoreError::NoSpace) => {}
            Err(StoreError::Storage(reason)) => self.poison(reason),
        }
        for caller in group.callers {
            let expected_last = seq;
            seq = seq.next();
            let outcome = match &result {
                Ok(()) => Ok(seq),
                Err(StoreError::NoSpace) => Err(AppendError::NoSpace { seq }),
                Err(StoreError::Storage(reason)) => Err(AppendError::Storage { seq, reason: reason.clone() }),
            };
            caller.tell(expected_last, outcome);
        }
        if result.is_ok() {
            self.checkpoint(group.bytes);
        }
    }

    fn checkpoint(&mut self, bytes: usize) {
        if let Err(StoreError::Storage(reason)) = self.checkpoints.committed(bytes, &self.store) {
            self.poison(&reason);
        }
    }

    /// Trims some of what is to be trimmed; the rest after the next group.
    fn trim(&mut self) {
        let Some((to, answer)) = self.trims.pop_front() else { return };
        let result = match self.poisoned.clone() {
            Some(reason) => Err(StoreError::Storage(reason.to_string())),
            None => self.store.trim(to, TRIM_ROWS_MAX),
        };
        self.state.send_if_modified(|state| {
            let trimmed = state.first != self.store.first();
            state.first = self.store.first();
            trimmed
        });
        match result {
            Ok(false) => {
                self.trims.push_front((to, answer));
                self.checkpoint(0);
            }
            Ok(true) => drop(answer.send(Ok(()))),
            Err(StoreError::NoSpace) => {
                let reason = "no space is left".to_owned();
                drop(answer.send(Err(LogError::Storage { action: "trim", reason })));
            }
            Err(StoreError::Storage(reason)) => {
                self.poison(&reason);
                drop(answer.send(Err(LogError::Storage { action: "trim", reason })));
            }
        }
    }

    /// From here on every append fails: after a failed write or fsync nothing is known about what
    /// is durable, and trying again would only seem to succeed.
    fn poison(&mut self, reason: &str) {
        let reason: Arc<str> = Arc::from(reason);
        self.poisoned = Some(Arc::clone(&reason));
        self.state.send_modify(|state| state.poisoned = Some(reason));
    }
}
