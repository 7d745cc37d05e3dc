//! Actions on a task: cancel, submit again, change its priority.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use hyper::{HeaderMap, StatusCode, Uri};
use wasmill_api::check::{REASON_CHARS_MAX, idempotency_key, priority, text};
use wasmill_api::{CancelTask, FieldError, FieldErrorKind, PatchTask, TaskDoc};
use wasmill_protocol::command::{Command, Done, Refusal};
use wasmill_protocol::{TaskId, TaskSpec, TaskState, TenantName, Timestamp};

use super::App;
use super::auth::{CallerAs, Submit};
use super::body::header_text;
use super::fingerprint::Fingerprint;
use super::json;
use super::path::{self, Named};
use super::problem::{Code, Fault, Handled};
use super::query::{NoParameters, Parameters};
use super::submit::{Draft, KEY_HEADER, answer, read_json, read_optional_json};
use super::task_doc::{Shown, explained};
use super::tasks::{End, WAIT_MS_MAX, find, find_to_change};

/// Cancel a task.
///
/// With `wait_ms` the answer comes when the task has stopped or when the time is over. Whichever
/// comes first in the log decides: a task can still succeed after it was asked to stop.
#[utoipa::path(post, path = "/v1/tasks/{id}/cancel", tag = "tasks", operation_id = "cancel_task",
    params(super::openapi::TaskPath, super::openapi::WaitParams), request_body = Option<CancelTask>,
    responses(
        (status = 200, description = "It has stopped", body = TaskDoc),
        (status = 202, description = "It was asked to stop", body = TaskDoc),
        super::openapi::Unknown, super::openapi::Conflict, super::openapi::BodyProblems))]
pub(super) async fn cancel(
    State(app): State<App>,
    mut caller: CallerAs<Submit>,
    Named(id): Named<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let mut parameters = Parameters::of(&uri)?;
    let wait_ms = parameters.number("wait_ms", 0, WAIT_MS_MAX)?.unwrap_or(0);
    parameters.finish()?;
    let CancelTask { reason } = read_optional_json(&app, &headers, body).await?;
    text("reason", reason.as_deref(), REASON_CHARS_MAX)?;
    let (task, tenant) = (path::task(&id)?, caller.tenant.clone());
    let end = (wait_ms > 0).then(|| End::of(&app, task));
    let command = Command::Cancel { tenant: tenant.clone(), task, reason };
    let done = change(&app, &tenant, task, command).await?;
    if let (Done::CancelAsked, Some(end)) = (&done, end) {
        let _waiting = caller.wait(&app)?;
        end.within(wait_ms).await;
    }
    let row = find(&app, &tenant, task).await?;
    let status = if row.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(json::answer(status, &explained(&app, &row, Shown::Whole).await))
}

/// Change the priority of a task.
///
/// While it is not final.
#[utoipa::path(patch, path = "/v1/tasks/{id}", tag = "tasks", operation_id = "change_task",
    params(super::openapi::TaskPath), request_body = PatchTask,
    responses(
        (status = 200, description = "The task as it is now", body = TaskDoc),
        super::openapi::Unknown, super::openapi::Conflict, super::openapi::BodyProblems))]
pub(super) async fn patch(
    State(app): State<App>,
    caller: CallerAs<Submit>,
    Named(id): Named<String>,
    _: NoParameters,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let asked: PatchTask = read_json(&app, &headers, body).await?;
    priority(asked.priority)?;
    let Some(priority) = asked.priority.and_then(|priority| i8::try_from(priority).ok()) else {
        let detail = "is missing: it is the only thing that can be changed".to_owned();
        let field = "priority".to_owned();
        return Err(FieldError { kind: FieldErrorKind::Missing, field, detail, limit: None }.into());
    };
    let (task, tenant) = (path::task(&id)?, &caller.tenant);
    change(&app, tenant, task, Command::Prioritize { tenant: tenant.clone(), task, priority }).await?;
    let row = find(&app, tenant, task).await?;
    Ok(json::answer(StatusCode::OK, &explained(&app, &row, Shown::Whole).await))
}

/// Submit a task again.
///
/// As a new task that names the old one in `retry_of`. Only failed and cancelled tasks; the new one
/// starts at once, and has the idempotency key of this request, if any.
#[utoipa::path(post, path = "/v1/tasks/{id}/retry", tag = "tasks", operation_id = "retry_task",
    params(super::openapi::TaskPath, ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 128,
        description = "Repeating the request with the same key gives the same new task")),
    request_body = Option<super::openapi::Nothing>,
    responses(
        (status = 200, description = "This key has made this task before", body = TaskDoc),
        (status = 201, description = "The new task", body = TaskDoc),
        super::openapi::Unknown, super::openapi::Conflict, super::openapi::BodyProblems))]
pub(super) async fn retry(
    State(app): State<App>,
    caller: CallerAs<Submit>,
    Named(id): Named<String>,
    _: NoParameters,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let super::openapi::Nothing {} = read_optional_json(&app, &headers, body).await?;
    let key = header_text(&headers, &KEY_HEADER)?;
    idempotency_key(key.as_deref())?;
    let task = path::task(&id)?;
    let mut old = find_to_change(&app, &caller.tenant, task).await?;
    if !old.state.is_final() && app.handle.catch_up(app.handle.position()).await? {
        old = find(&app, &caller.tenant, task).await?;
    }
    match old.state {
        TaskState::Failed | TaskState::Cancelled => {}
        state if state.is_final() => {
            return Err(Fault::new(Code::NotRetryable, format!("the task is {}", state.as_str())).task(old.id));
        }
        _ => return Err(Fault::plain(Code::NotFinal).task(old.id)),
    }
    let fingerprint = key.is_some().then(|| Fingerprint::of_retry(old.id));
    let spec = TaskSpec {
        idempotency_key: key,
        retry_of: Some(old.id),
        not_before: Timestamp(0),
        trace: None,
        ..TaskSpec::clone(&Arc::clone(&old.spec))
    };
    let accepted = Draft { spec, large: None, fingerprint }.submit(&app).await?;
    answer(&app, &caller.tenant, accepted).await
}

/// Asks the core to change a task. The core forgets tasks that are final, the read model knows them
/// still.
async fn change(app: &App, tenant: &TenantName, task: TaskId, command: Command) -> Handled<Done> {
    match app.handle.command(command).await {
        Ok((_, done)) => Ok(done),
        Err(Refusal::TaskUnknown) => {
            app.handle.catch_up(app.handle.position()).await?;
            let row = find(app, tenant, task).await?;
            Err(Fault::new(Code::AlreadyFinal, format!("the task is {} already", row.state.as_str())).task(task))
        }
        Err(refusal) => Err(refusal.into()),
    }
}
