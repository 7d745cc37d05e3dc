//! A context without a server: answers what the test told it and records what the task did.

use std::cell::RefCell;

use serde::Serialize;

use crate::context::AttemptInfo;
use crate::{Context, Level};

/// One report of progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// How much is done.
    pub done: u64,
    /// Out of how much; 0 when unknown.
    pub total: u64,
    /// The task's message about it.
    pub message: String,
}

/// The calls of a task on its [`Context`], in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Every report of progress; a server would show only the latest.
    pub progress: Vec<Progress>,
    /// Every line logged through the context. Printed lines are not here.
    pub logs: Vec<(Level, String)>,
    /// Every state saved, the latest last.
    pub checkpoints: Vec<Vec<u8>>,
}

/// Builds a [`Context`] for a native test; made by [`Context::for_test`].
#[derive(Debug, Clone)]
#[must_use]
pub struct TestContext {
    server: Server,
}

impl TestContext {
    /// The id of the task; `test-task` otherwise.
    pub fn task_id(mut self, task_id: impl Into<String>) -> Self {
        self.server.info.task_id = task_id.into();
        self
    }

    /// Which attempt this is; 1 otherwise.
    pub fn attempt(mut self, attempt: u32) -> Self {
        self.server.info.attempt = attempt;
        self
    }

    /// How many attempts there are; 3 otherwise.
    pub fn attempts_max(mut self, attempts_max: u32) -> Self {
        self.server.info.attempts_max = attempts_max;
        self
    }

    /// The task was asked to be deterministic.
    pub fn deterministic(mut self) -> Self {
        self.server.info.deterministic = true;
        self
    }

    /// The rest of wall time, in milliseconds; 60,000 otherwise. It does not run down by
    /// itself.
    pub fn remaining_ms(mut self, ms: f64) -> Self {
        self.server.remaining_ms = ms;
        self
    }

    /// The rest of CPU time, in milliseconds; 10,000 otherwise. It does not run down by itself.
    pub fn remaining_cpu_ms(mut self, ms: f64) -> Self {
        self.server.remaining_cpu_ms = ms;
        self
    }

    /// The rest of fuel; unlimited otherwise. It does not run down by itself.
    pub fn remaining_fuel(mut self, fuel: u64) -> Self {
        self.server.remaining_fuel = Some(fuel);
        self
    }

    /// An earlier attempt saved this state.
    pub fn checkpoint(mut self, state: impl Into<Vec<u8>>) -> Self {
        self.server.checkpoint_before = Some(state.into());
        self
    }

    /// An earlier attempt saved this state as JSON.
    ///
    /// # Panics
    ///
    /// When the state cannot be JSON.
    pub fn checkpoint_json(self, state: &impl Serialize) -> Self {
        self.checkpoint(serde_json::to_vec(state).expect("the state of a test must be writable as JSON"))
    }

    /// States over this size are refused; none is otherwise.
    pub fn checkpoint_bytes_max(mut self, bytes: usize) -> Self {
        self.server.checkpoint_bytes_max = bytes;
        self
    }

    /// The context to call the task function with.
    pub fn build(self) -> Context {
        Context::new(self.server)
    }
}

impl Context {
    /// A context for calling a task function in a native test.
    ///
    /// ```
    /// use wasmill_guest::{Context, Error};
    ///
    /// fn countdown(ctx: &Context, from: u32) -> Result<(), Error> {
    ///     let from = ctx.checkpoint_load_json()?.unwrap_or(from);
    ///     for left in (0..from).rev() {
    ///         ctx.checkpoint_save_json(&left)?;
    ///     }
    ///     ctx.info("lift-off");
    ///     Ok(())
    /// }
    ///
    /// let ctx = Context::for_test().attempt(2).checkpoint_json(&3).build();
    /// countdown(&ctx, 10)?;
    /// assert_eq!(ctx.recorded().checkpoints, [b"2", b"1", b"0"]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn for_test() -> TestContext {
        TestContext {
            server: Server {
                info: AttemptInfo { task_id: "test-task".into(), attempt: 1, attempts_max: 3, deterministic: false },
                remaining_ms: 60_000.0,
                remaining_cpu_ms: 10_000.0,
                remaining_fuel: None,
                checkpoint_before: None,
                checkpoint_bytes_max: usize::MAX,
                recorded: RefCell::default(),
            },
        }
    }

    /// The calls on this context so far.
    pub fn recorded(&self) -> Recorded {
        self.server.recorded.borrow().clone()
    }
}

/// Stands in for the server that runs a component.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    info: AttemptInfo,
    remaining_ms: f64,
    remaining_cpu_ms: f64,
    remaining_fuel: Option<u64>,
    checkpoint_before: Option<Vec<u8>>,
    checkpoint_bytes_max: usize,
    recorded: RefCell<Recorded>,
}

impl Server {
    pub(crate) fn info(&self) -> AttemptInfo {
        self.info.clone()
    }

    pub(crate) fn remaining_ms(&self) -> f64 {
        self.remaining_ms
    }

    pub(crate) fn remaining_cpu_ms(&self) -> f64 {
        self.remaining_cpu_ms
    }

    pub(crate) fn remaining_fuel(&self) -> Option<u64> {
        self.remaining_fuel
    }

    pub(crate) fn progress(&self, done: u64, total: u64, message: &str) {
        self.recorded.borrow_mut().progress.push(Progress { done, total, message: message.into() });
    }

    pub(crate) fn log(&self, level: Level, message: &str) {
        self.recorded.borrow_mut().logs.push((level, message.into()));
    }

    pub(crate) fn checkpoint_save(&self, state: &[u8]) -> Result<(), String> {
        if state.len() > self.checkpoint_bytes_max {
            return Err(format!("over the limit of {} bytes", self.checkpoint_bytes_max));
        }
        self.recorded.borrow_mut().checkpoints.push(state.into());
        Ok(())
    }

    pub(crate) fn checkpoint_load(&self) -> Option<Vec<u8>> {
        self.recorded.borrow().checkpoints.last().or(self.checkpoint_before.as_ref()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn the_context_answers_what_the_test_told_it() {
        let ctx = Context::for_test()
            .task_id("t-1")
            .attempt(2)
            .attempts_max(5)
            .deterministic()
            .remaining_ms(1.5)
            .remaining_cpu_ms(0.5)
            .remaining_fuel(7)
            .build();
        assert_eq!((ctx.task_id(), ctx.attempt(), ctx.attempts_max()), ("t-1", 2, 5));
        assert!(ctx.is_deterministic());
        assert_eq!((ctx.remaining_ms(), ctx.remaining_cpu_ms(), ctx.remaining_fuel()), (1.5, 0.5, Some(7)));
        assert_eq!(Context::for_test().build().remaining_fuel(), None);
    }

    #[test]
    fn progress_and_logs_are_kept_in_order() {
        let ctx = Context::for_test().build();
        ctx.progress(1, 2, "half");
        ctx.progress(2, 2, String::from("whole"));
        ctx.warn(format_args!("{} left", 0));
        ctx.debug("done");
        let recorded = ctx.recorded();
        assert_eq!(recorded.progress[1], Progress { done: 2, total: 2, message: "whole".into() });
        assert_eq!(recorded.logs, [(Level::Warn, "0 left".into()), (Level::Debug, "done".into())]);
    }

    #[test]
    fn a_checkpoint_is_what_was_saved_last() -> Result<(), Error> {
        let ctx = Context::for_test().checkpoint("old").build();
        assert_eq!(ctx.checkpoint_load().as_deref(), Some(&b"old"[..]));
        ctx.checkpoint_save_json(&[1, 2])?;
        assert_eq!(ctx.checkpoint_load_json::<Vec<u8>>()?, Some(vec![1, 2]));
        let wrong = ctx.checkpoint_load_json::<String>().expect_err("a list is no string");
        assert!(wrong.message().starts_with("cannot read the checkpoint of 5 bytes: invalid type"), "{wrong}");
        assert_eq!(Context::for_test().build().checkpoint_load_json::<u32>()?, None);
        Ok(())
    }

    #[test]
    fn a_checkpoint_over_the_limit_is_refused_and_not_kept() {
        let ctx = Context::for_test().checkpoint_bytes_max(3).build();
        assert_eq!(ctx.checkpoint_save(b"abc"), Ok(()));
        let refused = Error::reject("cannot save a checkpoint of 4 bytes: over the limit of 3 bytes");
        assert_eq!(ctx.checkpoint_save(b"abcd"), Err(refused));
        assert_eq!(ctx.checkpoint_load().as_deref(), Some(&b"abc"[..]));
    }
}
