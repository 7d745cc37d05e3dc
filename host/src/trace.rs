//! The spans of a host: waiting for a slot, the attempt, compiling. None of them holds anything of
//! payloads or results.

use std::time::Duration;

use tracing::Span;
use tracing::field::Empty;
use wasmill_protocol::message::Assignment;
use wasmill_protocol::{Digest, OutcomeKind};
use wasmill_trace::{KeyValue, TARGET};

use crate::channel::{Ended, GuestRun};
use crate::engine::Profile;

/// An attempt starts: its task has waited until now, at the leader and here.
pub(crate) fn queued(assignment: &Assignment) {
    let Some(place) = assignment.spec.trace.filter(|_| wasmill_trace::enabled()) else { return };
    let attributes = [
        KeyValue::new("wasmill.task", assignment.id.task.to_string()),
        KeyValue::new("wasmill.attempt", i64::from(assignment.id.attempt.0)),
    ];
    wasmill_trace::past("queue", place, Duration::from_micros(assignment.queue_us), attributes);
}

/// The module of an attempt is made ready, from the waiting line to the loaded artifact.
pub(crate) fn prepare(assignment: &Assignment) -> Span {
    let Some(place) = assignment.spec.trace.filter(|_| wasmill_trace::enabled()) else { return Span::none() };
    let span = tracing::info_span!(
        target: TARGET, parent: None, "prepare",
        wasmill.task = %assignment.id.task, wasmill.attempt = assignment.id.attempt.0,
    );
    wasmill_trace::below(span, place)
}

/// An attempt in the sandbox, from its work to its end.
pub(crate) fn attempt(work: &GuestRun) -> Span {
    let Some(place) = work.trace.filter(|_| wasmill_trace::enabled()) else { return Span::none() };
    let span = tracing::info_span!(
        target: TARGET, parent: None, "attempt",
        otel.status_code = Empty, otel.status_description = Empty,
        wasmill.task = %work.id.task, wasmill.attempt = work.id.attempt.0, wasmill.module = %work.module,
        wasmill.outcome = Empty, wasmill.run_us = Empty, wasmill.cpu_us = Empty, wasmill.fuel = Empty,
        wasmill.memory_peak_bytes = Empty, wasmill.input_bytes = Empty, wasmill.output_bytes = Empty,
    );
    wasmill_trace::below(span, place)
}

/// The attempt of this span has ended.
pub(crate) fn ended(span: &Span, ended: &Ended) {
    if span.is_disabled() {
        return;
    }
    let (kind, usage) = (ended.outcome.kind, &ended.usage);
    span.record("wasmill.outcome", kind.as_str());
    span.record("wasmill.run_us", usage.run_us);
    span.record("wasmill.cpu_us", usage.cpu_us);
    span.record("wasmill.memory_peak_bytes", usage.memory_peak_bytes);
    span.record("wasmill.input_bytes", usage.input_bytes);
    span.record("wasmill.output_bytes", usage.output_bytes);
    if let Some(fuel) = usage.fuel {
        span.record("wasmill.fuel", fuel);
    }
    if kind != OutcomeKind::Succeeded {
        span.record("otel.status_code", "ERROR");
        // The kind and not the message, which is the guest's.
        span.record("otel.status_description", kind.as_str());
    }
}

/// A compilation, from the waiting line to the artifact, below whoever asked for it first.
pub(crate) fn compile(module: Digest, profile: Profile) -> Span {
    if !wasmill_trace::enabled() {
        return Span::none();
    }
    tracing::info_span!(
        target: TARGET, "compile",
        wasmill.module = %module, wasmill.profile = profile.as_str(), wasmill.waited_us = Empty, wasmill.accepted = Empty,
    )
}

/// The compilation whose span is entered has a slot after it waited.
pub(crate) fn compile_begins(waited: Duration) {
    Span::current().record("wasmill.waited_us", u64::try_from(waited.as_micros()).unwrap_or(u64::MAX));
}

/// The compilation whose span is entered has made an artifact, or not.
pub(crate) fn compile_ended(accepted: bool) {
    Span::current().record("wasmill.accepted", accepted);
}
