//! Submitting one task: from a document to a durable record.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue, LOCATION};
use hyper::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tracing::Instrument;
use wasmill_api::check::idempotency_key;
use wasmill_api::{FieldError, LimitsAsked, NDJSON, SubmitTask, TaskDoc};
use wasmill_protocol::command::{Command, Done, KeyCheck, ModuleRef, Refusal};
use wasmill_protocol::limits::{Caps, INLINE_BYTES_MAX};
use wasmill_protocol::module::ModuleKind;
use wasmill_protocol::task::{InputForm, RetryOn, RetryPolicy};
use wasmill_protocol::{Limits, Payload, TaskId, TaskSpec, TenantName, Timestamp};

use super::App;
use super::auth::{CallerAs, Submit};
use super::body::{BodyReader, collect, collect_small, header_text, media_type};
use super::bulk;
use super::fingerprint::Fingerprint;
use super::json;
use super::middleware::TASK_HEADER;
use super::modules::{Resolved, resolve};
use super::problem::{Code, Fault, Handled};
use super::query::NoParameters;
use super::refusal::key_conflict;
use super::room::refused;
use super::task_doc::{Shown, document};
use super::tasks::find;
use super::trace;

/// The header of the same meaning as the field `idempotency_key`.
pub(super) const KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// Bytes of a JSON document that is not a task.
const DOCUMENT_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of a task's document beside its payload.
pub(super) const ENVELOPE_BYTES_MAX: u64 = 1024 * 1024;

/// Padding is required; what the last character has beyond the last byte is ignored, as most
/// encoders and decoders do.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// How often a key is looked up again because what was found is too old.
const KEY_TRIES: usize = 8;

/// Submit a task, or many.
///
/// As `application/json`: one task. As `application/x-ndjson`: a task per line; the answer has a
/// line for each, in the same order and as they become durable, with `{"id"}` or a problem. Both
/// directions stream; answers to about a million lines are kept for a client that reads them only
/// after it has sent everything. Lines may have up to 1 MiB beside the payload.
#[utoipa::path(post, path = "/v1/tasks", tag = "tasks", operation_id = "submit_task",
    params(("Idempotency-Key" = Option<String>, Header, description = "As the field `idempotency_key`",
        min_length = 1, max_length = 128)),
    request_body(content((SubmitTask = "application/json"), (String = "application/x-ndjson"))),
    responses(
        (status = 200, description = "A task with this idempotency key was there; or, for many, a line for each",
            content((TaskDoc = "application/json"), (String = "application/x-ndjson"))),
        (status = 201, description = "The task is accepted and durable", body = TaskDoc),
        super::openapi::Unknown, super::openapi::Conflict, super::openapi::BodyProblems))]
pub(super) async fn submit(
    State(app): State<App>,
    caller: CallerAs<Submit>,
    _: NoParameters,
    headers: HeaderMap,
    body: Body,
) -> Handled {
    if media_type(&headers).as_deref() == Some(NDJSON) {
        return bulk::submit(app, caller.caller, &headers, body);
    }
    let caps = &app.config.caps;
    let bytes_max = document_bytes_max(caps);
    json_only(&headers)?;
    let reader = BodyReader::new(&headers, body, bytes_max, Code::BodyTooLarge, app.config.body_pace)?;
    let (bytes, _memory) = collect(reader, app.body_memory.of(&caller.tenant)).await?;
    let mut asked: SubmitTask = json::parse(&bytes, caps)?;
    drop(bytes);
    take_key_of_header(&mut asked, &headers)?;
    let module = check_and_resolve(&app, &caller.tenant, &asked).await?;
    let draft = Draft::new(&app, &caller.tenant, asked, module)?;
    let accepted = draft.submit(&app).await?;
    answer(&app, &caller.tenant, accepted).await
}

/// The result of a submission.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accepted {
    /// The task.
    pub(super) task: TaskId,
    /// Whether it was there before, under the same idempotency key.
    pub(super) repeated: bool,
}

/// The answer with the task.
pub(super) async fn answer(app: &App, tenant: &TenantName, accepted: Accepted) -> Handled {
    let row = find(app, tenant, accepted.task).await.map_err(|fault| match fault.code() {
        Code::TaskUnknown => {
            let detail = "the task is accepted, and this node does not show it yet";
            Fault::new(Code::Overloaded, detail).task(accepted.task)
        }
        _ => fault,
    })?;
    let status = if accepted.repeated { StatusCode::OK } else { StatusCode::CREATED };
    let mut response = json::answer(status, &document(app, &row, Shown::Whole));
    name_task(&mut response, accepted.task);
    let location = format!("/v1/tasks/{}", accepted.task);
    if let Ok(location) = HeaderValue::try_from(location) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// Sets the header that names the task.
pub(super) fn name_task(response: &mut Response, task: TaskId) {
    if let Ok(name) = HeaderValue::try_from(task.to_string()) {
        response.headers_mut().insert(TASK_HEADER, name);
    }
}

/// Bytes of the document of one task: base64 makes four of three.
pub(super) fn document_bytes_max(caps: &Caps) -> u64 {
    caps.payload_bytes.saturating_mul(4) / 3 + ENVELOPE_BYTES_MAX
}

/// Reads a small document.
pub(super) async fn read_json<T: DeserializeOwned>(app: &App, headers: &HeaderMap, body: Body) -> Handled<T> {
    let reader = BodyReader::new(headers, body, DOCUMENT_BYTES_MAX, Code::BodyTooLarge, app.config.body_pace)?;
    let bytes = collect_small(reader).await?;
    json_only(headers)?;
    json::parse(&bytes, &app.config.caps)
}

/// Like [`read_json`], but no body at all is fine, and so is `null`.
pub(super) async fn read_optional_json<T: DeserializeOwned + Default>(
    app: &App,
    headers: &HeaderMap,
    body: Body,
) -> Handled<T> {
    let reader = BodyReader::new(headers, body, DOCUMENT_BYTES_MAX, Code::BodyTooLarge, app.config.body_pace)?;
    let bytes = collect_small(reader).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    json_only(headers)?;
    Ok(json::parse::<Option<T>>(&bytes, &app.config.caps)?.unwrap_or_default())
}

fn json_only(headers: &HeaderMap) -> Handled<()> {
    match media_type(headers).as_deref() {
        Some("application/json") => Ok(()),
        found => {
            let detail =
                format!("`Content-Type: application/json` is expected, not `{}`", found.unwrap_or("no Content-Type"));
            Err(Fault::new(Code::UnsupportedMediaType, detail).field("Content-Type"))
        }
    }
}

pub(super) fn take_key_of_header(asked: &mut SubmitTask, headers: &HeaderMap) -> Handled<()> {
    let Some(key) = header_text(headers, &KEY_HEADER)? else { return Ok(()) };
    if asked.idempotency_key.as_ref().is_some_and(|field| *field != key) {
        let detail = "differs from the header `Idempotency-Key`: give one of the two";
        return Err(FieldError::invalid("idempotency_key", detail).into());
    }
    idempotency_key(Some(&key))?;
    asked.idempotency_key = Some(key);
    Ok(())
}

/// Checks a submission and finds its module.
pub(super) async fn check_and_resolve(app: &App, tenant: &TenantName, asked: &SubmitTask) -> Handled<Resolved> {
    asked.check(&app.config.caps)?;
    let module = resolve(app, tenant, &asked.module).await?;
    check_for_kind(asked, module.kind)?;
    Ok(module)
}

/// Refuses what only makes sense for commands.
pub(super) fn check_for_kind(asked: &SubmitTask, kind: ModuleKind) -> Handled<()> {
    let given = [
        ("args", asked.args.as_ref().is_some_and(|args| !args.is_empty())),
        ("env", asked.env.as_ref().is_some_and(|env| !env.is_empty())),
        ("program", asked.program.is_some()),
        ("ok_exit", asked.ok_exit.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        Some((field, _)) if kind == ModuleKind::Task => {
            let detail = "only goes with commands: this module is a task component, pass what it needs in its input";
            Err(FieldError::invalid(field, detail).into())
        }
        _ => Ok(()),
    }
}

/// A task that is checked and can be submitted.
#[derive(Debug)]
pub(super) struct Draft {
    /// The task, but for a payload that is not inline yet.
    pub(super) spec: TaskSpec,
    /// A payload that must become a blob.
    pub(super) large: Option<Bytes>,
    /// Of the submission, when there is an idempotency key.
    pub(super) fingerprint: Option<Fingerprint>,
}

impl Draft {
    /// A draft of a submission that [`check_and_resolve`] has passed.
    pub(super) fn new(app: &App, tenant: &TenantName, mut asked: SubmitTask, module: Resolved) -> Handled<Self> {
        let fingerprint = asked.idempotency_key.is_some().then(|| Fingerprint::of_submission(&mut asked));
        let limits = limits(app, tenant, &asked.limits.unwrap_or_default())?;
        let retry = retry_policy(&asked);
        let not_before = match (asked.not_before, asked.delay_ms) {
            (Some(time), _) => time.0,
            (None, Some(delay_ms)) => app.handle.shared().clock.now().plus_ms(delay_ms),
            (None, None) => Timestamp(0),
        };
        let (input_form, bytes) = payload_of(asked.input, asked.input_text, asked.input_base64.as_deref())?;
        check_payload(&app.config.caps, bytes.len())?;
        let (input, large) = split_payload(bytes);
        let spec = TaskSpec {
            tenant: tenant.clone(),
            module: module.digest,
            kind: module.kind,
            input,
            input_form,
            name: asked.name,
            description: asked.description,
            labels: asked.labels.unwrap_or_default(),
            args: asked.args.unwrap_or_default(),
            env: asked.env.unwrap_or_default(),
            limits,
            priority: asked.priority.and_then(|priority| i8::try_from(priority).ok()).unwrap_or(0),
            retry,
            not_before,
            expires_ms: asked.expires_ms,
            idempotency_key: asked.idempotency_key,
            require: asked.require.unwrap_or_default(),
            deterministic: asked.deterministic.unwrap_or(false),
            seed: asked.seed,
            retry_of: None,
            trace: None,
            program: asked.program.or(module.program),
            ok_exit: exit_codes(asked.ok_exit),
        };
        Ok(Self { spec, large, fingerprint })
    }

    /// Submits and waits until it is durable.
    pub(super) async fn submit(mut self, app: &App) -> Handled<Accepted> {
        let task = app.ids.draw(app.handle.shared().clock.now());
        let span = trace::submission(task, self.spec.trace);
        self.spec.trace = wasmill_trace::place_of(&span);
        self.submit_as(app, task).instrument(span).await
    }

    /// Asks the core for a task until what was looked up of its key is recent enough. Nothing is
    /// stored before the key was looked up once: a repeat and a conflict need nothing.
    async fn submit_as(mut self, app: &App, task: TaskId) -> Handled<Accepted> {
        let mut room = None;
        for _ in 0..KEY_TRIES {
            let key = match lookup(app, &self.spec, self.fingerprint).await {
                Ok(KeyLookup::None) => None,
                Ok(KeyLookup::Fresh(check)) => Some(check),
                Ok(KeyLookup::Repeated(task)) => return Ok(self.repeated(app, task)),
                Err(fault) => {
                    self.not_needed(app);
                    return Err(fault);
                }
            };
            if room.is_none() {
                room = Some(self.take_room(app).await?);
            }
            match app.handle.command(submission(task, &Arc::new(self.spec.clone()), key)).await {
                Ok((_, Done::Repeated { task })) => return Ok(self.repeated(app, task)),
                Ok(_) => return Ok(Accepted { task, repeated: false }),
                Err(Refusal::KeyCheckStale) => {}
                Err(refusal) => {
                    refused(app, &self.spec, &refusal);
                    return Err(refusal.into());
                }
            }
        }
        self.not_needed(app);
        Err(Refusal::KeyCheckStale.into())
    }

    fn repeated(&self, app: &App, task: TaskId) -> Accepted {
        self.not_needed(app);
        Accepted { task, repeated: true }
    }

    /// A payload that was stored meanwhile is not needed, unless the task that was there before has
    /// the same.
    fn not_needed(&self, app: &App) {
        app.handle.shared().read_model.note_unneeded(self.spec.input.blob());
    }
}

/// The command that asks the core for a task.
pub(super) fn submission(task: TaskId, spec: &Arc<TaskSpec>, key: Option<KeyCheck>) -> Command {
    Command::Submit { task, module: ModuleRef::Digest(spec.module), spec: Arc::clone(spec), key, edges: Vec::new() }
}

/// The read model's answer about an idempotency key.
pub(super) enum KeyLookup {
    /// There is no key.
    None,
    /// Nobody has used it, as far as the read model knows.
    Fresh(KeyCheck),
    /// It names this task, and the submission was the same.
    Repeated(TaskId),
}

/// Looks a key up.
pub(super) async fn lookup(app: &App, spec: &TaskSpec, fingerprint: Option<Fingerprint>) -> Handled<KeyLookup> {
    let (Some(key), Some(fingerprint)) = (&spec.idempotency_key, fingerprint) else { return Ok(KeyLookup::None) };
    let read_model = &app.handle.shared().read_model;
    let (found, checked_to) = read_model
        .key(&spec.tenant, key)
        .await
        .map_err(|error| Fault::internal("look up an idempotency key", &error))?;
    match found {
        Some((task, kept)) if fingerprint.is_of(kept) => Ok(KeyLookup::Repeated(task)),
        Some((task, _)) => Err(key_conflict(task)),
        None => Ok(KeyLookup::Fresh(KeyCheck { key: key.clone(), fingerprint: fingerprint.digest(), checked_to })),
    }
}

fn payload_of(input: Option<Box<RawValue>>, text: Option<String>, base64: Option<&str>) -> Handled<(InputForm, Bytes)> {
    if let Some(json) = input {
        let text: Box<str> = json.into();
        return Ok((InputForm::Json, Bytes::from(String::from(text))));
    }
    if let Some(text) = text {
        return Ok((InputForm::Text, text.into()));
    }
    let Some(base64) = base64 else { return Ok((InputForm::Bytes, Bytes::new())) };
    let bytes = BASE64.decode(base64).map_err(|error| {
        FieldError::invalid("input_base64", format!("is not base64 with the standard alphabet and padding: {error}"))
    })?;
    Ok((InputForm::Bytes, bytes.into()))
}

/// Refuses a payload over the cap.
pub(super) fn check_payload(caps: &Caps, bytes: usize) -> Handled<()> {
    if bytes as u64 <= caps.payload_bytes {
        return Ok(());
    }
    let detail = format!("the payload has {bytes} bytes, over the limit of {}", caps.payload_bytes);
    Err(Fault::new(Code::PayloadTooLarge, detail).field("input").limit(caps.payload_bytes))
}

/// A payload that is carried along, or bytes that are too many for that.
pub(super) fn split_payload(bytes: Bytes) -> (Payload, Option<Bytes>) {
    if bytes.len() as u64 <= INLINE_BYTES_MAX { (Payload::inline(bytes), None) } else { (Payload::Empty, Some(bytes)) }
}

/// The request with defaults filled in, within the tenant's quota.
pub(super) fn limits(app: &App, tenant: &TenantName, asked: &LimitsAsked) -> Handled<Limits> {
    let (default, caps) = (&app.config.limits, &app.config.caps);
    let limits = Limits {
        cpu_ms: asked.cpu_ms.unwrap_or(default.cpu_ms.min(caps.cpu_ms)),
        fuel: asked.fuel.or(default.fuel),
        memory_bytes: asked.memory_bytes.unwrap_or(default.memory_bytes.min(caps.memory_bytes)),
        wall_ms: asked.wall_ms.unwrap_or(default.wall_ms.min(caps.wall_ms)),
        output_bytes: asked.output_bytes.unwrap_or(default.output_bytes.min(caps.output_bytes)),
    };
    let contents = app.handle.shared().directory.read();
    let quota = contents.tenants.get(tenant).and_then(|(tenant, _)| tenant.quotas.memory_bytes);
    match quota {
        // It could never run.
        Some(quota) if limits.memory_bytes > quota => {
            Err(FieldError::over("limits.memory_bytes", limits.memory_bytes, quota).into())
        }
        _ => Ok(limits),
    }
}

/// The exit codes that are success, which have been checked to be bytes.
pub(super) fn exit_codes(asked: Option<Vec<u64>>) -> Vec<u8> {
    asked.unwrap_or_default().into_iter().filter_map(|code| u8::try_from(code).ok()).collect()
}

fn retry_policy(asked: &SubmitTask) -> RetryPolicy {
    let default = RetryPolicy::default();
    let on = if asked.attempts_max.is_some() { RetryOn::AnyFailure } else { default.on };
    let attempts_max = asked.attempts_max.and_then(|attempts| u32::try_from(attempts).ok());
    // Whichever of the two is absent must not contradict the other.
    let backoff_ms = asked.backoff_ms.unwrap_or(default.backoff_ms.min(asked.backoff_ms_max.unwrap_or(u64::MAX)));
    let backoff_ms_max = asked.backoff_ms_max.unwrap_or(default.backoff_ms_max.max(backoff_ms));
    RetryPolicy { attempts_max: attempts_max.unwrap_or(default.attempts_max), backoff_ms, backoff_ms_max, on }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> RetryPolicy {
        retry_policy(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn asking_for_attempts_asks_to_retry_every_failure() {
        assert_eq!(policy(r#"{"module":"m"}"#), RetryPolicy::default());
        let asked = policy(r#"{"module":"m","attempts_max":3}"#);
        assert_eq!(asked, RetryPolicy { on: RetryOn::AnyFailure, ..RetryPolicy::default() });
        assert_eq!(policy(r#"{"module":"m","backoff_ms":90000}"#).backoff_ms_max, 90_000);
        assert_eq!(policy(r#"{"module":"m","backoff_ms_max":10}"#).backoff_ms, 10);
    }

    #[test]
    fn c13_a_payload_over_the_inline_size_becomes_a_blob() {
        let size = usize::try_from(INLINE_BYTES_MAX).unwrap();
        assert_eq!(split_payload(Bytes::from(vec![0; size])).1, None);
        assert!(split_payload(Bytes::from(vec![0; size + 1])).1.is_some());
        let caps = Caps { payload_bytes: 10, ..Caps::default() };
        assert!(check_payload(&caps, 10).is_ok());
        assert_eq!(check_payload(&caps, 11).unwrap_err().code().status(), 413);
    }
}
