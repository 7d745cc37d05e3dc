//! Parts of the path, without axum's plain-text errors.

use axum::extract::{FromRequestParts, Path};
use hyper::http::request::Parts;
use serde::de::DeserializeOwned;
use wasmill_protocol::{Digest, TaskId};

use super::problem::{Code, Fault, Handled};

/// The variable parts of a path.
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Fault;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Handled<Self> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(named)) => Ok(Self(named)),
            // Only percent-encoding that is not UTF-8 comes here, and nothing has such a name.
            Err(_) => Err(Fault::plain(Code::NotFound)),
        }
    }
}

/// A task of the path. A text that is no id names nothing, like an id of somebody else.
pub(super) fn task(text: &str) -> Handled<TaskId> {
    text.parse().map_err(|_| Fault::plain(Code::TaskUnknown))
}

/// A digest of the path.
pub(super) fn digest(text: &str) -> Handled<Digest> {
    text.parse().map_err(|error: wasmill_protocol::ids::ParseIdError| {
        Fault::new(Code::MalformedDigest, error.to_string()).field("digest")
    })
}
