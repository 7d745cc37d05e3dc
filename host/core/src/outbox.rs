//! Reports on their way to the leader: gathered into batches, a few of them in flight, each sent
//! again until acknowledged.
//!
//! The bus may reorder, so the order of an attempt's reports is kept by never having two of them in
//! two batches at once: what follows a checkpoint in flight is held back. Between attempts there is
//! no order to keep.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use wasmill_protocol::message::{FromHost, Report};
use wasmill_protocol::{AttemptId, HostId, Incarnation, Timestamp};

use crate::bounds::{BATCH_REPORTS_MAX, BATCHES_IN_FLIGHT_MAX, RESEND_MS, RESEND_MS_MAX};
use crate::io::{Batch, BatchNumber};

/// All reports that are not acknowledged.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// To be put into batches, in the order in which they happened.
    ready: VecDeque<Report>,
    /// Attempts with a checkpoint that is not acknowledged.
    checkpoints: BTreeMap<AttemptId, Checkpoint>,
    in_flight: BTreeMap<BatchNumber, InFlight>,
    number_last: BatchNumber,
    bytes: u64,
    /// Bytes of one batch.
    batch_bytes_max: u64,
    jitter: Jitter,
}

/// An attempt's checkpoint that is not acknowledged.
#[derive(Debug, Default)]
struct Checkpoint {
    /// The batch that it was put into; `None` while it is among the ready ones.
    batch: Option<BatchNumber>,
    /// The news of the attempt since: at most a newer checkpoint and the end.
    held_back: Vec<Report>,
}

/// A batch that is not acknowledged.
#[derive(Debug)]
struct InFlight {
    message: Arc<FromHost>,
    failures: u32,
    /// When it is sent again; `None` while its answer is awaited.
    resend_at: Option<Timestamp>,
}

impl Outbox {
    pub(crate) fn new(seed: u64, batch_bytes_max: u64) -> Self {
        Self {
            ready: VecDeque::new(),
            checkpoints: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            number_last: BatchNumber(0),
            bytes: 0,
            batch_bytes_max,
            jitter: Jitter(seed),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        // A held back report always follows one that is ready or in flight.
        self.ready.is_empty() && self.in_flight.is_empty()
    }

    /// Bytes of all reports, estimated.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds the last report of an attempt: its end, or that it is handed back.
    pub(crate) fn push_end(&mut self, report: Report) {
        self.bytes += report.bytes_at_most();
        match self.checkpoints.get_mut(&report.id()) {
            Some(checkpoint) if checkpoint.batch.is_some() => checkpoint.held_back.push(report),
            _ => self.ready.push_back(report),
        }
    }

    /// Adds a checkpoint. It takes the place of an older one of the attempt that was not sent yet:
    /// only the newest matters.
    pub(crate) fn push_checkpoint(&mut self, report: Report) {
        self.bytes += report.bytes_at_most();
        let id = report.id();
        let Some(checkpoint) = self.checkpoints.get_mut(&id) else {
            self.checkpoints.insert(id, Checkpoint::default());
            return self.ready.push_back(report);
        };
        let older = if checkpoint.batch.is_some() {
            checkpoint.held_back.first_mut()
        } else {
            self.ready.iter_mut().find(|ready| ready.id() == id)
        };
        match older {
            Some(older) => {
                self.bytes -= older.bytes_at_most();
                *older = report;
            }
            None => checkpoint.held_back.push(report),
        }
    }

    /// Forgets everything: nobody wants these reports any more.
    pub(crate) fn clear(&mut self) {
        self.ready.clear();
        self.checkpoints.clear();
        self.in_flight.clear();
        self.bytes = 0;
    }

    /// The batches to send now: those to be sent again, then new ones.
    pub(crate) fn take_batches(&mut self, now: Timestamp, host: &HostId, incarnation: Incarnation) -> Vec<Batch> {
        let mut batches = self.take_resends(now);
        while self.in_flight.len() < BATCHES_IN_FLIGHT_MAX {
            let number = BatchNumber(self.number_last.0 + 1);
            let reports = self.gather(number);
            if reports.is_empty() {
                break;
            }
            self.number_last = number;
            let message = Arc::new(FromHost { host: host.clone(), incarnation, reports });
            let in_flight = InFlight { message: Arc::clone(&message), failures: 0, resend_at: None };
            self.in_flight.insert(number, in_flight);
            batches.push(Batch { number, message });
        }
        batches
    }

    fn take_resends(&mut self, now: Timestamp) -> Vec<Batch> {
        let due = |batch: &InFlight| batch.resend_at.is_some_and(|at| at <= now);
        let numbers: Vec<BatchNumber> =
            self.in_flight.iter().filter(|(_, batch)| due(batch)).map(|(number, _)| *number).collect();
        let mut batches = Vec::new();
        for old in numbers {
            let Some(mut batch) = self.in_flight.remove(&old) else { continue };
            let number = BatchNumber(self.number_last.0 + 1);
            self.number_last = number;
            batch.resend_at = None;
            for report in &batch.message.reports {
                if let Some(checkpoint) = self.checkpoints.get_mut(&report.id())
                    && checkpoint.batch == Some(old)
                {
                    checkpoint.batch = Some(number);
                }
            }
            batches.push(Batch { number, message: Arc::clone(&batch.message) });
            self.in_flight.insert(number, batch);
        }
        batches
    }

    /// The reports of one new batch, within its bounds.
    fn gather(&mut self, number: BatchNumber) -> Vec<Report> {
        let mut reports = Vec::with_capacity(self.ready.len().min(BATCH_REPORTS_MAX));
        let mut bytes = 0;
        while reports.len() < BATCH_REPORTS_MAX
            && let Some(report) = self.ready.front()
        {
            bytes += report.bytes_at_most();
            // One report alone always fits: nothing inline is larger than a fraction of the bound.
            if bytes > self.batch_bytes_max && !reports.is_empty() {
                break;
            }
            let Some(report) = self.ready.pop_front() else { break };
            match self.checkpoints.get_mut(&report.id()) {
                Some(Checkpoint { batch: Some(other), held_back }) if *other != number => held_back.push(report),
                Some(checkpoint) => {
                    checkpoint.batch = Some(number);
                    reports.push(report);
                }
                None => reports.push(report),
            }
        }
        reports
    }

    /// A batch is durable at the leader: its message, or nothing when another sending of it was
    /// acknowledged before.
    pub(crate) fn acknowledged(&mut self, number: BatchNumber) -> Option<Arc<FromHost>> {
        let batch = self.in_flight.remove(&number)?;
        for report in &batch.message.reports {
            self.bytes -= report.bytes_at_most();
            if self.checkpoints.is_empty() {
                continue;
            }
            let id = report.id();
            let Some(checkpoint) = self.checkpoints.remove(&id) else { continue };
            if checkpoint.held_back.iter().any(|report| matches!(report, Report::Checkpoint { .. })) {
                self.checkpoints.insert(id, Checkpoint::default());
            }
            self.ready.extend(checkpoint.held_back);
        }
        Some(batch.message)
    }

    /// A batch was not answered: it is sent again after a while.
    pub(crate) fn failed(&mut self, now: Timestamp, number: BatchNumber) {
        let Some(batch) = self.in_flight.get_mut(&number) else { return };
        let bound_ms = RESEND_MS.saturating_mul(1 << batch.failures.min(16)).min(RESEND_MS_MAX);
        batch.failures = batch.failures.saturating_add(1);
        batch.resend_at = Some(now.plus_ms(bound_ms / 2 + self.jitter.below(bound_ms / 2 + 1)));
    }

    /// Everything not acknowledged is sent again at once: there is somebody new to listen.
    pub(crate) fn resend_all(&mut self, now: Timestamp) {
        for batch in self.in_flight.values_mut() {
            batch.resend_at = Some(now);
        }
    }

    /// A failed report is sent again at once: somebody is there to listen.
    pub(crate) fn resend_failed(&mut self, now: Timestamp) {
        for batch in self.in_flight.values_mut().filter(|batch| batch.resend_at.is_some()) {
            batch.resend_at = Some(now);
        }
    }

    /// When the next batch is to be sent again.
    pub(crate) fn next_timeout(&self) -> Option<Timestamp> {
        self.in_flight.values().filter_map(|batch| batch.resend_at).min()
    }
}

/// Numbers that spread hosts apart: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom
/// Number Generators, 2014).
#[derive(Debug)]
struct Jitter(u64);

impl Jitter {
    /// A number from 0 to `bound` - 1; `bound` is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
