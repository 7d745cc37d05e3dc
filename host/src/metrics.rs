//! The metrics of a host. In one process with a control node it is on the same
//! page.

use std::sync::Arc;
use std::time::Duration;

use wasmill_metrics::{
    Counter, Histogram, IntCounter, IntCounterVec, IntGauge, Registry, TASK_BUCKETS_S, counter, counters_of, gauge,
    histogram, pulled_counter, pulled_gauge, seconds_counter,
};
use wasmill_protocol::message::Heartbeat;
use wasmill_protocol::{OutcomeKind, Usage};

use crate::compile::{Compiler, CompilerStats};

/// Tells what the compiler of this process does.
pub fn watch_compiler(registry: &Registry, compiler: &Arc<Compiler>) {
    let told = |value: fn(&CompilerStats) -> f64| {
        let compiler = Arc::clone(compiler);
        // Exact up to 2^53.
        move || value(&compiler.stats())
    };
    pulled_counter(
        registry,
        "wasmill_compilations_total",
        "Modules that were compiled, for uploads and for attempts.",
        told(|stats| stats.compiles as f64),
    );
    pulled_counter(
        registry,
        "wasmill_compile_cpu_seconds_total",
        "CPU time of the children that compile.",
        told(|stats| Duration::from_micros(stats.compile_us).as_secs_f64()),
    );
    pulled_counter(
        registry,
        "wasmill_compile_refusals_remembered_total",
        "Modules that were refused without compiling, because they had been refused before.",
        told(|stats| stats.remembered as f64),
    );
    pulled_counter(
        registry,
        "wasmill_artifacts_found_total",
        "Artifacts that were on disk when they were asked for.",
        told(|stats| stats.found as f64),
    );
    pulled_gauge(
        registry,
        "wasmill_compilations_waiting",
        "Modules that wait to be compiled.",
        told(|stats| stats.waiting as f64),
    );
    pulled_gauge(registry, "wasmill_artifacts", "Artifacts on disk.", told(|stats| stats.artifacts as f64));
    pulled_gauge(
        registry,
        "wasmill_artifact_bytes",
        "Bytes of those artifacts.",
        told(|stats| stats.artifact_bytes as f64),
    );
}

/// See the module. Cheap to clone: clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    registered: IntGauge,
    leases_lost: IntCounter,
    subscriptions_lost: IntCounter,
    attempts_ended: IntCounterVec,
    run_seconds: Histogram,
    guest_cpu_seconds: Counter,
    attempts: IntGauge,
    credit: IntGauge,
    slots: IntGauge,
    load_millicores: IntGauge,
    modules_cached: IntGauge,
    draining: IntGauge,
}

impl Metrics {
    /// Registers everything.
    pub fn new(r: &Registry) -> Self {
        Self {
            registered: gauge(r, "wasmill_agent_registered", "Whether the host holds its lease."),
            leases_lost: counter(r, "wasmill_agent_leases_lost_total", "Leases that the host has lost."),
            subscriptions_lost: counter(
                r,
                "wasmill_agent_subscriptions_lost_total",
                "Subscriptions to the leader's messages that ended by themselves.",
            ),
            attempts_ended: counters_of(
                r,
                "wasmill_agent_attempts_ended_total",
                "Attempts that ended on the host, by outcome.",
                "outcome",
                OutcomeKind::ALL.map(OutcomeKind::as_str),
            ),
            run_seconds: histogram(
                r,
                "wasmill_agent_attempt_run_seconds",
                "Time from the start to the end of attempts on the host.",
                &TASK_BUCKETS_S,
            ),
            guest_cpu_seconds: seconds_counter(
                r,
                "wasmill_agent_guest_cpu_seconds_total",
                "CPU time of the attempts that ended on the host.",
            ),
            attempts: gauge(r, "wasmill_agent_attempts_now", "Attempts that the host holds, those that wait included."),
            credit: gauge(r, "wasmill_agent_credit", "Attempts that the host takes at most."),
            slots: gauge(r, "wasmill_agent_slots", "Guests that can run on the host at the same time."),
            load_millicores: gauge(r, "wasmill_agent_load_millicores", "CPU in use by guests, thousandths of a core."),
            modules_cached: gauge(r, "wasmill_agent_modules_cached", "Compiled modules that are ready to run."),
            draining: gauge(r, "wasmill_agent_draining", "Whether the host takes no new attempts."),
        }
    }

    /// Whether the host does its work.
    pub fn is_registered(&self) -> bool {
        self.registered.get() == 1
    }

    pub(crate) fn registered(&self) {
        self.registered.set(1);
    }

    pub(crate) fn lease_lost(&self) {
        self.registered.set(0);
        self.leases_lost.inc();
    }

    pub(crate) fn subscription_lost(&self) {
        self.subscriptions_lost.inc();
    }

    pub(crate) fn ended(&self, kind: OutcomeKind, usage: &Usage) {
        let spent = usage.spent();
        self.attempts_ended.with_label_values(&[kind.as_str()]).inc();
        self.run_seconds.observe(Duration::from_micros(spent.run_us).as_secs_f64());
        self.guest_cpu_seconds.inc_by(Duration::from_micros(spent.cpu_us).as_secs_f64());
    }

    pub(crate) fn beat(&self, heartbeat: &Heartbeat) {
        self.attempts.set(i64::try_from(heartbeat.attempts.len()).unwrap_or(i64::MAX));
        self.credit.set(heartbeat.credit.into());
        self.slots.set(heartbeat.slots.into());
        self.load_millicores.set(heartbeat.load_millicores.into());
        self.modules_cached.set(heartbeat.modules_cached.into());
        self.draining.set(heartbeat.draining.into());
    }
}
