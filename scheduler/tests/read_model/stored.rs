//! The part of their tenant's quota that tasks take, and blobs that nobody needs any more.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::FutureExt;
use wasmill_protocol::{Digest, OutcomeKind, Payload, TaskSpec, Timestamp};
use wasmill_record::event::{EventBody, Sequel};
use wasmill_scheduler::read_model::submission_bytes;

use crate::support::{Fed, attempt, blob, ended, ended_before, spec, started, submitted, succeeded, tenant};

fn saved(task: u64, number: u32, data: Payload) -> EventBody {
    EventBody::CheckpointSaved { id: attempt(task, 1), number, data }
}

fn stored(fed: &Fed, name: &str) -> u64 {
    fed.model.stored_bytes(&tenant(name))
}

/// The blobs that have become unneeded since this was last asked.
async fn unneeded(fed: &Fed) -> BTreeSet<u8> {
    fed.model.flush().await.unwrap();
    let blobs = fed.model.unneeded().now_or_never().unwrap_or_default();
    blobs.into_iter().map(|Digest(bytes)| bytes[0]).collect()
}

fn with_input(name: &str, input: Payload) -> TaskSpec {
    TaskSpec { input, ..spec(name) }
}

#[tokio::test]
async fn b39_what_was_submitted_counts_at_once() {
    let mut fed = Fed::new();
    let task = with_input("a", blob(1));
    fed.feed([submitted(1, task.clone()), submitted(2, task.clone())]);
    assert_eq!(stored(&fed, "a"), 2 * submission_bytes(&task));
    assert_eq!(stored(&fed, "b"), 0);
    fed.feed([EventBody::TenantRemoved { tenant: tenant("a") }, submitted(3, task.clone())]);
    assert_eq!(stored(&fed, "a"), submission_bytes(&task), "what a removed tenant had is not its successor's");
    fed.model.flush().await.unwrap();
    assert_eq!(stored(&fed, "a"), submission_bytes(&task));
    let fed = fed.reopen();
    assert_eq!(stored(&fed, "a"), submission_bytes(&task));
}

#[tokio::test]
async fn b39_a_checkpoint_counts_until_it_is_replaced_and_a_task_until_its_retention_is_over() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, spec("a")), started(1, 1)]);
    fed.model.flush().await.unwrap();
    let before = stored(&fed, "a");
    fed.feed([saved(1, 1, blob(1))]);
    fed.feed([saved(1, 2, blob(2)), saved(1, 3, blob(3))]);
    fed.model.flush().await.unwrap();
    assert_eq!(stored(&fed, "a"), before + 100_000 + 64);
    fed.feed([succeeded(1, 1)]);
    fed.model.flush().await.unwrap();
    assert!(stored(&fed, "a") < before + 1_000);
    fed.model.sweep(ended_before(fed.now(), Duration::ZERO)).await.unwrap();
    assert_eq!(stored(&fed, "a"), 0);
}

/// A file of an earlier version knows nothing of it.
#[tokio::test]
async fn f48_a_file_that_does_not_count_is_counted_when_it_is_opened() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, with_input("a", blob(1))), started(1, 1), saved(1, 1, blob(2)), submitted(2, spec("b"))]);
    fed.feed([submitted(3, TaskSpec { args: vec!["x".repeat(5_000)], ..spec("b") })]);
    fed.model.flush().await.unwrap();
    let counted = [stored(&fed, "a"), stored(&fed, "b")];
    let fed = fed.reopen_after(|file| file.execute_batch("DROP TABLE stored; DROP TABLE counting;").unwrap());
    assert_eq!([stored(&fed, "a"), stored(&fed, "b")], counted);
    let fed = fed.reopen_after(|file| {
        file.execute_batch("UPDATE stored SET bytes = 7; UPDATE counting SET version = 0;").unwrap()
    });
    assert_eq!([stored(&fed, "a"), stored(&fed, "b")], counted);
}

#[tokio::test]
async fn b39_a_blob_is_unneeded_once_nothing_refers_to_it() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, with_input("a", blob(9))), started(1, 1), saved(1, 1, blob(1))]);
    fed.feed([submitted(2, with_input("b", blob(2))), started(2, 1)]);
    assert_eq!(unneeded(&fed).await, [].into());
    // One after the other in one transaction: what was never written is told too. The last but one
    // is what another task has.
    fed.feed([saved(1, 2, blob(3)), saved(1, 3, blob(2)), saved(1, 4, blob(4)), saved(1, 5, blob(4))]);
    assert_eq!(unneeded(&fed).await, [1, 3].into());
    fed.feed([succeeded(1, 1), succeeded(2, 1)]);
    assert_eq!(unneeded(&fed).await, [4].into());
    fed.model.sweep(ended_before(fed.now(), Duration::ZERO)).await.unwrap();
    assert_eq!(unneeded(&fed).await, [2, 9].into());
}

/// The log of an attempt is there until the next one begins.
#[tokio::test]
async fn b39_logs_of_attempts_go_with_the_next_attempt() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, spec("a"))]);
    for number in 1..=20 {
        let EventBody::AttemptEnded { id, outcome, usage, output, next, .. } =
            ended(1, number, OutcomeKind::Errored, Sequel::Retry { not_before: Timestamp(1) })
        else {
            unreachable!("it was just made")
        };
        let captured = blob(number as u8);
        fed.feed([started(1, number), EventBody::AttemptEnded { id, outcome, usage, output, captured, next }]);
        let expected = if number == 1 { BTreeSet::new() } else { [number as u8 - 1].into() };
        assert_eq!(unneeded(&fed).await, expected);
    }
    assert!(stored(&fed, "a") < 105_000, "{}", stored(&fed, "a"));
}

#[tokio::test]
async fn b39_what_a_removed_tenant_had_is_unneeded() {
    let mut fed = Fed::new();
    fed.feed((1..=5).map(|number| submitted(number, with_input("a", blob(number as u8)))));
    fed.feed([EventBody::TenantRemoved { tenant: tenant("a") }]);
    fed.model.flush().await.unwrap();
    let mut found = BTreeSet::new();
    while found.len() < 5 {
        found.extend(fed.model.unneeded().await.into_iter().map(|Digest(bytes)| bytes[0]));
    }
    assert_eq!(found, (1..=5).collect());
}
