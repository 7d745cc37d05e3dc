//! Reads the log to its end and folds it.

use std::sync::Arc;

use futures::StreamExt;
use sha2::{Digest as _, Sha256};
use wasmill_protocol::record::Record;
use wasmill_protocol::{Digest, LogSeq, Timestamp};
use wasmill_scheduler_core::State;

use super::{DriverError, Ground};
use crate::handle::Shared;

/// What the log says.
pub(super) struct Replay {
    /// The fold.
    pub(super) state: State,
    /// The last record.
    pub(super) last: LogSeq,
    /// The hash that the next record is chained to.
    pub(super) prev_hash: Digest,
}

impl Replay {
    /// Reads everything, checks the chain, and publishes what `shared` has not seen yet.
    pub(super) async fn run(ground: &Ground, shared: &Shared, published: &mut LogSeq) -> Result<Self, DriverError> {
        let last = ground.log.last_seq().await?;
        let seen = shared.read_model.position();
        if seen > last {
            return Err(DriverError::Shortened { last, seen });
        }
        let mut replay = Self { state: State::default(), last: LogSeq(0), prev_hash: Digest::default() };
        let mut tail = ground.log.tail(LogSeq(1));
        let mut seen = Timestamp::default();
        while replay.last < last {
            let Some(next) = tail.next().await else {
                return Err(DriverError::Shortened { last: replay.last, seen: last });
            };
            let (seq, bytes) = next?;
            let record = Record::decode(seq, &bytes)?;
            if record.prev_hash != replay.prev_hash {
                return Err(DriverError::Chain { seq });
            }
            replay.prev_hash = hash(&bytes);
            replay.last = seq;
            replay.state.apply_record(seq, &record.events);
            seen = record.events.last().map_or(seen, |event| event.at);
            publish(shared, published, seq, &Arc::new(record)).await;
        }
        shared.clock.not_before(seen);
        Ok(replay)
    }
}

/// Makes a durable record visible to readers and wakes those who wait for what it holds, once.
async fn publish(shared: &Shared, published: &mut LogSeq, seq: LogSeq, record: &Arc<Record>) {
    if seq <= *published {
        return;
    }
    shared.read_model.caught_up().await;
    publish_now(shared, published, seq, record);
}

/// [`publish`] for the leader, who must not wait: it slows down those who submit instead.
pub(super) fn publish_now(shared: &Shared, published: &mut LogSeq, seq: LogSeq, record: &Arc<Record>) {
    if seq <= *published {
        return;
    }
    shared.directory.apply(&record.events);
    // The read model may have been ahead of us on disk: it ignores what it holds already.
    shared.read_model.apply(seq, record);
    shared.finals.announce(record);
    *published = seq;
    shared.standing.send_if_modified(|standing| {
        standing.log_seq = seq;
        // Watchers care about leadership, not about every record.
        false
    });
}

/// What the record after `bytes` is chained to.
pub(super) fn hash(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}
