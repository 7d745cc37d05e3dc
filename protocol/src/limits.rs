//! The resources that one attempt may use, and the caps that an installation sets.

use serde::{Deserialize, Serialize};

/// One KiB in bytes.
pub const KIB: u64 = 1024;
/// One MiB in bytes.
pub const MIB: u64 = 1024 * KIB;

/// The largest payload, result, checkpoint or captured output that is carried inside a record;
/// larger ones are blobs.
pub const INLINE_BYTES_MAX: u64 = 32 * KIB;

/// The resources that one attempt may use. Every limit is always set; `fuel` alone can be absent,
/// which means unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Limits {
    /// CPU time in milliseconds; overrun by at most one tick.
    pub cpu_ms: u64,
    /// Fuel in wasmtime's units, exact; `None` runs the profile without fuel.
    pub fuel: Option<u64>,
    /// Bytes of all linear memories and tables together.
    pub memory_bytes: u64,
    /// Milliseconds from the start of the attempt on the host to its end.
    pub wall_ms: u64,
    /// The largest result in bytes.
    pub output_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu_ms: 10_000, fuel: None, memory_bytes: 256 * MIB, wall_ms: 60_000, output_bytes: 64 * MIB }
    }
}

/// The highest limits of an installation. Configurable; a request over a cap is refused by its
/// name, never clamped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Caps {
    /// Bytes of one module.
    pub module_bytes: u64,
    /// Bytes of one payload.
    pub payload_bytes: u64,
    /// `limits.cpu_ms` of one task.
    pub cpu_ms: u64,
    /// `limits.memory_bytes` of one task.
    pub memory_bytes: u64,
    /// `limits.wall_ms` of one task.
    pub wall_ms: u64,
    /// `limits.output_bytes` of one task.
    pub output_bytes: u64,
    /// Bytes of stdout and stderr together that are captured; what follows is replaced by a mark.
    pub captured_bytes: u64,
    /// `attempts_max` of one task.
    pub attempts: u32,
    /// `backoff_ms` and `backoff_ms_max` of one task.
    pub backoff_ms: u64,
    /// Bytes of one checkpoint.
    pub checkpoint_bytes: u64,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            module_bytes: 64 * MIB,
            payload_bytes: 64 * MIB,
            cpu_ms: 3_600_000,
            memory_bytes: 4096 * MIB,
            wall_ms: 86_400_000,
            output_bytes: 64 * MIB,
            captured_bytes: 256 * KIB,
            attempts: 100,
            backoff_ms: 86_400_000,
            checkpoint_bytes: 64 * MIB,
        }
    }
}
