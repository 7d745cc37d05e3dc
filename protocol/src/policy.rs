//! What control nodes tell each other of policies.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;
use crate::time::Timestamp;

/// What a policy decides.
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
    /// What the policy decided.
    pub hook: PolicyHook,
    /// Its name.
    #[serde(default)]
    pub policy: String,
    /// What it failed of last.
    #[serde(default)]
    pub reason: String,
    /// Since when.
    #[serde(default)]
    pub at: Timestamp,
    /// What it is, whatever its name; zero for one that is built in.
    #[serde(default)]
    pub digest: Digest,
}
