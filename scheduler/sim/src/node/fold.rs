//! What a control node reads from the log, and why it refuses to go on.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};

use wasmill_protocol::{Digest, LogSeq, Term};
use wasmill_scheduler_core::State;

use crate::log::Entry;

/// The log up to some record.
#[derive(Debug, Default)]
pub struct Fold {
    /// What it says.
    pub state: State,
    /// The last record that was read.
    pub last: LogSeq,
    /// What the next record is chained to.
    pub prev_hash: Digest,
    /// Bytes of all records so far.
    pub log_bytes: u64,
}

/// Why a node has halted: what is wrong with what it stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Halt {
    /// A record is not there.
    Missing(LogSeq),
    /// A record does not follow from the one before.
    Chain(LogSeq),
    /// A record cannot be read, or cannot be true.
    Unreadable(LogSeq),
    /// A record was written by somebody who did not lead.
    TermMixed(LogSeq),
    /// The log ends before what was seen of it.
    Shortened {
        /// Where it ends.
        last: LogSeq,
        /// What was seen.
        seen: LogSeq,
    },
    /// The election gave a term that the log has seen.
    TermRegressed {
        /// What it gave.
        term: Term,
        /// The last in the log.
        seen: Term,
    },
    /// The log begins after what was read of it: a snapshot has to be read first.
    Trimmed {
        /// What was to be read.
        next: LogSeq,
        /// Where the log begins.
        first: LogSeq,
    },
    /// No snapshot that can be used leads on to where the log begins.
    NoSnapshot {
        /// Where the log begins.
        first: LogSeq,
    },
    /// The log answers what it never should.
    Storage(String),
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Fold {
    /// Reads one record, which must be the next.
    ///
    /// # Errors
    ///
    /// When it is not, or is not chained to the one before.
    pub fn read(&mut self, seq: LogSeq, entry: &Entry) -> Result<(), Halt> {
        let next = self.last.next();
        if seq != next {
            return Err(Halt::Missing(next));
        }
        if entry.record.prev_hash != self.prev_hash {
            return Err(Halt::Chain(seq));
        }
        let state = &mut self.state;
        // What cannot follow from what is before it makes the fold panic, and the process end.
        let applied = panic::catch_unwind(AssertUnwindSafe(|| state.apply_record(seq, &entry.record.events)));
        if applied.is_err() {
            return Err(Halt::Unreadable(seq));
        }
        if entry.record.term != self.state.term() {
            return Err(Halt::TermMixed(seq));
        }
        (self.last, self.prev_hash) = (seq, entry.hash);
        self.log_bytes += entry.bytes.len() as u64;
        Ok(())
    }
}
