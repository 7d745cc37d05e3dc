//! What became of commands that one node has asked of leaders for its clients, by the names that
//! the log has of them.

use std::collections::{BTreeMap, BTreeSet};

use wasmill_record::Record;

use super::{Checked, hold};

/// Names a call: who asks, and in which of its calls.
type Call = (u64, u64);
/// Names what a client has asked, which may take several calls: who asks, and for which client.
type Asked = (u64, u64);

/// Every call that was ever made.
#[derive(Debug, Default)]
pub struct Calls {
    made: BTreeMap<Call, Asked>,
    decided: BTreeSet<Asked>,
    told_undone: BTreeSet<Asked>,
}

impl Calls {
    /// A call is made for a client.
    pub fn asked(&mut self, call: Call, client: u64) {
        self.made.insert(call, (call.0, client));
    }

    /// A record is durable: what it names is decided now, and never was before.
    ///
    /// # Errors
    ///
    /// When a command is decided for the second time, or its client was told that it never will be.
    pub fn durable(&mut self, record: &Record) -> Checked {
        for decided in record.decided.iter().flatten() {
            let Some(asked) = self.made.get(&(decided.asker, decided.number)) else { continue };
            hold!(self.decided.insert(*asked), "a command of a client of {asked:?} is decided twice");
            hold!(!self.told_undone.contains(asked), "a client of {asked:?} was told that nothing was done");
        }
        Ok(())
    }

    /// A client is told that nothing was done, and never will be.
    ///
    /// # Errors
    ///
    /// When it was.
    pub fn told_undone(&mut self, asker: u64, client: u64) -> Checked {
        hold!(!self.decided.contains(&(asker, client)), "client {client} of {asker} is told that nothing was done");
        self.told_undone.insert((asker, client));
        Ok(())
    }
}
