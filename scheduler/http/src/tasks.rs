//! Looking at tasks: one, many, their output, their logs, their history.

mod lines;
mod result;

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, StatusCode, Uri};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use wasmill_api::{FieldError, Page, TaskDoc, TaskEventsDoc};
use wasmill_protocol::{Attempt, Payload, TaskId, TaskState, TenantName};

use super::App;
use super::auth::{CallerAs, Read};
use super::held::held;
use super::json;
use super::modules::{PAGE_DEFAULT, PAGE_MAX, opened, stored};
use super::path::{self, Named};
use super::problem::{Code, Fault, Handled};
use super::query::{NoParameters, Parameters};
use super::read_twice::is_unknown;
use super::run::raw;
use super::task_doc::{Shown, document, event, explained};
use wasmill_scheduler::finals::FinalWait;
use wasmill_scheduler::read_model::{BeganWith, Cursor, ReadError, TaskFilter, TaskRow};

/// The longest time that a request waits for a task.
pub(super) const WAIT_MS_MAX: u64 = 60_000;

/// Bytes of captured text that are looked at at once.
const UTF8_CHUNK_BYTES: usize = 64 * 1024;

/// Tasks of one listing whose reason to wait is asked of the core.
const EXPLAINED_MAX: usize = 1000;

/// A task of a tenant; a fault if there is none.
pub(super) async fn find(app: &App, tenant: &TenantName, task: TaskId) -> Handled<TaskRow> {
    let found = app.handle.shared().read_model.task(tenant, task).await.map_err(unreadable)?;
    found.ok_or_else(|| Fault::plain(Code::TaskUnknown))
}

/// As [`find`], but a node that follows catches up before it says that there is none.
pub(super) async fn find_to_change(app: &App, tenant: &TenantName, task: TaskId) -> Handled<TaskRow> {
    let since = app.handle.position();
    match find(app, tenant, task).await {
        Err(fault) if is_unknown(fault.code()) && app.handle.catch_up(since).await? => find(app, tenant, task).await,
        found => found,
    }
}

pub(super) fn unreadable(error: ReadError) -> Fault {
    match error {
        ReadError::Behind { .. } => Fault::new(Code::Overloaded, error.to_string()),
        ReadError::Storage { .. } => Fault::internal("read tasks", &error),
    }
}

/// A task.
///
/// With `wait_ms` the answer comes when the task is final or when the time is over.
#[utoipa::path(get, path = "/v1/tasks/{id}", tag = "tasks", operation_id = "get_task",
    params(super::openapi::TaskPath, super::openapi::WaitParams),
    responses((status = 200, description = "The task", body = TaskDoc), super::openapi::Unknown))]
pub(super) async fn get(
    State(app): State<App>,
    mut caller: CallerAs<Read>,
    Named(id): Named<String>,
    uri: Uri,
) -> Handled {
    let mut parameters = Parameters::of(&uri)?;
    let wait_ms = parameters.number("wait_ms", 0, WAIT_MS_MAX)?.unwrap_or(0);
    parameters.finish()?;
    let task = path::task(&id)?;
    let end = (wait_ms > 0).then(|| End::of(&app, task));
    let mut row = find(&app, &caller.tenant, task).await?;
    if let Some(end) = end
        && !row.state.is_final()
    {
        let _waiting = caller.wait(&app)?;
        end.within(wait_ms).await;
        row = find(&app, &caller.tenant, task).await?;
    }
    Ok(json::answer(StatusCode::OK, &explained(&app, &row, Shown::Whole).await))
}

/// The end of a task, to be waited for. Registered from the beginning, so that whoever looks at the
/// task afterwards and finds it not final cannot miss its end.
pub(super) struct End {
    app: App,
    task: TaskId,
    wait: Option<FinalWait>,
}

impl End {
    /// Registers.
    pub(super) fn of(app: &App, task: TaskId) -> Self {
        Self { app: app.clone(), task, wait: Some(app.handle.shared().finals.wait(task)) }
    }

    /// Waits until the end or for `wait_ms`, or until the server stops.
    pub(super) async fn within(mut self, wait_ms: u64) {
        let Some(wait) = self.wait.take() else { return };
        tokio::select! {
            _ = wait.ended() => {}
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            () = self.app.stopping.cancelled() => {}
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.wait = None;
        self.app.handle.shared().finals.forget(self.task);
    }
}

/// List tasks.
///
/// As `application/json`: a page, newest first, without payloads and results. A page may have fewer
/// entries than asked for although there are more: only `next` tells.
///
/// As `application/x-ndjson`, if `Accept` names it: every task that the filter matches and that was
/// there when the answer began, oldest first, a line for each; there are no pages. With
/// `output=true` each line has the task's result: JSON in `output`, other text in `output_text`,
/// other bytes in `output_base64`, of any size. A task that has not succeeded has none of them. An
/// answer that cannot be finished ends with a problem as its last line.
#[utoipa::path(get, path = "/v1/tasks", tag = "tasks", operation_id = "list_tasks",
    params(super::openapi::PageParams, super::openapi::TaskCursor, super::openapi::TaskFilterParams),
    responses((status = 200, description = "One page, or a line for each task",
        content((Page<TaskDoc> = "application/json"), (String = "application/x-ndjson"))), super::openapi::Unknown))]
pub(super) async fn list(State(app): State<App>, caller: CallerAs<Read>, headers: HeaderMap, uri: Uri) -> Handled {
    let mut parameters = Parameters::of(&uri)?;
    let limit = parameters.number("limit", 1, PAGE_MAX)?;
    let cursor: Option<Cursor> = parameters.parsed("cursor")?;
    let with_results = parameters.flag("output")?;
    let wanted = filter(&app, &caller.tenant, &mut parameters)?;
    parameters.finish()?;
    if lines::are_asked_for(&headers) {
        if let Some(name) = [limit.map(|_| "limit"), cursor.map(|_| "cursor")].into_iter().flatten().next() {
            let detail = "goes with pages: `application/x-ndjson` is every task that the filter matches";
            return Err(FieldError::invalid(name, detail).into());
        }
        return lines::answer(app, caller.caller, wanted, with_results).await;
    }
    if with_results {
        let detail = "goes with `Accept: application/x-ndjson`: pages show no results";
        return Err(FieldError::invalid("output", detail).into());
    }
    let Some(filter) = wanted else {
        return Ok(json::answer(StatusCode::OK, &Page::<TaskDoc> { items: Vec::new(), next: None }));
    };
    let limit = usize::try_from(limit.unwrap_or(PAGE_DEFAULT)).unwrap_or(usize::MAX);
    page(&app, &caller.tenant, &filter, limit, cursor).await
}

/// One page. Its documents and their text are made in the tenant's turns among the listings, and
/// count as its memory from the moment that all are read.
async fn page(app: &App, tenant: &TenantName, filter: &TaskFilter, limit: usize, cursor: Option<Cursor>) -> Handled {
    let read_model = &app.handle.shared().read_model;
    let show = {
        let app = app.clone();
        move |row: TaskRow| document(&app, &row, Shown::Brief)
    };
    let found = read_model.tasks_shown(tenant, filter, limit, cursor, show).await.map_err(unreadable)?;
    let mut taken = app.answer_memory.of(tenant);
    taken.grow(found.shown_bytes)?;
    let mut items = found.tasks;
    explain(app, &mut items).await;
    let next = found.next.map(|cursor| cursor.to_string());
    let make = move || json::answer(StatusCode::OK, &Page { items, next });
    held(taken, read_model.show(tenant, make).await.map_err(unreadable)?)
}

/// The filter of a listing; `None` when nothing can match.
fn filter(app: &App, tenant: &TenantName, parameters: &mut Parameters) -> Handled<Option<TaskFilter>> {
    let mut filter = TaskFilter::default();
    for text in parameters.texts("state") {
        filter.states.insert(state(&text)?);
    }
    filter.name = parameters.text("name")?;
    for text in parameters.texts("label") {
        let Some((key, value)) = text.split_once('=') else {
            return Err(FieldError::invalid("label", "is not of the form `key=value`").into());
        };
        filter.labels.push((key.to_owned(), value.to_owned()));
    }
    filter.created_after = parameters.time("created_after")?;
    filter.created_before = parameters.time("created_before")?;
    let job = parameters.text("job")?;
    if let Some(module) = parameters.text("module")? {
        wasmill_api::check::module_name(&module)?;
        // A digest may be of a module that is deleted; an alias that points nowhere matches
        // nothing.
        let alias = app.handle.shared().directory.read().alias(tenant, &module);
        match module.parse().ok().or(alias) {
            Some(digest) => filter.module = Some(digest),
            None => return Ok(None),
        }
    }
    // No task belongs to a job: there is no way to submit one yet.
    Ok(job.is_none().then_some(filter))
}

fn state(text: &str) -> Handled<TaskState> {
    use TaskState::{Cancelled, Failed, Queued, Running, Skipped, Succeeded, Waiting};
    let all = [Waiting, Queued, Running, Succeeded, Failed, Cancelled, Skipped];
    all.into_iter().find(|state| state.as_str() == text).ok_or_else(|| {
        let detail = "is none of `waiting`, `queued`, `running`, `succeeded`, `failed`, `cancelled`, `skipped`";
        FieldError::invalid("state", detail).into()
    })
}

/// Asks the core once why the tasks of a page do not run.
async fn explain(app: &App, items: &mut [TaskDoc]) {
    let waiting = items.iter().filter(|item| item.waiting_for.is_some()).map(|item| item.id);
    let waiting: Vec<TaskId> = waiting.take(EXPLAINED_MAX).collect();
    if waiting.is_empty() {
        return;
    }
    let mut explained = app.handle.explain(waiting).await;
    explained.sort_unstable_by_key(|waiting| waiting.task);
    for item in items.iter_mut().filter(|item| item.waiting_for.is_some()) {
        if let Ok(index) = explained.binary_search_by_key(&item.id, |waiting| waiting.task)
            && let Some(waiting_for) = explained[index].waiting_for.take()
        {
            item.waiting_for = Some(waiting_for);
        }
    }
}

/// The result of a task.
///
/// The bytes as the guest gave them. A command that has ended by itself has one, whatever its exit
/// code.
#[utoipa::path(get, path = "/v1/tasks/{id}/output", tag = "tasks", operation_id = "get_task_output",
    params(super::openapi::TaskPath),
    responses(
        (status = 200, description = "The output", body = super::openapi::Bytes, content_type = "application/octet-stream"),
        super::openapi::Unknown, super::openapi::Conflict))]
pub(super) async fn output(
    State(app): State<App>,
    caller: CallerAs<Read>,
    Named(id): Named<String>,
    _: NoParameters,
) -> Handled {
    let row = shown(&app, &caller, &id).await?;
    if !row.state.is_final() {
        return Err(Fault::plain(Code::NotFinal).task(row.id));
    }
    if !has_output(&row) {
        return Err(Fault::plain(Code::NoOutput).task(row.id));
    }
    raw(&app, &row.output).await
}

/// Whether a task has a result: it has succeeded, or it is a command that has ended by itself.
pub(super) fn has_output(row: &TaskRow) -> bool {
    match row.state {
        TaskState::Succeeded => true,
        TaskState::Failed => {
            row.end_reason.is_none() && row.outcome.as_ref().is_some_and(|end| row.spec.has_result(end))
        }
        _ => false,
    }
}

/// The payload of a task.
///
/// The bytes as the guest is given them.
#[utoipa::path(get, path = "/v1/tasks/{id}/input", tag = "tasks", operation_id = "get_task_input",
    params(super::openapi::TaskPath),
    responses(
        (status = 200, description = "The payload", body = super::openapi::Bytes, content_type = "application/octet-stream"),
        super::openapi::Unknown))]
pub(super) async fn input(
    State(app): State<App>,
    caller: CallerAs<Read>,
    Named(id): Named<String>,
    _: NoParameters,
) -> Handled {
    let row = shown(&app, &caller, &id).await?;
    raw(&app, &row.spec.input).await
}

/// The checkpoint that an attempt began with.
///
/// The checkpoint of an earlier attempt, as the guest is given it: with payload and module, all
/// that is needed to run the attempt again. Kept for the latest attempts of a task, and for as long
/// as the task.
#[utoipa::path(get, path = "/v1/tasks/{id}/checkpoint", tag = "tasks", operation_id = "get_task_checkpoint",
    params(super::openapi::TaskPath, super::openapi::AttemptParams),
    responses(
        (status = 200, description = "The state", body = super::openapi::Bytes, content_type = "application/octet-stream"),
        super::openapi::Unknown))]
pub(super) async fn checkpoint(
    State(app): State<App>,
    caller: CallerAs<Read>,
    Named(id): Named<String>,
    uri: Uri,
) -> Handled {
    let mut parameters = Parameters::of(&uri)?;
    let asked = parameters.number("attempt", 1, u64::from(u32::MAX))?;
    parameters.finish()?;
    let row = find(&app, &caller.tenant, path::task(&id)?).await?;
    let attempt = asked.and_then(|attempt| u32::try_from(attempt).ok()).map_or(row.attempt, Attempt);
    if attempt == Attempt(0) || attempt > row.attempt {
        let detail = format!("the task has had {} attempts", row.attempt);
        return Err(Fault::new(Code::AttemptUnknown, detail).task(row.id));
    }
    let began = app.handle.shared().read_model.began_with(&caller.tenant, row.id, attempt).await.map_err(unreadable)?;
    match began.ok_or_else(|| Fault::plain(Code::TaskUnknown))? {
        BeganWith::Checkpoint(data) => raw(&app, &data).await,
        BeganWith::Nothing => Err(Fault::plain(Code::NoCheckpoint).task(row.id)),
        BeganWith::Forgotten => Err(Fault::plain(Code::CheckpointForgotten).task(row.id)),
    }
}

/// The stdout and stderr of a task.
///
/// Of the latest attempt that ended, in the order of writing, as it was written; the stdout of a
/// command that has ended by itself is its output and not repeated here. `charset=utf-8` is there
/// when all of it is UTF-8; what is over the cap is cut between characters. Empty while nothing has
/// ended.
#[utoipa::path(get, path = "/v1/tasks/{id}/logs", tag = "tasks", operation_id = "get_task_logs",
    params(super::openapi::TaskPath),
    responses((status = 200, description = "The text", body = String, content_type = "text/plain"), super::openapi::Unknown))]
pub(super) async fn logs(
    State(app): State<App>,
    caller: CallerAs<Read>,
    Named(id): Named<String>,
    _: NoParameters,
) -> Handled {
    let row = shown(&app, &caller, &id).await?;
    let (mut response, utf8) = match &row.captured {
        Payload::Empty => (Response::new(Body::empty()), true),
        Payload::Inline(bytes) => (Response::new(Body::from(bytes.clone())), std::str::from_utf8(bytes).is_ok()),
        Payload::Blob { digest, bytes } => {
            (stored(&app, *digest, *bytes).await?, is_utf8(opened(&app, *digest).await?).await?)
        }
    };
    let content_type = if utf8 { "text/plain; charset=utf-8" } else { "text/plain" };
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(response)
}

/// Whether all that a reader gives is UTF-8, in constant memory.
async fn is_utf8(mut reader: impl AsyncRead + Unpin) -> Handled<bool> {
    const CHARACTER_BYTES_MAX: usize = 4;
    let mut bytes = Vec::with_capacity(UTF8_CHUNK_BYTES + CHARACTER_BYTES_MAX);
    loop {
        let read = (&mut reader).take(UTF8_CHUNK_BYTES as u64).read_to_end(&mut bytes).await;
        let read = read.map_err(|error| Fault::internal("read what a task wrote", &error))?;
        match std::str::from_utf8(&bytes) {
            Ok(_) if read == 0 => return Ok(true),
            Ok(_) => bytes.clear(),
            // The rest of the character may follow.
            Err(error) if error.error_len().is_none() && read > 0 => drop(bytes.drain(..error.valid_up_to())),
            Err(_) => return Ok(false),
        }
    }
}

/// The events of a task.
///
/// In order, with times, hosts and attempts.
#[utoipa::path(get, path = "/v1/tasks/{id}/events", tag = "tasks", operation_id = "get_task_events",
    params(super::openapi::TaskPath),
    responses((status = 200, description = "Its history", body = TaskEventsDoc), super::openapi::Unknown))]
pub(super) async fn events(
    State(app): State<App>,
    caller: CallerAs<Read>,
    Named(id): Named<String>,
    _: NoParameters,
) -> Handled {
    let read_model = &app.handle.shared().read_model;
    let history = read_model.history(&caller.tenant, path::task(&id)?).await.map_err(unreadable)?;
    let history = history.ok_or_else(|| Fault::plain(Code::TaskUnknown))?;
    let make = move || {
        let items = history.entries.iter().map(event).collect();
        json::answer(StatusCode::OK, &TaskEventsDoc { items, next: None, left_out: history.left_out })
    };
    read_model.show(&caller.tenant, make).await.map_err(unreadable)
}

async fn shown(app: &App, caller: &CallerAs<Read>, id: &str) -> Handled<TaskRow> {
    find(app, &caller.tenant, path::task(id)?).await
}
