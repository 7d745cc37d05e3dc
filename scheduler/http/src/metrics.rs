//! The metrics of the HTTP interface, and all of `/metrics`.

mod requests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode, Uri};
use wasmill_metrics::{IntCounter, Page, Registry, Source, counter};
use wasmill_protocol::Timestamp;
use wasmill_protocol::tenant::Role;
use wasmill_scheduler::handle::HostView;
use wasmill_scheduler::handle::Load;

use super::auth::{CallerAs, Read};
use super::problem::Handled;
use super::{App, system};
pub(super) use requests::Counted;
use requests::Requests;
use wasmill_scheduler::handle::Overview;

/// The metrics of the HTTP interface.
pub(super) struct Metrics {
    requests: Requests,
    connections_refused: IntCounter,
    bulk_lines: IntCounter,
    requests_now: AtomicU64,
    connections_now: AtomicU64,
}

/// Tenants that one page names at most; those with most tasks come first.
const TENANTS_MAX: usize = 1_000;

/// Hosts that one page names at most.
const HOSTS_MAX: usize = 1_000;

/// Lowers a gauge when dropped.
pub(super) struct Gauge<'a>(&'a AtomicU64);

impl Drop for Gauge<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Metrics {
    /// Registers everything. `paths` are those of the routes.
    pub(super) fn new<'a>(registry: &Registry, paths: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            requests: Requests::new(registry, paths),
            connections_refused: counter(
                registry,
                "wasmill_http_connections_refused_total",
                "Connections that were one too many.",
            ),
            bulk_lines: counter(registry, "wasmill_http_bulk_lines_total", "Lines of bulk submissions."),
            requests_now: AtomicU64::new(0),
            connections_now: AtomicU64::new(0),
        }
    }

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
        self.connections_refused.inc();
    }

    /// What a request is counted as.
    pub(super) fn counted(&self, method: &Method, uri: &Uri) -> Counted<'_> {
        self.requests.counted(method, uri)
    }

    /// Counts an answer.
    pub(super) fn answered(&self, counted: Counted<'_>, status: StatusCode, took: Duration) {
        self.requests.answered(counted, status, took);
    }

    /// Counts lines of bulk submissions.
    pub(super) fn bulk_lines(&self, lines: u64) {
        self.bulk_lines.inc_by(lines);
    }

    fn write(&self, page: &mut Page) {
        let now = |value: &AtomicU64| value.load(Ordering::Relaxed);
        page.single("wasmill_http_requests_now", "gauge", "Requests under way.", now(&self.requests_now));
        page.single("wasmill_http_connections_now", "gauge", "Open connections.", now(&self.connections_now));
    }
}

fn raised(gauge: &AtomicU64) -> Gauge<'_> {
    gauge.fetch_add(1, Ordering::Relaxed);
    Gauge(gauge)
}

/// The text format of Prometheus.
///
/// Sums over all tenants; an admin token also sees the tenants that have tasks which are not final.
#[utoipa::path(get, path = "/metrics", tag = "system", operation_id = "metrics",
    responses((status = 200, description = "Counters and gauges", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<App>, caller: CallerAs<Read>) -> Handled {
    let names_tenants = caller.at_least(Role::Admin).is_ok();
    let mut response = Response::new(Body::from(page(&app, names_tenants).await.into_text()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(Page::CONTENT_TYPE));
    Ok(response)
}

/// The page of a listener of its own, which is the operator's.
pub(super) struct OperatorPage(pub(super) App);

impl Source for OperatorPage {
    fn page(&self) -> BoxFuture<'_, Page> {
        page(&self.0, true).boxed()
    }

    fn ready(&self) -> Result<(), String> {
        system::ready(&self.0).map_err(|fault| fault.detail().to_owned())
    }
}

async fn page(app: &App, names_tenants: bool) -> Page {
    let mut page = Page::of(app.handle.shared().metrics.registry());
    app.metrics.write(&mut page);
    write_standing(&mut page, app);
    // The leader's counters are told by the leader alone: sums over all nodes must be right.
    if app.handle.standing().leading {
        if let Some(overview) = app.handle.overview().await {
            write_overview(&mut page, &overview);
        }
        if let Some(load) = app.handle.load().await {
            write_load(&mut page, load, app.handle.shared().clock.now(), names_tenants);
        }
    }
    page
}

fn write_standing(page: &mut Page, app: &App) {
    let shared = app.handle.shared();
    let standing = app.handle.standing();
    let published = *shared.published.borrow();
    page.single("wasmill_leading", "gauge", "Whether this node leads.", u8::from(standing.leading));
    page.single("wasmill_ready", "gauge", "Whether this node serves requests.", u8::from(system::ready(app).is_ok()));
    page.single("wasmill_term", "gauge", "The leader's term.", standing.term.0);
    page.single("wasmill_log_seq", "gauge", "The last record that this node shows.", published.0);
    let current = shared.directory.read().current.clone();
    let snapshot = current.newest().copied().unwrap_or_default();
    page.single("wasmill_snapshot_log_seq", "gauge", "The last record of the newest snapshot.", snapshot.seq.0);
    page.single("wasmill_snapshot_bytes", "gauge", "Bytes of the newest snapshot.", snapshot.bytes);
    let copy = current.read_model.unwrap_or_default();
    page.single("wasmill_read_model_copy_log_seq", "gauge", "The last record of the read model's copy.", copy.seq.0);
    page.single("wasmill_read_model_copy_bytes", "gauge", "Bytes of the read model's copy.", copy.bytes);
    let trimmable = current.trimmable_to().unwrap_or_default();
    page.single("wasmill_log_trimmable_seq", "gauge", "The last record that no start needs.", trimmable.0);
    page.single("wasmill_no_space", "gauge", "Whether the disk is full.", u8::from(standing.no_space));
    let verdict = shared.clock.verdict();
    page.single(
        "wasmill_clock_difference_seconds",
        "gauge",
        "How far this machine's clock is ahead of what others say, or of the time before it was set.",
        verdict.difference_us as f64 / 1e6,
    );
    let believed = u8::from(verdict.believed);
    page.single("wasmill_clock_believed", "gauge", "Whether this machine's clock is believed.", believed);
    let lag = published.0.saturating_sub(shared.read_model.flushed().0);
    page.single("wasmill_read_model_lag_records", "gauge", "Records that the read model has yet to write.", lag);
    let pending = shared.read_model.pending_bytes();
    page.single("wasmill_read_model_pending_bytes", "gauge", "Bytes that the read model has yet to write.", pending);
    let file = shared.read_model.file_bytes();
    page.single("wasmill_read_model_file_bytes", "gauge", "Bytes of the read model's file.", file);
    let uptime = app.started.elapsed().as_secs_f64();
    page.single("wasmill_uptime_seconds", "gauge", "How long this process has run.", uptime);
}

fn write_overview(page: &mut Page, overview: &Overview) {
    page.begin("wasmill_tasks", "gauge", "Tasks that are not final, by state.");
    let depth = overview.queue;
    for (state, count) in [("waiting", depth.waiting), ("queued", depth.queued), ("running", depth.running)] {
        page.sample(&[("state", state)], count);
    }
    page.begin("wasmill_hosts", "gauge", "Hosts by state.");
    for state in ["ready", "draining", "lost"] {
        page.sample(&[("state", state)], overview.hosts.iter().filter(|host| host.state == state).count());
    }
    write_hosts(page, overview);
    let benched = overview.policies_benched.len();
    page.single("wasmill_policies_benched", "gauge", "Policies in whose place the default decides.", benched);
    for (name, count) in &overview.counters {
        let help = format!("Counted by the scheduler since this node leads: {}.", name.replace('_', " "));
        page.single(&format!("wasmill_{name}_total"), "counter", &help, count);
    }
}

fn write_hosts(page: &mut Page, overview: &Overview) {
    let hosts = &overview.hosts[..overview.hosts.len().min(HOSTS_MAX)];
    let mut gauge = |name: &str, help: &str, value: fn(&HostView) -> f64| {
        page.begin(name, "gauge", help);
        for host in hosts {
            page.sample(&[("host", &host.info.id.0)], value(host));
        }
    };
    gauge("wasmill_host_slots", "Guests that can run at the same time.", |host| f64::from(host.slots));
    gauge("wasmill_host_attempts", "Attempts that the leader has placed.", |host| f64::from(host.attempts));
    gauge("wasmill_host_load_cores", "Cores that guests keep busy.", |host| f64::from(host.load_millicores) / 1000.0);
    gauge("wasmill_host_cores", "Cores of the host.", |host| f64::from(host.info.cores));
    // Exact up to 9 PB.
    gauge("wasmill_host_memory_bytes", "Memory that the host gives to guests.", |host| host.info.memory_bytes as f64);
    gauge("wasmill_host_modules_cached", "Compiled modules that are ready to run.", |host| {
        f64::from(host.modules_cached)
    });
    page.begin("wasmill_host_last_seen_seconds", "gauge", "How long ago the leader has heard of the host.");
    for host in hosts {
        page.sample(&[("host", &host.info.id.0)], seconds(overview.at.us_since(host.last_seen)));
    }
}

fn write_load(page: &mut Page, mut load: Load, now: Timestamp, names_tenants: bool) {
    page.begin("wasmill_queued_tasks", "gauge", "Tasks that could start now, by priority.");
    for (priority, count) in &load.queued {
        page.sample(&[("priority", &priority.to_string())], count);
    }
    let age = load.queued_since.map_or(0, |since| now.us_since(since));
    page.single(
        "wasmill_queued_seconds_max",
        "gauge",
        "How long the task at the head of a queue has waited.",
        seconds(age),
    );
    if !names_tenants {
        return;
    }
    load.tenants.sort_by_key(|tenant| std::cmp::Reverse(tenant.tasks_waiting + tenant.tasks_running));
    load.tenants.truncate(TENANTS_MAX);
    page.begin(
        "wasmill_tenant_tasks",
        "gauge",
        "Tasks of a tenant that are not final; `waiting` are those that do not run.",
    );
    for tenant in &load.tenants {
        page.sample(&[("tenant", tenant.tenant.as_str()), ("state", "waiting")], tenant.tasks_waiting);
        page.sample(&[("tenant", tenant.tenant.as_str()), ("state", "running")], tenant.tasks_running);
    }
    page.begin("wasmill_tenant_memory_bytes", "gauge", "Memory limits of a tenant's running tasks, summed up.");
    for tenant in &load.tenants {
        page.sample(&[("tenant", tenant.tenant.as_str())], tenant.memory_bytes);
    }
}

fn seconds(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64()
}
