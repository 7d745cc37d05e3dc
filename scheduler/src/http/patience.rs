//! A connection's stream with deadlines where hyper has none.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A stream that fails when its client says nothing at the beginning, or stops taking what it is sent.
///
/// hyper's own header timeout begins when the protocol is known; telling HTTP/1 from HTTP/2 takes up to
/// [`PREFACE_BYTES`], for which it would wait for ever.
pub(super) struct PatientStream<S> {
    inner: S,
    opening: Option<Opening>,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

struct Opening {
    deadline: Pin<Box<Sleep>>,
    missing: usize,
}

/// Bytes after which the protocol is known.
const PREFACE_BYTES: usize = 24;

impl<S> PatientStream<S> {
    /// `opening` bounds the time to the first bytes, `stall` that in which the client takes nothing.
    pub(super) fn new(inner: S, opening: Duration, stall: Duration) -> Self {
        let deadline = Box::pin(tokio::time::sleep(opening));
        Self { inner, opening: Some(Opening { deadline, missing: PREFACE_BYTES }), stall, stalled: None }
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
}

impl<S: AsyncRead + Unpin> AsyncRead for PatientStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buffer);
        let Some(opening) = &mut this.opening else { return read };
        opening.missing = opening.missing.saturating_sub(buffer.filled().len() - before);
        if opening.missing == 0 {
            this.opening = None;
        } else if read.is_pending() && opening.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing")));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PatientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.timed(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.timed(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const OPENING: Duration = Duration::from_secs(5);
    const STALL: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn silence_at_the_beginning_ends() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = PatientStream::new(server, OPENING, STALL);
        client.write_all(b"PRI").await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(server.read(&mut buffer).await.unwrap(), 3);
        assert_eq!(server.read(&mut buffer).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn later_silence_is_for_others_to_judge() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = PatientStream::new(server, OPENING, STALL);
        client.write_all(&[b'x'; PREFACE_BYTES]).await.unwrap();
        let mut buffer = [0; 64];
        assert_eq!(server.read(&mut buffer).await.unwrap(), PREFACE_BYTES);
        assert!(tokio::time::timeout(OPENING * 100, server.read(&mut buffer)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (mut client, server) = tokio::io::duplex(64);
        let mut server = PatientStream::new(server, OPENING, STALL);
        let sending = tokio::spawn(async move { server.write_all(&[0; 1000]).await });
        // Taking a little in between starts the time anew.
        tokio::time::sleep(STALL - Duration::from_secs(1)).await;
        client.read_exact(&mut [0; 64]).await.unwrap();
        tokio::time::sleep(STALL - Duration::from_secs(1)).await;
        assert!(!sending.is_finished());
        assert_eq!(sending.await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
