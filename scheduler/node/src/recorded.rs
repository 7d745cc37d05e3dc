//! What the log has said of the commands of one node: so it knows what became of one whose answer
//! was lost.
//!
//! Every record names the commands that it decides. A leader whose answer does not come may have
//! recorded a command or not, and may still do so; but no record of its term counts after the first
//! one of a later term. A node that has read where a later term begins, and every record from
//! before it asked up to there, knows.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use wasmill_protocol::LogSeq;
use wasmill_protocol::command::Done;
use wasmill_record::Record;

/// Commands of this node that are remembered: more than can wait for an answer at once.
const REMEMBERED_MAX: usize = 1 << 16;

/// Names a command of this node: the number of its call, and its place in that.
pub type Name = (u64, u32);

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// This record holds it.
    Done(LogSeq, Done),
    /// No record holds it, and none ever will.
    NotRecorded,
    /// The log does not tell.
    Unknown,
}

/// What this node has read of its own commands.
#[derive(Debug)]
pub struct Recorded {
    /// Tells this node's commands from those of others.
    asker: u64,
    done: BTreeMap<Name, (LogSeq, Done)>,
    /// Those, by the order of the log.
    by_age: VecDeque<Name>,
    /// Up to this record the log may hold commands that this node has not seen: it was not read, it
    /// names none, or what it named is forgotten.
    blind_to: LogSeq,
    /// The last record that was read.
    last: LogSeq,
}

impl Recorded {
    /// Nothing has been read. `asker` tells the commands of this process from all others.
    pub fn new(asker: u64) -> Self {
        Self { asker, done: BTreeMap::new(), by_age: VecDeque::new(), blind_to: LogSeq(0), last: LogSeq(0) }
    }

    /// The last record that was read.
    pub fn last(&self) -> LogSeq {
        self.last
    }

    /// What follows is read after this record, and what comes before it is not.
    pub fn restored(&mut self, seq: LogSeq) {
        if seq > self.last {
            (self.last, self.blind_to) = (seq, seq);
        }
    }

    /// A record was read. One that was read before changes nothing.
    pub fn read(&mut self, seq: LogSeq, record: &Record) {
        if seq <= self.last {
            return;
        }
        if seq != self.last.next() {
            self.blind_to = LogSeq(seq.0 - 1);
        }
        self.last = seq;
        let Some(decided) = &record.decided else {
            self.blind_to = seq;
            return;
        };
        let asker = self.asker;
        for decided in decided.iter().filter(|decided| decided.asker == asker) {
            for (place, done) in &decided.done {
                self.remember((decided.number, *place), seq, done.clone());
            }
        }
    }

    fn remember(&mut self, name: Name, seq: LogSeq, done: Done) {
        self.done.insert(name, (seq, done));
        self.by_age.push_back(name);
        if self.by_age.len() > REMEMBERED_MAX
            && let Some(oldest) = self.by_age.pop_front()
            && let Some((forgotten, _)) = self.done.remove(&oldest)
        {
            self.blind_to = self.blind_to.max(forgotten);
        }
    }

    /// What the log says of a command, whether a later term has begun or not.
    pub fn done(&self, name: Name) -> Option<(LogSeq, Done)> {
        self.done.get(&name).cloned()
    }

    /// What became of a command that was asked of leaders when record `position` had been read, now
    /// that a later term than all of theirs has begun with record `began`.
    pub fn fate(&self, name: Name, position: LogSeq, began: LogSeq) -> Fate {
        match self.done.get(&name) {
            Some((seq, done)) => Fate::Done(*seq, done.clone()),
            None if self.blind_to > position || self.last < began => Fate::Unknown,
            None => Fate::NotRecorded,
        }
    }
}
