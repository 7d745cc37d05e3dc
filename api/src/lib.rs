//! The documents of the HTTP interface: what clients send and what they are answered, in JSON.
//!
//! They are separate from the words of the log so that either can change without the other. The
//! server and the command line share them; [`check`] holds the rules that go beyond types.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use wasmill_protocol::time::{ParseTimestampError, Timestamp};

pub mod catalog;
pub mod check;
pub mod lines;
pub mod number;
pub mod object;
pub mod submit;
pub mod system;
pub mod task;
pub mod tenant;
pub mod texts;

pub use catalog::{AliasDoc, ModuleDoc, PutAlias};
pub use check::{FieldError, FieldErrorKind};
pub use submit::{LimitsAsked, SubmitTask};
pub use system::{BenchedDoc, HostDoc, QueueDoc, StatusDoc};
pub use task::{
    CancelTask, OutcomeDoc, PatchTask, ProgressDoc, SubmittedDoc, TaskDoc, TaskEventDoc, TaskEventsDoc, UsageDoc,
};
pub use tenant::{
    ChangeTenant, CreateTenant, CreateToken, QuotasChange, TenantDoc, TenantUsage, TokenCreated, TokenDoc,
};

/// The media type of [`Problem`].
pub const PROBLEM_JSON: &str = "application/problem+json";

/// The media type of a bulk submission and of its answer: one JSON document per line.
pub const NDJSON: &str = "application/x-ndjson";

/// A point in time as the interface writes it: RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime, examples("2026-03-01T12:00:00.000Z")))]
pub struct Time(pub Timestamp);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Time {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One page of a listing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Page<T> {
    /// The entries, at most as many as `limit` asked for.
    pub items: Vec<T>,
    /// Give it back as `cursor` for the next page; `null` at the end.
    #[cfg_attr(feature = "openapi", schema(required = true))]
    pub next: Option<String>,
}

/// A problem, after RFC 9457.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Problem {
    /// `urn:wasmill:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The meaning of the code, always the same for one code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// Stable: programs decide by it.
    pub code: String,
    /// This occurrence, with values, and what to do about it.
    pub detail: String,
    /// The field, parameter or header that is wrong, with dots between parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The task that this is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The cap or quota that was hit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// The line of a bulk submission, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
}
