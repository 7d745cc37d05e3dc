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

/// Answers up to this size are not counted, and larger ones are handed on in pieces of it: what a connection has taken is gone from here.
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

/// Counts a large answer towards the memory of its tenant until it is read; refuses it when there is too much already.
pub(super) fn hold(app: &App, asker: &Asker, response: Response<Body>) -> Response<Body> {
    // What is streamed from elsewhere has no size here, and holds one piece at a time.
    let Some(bytes) = response.body().size_hint().exact().filter(|bytes| *bytes > PIECE_BYTES as u64) else {
        return response;
    };
    let mut taken = app.answer_memory.of(asker.0.get().unwrap_or(&TenantName::default_tenant()));
    match taken.grow(bytes) {
        Ok(()) => response.map(|inner| Body::new(HeldBody { inner, piece: Bytes::new(), left: bytes, _taken: taken })),
        Err(fault) => fault.into_response(),
    }
}

struct HeldBody {
    inner: Body,
    /// What was taken from `inner` and not handed on.
    piece: Bytes,
    left: u64,
    _taken: MemoryTaken,
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
                Ok(Ok(piece)) => self.piece = piece,
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
