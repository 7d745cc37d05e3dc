//! The agent: the thin shell around the host's decisions. It talks to the leader and to the fabric,
//! holds what credentials there are, and gives the sandbox nothing but
//! [`GuestRun`](crate::channel::Work).
//!
//! [`HostCore`](wasmill_host_core::HostCore) decides what to do; here it is only done:
//! messages are decoded and answered, blobs fetched and stored, reports sent, heartbeats published.
//! Nothing that can take long is waited for inside the loop (`agent/run.rs`); it runs beside it and
//! comes back as an event.

mod contact;
mod identity;
mod join;
mod modules;
mod readiness;
mod result_cache;
mod results;
mod run;
mod store_turns;
mod work;

use std::collections::BTreeMap;
use std::path::PathBuf;

use thiserror::Error;
use tokio::sync::oneshot;
use wasmill_protocol::limits::Caps;
use wasmill_protocol::message::HostInfo;

use crate::metrics::Metrics;

pub use identity::IdentityError;
pub use readiness::{Made, Readiness, Wanted};
pub use result_cache::ResultCacheBounds;
pub use run::{Agent, SandboxEnds};

/// Messages of the leader that wait to be read; each can hold many assignments.
pub const MESSAGES_WAITING_MAX: usize = 1024;

/// How many messages, and how much of what the sandbox says, is taken in before anything is sent:
/// larger batches, but not so large that one kind of event keeps the others waiting.
pub const EVENTS_AT_ONCE_MAX: usize = 256;

/// Attempts whose blobs are fetched at the same time, and how many of them for one tenant.
pub const FETCHES_MAX: usize = 8;
/// See [`FETCHES_MAX`].
pub const FETCHES_PER_TENANT_MAX: usize = 4;

/// Results and checkpoints that are stored as blobs at the same time, and how many of them for one
/// tenant. Others wait for their turn: at most one for each attempt, which keeps its slot and its
/// memory until then.
pub const STORES_MAX: usize = 16;
/// See [`STORES_MAX`].
pub const STORES_PER_TENANT_MAX: usize = 4;
/// Stores of more than [`LARGE_STORE_BYTES`]; of one tenant one after the other. The
/// disk and the cores that write them are everybody's.
pub const LARGE_STORES_MAX: usize = 4;
/// See [`LARGE_STORES_MAX`].
pub const LARGE_STORE_BYTES: u64 = 1024 * 1024;

/// Bytes of modules that are kept as files of our own, when the fabric does not have them as files.
pub const MODULE_COPIES_BYTES_MAX: u64 = 2 * 1024 * 1024 * 1024;

/// How long a host that shuts down waits after its grace for the sandbox to stop and the leader to
/// acknowledge, in milliseconds.
pub const GIVE_UP_MS: u64 = 5_000;

/// The settings of a host at its start.
#[derive(Debug)]
pub struct AgentConfig {
    /// Where the host keeps its id, its incarnation and its copies of modules; created if missing.
    pub data: PathBuf,
    /// Where the host can be reached, for people.
    pub address: String,
    /// Guests that run at the same time; at least 1.
    pub slots: u32,
    /// CPU cores for guests, for people and policies.
    pub cores: u32,
    /// Bytes of memory for guests: bounds the sum of `limits.memory_bytes` of what runs.
    pub memory_bytes: u64,
    /// Labels that tasks can require.
    pub labels: BTreeMap<String, String>,
    /// The caps of the installation; the agent needs the bounds of captured output, checkpoints and
    /// modules.
    pub caps: Caps,
    /// Results of deterministic tasks that are kept, to be given again.
    pub known: ResultCacheBounds,
    /// How long attempts may run on after the shutdown was asked for, in milliseconds;
    /// [`AgentConfig::DRAIN_GRACE_MS`] is usual.
    pub drain_grace_ms: u64,
    /// Where the host counts.
    pub metrics: Metrics,
    /// Told once, when the host is registered for the first time.
    pub ready: Option<oneshot::Sender<HostInfo>>,
}

impl AgentConfig {
    /// The usual [`AgentConfig::drain_grace_ms`].
    pub const DRAIN_GRACE_MS: u64 = 10_000;
}

/// The host cannot go on.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The configuration makes no sense.
    #[error("a host needs at least one slot")]
    NoSlots,
    /// Not even one report might fit into a message.
    #[error("the bus carries {bytes_max} bytes in a message: at least {bytes_min} are needed")]
    MessagesTooSmall {
        /// The largest message that it carries.
        bytes_max: u64,
        /// The size that is needed.
        bytes_min: u64,
    },
    /// The data directory cannot be used.
    #[error("cannot tell which host this is")]
    Identity(#[from] IdentityError),
    /// The random number generator of the operating system failed.
    #[error("cannot draw a random number: {reason}")]
    Random {
        /// The error of the system.
        reason: String,
    },
    /// Another process has become this host.
    #[error(
        "another process has become host `{}`, in its life {} at `{}`: give one of the two another `--id` and an empty data directory",
        by.id, by.incarnation, by.address
    )]
    Replaced {
        /// The facts that it is registered with.
        by: Box<HostInfo>,
    },
    /// The sandbox is gone, and with it all that ran.
    #[error("the sandbox has ended")]
    SandboxGone,
}

/// Random bits, for what must differ between hosts.
fn random() -> Result<u64, AgentError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| AgentError::Random { reason: error.to_string() })?;
    Ok(u64::from_le_bytes(bytes))
}
