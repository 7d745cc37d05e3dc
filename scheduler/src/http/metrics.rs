//! Counters of the HTTP interface, and all of `/metrics`.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use wasmill_protocol::tenant::Role;

use super::App;
use super::auth::Caller;
use super::problem::Handled;
use crate::handle::Overview;

/// What the HTTP interface counts.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    by_class: [AtomicU64; CLASSES],
    seconds: Histogram,
    requests_now: AtomicU64,
    connections_now: AtomicU64,
    connections_refused: AtomicU64,
    bulk_lines: AtomicU64,
}

/// Status classes from 1xx to 5xx.
const CLASSES: usize = 5;

/// Upper bounds of the buckets in microseconds.
const BUCKETS_US: [u64; 12] =
    [500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 5_000_000, 30_000_000];

#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BUCKETS_US.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

/// Lowers a gauge when dropped.
pub(super) struct Gauge<'a>(&'a AtomicU64);

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Counts a connection as open.
    pub(super) fn connection(&self) -> Gauge<'_> {
        raised(&self.connections_now)
    }

    /// Counts a request as under way.
    pub(super) fn request(&self) -> Gauge<'_> {
        raised(&self.requests_now)
    }

    /// Counts a connection that was one too many.
    pub(super) fn connection_refused(&self) {
        self.connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an answer.
    pub(super) fn answered(&self, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES) - 1;
        self.by_class[class].fetch_add(1, Ordering::Relaxed);
        self.seconds.observe(took);
    }

    /// Counts lines of bulk submissions.
    pub(super) fn bulk_lines(&self, lines: u64) {
        self.bulk_lines.fetch_add(lines, Ordering::Relaxed);
    }
}

fn raised(gauge: &AtomicU64) -> Gauge<'_> {
    gauge.fetch_add(1, Ordering::Relaxed);
    Gauge(gauge)
}

impl Histogram {
    fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        if let Some(bucket) = BUCKETS_US.iter().position(|&bound| us <= bound) {
            self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }
}

/// The text format of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "system", operation_id = "metrics",
    responses((status = 200, description = "Counters and gauges", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<App>, caller: Caller) -> Handled {
    caller.at_least(Role::Read)?;
    // What the leader has counted is told by the leader alone: sums over all nodes must be right.
    let overview = if app.handle.standing().leading { app.handle.overview().await } else { None };
    let mut page = Page::default();
    app.metrics.write(&mut page);
    page.write_standing(&app);
    if let Some(overview) = overview {
        page.write_overview(&overview);
    }
    let mut response = Response::new(Body::from(page.text));
    let content_type = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    Ok(response)
}

impl Metrics {
    fn write(&self, page: &mut Page) {
        page.begin("wasmill_http_requests_total", "counter", "Requests answered, by status class.");
        for (class, count) in (1..).zip(&self.by_class) {
            page.sample(&format!("{{class=\"{class}xx\"}}"), count.load(Ordering::Relaxed));
        }
        page.begin(
            "wasmill_http_request_seconds",
            "histogram",
            "Time from a request's headers to those of its answer.",
        );
        let mut below = 0;
        for (bound, bucket) in BUCKETS_US.iter().zip(&self.seconds.buckets) {
            below += bucket.load(Ordering::Relaxed);
            page.suffixed("_bucket", &format!("{{le=\"{}\"}}", seconds(*bound)), below);
        }
        let count = self.seconds.count.load(Ordering::Relaxed);
        page.suffixed("_bucket", "{le=\"+Inf\"}", count);
        page.suffixed("_sum", "", seconds(self.seconds.sum_us.load(Ordering::Relaxed)));
        page.suffixed("_count", "", count);
        for (name, kind, help, value) in [
            ("wasmill_http_requests_now", "gauge", "Requests under way.", &self.requests_now),
            ("wasmill_http_connections_now", "gauge", "Open connections.", &self.connections_now),
            (
                "wasmill_http_connections_refused_total",
                "counter",
                "Connections that were one too many.",
                &self.connections_refused,
            ),
            ("wasmill_http_bulk_lines_total", "counter", "Lines of bulk submissions.", &self.bulk_lines),
        ] {
            page.single(name, kind, help, value.load(Ordering::Relaxed));
        }
    }
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}

#[derive(Default)]
struct Page {
    text: String,
    name: &'static str,
}

impl Page {
    fn begin(&mut self, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    fn sample(&mut self, labels: &str, value: impl std::fmt::Display) {
        self.suffixed("", labels, value);
    }

    fn suffixed(&mut self, suffix: &str, labels: &str, value: impl std::fmt::Display) {
        let name = self.name;
        self.line(format_args!("{name}{suffix}{labels} {value}"));
    }

    fn single(&mut self, name: &'static str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.begin(name, kind, help);
        self.sample("", value);
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing to a `String` cannot fail.
        let _ = writeln!(self.text, "{line}");
    }

    fn write_standing(&mut self, app: &App) {
        let standing = app.handle.standing();
        let published = *app.handle.shared().published.borrow();
        self.single("wasmill_leading", "gauge", "Whether this node leads.", u8::from(standing.leading));
        self.single("wasmill_term", "gauge", "The leader's term.", standing.term.0);
        self.single("wasmill_log_seq", "gauge", "The last record that this node shows.", published.0);
        let current = app.handle.shared().directory.read().current.clone();
        let snapshot = current.newest().map_or(0, |newest| newest.seq.0);
        self.single("wasmill_snapshot_log_seq", "gauge", "The last record of the newest snapshot.", snapshot);
        let copy = current.read_model.map_or(0, |copy| copy.seq.0);
        self.single("wasmill_read_model_copy_log_seq", "gauge", "The last record of the read model's copy.", copy);
        self.single("wasmill_no_space", "gauge", "Whether the disk is full.", u8::from(standing.no_space));
        let lag = published.0.saturating_sub(app.handle.shared().read_model.flushed().0);
        self.single("wasmill_read_model_lag_records", "gauge", "Records that the read model has yet to write.", lag);
        let uptime = app.started.elapsed().as_secs_f64();
        self.single("wasmill_uptime_seconds", "gauge", "How long this process has run.", uptime);
    }

    fn write_overview(&mut self, overview: &Overview) {
        self.begin("wasmill_tasks", "gauge", "Tasks that are not final, by state.");
        let depth = overview.queue;
        for (state, count) in [("waiting", depth.waiting), ("queued", depth.queued), ("running", depth.running)] {
            self.sample(&format!("{{state=\"{state}\"}}"), count);
        }
        self.begin("wasmill_hosts", "gauge", "Hosts by state.");
        for state in ["ready", "draining", "lost"] {
            let count = overview.hosts.iter().filter(|host| host.state == state).count();
            self.sample(&format!("{{state=\"{state}\"}}"), count);
        }
        let benched = overview.policies_benched.len();
        self.single("wasmill_policies_benched", "gauge", "Policies in whose place the default decides.", benched);
        self.begin("wasmill_scheduler_total", "counter", "What the scheduler's core has counted since it leads.");
        for (name, count) in &overview.counters {
            self.sample(&format!("{{what=\"{name}\"}}"), count);
        }
    }
}
