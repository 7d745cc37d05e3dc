//! Ctrl-C.

use std::future::Future;
use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Exit, Outcome};

/// Tells of each request to stop: Ctrl-C and SIGTERM.
pub(crate) struct Interrupts {
    int: Signal,
    term: Signal,
}

impl Interrupts {
    /// Takes the signals over from their default, which is to end the process.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self { int: signal(SignalKind::interrupt())?, term: signal(SignalKind::terminate())? })
    }

    /// Returns at the next request. Cancel safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}

/// Drives a command that has nothing to clean up when it is interrupted.
pub(crate) async fn interruptible(command: impl Future<Output = Outcome>) -> Outcome {
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        outcome = command => outcome,
        () = interrupts.next() => Ok(Exit::Interrupted),
    }
}
