//! The HTTP interface: `/v1`, health, metrics and the description of all of it.
//!
//! A request passes `server` (connections and their deadlines), `front` (panics, counting, headers
//! of every answer), the router, and then one handler, which talks to the core through [`Handle`]
//! only. Everything that can go wrong is a [`problem::Code`].

mod actions;
mod aliases;
mod auth;
mod body;
mod bulk;
mod canonical;
mod fingerprint;
pub mod gate;
mod held;
mod ids;
mod json;
mod memory;
mod metrics;
mod middleware;
mod modules;
mod openapi;
mod path;
pub mod problem;
mod query;
mod read_twice;
mod readable;
mod refusal;
mod room;
mod run;
mod server;
mod submit;
mod system;
mod task_doc;
mod tasks;
mod tenant_limits;
mod tenants;
mod tls;
mod tokens;
mod trace;

use std::future::Future;
use std::io;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use wasmill_protocol::Limits;
use wasmill_protocol::limits::{Caps, MIB};

use wasmill_scheduler::handle::Handle;

pub use auth::{BootstrapError, adopt_admin, bootstrap_admin, bootstrap_first_admin};
pub use body::Pace;
pub use gate::{GateError, ModuleGate, Upload, UploadBytes};
pub use openapi::document as openapi_document;
pub use server::listen;
pub use tls::{Tls, TlsError};

use ids::TaskIds;
use memory::Memory;
use metrics::{Metrics, OperatorPage};
use tenant_limits::TenantLimits;

/// Settings of the HTTP interface.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Version of the program, for `/v1/status`.
    pub version: String,
    /// `standalone` or `cluster`, for `/v1/status`.
    pub mode: String,
    /// The highest limits that a task may ask for.
    pub caps: Caps,
    /// The limits of a task that does not ask.
    pub limits: Limits,
    /// The certificate for HTTPS; plain HTTP without.
    pub tls: Option<Tls>,
    /// Connections at once; `None` derives it from the limit on open files.
    pub connections_max: Option<usize>,
    /// Connections of one address at once, of IPv6 of one network of 64 bits; `None` is half of
    /// all.
    pub connections_per_address: Option<usize>,
    /// From the first byte of a request to the end of its headers, and the whole handshake of TLS.
    pub header_timeout: Duration,
    /// The longest idle time between two requests of one connection, as clients are told.
    pub idle_timeout: Duration,
    /// How long a client that sends no more may leave in doubt whether it waits for its answer.
    pub doubt: Duration,
    /// How slowly a body may come.
    pub body_pace: Pace,
    /// The longest time in which a client takes nothing of an answer.
    pub write_stall: Duration,
    /// Requests under way of one tenant, waiting ones not counted.
    pub requests_per_tenant: usize,
    /// Requests of one tenant that wait for a task to end.
    pub waits_per_tenant: usize,
    /// Memory of all large request bodies together.
    pub body_memory_bytes: u64,
    /// Room on the disk for all modules that are being received.
    pub upload_room_bytes: u64,
    /// Memory of all large answers that their clients have not read yet.
    pub answer_memory_bytes: u64,
    /// Cancelled when the process will stop soon: `/readyz` says so, and everything is still
    /// served.
    pub leaving: CancellationToken,
    /// How long connections may finish what they do after `shutdown`.
    pub drain: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: "standalone".to_owned(),
            caps: Caps::default(),
            limits: Limits::default(),
            tls: None,
            connections_max: None,
            connections_per_address: None,
            header_timeout: Duration::from_secs(30),
            // Longer than the pools of usual clients and proxies keep what is idle.
            idle_timeout: Duration::from_secs(120),
            doubt: Duration::from_secs(5),
            body_pace: Pace { idle: Duration::from_secs(20), bytes_per_second: 1024 },
            write_stall: Duration::from_secs(60),
            requests_per_tenant: 512,
            waits_per_tenant: 1024,
            body_memory_bytes: 1024 * MIB,
            upload_room_bytes: 2048 * MIB,
            answer_memory_bytes: 512 * MIB,
            leaving: CancellationToken::new(),
            drain: Duration::from_secs(10),
        }
    }
}

/// The state of every handler. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<AppParts>);

/// See [`App`].
pub(crate) struct AppParts {
    config: HttpConfig,
    handle: Handle,
    gate: Arc<dyn ModuleGate>,
    ids: TaskIds,
    tenant_limits: TenantLimits,
    body_memory: Arc<Memory>,
    upload_room: Arc<Memory>,
    answer_memory: Arc<Memory>,
    metrics: Metrics,
    started: Instant,
    /// Cancelled when no new work is taken: waiting requests answer at once.
    stopping: CancellationToken,
}

impl Deref for App {
    type Target = AppParts;

    fn deref(&self) -> &AppParts {
        &self.0
    }
}

/// Where requests come in.
#[derive(Debug)]
pub struct Listeners {
    /// For everybody.
    pub http: TcpListener,
    /// For the operator: metrics and health, without tokens.
    pub metrics: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    fn from(http: TcpListener) -> Self {
        Self { http, metrics: None }
    }
}

/// Serves until `shutdown` ends, and then lets connections finish for [`HttpConfig::drain`].
///
/// # Errors
///
/// When the listener cannot be used, or the operating system gives no randomness.
pub async fn serve(
    listeners: impl Into<Listeners>,
    config: HttpConfig,
    handle: Handle,
    gate: Arc<dyn ModuleGate>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let stopping = CancellationToken::new();
    let app = App(Arc::new(AppParts {
        ids: TaskIds::new().map_err(io::Error::other)?,
        tenant_limits: TenantLimits::new(config.requests_per_tenant, config.waits_per_tenant),
        body_memory: Memory::new(config.body_memory_bytes, "large bodies"),
        upload_room: Memory::new(config.upload_room_bytes, "uploads that are being received"),
        answer_memory: Memory::new(config.answer_memory_bytes, "answers that wait for their readers"),
        metrics: Metrics::new(handle.shared().metrics.registry(), openapi::paths().iter().map(String::as_str)),
        started: Instant::now(),
        stopping: stopping.clone(),
        config,
        handle,
        gate,
    }));
    let Listeners { http, metrics } = listeners.into();
    let router = openapi::router(&app);
    let operator = metrics.map(|listener| wasmill_metrics::serve(listener, Arc::new(OperatorPage(app.clone()))));
    // Ends with this future: when connections have drained nobody scrapes any more.
    let _operator = operator.map(|serving| AbortOnDropHandle::new(tokio::spawn(serving)));
    let serving = server::serve(http, app, router);
    tokio::pin!(serving);
    tokio::select! {
        served = &mut serving => return served,
        () = shutdown => stopping.cancel(),
    }
    serving.await
}
