use wasmill_fabric::embedded::Embedded;
use wasmill_protocol::event::{EndReason, Event};
use wasmill_protocol::{FinalState, TaskId, TaskSpec};
use wasmill_scheduler_core::CoreConfig;

use super::*;
use crate::driver::{Driver, DriverConfig, SnapshotConfig};
use crate::handle::Handle;
use crate::read_model::ReadModel;

/// A fold of an empty log, and what it publishes to.
struct Fixture {
    fold: Fold,
    handle: Handle,
    published: LogSeq,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fabric = Embedded::open(dir.path()).unwrap();
        let (log, blobs, bus, membership) = (fabric.log(), fabric.blobs(), fabric.bus(), fabric.membership());
        let config = DriverConfig {
            node: "node".to_owned(),
            core: CoreConfig::default(),
            snapshots: SnapshotConfig::default(),
            seed: 7,
        };
        let read_model = Arc::new(ReadModel::open(dir.path()).unwrap());
        let (_, handle) = Driver::new(config, Ground { log, blobs, bus, membership }, read_model);
        let Snapshot { chain, state, .. } = Snapshot::of_empty_log();
        let fold = Fold { state, chain, unusable: Vec::new(), end: LogSeq(0) };
        Self { fold, handle, published: LogSeq(0), _dir: dir }
    }

    /// Takes in a record that follows from the one before by its chain.
    async fn take(&mut self, term: u64, bodies: Vec<EventBody>) -> Result<(), DriverError> {
        let events: Vec<_> =
            bodies.into_iter().map(|body| Event { at: wasmill_protocol::Timestamp(1), body }).collect();
        let version = Record::version_for(&events);
        let record = Record { version, term: Term(term), prev_hash: self.fold.chain.hash, events };
        let seq = self.fold.chain.last.next();
        self.fold.take(seq, &record.encode(), self.handle.shared(), &mut self.published).await
    }
}

fn started(term: u64) -> EventBody {
    EventBody::TermStarted { term: Term(term), node: "other".to_owned() }
}

fn cancelled(task: TaskId) -> EventBody {
    EventBody::TaskEnded { task, state: FinalState::Cancelled, reason: EndReason::Cancelled { reason: None } }
}

#[tokio::test]
async fn f05_a_record_of_a_leader_whose_time_was_over_is_refused_before_it_changes_anything() {
    let mut fixture = Fixture::new();
    fixture.take(7, vec![started(7)]).await.unwrap();
    fixture.take(9, vec![started(9)]).await.unwrap();
    let before = fixture.fold.state.clone();
    // Nothing of it follows from what term 9 has: applied, it would be a broken invariant.
    let wrong = [(7, vec![cancelled(TaskId::default())], 7), (8, vec![started(8)], 8), (10, vec![], 10)];
    for (term, bodies, named) in wrong {
        let error = fixture.take(term, bodies).await.unwrap_err().to_string();
        let expect = format!("record 3 of the log is of term {named}, but term 9 had begun");
        assert!(error.starts_with(&expect), "{error}");
        assert_eq!(fixture.fold.state, before);
    }
    fixture.take(9, vec![]).await.unwrap();
}

#[tokio::test]
async fn a_node_that_follows_forgets_idempotency_keys_that_its_read_model_has() {
    let mut fixture = Fixture::new();
    fixture.take(1, vec![started(1)]).await.unwrap();
    for number in 0..5_000_u128 {
        let task = TaskId(uuid::Uuid::from_u128(number));
        let spec = Arc::new(TaskSpec { idempotency_key: Some(number.to_string()), ..TaskSpec::default() });
        let submitted = EventBody::TaskSubmitted { task, spec, fingerprint: Some(Digest::default()) };
        fixture.take(1, vec![submitted, cancelled(task)]).await.unwrap();
    }
    let last = fixture.fold.chain.last;
    let expect = last.0 - keys_are_in_read_model_to(last).0;
    assert_eq!(fixture.fold.state.key_count() as u64, expect);
}
