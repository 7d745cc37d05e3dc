//! What keeps starts short and the log small: when a snapshot is taken, when the read model is copied, and what of the log is let go.

#[cfg(test)]
mod tests;

use thiserror::Error;
use wasmill_protocol::{Digest, LogSeq, Timestamp};
use wasmill_record::event::{Event, EventBody};
use wasmill_record::snapshot::{Current, ReadModelCopy, SnapshotRef};
use wasmill_scheduler_core::state::Frozen;

use crate::Chain;

/// After a failure it is tried again after this time, at the next record, in milliseconds.
pub const RETRY_MS: u64 = 60_000;

/// How often snapshots are taken, and how much of the log is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotConfig {
    /// A snapshot is due after this many records.
    pub records: u64,
    /// Or after this many bytes of records.
    pub log_bytes: u64,
    /// Records that are kept although no start needs them: for nodes that are a little behind.
    pub keep_records: u64,
    /// A copy of the read model is made when it lets go of this many bytes of the log.
    pub copy_log_bytes: u64,
    /// And of this share of the read model's own size, in hundredths.
    pub copy_percent: u64,
}

/// A setting of [`SnapshotConfig`] that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`snapshot.{setting}` is {value}, at least {min} are needed")]
pub struct SnapshotConfigError {
    setting: &'static str,
    value: u64,
    min: u64,
}

impl SnapshotConfig {
    /// Whether these settings can work: the record that names a snapshot must not make the next one due.
    ///
    /// # Errors
    ///
    /// The first setting that is too small.
    pub fn check(&self) -> Result<(), SnapshotConfigError> {
        let bounds = [
            ("records", self.records, 4),
            ("log_bytes", self.log_bytes, 4096),
            ("copy_log_bytes", self.copy_log_bytes, 4096),
        ];
        match bounds.into_iter().find(|(_, value, min)| value < min) {
            Some((setting, value, min)) => Err(SnapshotConfigError { setting, value, min }),
            None => Ok(()),
        }
    }
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self { records: 50_000, log_bytes: 64 << 20, keep_records: 1_000, copy_log_bytes: 256 << 20, copy_percent: 100 }
    }
}

/// Something that takes long and goes on beside the leadership. Each is answered with how it has [`Ended`].
#[derive(Debug)]
pub enum Work {
    /// To store this as a snapshot, with what else is known up to the same record and no later one.
    Snapshot(Box<Frozen>, Chain),
    /// To find out how many bytes the read model has.
    Measure,
    /// To copy the read model. The log has so many bytes now.
    Copy {
        /// For [`ReadModelCopy::log_bytes`].
        log_bytes: u64,
    },
    /// To remove every record up to this one.
    Trim(LogSeq),
}

/// How some work has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// A snapshot is stored.
    Snapshot(SnapshotRef),
    /// None is stored.
    SnapshotFailed,
    /// The bytes of the read model.
    Measured(u64),
    /// A copy of the read model is stored.
    Copy(ReadModelCopy),
    /// None is stored, or the read model was not measured.
    CopyFailed,
    /// The log was trimmed.
    Trimmed,
    /// It was not.
    TrimFailed,
}

/// What is due and what is under way during one leadership.
///
/// What is under way when the leadership ends leaves nothing but a blob that no record names.
#[derive(Debug)]
pub struct Upkeep {
    config: SnapshotConfig,
    /// What the durable log names.
    current: Current,
    /// Snapshots that could not be used at the start. While one of them counts, the log is not trimmed.
    unusable: Vec<Digest>,
    /// What was taken hold of and waits for its last record to be durable.
    held: Option<(Box<Frozen>, Chain)>,
    snapshot: Due,
    copy: Due,
    /// By how many bytes the log had grown when the read model was measured.
    measured_at: u64,
    /// Up to where the log was trimmed, or is being trimmed.
    trimmed: LogSeq,
    trim_not_before: Timestamp,
}

/// When something of which there is one at a time is due again.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// Where the newest was taken, in records and in bytes.
    seq: LogSeq,
    log_bytes: u64,
    /// By how many bytes the log must have grown at least.
    growth_min: u64,
    is_running: bool,
    not_before: Timestamp,
}

impl Due {
    fn new(seq: LogSeq, log_bytes: u64, growth_min: u64) -> Self {
        Self { seq, log_bytes, growth_min, is_running: false, not_before: Timestamp(0) }
    }

    fn failed(&mut self, now: Timestamp) {
        (self.is_running, self.not_before) = (false, now.plus_ms(RETRY_MS));
    }

    fn may_begin(&self, now: Timestamp) -> bool {
        !self.is_running && now >= self.not_before
    }

    /// By how many bytes the log has grown.
    fn growth(&self, chain: &Chain) -> u64 {
        chain.log_bytes.saturating_sub(self.log_bytes)
    }
}

impl Upkeep {
    /// Nothing is under way. `current` is what the log names, `unusable` what of it could not be read at the start.
    pub fn new(config: SnapshotConfig, current: Current, unusable: Vec<Digest>) -> Self {
        let newest = current.newest().filter(|newest| !unusable.contains(&newest.digest));
        let snapshot =
            newest.map_or(Due::new(LogSeq(0), 0, 0), |newest| Due::new(newest.seq, newest.log_bytes, newest.bytes));
        let copy = current.read_model.unwrap_or_default();
        Self {
            snapshot,
            copy: Due::new(copy.seq, copy.log_bytes, config.copy_log_bytes),
            measured_at: 0,
            config,
            current,
            unusable,
            held: None,
            trimmed: LogSeq(0),
            trim_not_before: Timestamp(0),
        }
    }

    /// Whether a snapshot is to be taken after the record that was handed out last.
    pub fn wants_snapshot(&self, now: Timestamp, chain: &Chain) -> bool {
        let records = chain.last.0.saturating_sub(self.snapshot.seq.0);
        let bytes = self.snapshot.growth(chain);
        let is_due = records >= self.config.records || bytes >= self.config.log_bytes;
        // A snapshot of a long queue is large: what it costs to write must have been written to the log, too.
        is_due && bytes >= self.snapshot.growth_min && self.snapshot.may_begin(now)
    }

    /// Takes what is to be stored once the last record that is in it is durable.
    pub fn hold(&mut self, frozen: Frozen, chain: Chain) {
        self.snapshot.is_running = true;
        self.held = Some((Box::new(frozen), chain));
    }

    /// A record is durable, and the log handed out goes up to `chain`: what is to be done once it is shown to readers.
    pub fn durable(&mut self, now: Timestamp, seq: LogSeq, events: &[Event], chain: &Chain) -> Vec<Work> {
        self.note(events);
        let mut work = Vec::new();
        if let Some((frozen, held)) = self.held.take_if(|(_, held)| held.last == seq) {
            work.push(Work::Snapshot(frozen, held));
        }
        if self.copy.growth(chain) >= self.copy.growth_min && self.copy.may_begin(now) {
            self.copy.is_running = true;
            self.measured_at = chain.log_bytes;
            work.push(Work::Measure);
        }
        work.extend(self.trim_if_due(now));
        work
    }

    /// Some work has ended: what is to be done next, if anything.
    pub fn ended(&mut self, now: Timestamp, ended: Ended) -> Option<Work> {
        match ended {
            Ended::Snapshot(taken) => self.snapshot = Due::new(taken.seq, taken.log_bytes, taken.bytes),
            Ended::SnapshotFailed => self.snapshot.failed(now),
            Ended::Measured(bytes) => return self.copy_if_worth_it(bytes),
            Ended::Copy(copy) => self.copy = Due::new(copy.seq, copy.log_bytes, self.config.copy_log_bytes),
            Ended::CopyFailed => self.copy.failed(now),
            Ended::Trimmed => {}
            Ended::TrimFailed => {
                self.trimmed = LogSeq(0);
                self.trim_not_before = now.plus_ms(RETRY_MS);
            }
        }
        None
    }

    /// A copy is worth it when it lets go of more bytes of the log than it has itself: so all copies together cost no more than the log does.
    fn copy_if_worth_it(&mut self, bytes: u64) -> Option<Work> {
        let growth_min = (bytes / 100).saturating_mul(self.config.copy_percent).max(self.config.copy_log_bytes);
        if self.measured_at.saturating_sub(self.copy.log_bytes) >= growth_min {
            return Some(Work::Copy { log_bytes: self.measured_at });
        }
        (self.copy.is_running, self.copy.growth_min) = (false, growth_min);
        None
    }

    /// Lets go of what nobody needs who starts, less what nodes may need that are a little behind.
    fn trim_if_due(&mut self, now: Timestamp) -> Option<Work> {
        if self.current.snapshots.iter().any(|known| self.unusable.contains(&known.digest)) {
            return None;
        }
        let to = LogSeq(self.current.trimmable_to()?.0.saturating_sub(self.config.keep_records));
        let is_due = to > self.trimmed && now >= self.trim_not_before;
        is_due.then(|| {
            self.trimmed = to;
            Work::Trim(to)
        })
    }

    fn note(&mut self, events: &[Event]) {
        for event in events {
            match event.body {
                EventBody::SnapshotTaken { snapshot } => self.current.snapshot_taken(snapshot),
                EventBody::ReadModelSaved { copy } => self.current.read_model_saved(copy),
                _ => {}
            }
        }
    }
}
