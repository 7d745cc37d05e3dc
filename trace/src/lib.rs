//! Spans that leave the process: what `tracing` and OpenTelemetry have to do with each other, for
//! those who open spans.
//!
//! A span is recorded when its target is [`TARGET`] and the process has installed a layer that
//! takes it; else opening one costs a look at an atomic. Within a process the parent is the span
//! that is entered. Between processes, and for what a task causes long after its submission, it is
//! the [`TraceParent`] that the task carries.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer as _,
};
use opentelemetry::{Context, global};
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use wasmill_protocol::TraceParent;

pub use opentelemetry::KeyValue;

/// The target of spans that are meant for traces, all of them at level `INFO`. Log lines have their
/// modules as targets.
pub const TARGET: &str = "otel";

/// The name of the tracer that all spans come from.
pub const TRACER: &str = "wasmill";

/// Whether spans of [`TARGET`] lead anywhere: to be asked before anything is computed for them
/// alone.
pub fn enabled() -> bool {
    tracing::span_enabled!(target: TARGET, Level::INFO)
}

/// Puts a span below `parent`, wherever it was opened. To be called before anything else is done
/// with the span.
pub fn below(span: Span, parent: TraceParent) -> Span {
    // It fails when nobody records spans, and then there is nothing to put anywhere.
    let _ = span.set_parent(context(parent));
    span
}

/// Where a span is, for those who are to be below it in another process or at another time; `None`
/// when it is not recorded.
pub fn place_of(span: &Span) -> Option<TraceParent> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    let span = context.span();
    let place = span.span_context();
    (place.is_valid() && place.is_sampled()).then(|| TraceParent {
        trace_id: place.trace_id().to_bytes(),
        span_id: place.span_id().to_bytes(),
        sampled: true,
    })
}

/// Says that a span has also to do with `other`.
pub fn link(span: &Span, other: TraceParent) {
    span.add_link(span_context(other));
}

/// Records what has just ended and was known only then: it took `took`.
pub fn past(name: &'static str, parent: TraceParent, took: Duration, attributes: impl IntoIterator<Item = KeyValue>) {
    let ended = SystemTime::now();
    let began = ended.checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
    let tracer = global::tracer(TRACER);
    let builder = tracer.span_builder(name).with_start_time(began).with_attributes(attributes);
    builder.start_with_context(&tracer, &context(parent)).end_with_timestamp(ended);
}

fn context(parent: TraceParent) -> Context {
    Context::new().with_remote_span_context(span_context(parent))
}

fn span_context(place: TraceParent) -> SpanContext {
    let flags = if place.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, span) = (TraceId::from_bytes(place.trace_id), SpanId::from_bytes(place.span_id));
    SpanContext::new(trace, span, flags, true, TraceState::default())
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{InMemorySpanExporter, Sampler, SdkTracerProvider, SpanData};
    use tracing::info_span;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    const PARENT: TraceParent = TraceParent { trace_id: [7; 16], span_id: [8; 8], sampled: true };

    /// The spans that `act` records.
    fn recorded(act: impl FnOnce()) -> Vec<SpanData> {
        let exporter = InMemorySpanExporter::default();
        let sampler = Sampler::ParentBased(Box::new(Sampler::AlwaysOff));
        let provider =
            SdkTracerProvider::builder().with_sampler(sampler).with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer(TRACER));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
        exporter.get_finished_spans().unwrap()
    }

    #[test]
    fn a_span_is_below_what_it_is_put_below() {
        let mut place = None;
        let spans = recorded(|| {
            let outer = below(info_span!(target: TARGET, "outer"), PARENT);
            place = place_of(&outer);
            let _entered = outer.enter();
            link(&info_span!(target: TARGET, "inner"), TraceParent { span_id: [9; 8], ..PARENT });
        });
        let [inner, outer] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!(outer.parent_span_id, SpanId::from_bytes(PARENT.span_id));
        assert_eq!(inner.parent_span_id, outer.span_context.span_id());
        assert_eq!(inner.links.links[0].span_context.span_id(), SpanId::from_bytes([9; 8]));
        let place = place.unwrap();
        assert_eq!((place.trace_id, place.span_id), (PARENT.trace_id, outer.span_context.span_id().to_bytes()));
    }

    #[test]
    fn what_is_not_recorded_is_nowhere() {
        assert!(!enabled());
        assert_eq!(place_of(&below(info_span!(target: TARGET, "nobody listens"), PARENT)), None);
        let spans = recorded(|| {
            assert!(enabled());
            let not_sampled = TraceParent { sampled: false, ..PARENT };
            assert_eq!(place_of(&below(info_span!(target: TARGET, "a"), not_sampled)), None);
            assert_eq!(place_of(&info_span!(target: TARGET, "not among those that the sampler takes")), None);
        });
        assert!(spans.is_empty(), "{spans:?}");
    }
}
