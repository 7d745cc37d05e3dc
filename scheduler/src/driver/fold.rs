//! The log, folded record by record: what a control node does all the time, whether it will lead or not.

use std::sync::Arc;

use bytes::Bytes;
use wasmill_fabric::LogError;
use wasmill_protocol::{Digest, LogSeq, Term};
use wasmill_record::Record;
use wasmill_record::event::EventBody;
use wasmill_scheduler_core::State;
use wasmill_scheduler_node::Chain;

use super::begin::Beginning;
use wasmill_fabric::Fabric;

use super::DriverError;
use crate::handle::Shared;
use crate::snapshot::Snapshot;

/// What the log says so far.
pub(super) struct Fold {
    /// The fold.
    pub(super) state: State,
    /// The last record, and what the next one is chained to.
    pub(super) chain: Chain,
    /// Snapshots that the log names and that could not be used.
    pub(super) unusable: Vec<Digest>,
    /// Where the log ended when this began.
    pub(super) end: LogSeq,
}

impl Fold {
    /// What the newest snapshot says, or nothing yet. The log must reach as far as the read model has seen it.
    pub(super) async fn begin(fabric: &Fabric, shared: &Shared, published: &mut LogSeq) -> Result<Self, DriverError> {
        let Beginning { snapshot, unusable, end } = Beginning::find(fabric, shared).await?;
        let Snapshot { chain, state, directory } = snapshot;
        if *published < chain.last {
            shared.directory.restore(directory);
            // Who waits for a task may wait for one that ended in records that this node never sees.
            shared.finals.interrupt();
            shared.clock.restored(state.led());
            *published = chain.last;
            shared.published.send_replace(chain.last);
            shared.forwards.restored(chain.last, state.term());
        }
        if chain.last > LogSeq(0) {
            note_term(shared, state.term(), chain.last, state.leader());
        }
        let fold = Self { state, chain, unusable, end };
        fold.note_progress(shared);
        Ok(fold)
    }

    /// Whether this node has seen what was there when it began.
    pub(super) fn is_caught_up(&self) -> bool {
        self.chain.last >= self.end
    }

    /// Once this node has caught up it answers readers.
    fn note_progress(&self, shared: &Shared) {
        if self.is_caught_up() {
            shared.standing.send_if_modified(|standing| !std::mem::replace(&mut standing.caught_up, true));
        }
    }

    /// Takes in the next record: checks that it follows, and publishes it unless `shared` has seen it before.
    ///
    /// Whoever waits for this may give up at any time: all waiting comes first, and what is taken in then is taken in by all.
    pub(super) async fn take(
        &mut self,
        seq: LogSeq,
        bytes: &Bytes,
        shared: &Shared,
        published: &mut LogSeq,
    ) -> Result<(), DriverError> {
        if seq != self.chain.last.next() {
            return Err(LogError::Missing { seq: self.chain.last.next() }.into());
        }
        let record = Record::decode(seq, bytes)?;
        if record.prev_hash != self.chain.hash {
            return Err(DriverError::Chain { seq });
        }
        check_term(seq, &record, self.state.term())?;
        if seq > *published {
            shared.read_model.caught_up().await;
        }
        self.state.apply_record(seq, &record.events);
        self.chain = self.chain.then(bytes);
        for event in &record.events {
            if let EventBody::TermStarted { term, node, .. } = &event.body {
                note_term(shared, *term, seq, node);
                if seq > self.end {
                    // It was written while this node has followed: just now.
                    shared.leader_answers(*term);
                }
            }
        }
        publish_now(shared, published, seq, &Arc::new(record));
        self.state.read_model_at(keys_are_in_read_model_to(seq));
        self.note_progress(shared);
        Ok(())
    }
}

/// A record is valid if its term is that of the latest `TermStarted`, which may be its own, and these only grow.
fn check_term(seq: LogSeq, record: &Record, before: Term) -> Result<(), DriverError> {
    let mut current = before;
    for event in &record.events {
        if let EventBody::TermStarted { term, .. } = event.body {
            if term <= current {
                return Err(DriverError::TermMixed { seq, found: term, current });
            }
            current = term;
        }
    }
    if record.term != current {
        return Err(DriverError::TermMixed { seq, found: record.term, current });
    }
    Ok(())
}

/// The records whose idempotency keys the state may forget once the read model shows `seq`. Some that the read model has are kept, so that a key that was
/// looked up a moment ago need not be looked up again.
pub(super) fn keys_are_in_read_model_to(seq: LogSeq) -> LogSeq {
    const KEY_RECORDS_KEPT: u64 = 4096;
    LogSeq(seq.0.saturating_sub(KEY_RECORDS_KEPT))
}

/// Notes which term has begun. A node that reads the log anew knows of later ones than it comes by first. Whether its leader still leads the log does not tell.
fn note_term(shared: &Shared, term: Term, began: LogSeq, by: &str) {
    shared.standing.send_if_modified(|standing| {
        let news = term > standing.term;
        if news {
            (standing.term, standing.began, standing.began_by) = (term, began, by.to_owned());
        }
        news
    });
}

/// Makes a durable record visible to readers and wakes those who wait for what it holds, once. It does not wait for the read model: who
/// follows has done that before, and a leader slows down those who submit instead.
pub(super) fn publish_now(shared: &Shared, published: &mut LogSeq, seq: LogSeq, record: &Arc<Record>) {
    if seq <= *published {
        return;
    }
    shared.clock.published(seq, &record.events);
    let modules_removed = shared.directory.apply(&record.events);
    // The read model may have been ahead of us on disk: it ignores what it holds already.
    shared.read_model.apply(seq, record);
    if !modules_removed.is_empty() {
        // Tasks or other tenants may have them still.
        shared.read_model.note_unneeded(modules_removed);
    }
    shared.finals.announce(record);
    *published = seq;
    shared.published.send_replace(seq);
    shared.forwards.read(seq, record);
}

#[cfg(test)]
mod tests;
