//! Metrics of a process, in the text format of Prometheus.
//!
//! Values that accumulate (counters, histograms) live in a [`Registry`] that every part of the
//! process adds to. A value that is only true at the moment of a scrape is written onto the
//! [`Page`] by the source of the page. [`serve`] serves such a page on an address of its own,
//! together with the health of the process.

mod listener;
mod page;
mod pulled;
mod registry;
pub mod unregistered;

pub use listener::{Source, serve};
pub use page::Page;
pub use prometheus::{Counter, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
pub use pulled::{pulled_counter, pulled_gauge};
pub use registry::{
    LATENCY_BUCKETS_S, TASK_BUCKETS_S, counter, counters, counters_of, gauge, gauges, histogram, histograms, registry,
    seconds_counter,
};
