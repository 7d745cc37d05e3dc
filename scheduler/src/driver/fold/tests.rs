use futures::FutureExt;
use wasmill_fabric::embedded;
use wasmill_protocol::command::{Command, ModuleRef, Overload, Refusal};
use wasmill_protocol::{FinalState, TaskId, TaskSpec, TenantName, Uptime};
use wasmill_record::event::{EndReason, Event};
use wasmill_scheduler_core::CoreConfig;

use super::*;
use crate::driver::{Driver, DriverConfig, SnapshotConfig};
use crate::handle::Handle;
use crate::read_model::ReadModel;

/// A fold of an empty log, and what it publishes to.
struct Fixture {
    fold: Fold,
    driver: Driver,
    handle: Handle,
    published: LogSeq,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fabric = embedded::open(dir.path()).unwrap();
        let config = DriverConfig {
            node: "node".to_owned(),
            core: CoreConfig::default(),
            snapshots: SnapshotConfig::default(),
            seed: 7,
        };
        let read_model = Arc::new(ReadModel::open(dir.path()).unwrap());
        let (driver, handle) = Driver::new(config, fabric, read_model);
        let Snapshot { chain, state, .. } = Snapshot::of_empty_log();
        let fold = Fold { state, chain, unusable: Vec::new(), end: LogSeq(0) };
        Self { fold, driver, handle, published: LogSeq(0), dir }
    }

    /// Takes in a record that follows from the one before by its chain.
    async fn take(&mut self, term: u64, bodies: Vec<EventBody>) -> Result<(), DriverError> {
        let events: Vec<_> =
            bodies.into_iter().map(|body| Event { at: wasmill_protocol::Timestamp(1), body }).collect();
        let version = Record::version_for(&events);
        let record = Record { version, term: Term(term), prev_hash: self.fold.chain.hash, events, decided: None };
        let seq = self.fold.chain.last.next();
        self.fold.take(seq, &record.encode(), self.handle.shared(), &mut self.published).await
    }
}

fn started(term: u64) -> EventBody {
    EventBody::TermStarted { term: Term(term), node: "other".to_owned(), passed_us: 0, uptime: Uptime::default() }
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
        let submitted =
            EventBody::TaskSubmitted { task, spec, fingerprint: Some(Digest::default()), edges: Vec::new() };
        fixture.take(1, vec![submitted, cancelled(task)]).await.unwrap();
    }
    let last = fixture.fold.chain.last;
    let expect = last.0 - keys_are_in_read_model_to(last).0;
    assert_eq!(fixture.fold.state.key_count() as u64, expect);
}

/// Another process writes to the read model's file, and does not stop until the guard is dropped: what is published piles up.
async fn stalled(fixture: &mut Fixture) -> rusqlite::Connection {
    let other = rusqlite::Connection::open(fixture.dir.path().join("read-model.sqlite")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let input = wasmill_protocol::Payload::inline(vec![b'x'; 30_000].into());
    let mut number = 0;
    while !fixture.handle.shared().read_model.lagging() {
        let submitted = (0..100).map(|_| {
            number += 1;
            let spec = Arc::new(TaskSpec { input: input.clone(), ..TaskSpec::default() });
            EventBody::TaskSubmitted {
                task: TaskId(uuid::Uuid::from_u128(number)),
                spec,
                fingerprint: None,
                edges: Vec::new(),
            }
        });
        fixture.take(1, submitted.collect()).await.unwrap();
    }
    other
}

#[tokio::test]
async fn f55_who_gives_up_taking_a_record_in_while_the_read_model_is_behind_takes_it_in_later() {
    let mut fixture = Fixture::new();
    fixture.take(1, vec![started(1)]).await.unwrap();
    let stall = stalled(&mut fixture).await;
    let (before, last) = (fixture.fold.state.clone(), fixture.fold.chain.last);
    // As an election does that is lost while it waits.
    assert!(fixture.take(2, vec![started(2)]).now_or_never().is_none(), "it waits for the read model");
    assert_eq!((&fixture.fold.state, fixture.fold.chain.last, fixture.published), (&before, last, last));
    stall.execute_batch("ROLLBACK").unwrap();
    fixture.take(2, vec![started(2)]).await.unwrap();
    fixture.take(3, vec![started(3)]).await.unwrap();
    assert_eq!((fixture.fold.state.term(), fixture.published), (Term(3), LogSeq(last.0 + 2)));
}

#[tokio::test]
async fn f55_only_submissions_wait_for_a_read_model_that_is_behind() {
    let mut fixture = Fixture::new();
    fixture.take(1, vec![started(1)]).await.unwrap();
    let stall = stalled(&mut fixture).await;
    let (tenant, task) = (TenantName::default(), TaskId::default());
    let submit = Command::Submit {
        task,
        module: ModuleRef::Digest(Digest::default()),
        spec: Arc::new(TaskSpec::default()),
        key: None,
        edges: Vec::new(),
    };
    let refused = fixture.handle.command(submit.clone()).await;
    assert!(matches!(refused, Err(Refusal::Overloaded { what: Overload::ReadModel, .. })), "{refused:?}");
    assert!(fixture.handle.commands(vec![submit]).now_or_never().is_none(), "a bulk submission waits");
    let others = [
        Command::Cancel { tenant: tenant.clone(), task, reason: None },
        Command::Prioritize { tenant: tenant.clone(), task, priority: 1 },
        Command::DrainHost { host: "h".into(), draining: true },
        Command::RemoveTenant { name: tenant.clone() },
        Command::RemoveToken { tenant, id: "t".into() },
    ];
    let count = others.len();
    for command in others {
        // Nobody answers here, so it goes on to wait; but it is in the queue.
        assert!(fixture.handle.command(command.clone()).now_or_never().is_none());
        assert!(fixture.handle.commands(vec![command]).now_or_never().is_none());
    }
    assert_eq!(fixture.driver.requests.len(), 2 * count);
    drop(stall);
}
