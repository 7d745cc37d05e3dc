//! A task: module, payload, limits and the policy for retries.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, TaskId, TenantName};
use crate::limits::Limits;
use crate::module::ModuleKind;
use crate::outcome::{Outcome, OutcomeKind};
use crate::payload::Payload;
use crate::time::Timestamp;
use crate::trace::TraceParent;

/// Everything about a task that does not change after it was accepted.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TaskSpec {
    /// Whose it is.
    pub tenant: TenantName,
    /// The module's digest. The core fills it in when the submission named an alias.
    pub module: Digest,
    /// How the module is run; filled in by the core from the module's metadata.
    pub kind: ModuleKind,
    /// The payload.
    pub input: Payload,
    /// Whether the payload was submitted as JSON, text or bytes: how it is shown again.
    pub input_form: InputForm,
    /// For people.
    pub name: Option<String>,
    /// For people.
    pub description: Option<String>,
    /// For people and filters.
    pub labels: BTreeMap<String, String>,
    /// Arguments of a command, without the program name.
    pub args: Vec<String>,
    /// Environment of a command.
    pub env: BTreeMap<String, String>,
    /// The resources that each attempt may use.
    pub limits: Limits,
    /// -100 to 100, higher first among the tasks of its tenant.
    pub priority: i8,
    /// When and how often it is tried again.
    pub retry: RetryPolicy,
    /// Not started before this time; zero means at once.
    pub not_before: Timestamp,
    /// The longest wait in the queue in milliseconds; then `failed` with reason `expired`.
    pub expires_ms: Option<u64>,
    /// At most 128 characters, per tenant.
    pub idempotency_key: Option<String>,
    /// Only hosts that carry all these labels.
    pub require: BTreeMap<String, String>,
    /// Seeded randomness, frozen clock, canonical NaNs.
    pub deterministic: bool,
    /// Seed of `deterministic`; the task's id when absent.
    pub seed: Option<u64>,
    /// The task of which this is a manual retry.
    pub retry_of: Option<TaskId>,
    /// Where its spans belong, when its submission is recorded in a trace.
    pub trace: Option<TraceParent>,
    /// The name that a command finds as its own; [`TaskSpec::PROGRAM_DEFAULT`] when there is none.
    pub program: Option<String>,
    /// Exit codes of a command that are success; 0 alone when there are none.
    pub ok_exit: Vec<u8>,
}

impl TaskSpec {
    /// The name of a command whose task has none.
    pub const PROGRAM_DEFAULT: &str = "module";
    /// Exit codes that are success unless the task says otherwise.
    pub const OK_EXIT_DEFAULT: [u8; 1] = [0];

    /// The name that a command finds as its own.
    pub fn program(&self) -> &str {
        self.program.as_deref().unwrap_or(Self::PROGRAM_DEFAULT)
    }

    /// The exit codes that are success.
    pub fn ok_exit(&self) -> &[u8] {
        if self.ok_exit.is_empty() { &Self::OK_EXIT_DEFAULT } else { &self.ok_exit }
    }

    /// Whether a command has ended by itself, so that what it wrote to stdout is its result,
    /// whatever the exit code.
    pub fn has_result(&self, outcome: &Outcome) -> bool {
        outcome.kind == OutcomeKind::Succeeded || (self.kind == ModuleKind::Command && outcome.exit_code.is_some())
    }

    /// The seed that attempts of a deterministic task are given, the same for all of them; `None`
    /// for ordinary randomness and clocks.
    pub fn seed_of(&self, task: TaskId) -> Option<u64> {
        let from_id = || {
            let (high, low) = task.0.as_u64_pair();
            high ^ low
        };
        self.deterministic.then(|| self.seed.unwrap_or_else(from_id))
    }
}

/// A task waits until another one, its predecessor, has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Edge {
    /// Which task it waits for: one of the same tenant.
    pub predecessor: TaskId,
    /// How that must end. If it ends otherwise, the task that waits is skipped.
    pub on: EdgeOn,
}

/// The ends of a predecessor that let the task run that waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EdgeOn {
    /// It has succeeded.
    #[default]
    Success,
    /// It has failed. One that was cancelled or skipped has not.
    Failure,
    /// Any end.
    Any,
}

impl EdgeOn {
    /// Whether this end lets the task run.
    pub fn is_met_by(self, end: FinalState) -> bool {
        match self {
            Self::Success => end == FinalState::Succeeded,
            Self::Failure => end == FinalState::Failed,
            Self::Any => true,
        }
    }
}

/// How a payload was submitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InputForm {
    /// `input`: any JSON.
    Json,
    /// `input_text`.
    Text,
    /// `input_base64`, the body of `/v1/run`, or none.
    #[default]
    Bytes,
}

/// When and how often a task is tried again for its own failures. Full jitter: the delay before
/// attempt n + 1 is drawn evenly from zero to `min(backoff_ms_max, backoff_ms * 2^(n-1))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1.
    pub attempts_max: u32,
    /// The bound of the first delay in milliseconds.
    pub backoff_ms: u64,
    /// The bound that later delays grow to, in milliseconds.
    pub backoff_ms_max: u64,
    /// Which failures are tried again.
    pub on: RetryOn,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts_max: 3, backoff_ms: 1_000, backoff_ms_max: 60_000, on: RetryOn::Errored }
    }
}

/// Which failures are tried again. `rejected`, `module_invalid` and `cancelled` never are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// Only `errored`: what a task gets that does not ask.
    #[default]
    Errored,
    /// Traps and exceeded limits too: what a task gets that sets `attempts_max` itself.
    AnyFailure,
}

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Waits for a time, a dependency or a retry delay.
    #[default]
    Waiting,
    /// Could start now.
    Queued,
    /// An attempt is assigned to a host.
    Running,
    /// Final: there is a result.
    Succeeded,
    /// Final: no attempt succeeded, or it expired.
    Failed,
    /// Final: asked to stop, and stopped.
    Cancelled,
    /// Final: something it depended on did not succeed.
    Skipped,
}

impl TaskState {
    /// Whether nothing can change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Skipped)
    }

    /// The stable name, as HTTP answers carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

/// A final state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalState {
    /// See [`TaskState::Succeeded`].
    Succeeded,
    /// See [`TaskState::Failed`].
    #[default]
    Failed,
    /// See [`TaskState::Cancelled`].
    Cancelled,
    /// See [`TaskState::Skipped`].
    Skipped,
}

impl From<FinalState> for TaskState {
    fn from(state: FinalState) -> Self {
        match state {
            FinalState::Succeeded => Self::Succeeded,
            FinalState::Failed => Self::Failed,
            FinalState::Cancelled => Self::Cancelled,
            FinalState::Skipped => Self::Skipped,
        }
    }
}
