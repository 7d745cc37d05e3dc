//! Metrics that accumulate before there is a registry to show them.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, Registry};

/// A counter that nobody sees yet.
pub fn counter(name: &str, help: &str) -> IntCounter {
    IntCounter::new(name, help).expect("names of metrics are constants that are valid")
}

/// A histogram of seconds that nobody sees yet.
pub fn histogram(name: &str, help: &str, buckets_s: &[f64]) -> Histogram {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets_s.to_vec()))
        .expect("names and bounds of histograms are constants that are valid")
}

/// Shows it from now on, with what it has counted so far.
pub fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: &C) {
    crate::registry::register(registry, Box::new(collector.clone()));
}
