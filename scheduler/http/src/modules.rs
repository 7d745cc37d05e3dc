//! Modules: upload, list, describe, download, delete.

mod upload;

use std::ops::Bound;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::header::{CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{StatusCode, Uri};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use tokio_util::io::ReaderStream;
use wasmill_api::catalog::is_alias;
use wasmill_api::{ModuleDoc, Page};
use wasmill_fabric::BlobError;
use wasmill_fabric::blobs::BlobReader;
use wasmill_protocol::command::Command;
use wasmill_protocol::module::{ModuleInfo, ModuleKind};
use wasmill_protocol::{Digest, TenantName, Timestamp};

use super::App;
use super::auth::{CallerAs, Read, Submit};
use super::json;
use super::path::{self, Named};
use super::problem::{Code, Fault, Handled};
use super::query::{NoParameters, Parameters};
use super::read_twice;
use super::tasks::unreadable;

pub(super) use upload::{__path_upload, upload};

/// Entries of a page without `limit`.
pub(super) const PAGE_DEFAULT: u64 = 100;
/// The largest `limit`.
pub(super) const PAGE_MAX: u64 = 1000;

/// Bytes of a page: one of large entries ends earlier.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Chunks in which stored bytes are sent.
const CHUNK_BYTES: usize = 64 * 1024;

/// The module that a submission names.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    /// Its digest.
    pub(super) digest: Digest,
    /// How it is run.
    pub(super) kind: ModuleKind,
    /// The name that a command finds as its own unless its task says otherwise: the alias that was
    /// used, or what the file was called.
    pub(super) program: Option<String>,
}

/// The module of a tenant's digest or alias right now. The text has been checked to be one of the
/// two.
pub(super) async fn resolve(app: &App, tenant: &TenantName, text: &str) -> Handled<Resolved> {
    read_twice::twice(app, || resolve_here(app, tenant, text)).await
}

fn resolve_here(app: &App, tenant: &TenantName, text: &str) -> Handled<Resolved> {
    let unknown = || Fault::new(Code::ModuleUnknown, format!("there is no module or alias `{text}`")).field("module");
    let contents = app.handle.shared().directory.read();
    let (digest, alias) = match text.parse() {
        Ok(digest) => (digest, None),
        Err(_) => (contents.alias(tenant, text).ok_or_else(unknown)?, Some(text)),
    };
    let (info, _) = contents.module(tenant, digest).ok_or_else(unknown)?;
    let name = alias.or(info.name.as_deref()).filter(|_| info.kind == ModuleKind::Command);
    Ok(Resolved { digest, kind: info.kind, program: name.map(str::to_owned) })
}

/// List modules.
///
/// Ordered by digest.
#[utoipa::path(get, path = "/v1/modules", tag = "modules", operation_id = "list_modules",
    params(super::openapi::PageParams, super::openapi::DigestCursor),
    responses((status = 200, description = "One page", body = Page<ModuleDoc>)))]
pub(super) async fn list(State(app): State<App>, caller: CallerAs<Read>, uri: Uri) -> Handled {
    let mut parameters = Parameters::of(&uri)?;
    let limit = parameters.number("limit", 1, PAGE_MAX)?.unwrap_or(PAGE_DEFAULT);
    let after: Option<Digest> = parameters.parsed("cursor")?;
    parameters.finish()?;
    let rest: Vec<(Digest, Arc<ModuleInfo>, Timestamp)> = {
        let contents = app.handle.shared().directory.read();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let modules = contents.modules.get(&caller.tenant);
        let rest = modules.into_iter().flat_map(|modules| modules.range((start, Bound::Unbounded)));
        rest.take(entries_needed(limit)).map(|(digest, (info, at))| (*digest, Arc::clone(info), *at)).collect()
    };
    let make =
        move || page(rest.iter(), limit, |(_, info, at)| ModuleDoc::new(info, *at), |(digest, ..)| digest.to_string());
    answer_page(&app, &caller.tenant, make).await
}

/// Entries from which a page of `limit` can be made: one more tells that there are more.
pub(super) fn entries_needed(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(1)
}

/// Answers with a page that is made in turn with the tenant's listings: it can be megabytes of
/// text.
pub(super) async fn answer_page(
    app: &App,
    tenant: &TenantName,
    make: impl FnOnce() -> Page<Box<RawValue>> + Send + 'static,
) -> Handled {
    let make = move || json::answer(StatusCode::OK, &make());
    app.handle.shared().read_model.show(tenant, make).await.map_err(unreadable)
}

/// The first of `entries`, at most `limit` and [`PAGE_BYTES_MAX`], and where to go on if there are
/// more. There is at least one if there is any.
pub(super) fn page<E: Copy, T: Serialize>(
    entries: impl Iterator<Item = E>,
    limit: u64,
    document: impl Fn(E) -> T,
    cursor: impl Fn(E) -> String,
) -> Page<Box<RawValue>> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut entries = entries.peekable();
    let (mut items, mut bytes, mut last): (Vec<Box<RawValue>>, usize, Option<E>) = (Vec::new(), 0, None);
    while items.len() < limit
        && let Some(&entry) = entries.peek()
    {
        let item = to_raw_value(&document(entry)).expect("documents have text keys only");
        bytes += item.get().len();
        if bytes > PAGE_BYTES_MAX && !items.is_empty() {
            break;
        }
        items.push(item);
        last = entries.next();
    }
    let next = if entries.peek().is_some() { last.map(cursor) } else { None };
    Page { items, next }
}

/// Describe a module.
#[utoipa::path(get, path = "/v1/modules/{module}", tag = "modules", operation_id = "get_module",
    params(super::openapi::ModulePath),
    responses((status = 200, description = "The module", body = ModuleDoc), super::openapi::Unknown))]
pub(super) async fn describe(
    State(app): State<App>,
    caller: CallerAs<Read>,
    Named(text): Named<String>,
    _: NoParameters,
) -> Handled {
    let (info, at) = find(&app, &caller.tenant, &text)?;
    Ok(json::answer(StatusCode::OK, &ModuleDoc::new(&info, at)))
}

/// The bytes of a module.
#[utoipa::path(get, path = "/v1/modules/{module}/content", tag = "modules", operation_id = "get_module_content",
    params(super::openapi::ModulePath),
    responses(
        (status = 200, description = "The bytes", body = super::openapi::Bytes, content_type = "application/wasm"),
        super::openapi::Unknown))]
pub(super) async fn content(
    State(app): State<App>,
    caller: CallerAs<Read>,
    Named(text): Named<String>,
    _: NoParameters,
) -> Handled {
    let (info, _) = find(&app, &caller.tenant, &text)?;
    let mut response = stored(&app, info.digest, info.bytes).await?;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/wasm"));
    Ok(response)
}

/// Delete a module.
///
/// Refused while a task that is not final uses it. Aliases that point at it go with it.
#[utoipa::path(delete, path = "/v1/modules/{module}", tag = "modules", operation_id = "delete_module",
    params(super::openapi::ModulePath),
    responses((status = 204, description = "It is gone"), super::openapi::Unknown, super::openapi::Conflict))]
pub(super) async fn delete(
    State(app): State<App>,
    caller: CallerAs<Submit>,
    Named(text): Named<String>,
    _: NoParameters,
) -> Handled {
    let digest = named(&app, &caller.tenant, &text)?;
    app.handle.command(Command::RemoveModule { tenant: caller.tenant.clone(), digest }).await?;
    Ok(json::no_content())
}

/// The digest that the path names, itself or by an alias.
fn named(app: &App, tenant: &TenantName, text: &str) -> Handled<Digest> {
    if !is_alias(text) {
        return path::digest(text);
    }
    let digest = app.handle.shared().directory.read().alias(tenant, text);
    digest.ok_or_else(|| Fault::new(Code::ModuleUnknown, format!("there is no module or alias `{text}`")))
}

fn find(app: &App, tenant: &TenantName, text: &str) -> Handled<(Arc<ModuleInfo>, Timestamp)> {
    let digest = named(app, tenant, text)?;
    let contents = app.handle.shared().directory.read();
    let found = contents.module(tenant, digest).map(|(info, at)| (Arc::clone(info), *at));
    found.ok_or_else(|| Fault::plain(Code::ModuleUnknown))
}

/// A blob that must be there.
pub(super) async fn opened(app: &App, digest: Digest) -> Handled<BlobReader> {
    match app.handle.shared().blobs.open(digest).await {
        Ok(reader) => Ok(reader),
        Err(error @ (BlobError::Unknown(_) | BlobError::Damaged(_))) => {
            Err(Fault::internal("find bytes that were stored", &error))
        }
        Err(error) => Err(error.into()),
    }
}

/// Streams a blob as an attachment of unknown type.
pub(super) async fn stored(app: &App, digest: Digest, bytes: u64) -> Handled {
    let reader = opened(app, digest).await?;
    let mut response = Response::new(Body::from_stream(ReaderStream::with_capacity(reader, CHUNK_BYTES)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c27_a_page_is_bounded_in_bytes_and_goes_on() {
        let lengths = [10, PAGE_BYTES_MAX - 100, 50, 200, PAGE_BYTES_MAX * 2, 7];
        let all = || lengths.iter().copied();
        let (mut pages, mut from) = (Vec::new(), 0);
        loop {
            let rest = all().enumerate().skip(from);
            let page = page(rest, 1000, |(_, length)| "x".repeat(length), |(at, _)| at.to_string());
            pages.push(page.items.len());
            match page.next {
                Some(last) => from = last.parse::<usize>().unwrap() + 1,
                None => break,
            }
        }
        assert_eq!(pages, [3, 1, 1, 1], "one that is too large by itself comes alone");
        let two = page(all(), 2, |length| length, |length| length.to_string());
        assert_eq!((two.items.len(), two.next.as_deref()), (2, Some((PAGE_BYTES_MAX - 100).to_string().as_str())));
    }
}
