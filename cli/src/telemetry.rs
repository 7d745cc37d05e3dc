//! The telemetry of a server: log lines on stderr, and traces to an OpenTelemetry collector when
//! one is configured.

mod export;
mod lines;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, ensure};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{KeyValue, global};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use reqwest::Url;
use serde::Deserialize;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};
use wasmill_metrics::{Registry, pulled_counter};

/// The levels of the log when WASMILL_LOG does not set them. How a connection to NATS fails is said
/// by `fabric`, with who it is for and not each second.
const FILTER: &str = "warn,wasmill=info,async_nats::connector=off";
/// How long the last spans may take to get out when the process ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Options of every command that serves.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct TelemetryArgs {
    /// Where traces are sent: a collector that takes OTLP over HTTP, like http://127.0.0.1:4318
    /// [default: nowhere]
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT", hide_env_values = true)]
    otlp_endpoint: Option<String>,
    /// The name of the process in traces
    #[arg(long, value_name = "NAME", env = "OTEL_SERVICE_NAME", hide = true)]
    otlp_service_name: Option<String>,
}

/// The table `[telemetry]` of the settings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TelemetryFile {
    otlp_endpoint: String,
    sample_ratio: f64,
    service_name: String,
}

/// Where traces go, and which.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TelemetryConfig {
    /// Where the collector takes traces; `None` records nothing.
    endpoint: Option<Url>,
    /// The part of the traces that begin here that is recorded.
    sample_ratio: f64,
    service_name: String,
}

impl TelemetryFile {
    /// The settings, once they make sense.
    ///
    /// # Errors
    ///
    /// The first one that does not, by its name.
    pub(crate) fn check(self) -> anyhow::Result<TelemetryConfig> {
        let (sample_ratio, service_name) = (self.sample_ratio, self.service_name);
        ensure!((0.0..=1.0).contains(&sample_ratio), "`telemetry.sample_ratio` is {sample_ratio}, 0 to 1 are possible");
        ensure!(!service_name.is_empty(), "`telemetry.service_name` is empty");
        Ok(TelemetryConfig { endpoint: traces_url(&self.otlp_endpoint)?, sample_ratio, service_name })
    }
}

impl TelemetryConfig {
    /// The command line and the environment override the file.
    ///
    /// # Errors
    ///
    /// When the endpoint is not a URL of HTTP.
    pub(crate) fn override_with(&mut self, args: &TelemetryArgs) -> anyhow::Result<()> {
        if let Some(endpoint) = &args.otlp_endpoint {
            self.endpoint = traces_url(endpoint)?;
        }
        if let Some(name) = args.otlp_service_name.as_ref().filter(|name| !name.is_empty()) {
            self.service_name.clone_from(name);
        }
        Ok(())
    }
}

/// Where a collector with this base URL takes traces, as the standard has it for OTLP over HTTP;
/// `None` for an empty text.
fn traces_url(endpoint: &str) -> anyhow::Result<Option<Url>> {
    if endpoint.is_empty() {
        return Ok(None);
    }
    let url = Url::parse(&format!("{}/v1/traces", endpoint.trim_end_matches('/')));
    let url = url.with_context(|| format!("`telemetry.otlp_endpoint` is `{endpoint}`, which is no URL"))?;
    ensure!(
        matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none(),
        "`telemetry.otlp_endpoint` is `{endpoint}`, a URL like `http://127.0.0.1:4318` is expected"
    );
    Ok(Some(url))
}

/// The running telemetry; dropping it without [`Telemetry::stop`] loses the last spans.
pub(crate) struct Telemetry(Option<SdkTracerProvider>);

/// Log lines from now on, and traces when they are configured; `instance` tells this process from
/// others of its service. Once in a process, before its runtime: the exporter has a thread of its
/// own.
///
/// # Errors
///
/// When no exporter can be made of the settings.
pub(crate) fn start(log_json: bool, config: &TelemetryConfig, instance: &str) -> anyhow::Result<Telemetry> {
    let provider = config.endpoint.as_ref().map(|endpoint| tracer_provider(endpoint, config, instance)).transpose()?;
    let spans = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(wasmill_trace::TRACER))
            .with_context_activation(false)
            .with_tracked_inactivity(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_filter(Targets::new().with_target(wasmill_trace::TARGET, Level::INFO))
    });
    let filter = EnvFilter::try_from_env("WASMILL_LOG").unwrap_or_else(|_| EnvFilter::new(FILTER));
    let colours = std::io::stderr().is_terminal();
    // A line that cannot be written is lost: there is no other place to say so, and trying panics.
    let lines =
        tracing_subscriber::fmt::layer().with_writer(lines::stderr).with_ansi(colours).log_internal_errors(false);
    let lines = if log_json { lines.json().boxed() } else { lines.with_target(false).boxed() };
    tracing_subscriber::registry().with(lines.with_filter(filter)).with(spans).init();
    if let Some(provider) = &provider {
        global::set_tracer_provider(provider.clone());
    }
    Ok(Telemetry(provider))
}

impl Telemetry {
    /// Sends what is left, for [`FLUSH_TIMEOUT`] at most.
    pub(crate) fn stop(self) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown_with_timeout(FLUSH_TIMEOUT)
        {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

/// Tells what became of traces.
pub(crate) fn watch(registry: &Registry) {
    let help = "Spans that no collector took.";
    // Exact up to 2^53.
    pulled_counter(registry, "wasmill_spans_dropped_total", help, || export::spans_dropped() as f64);
}

fn tracer_provider(endpoint: &Url, config: &TelemetryConfig, instance: &str) -> anyhow::Result<SdkTracerProvider> {
    // Also has what `OTEL_RESOURCE_ATTRIBUTES` says, as users of collectors expect.
    let resource = Resource::builder()
        .with_service_name(config.service_name.clone())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("service.instance.id", instance.to_owned()))
        .with_attribute(KeyValue::new("host.name", crate::server::machine::name()))
        .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())))
        .build();
    // The process that has begun a trace has decided whether it is recorded.
    let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)));
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(sampler)
        .with_span_processor(export::processor(endpoint)?);
    Ok(provider.build())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(endpoint: &str, sample_ratio: f64) -> anyhow::Result<TelemetryConfig> {
        TelemetryFile { otlp_endpoint: endpoint.to_owned(), sample_ratio, service_name: "wasmill".to_owned() }.check()
    }

    #[test]
    fn an_endpoint_is_a_base_url() {
        let url = |endpoint: &str| checked(endpoint, 1.0).unwrap().endpoint.map(|url| url.to_string());
        assert_eq!(url(""), None);
        assert_eq!(url("http://c:4318").as_deref(), Some("http://c:4318/v1/traces"));
        assert_eq!(url("https://c/otlp/").as_deref(), Some("https://c/otlp/v1/traces"));
        for (endpoint, ratio, named) in [
            ("c:4318", 1.0, "otlp_endpoint"),
            ("127.0.0.1:4318", 1.0, "otlp_endpoint"),
            ("grpc://c", 1.0, "http://"),
            ("http://c?x=1", 1.0, "otlp_endpoint"),
            ("", 1.5, "sample_ratio"),
            ("", f64::NAN, "sample_ratio"),
        ] {
            let error = format!("{:#}", checked(endpoint, ratio).unwrap_err());
            assert!(error.contains(named), "`{endpoint}` {ratio} gives: {error}");
        }
    }

    #[test]
    fn the_environment_overrides_the_file() {
        let mut config = checked("http://a", 1.0).unwrap();
        let args = TelemetryArgs { otlp_endpoint: Some(String::new()), otlp_service_name: Some("mill".to_owned()) };
        config.override_with(&TelemetryArgs::default()).unwrap();
        assert!(config.endpoint.is_some());
        config.override_with(&args).unwrap();
        assert_eq!((config.endpoint, config.service_name.as_str()), (None, "mill"));
    }
}
