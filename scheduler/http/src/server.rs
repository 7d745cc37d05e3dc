//! Accepting connections: how many, how long, and how they end.

mod activity;
mod frames;
mod places;
mod stream_deadline;
mod tcp;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant as Monotonic};

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
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
use super::middleware;
use activity::{Activity, Busy};
use places::ConnectionPermits;
use stream_deadline::DeadlineStream;
use tcp::SharedTcp;

/// Connections beyond the limit that are still answered, one request each, so that health can be
/// asked for.
const RESERVE_CONNECTIONS: usize = 64;
/// How long a connection of the reserve may last.
const RESERVE_LIFETIME: Duration = Duration::from_secs(5);
/// Files that the rest of the process needs: log, blobs, artifacts.
const FILES_RESERVED: usize = 256;
/// More connections than this are no use on one machine, however many files may be open.
const CONNECTIONS_MAX: usize = 16 * 1024;
/// Connections that wait to be accepted, as far as the system allows: the next one would hear
/// nothing for a second.
const BACKLOG: u32 = 4096;
/// How long accepting pauses when it fails, for instance for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// Bytes of all headers of one request.
const HEADER_BYTES_MAX: u32 = 32 * 1024;
/// Headers of one request.
const HEADERS_MAX: usize = 100;
/// Connections last a little longer when they are idle than clients are told, so that a request
/// that is on its way still comes.
const IDLE_SLACK: Duration = Duration::from_secs(5);
/// Tells clients of HTTP/1.1 how long a connection may be idle.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
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
    let per_address = app.config.connections_per_address.unwrap_or(limit.div_ceil(2)).clamp(1, limit);
    let (places, begun) = (ConnectionPermits::new(limit, per_address), Monotonic::now());
    let mut reserve = Reserve::new(RESERVE_CONNECTIONS);
    let connections = TaskTracker::new();
    tracing::debug!(limit, per_address, "accepting connections");
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = app.stopping.cancelled() => break,
        };
        let (stream, address) = match accepted {
            Ok((stream, address)) => (stream, address.ip()),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small and complete: there is nothing to gather them with.
        let _ = stream.set_nodelay(true);
        let activity = Activity::new(begun);
        if let Some(place) = places.take(address, &activity) {
            let connection = serve_regular(stream, activity, app.clone(), router.clone());
            connections.spawn(holding(place, connection));
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

async fn holding<P>(place: P, connection: impl Future<Output = ()>) {
    connection.await;
    drop(place);
}

/// The connections beyond the limit. When all places are taken the oldest makes room: who asks for
/// health says so at once, and whoever holds a place by saying nothing does not keep it.
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

async fn serve_regular(stream: TcpStream, activity: Arc<Activity>, app: App, router: Router) {
    let _open = app.metrics.connection();
    let tcp = SharedTcp::new(stream);
    let Some(tls) = &app.config.tls else { return converse(tcp.clone(), &tcp, &activity, &app, router).await };
    let accepted = tokio::select! {
        accepted = tls.accept(tcp.clone(), app.config.header_timeout) => accepted,
        () = activity.is_unwanted() => return,
    };
    match accepted {
        Ok(stream) => converse(stream, &tcp, &activity, &app, router).await,
        Err(error) => tracing::debug!(%error, "a handshake failed"),
    }
}

/// The transport of a connection: TCP, or TLS over it.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Transport for S {}

async fn converse(stream: impl Transport, tcp: &SharedTcp, activity: &Arc<Activity>, app: &App, router: Router) {
    let config = &app.config;
    let stream = DeadlineStream::new(stream, Arc::clone(activity), config.header_timeout, config.write_stall);
    let keep_alive = HeaderValue::try_from(format!("timeout={}", config.idle_timeout.as_secs()));
    let keep_alive = keep_alive.expect("digits are a header's value");
    let service = {
        let (app, activity, tcp) = (app.clone(), Arc::clone(activity), tcp.clone());
        service_fn(move |request: Request<Incoming>| {
            let (app, router, activity, tcp) = (app.clone(), router.clone(), Arc::clone(&activity), tcp.clone());
            let keep_alive = (request.version() == Version::HTTP_11).then(|| keep_alive.clone());
            async move {
                let busy = activity.begin();
                let doubt = keep_alive.is_some().then_some(app.config.doubt);
                let mut response = watching(&tcp, &activity, doubt, middleware::answer(&app, router, request)).await;
                if let Some(keep_alive) = keep_alive {
                    response.headers_mut().insert(KEEP_ALIVE, keep_alive);
                }
                Ok::<_, Infallible>(response.map(|inner| AnswerBody { inner, _busy: Some(busy) }))
            }
        })
    };
    let builder = builder(config.idle_timeout + IDLE_SLACK);
    let connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        () = drive(connection, &app.stopping, Some((activity.as_ref(), config.idle_timeout))) => {}
        // A handler of its requests hears of it by being dropped.
        () = tcp.is_broken() => {}
    }
}

/// Answers, and doubts meanwhile that a client waits that has closed its half and may have closed
/// all of it.
async fn watching<T>(
    tcp: &SharedTcp,
    activity: &Activity,
    doubt: Option<Duration>,
    answering: impl Future<Output = T>,
) -> T {
    let mut answering = pin!(answering);
    let Some(doubt) = doubt else { return answering.await };
    loop {
        match tokio::time::timeout(doubt, answering.as_mut()).await {
            Ok(answer) => return answer,
            Err(_) if tcp.is_half_closed() => activity.doubt(),
            Err(_) => {}
        }
    }
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
    let activity = Activity::new(Monotonic::now());
    let stream = DeadlineStream::new(stream, activity, RESERVE_LIFETIME, RESERVE_LIFETIME);
    let stopping = app.stopping.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (app, router) = (app.clone(), router.clone());
        async move {
            let response = middleware::answer_from_reserve(&app, router, request).await;
            Ok::<_, Infallible>(response.map(|inner| AnswerBody { inner, _busy: None }))
        }
    });
    let mut builder = builder(RESERVE_LIFETIME);
    builder.http1().keep_alive(false);
    let connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let _ = tokio::time::timeout(RESERVE_LIFETIME, drive(connection, &stopping, None)).await;
}

/// `idle` is from one request to the end of the next one's headers.
fn builder(idle: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        // A client that has sent its request may say that it sends no more, and still waits for the
        // answer.
        .half_close(true)
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

/// Drives a connection to its end: a graceful one when the server stops, or when nothing was asked
/// for too long.
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
            () = unwanted(idle.map(|(activity, _)| activity)), if !ending => {
                if idle.is_some_and(|(activity, _)| activity.is_idle()) {
                    return;
                }
                // A request has come in between.
                connection.as_mut().end_gracefully();
                ending = true;
            }
            () = check.as_mut() => {
                check.as_mut().reset(Instant::now() + pause);
                // HTTP/1 has a timeout of its own for this; for HTTP/2 a client that asks nothing
                // would stay for ever.
                let Some((activity, _)) = idle else { continue };
                let asked = activity.asked();
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

async fn unwanted(activity: Option<&Activity>) {
    match activity {
        Some(activity) => activity.is_unwanted().await,
        None => std::future::pending().await,
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
