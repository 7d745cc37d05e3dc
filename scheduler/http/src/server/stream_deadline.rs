//! A connection's stream with deadlines where hyper has none.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::activity::Activity;
use super::frames::FrameBudget;

/// A stream that fails when its client takes too long for what it has begun: the head of a request,
/// or an answer. It also counts the frames of HTTP/2, and asks a client that may have gone whether
/// it is still there.
///
/// hyper's own timeout of headers begins when it waits for a request. So it bounds how long a
/// connection may be idle, which is longer than the head of a request may take.
pub(super) struct DeadlineStream<S> {
    inner: S,
    activity: Arc<Activity>,
    protocol: Protocol,
    head_timeout: Duration,
    /// Set while the head of a request is coming, with how many requests there were before.
    head: Option<(Pin<Box<Sleep>>, usize)>,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// The rest of the bytes that tell whether the client is there.
    interim: &'static [u8],
}

/// Told by the first bytes.
enum Protocol {
    /// So many bytes are those of [`PREFACE`].
    Unknown(usize),
    Http1,
    Http2(FrameBudget),
}

/// The beginning of a connection of HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An answer before the answer, which every client of HTTP/1.1 passes over. One that has gone
/// answers it with a reset.
const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl<S> DeadlineStream<S> {
    /// `head_timeout` bounds the time from the first byte of a request to the end of its head, and
    /// that of the first request from here on; `stall` that in which the client takes nothing.
    pub(super) fn new(inner: S, activity: Arc<Activity>, head_timeout: Duration, stall: Duration) -> Self {
        let head = Some((Box::pin(tokio::time::sleep(head_timeout)), activity.asked()));
        let protocol = Protocol::Unknown(0);
        Self { inner, activity, protocol, head_timeout, head, stall, stalled: None, interim: b"" }
    }

    /// Keeps the time of a write: `Pending` for too long becomes an error.
    fn timed<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled =
            self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + self.stall)));
        std::task::ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }

    /// Takes note of bytes that have come.
    fn received(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if let Protocol::Unknown(same) = self.protocol {
            let more = bytes.len().min(PREFACE.len() - same);
            self.protocol = if bytes[..more] != PREFACE[same..same + more] {
                Protocol::Http1
            } else if same + more < PREFACE.len() {
                Protocol::Unknown(same + more)
            } else {
                bytes = &bytes[more..];
                self.head = None;
                Protocol::Http2(FrameBudget::new(Instant::now()))
            };
        }
        if let Protocol::Http2(budget) = &mut self.protocol {
            return budget.received(bytes, Instant::now()).map_err(io::Error::other);
        }
        if self.head.is_none() && !bytes.is_empty() && self.activity.is_idle() {
            self.head = Some((Box::pin(tokio::time::sleep(self.head_timeout)), self.activity.asked()));
        }
        Ok(())
    }

    /// Whether the head of a request takes too long.
    fn is_head_late(&mut self, cx: &mut Context<'_>) -> bool {
        match &mut self.head {
            Some((_, before)) if *before != self.activity.asked() => {
                self.head = None;
                false
            }
            Some((deadline, _)) => deadline.as_mut().poll(cx).is_ready(),
            None => false,
        }
    }

    fn sent(&mut self, written: &Poll<io::Result<usize>>) {
        if let (Protocol::Http2(budget), Poll::Ready(Ok(bytes))) = (&mut self.protocol, written) {
            budget.sent(*bytes);
        }
    }
}

impl<S: AsyncWrite + Unpin> DeadlineStream<S> {
    /// Asks a client that may have gone, between two answers only.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.take_doubt() && self.stalled.is_none() && matches!(self.protocol, Protocol::Http1) {
            self.interim = INTERIM;
        }
        while !self.interim.is_empty() {
            let written = Pin::new(&mut self.inner).poll_write(cx, self.interim);
            let bytes = std::task::ready!(self.timed(cx, written))?;
            self.interim = &self.interim[bytes..];
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for DeadlineStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buffer);
        if read.is_pending() && this.is_head_late(cx) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client does not finish what it says",
            )));
        }
        this.received(&buffer.filled()[before..])?;
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DeadlineStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_interim(cx))?;
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.sent(&written);
        self.timed(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_interim(cx))?;
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.sent(&written);
        self.timed(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.poll_interim(cx))?;
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.timed(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.timed(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    const HEAD: Duration = Duration::from_secs(5);
    const STALL: Duration = Duration::from_secs(30);

    fn patient() -> (DuplexStream, DeadlineStream<DuplexStream>, Arc<Activity>) {
        let (client, server) = tokio::io::duplex(1024);
        let activity = Activity::new(std::time::Instant::now());
        (client, DeadlineStream::new(server, Arc::clone(&activity), HEAD, STALL), activity)
    }

    async fn is_late(server: &mut DeadlineStream<DuplexStream>) -> bool {
        let read = tokio::time::timeout(HEAD * 100, async {
            loop {
                if let Err(error) = server.read(&mut [0; 64]).await {
                    return error.kind() == io::ErrorKind::TimedOut;
                }
            }
        });
        read.await.unwrap_or(false)
    }

    #[tokio::test(start_paused = true)]
    async fn c06_silence_at_the_beginning_ends() {
        for beginning in [&b""[..], b"PRI", b"GET / HTTP/1.1\r\n", &PREFACE[..23]] {
            let (mut client, mut server, _) = patient();
            client.write_all(beginning).await.unwrap();
            assert!(is_late(&mut server).await, "{beginning:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn c06_half_a_head_ends_and_silence_after_an_answer_does_not() {
        let (mut client, mut server, activity) = patient();
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(server.read(&mut [0; 64]).await.unwrap() > 0);
        drop(activity.begin());
        assert!(!is_late(&mut server).await, "hyper bounds how long it may be idle");
        let busy = activity.begin();
        client.write_all(b"body").await.unwrap();
        assert!(!is_late(&mut server).await, "bodies have a pace of their own");
        drop(busy);
        client.write_all(b"GET").await.unwrap();
        assert!(is_late(&mut server).await);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_of_http_2_is_for_others_to_judge() {
        let (mut client, mut server, _) = patient();
        client.write_all(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()).await.unwrap();
        assert!(!is_late(&mut server).await);
    }

    #[tokio::test(start_paused = true)]
    async fn c28_a_flood_of_frames_ends() {
        let (mut client, mut server, _) = patient();
        let flood = tokio::spawn(async move {
            client.write_all(PREFACE).await.unwrap();
            while client.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.is_ok() {}
        });
        let mut bytes = 0;
        let error = loop {
            match server.read(&mut [0; 64]).await {
                Ok(read) => bytes += read,
                Err(error) => break error,
            }
        };
        assert!(error.to_string().contains("frames"), "{error}");
        // The preface and the headers of 1,001 frames, but for what was read last.
        assert!((PREFACE.len() + 9_009 - 64..PREFACE.len() + 9_009).contains(&bytes), "{bytes}");
        drop(server);
        flood.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (mut client, mut server, _) = patient();
        let sending = tokio::spawn(async move { server.write_all(&[0; 5000]).await });
        assert_eq!(client.read(&mut [0; 64]).await.unwrap(), 64);
        assert_eq!(sending.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn c29_a_client_that_may_have_gone_is_asked_once() {
        let (mut client, mut server, activity) = patient();
        client.write_all(b"POST / HTTP/1.1\r\n\r\n").await.unwrap();
        assert!(server.read(&mut [0; 64]).await.unwrap() > 0);
        activity.doubt();
        server.flush().await.unwrap();
        server.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        server.flush().await.unwrap();
        let mut seen = vec![0; 64];
        let read = client.read(&mut seen).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&seen[..read]), "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n");
    }
}
