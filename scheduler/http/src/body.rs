//! Reading request bodies: bounded in size, in time and in memory.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use tokio::time::Instant;

use super::memory::MemoryTaken;
use super::problem::{Code, Fault, Handled};

/// How slowly a body may come.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The longest time without a byte, and by how much a body may fall behind its rate.
    pub idle: Duration,
    /// How fast it must come at least; faster when much of it is held already.
    pub bytes_per_second: u64,
}

/// A body of which so many bytes are held must go on coming by at least one byte a second: what is
/// large must not be held for hours by a trickle.
const HELD_PER_RATE: u64 = 1024;

/// Reads one body chunk by chunk.
pub(super) struct BodyReader {
    body: Body,
    bytes_max: u64,
    too_large: Code,
    received: u64,
    announced: Option<u64>,
    pace: Pace,
    /// The received bytes have paid for the time up to here.
    deadline: Instant,
}

impl BodyReader {
    /// A reader that fails with `too_large` beyond `bytes_max`: at once if the length is announced.
    pub(super) fn new(headers: &HeaderMap, body: Body, bytes_max: u64, too_large: Code, pace: Pace) -> Handled<Self> {
        identity_only(headers)?;
        let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let deadline = Instant::now() + pace.idle;
        let reader = Self { body, bytes_max, too_large, received: 0, announced, pace, deadline };
        if announced.is_some_and(|announced| announced > bytes_max) {
            return Err(reader.too_large());
        }
        Ok(reader)
    }

    /// The next chunk, never empty; `None` at the end.
    pub(super) async fn next(&mut self) -> Handled<Option<Bytes>> {
        loop {
            let frame = match tokio::time::timeout_at(self.deadline, self.body.frame()).await {
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
                self.earn(chunk.len() as u64);
                return Ok(Some(chunk));
            }
        }
    }

    /// Measures the pace anew from here, as if `received` bytes had just come: what is awaited now
    /// is another part.
    pub(super) fn pace_from_here(&mut self, received: usize, idle: Duration) {
        self.received = received as u64;
        self.pace.idle = idle;
        self.deadline = Instant::now() + idle;
    }

    /// A chunk pays for as much time as it takes at the least rate, and never for more than the
    /// longest pause.
    fn earn(&mut self, bytes: u64) {
        let now = Instant::now();
        let earned = Duration::from_micros(bytes.saturating_mul(1_000_000) / self.rate_min());
        self.deadline = (self.deadline.max(now) + earned).min(now + self.pace.idle);
    }

    fn rate_min(&self) -> u64 {
        self.pace.bytes_per_second.max(self.received / HELD_PER_RATE).max(1)
    }

    fn too_slow(&self) -> Fault {
        let detail = format!(
            "{} bytes came, then too little: at least {} bytes/s are expected, and no pause over {} s",
            self.received,
            self.rate_min(),
            self.pace.idle.as_secs_f32()
        );
        Fault::new(Code::BodyTooSlow, detail)
    }

    fn too_large(&self) -> Fault {
        Fault::new(self.too_large, format!("the body is over the limit of {} bytes", self.bytes_max))
            .limit(self.bytes_max)
    }
}

/// The whole body. The memory is given back when the second value is dropped.
pub(super) async fn collect(reader: BodyReader, mut taken: MemoryTaken) -> Handled<(Bytes, MemoryTaken)> {
    let bytes = gather(reader, |bytes| taken.grow(bytes)).await?;
    Ok((bytes, taken))
}

/// The whole of a body whose bound is so small that its memory is not counted.
pub(super) async fn collect_small(reader: BodyReader) -> Handled<Bytes> {
    gather(reader, |_| Ok(())).await
}

async fn gather(mut reader: BodyReader, mut grow: impl FnMut(u64) -> Handled<()>) -> Handled<Bytes> {
    let Some(first) = reader.next().await? else { return Ok(Bytes::new()) };
    let Some(second) = reader.next().await? else { return Ok(first) };
    // Where the length is announced the buffer has it from the beginning, and takes memory only as
    // it fills.
    let announced = usize::try_from(reader.announced.unwrap_or(0)).unwrap_or(0);
    let mut all = BytesMut::with_capacity(announced.max(first.len() + second.len()));
    all.extend_from_slice(&first);
    let mut next = Some(second);
    while let Some(chunk) = next {
        let bytes = all.len() + chunk.len();
        // One that grows by doubling holds at most the old and the new half at once.
        grow(if bytes <= announced { bytes } else { bytes * 2 } as u64)?;
        all.extend_from_slice(&chunk);
        next = reader.next().await?;
    }
    Ok(all.freeze())
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
/// A client that is still sending when the connection is closed may never see the answer: the reset
/// overtakes it. So what is left of a body is read and thrown away for a moment.
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
    use wasmill_protocol::TenantName;

    use super::super::memory::Memory;
    use super::*;

    const PACE: Pace = Pace { idle: Duration::from_secs(10), bytes_per_second: 1_000 };

    fn unbounded() -> MemoryTaken {
        Memory::new(u64::MAX, "large bodies").of(&TenantName::default())
    }

    fn reader(body: Body, bytes_max: u64) -> BodyReader {
        BodyReader::new(&HeaderMap::new(), body, bytes_max, Code::BodyTooLarge, PACE).unwrap()
    }

    fn chunked(chunks: &[&'static [u8]]) -> Body {
        Body::from_stream(stream::iter(chunks.to_vec()).map(Ok::<_, std::io::Error>))
    }

    #[tokio::test]
    async fn a_body_may_have_as_many_bytes_as_the_limit() {
        let (bytes, _) = collect(reader(chunked(&[b"ab", b"", b"cd", b"e"]), 5), unbounded()).await.unwrap();
        assert_eq!(bytes, "abcde");
        let fault = collect(reader(chunked(&[b"ab", b"cd", b"ef"]), 5), unbounded()).await.unwrap_err();
        assert_eq!(fault.code(), Code::BodyTooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_is_given_up() {
        let trickle = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::io::Error>(&b"x"[..]), ()))
        });
        let started = Instant::now();
        let fault = collect(reader(Body::from_stream(trickle), 1_000_000), unbounded()).await.unwrap_err();
        assert_eq!(fault.code(), Code::BodyTooSlow);
        assert!(started.elapsed() < Duration::from_secs(12));
    }

    /// The bytes per second that a client needs, and how long it lasts with fewer.
    #[tokio::test(start_paused = true)]
    async fn c31_a_large_body_that_trickles_is_given_up_within_seconds() {
        let large = stream::once(async { Ok::<_, std::io::Error>(vec![0; 40_000_000]) });
        let trickle = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Some((Ok::<_, std::io::Error>(vec![0; 1_000]), ()))
        });
        let started = Instant::now();
        let body = Body::from_stream(large.chain(trickle));
        let fault = collect(reader(body, 100_000_000), unbounded()).await.unwrap_err();
        assert_eq!(fault.code(), Code::BodyTooSlow);
        assert!(started.elapsed() < Duration::from_secs(12), "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_body_that_comes_steadily_may_take_its_time() {
        let steady = stream::unfold(0, |count| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            (count < 600).then(|| (Ok::<_, std::io::Error>(vec![0; 100_000]), count + 1))
        });
        let (bytes, _) = collect(reader(Body::from_stream(steady), 100_000_000), unbounded()).await.unwrap();
        assert_eq!(bytes.len(), 60_000_000);
    }

    #[tokio::test]
    async fn large_bodies_share_a_bounded_memory() {
        let large = vec![0_u8; 100_000];
        let (memory, tenant) = (Memory::new(800_000, "large bodies"), TenantName::default());
        let body = |large: &[u8]| {
            let halves: Vec<_> = large.chunks(50_000).map(|half| Ok::<_, std::io::Error>(half.to_vec())).collect();
            reader(Body::from_stream(stream::iter(halves)), 1_000_000)
        };
        let (_, first) = collect(body(&large), memory.of(&tenant)).await.unwrap();
        let (_, _second) = collect(body(&large), memory.of(&tenant)).await.unwrap();
        assert_eq!(collect(body(&large), memory.of(&tenant)).await.unwrap_err().code(), Code::TooManyRequests);
        drop(first);
        assert!(collect(body(&large), memory.of(&tenant)).await.is_ok());
    }
}
