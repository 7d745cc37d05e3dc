//! The promises of every [`Membership`](wasmill_fabric::Membership).

use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use wasmill_fabric::HostEvent;
use wasmill_protocol::message::HostInfo;
use wasmill_protocol::{HostId, Incarnation, Term};

use crate::conformance::Fixture;

fn host(id: &str, incarnation: u64) -> HostInfo {
    HostInfo {
        id: HostId::from(id),
        incarnation: Incarnation(incarnation),
        address: format!("{id}:7000"),
        cores: 4,
        ..HostInfo::default()
    }
}

async fn next(hosts: &mut BoxStream<'static, HostEvent>) -> HostEvent {
    hosts.next().await.expect("the stream goes on for ever")
}

pub(crate) async fn terms_grow(fixture: &Fixture) {
    let mut last = Term(0);
    for _ in 0..3 {
        let leadership = fixture.membership.campaign("node-1").await.unwrap();
        assert!(leadership.term > last, "{} after {last}", leadership.term);
        last = leadership.term;
    }
}

pub(crate) async fn a_leadership_is_not_lost_by_itself(fixture: &Fixture) {
    let mut leadership = fixture.membership.campaign("node-1").await.unwrap();
    assert!(!*leadership.lost.borrow());
    assert!(leadership.lost.changed().now_or_never().is_none());
}

pub(crate) async fn hosts_that_live_are_told_first(fixture: &Fixture) {
    let first = fixture.membership.register(host("a", 1)).await.unwrap();
    let _second = fixture.membership.register(host("b", 5)).await.unwrap();
    let mut hosts = fixture.membership.hosts();
    let mut told = [next(&mut hosts).await, next(&mut hosts).await];
    told.sort_by_key(|event| format!("{event:?}"));
    assert_eq!(told, [HostEvent::Joined(host("a", 1)), HostEvent::Joined(host("b", 5))]);
    assert!(!*first.lost.borrow());

    drop(first);
    assert_eq!(next(&mut hosts).await, HostEvent::Left(HostId::from("a"), Incarnation(1)));
    assert_eq!(next(&mut fixture.membership.hosts()).await, HostEvent::Joined(host("b", 5)));
}

pub(crate) async fn joining_and_leaving_are_told(fixture: &Fixture) {
    let mut hosts = fixture.membership.hosts();
    assert!(hosts.next().now_or_never().is_none());
    for incarnation in 1..10 {
        let registration = fixture.membership.register(host("a", incarnation)).await.unwrap();
        assert_eq!(next(&mut hosts).await, HostEvent::Joined(host("a", incarnation)));
        drop(registration);
        assert_eq!(next(&mut hosts).await, HostEvent::Left(HostId::from("a"), Incarnation(incarnation)));
    }
}

pub(crate) async fn a_new_life_replaces_the_old_one(fixture: &Fixture) {
    let mut hosts = fixture.membership.hosts();
    let old = fixture.membership.register(host("a", 1)).await.unwrap();
    assert_eq!(next(&mut hosts).await, HostEvent::Joined(host("a", 1)));
    let _new = fixture.membership.register(host("a", 2)).await.unwrap();
    // The old life may be told to have ended, but nothing else comes before the new one.
    let mut event = next(&mut hosts).await;
    if event == HostEvent::Left(HostId::from("a"), Incarnation(1)) {
        event = next(&mut hosts).await;
    }
    assert_eq!(event, HostEvent::Joined(host("a", 2)));

    // The rest of the old life must not end the new one.
    drop(old);
    let _other = fixture.membership.register(host("b", 1)).await.unwrap();
    loop {
        match next(&mut hosts).await {
            HostEvent::Left(id, incarnation) => assert_eq!((id, incarnation), (HostId::from("a"), Incarnation(1))),
            HostEvent::Joined(info) => {
                assert_eq!(info, host("b", 1));
                break;
            }
        }
    }
}

pub(crate) async fn a_released_registration_is_gone(fixture: &Fixture) {
    let registration = fixture.membership.register(host("a", 1)).await.unwrap();
    let _other = fixture.membership.register(host("b", 1)).await.unwrap();
    registration.lease.release().await;
    assert_eq!(next(&mut fixture.membership.hosts()).await, HostEvent::Joined(host("b", 1)));
}
