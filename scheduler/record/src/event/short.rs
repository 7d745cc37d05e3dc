//! Values of which most fields say nothing, written without those.
//!
//! Most of a record would be names of fields that are empty. A reader finds the default of a field
//! that is not there; so only what is empty is left out, and never a default that is a choice and
//! may change from one version to the next.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};
use wasmill_protocol::ids::{Digest, TenantName};
use wasmill_protocol::limits::Limits;
use wasmill_protocol::module::ModuleKind;
use wasmill_protocol::outcome::{Outcome, OutcomeKind, Usage};
use wasmill_protocol::payload::Payload;
use wasmill_protocol::task::{InputForm, RetryPolicy, TaskSpec};
use wasmill_protocol::time::Timestamp;

/// Writes the named fields that are not empty.
macro_rules! write_fields {
    ($serializer:ident, $name:literal, $($field:ident)+) => {{
        let count = 0 $(+ usize::from(!Field::is_empty($field)))+;
        let mut written = $serializer.serialize_struct($name, count)?;
        $(
            if !Field::is_empty($field) {
                written.serialize_field(stringify!($field), $field)?;
            }
        )+
        written.end()
    }};
}

/// Writes a task.
pub(super) fn spec<S: Serializer>(spec: &Arc<TaskSpec>, serializer: S) -> Result<S::Ok, S::Error> {
    #[rustfmt::skip]
    let TaskSpec {
        tenant, module, kind, input, input_form, name, description, labels, args, env, limits, priority, retry,
        not_before, expires_ms, idempotency_key, require, deterministic, seed, retry_of, trace, program, ok_exit,
    } = &**spec;
    write_fields!(serializer, "TaskSpec",
        tenant module kind input input_form name description labels args env limits priority retry
        not_before expires_ms idempotency_key require deterministic seed retry_of trace program ok_exit)
}

/// Writes how an attempt ended.
pub(super) fn outcome<S: Serializer>(outcome: &Arc<Outcome>, serializer: S) -> Result<S::Ok, S::Error> {
    let Outcome { kind, message, exit_code, trap, backtrace, progress } = &**outcome;
    write_fields!(serializer, "Outcome", kind message exit_code trap backtrace progress)
}

/// Writes what an attempt used.
pub(super) fn usage<S: Serializer>(usage: &Usage, serializer: S) -> Result<S::Ok, S::Error> {
    #[rustfmt::skip]
    let Usage {
        fuel, cpu_us, memory_peak_bytes, queue_us, run_us, input_bytes, output_bytes, cached, compile_us,
    } = usage;
    write_fields!(serializer, "Usage",
        fuel cpu_us memory_peak_bytes queue_us run_us input_bytes output_bytes cached compile_us)
}

/// A field that may say nothing.
trait Field: Serialize {
    /// Whether it is what a reader finds that does not find it.
    fn is_empty(&self) -> bool;
}

macro_rules! fields {
    ($($type:ty: $value:ident => $is_empty:expr;)+) => {
        $(impl Field for $type {
            fn is_empty(&self) -> bool {
                let $value = self;
                $is_empty
            }
        })+
    };
}

fields! {
    bool: value => !*value;
    i8: value => *value == 0;
    u64: value => *value == 0;
    String: value => value.is_empty();
    Timestamp: value => value.0 == 0;
    Payload: value => matches!(value, Payload::Empty);
    InputForm: value => matches!(value, InputForm::Bytes);
    BTreeMap<String, String>: value => value.is_empty();
    TenantName: _value => false;
    Digest: _value => false;
    ModuleKind: _value => false;
    OutcomeKind: _value => false;
    Limits: _value => false;
    RetryPolicy: _value => false;
}

impl<T: Serialize> Field for Vec<T> {
    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<T: Serialize> Field for Option<T> {
    fn is_empty(&self) -> bool {
        self.is_none()
    }
}

#[cfg(test)]
mod tests;
