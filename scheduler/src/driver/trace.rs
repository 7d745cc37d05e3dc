//! The spans of the driver: appending, telling hosts, and what came of an attempt.

use std::time::Duration;

use tracing::Span;
use tracing::field::Empty;
use wasmill_protocol::message::ToHost;
use wasmill_protocol::{HostId, LogSeq, TaskId, Timestamp, TraceParent};
use wasmill_record::event::{EndReason, Event, EventBody, Sequel};
use wasmill_trace::{KeyValue, TARGET};

use super::specs::SpecCache;

/// Traces that one append is linked to beyond the one that it is part of.
const LINKS_MAX: usize = 32;

/// What of the events of one record is part of traces. Empty when nobody records any.
#[derive(Default)]
pub(super) struct Traced {
    places: Vec<TraceParent>,
    ends: Vec<End>,
}

/// The end of an attempt or of a task, to be recorded once it is durable.
struct End {
    place: TraceParent,
    decided: Timestamp,
    attributes: Vec<KeyValue>,
}

impl Traced {
    /// Looks the events' tasks up, before `specs` forgets those that are final. A task that is not at hand is left out.
    pub(super) fn of(events: &[Event], specs: &SpecCache) -> Self {
        let mut traced = Self::default();
        if wasmill_trace::enabled() {
            events.iter().for_each(|event| traced.add(event, specs));
        }
        traced
    }

    fn add(&mut self, event: &Event, specs: &SpecCache) {
        let Some(task) = event.body.task() else { return };
        let place = match &event.body {
            EventBody::TaskSubmitted { spec, .. } => spec.trace,
            _ => specs.place_of(task),
        };
        let Some(place) = place else { return };
        self.places.push(place);
        if let Some(attributes) = attributes_of_end(task, &event.body) {
            self.ends.push(End { place, decided: event.at, attributes });
        }
    }

    /// An append, until it is durable: part of the trace of the first of its tasks, linked to those of the others.
    pub(super) fn append(&self, seq: LogSeq, events: usize, bytes: usize) -> Span {
        let Some((&first, others)) = self.places.split_first() else { return Span::none() };
        let span = tracing::info_span!(
            target: TARGET, "append",
            wasmill.log_seq = seq.0, wasmill.events = events, wasmill.bytes = bytes
        );
        let span = wasmill_trace::below(span, first);
        let others = others.iter().filter(|place| place.trace_id != first.trace_id);
        others.take(LINKS_MAX).for_each(|&other| wasmill_trace::link(&span, other));
        span
    }

    /// What was decided is durable.
    pub(super) fn durable(self, now: Timestamp) {
        for End { place, decided, attributes } in self.ends {
            wasmill_trace::past("result", place, Duration::from_micros(now.us_since(decided)), attributes);
        }
    }
}

/// What a `result` says; `None` for events that end nothing.
fn attributes_of_end(task: TaskId, body: &EventBody) -> Option<Vec<KeyValue>> {
    let task = KeyValue::new("wasmill.task", task.to_string());
    match body {
        EventBody::AttemptEnded { id, outcome, next, .. } => Some(vec![
            task,
            KeyValue::new("wasmill.attempt", i64::from(id.attempt.0)),
            KeyValue::new("wasmill.outcome", outcome.kind.as_str()),
            KeyValue::new("wasmill.next", next_name(*next)),
        ]),
        EventBody::TaskEnded { reason, .. } => {
            let reason = match reason {
                EndReason::Cancelled { .. } => "cancelled",
                EndReason::Expired => "expired",
                EndReason::TenantRemoved => "tenant_removed",
                EndReason::Skipped { .. } => "skipped",
            };
            Some(vec![task, KeyValue::new("wasmill.reason", reason)])
        }
        _ => None,
    }
}

fn next_name(next: Sequel) -> &'static str {
    match next {
        Sequel::Final { .. } => "final",
        Sequel::Retry { .. } => "retry",
        Sequel::Requeue => "requeue",
    }
}

/// A message with attempts, from here until its host has acknowledged it: a span for each attempt.
pub(super) fn dispatch(host: &HostId, message: &ToHost) -> Vec<Span> {
    if !wasmill_trace::enabled() {
        return Vec::new();
    }
    let traced = message.assign.iter().filter_map(|assignment| Some((assignment, assignment.spec.trace?)));
    let spans = traced.map(|(assignment, place)| {
        let (task, attempt) = (assignment.id.task, assignment.id.attempt.0);
        let span = tracing::info_span!(
            target: TARGET, parent: None, "dispatch",
            otel.status_code = Empty,
            wasmill.task = %task, wasmill.attempt = attempt, wasmill.host = %host
        );
        wasmill_trace::below(span, place)
    });
    spans.collect()
}

/// The host did not answer in time.
pub(super) fn unanswered(dispatches: &[Span]) {
    for span in dispatches {
        span.record("otel.status_code", "ERROR");
    }
}
