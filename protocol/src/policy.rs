//! Policies in the messages between control nodes.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;
use crate::time::Timestamp;

/// A decision that policies make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyHook {
    /// Which tasks go first.
    Order,
    /// Which host they go to.
    Place,
}

impl PolicyHook {
    /// The stable name, as HTTP answers carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Place => "place",
        }
    }
}

/// A policy in whose place the default decides, as snapshots and overviews of a leader carry it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchedRow {
    /// The hook that the policy decided.
    pub hook: PolicyHook,
    /// Its name.
    #[serde(default)]
    pub policy: String,
    /// The reason of its last fault.
    #[serde(default)]
    pub reason: String,
    /// Since when.
    #[serde(default)]
    pub at: Timestamp,
    /// Its digest, whatever its name; zero for one that is built in.
    #[serde(default)]
    pub digest: Digest,
}
