//! The side that faces the server: the bindings of `wit/task.wit` and the one exported function.

use std::io::Write;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::AttemptInfo;
use crate::{Context, Error, Level};

/// Generated from `wit/task.wit`.
///
/// The export macro is public because the exported symbol has to be defined in the user's crate,
/// which names neither the WIT file nor `wit-bindgen`.
#[allow(missing_docs, reason = "the documentation of what is generated is the WIT file")]
pub mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "task",
        pub_export_macro: true,
        default_bindings_module: "wasmill_guest::__private::bindings",
    });
}

use bindings::wasmill::task::host;

pub use bindings::Failure;

/// The body of the exported function.
///
/// # Errors
///
/// The failure that the task chose, or a rejection of its payload.
pub fn run<I, O, E>(function: impl FnOnce(&Context, I) -> Result<O, E>, payload: Vec<u8>) -> Result<Vec<u8>, Failure>
where
    I: DeserializeOwned + 'static,
    O: Serialize + 'static,
    E: Into<Error>,
{
    let outcome = crate::invoke(function, &Context::new(Server), payload);
    // Nothing runs at the end of a component, so the last line would stay in the buffer if it has
    // no newline. A failure to print must not change the outcome.
    let _ = std::io::stdout().flush();
    outcome.map_err(|error| match error.is_retryable() {
        true => Failure::Retry(error.into_message()),
        false => Failure::Reject(error.into_message()),
    })
}

/// The server that runs this component.
#[derive(Debug)]
pub(crate) struct Server;

impl Server {
    pub(crate) fn info(&self) -> AttemptInfo {
        let host::AttemptInfo { task_id, attempt, attempts_max, deterministic } = host::info();
        AttemptInfo { task_id, attempt, attempts_max, deterministic }
    }

    pub(crate) fn remaining_ms(&self) -> f64 {
        host::remaining_ms()
    }

    pub(crate) fn remaining_cpu_ms(&self) -> f64 {
        host::remaining_cpu_ms()
    }

    pub(crate) fn remaining_fuel(&self) -> Option<u64> {
        // The interface has numbers that every language can hold; fuel is a whole number all the
        // same.
        host::remaining_fuel().map(|fuel| fuel as u64)
    }

    pub(crate) fn progress(&self, done: u64, total: u64, message: &str) {
        host::progress(done as f64, total as f64, message);
    }

    pub(crate) fn log(&self, level: Level, message: &str) {
        let level = match level {
            Level::Error => host::Level::Error,
            Level::Warn => host::Level::Warn,
            Level::Info => host::Level::Info,
            Level::Debug => host::Level::Debug,
        };
        host::log(level, message);
    }

    pub(crate) fn checkpoint_save(&self, state: &[u8]) -> Result<(), String> {
        host::checkpoint_save(state)
    }

    pub(crate) fn checkpoint_load(&self) -> Option<Vec<u8>> {
        host::checkpoint_load()
    }
}
