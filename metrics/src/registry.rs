//! Making what accumulates, and registering it.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Counter, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::unregistered;

/// Bounds of what should take milliseconds: requests, appends, leases. Seconds.
pub const LATENCY_BUCKETS_S: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 30.0];

/// Bounds of what a task may take: from a fraction of a millisecond to a day. Seconds.
pub const TASK_BUCKETS_S: [f64; 16] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1_800.0, 14_400.0, 86_400.0];

/// A registry that knows the process (`process_*`) and the program (`wasmill_build_info`).
pub fn registry(version: &str) -> Registry {
    let registry = Registry::new();
    register(&registry, Box::new(ProcessCollector::for_self()));
    let build = gauges(&registry, "wasmill_build_info", "The program that runs; always 1.", &["version"]);
    build.with_label_values(&[version]).set(1);
    registry
}

/// A counter.
pub fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    add(registry, unregistered::counter(name, help))
}

/// A counter of seconds.
pub fn seconds_counter(registry: &Registry, name: &str, help: &str) -> Counter {
    add(registry, Counter::new(name, help).expect("names of metrics are constants that are valid"))
}

/// A counter for each combination of the labels' values. Every value must come from a bounded set.
pub fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let counters = IntCounterVec::new(Opts::new(name, help), labels);
    add(registry, counters.expect("names of metrics are constants that are valid"))
}

/// A counter for each of `values` of one label. All are on the page from the beginning, so that the
/// first time is seen as a change.
pub fn counters_of(
    registry: &Registry,
    name: &str,
    help: &str,
    label: &str,
    values: impl IntoIterator<Item = &'static str>,
) -> IntCounterVec {
    let counters = counters(registry, name, help, &[label]);
    values.into_iter().for_each(|value| drop(counters.with_label_values(&[value])));
    counters
}

/// A gauge.
pub fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    add(registry, IntGauge::new(name, help).expect("names of metrics are constants that are valid"))
}

/// A gauge for each combination of the labels' values. Every value must come from a bounded set.
pub fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let gauges = IntGaugeVec::new(Opts::new(name, help), labels);
    add(registry, gauges.expect("names of metrics are constants that are valid"))
}

/// A histogram of seconds.
pub fn histogram(registry: &Registry, name: &str, help: &str, buckets_s: &[f64]) -> Histogram {
    add(registry, unregistered::histogram(name, help, buckets_s))
}

/// A histogram of seconds for each combination of the labels' values. Every value must come from a
/// bounded set.
pub fn histograms(registry: &Registry, name: &str, help: &str, buckets_s: &[f64], labels: &[&str]) -> HistogramVec {
    let histograms = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets_s.to_vec()), labels);
    add(registry, histograms.expect("names and bounds of histograms are constants that are valid"))
}

fn add<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    register(registry, Box::new(collector.clone()));
    collector
}

pub(crate) fn register(registry: &Registry, collector: Box<dyn Collector>) {
    registry.register(collector).expect("each part of a process registers what it measures once");
}
