//! Every way in which a request can fail, with a stable code and a sentence that says what to do.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use wasmill_api::{FieldError, FieldErrorKind, PROBLEM_JSON, Problem};
use wasmill_protocol::{OutcomeKind, TaskId};

macro_rules! catalogue {
    ($($variant:ident $status:literal $code:literal $title:literal)*) => {
        /// The kind of a problem. Codes are stable: clients decide by them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $title] $variant,)*
            /// A task that was run in one request did not succeed: the code is the outcome's.
            Outcome(OutcomeKind),
        }

        impl Code {
            /// Every code but the outcomes.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// HTTP status, code and title.
            fn parts(self) -> (u16, &'static str, &'static str) {
                match self {
                    $(Self::$variant => ($status, $code, $title),)*
                    Self::Outcome(kind) => {
                        (422, kind.as_str(), "The task did not succeed: the code is its outcome, the task has the details.")
                    }
                }
            }
        }
    };
}

catalogue! {
    MalformedRequest 400 "malformed_request" "The request is not understood: see the detail for what is expected."
    MalformedJson 400 "malformed_json" "The body is not JSON: correct it at the place that the detail names."
    MalformedDigest 400 "malformed_digest" "Not a digest: `sha256:` and 64 lower-case hexadecimal digits are expected."
    Unauthorized 401 "unauthorized" "No valid token: send `Authorization: Bearer TOKEN` with a token of this server."
    Forbidden 403 "forbidden" "The token's role does not allow this: use a token of the role that the detail names."
    NotFound 404 "not_found" "There is nothing at this path: /openapi.json lists every path."
    TaskUnknown 404 "task_unknown" "There is no such task in this tenant, or its retention is over."
    ModuleUnknown 404 "module_unknown" "There is no such module or alias in this tenant: upload it, or list what is there."
    AliasUnknown 404 "alias_unknown" "There is no such alias in this tenant: GET /v1/aliases lists them."
    TenantUnknown 404 "tenant_unknown" "There is no such tenant."
    TokenUnknown 404 "token_unknown" "There is no such token in this tenant."
    HostUnknown 404 "host_unknown" "There is no such host: GET /v1/hosts lists them."
    NoOutput 404 "no_output" "The task is final and has no output: its outcome says why."
    AttemptUnknown 404 "attempt_unknown" "The task has had no such attempt: its events list them."
    NoCheckpoint 404 "no_checkpoint" "The attempt began without a checkpoint: none had been saved."
    CheckpointForgotten 404 "checkpoint_forgotten"
        "The checkpoint that the attempt began with is no longer kept: only those of the latest attempts are."
    MethodNotAllowed 405 "method_not_allowed" "This path does not take this method: `Allow` lists those that it takes."
    BodyTooSlow 408 "body_too_slow" "The body came too slowly: send it again, faster."
    NotFinal 409 "not_final" "The task is not final: wait for it with GET /v1/tasks/{id}?wait_ms=…"
    AlreadyFinal 409 "already_final" "The task is final: a final state never changes."
    NotRetryable 409 "not_retryable" "Only failed and cancelled tasks can be submitted again."
    IdempotencyConflict 409 "idempotency_conflict"
        "The idempotency key belongs to another submission: use a new key for a new task."
    ModuleInUse 409 "module_in_use" "A task that is not final uses the module: wait for the task or cancel it."
    TenantExists 409 "tenant_exists" "A tenant of this name exists: PATCH changes it."
    TenantPermanent 409 "tenant_permanent" "The default tenant cannot be deleted."
    TokenExists 409 "token_exists" "A token of this id exists: ask again for another one."
    BodyTooLarge 413 "body_too_large" "The body is over the limit."
    ModuleTooLarge 413 "module_too_large" "The module is over the limit: strip it, or ask the operator to raise the cap."
    PayloadTooLarge 413 "payload_too_large" "The payload is over the limit: pass less, or ask the operator to raise the cap."
    UriTooLong 414 "uri_too_long" "The path with its query is over the limit."
    UnsupportedMediaType 415 "unsupported_media_type" "The body is of another type than this call takes."
    UnsupportedEncoding 415 "unsupported_encoding" "Encoded bodies are not taken: send it without Content-Encoding."
    FieldUnknown 422 "field_unknown" "There is no such field: remove it or correct its spelling."
    FieldMissing 422 "field_missing" "A field is missing that is required."
    FieldInvalid 422 "field_invalid" "A field has a value that is not allowed."
    LimitExceeded 422 "limit_exceeded" "A value is over its limit: nothing is clamped silently, ask for less."
    DigestMismatch 422 "digest_mismatch" "The bytes do not have the digest that was claimed: they were changed on the way."
    ModuleInvalid 422 "module_invalid" "The module cannot be run here: the detail says what was found and what is needed."
    ModuleQuota 422 "module_quota_exceeded" "The tenant's quota of modules is used up: delete some, or ask for a higher quota."
    QuotaExceeded 429 "quota_exceeded" "The tenant has as much in the queue or stored as it may have: try again when some of it is done or its retention over."
    TooManyRequests 429 "too_many_requests" "The tenant has too many requests under way: send fewer at once."
    TooManyWaits 429 "too_many_waits" "The tenant has too many waiting requests: wait for fewer tasks at once."
    QueueFull 429 "queue_full" "The scheduler is busy: try again after the time in `Retry-After`."
    CompilerBusy 503 "compiler_busy" "Too many modules are being checked: try again after the time in `Retry-After`."
    Overloaded 503 "overloaded" "The server cannot take this now: try again after the time in `Retry-After`."
    NotLeader 503 "not_leader" "This node does not lead right now: try again, there or elsewhere; with an idempotency key it is safe."
    ShuttingDown 503 "shutting_down" "The server stops: try again when it is back."
    ConnectionsExhausted 503 "connections_exhausted" "The server has as many connections as it takes: try again later."
    Internal 500 "internal" "A fault of the server: its log has the details."
    NoSpace 507 "no_space" "The server's disk is full: nothing was stored, try again when there is space."
}

impl Code {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        self.parts().0
    }

    /// The stable text.
    pub fn as_str(self) -> &'static str {
        self.parts().1
    }

    /// The meaning of the code, and what to do.
    pub fn title(self) -> &'static str {
        self.parts().2
    }
}

/// A request that failed, on its way to becoming an answer.
#[derive(Debug)]
pub struct Fault(Box<Parts>);

/// The result of a handler.
pub type Handled<T = Response> = Result<T, Fault>;

#[derive(Debug)]
struct Parts {
    code: Code,
    detail: String,
    field: Option<String>,
    task: Option<TaskId>,
    limit: Option<i64>,
    line: Option<u64>,
    retry_ms: Option<u64>,
}

/// The wait that a client is told when nothing better is known.
const RETRY_MS_DEFAULT: u64 = 1_000;

impl Fault {
    /// A fault that is told apart by nothing but its code.
    pub fn plain(code: Code) -> Self {
        Self::new(code, code.title())
    }

    /// `detail` says what happened this time, with values.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self(Box::new(Parts { code, detail, field: None, task: None, limit: None, line: None, retry_ms: None }))
    }

    /// A fault of ours. The reason goes to the log, never to the client.
    pub fn internal(action: &'static str, reason: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error = reason, "cannot {action}");
        Self::new(Code::Internal, format!("cannot {action}"))
    }

    /// Names the field, parameter or header.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// Names the task.
    #[must_use]
    pub fn task(mut self, task: TaskId) -> Self {
        self.0.task = Some(task);
        self
    }

    /// Names the bound that was hit.
    #[must_use]
    pub fn limit(mut self, limit: u64) -> Self {
        self.0.limit = Some(i64::try_from(limit).unwrap_or(i64::MAX));
        self
    }

    /// Names the line of a bulk submission, from 1.
    #[must_use]
    pub fn line(mut self, line: u64) -> Self {
        self.0.line = Some(line);
        self
    }

    /// When to try again.
    #[must_use]
    pub fn retry_ms(mut self, retry_ms: u64) -> Self {
        self.0.retry_ms = Some(retry_ms);
        self
    }

    /// The code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The mistake, as a sentence.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The document.
    pub fn document(&self) -> Problem {
        let Parts { code, detail, field, task, limit, line, .. } = &*self.0;
        Problem {
            kind: format!("urn:wasmill:problem:{}", code.as_str()),
            title: code.title().to_owned(),
            status: code.status(),
            code: code.as_str().to_owned(),
            detail: detail.clone(),
            field: field.clone(),
            task: task.map(|task| task.to_string()),
            limit: *limit,
            line: *line,
        }
    }

    /// The document as JSON on one line, without a line end.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.document()).expect("a problem has only strings and numbers")
    }
}

impl From<FieldError> for Fault {
    fn from(error: FieldError) -> Self {
        let code = match error.kind {
            FieldErrorKind::Unknown => Code::FieldUnknown,
            FieldErrorKind::Missing => Code::FieldMissing,
            FieldErrorKind::Invalid => Code::FieldInvalid,
            FieldErrorKind::OverLimit => Code::LimitExceeded,
        };
        let mut fault = Self::new(code, error.to_string()).field(error.field);
        fault.0.limit = error.limit;
        fault
    }
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let code = self.0.code;
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::from(self.to_json()));
        *response.status_mut() = status;
        response.extensions_mut().insert(code);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if matches!(code.status(), 429 | 503) {
            let seconds = self.0.retry_ms.unwrap_or(RETRY_MS_DEFAULT).div_ceil(1000).max(1);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if code == Code::Unauthorized {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"wasmill\""));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_is_there_once_and_says_something() {
        let codes: BTreeSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(codes.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!(code.title().ends_with(['.', '…']), "{}", code.title());
            assert!(StatusCode::from_u16(code.status()).is_ok_and(|status| status.as_u16() >= 400));
        }
    }

    #[test]
    fn a_problem_in_full() {
        let fault = Fault::from(FieldError::over("limits.cpu_ms", 9_000_000, 3_600_000)).line(3);
        expect_test::expect![[r#"{"type":"urn:wasmill:problem:limit_exceeded","title":"A value is over its limit: nothing is clamped silently, ask for less.","status":422,"code":"limit_exceeded","detail":"`limits.cpu_ms`: 9000000 is over the limit of 3600000","field":"limits.cpu_ms","limit":3600000,"line":3}"#]]
            .assert_eq(&String::from_utf8(fault.to_json()).unwrap());
    }

    #[test]
    fn come_back_later_says_when() {
        let response = Fault::plain(Code::QueueFull).retry_ms(1_200).into_response();
        assert_eq!(response.headers()[RETRY_AFTER], "2");
        assert_eq!(Fault::plain(Code::NotLeader).into_response().headers()[RETRY_AFTER], "1");
    }
}
