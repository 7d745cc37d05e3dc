//! A listener of its own for `/metrics`, `/livez` and `/readyz`, without tokens: for the operator's
//! network.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use futures::future::BoxFuture;
use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::Page;

/// Connections at once: a scraper, a health check, and room for somebody who looks.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may last without a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(75);
/// How long accepting pauses when it fails, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The content of the listener's pages.
pub trait Source: Send + Sync + 'static {
    /// The page as it is now.
    fn page(&self) -> BoxFuture<'_, Page>;

    /// Whether the process does its work.
    ///
    /// # Errors
    ///
    /// The reason why it does not.
    fn ready(&self) -> Result<(), String>;
}

/// Answers on the listener until it is dropped. More connections than 64 wait.
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>) -> Infallible {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .with_state(source);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = answer(stream, router.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let mut server = hyper::server::conn::http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).half_close(true);
    let served = server.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection for metrics ended early");
    }
}

async fn metrics(State(source): State<Arc<dyn Source>>) -> impl IntoResponse {
    ([(CONTENT_TYPE, Page::CONTENT_TYPE)], source.page().await.into_text())
}

async fn readyz(State(source): State<Arc<dyn Source>>) -> impl IntoResponse {
    match source.ready() {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}
