//! Pairs of writers and readers of different versions: a newer writer adds fields, an older one
//! lacks them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wasmill_protocol::message::{
    Assignment, FromHost, Heartbeat, HostAck, HostInfo, Report, ReportAck, StopCause, ToHost,
};
use wasmill_protocol::task::{Edge, EdgeOn};
use wasmill_protocol::{
    Attempt, AttemptId, Digest, HostId, Incarnation, Nonce, Outcome, OutcomeKind, Payload, TaskId, TaskSpec,
    TenantName, Term, Timestamp, TraceParent, Uptime, Usage,
};

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

#[test]
fn what_is_sent_survives_one_version_in_both_directions() {
    let ended = Report::Ended {
        id: attempt(),
        outcome: Arc::new(Outcome::new(OutcomeKind::Succeeded, "")),
        usage: Usage::default(),
        output: Payload::Blob { digest: Digest([7; 32]), bytes: 40_000 },
        captured: Payload::Empty,
    };
    check(&spec());
    check(&Outcome { exit_code: Some(3), ..Outcome::new(OutcomeKind::Errored, "exit") });
    check(&Usage { fuel: Some(1), cpu_us: 2, cached: true, ..Usage::default() });
    check(&ToHost { term: Term(1), stop: vec![(attempt(), StopCause::NotCurrent)], ..ToHost::default() });
    check(&Edge { on: EdgeOn::Any, ..Edge::default() });
    check(&Assignment { id: attempt(), spec: Arc::new(spec()), tenant_since: Timestamp(3), ..Assignment::default() });
    check(&Assignment { id: attempt(), compile_ms_per_s: Some(5), ..Assignment::default() });
    check(&Usage { compile_us: 7, ..Usage::default() });
    check(&ReportAck { term: Term(7) });
    check(&HostAck { term_seen: Some(Term(4)), refused: vec![attempt()] });
    check(&FromHost { host: HostId::from("a"), incarnation: Incarnation(1), reports: vec![ended] });
    check(&Heartbeat { host: HostId::from("a"), number: 9, partial: true, ..Heartbeat::default() });
    check(&Heartbeat { process: 70, ..Heartbeat::default() });
    check(&Heartbeat { memory_held: 1 << 30, modules_warm: Some(vec![Digest([3; 32])]), ..Heartbeat::default() });
    check(&Heartbeat { unready: 3, sated: vec![TenantName::default()], ..Heartbeat::default() });
    check(&Uptime { boot: "b".to_owned(), us: 7 });
    check(&HostInfo { cores: 2, process: u64::MAX, predecessor: 7, ..HostInfo::default() });
}

/// Stops have had a cause since. A host that knows none cancels, and hands nothing
/// back as cancelled.
#[test]
fn a_cause_to_stop_is_read_by_and_from_those_who_know_none() {
    #[derive(Debug, PartialEq, Default, Serialize, Deserialize)]
    #[serde(default)]
    struct Older {
        term: Term,
        incarnation: Incarnation,
        assign: Vec<Assignment>,
        cancel: Vec<AttemptId>,
    }
    /// With a cause of the future beside those of today.
    #[derive(Serialize)]
    struct Newer {
        cancel: Vec<AttemptId>,
        stop: Vec<(AttemptId, &'static str)>,
    }
    let id = |number| AttemptId { attempt: Attempt(number), ..attempt() };
    let causes = [StopCause::Cancelled, StopCause::TenantRemoved, StopCause::NotCurrent, StopCause::Unknown];
    let stop: Vec<_> = (1..).map(id).zip(causes).collect();
    let written = rmp_serde::to_vec_named(&ToHost { stop: stop.clone(), ..ToHost::default() }).unwrap();
    assert_eq!(rmp_serde::from_slice::<ToHost>(&written).unwrap().stop, stop);
    let older: Older = rmp_serde::from_slice(&written).unwrap();
    assert_eq!(older.cancel, [id(1), id(2), id(3)]);

    let of_older = rmp_serde::to_vec_named(&Older { cancel: vec![id(1), id(2)], ..Older::default() }).unwrap();
    let cancels = ToHost { stop: [1, 2].map(|number| (id(number), StopCause::Cancelled)).into(), ..ToHost::default() };
    assert_eq!(rmp_serde::from_slice::<ToHost>(&of_older).unwrap(), cancels);
    assert_eq!(rmp_serde::to_vec_named(&cancels).unwrap(), of_older, "and cancels are written as before");

    let newer = Newer { cancel: vec![id(2)], stop: vec![(id(1), "outshone"), (id(2), "tenant_removed")] };
    let read: ToHost = rmp_serde::from_slice(&rmp_serde::to_vec_named(&newer).unwrap()).unwrap();
    assert_eq!(read.stop, [(id(2), StopCause::TenantRemoved), (id(1), StopCause::Unknown)]);
}
