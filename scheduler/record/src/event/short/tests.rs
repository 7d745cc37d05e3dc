use bytes::Bytes;
use proptest::prelude::*;
use wasmill_protocol::ids::{Attempt, AttemptId, Nonce, TaskId};
use wasmill_protocol::message::Progress;
use wasmill_protocol::outcome::TrapCode;
use wasmill_protocol::task::FinalState;
use wasmill_protocol::trace::TraceParent;

use super::*;
use crate::event::{EventBody, Sequel};

fn texts() -> BTreeMap<String, String> {
    BTreeMap::from([("key".to_owned(), "value".to_owned())])
}

/// Every field is set to something that is not empty.
fn full_spec() -> TaskSpec {
    TaskSpec {
        tenant: "a".parse().unwrap(),
        module: Digest([1; 32]),
        kind: ModuleKind::Command,
        input: Payload::Inline(Bytes::from_static(b"in")),
        input_form: InputForm::Json,
        name: Some("name".to_owned()),
        description: Some(String::new()),
        labels: texts(),
        args: vec!["arg".to_owned()],
        env: texts(),
        limits: Limits { cpu_ms: 1, fuel: Some(2), memory_bytes: 3, wall_ms: 4, output_bytes: 5 },
        priority: -7,
        retry: RetryPolicy { attempts_max: 9, ..RetryPolicy::default() },
        not_before: Timestamp(5),
        expires_ms: Some(0),
        idempotency_key: Some("key".to_owned()),
        require: texts(),
        deterministic: true,
        seed: Some(0),
        retry_of: Some(TaskId::default()),
        trace: Some(TraceParent { trace_id: [1; 16], span_id: [2; 8], sampled: true }),
        program: Some("wc".to_owned()),
        ok_exit: vec![0, 1],
    }
}

fn full_outcome() -> Outcome {
    Outcome {
        kind: OutcomeKind::Trapped,
        message: "unreachable".to_owned(),
        exit_code: Some(0),
        trap: Some(TrapCode::Unreachable),
        backtrace: vec!["frame".to_owned()],
        progress: Some(Progress { done: 1, total: 2, message: String::new() }),
    }
}

fn full_usage() -> Usage {
    Usage {
        fuel: Some(0),
        cpu_us: 1,
        memory_peak_bytes: 2,
        queue_us: 3,
        run_us: 4,
        input_bytes: 5,
        output_bytes: 6,
        cached: true,
        compile_us: 7,
    }
}

fn submitted(spec: TaskSpec) -> EventBody {
    EventBody::TaskSubmitted { task: TaskId::default(), spec: Arc::new(spec), fingerprint: None, edges: Vec::new() }
}

fn ended(outcome: Outcome, usage: Usage) -> EventBody {
    EventBody::AttemptEnded {
        id: AttemptId { task: TaskId::default(), attempt: Attempt(1), nonce: Nonce(2) },
        outcome: Arc::new(outcome),
        usage,
        output: Payload::Empty,
        captured: Payload::Empty,
        next: Sequel::Final { state: FinalState::Succeeded },
    }
}

/// The bytes of an event, which must be read as the event.
fn check(body: &EventBody) -> usize {
    let bytes = rmp_serde::to_vec_named(body).unwrap();
    assert_eq!(&rmp_serde::from_slice::<EventBody>(&bytes).unwrap(), body);
    bytes.len()
}

#[test]
fn every_field_is_written_that_says_something() {
    check(&submitted(full_spec()));
    check(&ended(full_outcome(), full_usage()));
}

#[test]
fn what_is_empty_takes_nothing() {
    let plain = TaskSpec { limits: Limits::default(), ..TaskSpec::default() };
    let long = rmp_serde::to_vec_named(&plain).unwrap().len();
    let short = check(&submitted(plain));
    assert!(short * 3 < long * 2, "{short} bytes and not {long}");
    let usage = Usage { cpu_us: 1, ..Usage::default() };
    let long = rmp_serde::to_vec_named(&(Outcome::default(), &usage)).unwrap().len();
    let short = check(&ended(Outcome::default(), usage));
    assert!(short < 200 && short < long + 100, "{short} bytes");
}

/// A default that is a choice may change: then records that were written before must not change with it.
#[test]
fn defaults_that_are_choices_are_written() {
    let bytes = rmp_serde::to_vec_named(&submitted(TaskSpec::default())).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    for name in ["tenant", "module", "kind", "cpu_ms", "attempts_max", "backoff_ms_max"] {
        assert!(text.contains(name), "{name}");
    }
}

proptest! {
    /// Whatever the fields are, one by one.
    #[test]
    fn an_event_is_read_as_it_was_written(set in prop::collection::vec(any::<bool>(), 23)) {
        let (full, mut spec) = (full_spec(), TaskSpec::default());
        macro_rules! choose {
            ($($index:literal $field:ident)+) => { $(if set[$index] { spec.$field = full.$field.clone(); })+ };
        }
        choose!(0 tenant 1 module 2 kind 3 input 4 input_form 5 name 6 description 7 labels 8 args 9 env 10 limits
            11 priority 12 retry 13 not_before 14 expires_ms 15 idempotency_key 16 require 17 deterministic 18 seed
            19 retry_of 20 trace 21 program 22 ok_exit);
        check(&submitted(spec));
    }
}
