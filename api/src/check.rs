//! The rules for submissions that go beyond types.

mod command;

use std::collections::BTreeMap;

use thiserror::Error;

use crate::catalog::is_alias;
use crate::submit::{LimitsAsked, SubmitTask};
use crate::tenant::{ChangeTenant, CreateTenant, CreateToken, QuotasChange};
use wasmill_protocol::ids::{Digest, is_name};
use wasmill_protocol::limits::Caps;

pub use command::{file_name, ok_exit, program};

/// Characters of `name` of a task and of a token.
pub const NAME_CHARS_MAX: usize = 256;
/// Characters of `description`.
pub const DESCRIPTION_CHARS_MAX: usize = 4096;
/// Entries of `labels`.
pub const LABELS_MAX: usize = 64;
/// Entries of `require`.
pub const REQUIRE_MAX: usize = 32;
/// Characters of the key of a label.
pub const LABEL_KEY_CHARS_MAX: usize = 63;
/// Characters of the value of a label.
pub const LABEL_VALUE_CHARS_MAX: usize = 256;
/// Entries of `args`, and of `env`.
pub const ARGS_MAX: usize = 256;
/// Bytes of all of `args`, and of all of `env`.
pub const ARGS_BYTES_MAX: usize = 32 * 1024;
/// Characters of `idempotency_key`.
pub const KEY_CHARS_MAX: usize = 128;
/// Characters of the reason of a cancellation.
pub const REASON_CHARS_MAX: usize = 1024;
/// The lowest and the highest priority.
pub const PRIORITY_MAX: i64 = 100;
/// The highest class of a tenant; the lowest is its negative.
pub const CLASS_MAX: i64 = 100;
/// The highest weight of a tenant.
pub const WEIGHT_MAX: u64 = 1000;
/// `delay_ms` and `expires_ms`: ten years.
pub const DELAY_MS_MAX: u64 = 10 * 365 * 86_400_000;

/// A field that is understood and refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{field}`: {detail}")]
pub struct FieldError {
    /// The kind of mistake.
    pub kind: FieldErrorKind,
    /// Which field, with dots between parts.
    pub field: String,
    /// The mistake, with values, and how to mend it.
    pub detail: String,
    /// The bound, when there is one.
    pub limit: Option<i64>,
}

/// The kind of mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// There is no such field.
    Unknown,
    /// It is required.
    Missing,
    /// It has a wrong form.
    Invalid,
    /// It is beyond a bound.
    OverLimit,
}

impl FieldError {
    /// A field of a wrong form.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind: FieldErrorKind::Invalid, field: field.into(), detail: detail.into(), limit: None }
    }

    /// A field beyond its upper bound.
    pub fn over(field: impl Into<String>, value: impl std::fmt::Display, limit: u64) -> Self {
        Self {
            kind: FieldErrorKind::OverLimit,
            field: field.into(),
            detail: format!("{value} is over the limit of {limit}"),
            limit: Some(i64::try_from(limit).unwrap_or(i64::MAX)),
        }
    }
}

type Checked = Result<(), FieldError>;

impl SubmitTask {
    /// Checks everything that needs neither the module nor the tenant.
    ///
    /// # Errors
    ///
    /// The first field that is wrong.
    pub fn check(&self, caps: &Caps) -> Checked {
        module_name(&self.module)?;
        one_of(&[
            ("input", self.input.is_some()),
            ("input_text", self.input_text.is_some()),
            ("input_base64", self.input_base64.is_some()),
        ])?;
        one_of(&[("not_before", self.not_before.is_some()), ("delay_ms", self.delay_ms.is_some())])?;
        text("name", self.name.as_deref(), NAME_CHARS_MAX)?;
        text("description", self.description.as_deref(), DESCRIPTION_CHARS_MAX)?;
        labels("labels", self.labels.as_ref(), LABELS_MAX)?;
        labels("require", self.require.as_ref(), REQUIRE_MAX)?;
        args(self.args.as_deref())?;
        environment(self.env.as_ref())?;
        program(self.program.as_deref())?;
        ok_exit(self.ok_exit.as_deref())?;
        self.limits.unwrap_or_default().check(caps)?;
        priority(self.priority)?;
        self.check_retries(caps)?;
        within("delay_ms", self.delay_ms, 0, DELAY_MS_MAX)?;
        within("expires_ms", self.expires_ms, 1, DELAY_MS_MAX)?;
        idempotency_key(self.idempotency_key.as_deref())?;
        if self.seed.is_some() && self.deterministic != Some(true) {
            return Err(FieldError::invalid("seed", "only goes with `deterministic: true`"));
        }
        Ok(())
    }

    fn check_retries(&self, caps: &Caps) -> Checked {
        within("attempts_max", self.attempts_max, 1, u64::from(caps.attempts))?;
        within("backoff_ms", self.backoff_ms, 0, caps.backoff_ms)?;
        within("backoff_ms_max", self.backoff_ms_max, 0, caps.backoff_ms)
    }
}

impl LimitsAsked {
    /// Checks every limit against its cap.
    ///
    /// # Errors
    ///
    /// The first limit that is zero or over its cap.
    pub fn check(&self, caps: &Caps) -> Checked {
        within("limits.cpu_ms", self.cpu_ms, 1, caps.cpu_ms)?;
        within("limits.fuel", self.fuel, 1, FUEL_MAX)?;
        within("limits.memory_bytes", self.memory_bytes, 1, caps.memory_bytes)?;
        within("limits.wall_ms", self.wall_ms, 1, caps.wall_ms)?;
        within("limits.output_bytes", self.output_bytes, 0, caps.output_bytes)
    }
}

/// `limits.fuel`: wasmtime counts in signed 64 bits.
pub const FUEL_MAX: u64 = i64::MAX as u64;

/// The bound of a numeric field, for messages about values that do not even fit a number.
pub fn limit_of(field: &str, caps: &Caps) -> Option<i64> {
    let limit = match field {
        "limits.cpu_ms" => caps.cpu_ms,
        "limits.fuel" => FUEL_MAX,
        "limits.memory_bytes" => caps.memory_bytes,
        "limits.wall_ms" => caps.wall_ms,
        "limits.output_bytes" => caps.output_bytes,
        "attempts_max" => u64::from(caps.attempts),
        "backoff_ms" | "backoff_ms_max" => caps.backoff_ms,
        "delay_ms" | "expires_ms" => DELAY_MS_MAX,
        "priority" => PRIORITY_MAX.unsigned_abs(),
        "class" => CLASS_MAX.unsigned_abs(),
        "weight" => WEIGHT_MAX,
        _ => return None,
    };
    i64::try_from(limit).ok()
}

impl CreateTenant {
    /// Checks name, weight, class and quotas.
    ///
    /// # Errors
    ///
    /// The first field that is wrong.
    pub fn check(&self) -> Checked {
        if !is_name(&self.name) {
            return Err(FieldError::invalid("name", NAME_RULE));
        }
        within("weight", self.weight, 1, WEIGHT_MAX)?;
        within_signed("class", self.class, CLASS_MAX)?;
        self.quotas.unwrap_or_default().check()
    }
}

impl ChangeTenant {
    /// Checks weight, class and quotas.
    ///
    /// # Errors
    ///
    /// The first field that is wrong.
    pub fn check(&self) -> Checked {
        within("weight", self.weight, 1, WEIGHT_MAX)?;
        within_signed("class", self.class, CLASS_MAX)?;
        self.quotas.unwrap_or_default().check()
    }
}

impl QuotasChange {
    fn check(&self) -> Checked {
        within("quotas.tasks_queued", self.tasks_queued.flatten(), 0, QUOTA_MAX)?;
        within("quotas.tasks_running", self.tasks_running.flatten(), 0, QUOTA_MAX)?;
        within("quotas.memory_bytes", self.memory_bytes.flatten(), 0, QUOTA_MAX)?;
        within("quotas.modules", self.modules.flatten(), 0, QUOTA_MAX)?;
        within("quotas.module_bytes", self.module_bytes.flatten(), 0, QUOTA_MAX)?;
        within("quotas.compile_ms_per_s", self.compile_ms_per_s.flatten(), 0, QUOTA_MAX)?;
        within("quotas.stored_bytes", self.stored_bytes.flatten(), 0, QUOTA_MAX)
    }
}

/// The highest quota: what every JSON library takes for a whole number.
pub const QUOTA_MAX: u64 = i64::MAX as u64;

impl CreateToken {
    /// Checks the name.
    ///
    /// # Errors
    ///
    /// When it is empty or too long.
    pub fn check(&self) -> Checked {
        if self.name.is_empty() {
            return Err(FieldError::invalid("name", "is empty: say what the token is for"));
        }
        text("name", Some(&self.name), NAME_CHARS_MAX)
    }
}

const NAME_RULE: &str =
    "is not a name: 1 to 63 of a-z, 0-9, `-`, `_`, `.` that begin with a letter or digit are expected";

/// Checks that `text` can name a module: a digest or an alias.
///
/// # Errors
///
/// When it is neither.
pub fn module_name(text: &str) -> Checked {
    if is_alias(text) || text.parse::<Digest>().is_ok() {
        return Ok(());
    }
    Err(FieldError::invalid(
        "module",
        "is neither a digest (`sha256:` and 64 lower-case hexadecimal digits) nor an alias (`name` or `name:version`)",
    ))
}

/// Checks a priority.
///
/// # Errors
///
/// When it is beyond -100 to 100.
pub fn priority(priority: Option<i64>) -> Checked {
    within_signed("priority", priority, PRIORITY_MAX)
}

/// Whether a number that may be negative is at most `max` either way.
fn within_signed(field: &str, value: Option<i64>, max: i64) -> Checked {
    let Some(value) = value.filter(|value| value.unsigned_abs() > max.unsigned_abs()) else { return Ok(()) };
    Err(FieldError {
        kind: FieldErrorKind::OverLimit,
        field: field.to_owned(),
        detail: format!("{value} is not within -{max} to {max}"),
        limit: Some(max * value.signum()),
    })
}

/// Checks an idempotency key.
///
/// # Errors
///
/// When it is empty, too long or has control characters.
pub fn idempotency_key(key: Option<&str>) -> Checked {
    if key == Some("") {
        return Err(FieldError::invalid("idempotency_key", "is empty: leave it out or give 1 to 128 characters"));
    }
    text("idempotency_key", key, KEY_CHARS_MAX)?;
    match key {
        Some(key) if key.chars().any(char::is_control) => {
            Err(FieldError::invalid("idempotency_key", "has control characters, which a header could not carry"))
        }
        _ => Ok(()),
    }
}

/// Checks the length of a text in characters.
///
/// # Errors
///
/// When it is over `chars_max`.
pub fn text(field: &str, text: Option<&str>, chars_max: usize) -> Checked {
    match text {
        // Fewer bytes cannot be more characters: the count is only made for texts near the bound.
        Some(text) if text.len() > chars_max && text.chars().count() > chars_max => {
            let detail = format!("has {} characters, over the limit of {chars_max}", text.chars().count());
            Err(FieldError { detail, ..FieldError::over(field, "", chars_max as u64) })
        }
        _ => Ok(()),
    }
}

/// Checks a number against its bounds, both inclusive.
///
/// # Errors
///
/// When it is outside.
pub fn within(field: &str, value: Option<u64>, min: u64, max: u64) -> Checked {
    match value {
        Some(value) if value > max => Err(FieldError::over(field, value, max)),
        Some(value) if value < min => Err(FieldError {
            limit: i64::try_from(max).ok(),
            ..FieldError::invalid(field, format!("{value} is too small: {min} to {max} is allowed"))
        }),
        _ => Ok(()),
    }
}

fn one_of(fields: &[(&str, bool)]) -> Checked {
    let mut given = fields.iter().filter(|(_, given)| *given).map(|(field, _)| *field);
    match (given.next(), given.next()) {
        (Some(first), Some(second)) => {
            Err(FieldError::invalid(second, format!("`{first}` is given too: only one of the two can be")))
        }
        _ => Ok(()),
    }
}

fn labels(field: &str, labels: Option<&BTreeMap<String, String>>, count_max: usize) -> Checked {
    let Some(labels) = labels else { return Ok(()) };
    count(field, labels.len(), count_max)?;
    for (key, value) in labels {
        let of = |key: &str| format!("{field}.{}", shortened(key));
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
        if key.is_empty() || key.len() > LABEL_KEY_CHARS_MAX || !key.chars().all(allowed) {
            let detail = "is not a label's key: 1 to 63 of A-Z, a-z, 0-9, `.`, `_`, `-`, `/` are expected";
            return Err(FieldError::invalid(of(key), detail));
        }
        text(&of(key), Some(value), LABEL_VALUE_CHARS_MAX)?;
    }
    Ok(())
}

/// Checks the arguments of a command.
///
/// # Errors
///
/// When there are too many, they are too long, or one has a zero byte.
pub fn args(args: Option<&[String]>) -> Checked {
    let Some(args) = args else { return Ok(()) };
    count("args", args.len(), ARGS_MAX)?;
    bytes("args", args.iter().map(String::len).sum())?;
    match args.iter().position(|arg| arg.contains('\0')) {
        Some(index) => Err(FieldError::invalid(format!("args[{index}]"), "has a zero byte")),
        None => Ok(()),
    }
}

fn environment(env: Option<&BTreeMap<String, String>>) -> Checked {
    let Some(env) = env else { return Ok(()) };
    count("env", env.len(), ARGS_MAX)?;
    bytes("env", env.iter().map(|(key, value)| key.len() + value.len()).sum())?;
    for (key, value) in env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            let field = format!("env.{}", shortened(key));
            return Err(FieldError::invalid(
                field,
                "is not a variable: names have no `=`, neither part has a zero byte",
            ));
        }
    }
    Ok(())
}

fn count(field: &str, count: usize, count_max: usize) -> Checked {
    if count <= count_max {
        return Ok(());
    }
    let detail = format!("has {count} entries, over the limit of {count_max}");
    Err(FieldError { detail, ..FieldError::over(field, "", count_max as u64) })
}

fn bytes(field: &str, bytes: usize) -> Checked {
    if bytes <= ARGS_BYTES_MAX {
        return Ok(());
    }
    let detail = format!("has {bytes} bytes in all, over the limit of {ARGS_BYTES_MAX}");
    Err(FieldError { detail, ..FieldError::over(field, "", ARGS_BYTES_MAX as u64) })
}

fn shortened(key: &str) -> String {
    key.chars().take(LABEL_KEY_CHARS_MAX).collect()
}
