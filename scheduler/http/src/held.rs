//! Answers that are in memory until their client has read them.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::IntoResponse;
use bytes::Bytes;
use hyper::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use wasmill_protocol::TenantName;

use super::App;
use super::memory::MemoryTaken;
use super::problem::Handled;

/// Answers up to this size are not counted, and larger ones are handed on in pieces of it. A
/// connection may keep pieces until its client takes them, also after the body has ended: the
/// memory is given back with the last one.
const PIECE_BYTES: usize = 64 * 1024;

/// Whose request it is, as soon as that is known: goes along with the request.
#[derive(Debug, Clone, Default)]
pub(super) struct Asker(Arc<OnceLock<TenantName>>);

impl Asker {
    /// Notes the tenant.
    pub(super) fn is(&self, tenant: &TenantName) {
        // A request that is routed twice is of the same tenant.
        let _ = self.0.set(tenant.clone());
    }
}

/// Memory of an answer that is counted already.
#[derive(Debug, Clone, Copy)]
struct Held;

/// An answer of known size whose memory its handler has begun to count while it was made.
pub(super) fn held(mut taken: MemoryTaken, mut response: Response<Body>) -> Handled<Response<Body>> {
    let bytes = response.body().size_hint().exact().unwrap_or(0);
    taken.grow(bytes)?;
    taken.shrink(bytes);
    response.extensions_mut().insert(Held);
    Ok(response.map(|inner| Body::new(HeldBody::new(inner, bytes, taken))))
}

/// Counts a large answer towards the memory of its tenant until it is read; refuses it when there
/// is too much already.
pub(super) fn hold(app: &App, asker: &Asker, mut response: Response<Body>) -> Response<Body> {
    if response.extensions_mut().remove::<Held>().is_some() {
        return response;
    }
    // A body that is streamed from elsewhere has no size here, and holds one piece at a time.
    let Some(bytes) = response.body().size_hint().exact().filter(|bytes| *bytes > PIECE_BYTES as u64) else {
        return response;
    };
    let mut taken = app.answer_memory.of(asker.0.get().unwrap_or(&TenantName::default_tenant()));
    match taken.grow(bytes) {
        Ok(()) => response.map(|inner| Body::new(HeldBody::new(inner, bytes, taken))),
        Err(fault) => fault.into_response(),
    }
}

struct HeldBody {
    inner: Body,
    /// The bytes that were taken from `inner` and not handed on.
    piece: Bytes,
    left: u64,
    taken: Arc<MemoryTaken>,
}

impl HeldBody {
    fn new(inner: Body, bytes: u64, taken: MemoryTaken) -> Self {
        Self { inner, piece: Bytes::new(), left: bytes, taken: Arc::new(taken) }
    }
}

/// Bytes that count for as long as any part of them is somewhere: each piece keeps the memory of
/// all of them.
struct CountedBytes {
    bytes: Bytes,
    _taken: Arc<MemoryTaken>,
}

impl AsRef<[u8]> for CountedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        while self.piece.is_empty() {
            let Some(frame) = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx)) else {
                return Poll::Ready(None);
            };
            match frame.map(Frame::into_data) {
                Ok(Ok(bytes)) => {
                    let taken = Arc::clone(&self.taken);
                    self.piece = Bytes::from_owner(CountedBytes { bytes, _taken: taken });
                }
                Ok(Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        let length = self.piece.len().min(PIECE_BYTES);
        let piece = self.piece.split_to(length);
        self.left = self.left.saturating_sub(length as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::super::memory::Memory;
    use super::super::problem::Code;
    use super::*;

    /// As a connection of HTTP/2 does it for a client whose window is full: it takes the last
    /// piece, is done with the body, and keeps the piece.
    #[tokio::test]
    async fn c27_memory_is_counted_until_the_last_piece_is_sent() {
        let memory = Memory::new(1_000_000, "answers");
        let tenant = TenantName::default_tenant();
        let page = vec![b'x'; 400_000];
        let mut body = held(memory.of(&tenant), Response::new(Body::from(page.clone()))).unwrap().into_body();
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            bytes += piece.len();
            pieces.push(piece);
        }
        drop(body);
        assert_eq!((bytes, pieces.len()), (400_000, 400_000_usize.div_ceil(PIECE_BYTES)));
        let last = pieces.pop().unwrap();
        drop(pieces);
        let another = || held(memory.of(&tenant), Response::new(Body::from(page.clone())));
        assert_eq!(another().unwrap_err().code(), Code::TooManyRequests);
        drop(last);
        assert!(another().is_ok());
    }
}
