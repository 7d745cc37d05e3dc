//! Hosts, the state of the whole, and health.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{StatusCode, Uri};
use wasmill_api::{BenchedDoc, HostDoc, Page, QueueDoc, StatusDoc, Time};
use wasmill_protocol::HostId;
use wasmill_protocol::command::Command;
use wasmill_scheduler::handle::{BenchedPolicy, HostView, QueueDepth};

use super::App;
use super::auth::{Admin, CallerAs, Read};
use super::json;
use super::modules::{PAGE_DEFAULT, PAGE_MAX, answer_page, page};
use super::path::Named;
use super::problem::{Code, Fault, Handled};
use super::query::{NoParameters, Parameters};
use wasmill_scheduler::handle::Overview;

/// List hosts.
///
/// Ordered by id.
#[utoipa::path(get, path = "/v1/hosts", tag = "system", operation_id = "list_hosts",
    params(super::openapi::PageParams, super::openapi::NameCursor),
    responses((status = 200, description = "One page", body = Page<HostDoc>)))]
pub(super) async fn hosts(State(app): State<App>, caller: CallerAs<Read>, uri: Uri) -> Handled {
    let mut parameters = Parameters::of(&uri)?;
    let limit = parameters.number("limit", 1, PAGE_MAX)?.unwrap_or(PAGE_DEFAULT);
    let after = parameters.cursor()?;
    parameters.finish()?;
    let mut hosts = overview(&app).await?.hosts;
    let make = move || {
        hosts.sort_by(|left, right| left.info.id.cmp(&right.info.id));
        let rest = hosts.iter().filter(|host| after.as_deref().is_none_or(|after| &*host.info.id.0 > after));
        page(rest, limit, document, |host| host.info.id.to_string())
    };
    answer_page(&app, &caller.tenant, make).await
}

fn document(view: &HostView) -> HostDoc {
    let info = &view.info;
    let slots = if view.heard { view.slots } else { info.cores };
    let slots_used = view.attempts.saturating_sub(view.unready).min(slots);
    HostDoc {
        id: info.id.to_string(),
        incarnation: info.incarnation.0,
        address: info.address.clone(),
        cores: info.cores,
        memory_bytes: info.memory_bytes,
        labels: info.labels.clone(),
        state: view.state.to_owned(),
        slots,
        slots_used,
        slots_free: slots - slots_used,
        attempts: view.attempts,
        unready: view.unready,
        load_millicores: view.load_millicores,
        modules_cached: view.modules_cached,
        version: info.version.clone(),
        last_seen: Time(view.last_seen),
    }
}

/// Drain a host.
///
/// It takes no new attempts; those that it has go on.
#[utoipa::path(post, path = "/v1/hosts/{id}/drain", tag = "system", operation_id = "drain_host",
    params(super::openapi::HostPath),
    responses((status = 204, description = "It drains"), super::openapi::Unknown))]
pub(super) async fn drain(
    State(app): State<App>,
    _: CallerAs<Admin>,
    Named(id): Named<String>,
    _: NoParameters,
) -> Handled {
    set_draining(&app, &id, true).await
}

/// End the draining of a host.
#[utoipa::path(post, path = "/v1/hosts/{id}/undrain", tag = "system", operation_id = "undrain_host",
    params(super::openapi::HostPath),
    responses((status = 204, description = "It takes attempts again"), super::openapi::Unknown))]
pub(super) async fn undrain(
    State(app): State<App>,
    _: CallerAs<Admin>,
    Named(id): Named<String>,
    _: NoParameters,
) -> Handled {
    set_draining(&app, &id, false).await
}

async fn set_draining(app: &App, id: &str, draining: bool) -> Handled {
    app.handle.command(Command::DrainHost { host: HostId::from(id), draining }).await?;
    Ok(json::no_content())
}

/// Where the whole stands.
///
/// While no leader answers this node, `leader` is null and what only a leader can tell is absent.
#[utoipa::path(get, path = "/v1/status", tag = "system", operation_id = "get_status",
    responses((status = 200, description = "Version, leadership, log and queue", body = StatusDoc)))]
pub(super) async fn status(State(app): State<App>, _: CallerAs<Read>, _: NoParameters) -> Handled {
    let overview = app.handle.overview().await;
    let standing = app.handle.standing();
    let shared = app.handle.shared();
    let document = StatusDoc {
        version: app.config.version.clone(),
        mode: app.config.mode.clone(),
        node: standing.node,
        leader: standing.leader,
        term: standing.term.0,
        log_seq: shared.read_model.position().0,
        queue: overview.as_ref().map(queue),
        hosts: overview.as_ref().map(|seen| seen.hosts.iter().filter(|host| host.state != "lost").count() as u64),
        policies_benched: overview.map(|seen| seen.policies_benched.iter().map(benched).collect()),
        now: Time(shared.clock.now()),
        clock_difference_ms: shared.clock.verdict().difference_us / 1_000,
        clock_warning: shared.clock.complaint(),
        uptime_ms: u64::try_from(app.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        caps: app.config.caps.clone(),
    };
    Ok(json::answer(StatusCode::OK, &document))
}

fn queue(overview: &Overview) -> QueueDoc {
    let QueueDepth { waiting, queued, running } = overview.queue;
    QueueDoc { waiting, queued, running }
}

fn benched(benched: &BenchedPolicy) -> BenchedDoc {
    BenchedDoc {
        hook: benched.hook.as_str().to_owned(),
        policy: benched.policy.clone(),
        reason: benched.reason.clone(),
        at: Time(benched.at),
    }
}

async fn overview(app: &App) -> Handled<Overview> {
    app.handle.overview().await.ok_or_else(|| Fault::plain(Code::NotLeader))
}

/// Whether the process lives.
///
/// Needs no token.
#[utoipa::path(get, path = "/livez", tag = "system", operation_id = "livez", security(()),
    responses((status = 200, description = "It does", body = String, content_type = "text/plain")))]
pub(super) async fn livez() -> Response {
    ok()
}

/// Whether requests are served.
///
/// Needs no token. Not while nobody leads, the log does not answer, this node is far behind it, its
/// clock is wrong, its disk is full, or it stops.
#[utoipa::path(get, path = "/readyz", tag = "system", operation_id = "readyz", security(()),
    responses((status = 200, description = "They are", body = String, content_type = "text/plain")))]
pub(super) async fn readyz(State(app): State<App>) -> Handled {
    ready(&app).map(|()| ok())
}

/// Whether requests are served, or why not.
pub(super) fn ready(app: &App) -> Handled<()> {
    if app.config.leaving.is_cancelled() || app.stopping.is_cancelled() {
        return Err(Fault::plain(Code::ShuttingDown));
    }
    let standing = app.handle.standing();
    if standing.no_space {
        return Err(Fault::new(Code::Overloaded, "the disk is full"));
    }
    let clock = &app.handle.shared().clock;
    if !clock.may_lead() {
        return Err(Fault::new(Code::Overloaded, clock.complaint().unwrap_or_default()));
    }
    if standing.leader.is_none() {
        return Err(Fault::new(Code::NotLeader, "no leader answers this node"));
    }
    if standing.log_silent {
        return Err(Fault::new(Code::Overloaded, "the log does not answer"));
    }
    if !standing.caught_up {
        return Err(Fault::new(Code::Overloaded, "this node reads the log"));
    }
    if app.handle.shared().read_model.lagging() {
        return Err(Fault::new(Code::Overloaded, "the read model is behind"));
    }
    Ok(())
}

fn ok() -> Response {
    let mut response = Response::new(Body::from("ok\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
