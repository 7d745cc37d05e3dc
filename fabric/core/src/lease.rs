//! How long a lease can be counted on.
//!
//! A lease lives for its time to live from when the server last heard of it. That was never before
//! the keepalive was *sent*, so the deadline counts from there, by a clock of our own, and what the
//! server says is never needed to know that a lease is lost.
//!
//! A stream of keepalives that ends, fails or stalls says nothing about the lease: it is opened
//! anew while time is left. Once lost, a lease stays lost.

#[cfg(test)]
mod tests;

use std::mem;

use thiserror::Error;

use crate::retry;

/// Parts of its time to live after which a lease is kept alive again. A keepalive that takes as
/// long is given up.
const KEEP_ALIVE_PARTS: u64 = 3;
/// The wait before a failed keepalive is tried again, in parts of the time to live; doubles with
/// each failure.
const RETRY_PARTS: u64 = 100;

/// A lease that is kept alive.
#[derive(Debug)]
pub struct Lease {
    ttl_us: u64,
    margin_us: u64,
    /// Until when the server cannot have ended it.
    deadline_us: u64,
    /// When the next keepalive is due; none is while one is under way.
    due_us: u64,
    /// The keepalive under way, and when it was sent.
    pending: Option<(KeepAliveNumber, u64)>,
    last_number: KeepAliveNumber,
    /// The last keepalive had no answer: its stream is not used again.
    reopen: bool,
    failures: u32,
    lost: Option<LeaseLost>,
    ready: LeaseReady,
}

/// Names a keepalive of one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeepAliveNumber(pub u64);

/// An input of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseInput {
    /// The server has answered a keepalive.
    KeptAlive {
        /// Which keepalive.
        number: KeepAliveNumber,
        /// How long the lease lives from then on; 0 when there is no such lease any more.
        ttl_us: u64,
    },
    /// A keepalive has failed, or the stream has ended before its answer.
    Failed(KeepAliveNumber),
    /// Time has passed.
    Tick,
}

/// The consequences of steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseReady {
    /// To be sent now.
    pub keep_alive: Option<KeepAlive>,
    /// The lease is lost. Told once.
    pub lost: Option<LeaseLost>,
}

/// A keepalive to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// Its name.
    pub number: KeepAliveNumber,
    /// On a new stream: an answer on the old one could belong to an older keepalive.
    pub reopen: bool,
}

/// Why a lease is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LeaseLost {
    /// The server has ended it.
    #[error("the server has ended the lease")]
    Ended,
    /// It could not be kept alive in time.
    #[error("the lease could not be kept alive for {after_ms} ms")]
    Expired {
        /// Since the last keepalive that succeeded, in milliseconds.
        after_ms: u64,
    },
}

impl Lease {
    /// A lease that was asked for at `asked_at_us` and granted for `ttl_us`. It counts as lost
    /// `margin_us` before it can end.
    pub fn new(asked_at_us: u64, ttl_us: u64, margin_us: u64) -> Self {
        let mut lease = Self {
            ttl_us,
            margin_us,
            deadline_us: 0,
            due_us: asked_at_us,
            pending: None,
            last_number: KeepAliveNumber(0),
            reopen: true,
            failures: 0,
            lost: None,
            ready: LeaseReady::default(),
        };
        lease.count_from(asked_at_us, ttl_us);
        lease
    }

    /// Takes in one thing that happened.
    pub fn step(&mut self, now_us: u64, input: LeaseInput) {
        if self.lost.is_some() {
            return;
        }
        // First of all: an answer that comes after the deadline does not bring the lease back.
        if now_us >= self.deadline_us {
            let after_ms = (now_us - self.kept_alive_at_us()) / 1_000;
            return self.lose(LeaseLost::Expired { after_ms });
        }
        match input {
            LeaseInput::KeptAlive { number, ttl_us } => {
                if let Some(sent_at_us) = self.answered(number) {
                    if ttl_us == 0 {
                        return self.lose(LeaseLost::Ended);
                    }
                    (self.reopen, self.failures) = (false, 0);
                    self.count_from(sent_at_us, ttl_us);
                }
            }
            LeaseInput::Failed(number) => {
                if self.answered(number).is_some() {
                    self.failed(now_us);
                }
            }
            LeaseInput::Tick => {}
        }
        if let Some((_, sent_at_us)) = self.pending
            && now_us >= sent_at_us.saturating_add(self.interval_us())
        {
            self.pending = None;
            self.failed(now_us);
        }
        if self.pending.is_none() && now_us >= self.due_us {
            self.last_number = KeepAliveNumber(self.last_number.0 + 1);
            self.pending = Some((self.last_number, now_us));
            self.ready.keep_alive = Some(KeepAlive { number: self.last_number, reopen: self.reopen });
        }
    }

    /// Everything that follows from the steps since the last call.
    pub fn take_ready(&mut self) -> LeaseReady {
        mem::take(&mut self.ready)
    }

    /// When to step at the latest, if at all.
    pub fn next_timeout_us(&self) -> Option<u64> {
        if self.lost.is_some() {
            return None;
        }
        let next_us = match self.pending {
            Some((_, sent_at_us)) => sent_at_us.saturating_add(self.interval_us()),
            None => self.due_us,
        };
        Some(next_us.min(self.deadline_us))
    }

    /// Why it is lost, if it is.
    pub fn lost(&self) -> Option<LeaseLost> {
        self.lost
    }

    fn interval_us(&self) -> u64 {
        self.ttl_us / KEEP_ALIVE_PARTS
    }

    /// When the keepalive that the deadline counts from was sent.
    fn kept_alive_at_us(&self) -> u64 {
        (self.deadline_us + self.margin_us).saturating_sub(self.ttl_us)
    }

    /// When the keepalive was sent, if it is the one under way.
    fn answered(&mut self, number: KeepAliveNumber) -> Option<u64> {
        self.pending.take_if(|(pending, _)| *pending == number).map(|(_, sent_at_us)| sent_at_us)
    }

    fn count_from(&mut self, sent_at_us: u64, ttl_us: u64) {
        self.ttl_us = ttl_us;
        self.deadline_us = self.deadline_us.max(sent_at_us.saturating_add(ttl_us).saturating_sub(self.margin_us));
        self.due_us = sent_at_us.saturating_add(self.interval_us());
    }

    fn failed(&mut self, now_us: u64) {
        let delay_us = retry::delay_us(self.ttl_us / RETRY_PARTS, self.interval_us(), self.failures);
        self.failures += 1;
        self.reopen = true;
        self.due_us = now_us.saturating_add(delay_us);
    }

    fn lose(&mut self, lost: LeaseLost) {
        self.lost = Some(lost);
        self.pending = None;
        self.ready = LeaseReady { keep_alive: None, lost: Some(lost) };
    }
}
