//! Accepting connections: how many, how long, and how they end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::App;
use super::front;
use super::patience::PatientStream;

/// Connections beyond the limit that are still answered, one request each, so that health can be asked for.
const RESERVE_CONNECTIONS: usize = 64;
/// How long a connection of the reserve may last.
const RESERVE_LIFETIME: Duration = Duration::from_secs(5);
/// Files that the rest of the process needs: log, blobs, artifacts.
const FILES_RESERVED: usize = 256;
/// More connections than this are no use on one machine, however many files may be open.
const CONNECTIONS_MAX: usize = 16 * 1024;
/// Connections that wait to be accepted, as far as the system allows: the next one would hear nothing for a second.
const BACKLOG: u32 = 4096;
/// How long accepting pauses when it fails, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// Bytes of all headers of one request.
const HEADER_BYTES_MAX: u32 = 32 * 1024;
/// Headers of one request.
const HEADERS_MAX: usize = 100;
/// Bytes that are read ahead on an HTTP/1 connection.
const READ_BUFFER_BYTES: usize = 128 * 1024;

/// A socket that listens, with room for a crowd that comes at once.
///
/// # Errors
///
/// When the address cannot be used.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // A port whose old connections linger can be used again at once.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `app.stopping`, then until every connection has ended or the time to drain is over.
pub(super) async fn serve(listener: TcpListener, app: App, router: Router) -> io::Result<()> {
    let limit = app.config.connections_max.unwrap_or_else(|| connections_allowed(open_files_max()));
    let regular = Arc::new(Semaphore::new(limit));
    let mut reserve = Reserve::new(RESERVE_CONNECTIONS);
    let connections = TaskTracker::new();
    tracing::debug!(limit, "accepting connections");
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = app.stopping.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small and complete: there is nothing to gather them with.
        let _ = stream.set_nodelay(true);
        if let Ok(permit) = Arc::clone(&regular).try_acquire_owned() {
            let connection = serve_regular(stream, app.clone(), router.clone());
            connections.spawn(holding(permit, connection));
        } else {
            let permit = reserve.place().await;
            let connection = serve_reserve(stream, app.clone(), router.clone());
            reserve.newest(connections.spawn(holding(permit, connection)).abort_handle());
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(app.config.drain, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "connections did not end in time");
    }
    Ok(())
}

async fn holding(permit: OwnedSemaphorePermit, connection: impl Future<Output = ()>) {
    connection.await;
    drop(permit);
}

/// The connections beyond the limit. When all places are taken the oldest makes room: who asks for health says so at once, and whoever
/// holds a place by saying nothing does not keep it.
struct Reserve {
    places: Arc<Semaphore>,
    /// In the order in which they came; some have ended.
    connections: VecDeque<AbortHandle>,
}

impl Reserve {
    fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), connections: VecDeque::with_capacity(places) }
    }

    async fn place(&mut self) -> OwnedSemaphorePermit {
        if self.places.available_permits() == 0 {
            while let Some(oldest) = self.connections.pop_front() {
                if !oldest.is_finished() {
                    oldest.abort();
                    break;
                }
            }
        }
        let place = Arc::clone(&self.places).acquire_owned().await;
        place.expect("the semaphore is never closed")
    }

    fn newest(&mut self, connection: AbortHandle) {
        self.connections.retain(|connection| !connection.is_finished());
        self.connections.push_back(connection);
    }
}

/// What one connection does, to notice when it does nothing.
#[derive(Default)]
struct Activity {
    asked: AtomicUsize,
    under_way: AtomicUsize,
}

impl Activity {
    /// Counts a request as under way until what is given back is dropped.
    fn begin(self: &Arc<Self>) -> Busy {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
    }
}

/// A request that is under way.
struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer: the request is under way until all of it is sent.
struct AnswerBody {
    inner: Body,
    _busy: Option<Busy>,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

async fn serve_regular(stream: TcpStream, app: App, router: Router) {
    let _open = app.metrics.connection();
    match &app.config.tls {
        None => converse(stream, &app, router).await,
        Some(tls) => match tls.accept(stream, app.config.header_timeout).await {
            Ok(stream) => converse(stream, &app, router).await,
            Err(error) => tracing::debug!(%error, "a handshake failed"),
        },
    }
}

/// What a connection goes over: TCP, or TLS over it.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for S {}

async fn converse(stream: impl Transport, app: &App, router: Router) {
    let config = &app.config;
    let stream = PatientStream::new(stream, config.header_timeout, config.write_stall);
    let activity = Arc::new(Activity::default());
    let service = {
        let (app, activity) = (app.clone(), Arc::clone(&activity));
        service_fn(move |request: Request<Incoming>| {
            let (app, router, activity) = (app.clone(), router.clone(), Arc::clone(&activity));
            async move {
                let busy = activity.begin();
                let response = front::answer(&app, router, request).await;
                Ok::<_, Infallible>(response.map(|inner| AnswerBody { inner, _busy: Some(busy) }))
            }
        })
    };
    let builder = builder(config.header_timeout);
    let connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    drive(connection, &app.stopping, Some((&activity, config.header_timeout))).await;
}

/// Serves one request, which can only be about health.
async fn serve_reserve(stream: TcpStream, app: App, router: Router) {
    match &app.config.tls {
        None => converse_in_short(stream, &app, router).await,
        Some(tls) => match tls.accept(stream, RESERVE_LIFETIME).await {
            Ok(stream) => converse_in_short(stream, &app, router).await,
            Err(error) => tracing::debug!(%error, "a handshake failed"),
        },
    }
}

async fn converse_in_short(stream: impl Transport, app: &App, router: Router) {
    let stream = PatientStream::new(stream, RESERVE_LIFETIME, RESERVE_LIFETIME);
    let stopping = app.stopping.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, router) = (app.clone(), router.clone());
        async move {
            let response = front::answer_from_reserve(&app, router, request).await;
            Ok::<_, Infallible>(response.map(|inner| AnswerBody { inner, _busy: None }))
        }
    });
    let mut builder = builder(RESERVE_LIFETIME);
    builder.http1().keep_alive(false);
    let connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let _ = tokio::time::timeout(RESERVE_LIFETIME, drive(connection, &stopping, None)).await;
}

fn builder(header_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_headers(HEADERS_MAX)
        .max_buf_size(READ_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        // A client that resets what it has just begun is cut off early.
        .max_pending_accept_reset_streams(32)
        .max_local_error_reset_streams(64)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(1024 * 1024)
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

/// Drives a connection to its end: a graceful one when the server stops, or when nothing was asked for too long.
async fn drive<C>(mut connection: Pin<&mut C>, stopping: &CancellationToken, idle: Option<(&Activity, Duration)>)
where
    C: Future<Output = Result<(), Box<dyn std::error::Error + Send + Sync>>> + Graceful,
{
    let (mut ending, mut seen) = (false, 0);
    let pause = idle.map_or(RESERVE_LIFETIME, |(_, pause)| pause);
    let mut check = pin!(tokio::time::sleep(pause));
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(error, "a connection ended");
                }
                return;
            }
            () = stopping.cancelled(), if !ending => {
                connection.as_mut().end_gracefully();
                ending = true;
            }
            () = check.as_mut() => {
                check.as_mut().reset(Instant::now() + pause);
                // HTTP/1 has a timeout of its own for this; for HTTP/2 a client that asks nothing would stay for ever.
                let Some((activity, _)) = idle else { continue };
                let asked = activity.asked.load(Ordering::Relaxed);
                if activity.is_idle() && asked == seen {
                    if ending {
                        // It does not even answer that we want to end.
                        return;
                    }
                    connection.as_mut().end_gracefully();
                    ending = true;
                }
                seen = asked;
            }
        }
    }
}

/// A connection that can be asked to end when it has answered.
trait Graceful {
    fn end_gracefully(self: Pin<&mut Self>);
}

impl<I, S, E> Graceful for auto::Connection<'_, I, S, E>
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<AnswerBody>, Error = Infallible>,
    S::Future: 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
    E: hyper_util::server::conn::auto::HttpServerConnExec<S::Future, AnswerBody>,
{
    fn end_gracefully(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

fn connections_allowed(open_files_max: usize) -> usize {
    open_files_max.saturating_sub(FILES_RESERVED + RESERVE_CONNECTIONS).clamp(RESERVE_CONNECTIONS, CONNECTIONS_MAX)
}

/// How many files this process may have open.
fn open_files_max() -> usize {
    const USUAL: usize = 1024;
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    parse_open_files(&limits).unwrap_or(USUAL)
}

fn parse_open_files(limits: &str) -> Option<usize> {
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?;
    if soft == "unlimited" { Some(usize::MAX) } else { soft.parse().ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c08_connections_stay_below_the_limit_on_files() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             63211                63211                processes\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(parse_open_files(limits), Some(1024));
        assert_eq!(connections_allowed(1024), 1024 - 256 - 64);
        assert_eq!(connections_allowed(100), 64);
        assert_eq!(connections_allowed(usize::MAX), CONNECTIONS_MAX);
        assert!(open_files_max() > 0);
    }
}
