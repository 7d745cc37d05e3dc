//! The inputs of a [`Candidacy`](super::Candidacy), and its outputs.

use wasmill_protocol::Term;

use crate::lease::{KeepAlive, KeepAliveNumber, LeaseLost};

/// The times of a candidate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How long before it can end a lease counts as lost.
    pub margin_us: u64,
    /// The wait after a round that failed, of which the half to the whole is drawn; doubles with
    /// each failure in a row.
    pub retry_us: u64,
    /// Where the doubling ends.
    pub retry_us_max: u64,
    /// The seed that waits are drawn with.
    pub seed: u64,
}

impl Config {
    /// The usual times for leases of `ttl_us`.
    pub fn for_leases(ttl_us: u64, seed: u64) -> Self {
        Self { margin_us: ttl_us / 10, retry_us: 100_000, retry_us_max: 2_000_000, seed }
    }
}

/// One lease and everything that is tried with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Round(pub u64);

/// Names a lease for the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

/// Something that happened. An input of a round that is over changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// A lease was granted.
    Granted {
        /// To which round.
        round: Round,
        /// Which lease.
        lease: LeaseId,
        /// For how long.
        ttl_us: u64,
    },
    /// A keepalive was answered.
    KeptAlive {
        /// Of which round.
        round: Round,
        /// Which keepalive.
        number: KeepAliveNumber,
        /// How long the lease lives from then on; 0 when there is no such lease any more.
        ttl_us: u64,
    },
    /// A keepalive has failed.
    KeepAliveFailed {
        /// Of which round.
        round: Round,
        /// Which keepalive.
        number: KeepAliveNumber,
    },
    /// The server says that the election is won.
    Won {
        /// In which round.
        round: Round,
        /// The create revision of the leader key.
        term: Term,
    },
    /// The guarded write was done, or not.
    Guarded {
        /// In which round.
        round: Round,
        /// The leader key has the create revision that was won with.
        holds: bool,
    },
    /// A lease was not granted, an election has ended with an error, or it is not known whether a
    /// guarded write was done.
    Failed {
        /// In which round.
        round: Round,
    },
    /// We want to lead no longer.
    Resign,
    /// Time has passed.
    Tick,
}

/// Something that is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Ask for a lease.
    Grant {
        /// For this round.
        round: Round,
    },
    /// Keep the lease alive.
    KeepAlive {
        /// Of this round.
        round: Round,
        /// Which lease.
        lease: LeaseId,
        /// Which keepalive, and on which stream.
        keep_alive: KeepAlive,
    },
    /// Stand for election, for as long as it takes.
    Campaign {
        /// In this round.
        round: Round,
        /// With this lease.
        lease: LeaseId,
    },
    /// Write something, if and only if the leader key still has the create revision `term`.
    Guard {
        /// In this round.
        round: Round,
        /// Whose leader key.
        lease: LeaseId,
        /// Its create revision.
        term: Term,
    },
    /// Give the lease back, and whatever hangs on it.
    Revoke {
        /// Which lease.
        lease: LeaseId,
    },
    /// Remove the leader key if it still has the create revision `term`, then give the lease back.
    Release {
        /// Which lease.
        lease: LeaseId,
        /// The create revision.
        term: Term,
    },
    /// The seat is ours.
    Elected {
        /// Greater than that of everybody before.
        term: Term,
    },
    /// The seat is lost, for ever.
    Lost {
        /// Why.
        reason: LeaseLost,
    },
}
