//! How the servers that a process stands on answer it.

use async_nats::Client;
use async_nats::connection::State;
use wasmill_metrics::{Histogram, IntCounter, LATENCY_BUCKETS_S, Registry, pulled_gauge, unregistered};

/// Of the connection to NATS. Cheap to clone: clones count together.
#[derive(Debug, Clone)]
pub(super) struct NatsMetrics {
    pub(super) disconnections: IntCounter,
    pub(super) messages_dropped: IntCounter,
}

impl NatsMetrics {
    pub(super) fn new() -> Self {
        Self {
            disconnections: unregistered::counter(
                "wasmill_nats_disconnections_total",
                "How often the connection to NATS was lost.",
            ),
            messages_dropped: unregistered::counter(
                "wasmill_nats_slow_consumer_total",
                "How often messages of NATS were dropped because the process did not keep up.",
            ),
        }
    }

    /// Shows them, and whether `client` is connected.
    pub(super) fn register(&self, registry: &Registry, client: Client) {
        pulled_gauge(registry, "wasmill_nats_connected", "Whether the process is connected to NATS.", move || {
            f64::from(u8::from(client.connection_state() == State::Connected))
        });
        unregistered::register(registry, &self.disconnections);
        unregistered::register(registry, &self.messages_dropped);
    }
}

/// Of etcd, by what a process asks it all the time: that its lease lives on. Cheap to clone: clones
/// count together.
#[derive(Debug, Clone)]
pub(super) struct EtcdMetrics {
    pub(super) keep_alive_seconds: Histogram,
    pub(super) keep_alives_failed: IntCounter,
}

impl EtcdMetrics {
    pub(super) fn new() -> Self {
        Self {
            keep_alive_seconds: unregistered::histogram(
                "wasmill_etcd_keep_alive_seconds",
                "Time from a keepalive of a lease to etcd's answer.",
                &LATENCY_BUCKETS_S,
            ),
            keep_alives_failed: unregistered::counter(
                "wasmill_etcd_keep_alives_failed_total",
                "Keepalives of leases that etcd did not answer, or not in time.",
            ),
        }
    }

    /// Shows them.
    pub(super) fn register(&self, registry: &Registry) {
        unregistered::register(registry, &self.keep_alive_seconds);
        unregistered::register(registry, &self.keep_alives_failed);
    }
}
