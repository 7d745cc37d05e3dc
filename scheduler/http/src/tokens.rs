//! Tokens of a tenant: for admins and for the tenant's own.

use axum::body::Body;
use axum::extract::State;
use hyper::{HeaderMap, StatusCode, Uri};
use wasmill_api::{CreateToken, Page, Time, TokenCreated, TokenDoc};
use wasmill_protocol::TenantName;
use wasmill_protocol::command::Command;
use wasmill_protocol::tenant::{Role, Token};

use super::App;
use super::auth::{CallerAs, TenantAdmin, new_token_id, new_token_text, token_hash};
use super::json;
use super::modules::{PAGE_DEFAULT, PAGE_MAX, answer_page, page};
use super::path::Named;
use super::problem::{Code, Fault, Handled};
use super::query::{NoParameters, Parameters};
use super::read_twice;
use super::submit::read_json;
use super::tenants::named;

/// Create a token.
///
/// The answer is the only place where its text is ever shown.
#[utoipa::path(post, path = "/v1/tenants/{name}/tokens", tag = "tenants", operation_id = "create_token",
    params(super::openapi::TenantPath), request_body = CreateToken,
    responses(
        (status = 201, description = "The token with its text", body = TokenCreated),
        super::openapi::Unknown, super::openapi::Conflict, super::openapi::BodyProblems))]
pub(super) async fn create(
    State(app): State<App>,
    caller: CallerAs<TenantAdmin>,
    Named(name): Named<String>,
    _: NoParameters,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let tenant = administered(&app, &caller, &name).await?;
    let asked: CreateToken = read_json(&app, &headers, body).await?;
    asked.check()?;
    if asked.role == Role::Admin {
        // A role can only be given by those who have it.
        caller.at_least(Role::Admin)?;
    }
    let random = |error| Fault::internal("draw a token", &error);
    let (id, text) = (new_token_id().map_err(random)?, new_token_text().map_err(random)?);
    let CreateToken { name, role } = asked;
    let token = Token { id: id.clone(), tenant: tenant.clone(), name: name.clone(), role, hash: token_hash(&text) };
    app.handle.command(Command::AddToken { token }).await?;
    Ok(json::answer(StatusCode::CREATED, &TokenCreated { id, token: text, name, role, tenant }))
}

/// List tokens.
///
/// Ordered by id, without their texts.
#[utoipa::path(get, path = "/v1/tenants/{name}/tokens", tag = "tenants", operation_id = "list_tokens",
    params(super::openapi::TenantPath, super::openapi::PageParams, super::openapi::NameCursor),
    responses((status = 200, description = "One page", body = Page<TokenDoc>), super::openapi::Unknown))]
pub(super) async fn list(
    State(app): State<App>,
    caller: CallerAs<TenantAdmin>,
    Named(name): Named<String>,
    uri: Uri,
) -> Handled {
    let tenant = administered(&app, &caller, &name).await?;
    let mut parameters = Parameters::of(&uri)?;
    let limit = parameters.number("limit", 1, PAGE_MAX)?.unwrap_or(PAGE_DEFAULT);
    let after = parameters.cursor()?;
    parameters.finish()?;
    let mut tokens: Vec<_> = {
        let contents = app.handle.shared().directory.read();
        let of_tenant = contents.tokens.values().filter(|(token, _)| token.tenant == tenant);
        of_tenant.filter(|(token, _)| after.as_ref().is_none_or(|after| token.id > *after)).cloned().collect()
    };
    let make = move || {
        tokens.sort_by(|(left, _), (right, _)| left.id.cmp(&right.id));
        page(tokens.iter(), limit, |(token, at)| document(token, Time(*at)), |(token, _)| token.id.clone())
    };
    answer_page(&app, &caller.tenant, make).await
}

/// Describe a token.
#[utoipa::path(get, path = "/v1/tenants/{name}/tokens/{id}", tag = "tenants", operation_id = "get_token",
    params(super::openapi::TenantPath, super::openapi::TokenPath),
    responses((status = 200, description = "The token without its text", body = TokenDoc), super::openapi::Unknown))]
pub(super) async fn describe(
    State(app): State<App>,
    caller: CallerAs<TenantAdmin>,
    Named((name, id)): Named<(String, String)>,
    _: NoParameters,
) -> Handled {
    let tenant = administered(&app, &caller, &name).await?;
    let contents = app.handle.shared().directory.read();
    let found = contents.tokens.values().find(|(token, _)| token.tenant == tenant && token.id == id);
    let document = found.map(|(token, at)| document(token, Time(*at)));
    drop(contents);
    document.map(|document| json::answer(StatusCode::OK, &document)).ok_or_else(|| Fault::plain(Code::TokenUnknown))
}

/// Revoke a token.
///
/// Requests that are under way finish.
#[utoipa::path(delete, path = "/v1/tenants/{name}/tokens/{id}", tag = "tenants", operation_id = "delete_token",
    params(super::openapi::TenantPath, super::openapi::TokenPath),
    responses((status = 204, description = "It is no longer valid"), super::openapi::Unknown))]
pub(super) async fn delete(
    State(app): State<App>,
    caller: CallerAs<TenantAdmin>,
    Named((name, id)): Named<(String, String)>,
    _: NoParameters,
) -> Handled {
    let tenant = administered(&app, &caller, &name).await?;
    app.handle.command(Command::RemoveToken { tenant, id }).await?;
    Ok(json::no_content())
}

/// The tenant of the path, if the caller may administer it. Another one looks like one that does
/// not exist.
async fn administered(app: &App, caller: &CallerAs<TenantAdmin>, name: &str) -> Handled<TenantName> {
    let tenant = named(name)?;
    let may = caller.role == Role::Admin || caller.tenant == tenant;
    let known = || may && app.handle.shared().directory.read().tenants.contains_key(&tenant);
    read_twice::twice(app, || if known() { Ok(()) } else { Err(Fault::plain(Code::TenantUnknown)) }).await?;
    Ok(tenant)
}

fn document(token: &Token, created_at: Time) -> TokenDoc {
    TokenDoc {
        id: token.id.clone(),
        name: token.name.clone(),
        role: token.role,
        tenant: token.tenant.clone(),
        created_at,
    }
}
