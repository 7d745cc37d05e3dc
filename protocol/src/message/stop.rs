//! Attempts that are to be stopped, each with its cause, as they travel between versions.
//!
//! A host of a former version reads `cancel` alone: ids of attempts that it ends as cancelled. So
//! each attempt that may end so stands there, and `stop` adds the causes that such a host does not
//! know.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, Serializer};

use super::{Assignment, ToHost};
use crate::ids::{AttemptId, Incarnation, Term};

/// Why an attempt is to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopCause {
    /// Its task was cancelled.
    #[default]
    Cancelled,
    /// The tenant of its task was removed.
    TenantRemoved,
    /// It is not the current attempt of its task, or the leader knows neither.
    NotCurrent,
    /// A cause that a newer leader knows. The attempt is handed back, which costs its task nothing.
    #[serde(other)]
    Unknown,
}

impl StopCause {
    /// The stable name, as logs carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::TenantRemoved => "tenant_removed",
            Self::NotCurrent => "not_current",
            Self::Unknown => "unknown",
        }
    }

    /// For people: what the outcome of a stopped attempt says.
    pub fn message(self) -> &'static str {
        match self {
            Self::Cancelled => "stopped because it was asked to",
            Self::TenantRemoved => "stopped because its tenant was removed",
            Self::NotCurrent => "stopped because it is not the current attempt of its task",
            Self::Unknown => "stopped for a cause that this host does not know",
        }
    }

    /// Whether the attempt is handed back instead of ended: its task is tried again at no cost.
    pub fn hands_back(self) -> bool {
        match self {
            Self::Cancelled | Self::TenantRemoved | Self::NotCurrent => false,
            Self::Unknown => true,
        }
    }
}

/// A [`ToHost`] as it is written.
#[derive(Serialize)]
struct WrittenToHost<'a> {
    term: Term,
    incarnation: Incarnation,
    assign: &'a [Assignment],
    cancel: Vec<AttemptId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop: Vec<(AttemptId, StopCause)>,
}

/// A [`ToHost`] as it is read.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ReadToHost {
    term: Term,
    incarnation: Incarnation,
    assign: Vec<Assignment>,
    cancel: Vec<AttemptId>,
    stop: Vec<(AttemptId, StopCause)>,
}

impl Serialize for ToHost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { term, incarnation, assign, stop } = self;
        let cancel = stop.iter().filter(|(_, cause)| !cause.hands_back()).map(|(id, _)| *id).collect();
        let stop = stop.iter().filter(|(_, cause)| *cause != StopCause::default()).copied().collect();
        WrittenToHost { term: *term, incarnation: *incarnation, assign, cancel, stop }.serialize(serializer)
    }
}

impl From<ReadToHost> for ToHost {
    fn from(received: ReadToHost) -> Self {
        let ReadToHost { term, incarnation, assign, cancel, stop } = received;
        let causes: BTreeMap<_, _> = stop.iter().copied().collect();
        let mut seen = BTreeSet::new();
        let ids = cancel.into_iter().chain(stop.into_iter().map(|(id, _)| id)).filter(|id| seen.insert(*id));
        let stop = ids.map(|id| (id, causes.get(&id).copied().unwrap_or_default())).collect();
        Self { term, incarnation, assign, stop }
    }
}
