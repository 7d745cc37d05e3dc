//! Removals: old tasks, tenants, and blobs that are not referred to any more.

use std::time::Duration;

use wasmill_protocol::{Digest, FinalState, LogSeq, OutcomeKind, Payload, TaskSpec, TaskState};
use wasmill_record::event::{EventBody, Sequel};
use wasmill_record::snapshot::Expired;
use wasmill_scheduler::read_model::TaskFilter;

use crate::support::{
    Fed, STEP_US, attempt, blob, ended, ended_before, id, spec, started, submitted, succeeded, tenant,
};

fn keyed(tenant_name: &str, key: &str) -> TaskSpec {
    TaskSpec {
        idempotency_key: Some(key.into()),
        labels: [("kind".to_owned(), "old".to_owned())].into(),
        name: Some("named".into()),
        ..spec(tenant_name)
    }
}

async fn key(fed: &Fed, tenant_name: &str, key: &str) -> Option<u64> {
    let (found, checked_to) = fed.model.key(&tenant(tenant_name), key).await.unwrap();
    assert_eq!(checked_to.0, fed.records.len() as u64);
    found.map(|(task, fingerprint)| {
        let number = (1..100).find(|number| id(*number) == task).unwrap();
        assert_eq!(fingerprint, Digest([number as u8; 32]));
        number
    })
}

#[tokio::test]
async fn keys_name_their_task_in_memory_and_in_the_file() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, keyed("a", "k")), submitted(2, keyed("b", "k")), submitted(3, spec("a"))]);
    for fed in [fed.crash(), fed.reopen()] {
        assert_eq!(key(&fed, "a", "k").await, Some(1));
        assert_eq!(key(&fed, "b", "k").await, Some(2));
        assert_eq!(key(&fed, "a", "other").await, None);
        assert_eq!(key(&fed, "c", "k").await, None);
    }
}

#[tokio::test]
async fn c16_old_final_tasks_go_with_their_keys_and_labels() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, keyed("a", "one")), submitted(2, keyed("a", "two")), submitted(3, keyed("a", "three"))]);
    fed.feed([started(1, 1), started(2, 1)]);
    fed.feed([succeeded(1, 1)]);
    let first_end = fed.now();
    for _ in 0..10 {
        fed.feed([]);
    }
    fed.feed([succeeded(2, 1)]);
    fed.model.flush().await.unwrap();

    let retention = Duration::from_micros(5 * STEP_US);
    assert_eq!(fed.model.sweep(ended_before(first_end, retention)).await.unwrap(), 0);
    assert_eq!(fed.model.sweep(ended_before(first_end.plus_us(5 * STEP_US), retention)).await.unwrap(), 1);
    assert_eq!(fed.task("a", 1).await, None);
    assert_eq!(key(&fed, "a", "one").await, None);
    assert_eq!(key(&fed, "a", "two").await, Some(2));
    let labelled = TaskFilter { labels: vec![("kind".into(), "old".into())], ..TaskFilter::default() };
    let left: Vec<_> = fed.list("a", &labelled, 10).await.iter().map(|row| row.id).collect();
    assert_eq!(left, [id(3), id(2)]);

    // However old: a task that is not final stays.
    assert_eq!(fed.model.sweep(ended_before(fed.now().plus_ms(1_000_000), retention)).await.unwrap(), 1);
    assert!(fed.task("a", 3).await.is_some());

    // The key is free again; what then happens to the removed task does not come back.
    fed.feed([submitted(9, keyed("a", "one")), EventBody::ReportLate { id: attempt(1, 1), host: "h".into() }]);
    fed.model.flush().await.unwrap();
    assert_eq!(key(&fed, "a", "one").await, Some(9));
    assert_eq!(fed.task("a", 1).await, None);
}

#[tokio::test]
async fn a_reused_key_outlives_the_sweep_of_its_first_task() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, keyed("a", "k")), started(1, 1), succeeded(1, 1)]);
    fed.feed([submitted(2, keyed("a", "k"))]);
    fed.model.flush().await.unwrap();
    assert_eq!(fed.model.sweep(ended_before(fed.now(), Duration::ZERO)).await.unwrap(), 1);
    assert_eq!(key(&fed, "a", "k").await, Some(2));
}

#[tokio::test]
async fn a_sweep_of_many_tasks_removes_them_all() {
    let mut fed = Fed::new();
    for batch in 0..5 {
        let tasks = batch * 500 + 1..=batch * 500 + 500;
        fed.feed(tasks.flat_map(|number| [submitted(number, spec("a")), started(number, 1), succeeded(number, 1)]));
    }
    fed.feed([submitted(9_999, spec("a"))]);
    fed.model.flush().await.unwrap();
    assert_eq!(fed.model.sweep(ended_before(fed.now(), Duration::ZERO)).await.unwrap(), 2_500);
    assert_eq!(fed.list("a", &TaskFilter::default(), 100).await.len(), 1);
}

#[tokio::test]
async fn d12_a_removed_tenant_has_nothing_any_more() {
    let mut fed = Fed::new();
    let payload = TaskSpec { input: blob(1), ..keyed("gone", "k") };
    fed.feed([submitted(1, payload), submitted(2, keyed("stays", "k")), submitted(3, spec("gone"))]);
    fed.model.flush().await.unwrap();
    fed.feed([submitted(4, keyed("gone", "k4")), started(1, 1)]);
    let removed = EventBody::TenantRemoved { tenant: tenant("gone") };
    // The end of what ran then is recorded after the removal.
    let rest = ended(1, 1, OutcomeKind::Cancelled, Sequel::Final { state: FinalState::Cancelled });
    fed.feed([removed, rest.clone()]);
    fed.feed([rest]);
    for fed in [fed.crash(), fed.reopen()] {
        for _ in 0..2 {
            for number in [1, 3, 4] {
                assert_eq!(fed.task("gone", number).await, None);
            }
            assert_eq!(key(&fed, "gone", "k").await, None);
            assert_eq!(key(&fed, "gone", "k4").await, None);
            assert_eq!(fed.list("gone", &TaskFilter::default(), 10).await, []);
            assert_eq!(key(&fed, "stays", "k").await, Some(2));
            assert!(fed.task("stays", 2).await.is_some());
            fed.model.flush().await.unwrap();
        }
    }
}

#[tokio::test]
async fn d12_the_rows_of_a_removed_tenant_are_erased() {
    let mut fed = Fed::new();
    fed.feed((1..=3_000).map(|number| submitted(number, TaskSpec { input: blob(1), ..spec("gone") })));
    fed.model.flush().await.unwrap();
    assert!(fed.model.is_referenced(Digest([1; 32])).await.unwrap());
    fed.feed([EventBody::TenantRemoved { tenant: tenant("gone") }]);
    fed.model.flush().await.unwrap();
    // In small steps, so it takes a moment; a sweep waits its turn between them.
    while fed.model.is_referenced(Digest([1; 32])).await.unwrap() {
        fed.model.sweep(ended_before(fed.now(), Duration::ZERO)).await.unwrap();
    }
    let fed = fed.reopen();
    assert!(!fed.model.is_referenced(Digest([1; 32])).await.unwrap());
}

#[tokio::test]
async fn a_new_tenant_of_the_same_name_begins_empty() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, keyed("t", "k"))]);
    fed.model.flush().await.unwrap();
    let removed = EventBody::TenantRemoved { tenant: tenant("t") };
    fed.feed([removed.clone(), submitted(2, keyed("t", "k"))]);
    for fed in [fed.crash(), fed.rebuild()] {
        assert_eq!(fed.task("t", 1).await, None);
        assert_eq!(fed.task("t", 2).await.unwrap().state, TaskState::Queued);
        assert_eq!(key(&fed, "t", "k").await, Some(2));
        assert_eq!(fed.list("t", &TaskFilter::default(), 10).await.len(), 1);
    }
    fed.feed([submitted(3, keyed("t", "k3")), removed]);
    assert_eq!(key(&fed, "t", "k").await, None);
    assert_eq!(key(&fed, "t", "k3").await, None);
}

#[tokio::test]
async fn blobs_are_referred_to_until_their_last_task_lets_go() {
    let mut fed = Fed::new();
    let referenced = async |fed: &Fed, number: u8| fed.model.is_referenced(Digest([number; 32])).await.unwrap();
    let checkpoint = |number, data| EventBody::CheckpointSaved { id: attempt(number, 1), number: 1, data };
    let with_input = |number| submitted(number, TaskSpec { input: blob(1), ..spec("a") });
    fed.feed([with_input(1), with_input(2), started(1, 1), checkpoint(1, blob(2))]);
    assert!(referenced(&fed, 1).await);
    assert!(referenced(&fed, 2).await);
    assert!(!referenced(&fed, 3).await);

    // A newer checkpoint replaces the older one, and the end of the task both; a checkpoint that
    // equals the input takes nothing with it.
    fed.feed([checkpoint(1, blob(1))]);
    assert!(!referenced(&fed, 2).await);
    let mut end = succeeded(1, 1);
    if let EventBody::AttemptEnded { output, captured, .. } = &mut end {
        (*output, *captured) = (blob(4), blob(5));
    }
    fed.feed([end]);
    for expected in [1, 4, 5] {
        assert!(referenced(&fed, expected).await, "{expected}");
    }
    fed.model.sweep(ended_before(fed.now(), Duration::ZERO)).await.unwrap();
    assert!(referenced(&fed, 1).await, "the second task has it still");
    assert!(!referenced(&fed, 4).await);
    assert!(!referenced(&fed, 5).await);
    fed.feed([started(2, 1), ended(2, 1, OutcomeKind::Rejected, Sequel::Final { state: FinalState::Failed })]);
    fed.model.flush().await.unwrap();
    fed.model.sweep(ended_before(fed.now().plus_ms(1), Duration::ZERO)).await.unwrap();
    assert!(!referenced(&fed, 1).await);
    assert_eq!(Payload::Empty.blob(), None);
}

#[tokio::test]
async fn f52_what_ended_in_other_records_stays_whatever_its_time() {
    let mut fed = Fed::new();
    for number in 1..=3 {
        fed.feed([submitted(number, spec("a")), started(number, 1)]);
        fed.feed([succeeded(number, 1)]);
    }
    fed.model.flush().await.unwrap();
    let all = ended_before(fed.now().plus_ms(1_000_000), Duration::ZERO);
    let second = LogSeq(4);
    assert_eq!(fed.model.sweep(Expired { since: fed.now(), ..all }).await.unwrap(), 0);
    assert_eq!(fed.model.sweep(Expired { from: second, until: second.next(), ..all }).await.unwrap(), 1);
    assert_eq!(fed.model.sweep(Expired { until: second, ..all }).await.unwrap(), 1);
    assert_eq!(fed.model.sweep(Expired { from: second, ..all }).await.unwrap(), 1);
}
