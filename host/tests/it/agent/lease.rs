//! A host whose lease is lost stops everything and begins a new life; one whose subscription ends
//! subscribes again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::{mpsc, watch};
use wasmill_fabric::{
    Bus, BusError, Content, HostEvent, HostRegistration, Leadership, Membership, MembershipError, Message, Subscription,
};
use wasmill_host::channel::StopReason;
use wasmill_protocol::message::{HostAck, HostInfo, ToHost};
use wasmill_protocol::{OutcomeKind, Term};

use super::world::{Setup, id};

/// A membership whose leases the test can end, and which fails once after each loss.
struct Leases {
    membership: Arc<dyn Membership>,
    lost: Mutex<Option<watch::Sender<bool>>>,
    refuse: Mutex<bool>,
}

impl Leases {
    fn lose(&self) {
        *self.refuse.lock().unwrap() = true;
        self.lost.lock().unwrap().take().unwrap().send_replace(true);
    }
}

impl Membership for Leases {
    fn campaign(&self, node: &str) -> BoxFuture<'_, Result<Leadership, MembershipError>> {
        let node = node.to_owned();
        async move { self.membership.campaign(&node).await }.boxed()
    }

    fn register(&self, host: HostInfo) -> BoxFuture<'_, Result<HostRegistration, MembershipError>> {
        async move {
            if std::mem::take(&mut *self.refuse.lock().unwrap()) {
                return Err(MembershipError::Unreachable { action: "register", reason: "not yet".into() });
            }
            let inner = self.membership.register(host).await?;
            let (sender, lost) = watch::channel(false);
            *self.lost.lock().unwrap() = Some(sender);
            Ok(HostRegistration { lost, ..inner })
        }
        .boxed()
    }

    fn hosts(&self) -> BoxStream<'static, HostEvent> {
        self.membership.hosts()
    }
}

#[tokio::test]
async fn a_lost_lease_stops_everything_and_a_new_life_begins() {
    let mut setup = Setup::new();
    let leases = Arc::new(Leases {
        membership: Arc::clone(&setup.membership),
        lost: Mutex::default(),
        refuse: Mutex::default(),
    });
    setup.membership = Arc::clone(&leases) as _;
    let mut world = setup.start().await;
    world.assign(vec![world.assignment(1, "hold")]).await;
    world.until("it runs", |heard| heard.started.len() == 1).await;
    leases.lose();
    let heard = world.until("it is stopped", |heard| !heard.stopped.is_empty()).await;
    assert_eq!(heard.stopped, [(id(1), StopReason::Drained)]);
    let next = world.info.incarnation.next();
    let old = ToHost {
        term: Term(1),
        incarnation: world.info.incarnation,
        assign: vec![world.assignment(2, "echo x")],
        stop: Vec::new(),
    };
    world
        .until("the new life", |heard| {
            heard.heartbeat.as_ref().is_some_and(|beat| beat.incarnation == next && beat.attempts.is_empty())
        })
        .await;
    assert_eq!(world.send(old).await, Some(HostAck { term_seen: None, refused: vec![id(2)] }));
    world.info.incarnation = next;
    world.assign(vec![world.assignment(3, "echo x")]).await;
    let heard = world.until("the end of 3", |heard| heard.end(3).is_some()).await;
    assert_eq!(
        (heard.kind(3), heard.reports.len()),
        (Some(OutcomeKind::Succeeded), 1),
        "nothing of the old life is told"
    );
    assert_eq!(heard.senders[0].incarnation, next);
    world.shut_down().await;
}

/// A bus that can cut subscriptions of hosts.
struct Cutting {
    bus: Arc<dyn Bus>,
    forwarding: Arc<Mutex<Vec<tokio::task::AbortHandle>>>,
}

impl Bus for Cutting {
    fn ask(&self, subject: &str, content: Content, timeout: Duration) -> BoxFuture<'static, Result<Content, BusError>> {
        self.bus.ask(subject, content, timeout)
    }

    fn publish(&self, subject: &str, payload: Bytes) -> BoxFuture<'static, Result<(), BusError>> {
        self.bus.publish(subject, payload)
    }

    fn subscribe(&self, subject: &str, capacity: usize) -> BoxFuture<'static, Result<Subscription, BusError>> {
        let subscribed = self.bus.subscribe(subject, capacity);
        if !subject.starts_with("host.") {
            return subscribed;
        }
        let forwarding = Arc::clone(&self.forwarding);
        async move {
            let mut subscription: Subscription = subscribed.await?;
            let (sender, receiver) = mpsc::channel::<Message>(capacity);
            let task = tokio::spawn(async move {
                while let Some(message) = subscription.recv().await {
                    if sender.send(message).await.is_err() {
                        return;
                    }
                }
            });
            forwarding.lock().unwrap().push(task.abort_handle());
            Ok(receiver)
        }
        .boxed()
    }

    fn subscribe_shared(&self, subject: &str, capacity: usize) -> BoxFuture<'static, Result<Subscription, BusError>> {
        self.bus.subscribe_shared(subject, capacity)
    }

    fn payload_bytes_max(&self) -> usize {
        self.bus.payload_bytes_max()
    }

    fn is_local(&self) -> bool {
        self.bus.is_local()
    }
}

/// F44 of the hostile inputs: a slow consumer is cut off, notices it, and comes back.
#[tokio::test]
async fn f44_a_subscription_that_ends_is_renewed() {
    let mut setup = Setup::new();
    let forwarding = Arc::<Mutex<Vec<_>>>::default();
    setup.bus = Arc::new(Cutting { bus: Arc::clone(&setup.bus), forwarding: Arc::clone(&forwarding) });
    let world = setup.start().await;
    world.assign(vec![world.assignment(1, "echo x")]).await;
    forwarding.lock().unwrap().remove(0).abort();
    // Until it is back nobody answers; the leader sends again, as it does for whatever is not
    // answered.
    let message = ToHost {
        term: Term(1),
        incarnation: world.info.incarnation,
        assign: vec![world.assignment(2, "echo x")],
        stop: Vec::new(),
    };
    while world.send(message.clone()).await != Some(HostAck::default()) {
        tokio::task::yield_now().await;
    }
    world.until("both ends", |heard| heard.end(1).is_some() && heard.end(2).is_some()).await;
    world.shut_down().await;
}
