//! Shutting down: what runs may finish, what does not is handed back, and then the host is gone.

use futures::StreamExt;
use wasmill_fabric::HostEvent;
use wasmill_host::channel::StopReason;
use wasmill_protocol::OutcomeKind;
use wasmill_protocol::message::{HostAck, Report, ToHost};

use super::world::{Setup, id, patiently};

#[tokio::test]
async fn an_idle_host_leaves_at_once() {
    let setup = Setup::new();
    let mut hosts = setup.membership.hosts();
    let world = setup.start().await;
    let info = world.info.clone();
    assert_eq!(patiently("joined", hosts.next()).await, Some(HostEvent::Joined(info.clone())));
    world.shut_down().await;
    assert_eq!(patiently("left", hosts.next()).await, Some(HostEvent::Left(info.id, info.incarnation)));
}

#[tokio::test]
async fn what_does_not_finish_within_the_grace_is_handed_back() {
    let mut world = Setup { slots: 2, drain_grace_ms: 50, ..Setup::new() }.start().await;
    world.assign(vec![world.assignment(1, "hold"), world.assignment(2, "hold"), world.assignment(3, "echo x")]).await;
    world.until("two run", |heard| heard.started.len() == 2).await;
    world.shutdown.send_replace(true);
    patiently("the host shuts down", &mut world.agent).await.unwrap().unwrap();
    let heard = world.until("all are reported", |heard| heard.reports.len() == 3).await;
    assert!(heard.reports.iter().all(|report| matches!(report, Report::Returned { .. })), "{heard:?}");
    assert_eq!(heard.reports[0].id(), id(3), "what has not started is handed back first");
    assert_eq!(heard.stopped, [(id(1), StopReason::Drained), (id(2), StopReason::Drained)]);
    assert!(heard.heartbeat.is_some_and(|beat| beat.draining && beat.credit == 0));
}

#[tokio::test]
async fn what_runs_may_finish_but_nothing_new_begins() {
    let mut world = Setup::new().start().await;
    world.assign(vec![world.assignment(1, "hold")]).await;
    world.until("it runs", |heard| heard.started.len() == 1).await;
    world.shutdown.send_replace(true);
    world.until("it drains", |heard| heard.heartbeat.as_ref().is_some_and(|beat| beat.draining)).await;
    let assign = vec![world.assignment(2, "echo x")];
    let message = ToHost { incarnation: world.info.incarnation, assign, ..ToHost::default() };
    // The leader of term 1 has not spoken after the first message, and term 0 is stale by now.
    let message = ToHost { term: wasmill_protocol::Term(1), ..message };
    assert_eq!(world.send(message).await, Some(HostAck { term_seen: None, refused: vec![id(2)] }));
    world.sandbox.finish(1).await;
    patiently("the host shuts down", &mut world.agent).await.unwrap().unwrap();
    let heard = world.until("its end", |heard| heard.end(1).is_some()).await;
    assert_eq!((heard.kind(1), heard.stopped.len()), (Some(OutcomeKind::Succeeded), 0));
}

#[tokio::test]
async fn to_drop_the_sender_of_the_signal_is_to_send_it() {
    let mut world = Setup::new().start().await;
    let (never, _) = tokio::sync::watch::channel(false);
    drop(std::mem::replace(&mut world.shutdown, never));
    patiently("the host shuts down", &mut world.agent).await.unwrap().unwrap();
}
