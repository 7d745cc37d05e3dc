//! What goes into a node that follows and what comes out.

use wasmill_protocol::{LogSeq, Term};

use crate::watch::{self, Question};

/// Bounds of a node that follows.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// How long an elected node may take to read what is left of the log before it lets others try,
    /// in microseconds.
    pub catch_up_us: u64,
    /// How often the leader is asked whether it is there.
    pub leader: watch::Config,
    /// A node that could not read the log when it was elected stands again after this time, in
    /// microseconds.
    pub retry_us: u64,
    /// What is changed on purpose.
    pub tampering: Tampering,
}

impl Default for Config {
    fn default() -> Self {
        Self { catch_up_us: 60_000_000, leader: watch::LEADER, retry_us: 500_000, tampering: Tampering::default() }
    }
}

/// What a test changes in what a node decides; nothing in a real node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tampering {
    /// It leads before it has read to the end.
    pub leads_unread: bool,
}

/// What a node knows when it begins to follow.
#[derive(Debug, Clone, Copy)]
pub struct Beginning {
    /// The record up to which it knows the log.
    pub last: LogSeq,
    /// The term that the log has come to there.
    pub term: Term,
    /// Where the log ends now.
    pub end: LogSeq,
    /// Whether its clock is believed.
    pub clock_is_believed: bool,
}

/// Everything that can happen to a node that follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// It has read records of the log.
    Read {
        /// The last one.
        last: LogSeq,
        /// The term that the log has come to there.
        term: Term,
    },
    /// The log cannot be read at the moment.
    ReadFailed,
    /// The log was asked where it ends.
    LogEnds {
        /// In which question.
        question: Question,
        /// Where; `None` when it did not answer.
        end: Option<LogSeq>,
    },
    /// The leader was asked whether it is there.
    LeaderAsked {
        /// In which question.
        question: Question,
        /// Whether it is.
        presence: Presence,
    },
    /// Whether the clock of this node is believed may have changed.
    Clock {
        /// Whether it is.
        is_believed: bool,
    },
    /// The election is won. The lease is held until [`Action::Release`] or [`Action::Lead`].
    Elected(Term),
    /// The lease of the seat has ended.
    SeatLost,
    /// Time has passed.
    Tick,
}

/// What is known of the leader of a term after it was asked for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is there.
    Leads,
    /// It has not answered.
    Silent,
    /// Nobody leads in that term any more, or nobody whom this node can reach.
    Gone,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// To ask the log where it ends.
    AskLog(Question),
    /// To ask the leader of a term whether it is there.
    AskLeader(Question, Term),
    /// To stand for election.
    Stand,
    /// To stand for it no longer: somebody is to be elected who can lead.
    Withdraw,
    /// To give the seat back.
    Release(GivenUp),
    /// To lead in a term, on top of what was read. Nothing follows.
    Lead(Term),
    /// To stop: the election has given a term again. Nothing follows.
    Halt {
        /// Which.
        term: Term,
        /// The one that the log has come to.
        seen: Term,
    },
    /// To tell clients whether the log answers.
    TellLog {
        /// Whether it does.
        answers: bool,
    },
    /// To tell clients who leads.
    TellLeader {
        /// The leader of this term answers; `None` when nobody does.
        answers: Option<Term>,
    },
}

/// Why an elected node does not lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GivenUp {
    /// Its lease has ended.
    SeatLost,
    /// It cannot read the log.
    LogUnreachable,
    /// It has not come to the end of the log in time.
    TooSlow,
    /// Somebody was elected after it, and was faster.
    Overtaken,
    /// Its clock is not believed any more.
    Clock,
}
