//! Tasks as they are answered, and what can be asked of one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Time, number};
use wasmill_protocol::ids::{Attempt, Digest, HostId, TaskId, TenantName};
use wasmill_protocol::limits::Limits;
use wasmill_protocol::outcome::{Outcome, OutcomeKind, TrapCode, Usage};
use wasmill_protocol::task::TaskState;

/// A task as it is answered. A field that does not apply is `null`, but for the three inputs, of
/// which at most one is there.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct TaskDoc {
    /// A UUIDv7: ids sort by the time of submission.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub id: TaskId,
    /// Whose it is.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub tenant: TenantName,
    /// Always the digest, whatever was submitted.
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^sha256:[0-9a-f]{64}$"))]
    pub module: Digest,
    /// Where it stands.
    pub state: TaskState,
    /// Why it did not succeed, as a stable word: `expired`, `tenant_removed`, `dependency`, or the
    /// kind of the outcome that decided it.
    pub reason: Option<String>,
    /// Whether somebody asked for it to stop.
    pub cancel_requested: bool,
    /// Why, in the words of who asked.
    pub cancel_reason: Option<String>,
    /// As submitted.
    pub name: Option<String>,
    /// As submitted.
    pub description: Option<String>,
    /// As submitted.
    pub labels: BTreeMap<String, String>,
    /// As submitted, when it was JSON of at most 32 KiB and 64 levels that every reader can read,
    /// and a single task was asked for; whatever it is, `/input` has it.
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Box<RawValue>>,
    /// As submitted, when it was text of at most 32 KiB and a single task was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_text: Option<String>,
    /// The payload, when it was bytes of at most 32 KiB and a single task was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_base64: Option<String>,
    /// As submitted.
    pub args: Vec<String>,
    /// As submitted.
    pub env: BTreeMap<String, String>,
    /// The name that the command finds as its own; `null` when it is no command.
    pub program: Option<String>,
    /// Exit codes of the command that are success; `null` when it is no command.
    pub ok_exit: Option<Vec<u8>>,
    /// With all defaults filled in; `fuel` is `null` when unlimited.
    pub limits: Limits,
    /// -100 to 100, higher first among the tasks of its tenant.
    pub priority: i8,
    /// Attempts in all.
    pub attempts_max: u32,
    /// The bound of the first delay.
    pub backoff_ms: u64,
    /// The bound that later delays grow to.
    pub backoff_ms_max: u64,
    /// The earliest start that was asked for, also when it was asked as `delay_ms`.
    pub not_before: Option<Time>,
    /// The longest wait in the queue.
    pub expires_ms: Option<u64>,
    /// As submitted.
    pub idempotency_key: Option<String>,
    /// As submitted.
    pub require: BTreeMap<String, String>,
    /// As submitted.
    pub deterministic: bool,
    /// The seed of a task that is `deterministic`, also one that was not submitted but derived from
    /// the task's id.
    pub seed: Option<u64>,
    /// The digits of `seed`, for readers that hold numbers as doubles, as JavaScript does: from
    /// 2^53 on they do not tell one from the next.
    pub seed_text: Option<String>,
    /// The task of which this is a retry.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, format = "uuid"))]
    pub retry_of: Option<TaskId>,
    /// Why it does not run, in words, while it is waiting or queued.
    pub waiting_for: Option<String>,
    /// The number of the latest attempt, 0 before the first.
    #[cfg_attr(feature = "openapi", schema(value_type = u32))]
    pub attempt: Attempt,
    /// Where the latest attempt ran or runs.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub host: Option<HostId>,
    /// How far the task says it is while it runs, and said last when it is final.
    pub progress: Option<ProgressDoc>,
    /// How the latest attempt that ended did so.
    pub outcome: Option<OutcomeDoc>,
    /// The resources that the latest ended attempt used.
    pub usage: Option<UsageDoc>,
    /// Whether that attempt ran nothing, because the result of the same computation was there
    /// already: then `usage` is what it once took.
    pub cached: bool,
    /// When it was submitted.
    pub created_at: Time,
    /// When it last changed.
    pub updated_at: Time,
    /// When the latest attempt began.
    pub started_at: Option<Time>,
    /// When it became final.
    pub finished_at: Option<Time>,
    /// The result, when it is JSON that every reader can read, of at most 32 KiB and 64 levels, and
    /// a single task was asked for; whatever it is, `/output` has it. In lines with `output=true`
    /// of any size; what is not such JSON is in one of the other two there.
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    pub output: Option<Box<RawValue>>,
    /// The result, when it is other text, in lines with `output=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_text: Option<String>,
    /// The result, when it is not text, in lines with `output=true`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_base64: Option<String>,
}

/// How far a task says it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ProgressDoc {
    /// Steps done.
    pub done: u64,
    /// Steps in all, 0 if unknown.
    pub total: u64,
    /// For people.
    pub message: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OutcomeDoc {
    /// How.
    pub kind: OutcomeKind,
    /// For people.
    pub message: String,
    /// Of a command that ended by itself, also when that is success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The trap, when `kind` is `trapped`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trap: Option<TrapCode>,
    /// Innermost frame first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<Vec<String>>,
}

impl From<&Outcome> for OutcomeDoc {
    fn from(outcome: &Outcome) -> Self {
        Self {
            kind: outcome.kind,
            message: outcome.message.clone(),
            exit_code: outcome.exit_code,
            trap: outcome.trap,
            backtrace: (!outcome.backtrace.is_empty()).then(|| outcome.backtrace.clone()),
        }
    }
}

/// The resources that an attempt used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UsageDoc {
    /// Fuel consumed; only when fuel was limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// CPU time in microseconds.
    pub cpu_us: u64,
    /// The highest sum of memories and tables in bytes.
    pub memory_peak_bytes: u64,
    /// Microseconds from queued to started.
    pub queue_us: u64,
    /// Microseconds from started to ended.
    pub run_us: u64,
    /// CPU time in microseconds of compiling the module, when it had to be compiled for this
    /// attempt; it is in the tenant's `compile_ms_per_s` and in no limit of the task.
    #[serde(default)]
    pub compile_us: u64,
    /// Bytes of the payload.
    pub input_bytes: u64,
    /// Bytes of the result.
    pub output_bytes: u64,
}

impl From<&Usage> for UsageDoc {
    fn from(usage: &Usage) -> Self {
        Self {
            fuel: usage.fuel,
            cpu_us: usage.cpu_us,
            memory_peak_bytes: usage.memory_peak_bytes,
            queue_us: usage.queue_us,
            run_us: usage.run_us,
            compile_us: usage.compile_us,
            input_bytes: usage.input_bytes,
            output_bytes: usage.output_bytes,
        }
    }
}

/// One thing that happened to a task. Fields that do not apply are absent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct TaskEventDoc {
    /// When.
    pub at: Time,
    /// The record of the log that holds it.
    pub seq: u64,
    /// The kind of event: `submitted`, `queued`, `prioritized`, `attempt_started`,
    /// `checkpoint_saved`, `attempt_ended`, `cancel_requested`, `ended` or `report_late`.
    pub event: String,
    /// Which attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    /// Which host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// How the attempt ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<OutcomeKind>,
    /// The beginning of what the outcome says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Fuel that the attempt used; only when fuel was limited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// Present and true when the attempt ran nothing, because the result was there already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached: Option<bool>,
    /// The state that follows, when this event decides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<TaskState>,
    /// The earliest start of the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// The new priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Bytes of the last checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// How many checkpoints were saved in a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
}

/// The events of a task, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TaskEventsDoc {
    /// The submission first.
    pub items: Vec<TaskEventDoc>,
    /// Always `null`: everything that is kept is in one page.
    #[cfg_attr(feature = "openapi", schema(required = true))]
    pub next: Option<String>,
    /// Entries after the submission that were left out because there are too many.
    pub left_out: u64,
}

/// One line of the answer to a bulk submission, when the task was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SubmittedDoc {
    /// The task.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = "uuid"))]
    pub id: TaskId,
}

/// The body of a cancellation; may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CancelTask {
    /// Why, for people.
    #[cfg_attr(feature = "openapi", schema(max_length = 1024))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The fields of a task that can be changed while it is not final.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PatchTask {
    /// The new priority, higher first among the tasks of its tenant.
    #[cfg_attr(feature = "openapi", schema(minimum = -100, maximum = 100, required = true, nullable = false))]
    #[serde(default, deserialize_with = "number::optional_signed")]
    pub priority: Option<i64>,
}
