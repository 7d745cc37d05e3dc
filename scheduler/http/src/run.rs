//! `POST /v1/run/{module}`: the body goes in, the output comes out, in one request.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use hyper::header::{CONTENT_DISPOSITION, CONTENT_TYPE, HeaderValue};
use hyper::{HeaderMap, Uri};
use tracing::Instrument;
use wasmill_api::check::{self, FUEL_MAX, module_name, priority};
use wasmill_api::{FieldError, LimitsAsked, SubmitTask};
use wasmill_protocol::command::{Command, Refusal};
use wasmill_protocol::task::{InputForm, RetryPolicy};
use wasmill_protocol::{FinalState, Outcome, OutcomeKind, Payload, TaskId, TaskSpec, TaskState, TenantName};
use wasmill_record::event::{EndReason, EventBody, Sequel};

use super::App;
use super::auth::{CallerAs, Submit};
use super::body::{BodyReader, collect};
use super::fingerprint::Fingerprint;
use super::modules::{Resolved, resolve, stored};
use super::path::Named;
use super::problem::{Code, Fault, Handled};
use super::query::Parameters;
use super::room::{Room, refused};
use super::submit::{
    Accepted, Draft, check_for_kind, exit_codes, limits, name_task, split_payload, submission, take_key_of_header,
};
use super::tasks::{End, WAIT_MS_MAX, find_to_change};
use super::trace;
use wasmill_scheduler::finals::FinalNotice;
use wasmill_scheduler::handle::Answer;

/// Run a module once.
///
/// One attempt. A client that goes away before the answer cancels the task. The header
/// `Wasmill-Task` names the task, which can be looked at like any other.
///
/// With an `Idempotency-Key` the same request, sent again, is the same task: its answer is waited
/// for and given again. Such a task is not cancelled when its client goes away, as the client can
/// come back for the answer.
#[utoipa::path(post, path = "/v1/run/{module}", tag = "tasks", operation_id = "run",
    params(super::openapi::ModulePath, super::openapi::RunParams,
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 128,
            description = "The same module, query and body with the same key are the same task")),
    request_body(content = super::openapi::Bytes, content_type = "application/octet-stream"),
    responses(
        (status = 200, description = "The output", body = super::openapi::Bytes, content_type = "application/octet-stream",
            headers(("Wasmill-Task" = String, description = "The task"))),
        super::openapi::Unknown, super::openapi::Conflict, super::openapi::BodyProblems))]
pub(super) async fn run(
    State(app): State<App>,
    mut caller: CallerAs<Submit>,
    Named(module): Named<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    let mut asked = asked(&app, &uri)?;
    take_key_of_header(&mut asked, &headers)?;
    module_name(&module)?;
    let resolved = resolve(&app, &caller.tenant, &module).await?;
    let limits = limits(&app, &caller.tenant, &asked.limits.unwrap_or_default())?;
    check_for_kind(&asked, resolved.kind)?;
    let config = &app.config;
    let payload_max = config.caps.payload_bytes;
    let reader = BodyReader::new(&headers, body, payload_max, Code::PayloadTooLarge, config.body_pace)?;
    let (bytes, memory) = collect(reader, app.body_memory.of(&caller.tenant)).await?;
    let _waiting = caller.wait(&app)?;
    let fingerprint = asked.idempotency_key.is_some().then(|| Fingerprint::of_run(&module, &asked, &bytes));
    let (input, large) = split_payload(bytes);
    let spec = spec(&caller.tenant, asked, resolved, limits, input);
    let mut draft = Draft { spec, large, fingerprint };
    if fingerprint.is_some() {
        let tenant = draft.spec.tenant.clone();
        let Accepted { task, .. } = draft.submit(&app).await?;
        drop(memory);
        return answer_of(&app, &tenant, task).await;
    }
    let room = draft.take_room(&app).await?;
    drop(memory);
    run_to_end(&app, draft.spec, room).await
}

/// The query as the fields of a submission.
fn asked(app: &App, uri: &Uri) -> Handled<SubmitTask> {
    let mut parameters = Parameters::of(uri)?;
    let caps = &app.config.caps;
    let limits = LimitsAsked {
        cpu_ms: parameters.number("cpu_ms", 1, caps.cpu_ms)?,
        fuel: parameters.number("fuel", 1, FUEL_MAX)?,
        memory_bytes: parameters.number("memory_bytes", 1, caps.memory_bytes)?,
        wall_ms: parameters.number("wall_ms", 1, caps.wall_ms)?,
        output_bytes: parameters.number("output_bytes", 0, caps.output_bytes)?,
    };
    let asked_priority = parameters.text("priority")?.map(|text| {
        let detail = "is not a whole number from -100 to 100";
        text.parse::<i64>().map_err(|_| Fault::from(FieldError::invalid("priority", detail)))
    });
    let asked_priority = asked_priority.transpose()?;
    priority(asked_priority)?;
    let args = parameters.texts("arg");
    let program = parameters.text("program")?;
    let ok_exit = parameters.numbers("ok_exit", 0, u64::from(u8::MAX))?;
    parameters.finish()?;
    let args = (!args.is_empty()).then_some(args);
    check::args(args.as_deref())?;
    check::program(program.as_deref())?;
    check::ok_exit(ok_exit.as_deref())?;
    Ok(SubmitTask { limits: Some(limits), priority: asked_priority, args, program, ok_exit, ..SubmitTask::default() })
}

fn spec(
    tenant: &TenantName,
    asked: SubmitTask,
    module: Resolved,
    limits: wasmill_protocol::Limits,
    input: Payload,
) -> TaskSpec {
    TaskSpec {
        tenant: tenant.clone(),
        module: module.digest,
        kind: module.kind,
        input,
        input_form: InputForm::Bytes,
        args: asked.args.unwrap_or_default(),
        env: BTreeMap::new(),
        program: asked.program.or(module.program),
        ok_exit: exit_codes(asked.ok_exit),
        limits,
        priority: asked.priority.and_then(|priority| i8::try_from(priority).ok()).unwrap_or(0),
        retry: RetryPolicy { attempts_max: 1, ..RetryPolicy::default() },
        idempotency_key: asked.idempotency_key,
        ..TaskSpec::default()
    }
}

async fn run_to_end(app: &App, mut spec: TaskSpec, room: Room) -> Handled {
    let shared = app.handle.shared();
    let task = app.ids.draw(shared.clock.now());
    // Before the submission, or the end could come before anybody listens for it.
    let wait = shared.finals.wait(task);
    let (span, tenant) = (trace::submission(task, None), spec.tenant.clone());
    spec.trace = wasmill_trace::place_of(&span);
    let (of, spec) = (app.clone(), Arc::new(spec));
    let submitted = async move {
        let answer = of.handle.command(submission(task, &spec, None)).await;
        if let Err(refusal) = &answer {
            refused(&of, &spec, refusal);
        }
        // From here on what is stored is counted with the task.
        drop(room);
        answer
    };
    let stage = Stage::Submitted(submitted.instrument(span).boxed());
    let mut interest = Interest { app: app.clone(), tenant, task, stage };
    if let Err(refusal) = interest.accepted().await {
        interest.stage = Stage::Over;
        return Err(refusal.into());
    }
    let notice = wait.ended().await;
    // Also when we cannot tell how: it goes on, and its id is in the answer.
    interest.stage = Stage::Over;
    let Some(notice) = notice else {
        return Err(Fault::plain(Code::ShuttingDown).task(task));
    };
    let mut response = match answer(app, task, &notice).await {
        Ok(response) => response,
        Err(fault) => fault.into_response(),
    };
    name_task(&mut response, task);
    Ok(response)
}

async fn answer(app: &App, task: TaskId, notice: &FinalNotice) -> Handled {
    match notice.event() {
        EventBody::AttemptEnded { output, next: Sequel::Final { state: FinalState::Succeeded }, .. } => {
            raw(app, output).await
        }
        EventBody::AttemptEnded { outcome, .. } => Err(failed(task, outcome)),
        EventBody::TaskEnded { reason, .. } => Err(ended(task, reason)),
        _ => Err(Fault::new(Code::Internal, "the task ended in an unknown way").task(task)),
    }
}

fn failed(task: TaskId, outcome: &Outcome) -> Fault {
    let detail = if outcome.message.is_empty() { Code::Outcome(outcome.kind).title() } else { &outcome.message };
    Fault::new(Code::Outcome(outcome.kind), detail).task(task)
}

/// No attempt has decided how the task ended.
fn ended(task: TaskId, reason: &EndReason) -> Fault {
    let detail = match reason {
        EndReason::Cancelled { reason: Some(reason) } => reason.clone(),
        EndReason::Cancelled { reason: None } => "the task was cancelled before it ran".to_owned(),
        EndReason::Expired => "the task waited too long".to_owned(),
        EndReason::TenantRemoved => "the tenant was deleted".to_owned(),
        EndReason::Skipped { predecessor } => {
            format!("task {predecessor}, for which it waited, did not end as it should")
        }
    };
    Fault::new(Code::Outcome(OutcomeKind::Cancelled), detail).task(task)
}

/// The answer of a task that has an idempotency key. The client can ask again, so its going away
/// says nothing.
async fn answer_of(app: &App, tenant: &TenantName, task: TaskId) -> Handled {
    let row = loop {
        let end = End::of(app, task);
        let row = find_to_change(app, tenant, task).await?;
        if row.state.is_final() {
            break row;
        }
        if app.stopping.is_cancelled() {
            return Err(Fault::plain(Code::ShuttingDown).task(task));
        }
        end.within(WAIT_MS_MAX).await;
    };
    let answer = match (&row.end_reason, &row.outcome) {
        _ if row.state == TaskState::Succeeded => raw(app, &row.output).await,
        (Some(reason), _) => Err(ended(task, reason)),
        (None, Some(outcome)) => Err(failed(task, outcome)),
        (None, None) => Err(Fault::new(Code::Internal, "the task ended in an unknown way").task(task)),
    };
    let mut response = answer.unwrap_or_else(IntoResponse::into_response);
    name_task(&mut response, task);
    Ok(response)
}

/// The bytes of a result.
pub(super) async fn raw(app: &App, output: &Payload) -> Handled {
    let bytes = match output {
        Payload::Empty => Bytes::new(),
        Payload::Inline(bytes) => bytes.clone(),
        Payload::Blob { digest, bytes } => return stored(app, *digest, *bytes).await,
    };
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    Ok(response)
}

/// Somebody waits for the task. When they go away before it ends, it is cancelled: nobody would see
/// its result.
struct Interest {
    app: App,
    tenant: TenantName,
    task: TaskId,
    stage: Stage,
}

/// How far a run is.
enum Stage {
    /// Nobody has said yet whether the task is accepted; it may be already.
    Submitted(BoxFuture<'static, Answer>),
    Accepted,
    /// There is nothing to cancel.
    Over,
}

impl Interest {
    /// Waits until the task is accepted.
    async fn accepted(&mut self) -> Result<(), Refusal> {
        if let Stage::Submitted(submitted) = &mut self.stage {
            submitted.await?;
            self.stage = Stage::Accepted;
        }
        Ok(())
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let stage = std::mem::replace(&mut self.stage, Stage::Over);
        self.app.handle.shared().finals.forget(self.task);
        // When we stop ourselves, the task goes on elsewhere or after the restart.
        if matches!(stage, Stage::Over) || self.app.stopping.is_cancelled() {
            return;
        }
        let (handle, tenant, task) = (self.app.handle.clone(), self.tenant.clone(), self.task);
        let reason = Some("the client went away".to_owned());
        let cancel = Command::Cancel { tenant, task, reason };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // It may have ended in this moment, which is fine. A submission that is on its way
                // is in front of us in the queue of a leader; through another node it may come
                // after us, and is cancelled once it is answered.
                let asked = handle.commands(vec![cancel.clone()]).await;
                if let Stage::Submitted(submitted) = stage
                    && !matches!(asked.first(), Some(Ok(_)))
                    && !matches!(submitted.await, Err(refusal) if refusal != Refusal::OutcomeUnknown)
                {
                    handle.commands(vec![cancel]).await;
                }
            });
        }
    }
}
