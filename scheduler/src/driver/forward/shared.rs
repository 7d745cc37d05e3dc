//! What a node forwards, stepped by the forwarder and by whatever shows a record.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use wasmill_fabric::Bus;
use wasmill_protocol::{LogSeq, Term};
use wasmill_record::Record;
use wasmill_scheduler_node::Forwards;
use wasmill_scheduler_node::forward::{Action, Config};

/// The machine. It is locked for a step only.
pub(crate) struct SharedForwards {
    forwards: Mutex<Forwards>,
    began: Instant,
    read_on: Notify,
}

impl SharedForwards {
    /// Nothing is forwarded yet. `asker` is drawn for this process.
    pub(crate) fn new(bus: &dyn Bus, asker: u64) -> Self {
        let config = Config { call_bytes_max: bus.payload_bytes_max(), ..Config::default() };
        Self { forwards: Mutex::new(Forwards::new(config, asker)), began: Instant::now(), read_on: Notify::new() }
    }

    /// Steps the machine, now.
    pub(crate) fn with<T>(&self, step: impl FnOnce(u64, &mut Forwards) -> T) -> T {
        let now_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        step(now_us, &mut self.forwards.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// This node shows a record.
    pub(crate) fn read(&self, seq: LogSeq, record: &Record) {
        self.step_by_reading(|now_us, forwards| forwards.read(now_us, seq, record));
    }

    /// This node shows everything up to a record without having read it.
    pub(crate) fn restored(&self, seq: LogSeq, term: Term) {
        self.step_by_reading(|now_us, forwards| forwards.restored(now_us, seq, term));
    }

    fn step_by_reading(&self, step: impl FnOnce(u64, &mut Forwards)) {
        let waits = self.with(|now_us, forwards| {
            let waits = !forwards.is_idle();
            step(now_us, forwards);
            waits
        });
        if waits {
            self.read_on.notify_one();
        }
    }

    /// Waits until this node has read on.
    pub(super) async fn read_on(&self) {
        self.read_on.notified().await;
    }

    /// What is to be done, and when to step at the latest.
    pub(super) fn take_ready(&self) -> (Vec<Action>, Option<Instant>) {
        let (actions, next_us) = self.with(|_, forwards| (forwards.take_ready(), forwards.next_timeout_us()));
        (actions, next_us.map(|next_us| self.began + Duration::from_micros(next_us)))
    }
}
