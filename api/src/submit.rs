//! A task as it is submitted.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::{Time, number, object, texts};

/// A task as it is submitted; only `module` is required.
///
/// At most one of `input`, `input_text` and `input_base64`, and of `not_before` and `delay_ms`;
/// `seed` only with `deterministic`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SubmitTask {
    /// A digest (`sha256:…`) or an alias.
    #[cfg_attr(feature = "openapi", schema(examples("resize:v3"), min_length = 1, max_length = 127))]
    pub module: String,
    /// The payload as any JSON value; the guest gets its text as it was written here.
    #[cfg_attr(feature = "openapi", schema(value_type = serde_json::Value))]
    #[serde(default, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    pub input: Option<Box<RawValue>>,
    /// The payload as text; the guest gets it in UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_text: Option<String>,
    /// The payload as bytes, in base64 with the standard alphabet.
    #[cfg_attr(feature = "openapi", schema(content_encoding = "base64"))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_base64: Option<String>,
    /// For people and filters.
    #[cfg_attr(feature = "openapi", schema(max_length = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For people.
    #[cfg_attr(feature = "openapi", schema(max_length = 4096))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// For people and filters.
    #[serde(default, deserialize_with = "texts::optional", skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Arguments of a command, without the program name.
    #[cfg_attr(feature = "openapi", schema(max_items = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Environment of a command.
    #[serde(default, deserialize_with = "texts::optional", skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// The name that a command finds as its own (`argv[0]`). Without it: the alias that was used as
    /// `module`, else the name of the file at its upload, else `module`.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// Exit codes of a command that are success; `[0]` without it. Each at most once.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Vec<u8>>, min_items = 1, max_items = 256))]
    #[serde(default, deserialize_with = "number::optional_list", skip_serializing_if = "Option::is_none")]
    pub ok_exit: Option<Vec<u64>>,
    /// The resources that each attempt may use.
    #[serde(default, deserialize_with = "object::optional", skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsAsked>,
    /// Higher first, among the tasks of its tenant.
    #[cfg_attr(feature = "openapi", schema(minimum = -100, maximum = 100))]
    #[serde(default, deserialize_with = "number::optional_signed", skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// Attempts in all. Without it: 3, and only failures that the guest reports itself are tried
    /// again; with it, traps and exceeded limits are tried again too.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    #[serde(default, deserialize_with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub attempts_max: Option<u64>,
    /// The bound of the first random delay between attempts.
    #[serde(default, deserialize_with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub backoff_ms: Option<u64>,
    /// The bound that later delays grow to.
    #[serde(default, deserialize_with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub backoff_ms_max: Option<u64>,
    /// Not started before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// Not started before this much time has passed.
    #[serde(default, deserialize_with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// The longest wait in the queue; then the task is `failed` with reason `expired`.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    #[serde(default, deserialize_with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// Repeating a submission with the same key gives the same task; as the header
    /// `Idempotency-Key`.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 128))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// Only hosts that carry all these labels.
    #[serde(default, deserialize_with = "texts::optional", skip_serializing_if = "Option::is_none")]
    pub require: Option<BTreeMap<String, String>>,
    /// Seeded randomness, a frozen clock, canonical NaNs: the same bytes come out every time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deterministic: Option<bool>,
    /// Seed of `deterministic`, as a number or as its digits in text; derived from the task's id
    /// when absent. A client that holds numbers as doubles, as JavaScript does, writes seeds above
    /// 2^53 as text.
    #[serde(default, deserialize_with = "number::optional_or_text", skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
}

/// The resources that each attempt may use; what is absent has its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct LimitsAsked {
    /// CPU time in milliseconds.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    #[serde(default, deserialize_with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub cpu_ms: Option<u64>,
    /// Fuel in wasmtime's units, exact; absent is unlimited.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    #[serde(default, deserialize_with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// Bytes of all memories and tables together.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    #[serde(default, deserialize_with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Milliseconds from the start of the attempt to its end.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    #[serde(default, deserialize_with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// The largest result in bytes.
    #[serde(default, deserialize_with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
}

/// `null` is a payload like any other, where `Option` alone would read it as none.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}
