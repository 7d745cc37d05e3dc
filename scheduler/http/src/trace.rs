//! The spans of requests and of submissions. None of them holds a header, a query, a payload or a
//! token.

use axum::extract::MatchedPath;
use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::http::request::Parts;
use hyper::{Request, StatusCode};
use tracing::Span;
use tracing::field::Empty;
use wasmill_protocol::{TaskId, TenantName, TraceParent};
use wasmill_trace::TARGET;

const TRACE_HEADER: HeaderName = HeaderName::from_static("traceparent");

/// Lines of one bulk submission whose tasks are recorded: nobody reads a trace of a million.
const BULK_LINES_TRACED_MAX: u32 = 64;

/// A request, from its headers to those of its answer, below what the client says.
pub(super) fn request(request: &Request<Incoming>) -> Span {
    if !wasmill_trace::enabled() {
        return Span::none();
    }
    let method = request.method().as_str();
    let span = tracing::info_span!(
        target: TARGET, parent: None, "request",
        otel.kind = "server", otel.name = method, otel.status_code = Empty,
        http.request.method = method, http.route = Empty, http.response.status_code = Empty,
        wasmill.tenant = Empty,
    );
    let mut values = request.headers().get_all(TRACE_HEADER).iter();
    match (values.next(), values.next()) {
        // A header that cannot be read is as good as absent, says the standard.
        (Some(value), None) => match value.to_str().map(str::parse) {
            Ok(Ok(parent)) => wasmill_trace::below(span, parent),
            _ => span,
        },
        _ => span,
    }
}

/// The request that is being answered has found its handler, and is `tenant`'s.
pub(super) fn identified(parts: &Parts, tenant: &TenantName) {
    let span = Span::current();
    if span.is_disabled() {
        return;
    }
    span.record("wasmill.tenant", tenant.as_str());
    if let Some(route) = parts.extensions.get::<MatchedPath>() {
        span.record("http.route", route.as_str());
        span.record("otel.name", format!("{} {}", parts.method, route.as_str()));
    }
}

/// A request was answered.
pub(super) fn answered(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
}

/// A submission, until it is durable: what comes of the task is below it. Itself it is below
/// `place`, else below the request.
pub(super) fn submission(task: TaskId, place: Option<TraceParent>) -> Span {
    if !wasmill_trace::enabled() {
        return Span::none();
    }
    let span = tracing::info_span!(target: TARGET, "submit", wasmill.task = %task);
    match place {
        Some(place) => wasmill_trace::below(span, place),
        None => span,
    }
}

/// The tasks of a bulk submission, which are below its request; only the first are recorded.
pub(super) struct Bulk {
    place: Option<TraceParent>,
    left: u32,
}

impl Bulk {
    /// The one of the request that is being answered.
    pub(super) fn here() -> Self {
        Self { place: wasmill_trace::place_of(&Span::current()), left: BULK_LINES_TRACED_MAX }
    }

    /// Where the next task belongs.
    pub(super) fn next(&mut self) -> Option<TraceParent> {
        self.left = self.left.checked_sub(1)?;
        self.place
    }
}
