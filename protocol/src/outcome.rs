//! How an attempt ended. A guest's failure is data, never an error of ours.

use serde::{Deserialize, Serialize};

use crate::message::Progress;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum OutcomeKind {
    /// The guest returned a result.
    Succeeded,
    /// The guest says: do not retry.
    Rejected,
    /// The guest failed and says that retrying may help; also any exit code that is not success for
    /// the task.
    #[default]
    Errored,
    /// A WebAssembly trap; [`Outcome::trap`] has its code.
    Trapped,
    /// `limits.fuel` was used up.
    FuelExhausted,
    /// `limits.cpu_ms` was used up.
    CpuExceeded,
    /// `limits.wall_ms` passed.
    DeadlineExceeded,
    /// The guest asked for more than `limits.memory_bytes` and failed for want of it.
    MemoryExceeded,
    /// The result was larger than `limits.output_bytes`.
    OutputTooLarge,
    /// Stopped because the task was cancelled.
    Cancelled,
    /// The host was lost while it ran the attempt.
    HostLost,
    /// The module could not be compiled or linked on the host.
    ModuleInvalid,
    /// A fault of ours in the host, not the guest's; not charged against the task's retries.
    HostFault,
    /// Given back without a result: the host shuts down, did not take it, or was lost before the
    /// attempt was known to run. The task is queued again and nothing is charged or counted, so
    /// this is never the outcome of a final task.
    Returned,
}

impl OutcomeKind {
    /// All of them, in the order of declaration.
    pub const ALL: [Self; 14] = [
        Self::Succeeded,
        Self::Rejected,
        Self::Errored,
        Self::Trapped,
        Self::FuelExhausted,
        Self::CpuExceeded,
        Self::DeadlineExceeded,
        Self::MemoryExceeded,
        Self::OutputTooLarge,
        Self::Cancelled,
        Self::HostLost,
        Self::ModuleInvalid,
        Self::HostFault,
        Self::Returned,
    ];

    /// The stable name, as HTTP answers carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Rejected => "rejected",
            Self::Errored => "errored",
            Self::Trapped => "trapped",
            Self::FuelExhausted => "fuel_exhausted",
            Self::CpuExceeded => "cpu_exceeded",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::MemoryExceeded => "memory_exceeded",
            Self::OutputTooLarge => "output_too_large",
            Self::Cancelled => "cancelled",
            Self::HostLost => "host_lost",
            Self::ModuleInvalid => "module_invalid",
            Self::HostFault => "host_fault",
            Self::Returned => "returned",
        }
    }
}

/// Which WebAssembly trap it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TrapCode {
    /// The stack overflowed.
    StackOverflow,
    /// A memory access out of bounds.
    MemoryOutOfBounds,
    /// A table access out of bounds.
    TableOutOfBounds,
    /// A misaligned atomic access.
    HeapMisaligned,
    /// A call through a null table entry.
    IndirectCallToNull,
    /// A call through a table entry of another type.
    BadSignature,
    /// Integer overflow in a division.
    IntegerOverflow,
    /// Integer division by zero.
    IntegerDivisionByZero,
    /// A conversion of a float that no integer represents.
    BadConversionToInteger,
    /// `unreachable` was executed: what a panic in Rust ends in.
    Unreachable,
    /// A component broke a rule of the component model.
    Component,
    /// Any other trap.
    #[default]
    Other,
}

impl TrapCode {
    /// The stable name, as HTTP answers carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StackOverflow => "stack_overflow",
            Self::MemoryOutOfBounds => "memory_out_of_bounds",
            Self::TableOutOfBounds => "table_out_of_bounds",
            Self::HeapMisaligned => "heap_misaligned",
            Self::IndirectCallToNull => "indirect_call_to_null",
            Self::BadSignature => "bad_signature",
            Self::IntegerOverflow => "integer_overflow",
            Self::IntegerDivisionByZero => "integer_division_by_zero",
            Self::BadConversionToInteger => "bad_conversion_to_integer",
            Self::Unreachable => "unreachable",
            Self::Component => "component",
            Self::Other => "other",
        }
    }
}

/// The outcome of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// How it ended.
    pub kind: OutcomeKind,
    /// For people: what the guest said, or what limit was hit with its value. At most
    /// [`Outcome::MESSAGE_BYTES_MAX`].
    pub message: String,
    /// The exit code of a command, when it exited by itself.
    pub exit_code: Option<i32>,
    /// The trap, when `kind` is `Trapped`.
    pub trap: Option<TrapCode>,
    /// Innermost frame first, function names where the module has them.
    pub backtrace: Vec<String>,
    /// How far the guest said it was, if it ever did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
}

impl Outcome {
    /// Longer messages are cut at a character boundary.
    pub const MESSAGE_BYTES_MAX: usize = 8 * 1024;
    /// Deeper backtraces are cut.
    pub const BACKTRACE_FRAMES_MAX: usize = 64;
    /// Longer frames are cut at a character boundary: names in modules can be of any length, and
    /// reports must stay small.
    pub const FRAME_BYTES_MAX: usize = 512;

    /// An outcome with nothing but a message. `message` is cut at [`Outcome::MESSAGE_BYTES_MAX`].
    pub fn new(kind: OutcomeKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > Self::MESSAGE_BYTES_MAX {
            let end = (0..=Self::MESSAGE_BYTES_MAX).rev().find(|&end| message.is_char_boundary(end));
            message.truncate(end.unwrap_or(0));
        }
        Self { kind, message, ..Self::default() }
    }

    /// Cuts the backtrace to its bounds: an outcome as it is reported.
    pub fn clip(&mut self) {
        self.backtrace.truncate(Self::BACKTRACE_FRAMES_MAX);
        for frame in &mut self.backtrace {
            frame.truncate(frame.floor_char_boundary(Self::FRAME_BYTES_MAX));
        }
    }
}

/// The resources that an attempt used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Fuel consumed, exact; only when the metered profile ran.
    pub fuel: Option<u64>,
    /// CPU time in microseconds.
    pub cpu_us: u64,
    /// The highest sum of memories and tables in bytes.
    pub memory_peak_bytes: u64,
    /// Microseconds from queued to the start on the host.
    pub queue_us: u64,
    /// Microseconds from the start on the host to the end.
    pub run_us: u64,
    /// Bytes of the payload.
    pub input_bytes: u64,
    /// Bytes of the result.
    pub output_bytes: u64,
    /// Nothing was run: the result is the one that an earlier attempt gave to the same question,
    /// and so is all of the above but `queue_us`.
    pub cached: bool,
    /// CPU time in microseconds that compiling the module for this attempt has taken: only of the
    /// attempt that asked for it, and of no part of [`Usage::cpu_us`].
    // The last one: rows of the read model are written without names.
    #[serde(skip_serializing_if = "is_zero")]
    pub compile_us: u64,
}

impl Usage {
    /// The resources that this attempt really used: nothing but the wait, when the result was there
    /// already.
    pub fn spent(&self) -> Self {
        if self.cached { Self { queue_us: self.queue_us, cached: true, ..Self::default() } } else { *self }
    }
}

/// A field with the value of nearly all attempts is not written down.
fn is_zero(number: &u64) -> bool {
    *number == 0
}
