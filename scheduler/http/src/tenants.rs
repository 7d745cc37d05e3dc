//! Tenants: for admins.

use std::ops::Bound;

use axum::body::Body;
use axum::extract::State;
use hyper::{HeaderMap, StatusCode, Uri};
use wasmill_api::{ChangeTenant, CreateTenant, Page, TenantDoc, TenantUsage, Time};
use wasmill_protocol::command::Command;
use wasmill_protocol::tenant::{Quotas, Tenant};
use wasmill_protocol::{TenantName, Timestamp};

use super::App;
use super::auth::{Admin, CallerAs};
use super::json;
use super::modules::{PAGE_DEFAULT, PAGE_MAX, page};
use super::path::Named;
use super::problem::{Code, Fault, Handled};
use super::query::{NoParameters, Parameters};
use super::submit::read_json;
use super::tasks::unreadable;
use wasmill_scheduler::directory::Contents;

/// List tenants.
///
/// Ordered by name.
#[utoipa::path(get, path = "/v1/tenants", tag = "tenants", operation_id = "list_tenants",
    params(super::openapi::PageParams, super::openapi::NameCursor),
    responses((status = 200, description = "One page", body = Page<TenantDoc>)))]
pub(super) async fn list(State(app): State<App>, _: CallerAs<Admin>, uri: Uri) -> Handled {
    let mut parameters = Parameters::of(&uri)?;
    let limit = parameters.number("limit", 1, PAGE_MAX)?.unwrap_or(PAGE_DEFAULT);
    let after = parameters.cursor()?;
    parameters.finish()?;
    let contents = app.handle.shared().directory.read();
    let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
    let rest = contents.tenants.range::<str, _>((start, Bound::Unbounded));
    let page =
        page(rest, limit, |(_, (tenant, at))| document(&app, &contents, tenant, *at), |(name, _)| name.to_string());
    drop(contents);
    Ok(json::answer(StatusCode::OK, &page))
}

/// Create a tenant.
#[utoipa::path(post, path = "/v1/tenants", tag = "tenants", operation_id = "create_tenant",
    request_body = CreateTenant,
    responses(
        (status = 201, description = "It is there", body = TenantDoc),
        super::openapi::Conflict, super::openapi::BodyProblems))]
pub(super) async fn create(
    State(app): State<App>,
    _: CallerAs<Admin>,
    _: NoParameters,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let asked: CreateTenant = read_json(&app, &headers, body).await?;
    asked.check()?;
    let name: TenantName = asked.name.parse().map_err(|error: wasmill_protocol::ids::ParseIdError| {
        Fault::new(Code::FieldInvalid, error.to_string()).field("name")
    })?;
    let quotas = asked.quotas.unwrap_or_default().applied_to(Quotas::default());
    let weight = weight(asked.weight).unwrap_or(1);
    let class = class(asked.class).unwrap_or(0);
    app.handle.command(Command::CreateTenant { name: name.clone(), weight, class, quotas }).await?;
    shown(&app, &name, StatusCode::CREATED)
}

/// Describe a tenant.
#[utoipa::path(get, path = "/v1/tenants/{name}", tag = "tenants", operation_id = "get_tenant",
    params(super::openapi::TenantPath),
    responses((status = 200, description = "The tenant", body = TenantDoc), super::openapi::Unknown))]
pub(super) async fn describe(
    State(app): State<App>,
    _: CallerAs<Admin>,
    Named(name): Named<String>,
    _: NoParameters,
) -> Handled {
    // The results of attempts count as soon as they are written.
    app.handle.shared().read_model.flush().await.map_err(unreadable)?;
    shown(&app, &named(&name)?, StatusCode::OK)
}

/// Change a tenant.
///
/// A field that is absent stays as it is, also within `quotas`.
#[utoipa::path(patch, path = "/v1/tenants/{name}", tag = "tenants", operation_id = "change_tenant",
    params(super::openapi::TenantPath), request_body = ChangeTenant,
    responses(
        (status = 200, description = "The tenant as it is now", body = TenantDoc),
        super::openapi::Unknown, super::openapi::BodyProblems))]
pub(super) async fn change(
    State(app): State<App>,
    _: CallerAs<Admin>,
    Named(name): Named<String>,
    _: NoParameters,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let asked: ChangeTenant = read_json(&app, &headers, body).await?;
    asked.check()?;
    let name = named(&name)?;
    // A field that stays must have its present value.
    app.handle.catch_up(app.handle.position()).await?;
    let quotas = {
        let contents = app.handle.shared().directory.read();
        let (tenant, _) = contents.tenants.get(&name).ok_or_else(|| Fault::plain(Code::TenantUnknown))?;
        asked.quotas.map(|quotas| quotas.applied_to(tenant.quotas))
    };
    let (weight, class) = (weight(asked.weight), class(asked.class));
    app.handle.command(Command::ChangeTenant { name: name.clone(), weight, class, quotas }).await?;
    shown(&app, &name, StatusCode::OK)
}

/// Delete a tenant.
///
/// Everything that it has goes with it; running tasks are cancelled.
#[utoipa::path(delete, path = "/v1/tenants/{name}", tag = "tenants", operation_id = "delete_tenant",
    params(super::openapi::TenantPath),
    responses((status = 204, description = "It is gone"), super::openapi::Unknown, super::openapi::Conflict))]
pub(super) async fn delete(
    State(app): State<App>,
    _: CallerAs<Admin>,
    Named(name): Named<String>,
    _: NoParameters,
) -> Handled {
    app.handle.command(Command::RemoveTenant { name: named(&name)? }).await?;
    Ok(json::no_content())
}

/// A tenant of the path. A text that is no name names nothing.
pub(super) fn named(text: &str) -> Handled<TenantName> {
    text.parse().map_err(|_| Fault::plain(Code::TenantUnknown))
}

/// The weight was checked to be at most [`WEIGHT_MAX`](wasmill_api::check::WEIGHT_MAX).
fn weight(asked: Option<u64>) -> Option<u32> {
    asked.and_then(|weight| u32::try_from(weight).ok())
}

/// The class was checked to be at most [`CLASS_MAX`](wasmill_api::check::CLASS_MAX) either way.
fn class(asked: Option<i64>) -> Option<i8> {
    asked.and_then(|class| i8::try_from(class).ok())
}

fn shown(app: &App, name: &TenantName, status: StatusCode) -> Handled {
    let contents = app.handle.shared().directory.read();
    let (tenant, at) = contents.tenants.get(name).ok_or_else(|| Fault::plain(Code::TenantUnknown))?;
    let document = document(app, &contents, tenant, *at);
    drop(contents);
    Ok(json::answer(status, &document))
}

fn document(app: &App, contents: &Contents, tenant: &Tenant, created_at: Timestamp) -> TenantDoc {
    let modules = contents.modules.get(&tenant.name);
    let usage = TenantUsage {
        modules: modules.map_or(0, |modules| modules.len() as u64),
        module_bytes: modules.into_iter().flatten().map(|(_, (module, _))| module.bytes).sum(),
        stored_bytes: app.handle.shared().read_model.stored_bytes(&tenant.name),
    };
    TenantDoc {
        name: tenant.name.clone(),
        weight: tenant.weight,
        class: tenant.class,
        quotas: tenant.quotas,
        usage,
        created_at: Time(created_at),
    }
}
