//! The thread that ticks, and the list of attempts that it and the stop requests look at.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wasmill_protocol::AttemptId;

use super::control::{Cause, Control, clock_us};
use crate::engine::Engines;

/// One tick. Between two of them nothing stops a guest that computes.
pub const TICK: Duration = Duration::from_millis(10);

/// The attempts that have started and not ended.
#[derive(Debug, Default)]
pub(super) struct Running {
    controls: Mutex<BTreeMap<AttemptId, Arc<Control>>>,
    /// CPU time of attempts that have ended, in microseconds.
    ended_cpu_us: AtomicU64,
}

impl Running {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<AttemptId, Arc<Control>>> {
        self.controls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an attempt; `false` when it is there already.
    pub(super) fn insert(&self, id: AttemptId, control: Arc<Control>) -> bool {
        let mut running = self.lock();
        if running.contains_key(&id) {
            return false;
        }
        running.insert(id, control);
        true
    }

    /// Forgets an attempt.
    pub(super) fn remove(&self, id: AttemptId) {
        if let Some(control) = self.lock().remove(&id) {
            self.ended_cpu_us.fetch_add(micros(control.cpu_spent()), Ordering::Relaxed);
        }
    }

    /// CPU time of all attempts so far in microseconds; of those that run, up to their last tick.
    pub(super) fn cpu_us(&self) -> u64 {
        let running = self.lock();
        let current_us: u64 = running.values().map(|control| micros(control.cpu_spent())).sum();
        self.ended_cpu_us.load(Ordering::Relaxed) + current_us
    }

    /// Stops an attempt, if it is there.
    pub(super) fn stop(&self, id: AttemptId) -> bool {
        let control = self.lock().get(&id).cloned();
        control.inspect(|control| control.stop(Cause::Asked)).is_some()
    }

    /// Lets an attempt go on that has waited for its checkpoint to be stored, if it is there.
    pub(super) fn take(&self, id: AttemptId) {
        if let Some(control) = self.lock().get(&id) {
            control.take();
        }
    }

    /// Stops all attempts.
    pub(super) fn stop_all(&self) {
        self.lock().values().for_each(|control| control.stop(Cause::Asked));
    }

    fn check_deadlines(&self) {
        let now_us = clock_us();
        self.lock().values().for_each(|control| control.check_deadline(now_us));
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Ticks every engine and checks every wall deadline, on a thread of its own until it is dropped:
/// no load of guests or of the network can hold it up.
#[derive(Debug)]
pub(super) struct Watchdog {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the system has no more threads.
    pub(super) fn start(engines: Arc<Engines>, running: Arc<Running>) -> std::io::Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let asked = Arc::clone(&over);
        let thread = std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            let mut next = Instant::now() + TICK;
            while !asked.load(Ordering::Relaxed) {
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                // After a pause of the machine there is one tick, not one for each that was missed.
                next = (next + TICK).max(Instant::now());
                engines.tick();
                running.check_deadlines();
            }
        })?;
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It cannot panic; and if it did there is nothing left to tick for.
            let _ = thread.join();
        }
    }
}
