//! The result of a deterministic computation is given again without running it.

use std::sync::Arc;

use bytes::Bytes;
use wasmill_protocol::limits::INLINE_BYTES_MAX;
use wasmill_protocol::message::{Assignment, Report};
use wasmill_protocol::{Payload, TaskSpec, Timestamp, Usage};

use super::world::{Heard, Setup, World, id};

fn question(world: &World, number: u64, what: &str, tenant: &str) -> Assignment {
    let spec = TaskSpec {
        tenant: tenant.parse().unwrap(),
        module: world.module,
        input: Payload::inline(Bytes::copy_from_slice(what.as_bytes())),
        deterministic: true,
        seed: Some(1),
        ..TaskSpec::default()
    };
    Assignment { id: id(number), spec: Arc::new(spec), ..Assignment::default() }
}

/// Usage, result and captured text of an attempt that has ended.
fn end(heard: &Heard, number: u64) -> (Usage, Payload, Payload) {
    let Some(Report::Ended { usage, output, captured, .. }) = heard.end(number) else {
        panic!("{number} has not ended: {heard:?}")
    };
    (*usage, output.clone(), captured.clone())
}

async fn run(world: &World, assignment: Assignment) -> (Usage, Payload, Payload) {
    let asked = assignment.id;
    world.assign(vec![assignment]).await;
    let heard = world.until("it has ended", |heard| heard.reports.iter().any(|report| report.id() == asked)).await;
    end(&heard, asked.nonce.0)
}

#[tokio::test]
async fn what_was_computed_is_given_again_without_the_sandbox() {
    let world = Setup::new().start().await;
    let (usage, output, captured) = run(&world, question(&world, 1, "repeat 5", "a")).await;
    assert!(!usage.cached);
    let (again, same_output, same_captured) = run(&world, question(&world, 2, "repeat 5", "a")).await;
    assert_eq!((&same_output, &same_captured), (&output, &captured));
    assert_eq!(Usage { queue_us: 0, ..again }, Usage { cached: true, queue_us: 0, ..usage });

    // Another tenant, an earlier tenant of the same name, another payload: each is run.
    let (of_b, ..) = run(&world, question(&world, 3, "repeat 5", "b")).await;
    let renewed = Assignment { tenant_since: Timestamp(9), ..question(&world, 4, "repeat 5", "a") };
    let (of_renewed, ..) = run(&world, renewed).await;
    let (of_other, ..) = run(&world, question(&world, 5, "repeat 6", "a")).await;
    assert!(![of_b, of_renewed, of_other].iter().any(|usage| usage.cached));
    let heard = world.until("all are heard", |heard| heard.reports.len() >= 5).await;
    assert_eq!(heard.started, [1, 3, 4, 5].map(id));
    world.shut_down().await;
}

#[tokio::test]
async fn what_the_sandbox_does_not_vouch_for_is_run_again() {
    let world = Setup::new().start().await;
    for number in 1..=2 {
        let (usage, ..) = run(&world, question(&world, number, "echo text", "a")).await;
        assert!(!usage.cached);
    }
    world.shut_down().await;
}

#[tokio::test]
async fn a_large_result_is_stored_anew_each_time() {
    let world = Setup::new().start().await;
    let what = format!("repeat {}", INLINE_BYTES_MAX + 1);
    let (_, output, _) = run(&world, question(&world, 1, &what, "a")).await;
    let digest = output.blob().unwrap();
    // As the sweep does when nothing refers to it any more.
    world.setup.blobs.delete(digest).await.unwrap();
    let (usage, again, _) = run(&world, question(&world, 2, &what, "a")).await;
    assert!(usage.cached);
    assert_eq!(again, output);
    assert_eq!(world.setup.blobs.stat(digest).await.unwrap().bytes, INLINE_BYTES_MAX + 1);
    world.shut_down().await;
}

#[tokio::test]
async fn a_thousand_known_results_at_once_all_come_back() {
    const MANY: u64 = 1000;
    let world = Setup::new().start().await;
    run(&world, question(&world, 1, "repeat 5", "a")).await;
    world.assign((2..2 + MANY).map(|number| question(&world, number, "repeat 5", "a")).collect()).await;
    let heard = world.until("all have ended", |heard| heard.reports.len() as u64 > MANY).await;
    assert!((2..2 + MANY).all(|number| end(&heard, number).0.cached));
    assert_eq!(heard.started, [id(1)]);
    world.shut_down().await;
}
