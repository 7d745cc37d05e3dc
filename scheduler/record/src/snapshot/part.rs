//! The documents that a snapshot consists of.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::columns::TaskColumns;
use super::current::Current;
use super::led_time::LedTime;
use wasmill_protocol::ids::{AttemptId, Digest, HostId, Incarnation, LogSeq, TaskId, TenantName, Term};
use wasmill_protocol::module::{ModuleInfo, ModuleKind};
use wasmill_protocol::policy::BenchedRow;
use wasmill_protocol::task::{EdgeOn, RetryOn};
use wasmill_protocol::tenant::{Quotas, Tenant, Token};
use wasmill_protocol::time::Timestamp;

/// One part. The first is [`Part::Begin`], the last [`Part::End`]; [`Part::Places`] come before
/// what stands in them.
///
/// Numbers of places (`slot`, `shape`, `next`, …) are those of the state that was written down:
/// decisions depend on them where nothing else tells two tasks apart. Where there may be none, they
/// are counted from 1, and 0 is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// Which snapshot this is.
    Begin(BeginPart),
    /// Where the chain of records goes on.
    Chain(ChainPart),
    /// A tenant as the directory shows it.
    Directory(DirectoryPart),
    /// How many places there are of a kind, and which are vacant. Several of one kind add up.
    Places(SlabPlaces),
    /// A tenant as decisions need it.
    Tenant(TenantRow),
    /// Rules for retries that tasks share.
    #[serde(rename = "Patiences")]
    RetryRules(Vec<RetryRulesRow>),
    /// Shapes of tasks.
    Shapes(Vec<ShapeRow>),
    /// Lives of hosts that run something.
    Placements(Vec<PlacementRow>),
    /// Tasks that are not final.
    Tasks(Box<TaskColumns>),
    /// Attempts that were given up before they reported, oldest first.
    Superseded(Vec<SupersededRow>),
    /// Policies in whose place the built-in default decides.
    Benched(Vec<BenchedRow>),
    /// Hosts that an operator drains, whether they are there or not.
    Drained(Vec<HostId>),
    /// Edges between tasks that are not final.
    Edges(Vec<EdgeRow>),
    /// Tasks that are to be skipped.
    Skips(Vec<SkipRow>),
    /// The snapshots before this one.
    Current(Current),
    /// That was all.
    End {
        /// How many parts came before.
        parts: u64,
    },
}

/// See [`Part::Begin`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BeginPart {
    /// [`SNAPSHOT_VERSION`](super::SNAPSHOT_VERSION) of the writer.
    pub version: u32,
    /// The last record that is in here.
    pub seq: LogSeq,
    /// The term of the last leader.
    pub term: Term,
    /// The last leader.
    pub leader: String,
    /// The time of the last event.
    pub time: Timestamp,
    /// The number that the next tenant gets.
    pub tenant_next: u32,
    /// How long somebody has led.
    pub led: LedTime,
    /// The first task that waits for nothing more, and is to be queued or skipped; 0 is none.
    pub unblocked: u32,
}

/// See [`Part::Chain`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChainPart {
    /// SHA-256 of the encoded record that the snapshot ends with: the next one must name it.
    pub hash: Digest,
    /// Bytes of all records so far.
    pub log_bytes: u64,
}

/// See [`Part::Directory`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DirectoryPart {
    /// The tenant.
    pub tenant: Tenant,
    /// When it was created.
    pub created: Timestamp,
    /// Its tokens, each with the time of its creation.
    pub tokens: Vec<(Token, Timestamp)>,
    /// Its modules, each with the time of its upload.
    pub modules: Vec<(ModuleInfo, Timestamp)>,
    /// Its aliases.
    pub aliases: BTreeMap<String, Digest>,
}

/// The kinds of values in numbered places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub enum SlabKind {
    /// Tasks.
    #[default]
    Tasks,
    /// Shapes.
    Shapes,
    /// Rules for retries.
    #[serde(rename = "Patiences")]
    RetryRules,
    /// Placements.
    Placements,
    /// Edges.
    Edges,
}

/// See [`Part::Places`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SlabPlaces {
    /// Of which kind.
    pub of: SlabKind,
    /// How many there are, vacant ones included.
    pub count: u32,
    /// Vacant places, in the order in which they became vacant: the last is taken first.
    pub vacant: Vec<u32>,
}

/// See [`Part::Tenant`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantRow {
    /// Its number.
    pub number: u32,
    /// Its name.
    pub name: TenantName,
    /// Its share.
    pub weight: u32,
    /// Higher ones are served strictly first.
    pub class: i8,
    /// Its quotas.
    pub quotas: Quotas,
    /// Removed, but some of its tasks have not ended.
    pub removed: bool,
    /// Its modules.
    pub modules: Vec<TenantModule>,
    /// Its aliases.
    pub aliases: BTreeMap<String, Digest>,
    /// Its tokens by id, each with the hash of its text.
    pub tokens: BTreeMap<String, Digest>,
    /// Ids of those that may do everything.
    pub admins: BTreeSet<String>,
}

/// A module of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TenantModule {
    /// Names it.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
    /// How it is run.
    pub kind: ModuleKind,
}

/// How often a task is tried and how long it waits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryRulesRow {
    /// Its place.
    pub slot: u32,
    /// See [`RetryPolicy`](wasmill_protocol::task::RetryPolicy).
    pub attempts_max: u32,
    /// See [`RetryPolicy`](wasmill_protocol::task::RetryPolicy).
    pub backoff_ms: u64,
    /// See [`RetryPolicy`](wasmill_protocol::task::RetryPolicy).
    pub backoff_ms_max: u64,
    /// See [`RetryPolicy`](wasmill_protocol::task::RetryPolicy).
    pub on: RetryOn,
    /// The longest wait in the queue.
    pub expires_ms: Option<u64>,
}

/// The fields that tasks of a shape share, and where their lists begin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ShapeRow {
    /// Its place.
    pub slot: u32,
    /// Whose tasks.
    pub tenant: u32,
    /// Their priority.
    pub priority: i8,
    /// Their memory limit.
    pub memory_bytes: u64,
    /// Their module.
    pub module: Digest,
    /// Labels that their host must carry.
    pub require: BTreeMap<String, String>,
    /// The first task in the queue; 0 is none.
    pub queued: u32,
    /// The first task that waits; 0 is none.
    pub waiting: u32,
    /// Since when the longest wait in the queue lasts. Zero in what a former version has written.
    pub since: Timestamp,
}

/// One life of a host, and where the list of what it runs begins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PlacementRow {
    /// Its place.
    pub slot: u32,
    /// Which host.
    pub host: HostId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The first task that runs there; 0 is none.
    pub running: u32,
}

/// See [`Part::Superseded`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SupersededRow {
    /// Which attempt.
    pub id: AttemptId,
    /// It was recorded as late already, and only its turn to be forgotten is waited for.
    pub recorded: bool,
    /// The number of the tenant of its task. `None` when it was recorded, and in what a former
    /// version has written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<u32>,
}

/// See [`Part::Edges`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeRow {
    /// Its place.
    pub slot: u32,
    /// The place of the task that it leaves.
    pub from: u32,
    /// The place of the task that it leads to.
    pub to: u32,
    /// How the task that it leaves must end.
    pub on: EdgeOn,
    /// The place of the edge that leaves the same task next, counted from 1; 0 is none.
    pub leaving_next: u32,
    /// The place of the edge that leads to the same task next, counted from 1; 0 is none.
    pub leading_next: u32,
}

/// See [`Part::Skips`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SkipRow {
    /// The place of the task.
    pub slot: u32,
    /// The task that it has waited for, which did not end as its edge asks.
    pub predecessor: TaskId,
}
