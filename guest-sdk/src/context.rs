//! The questions of a task to the server that runs it.

use std::cell::OnceCell;
use std::fmt;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;
#[cfg(target_arch = "wasm32")]
use crate::component::Server;
#[cfg(not(target_arch = "wasm32"))]
use crate::recorder::Server;

/// How loud a line in the captured output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something went wrong.
    Error,
    /// Something looks wrong.
    Warn,
    /// Worth knowing.
    Info,
    /// Worth knowing when looking for a mistake.
    Debug,
}

/// Which task and attempt this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttemptInfo {
    pub(crate) task_id: String,
    pub(crate) attempt: u32,
    pub(crate) attempts_max: u32,
    pub(crate) deterministic: bool,
}

/// The questions of a task to the server that runs it: who it is, how much is left, progress, log
/// and checkpoints.
///
/// Every method is a short call out of the sandbox and costs about a microsecond; what the task is
/// told about itself is asked for once and kept.
#[derive(Debug)]
pub struct Context {
    pub(crate) server: Server,
    info: OnceCell<AttemptInfo>,
}

impl Context {
    pub(crate) fn new(server: Server) -> Self {
        Self { server, info: OnceCell::new() }
    }

    fn attempt_info(&self) -> &AttemptInfo {
        self.info.get_or_init(|| self.server.info())
    }

    /// The id of the task; the same in every attempt. With [`attempt`](Self::attempt) it makes a
    /// key for work elsewhere that must not happen twice.
    pub fn task_id(&self) -> &str {
        &self.attempt_info().task_id
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt_info().attempt
    }

    /// How many attempts the task has at most.
    pub fn attempts_max(&self) -> u32 {
        self.attempt_info().attempts_max
    }

    /// Whether the task was asked to be deterministic: seeded randomness and a clock that stands
    /// still.
    pub fn is_deterministic(&self) -> bool {
        self.attempt_info().deterministic
    }

    /// Milliseconds until the attempt is stopped by the wall clock; never negative.
    pub fn remaining_ms(&self) -> f64 {
        self.server.remaining_ms()
    }

    /// Milliseconds of CPU time left; never negative.
    pub fn remaining_cpu_ms(&self) -> f64 {
        self.server.remaining_cpu_ms()
    }

    /// Fuel left, or `None` when the task has no fuel limit.
    pub fn remaining_fuel(&self) -> Option<u64> {
        self.server.remaining_fuel()
    }

    /// Says how far the task is. `total` 0 means that nobody knows.
    ///
    /// Cheap enough for an inner loop that takes a millisecond: at most the latest one is sent on.
    /// The message is cut at 1 KiB.
    pub fn progress(&self, done: u64, total: u64, message: impl AsRef<str>) {
        self.server.progress(done, total, message.as_ref());
    }

    /// Adds a line to the captured output. [`format_args!`] saves building a string:
    /// `ctx.log(Level::Info, format_args!("{n} done"))`.
    pub fn log(&self, level: Level, message: impl fmt::Display) {
        self.server.log(level, &message.to_string());
    }

    /// Adds a line to the captured output: something went wrong.
    pub fn error(&self, message: impl fmt::Display) {
        self.log(Level::Error, message);
    }

    /// Adds a line to the captured output: something looks wrong.
    pub fn warn(&self, message: impl fmt::Display) {
        self.log(Level::Warn, message);
    }

    /// Adds a line to the captured output: worth knowing.
    pub fn info(&self, message: impl fmt::Display) {
        self.log(Level::Info, message);
    }

    /// Adds a line to the captured output: worth knowing when looking for a mistake.
    pub fn debug(&self, message: impl fmt::Display) {
        self.log(Level::Debug, message);
    }

    /// Saves a state that the next attempt can load, in place of the one before.
    ///
    /// # Errors
    ///
    /// A rejection when the server refuses it, which it does for a state that is too large.
    pub fn checkpoint_save(&self, state: &[u8]) -> Result<(), Error> {
        self.server.checkpoint_save(state).map_err(|reason| {
            Error::reject(format_args!("cannot save a checkpoint of {} bytes: {reason}", state.len()))
        })
    }

    /// The checkpoint that an earlier attempt, or this one, saved last.
    pub fn checkpoint_load(&self) -> Option<Vec<u8>> {
        self.server.checkpoint_load()
    }

    /// Saves a state as JSON, in place of the one before.
    ///
    /// # Errors
    ///
    /// As [`checkpoint_save`](Self::checkpoint_save), and a rejection when the state cannot be
    /// JSON.
    pub fn checkpoint_save_json(&self, state: &impl Serialize) -> Result<(), Error> {
        let json = serde_json::to_vec(state)
            .map_err(|error| Error::reject(format_args!("cannot write a checkpoint as JSON: {error}")))?;
        self.checkpoint_save(&json)
    }

    /// Loads what [`checkpoint_save_json`](Self::checkpoint_save_json) saved last.
    ///
    /// # Errors
    ///
    /// A rejection when there is a state but it is not the JSON of a `T`.
    pub fn checkpoint_load_json<T: DeserializeOwned>(&self) -> Result<Option<T>, Error> {
        let Some(json) = self.checkpoint_load() else { return Ok(None) };
        serde_json::from_slice(&json)
            .map(Some)
            .map_err(|error| Error::reject(format_args!("cannot read the checkpoint of {} bytes: {error}", json.len())))
    }
}
