//! Reading request bodies: bounded in size, in time and in memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use tokio::time::Instant;

use super::problem::{Code, Fault, Handled};

/// How slowly a body may come.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The longest time without a byte.
    pub idle: Duration,
    /// After `idle`, the whole must have come at least this fast.
    pub bytes_per_second: u64,
}

/// Reads one body chunk by chunk.
pub(super) struct BodyReader {
    body: Body,
    bytes_max: u64,
    too_large: Code,
    received: u64,
    pace: Pace,
    started: Instant,
}

impl BodyReader {
    /// A reader that fails with `too_large` beyond `bytes_max`: at once if the length is announced.
    pub(super) fn new(headers: &HeaderMap, body: Body, bytes_max: u64, too_large: Code, pace: Pace) -> Handled<Self> {
        identity_only(headers)?;
        let reader = Self { body, bytes_max, too_large, received: 0, pace, started: Instant::now() };
        let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|announced| announced > bytes_max) {
            return Err(reader.too_large());
        }
        Ok(reader)
    }

    /// The next chunk, never empty; `None` at the end.
    pub(super) async fn next(&mut self) -> Handled<Option<Bytes>> {
        loop {
            let deadline = self.deadline();
            let frame = match tokio::time::timeout_at(deadline, self.body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(error))) => {
                    tracing::debug!(%error, "a request body was not finished");
                    return Err(Fault::new(Code::MalformedRequest, "the body ended before it was complete"));
                }
                Ok(None) => return Ok(None),
                Err(_) => return Err(self.too_slow()),
            };
            // Trailers mean nothing here, and empty chunks are no progress.
            let Ok(chunk) = frame.into_data() else { continue };
            self.received += chunk.len() as u64;
            if self.received > self.bytes_max {
                return Err(self.too_large());
            }
            if !chunk.is_empty() {
                return Ok(Some(chunk));
            }
        }
    }

    /// Measures the pace anew from here, as if `received` bytes had just come: what is awaited now is another part.
    pub(super) fn pace_from_here(&mut self, received: usize, idle: Duration) {
        self.started = Instant::now();
        self.received = received as u64;
        self.pace.idle = idle;
    }

    fn deadline(&self) -> Instant {
        let earned = Duration::from_secs(self.received / self.pace.bytes_per_second.max(1));
        let by_rate = self.started + self.pace.idle + earned;
        by_rate.min(Instant::now() + self.pace.idle)
    }

    fn too_slow(&self) -> Fault {
        let Pace { idle, bytes_per_second } = self.pace;
        let detail = format!(
            "{} bytes came, then too little: after {} s at least {bytes_per_second} bytes/s are expected",
            self.received,
            idle.as_secs_f32()
        );
        Fault::new(Code::BodyTooSlow, detail)
    }

    fn too_large(&self) -> Fault {
        Fault::new(self.too_large, format!("the body is over the limit of {} bytes", self.bytes_max))
            .limit(self.bytes_max)
    }
}

/// Memory that request bodies may take, all of them together.
#[derive(Debug)]
pub(super) struct BodyMemory {
    taken: AtomicU64,
    bytes_max: u64,
}

/// Bodies up to this size are not counted: connections are bounded already.
const UNCOUNTED_BYTES: u64 = 64 * 1024;

/// Memory that a body takes; given back when dropped.
#[derive(Debug)]
pub(super) struct MemoryTaken {
    memory: Arc<BodyMemory>,
    bytes: u64,
}

impl BodyMemory {
    /// Memory for bodies, `bytes_max` in all.
    pub(super) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self { taken: AtomicU64::new(0), bytes_max })
    }

    /// Nothing of it, to begin with.
    pub(super) fn nothing(self: &Arc<Self>) -> MemoryTaken {
        MemoryTaken { memory: Arc::clone(self), bytes: 0 }
    }
}

impl MemoryTaken {
    /// Takes what is missing up to `bytes`.
    pub(super) fn grow(&mut self, bytes: u64) -> Handled<()> {
        if bytes <= UNCOUNTED_BYTES || bytes <= self.bytes {
            return Ok(());
        }
        let more = bytes - self.bytes;
        let before = self.memory.taken.fetch_add(more, Ordering::Relaxed);
        if before + more > self.memory.bytes_max {
            self.memory.taken.fetch_sub(more, Ordering::Relaxed);
            return Err(Fault::new(Code::Overloaded, "too many large bodies are being received"));
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for MemoryTaken {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.memory.taken.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// The whole body. The memory is given back when the second value is dropped.
pub(super) async fn collect(mut reader: BodyReader, memory: &Arc<BodyMemory>) -> Handled<(Bytes, MemoryTaken)> {
    let mut taken = memory.nothing();
    let Some(first) = reader.next().await? else { return Ok((Bytes::new(), taken)) };
    let Some(second) = reader.next().await? else { return Ok((first, taken)) };
    let mut all = BytesMut::with_capacity(first.len() + second.len());
    all.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(chunk) = next {
        // A buffer that grows by doubling holds at most the old and the new half at once.
        taken.grow((all.len() + chunk.len()) as u64 * 2)?;
        all.extend_from_slice(&chunk);
        next = reader.next().await?;
    }
    Ok((all.freeze(), taken))
}

/// Refuses encoded bodies: what they inflate to is unknown.
fn identity_only(headers: &HeaderMap) -> Handled<()> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Fault::plain(Code::UnsupportedEncoding).field("Content-Encoding"))
        }
        _ => Ok(()),
    }
}

/// The media type of a body, without parameters and in lower case; `None` when there is none.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().unwrap_or("?");
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// A header as text; an error if it is given twice or is not text.
pub(super) fn header_text(headers: &HeaderMap, name: &HeaderName) -> Handled<Option<String>> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), more) = (values.next(), values.next()) else { return Ok(None) };
    match (std::str::from_utf8(value.as_bytes()), more) {
        (Ok(text), None) => Ok(Some(text.to_owned())),
        _ => {
            Err(Fault::new(Code::MalformedRequest, format!("the header `{name}` is not one text")).field(name.as_str()))
        }
    }
}

/// A request body that is read to its end by somebody, even when the handler has lost interest.
///
/// A client that is still sending when the connection is closed may never see the answer: the reset overtakes it. So
/// what is left of a body is read and thrown away for a moment.
pub(super) struct LingeringBody {
    inner: Option<Incoming>,
}

/// How long the rest of a body is thrown away at most.
const LINGER: Duration = Duration::from_secs(5);
/// How many bytes of it at most.
const LINGER_BYTES_MAX: u64 = 128 * 1024 * 1024;

impl LingeringBody {
    /// Takes over the body of a request.
    pub(super) fn new(body: Incoming) -> Self {
        Self { inner: Some(body) }
    }
}

impl HttpBody for LingeringBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        let frame = std::task::ready!(Pin::new(inner).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.inner = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for LingeringBody {
    fn drop(&mut self) {
        let Some(rest) = self.inner.take().filter(|inner| !inner.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LINGER, throw_away(rest)));
        }
    }
}

async fn throw_away(mut body: Incoming) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        if bytes > LINGER_BYTES_MAX {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use futures::stream;

    use super::*;

    const PACE: Pace = Pace { idle: Duration::from_secs(10), bytes_per_second: 1_000 };

    fn reader(body: Body, bytes_max: u64) -> BodyReader {
        BodyReader::new(&HeaderMap::new(), body, bytes_max, Code::BodyTooLarge, PACE).unwrap()
    }

    fn chunked(chunks: &[&'static [u8]]) -> Body {
        Body::from_stream(stream::iter(chunks.to_vec()).map(Ok::<_, std::io::Error>))
    }

    #[tokio::test]
    async fn a_body_may_have_as_many_bytes_as_the_limit() {
        let memory = BodyMemory::new(u64::MAX);
        let (bytes, _) = collect(reader(chunked(&[b"ab", b"", b"cd", b"e"]), 5), &memory).await.unwrap();
        assert_eq!(bytes, "abcde");
        let fault = collect(reader(chunked(&[b"ab", b"cd", b"ef"]), 5), &memory).await.unwrap_err();
        assert_eq!(fault.code(), Code::BodyTooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_given_up() {
        let trickle = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>(&b"x"[..]), ()))
        });
        let started = Instant::now();
        let fault =
            collect(reader(Body::from_stream(trickle), 1_000_000), &BodyMemory::new(u64::MAX)).await.unwrap_err();
        assert_eq!(fault.code(), Code::BodyTooSlow);
        assert!(started.elapsed() < Duration::from_secs(12));
    }

    #[tokio::test]
    async fn large_bodies_share_a_bounded_memory() {
        let large = vec![0_u8; 100_000];
        let memory = BodyMemory::new(500_000);
        let body = |large: &[u8]| {
            let halves: Vec<_> = large.chunks(50_000).map(|half| Ok::<_, std::io::Error>(half.to_vec())).collect();
            reader(Body::from_stream(stream::iter(halves)), 1_000_000)
        };
        let (_, first) = collect(body(&large), &memory).await.unwrap();
        let (_, _second) = collect(body(&large), &memory).await.unwrap();
        assert_eq!(collect(body(&large), &memory).await.unwrap_err().code(), Code::Overloaded);
        drop(first);
        assert!(collect(body(&large), &memory).await.is_ok());
    }
}
