//! Messages between agent and sandbox: all of it, so that the sandbox can move into
//! another process without changing either side.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use wasmill_protocol::message::Progress;
use wasmill_protocol::module::ModuleKind;
use wasmill_protocol::{AttemptId, Digest, Limits, Outcome, TenantName, TraceParent, Usage};

/// From the agent to the sandbox.
#[derive(Debug)]
pub enum ToSandbox {
    /// Run an attempt. The sandbox starts it at once: slots are the agent's business.
    Start(Box<GuestRun>),
    /// The large checkpoint that an attempt has said last is stored, or cannot be: its guest, which
    /// has waited for that, goes on. One answer for each checkpoint over
    /// [`INLINE_BYTES_MAX`](wasmill_protocol::limits::INLINE_BYTES_MAX).
    CheckpointTaken(AttemptId),
    /// Stop an attempt; [`FromSandbox::Ended`] follows. An unknown one has ended already.
    Stop(AttemptId, StopReason),
}

/// Why an attempt is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The leader has asked for it.
    Asked,
    /// The host shuts down or has lost its lease; the attempt is handed back or dropped.
    Drained,
}

/// Everything that is needed to run one attempt.
#[derive(Debug, Clone)]
pub struct GuestRun {
    /// Which attempt.
    pub id: AttemptId,
    /// Whose.
    pub tenant: TenantName,
    /// The module.
    pub module: Digest,
    /// Where the module's bytes are, for when it is not compiled yet.
    pub module_path: PathBuf,
    /// How it is run.
    pub kind: ModuleKind,
    /// The payload.
    pub input: Bytes,
    /// The name that a command finds as its own.
    pub program: Arc<str>,
    /// Arguments of a command, without the program name.
    pub args: Arc<[String]>,
    /// Environment of a command.
    pub env: Arc<BTreeMap<String, String>>,
    /// Exit codes of a command that are success.
    pub ok_exit: Arc<[u8]>,
    /// The resources that it may use.
    pub limits: Limits,
    /// Bytes of stdout and stderr together that are captured.
    pub captured_bytes_max: u64,
    /// Bytes of one checkpoint.
    pub checkpoint_bytes_max: u64,
    /// How often the task is tried at most, for the guest to know.
    pub attempts_max: u32,
    /// The seed of a deterministic attempt; `None` for ordinary randomness and clocks.
    pub seed: Option<u64>,
    /// The checkpoint of an earlier attempt.
    pub checkpoint: Option<Bytes>,
    /// Where the attempt's span belongs, when the task is recorded in a trace.
    pub trace: Option<TraceParent>,
}

/// From the sandbox to the agent.
#[derive(Debug)]
pub enum FromSandbox {
    /// The guest says how far it is. Only the newest matters.
    Progress(AttemptId, Progress),
    /// The guest saved a checkpoint. `number` grows from 1 within the attempt. It waits for
    /// [`ToSandbox::CheckpointTaken`] when it is large.
    Checkpoint {
        /// Which attempt.
        id: AttemptId,
        /// Whose.
        tenant: TenantName,
        /// Which of its checkpoints.
        number: u32,
        /// The state.
        data: Bytes,
    },
    /// The load of the sandbox as a whole, about once a second. Only the newest matters.
    Load {
        /// CPU time of all guests since the sandbox began, in microseconds; of those that run
        /// still, too.
        cpu_us: u64,
        /// Compiled modules that are ready to run.
        modules_cached: u32,
        /// Some of these.
        modules_warm: Vec<Digest>,
    },
    /// The attempt has ended and nothing of it is left in the sandbox.
    Ended(Box<Ended>),
}

/// How an attempt ended.
#[derive(Debug)]
pub struct Ended {
    /// Which attempt.
    pub id: AttemptId,
    /// Whose.
    pub tenant: TenantName,
    /// How. `Cancelled` for both reasons to stop: the agent knows which it was.
    pub outcome: Outcome,
    /// The resources that it used; `queue_us` is the agent's to fill in.
    pub usage: Usage,
    /// The result: of a guest that succeeded, and of a command that ended by itself, whatever its
    /// exit code.
    pub output: Bytes,
    /// Captured stdout and stderr in the order of writing, with the truncation mark when there was
    /// more; without stdout where that is the result.
    pub captured: Bytes,
    /// The same work gives the same result again, whichever task and attempt it is for: the guest
    /// has succeeded, was deterministic, and learnt nothing that is not in its module, payload,
    /// name, arguments, environment, limits and seed.
    pub repeatable: bool,
}
