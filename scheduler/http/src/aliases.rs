//! Aliases: names for digests.

use std::ops::Bound;

use axum::body::Body;
use axum::extract::State;
use hyper::{HeaderMap, StatusCode, Uri};
use wasmill_api::catalog::is_alias;
use wasmill_api::{AliasDoc, FieldError, Page, PutAlias};
use wasmill_protocol::command::{Command, Done};

use super::App;
use super::auth::{CallerAs, Read, Submit};
use super::json;
use super::modules::{PAGE_DEFAULT, PAGE_MAX, answer_page, entries_needed, page};
use super::path::Named;
use super::problem::{Code, Fault, Handled};
use super::query::{NoParameters, Parameters};
use super::submit::read_json;

/// List aliases.
///
/// Ordered by name.
#[utoipa::path(get, path = "/v1/aliases", tag = "modules", operation_id = "list_aliases",
    params(super::openapi::PageParams, super::openapi::NameCursor),
    responses((status = 200, description = "One page", body = Page<AliasDoc>)))]
pub(super) async fn list(State(app): State<App>, caller: CallerAs<Read>, uri: Uri) -> Handled {
    let mut parameters = Parameters::of(&uri)?;
    let limit = parameters.number("limit", 1, PAGE_MAX)?.unwrap_or(PAGE_DEFAULT);
    let after = parameters.cursor()?;
    parameters.finish()?;
    let rest: Vec<AliasDoc> = {
        let contents = app.handle.shared().directory.read();
        let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let aliases = contents.aliases.get(&caller.tenant);
        let rest = aliases.into_iter().flat_map(|aliases| aliases.range::<str, _>((start, Bound::Unbounded)));
        let document = |(name, digest): (&String, &_)| AliasDoc { name: name.clone(), digest: *digest };
        rest.take(entries_needed(limit)).map(document).collect()
    };
    answer_page(&app, &caller.tenant, move || page(rest.iter(), limit, |alias| alias, |alias| alias.name.clone())).await
}

/// Where an alias points.
#[utoipa::path(get, path = "/v1/aliases/{name}", tag = "modules", operation_id = "get_alias",
    params(super::openapi::AliasPath),
    responses((status = 200, description = "The alias", body = AliasDoc), super::openapi::Unknown))]
pub(super) async fn describe(
    State(app): State<App>,
    caller: CallerAs<Read>,
    Named(name): Named<String>,
    _: NoParameters,
) -> Handled {
    let digest = app.handle.shared().directory.read().alias(&caller.tenant, &name);
    let digest = digest.ok_or_else(|| Fault::plain(Code::AliasUnknown))?;
    Ok(json::answer(StatusCode::OK, &AliasDoc { name, digest }))
}

/// Point an alias at a module.
///
/// Tasks that were submitted before keep the module that they were submitted with.
#[utoipa::path(put, path = "/v1/aliases/{name}", tag = "modules", operation_id = "put_alias",
    params(super::openapi::AliasPath), request_body = PutAlias,
    responses(
        (status = 200, description = "It points there now", body = AliasDoc),
        (status = 201, description = "It is new", body = AliasDoc),
        super::openapi::Unknown, super::openapi::BodyProblems))]
pub(super) async fn put(
    State(app): State<App>,
    caller: CallerAs<Submit>,
    Named(name): Named<String>,
    _: NoParameters,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let PutAlias { digest } = read_json(&app, &headers, body).await?;
    if !is_alias(&name) {
        let detail = "is not an alias: `name` or `name:version` of a-z, 0-9, `-`, `_`, `.` is expected";
        return Err(FieldError::invalid("name", detail).into());
    }
    let command = Command::SetAlias { tenant: caller.tenant.clone(), name: name.clone(), digest };
    let status = match app.handle.command(command).await? {
        (_, Done::Created) => StatusCode::CREATED,
        _ => StatusCode::OK,
    };
    Ok(json::answer(status, &AliasDoc { name, digest }))
}

/// Delete an alias.
///
/// The module stays.
#[utoipa::path(delete, path = "/v1/aliases/{name}", tag = "modules", operation_id = "delete_alias",
    params(super::openapi::AliasPath),
    responses((status = 204, description = "It is gone"), super::openapi::Unknown))]
pub(super) async fn delete(
    State(app): State<App>,
    caller: CallerAs<Submit>,
    Named(name): Named<String>,
    _: NoParameters,
) -> Handled {
    app.handle.command(Command::RemoveAlias { tenant: caller.tenant.clone(), name }).await?;
    Ok(json::no_content())
}
