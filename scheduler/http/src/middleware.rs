//! The steps of every request before the router, and of every answer after it.

use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use futures::FutureExt;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, HeaderName, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::service::Service;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::service::TowerToHyperService;
use tokio::time::Instant;
use tracing::{Instrument, Span};
use wasmill_protocol::LogSeq;

use super::App;
use super::body::LingeringBody;
use super::held::{Asker, hold};
use super::problem::{Code, Fault, Handled};
use super::trace;

/// Bytes of path and query of one request.
const URI_BYTES_MAX: usize = 8 * 1024;

const HEALTH_PATHS: [&str; 2] = ["/livez", "/readyz"];

/// Names the task that a request was about.
pub(super) const TASK_HEADER: HeaderName = HeaderName::from_static("wasmill-task");

/// The last record that the answering node shows; and in a request, the record that it must show
/// before it answers, so that a client finds on one node what another one has told it.
pub(super) const LOG_SEQ_HEADER: HeaderName = HeaderName::from_static("wasmill-log-seq");

/// Answers one request, whatever happens.
pub(super) async fn answer(app: &App, router: Router, request: Request<Incoming>) -> Response<Body> {
    let begun = Instant::now();
    let _busy = app.metrics.request();
    let span = if is_about_health(&request) { Span::none() } else { trace::request(&request) };
    let uri_bytes = request.uri().path_and_query().map_or(0, |text| text.as_str().len());
    // The method and the path are gone with the request.
    let counted = app.metrics.counted(request.method(), request.uri());
    let asker = Asker::default();
    let mut request = request.map(|body| Body::new(LingeringBody::new(body)));
    request.extensions_mut().insert(asker.clone());
    let mut response = if uri_bytes > URI_BYTES_MAX {
        Fault::new(
            Code::UriTooLong,
            format!("path and query have {uri_bytes} bytes, over the limit of {URI_BYTES_MAX}"),
        )
        .limit(URI_BYTES_MAX as u64)
        .into_response()
    } else {
        match reach(app, request.headers()).await {
            Ok(()) => hold(app, &asker, route(app, router, request).instrument(span.clone()).await),
            Err(fault) => fault.into_response(),
        }
    };
    let headers = response.headers_mut();
    headers.insert(LOG_SEQ_HEADER, HeaderValue::from(app.handle.shared().published.borrow().0));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    app.metrics.answered(counted, response.status(), begun.elapsed());
    trace::answered(&span, response.status());
    response
}

/// Waits until this node shows the record that the request names, if it names one.
async fn reach(app: &App, headers: &HeaderMap) -> Handled<()> {
    let Some(value) = headers.get(LOG_SEQ_HEADER) else { return Ok(()) };
    let seq = value.to_str().ok().and_then(|text| text.parse().ok()).map(LogSeq).ok_or_else(|| {
        let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
        Fault::new(Code::MalformedRequest, format!("`{text}` is not the number of a record"))
            .field(LOG_SEQ_HEADER.as_str())
    })?;
    if app.handle.reach(seq).await {
        return Ok(());
    }
    Err(Fault::new(Code::Overloaded, format!("record {seq} has not arrived at this node yet")))
}

/// Lets the router answer. A thing that a node that follows does not find may only not have arrived
/// yet: then it catches up and looks again.
async fn route(app: &App, router: Router, request: Request<Body>) -> Response<Body> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD);
    if !is_safe || app.handle.standing().leading {
        return call(router, request).await;
    }
    let (method, uri, headers) = (request.method().clone(), request.uri().clone(), request.headers().clone());
    let extensions = request.extensions().clone();
    let since = app.handle.position();
    let response = call(router.clone(), request).await;
    // A path that there is not will not be there later.
    let may_be_late = |code: &Code| *code != Code::NotFound;
    if response.status() != StatusCode::NOT_FOUND || !response.extensions().get().is_none_or(may_be_late) {
        return response;
    }
    match app.handle.catch_up(since).await {
        Ok(true) => {}
        Ok(false) => return response,
        Err(unreached) => return Fault::from(unreached).into_response(),
    }
    let mut again = Request::new(Body::empty());
    (*again.method_mut(), *again.uri_mut(), *again.headers_mut()) = (method, uri, headers);
    *again.extensions_mut() = extensions;
    call(router, again).await
}

async fn call(router: Router, request: Request<Body>) -> Response<Body> {
    let routed = TowerToHyperService::new(router).call(request);
    match AssertUnwindSafe(routed).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(never)) => match never {},
        Err(panic) => panicked(&*panic).into_response(),
    }
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
