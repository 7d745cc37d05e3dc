//! Snapshots: a leader stores what its state says after a record, and lets go of the records that nobody needs any more who starts from there.

use std::sync::Arc;

use wasmill_protocol::{Digest, LogSeq, Term};
use wasmill_record::event::EventBody;
use wasmill_record::snapshot::{Current, ReadModelCopy, SnapshotRef};
use wasmill_scheduler_core::State;
use wasmill_scheduler_node::following::{self, Beginning};
use wasmill_scheduler_node::leading::Input as NodeInput;
use wasmill_scheduler_node::upkeep::{Ended, Work};
use wasmill_scheduler_node::{Chain, Following, watch};

use super::{Happening, LogHappening, Sender, World};
use crate::log::Entry;
use crate::marks::Mark;
use crate::node::{Fold, Halt, LogWait, uptime_us};
use crate::oracle::{Checked, Violation, hold};
use crate::plant::Plant;
use crate::servers::{LogAsk, STREAM, Snapshot};

/// How long it takes at most to store a snapshot, in microseconds.
const STORE_US_MAX: u64 = 2_000_000;

impl World {
    /// Begins the work that a leader says, up to record `seq`.
    pub(super) fn begin_work(&mut self, node: usize, seq: LogSeq, work: Work) {
        let sender = Sender { node, life: self.nodes[node].life };
        let Some(term) = self.nodes[node].leader().map(|leader| leader.term()) else { return };
        match work {
            Work::Snapshot(frozen, chain) => {
                let Chain { last, hash, log_bytes } = chain;
                let seq = if self.plant == Some(Plant::SnapshotMisnamed) { last.next() } else { last };
                let snapshot = Arc::new(Snapshot { seq, hash, log_bytes, parts: frozen.into_parts().collect() });
                let delay = self.rng.skewed(STORE_US_MAX);
                self.at(delay, Happening::Log(LogHappening::SnapshotStored(sender, term, snapshot)));
            }
            Work::Measure => self.work_ended(sender, term, Ended::Measured(0)),
            Work::Copy { log_bytes } => {
                let (now, delay) = (self.now, self.rng.skewed(STORE_US_MAX));
                let Some(process) = &self.nodes[node].process else { return };
                let (seq, at) = (process.published.min(seq), process.clock(now));
                let copy = ReadModelCopy { seq, digest: Digest::default(), bytes: 1, log_bytes, at };
                self.at(delay, Happening::Log(LogHappening::WorkEnded(sender, term, Box::new(Ended::Copy(copy)))));
            }
            Work::Trim(to) => {
                let newest = self.nodes[node].process.as_ref().and_then(|process| process.current.newest());
                let to = match newest {
                    Some(newest) if self.plant == Some(Plant::TrimmedTooFar) => newest.seq,
                    _ => to,
                };
                self.ask_log(node, LogAsk::Trim(to), LogWait::Trim(term));
            }
        }
    }

    /// Some work of the leader of a term has ended.
    pub(super) fn work_ended(&mut self, sender: Sender, term: Term, ended: Ended) {
        if self.nodes[sender.node].leader().is_some_and(|leader| leader.term() == term) {
            self.tell_leader(sender, NodeInput::WorkEnded(ended));
        }
    }

    /// A snapshot is stored, as a blob that nobody knows of before the log names it.
    pub(super) fn snapshot_stored(&mut self, sender: Sender, term: Term, snapshot: &Arc<Snapshot>) {
        let damaged = self.rng.chance(self.cluster().snapshots_lost);
        let Some(process) = self.nodes[sender.node].alive(sender.life) else { return };
        let newest = process.current.newest().map(|newest| newest.digest);
        let Some(leader) = process.leader.as_mut().filter(|leader| leader.term() == term) else { return };
        // Some blobs are damaged before anybody reads them; two snapshots are kept for that, so never both.
        let servers = self.servers.as_deref_mut().expect("a cluster has servers");
        let before = newest.is_none_or(|newest| servers.snapshots.contains_key(&newest));
        leader.snapshot_lost = damaged && before && !leader.snapshot_lost;
        let digest = snapshot.hash;
        if !leader.snapshot_lost {
            servers.snapshots.insert(digest, Arc::clone(snapshot));
        }
        let (bytes, log_bytes) = (snapshot.parts.len() as u64, snapshot.log_bytes);
        self.marks.hit(Mark::SnapshotTaken);
        self.work_ended(sender, term, Ended::Snapshot(SnapshotRef { seq: snapshot.seq, digest, bytes, log_bytes }));
    }

    /// Whether the log was trimmed after the answer that it begins at `first`, or cannot be read now, and a node is to begin there: it looks again
    /// then.
    pub(super) fn was_trimmed_since(&mut self, node: usize, first: LogSeq) -> bool {
        let begins =
            self.nodes[node].process.as_ref().is_some_and(|process| !process.begun && process.leader.is_none());
        begins && !self.servers().jetstream.info(STREAM).is_ok_and(|info| info.first_seq <= first.0)
    }

    /// A node begins to read: at the newest snapshot that can be used, or at the first record.
    pub(super) fn begin_reading(&mut self, node: usize, first: LogSeq, last: LogSeq) -> Checked {
        let Some(process) = &self.nodes[node].process else { return Ok(()) };
        if process.begun || process.leader.is_some() {
            return Ok(());
        }
        let named = self.snapshots_named(first, last);
        let mut usable = None;
        for found in named.iter().rev().filter(|found| found.seq.next() >= first) {
            match self.servers().snapshots.get(&found.digest) {
                Some(snapshot) => {
                    usable = Some(Arc::clone(snapshot));
                    break;
                }
                None => self.marks.hit(Mark::SnapshotUnusable),
            }
        }
        if usable.is_none() && first > LogSeq(1) {
            return self.halt(node, Halt::NoSnapshot { first });
        }
        let fold = match usable {
            Some(snapshot) => self.restore(&snapshot)?,
            None => Fold::default(),
        };
        let (now, plant) = (self.now, self.plant);
        let (reading, uptime) = (self.nodes[node].reading(now), self.nodes[node].uptime(now));
        if let Some(process) = &mut self.nodes[node].process {
            // What the read model lacks of what comes before, it takes from the log or from a copy.
            if fold.last > process.published {
                process.shown = fold.state.led().clone();
            }
            process.publish(fold.last, now);
            (process.end_found, process.heard_us) = (last, uptime_us(now));
            process.clock.log_found(fold.state.led().last_event(), &fold.state.led().expected(&uptime), reading);
            process.current = fold.state.current().clone();
            if let Some(cluster) = &mut process.cluster {
                cluster.forwards.restored(now.0, fold.last, fold.state.term());
                cluster.asks += 1;
                let (end, clock_is_believed) = (last, process.may_lead());
                let beginning = Beginning { last: fold.last, term: fold.state.term(), end, clock_is_believed };
                process.following = Some(Following::new(follow_config(plant), beginning, now.0));
            }
            process.fold = fold;
            process.begun = true;
            self.touch_node(node);
        }
        Ok(())
    }

    /// The snapshots that the log names, in the order of the log.
    fn snapshots_named(&mut self, first: LogSeq, last: LogSeq) -> Vec<SnapshotRef> {
        let mut named = Vec::new();
        for seq in first.0..=last.0 {
            let stored = self.servers.as_deref().and_then(|servers| servers.jetstream.peek(STREAM, seq));
            let Some(payload) = stored.map(|stored| stored.payload.clone()) else { continue };
            let Ok(entry) = self.decoder.decode(LogSeq(seq), &payload) else { continue };
            named.extend(entry.record.events.iter().filter_map(|event| match event.body {
                EventBody::SnapshotTaken { snapshot } => Some(snapshot),
                _ => None,
            }));
        }
        named
    }

    /// What a snapshot holds is what the whole log says up to it.
    fn restore(&mut self, snapshot: &Snapshot) -> Result<Fold, Violation> {
        self.marks.hit(Mark::SnapshotRead);
        let state = State::from_snapshot(snapshot.parts.iter().cloned());
        let state =
            state.map_err(|error| Violation(format!("the snapshot of {} cannot be read: {error}", snapshot.seq)))?;
        if !self.oracle.shortened {
            let mut whole = State::default();
            whole.read_model_at(snapshot.seq);
            for (entry, seq) in self.oracle.entries().iter().zip(1..=snapshot.seq.0) {
                whole.apply_record(LogSeq(seq), &entry.record.events);
            }
            hold!(whole == state, "the snapshot of {} is not what the log says up to there", snapshot.seq);
        }
        Ok(Fold { state, last: snapshot.seq, prev_hash: snapshot.hash, log_bytes: snapshot.log_bytes })
    }
}

/// As in a real node, but that the leader is asked less often whether it is there: it costs less here.
fn follow_config(plant: Option<Plant>) -> following::Config {
    let leader = watch::Config { ask_after_us: 2_000_000, ask_again_us: 500_000, ..watch::LEADER };
    let tampering = following::Tampering { leads_unread: plant == Some(Plant::EndUnread) };
    following::Config { leader, tampering, ..following::Config::default() }
}

/// Takes in what a record says of snapshots.
pub(super) fn note_current(current: &mut Current, entry: &Entry) {
    for event in &entry.record.events {
        match event.body {
            EventBody::SnapshotTaken { snapshot } => current.snapshot_taken(snapshot),
            EventBody::ReadModelSaved { copy } => current.read_model_saved(copy),
            _ => {}
        }
    }
}
