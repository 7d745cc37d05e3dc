//! The metrics of a control node beside HTTP.
//!
//! All of it is about what *this* process did: a sum over the nodes of a cluster is right.

use std::time::Duration;

use wasmill_metrics::{
    Counter, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, LATENCY_BUCKETS_S, Registry, TASK_BUCKETS_S,
    counter, counters_of, gauge, histogram, histograms, registry, seconds_counter,
};
use wasmill_protocol::{OutcomeKind, TaskId, Timestamp};
use wasmill_record::event::{EndReason, Event, EventBody, Sequel};

/// See the module.
pub struct Metrics {
    registry: Registry,
    log: LogMetrics,
    attempts: AttemptMetrics,
    elected: IntCounter,
    leaderships_ended: IntCounterVec,
    forwarded: IntCounterVec,
    upkeep_seconds: HistogramVec,
    upkeep_failures: IntCounterVec,
    blobs: IntGauge,
    blob_bytes: IntGauge,
}

/// The appends of this node.
struct LogMetrics {
    append_seconds: Histogram,
    records: IntCounter,
    record_bytes: IntCounter,
    events: IntCounter,
}

/// The ends of attempts and of their tasks.
struct AttemptMetrics {
    attempts_ended: IntCounterVec,
    wait_seconds: Histogram,
    run_seconds: Histogram,
    task_seconds: Histogram,
    guest_cpu_seconds: Counter,
}

/// The upkeep beside deciding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    /// A snapshot of the core's state.
    Snapshot,
    /// A copy of the read model.
    Copy,
    /// Trimming the log.
    Trim,
}

impl Upkeep {
    const ALL: [Self; 3] = [Self::Snapshot, Self::Copy, Self::Trim];

    fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Copy => "read_model_copy",
            Self::Trim => "trim",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = registry(env!("CARGO_PKG_VERSION"));
        let r = &registry;
        Self {
            log: LogMetrics::new(r),
            attempts: AttemptMetrics::new(r),
            elected: counter(r, "wasmill_leaderships_total", "Leaderships of this node that began."),
            leaderships_ended: counters_of(
                r,
                "wasmill_leaderships_ended_total",
                "Leaderships of this node that ended, by reason.",
                "reason",
                ["shutdown", "lost", "no_space", "failed"],
            ),
            forwarded: counters_of(
                r,
                "wasmill_forwarded_commands_total",
                "Commands that this node has asked the leader for, by what came of them.",
                "result",
                ["done", "refused", "nobody_leads", "unknown"],
            ),
            upkeep_seconds: histograms(
                r,
                "wasmill_upkeep_seconds",
                "Time that snapshots, copies of the read model and trimming the log have taken.",
                &TASK_BUCKETS_S,
                &["what"],
            ),
            upkeep_failures: counters_of(
                r,
                "wasmill_upkeep_failures_total",
                "Snapshots, copies of the read model and trims of the log that failed.",
                "what",
                Upkeep::ALL.map(Upkeep::as_str),
            ),
            blobs: gauge(r, "wasmill_blobs", "Blobs, as this node saw them in its last sweep as the leader."),
            blob_bytes: gauge(r, "wasmill_blob_bytes", "Bytes of those blobs."),
            registry,
        }
    }
}

impl LogMetrics {
    fn new(r: &Registry) -> Self {
        Self {
            append_seconds: histogram(
                r,
                "wasmill_log_append_seconds",
                "Time from handing a record to the log until it is durable.",
                &LATENCY_BUCKETS_S,
            ),
            records: counter(r, "wasmill_log_appended_records_total", "Records that this node has appended."),
            record_bytes: counter(
                r,
                "wasmill_log_appended_bytes_total",
                "Bytes of the records that this node has appended.",
            ),
            events: counter(
                r,
                "wasmill_log_appended_events_total",
                "Events of the records that this node has appended.",
            ),
        }
    }
}

impl AttemptMetrics {
    fn new(r: &Registry) -> Self {
        Self {
            attempts_ended: counters_of(
                r,
                "wasmill_attempts_ended_total",
                "Attempts whose end this node has recorded as the leader, by outcome.",
                "outcome",
                OutcomeKind::ALL.map(OutcomeKind::as_str),
            ),
            wait_seconds: histogram(
                r,
                "wasmill_attempt_wait_seconds",
                "Time from queued to the start on the host, of attempts that ended.",
                &TASK_BUCKETS_S,
            ),
            run_seconds: histogram(
                r,
                "wasmill_attempt_run_seconds",
                "Time from the start on the host to the end, of attempts that ended.",
                &TASK_BUCKETS_S,
            ),
            task_seconds: histogram(
                r,
                "wasmill_task_seconds",
                "Time from submission to the final state, delays and retries included.",
                &TASK_BUCKETS_S,
            ),
            guest_cpu_seconds: seconds_counter(
                r,
                "wasmill_guest_cpu_seconds_total",
                "CPU time that guests were charged, of attempts that ended.",
            ),
        }
    }
}

impl Metrics {
    /// Everything that this process registers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A record of ours is durable.
    pub(crate) fn appended(&self, took: Duration, bytes: usize, events: &[Event]) {
        self.log.append_seconds.observe(took.as_secs_f64());
        self.log.records.inc();
        self.log.record_bytes.inc_by(bytes as u64);
        self.log.events.inc_by(events.len() as u64);
        events.iter().for_each(|event| self.decided(event));
    }

    /// A leadership began.
    pub(crate) fn elected(&self) {
        self.elected.inc();
    }

    /// A leadership ended. `reason` is one of a few constants.
    pub(crate) fn leadership_ended(&self, reason: &'static str) {
        self.leaderships_ended.with_label_values(&[reason]).inc();
    }

    /// The leader was asked for a command. `result` is one of a few constants.
    pub(crate) fn forwarded(&self, result: &'static str) {
        self.forwarded.with_label_values(&[result]).inc();
    }

    /// A piece of upkeep ended.
    pub(crate) fn upkeep(&self, what: Upkeep, took: Duration, succeeded: bool) {
        self.upkeep_seconds.with_label_values(&[what.as_str()]).observe(took.as_secs_f64());
        if !succeeded {
            self.upkeep_failures.with_label_values(&[what.as_str()]).inc();
        }
    }

    fn decided(&self, event: &Event) {
        match &event.body {
            EventBody::AttemptEnded { id, outcome, usage, next, .. } => {
                self.attempts.attempts_ended.with_label_values(&[outcome.kind.as_str()]).inc();
                let usage = usage.spent();
                self.attempts.wait_seconds.observe(seconds(usage.queue_us));
                self.attempts.run_seconds.observe(seconds(usage.run_us));
                self.attempts.guest_cpu_seconds.inc_by(seconds(usage.cpu_us));
                if matches!(next, Sequel::Final { .. }) {
                    self.finished(created(id.task), event.at);
                }
            }
            EventBody::TaskEnded { task, reason, .. } if *reason != EndReason::TenantRemoved => {
                self.finished(created(*task), event.at);
            }
            _ => {}
        }
    }

    /// A sweep has seen this many blobs, with these bytes in all.
    pub(crate) fn blobs(&self, count: u64, bytes: u64) {
        self.blobs.set(i64::try_from(count).unwrap_or(i64::MAX));
        self.blob_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    fn finished(&self, created: Timestamp, at: Timestamp) {
        self.attempts.task_seconds.observe(seconds(at.us_since(created)));
    }
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

/// When an id was made: the first 48 bits of a UUIDv7 are milliseconds since 1970.
fn created(task: TaskId) -> Timestamp {
    let ms = u64::try_from(task.0.as_u128() >> 80).expect("48 bits fit into 64");
    Timestamp(0).plus_ms(ms)
}
