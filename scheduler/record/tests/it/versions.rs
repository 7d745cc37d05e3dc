//! Pairs of writers and readers of different versions: a newer writer adds fields, an older one
//! lacks them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wasmill_protocol::command::Done;
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::policy::PolicyHook;
use wasmill_protocol::task::{Edge, EdgeOn};
use wasmill_protocol::tenant::Token;
use wasmill_protocol::{
    Attempt, AttemptId, Digest, FinalState, HostId, Incarnation, LogSeq, Nonce, Outcome, Payload, TaskId, TaskSpec,
    Term, Timestamp, TraceParent, Uptime, Usage,
};
use wasmill_record::event::{EndReason, Event, EventBody, Sequel};
use wasmill_record::snapshot::{
    BeginPart, ChainPart, Current, DirectoryPart, EdgeRow, LedTime, Part, PartError, PlacementRow, ReadModelCopy,
    RetryRulesRow, SNAPSHOT_VERSION, ShapeRow, SkipRow, SlabKind, SlabPlaces, SnapshotRef, SupersededRow, TaskColumns,
    TaskPhase, TaskRow, TenantModule, TenantRow,
};
use wasmill_record::{Decided, RECORD_VERSION, Record, RecordError};

use crate::neighbour::check;

fn attempt() -> AttemptId {
    AttemptId { task: TaskId::default(), attempt: Attempt(2), nonce: Nonce(3) }
}

fn spec() -> TaskSpec {
    TaskSpec {
        input: Payload::Inline(Bytes::from_static(b"payload")),
        labels: BTreeMap::from([("team".to_owned(), "a".to_owned())]),
        idempotency_key: Some("key".to_owned()),
        not_before: Timestamp(5),
        program: Some("wc".to_owned()),
        ok_exit: vec![0, 1],
        trace: Some(TraceParent { trace_id: [1; 16], span_id: [2; 8], sampled: true }),
        ..TaskSpec::default()
    }
}

fn term_started() -> EventBody {
    let uptime = Uptime { boot: "b".to_owned(), us: 7 };
    EventBody::TermStarted { term: Term(1), node: "n1".to_owned(), passed_us: 5, uptime }
}

/// A snapshot's parts consist of these.
#[test]
fn snapshots_survive_one_version_in_both_directions() {
    let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    let named = BTreeMap::from([("app".to_owned(), Digest([1; 32]))]);
    let row = TaskRow { slot: 3, phase: TaskPhase::Queued, nonce: Nonce(7), next: 9, ..TaskRow::default() };
    let reference = SnapshotRef { seq: LogSeq(5), digest: Digest([2; 32]), bytes: 6, log_bytes: 7 };
    let copy = ReadModelCopy { seq: LogSeq(5), log_bytes: 8, at: Timestamp(9), ..ReadModelCopy::default() };
    let leader = "n1".to_owned();
    let mut led = LedTime::default();
    for (seq, at) in (1..).zip([Timestamp(3), Timestamp(900_000_000), Timestamp(4)]) {
        led.apply(LogSeq(seq), &Event { at, body: term_started() });
    }
    check(&led);
    check(&BeginPart {
        version: 1,
        seq: LogSeq(1),
        term: Term(2),
        leader,
        time: Timestamp(3),
        tenant_next: 4,
        led,
        unblocked: 5,
    });
    check(&ChainPart { hash: Digest([3; 32]), log_bytes: 5 });
    check(&DirectoryPart {
        created: Timestamp(1),
        tokens: vec![(Token { id: "t".to_owned(), ..Token::default() }, Timestamp(2))],
        modules: vec![(
            ModuleInfo {
                bytes: 3,
                name: Some("a.wasm".to_owned()),
                hints: vec!["h".to_owned()],
                ..ModuleInfo::default()
            },
            Timestamp(4),
        )],
        aliases: named.clone(),
        ..DirectoryPart::default()
    });
    check(&SlabPlaces { of: SlabKind::Shapes, count: 3, vacant: vec![2, 1] });
    check(&TenantModule { bytes: 2, ..TenantModule::default() });
    check(&TenantRow {
        number: 3,
        weight: 2,
        class: -4,
        aliases: named.clone(),
        tokens: named,
        ..TenantRow::default()
    });
    check(&RetryRulesRow { slot: 1, attempts_max: 2, expires_ms: Some(3), ..RetryRulesRow::default() });
    check(&ShapeRow { slot: 1, priority: -3, require: labels, queued: 2, ..ShapeRow::default() });
    check(&PlacementRow { slot: 1, host: HostId::from("h"), incarnation: Incarnation(2), running: 3 });
    check(&TaskColumns::pack(&[row]));
    check(&EdgeRow { slot: 1, from: 2, to: 3, on: EdgeOn::Failure, leaving_next: 4, leading_next: 5 });
    check(&SkipRow { slot: 1, predecessor: TaskId::default() });
    check(&SupersededRow { id: attempt(), recorded: true, tenant: None });
    check(&SupersededRow { id: attempt(), recorded: false, tenant: Some(7) });
    check(&reference);
    check(&copy);
    check(&Current { snapshots: vec![reference], read_model: Some(copy) });
}

#[test]
fn a_part_is_read_as_it_was_written_and_never_skipped() {
    let begin = Part::Begin(BeginPart { version: SNAPSHOT_VERSION, seq: LogSeq(1), ..BeginPart::default() });
    for part in [begin, Part::Tasks(Box::default()), Part::End { parts: 7 }] {
        assert_eq!(Part::decode(&part.encode()).unwrap(), part);
    }
    let newer = Part::Begin(BeginPart { version: SNAPSHOT_VERSION + 1, ..BeginPart::default() }).encode();
    assert!(matches!(Part::decode(&newer), Err(PartError::Version { version }) if version == SNAPSHOT_VERSION + 1));
    #[derive(Serialize)]
    enum Unknown {
        NeverHeardOf { tasks: u32 },
    }
    let unknown = rmp_serde::to_vec_named(&Unknown::NeverHeardOf { tasks: 1 }).unwrap();
    assert!(matches!(Part::decode(&unknown), Err(PartError::Decode(_))));
}

fn record(version: u32) -> Record {
    let submitted = EventBody::TaskSubmitted {
        task: TaskId::default(),
        spec: Arc::new(spec()),
        fingerprint: None,
        edges: Vec::new(),
    };
    let ended = EventBody::AttemptEnded {
        id: attempt(),
        outcome: Arc::new(Outcome::default()),
        usage: Usage::default(),
        output: Payload::Empty,
        captured: Payload::Empty,
        next: Sequel::Final { state: FinalState::Failed },
    };
    let events = [submitted, ended].map(|body| Event { at: Timestamp(1), body }).to_vec();
    Record { version, term: Term(1), prev_hash: Digest([1; 32]), events, decided: None }
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let written = record(RECORD_VERSION);
    assert_eq!(Record::decode(LogSeq(1), &written.encode()).unwrap(), written);
}

/// Records have named the commands that they decide since, and neither side needs it.
#[test]
fn a_record_that_names_commands_is_read_by_and_from_those_who_know_no_names() {
    #[derive(Debug, PartialEq, Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Older {
        version: u32,
        term: Term,
        prev_hash: Digest,
        events: Vec<Event>,
    }
    let done = vec![(0, Done::Created), (7, Done::Accepted { task: TaskId::default() })];
    let written = Record { decided: Some(vec![Decided { asker: 1, number: 2, done }]), ..record(1) };
    assert_eq!(Record::decode(LogSeq(1), &written.encode()).unwrap(), written);
    let Record { version, term, prev_hash, events, .. } = written.clone();
    let older = Older { version, term, prev_hash, events };
    assert_eq!(rmp_serde::from_slice::<Older>(&written.encode()).unwrap(), older);
    let of_older = rmp_serde::to_vec_named(&older).unwrap();
    assert_eq!(Record::decode(LogSeq(1), &of_older).unwrap(), Record { decided: None, ..written });
    assert_eq!(record(1).encode(), of_older, "and what names none is written as before");
}

/// A submission without edges is read as it was before there were any, whichever fields say nothing.
#[test]
fn a_submission_without_edges_is_read_by_and_from_those_who_know_none() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Older {
        TaskSubmitted { task: TaskId, spec: Arc<TaskSpec>, fingerprint: Option<Digest> },
    }
    let (task, spec) = (TaskId::default(), Arc::new(spec()));
    for spec in [spec, Arc::default()] {
        let older = Older::TaskSubmitted { task, spec: Arc::clone(&spec), fingerprint: None };
        let newer = EventBody::TaskSubmitted { task, spec, fingerprint: None, edges: Vec::new() };
        let of_newer = rmp_serde::to_vec_named(&newer).unwrap();
        assert_eq!(rmp_serde::from_slice::<Older>(&of_newer).unwrap(), older);
        let of_older = rmp_serde::to_vec_named(&older).unwrap();
        assert_eq!(rmp_serde::from_slice::<EventBody>(&of_older).unwrap(), newer);
    }
}

/// The beginning of a term has said more since, and neither side needs it.
#[test]
fn the_beginning_of_a_term_is_read_by_and_from_those_who_know_only_its_term() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Older {
        TermStarted { term: Term, node: String },
    }
    let older = Older::TermStarted { term: Term(1), node: "n1".to_owned() };
    let of_newer = rmp_serde::to_vec_named(&term_started()).unwrap();
    assert_eq!(rmp_serde::from_slice::<Older>(&of_newer).unwrap(), older);
    let read: EventBody = rmp_serde::from_slice(&rmp_serde::to_vec_named(&older).unwrap()).unwrap();
    let uptime = Uptime::default();
    assert_eq!(read, EventBody::TermStarted { term: Term(1), node: "n1".to_owned(), passed_us: 0, uptime });
}

#[test]
fn a_record_of_a_newer_version_is_refused_by_its_number() {
    let error = Record::decode(LogSeq(7), &record(RECORD_VERSION + 1).encode()).unwrap_err();
    assert!(matches!(error, RecordError::Version { seq: LogSeq(7), version } if version == RECORD_VERSION + 1));
}

/// Readers of each version know the events up to it, and a record says which of them it takes.
#[test]
fn a_record_asks_for_the_oldest_reader_that_understands_it() {
    let (policy, reason, digest) = ("mine".to_owned(), "trap".to_owned(), Digest([7; 32]));
    let benched = EventBody::PolicyBenched { hook: PolicyHook::Place, policy: policy.clone(), reason, digest };
    let lifted = EventBody::PolicyLifted { hook: PolicyHook::Place, policy, digest };
    let old = record(1).events;
    let mut new = old.clone();
    new.push(Event { at: Timestamp(2), body: benched });
    new.push(Event { at: Timestamp(3), body: lifted });
    assert_eq!(Record::version_for(&[]), 1);
    assert_eq!((Record::version_for(&old), Record::version_for(&new)), (1, 2));
    // A kind of version 1 that says something of version 2.
    let edges = vec![Edge { predecessor: TaskId::default(), on: EdgeOn::Any }];
    let blocked =
        EventBody::TaskSubmitted { task: TaskId::default(), spec: Arc::new(spec()), fingerprint: None, edges };
    let reason = EndReason::Skipped { predecessor: TaskId::default() };
    let skipped = EventBody::TaskEnded { task: TaskId::default(), state: FinalState::Skipped, reason };
    let of_edges = [blocked, skipped].map(|body| vec![Event { at: Timestamp(2), body }]);
    assert_eq!(of_edges.each_ref().map(|events| Record::version_for(events)), [2, 2]);
    for events in [old, new].into_iter().chain(of_edges) {
        let written = Record { version: Record::version_for(&events), events, ..record(0) };
        assert!(written.version <= RECORD_VERSION);
        assert_eq!(Record::decode(LogSeq(1), &written.encode()).unwrap(), written);
    }
}

#[test]
fn an_unknown_event_is_an_error_and_never_skipped() {
    #[derive(Serialize)]
    enum Body {
        NeverHeardOf { task: TaskId },
    }
    #[derive(Serialize)]
    struct Unknown {
        version: u32,
        events: Vec<(Timestamp, Body)>,
    }
    let body = Body::NeverHeardOf { task: TaskId::default() };
    let unknown = Unknown { version: RECORD_VERSION, events: vec![(Timestamp(1), body)] };
    let bytes = rmp_serde::to_vec_named(&unknown).unwrap();
    assert!(matches!(Record::decode(LogSeq(3), &bytes), Err(RecordError::Decode { seq: LogSeq(3), .. })));
}
