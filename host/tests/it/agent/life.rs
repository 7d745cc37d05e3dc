//! Messages, attempts, reports, heartbeats.

use std::collections::BTreeSet;

use bytes::Bytes;
use wasmill_host::agent::AgentError;
use wasmill_host::channel::{FromSandbox, StopReason};
use wasmill_protocol::message::{HostAck, Progress, Report, ToHost};
use wasmill_protocol::{OutcomeKind, Payload, Term};

use super::world::{Setup, id, patiently};

#[tokio::test]
async fn an_attempt_is_run_reported_and_forgotten() {
    let world = Setup::new().start().await;
    world.assign(vec![world.assignment(1, "echo hello")]).await;
    let heard = world.until("the end of 1", |heard| heard.end(1).is_some()).await;
    let Some(Report::Ended { output, usage, outcome, .. }) = heard.end(1) else { panic!("{heard:?}") };
    assert_eq!((outcome.kind, output), (OutcomeKind::Succeeded, &Payload::Inline(Bytes::from_static(b"hello"))));
    assert_eq!((usage.cpu_us, usage.run_us), (5, 9));
    assert_eq!((&heard.senders[0].host, heard.senders[0].incarnation), (&world.info.id, world.info.incarnation));
    let beat = world.until("a heartbeat without it", |heard| {
        heard.heartbeat.as_ref().is_some_and(|beat| beat.number > 1 && beat.attempts.is_empty())
    });
    let beat = beat.await.heartbeat.unwrap();
    assert_eq!((beat.slots, beat.labels["gpu"].as_str(), beat.draining), (4, "1", false));
    world.shut_down().await;
}

#[tokio::test]
async fn thousands_flow_through_narrow_channels_and_each_is_reported_once() {
    let world = Setup { channel_capacity: 2, ..Setup::new() }.start().await;
    const COUNT: u64 = 5_000;
    for first in (1..=COUNT).step_by(500) {
        let assign = (first..first + 500).map(|number| world.assignment(number, "echo x")).collect();
        world.assign(assign).await;
        world.until("all ends but those of the last message", |heard| heard.reports.len() as u64 >= first - 1).await;
    }
    let heard = world.until("all ends", |heard| heard.reports.len() as u64 >= COUNT).await;
    let ids: BTreeSet<_> = heard.reports.iter().map(Report::id).collect();
    assert_eq!((heard.reports.len() as u64, ids.len() as u64, heard.started.len() as u64), (COUNT, COUNT, COUNT));
    world.shut_down().await;
}

#[tokio::test]
async fn reports_are_sent_again_until_they_are_answered() {
    let world = Setup { unanswered: 2, ..Setup::new() }.start().await;
    world.assign(vec![world.assignment(1, "echo x")]).await;
    let heard = world.until("three reports", |heard| heard.reports.len() == 3).await;
    assert_eq!(heard.reports[0], heard.reports[2]);
    assert_eq!(heard.started.len(), 1);
    // A duplicate of what was acknowledged runs no more, so the next report is of another one.
    world.assign(vec![world.assignment(1, "echo x"), world.assignment(2, "echo y")]).await;
    let heard = world.until("the end of 2", |heard| heard.end(2).is_some()).await;
    assert_eq!((heard.reports.len(), heard.started.len()), (4, 2));
    world.shut_down().await;
}

#[tokio::test]
async fn cancel_reaches_the_sandbox() {
    let world = Setup::new().start().await;
    world.assign(vec![world.assignment(1, "hold"), world.assignment(2, "hold")]).await;
    world.until("both run", |heard| heard.started.len() == 2).await;
    let progress = Progress { done: 1, total: 2, message: "half".into() };
    world.sandbox.say(FromSandbox::Progress(id(2), progress.clone())).await;
    world.cancel(1).await;
    let heard = world.until("the end of 1", |heard| heard.end(1).is_some()).await;
    assert_eq!(heard.kind(1), Some(OutcomeKind::Cancelled));
    assert_eq!(heard.stopped, [(id(1), StopReason::Asked)]);
    let beat = world.until("progress", |heard| heard.heartbeat.as_ref().is_some_and(|beat| !beat.progress.is_empty()));
    assert_eq!(beat.await.heartbeat.unwrap().progress, [(id(2), progress)]);
    world.cancel(2).await;
    world.until("the end of 2", |heard| heard.end(2).is_some()).await;
    world.shut_down().await;
}

#[tokio::test]
async fn a_stale_leader_and_one_who_means_another_life_are_refused() {
    let world = Setup::new().start().await;
    let message = |term, incarnation| ToHost {
        term: Term(term),
        incarnation,
        assign: vec![world.assignment(1, "echo x")],
        stop: Vec::new(),
    };
    let later = world.info.incarnation.next();
    assert_eq!(world.send(message(5, later)).await, Some(HostAck { term_seen: None, refused: vec![id(1)] }));
    let stale = world.send(message(4, world.info.incarnation)).await;
    assert_eq!(stale, Some(HostAck { term_seen: Some(Term(5)), refused: vec![] }));
    world.shut_down().await;
}

#[tokio::test]
async fn what_is_no_message_is_not_answered_and_does_no_harm() {
    let world = Setup::new().start().await;
    for garbage in [&b""[..], b"\xc1", b"\x93\x01\x02\x03", &[0xdf, 0xff, 0xff, 0xff, 0xff]] {
        assert_eq!(world.send_bytes(Bytes::copy_from_slice(garbage)).await, None);
    }
    world.assign(vec![world.assignment(1, "echo x")]).await;
    world.until("the end of 1", |heard| heard.end(1).is_some()).await;
    world.shut_down().await;
}

#[tokio::test]
async fn a_host_keeps_its_id_and_begins_a_new_life() {
    let world = Setup::new().start().await;
    let first = world.info.clone();
    let world = world.shut_down().await.start().await;
    assert_eq!((&world.info.id, world.info.incarnation), (&first.id, first.incarnation.next()));
    world.shut_down().await;
}

#[tokio::test]
async fn without_a_sandbox_there_is_no_host() {
    let mut world = Setup::new().start().await;
    world.stop_sandbox();
    world.assign(vec![world.assignment(1, "echo x")]).await;
    let ended = patiently("the agent ends", &mut world.agent).await.unwrap();
    assert!(matches!(ended, Err(AgentError::SandboxGone)), "{ended:?}");
}
