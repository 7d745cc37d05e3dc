//! When a node leads.
//!
//! A *round* is one lease and everything that is tried with it: the lease is granted, kept alive
//! while the election is waited for, and when that is won a guarded write must prove that the seat
//! is still ours. An election can be reported as won although the lease had died while it was
//! queued. Every failure ends the round: its lease is given back, and the next round begins with
//! another.
//!
//! Once elected there is no other round: the seat is held until it is lost or given back. To be
//! elected is only the permission to try; who leads is decided by the log.

mod io;
#[cfg(test)]
mod tests;

use std::mem;

use wasmill_protocol::Term;

pub use io::{Action, Config, Input, LeaseId, Round};

use crate::lease::{Lease, LeaseInput};
use crate::retry::{self, Jitter};

/// One node's way to the seat, and how long it holds it.
#[derive(Debug)]
pub struct Candidacy {
    config: Config,
    round: Round,
    phase: Phase,
    /// Rounds that failed in a row.
    failures: u32,
    jitter: Jitter,
    ready: Vec<Action>,
}

#[derive(Debug)]
enum Phase {
    /// The next round begins then.
    Pausing { until_us: u64 },
    /// A lease was asked for.
    Granting { asked_at_us: u64 },
    /// The lease is kept alive.
    Holding(HeldLease),
    /// Nothing follows any more.
    Over,
}

/// A lease, and how far we are with it.
#[derive(Debug)]
struct HeldLease {
    id: LeaseId,
    lease: Lease,
    seat: CandidacyStage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CandidacyStage {
    /// The election is under way.
    Campaigning,
    /// It is said to be won; the guarded write is under way.
    Guarding(Term),
    /// It is won.
    Elected(Term),
}

impl Candidacy {
    /// A candidate that begins at its first step.
    pub fn new(config: Config) -> Self {
        let jitter = Jitter(config.seed);
        let phase = Phase::Pausing { until_us: 0 };
        Self { config, round: Round(0), phase, failures: 0, jitter, ready: Vec::new() }
    }

    /// Takes in one thing that happened.
    pub fn step(&mut self, now_us: u64, input: Input) {
        // A lease that ended while nobody looked is lost before anything else is heard.
        self.step_lease(now_us, LeaseInput::Tick);
        match input {
            Input::Granted { round, lease, ttl_us } => self.granted(now_us, round, lease, ttl_us),
            Input::KeptAlive { round, number, ttl_us } if round == self.round => {
                self.step_lease(now_us, LeaseInput::KeptAlive { number, ttl_us });
            }
            Input::KeepAliveFailed { round, number } if round == self.round => {
                self.step_lease(now_us, LeaseInput::Failed(number));
            }
            Input::Won { round, term } if round == self.round => self.won(term),
            Input::Guarded { round, holds } if round == self.round => self.guarded(now_us, holds),
            Input::Failed { round } if round == self.round => self.round_failed(now_us),
            Input::Resign => self.resign(),
            // Of a round that is over.
            Input::KeptAlive { .. }
            | Input::KeepAliveFailed { .. }
            | Input::Won { .. }
            | Input::Guarded { .. }
            | Input::Failed { .. } => {}
            Input::Tick => {}
        }
        if let Phase::Pausing { until_us } = self.phase
            && now_us >= until_us
        {
            self.round = Round(self.round.0 + 1);
            self.phase = Phase::Granting { asked_at_us: now_us };
            self.ready.push(Action::Grant { round: self.round });
        }
    }

    /// The actions to carry out, in this order. Every action of a round that is not the newest can
    /// be given up.
    pub fn take_ready(&mut self) -> Vec<Action> {
        mem::take(&mut self.ready)
    }

    /// When to step at the latest, if at all.
    pub fn next_timeout_us(&self) -> Option<u64> {
        match &self.phase {
            Phase::Pausing { until_us } => Some(*until_us),
            Phase::Holding(held) => held.lease.next_timeout_us(),
            Phase::Granting { .. } | Phase::Over => None,
        }
    }

    /// The term, while the seat is held.
    pub fn elected(&self) -> Option<Term> {
        match &self.phase {
            Phase::Holding(HeldLease { seat: CandidacyStage::Elected(term), .. }) => Some(*term),
            _ => None,
        }
    }

    fn granted(&mut self, now_us: u64, round: Round, id: LeaseId, ttl_us: u64) {
        match self.phase {
            Phase::Granting { asked_at_us } if round == self.round => {
                let lease = Lease::new(asked_at_us, ttl_us, self.config.margin_us);
                self.phase = Phase::Holding(HeldLease { id, lease, seat: CandidacyStage::Campaigning });
                // Kept alive before anything that can take long.
                self.step_lease(now_us, LeaseInput::Tick);
                if let Phase::Holding(_) = self.phase {
                    self.ready.push(Action::Campaign { round, lease: id });
                }
            }
            // Too late: nobody is going to keep it alive.
            _ => self.ready.push(Action::Revoke { lease: id }),
        }
    }

    fn won(&mut self, term: Term) {
        if let Phase::Holding(held) = &mut self.phase
            && held.seat == CandidacyStage::Campaigning
        {
            held.seat = CandidacyStage::Guarding(term);
            self.ready.push(Action::Guard { round: self.round, lease: held.id, term });
        }
    }

    fn guarded(&mut self, now_us: u64, holds: bool) {
        match &mut self.phase {
            Phase::Holding(held) => match held.seat {
                CandidacyStage::Guarding(term) if holds => {
                    held.seat = CandidacyStage::Elected(term);
                    self.ready.push(Action::Elected { term });
                }
                CandidacyStage::Guarding(_) => self.round_failed(now_us),
                CandidacyStage::Campaigning | CandidacyStage::Elected(_) => {}
            },
            Phase::Pausing { .. } | Phase::Granting { .. } | Phase::Over => {}
        }
    }

    fn step_lease(&mut self, now_us: u64, input: LeaseInput) {
        let Phase::Holding(held) = &mut self.phase else { return };
        held.lease.step(now_us, input);
        let ready = held.lease.take_ready();
        if let Some(keep_alive) = ready.keep_alive {
            self.ready.push(Action::KeepAlive { round: self.round, lease: held.id, keep_alive });
        }
        let Some(reason) = ready.lost else { return };
        if matches!(held.seat, CandidacyStage::Elected(_)) {
            // Nothing is given back: it is not ours any more.
            self.ready.push(Action::Lost { reason });
            self.phase = Phase::Over;
        } else {
            self.round_failed(now_us);
        }
    }

    /// The round is over, and was for nothing.
    fn round_failed(&mut self, now_us: u64) {
        match &self.phase {
            // A seat that is held is not given up for an answer that comes late.
            Phase::Holding(HeldLease { seat: CandidacyStage::Elected(_), .. })
            | Phase::Pausing { .. }
            | Phase::Over => return,
            Phase::Holding(held) => self.ready.push(Action::Revoke { lease: held.id }),
            Phase::Granting { .. } => {}
        }
        let delay_us = retry::delay_us(self.config.retry_us, self.config.retry_us_max, self.failures);
        self.failures += 1;
        self.phase = Phase::Pausing { until_us: now_us.saturating_add(self.jitter.draw_us(delay_us)) };
    }

    fn resign(&mut self) {
        match &self.phase {
            Phase::Holding(HeldLease {
                id,
                seat: CandidacyStage::Elected(term) | CandidacyStage::Guarding(term),
                ..
            }) => {
                self.ready.push(Action::Release { lease: *id, term: *term });
            }
            Phase::Holding(held) => self.ready.push(Action::Revoke { lease: held.id }),
            Phase::Pausing { .. } | Phase::Granting { .. } | Phase::Over => {}
        }
        self.phase = Phase::Over;
    }
}
