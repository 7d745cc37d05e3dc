//! What happens to every request before the router and to every answer after it.

use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;
use tokio::time::Instant;
use tracing::{Instrument, Span};

use super::App;
use super::body::LingeringBody;
use super::problem::{Code, Fault};
use super::trace;

/// Bytes of path and query of one request.
const URI_BYTES_MAX: usize = 8 * 1024;

const HEALTH_PATHS: [&str; 2] = ["/livez", "/readyz"];

/// Names the task that a request was about.
pub(super) const TASK_HEADER: HeaderName = HeaderName::from_static("wasmill-task");

/// Answers one request, whatever happens.
pub(super) async fn answer(app: &App, router: Router, request: Request<Incoming>) -> Response<Body> {
    let begun = Instant::now();
    let _busy = app.metrics.request();
    let span = if is_about_health(&request) { Span::none() } else { trace::request(&request) };
    let uri_bytes = request.uri().path_and_query().map_or(0, |text| text.as_str().len());
    let request = request.map(LingeringBody::new);
    let mut response = if uri_bytes > URI_BYTES_MAX {
        Fault::new(
            Code::UriTooLong,
            format!("path and query have {uri_bytes} bytes, over the limit of {URI_BYTES_MAX}"),
        )
        .limit(URI_BYTES_MAX as u64)
        .into_response()
    } else {
        let routed = TowerToHyperService::new(router).call(request).instrument(span.clone());
        match AssertUnwindSafe(routed).catch_unwind().await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(panic) => panicked(&*panic).into_response(),
        }
    };
    let headers = response.headers_mut();
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    app.metrics.answered(response.status(), begun.elapsed());
    trace::answered(&span, response.status());
    response
}

/// Answers when there are too many connections: only about health.
pub(super) async fn answer_from_reserve(app: &App, router: Router, request: Request<Incoming>) -> Response<Body> {
    if is_about_health(&request) {
        return answer(app, router, request).await;
    }
    app.metrics.connection_refused();
    Fault::plain(Code::ConnectionsExhausted).into_response()
}

fn is_about_health(request: &Request<Incoming>) -> bool {
    HEALTH_PATHS.contains(&request.uri().path())
}

/// A bug of ours, which must not show the client more than that.
fn panicked(panic: &(dyn std::any::Any + Send)) -> Fault {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
    tracing::error!(message, "a handler panicked");
    Fault::plain(Code::Internal)
}
