//! The way of spans to the collector: a bounded queue, and a thread that empties it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor};
use reqwest::Url;

use crate::client::is_loopback;

/// Spans that wait to be exported, about 1 KiB each; what comes when there are more is dropped.
const SPANS_WAITING_MAX: usize = 8 * 1024;
/// Spans of one request to the collector.
const SPANS_PER_EXPORT_MAX: usize = 512;
/// How long a span waits for others to travel with.
const GATHER: Duration = Duration::from_secs(1);
/// How long the collector may take for one request.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Takes spans without ever waiting, and sends them to the collector's `endpoint`.
///
/// # Errors
///
/// When there is no HTTP client to be had.
pub(super) fn processor(endpoint: &Url) -> anyhow::Result<impl SpanProcessor + use<>> {
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = reqwest::blocking::Client::builder()
        .timeout(EXPORT_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("wasmill/", env!("CARGO_PKG_VERSION")));
    if is_loopback(endpoint) {
        client = client.no_proxy();
    }
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(client.build().context("cannot make an HTTP client for traces")?)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(endpoint.as_str())
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .with_context(|| format!("cannot export traces to `{endpoint}`"))?;
    let bounds = BatchConfigBuilder::default()
        .with_max_queue_size(SPANS_WAITING_MAX)
        .with_max_export_batch_size(SPANS_PER_EXPORT_MAX)
        .with_scheduled_delay(GATHER)
        .build();
    Ok(BatchSpanProcessor::new(Outspoken { exporter, failing: AtomicBool::new(false) }, bounds))
}

/// Spans that no collector took.
static SPANS_DROPPED: AtomicU64 = AtomicU64::new(0);

/// How many spans no collector took. Spans that found the queue full are not among them.
pub(super) fn spans_dropped() -> u64 {
    SPANS_DROPPED.load(Ordering::Relaxed)
}

/// Says when exporting begins to fail, and when it works again: once each, however long the
/// collector is away.
#[derive(Debug)]
struct Outspoken<E> {
    exporter: E,
    failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Outspoken<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let exported = self.exporter.export(batch).await;
        match &exported {
            Ok(()) if self.failing.swap(false, Ordering::Relaxed) => tracing::info!("traces are exported again"),
            Err(error) if !self.failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(%error, spans, "traces cannot be exported; they are dropped until the collector takes them");
            }
            Ok(()) | Err(_) => {}
        }
        if exported.is_err() {
            SPANS_DROPPED.fetch_add(spans as u64, Ordering::Relaxed);
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
