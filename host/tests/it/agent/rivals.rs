//! Two processes with the id of one host.

use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::watch;
use wasmill_fabric::{HostEvent, HostRegistration, Leadership, Membership, MembershipError, ReplacedBy};
use wasmill_host::agent::AgentError;
use wasmill_protocol::message::HostInfo;
use wasmill_protocol::{HostId, Incarnation};

use super::world::Setup;

/// A membership in which the test plays the other process.
struct Rivals {
    membership: Arc<dyn Membership>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The host that has the id.
    other: Option<HostInfo>,
    registered: Option<(watch::Sender<bool>, ReplacedBy)>,
    /// How the id was asked for.
    asked: Vec<(&'static str, Incarnation)>,
}

impl Rivals {
    /// The other process takes the id.
    fn replace(&self, by: &HostInfo) {
        let mut state = self.state.lock().unwrap();
        state.other = Some(by.clone());
        let (lost, replaced_by) = state.registered.take().unwrap();
        replaced_by.set(by.clone()).unwrap();
        lost.send_replace(true);
    }

    fn ask(&self, how: &'static str, host: &HostInfo) -> Result<(), MembershipError> {
        let mut state = self.state.lock().unwrap();
        state.asked.push((how, host.incarnation));
        match &state.other {
            Some(by) if how == "if free" || by.incarnation >= host.incarnation => {
                Err(MembershipError::Taken { by: Box::new(by.clone()) })
            }
            _ => Ok(()),
        }
    }

    async fn registered(&self, host: HostInfo) -> Result<HostRegistration, MembershipError> {
        let inner = self.membership.register(host).await?;
        let (sender, lost) = watch::channel(false);
        let replaced_by = ReplacedBy::default();
        self.state.lock().unwrap().registered = Some((sender, Arc::clone(&replaced_by)));
        Ok(HostRegistration { lost, replaced_by, ..inner })
    }
}

impl Membership for Rivals {
    fn campaign(&self, node: &str) -> BoxFuture<'_, Result<Leadership, MembershipError>> {
        let node = node.to_owned();
        async move { self.membership.campaign(&node).await }.boxed()
    }

    fn register(&self, host: HostInfo) -> BoxFuture<'_, Result<HostRegistration, MembershipError>> {
        async move {
            self.ask("first", &host)?;
            self.registered(host).await
        }
        .boxed()
    }

    fn register_if_free(&self, host: HostInfo) -> BoxFuture<'_, Result<HostRegistration, MembershipError>> {
        async move {
            self.ask("if free", &host)?;
            self.registered(host).await
        }
        .boxed()
    }

    fn hosts(&self) -> BoxStream<'static, HostEvent> {
        self.membership.hosts()
    }
}

#[tokio::test]
async fn f53_the_process_that_was_replaced_ends_and_does_not_take_the_id_back() {
    let mut setup = Setup::new();
    let rivals = Arc::new(Rivals { membership: Arc::clone(&setup.membership), state: Mutex::default() });
    setup.membership = Arc::clone(&rivals) as _;
    let mut world = setup.start().await;
    assert_eq!(world.info.incarnation, Incarnation(1));
    assert_ne!(world.info.process, 0);
    let other = HostInfo {
        id: HostId::clone(&world.info.id),
        incarnation: Incarnation(7),
        address: "machine-b".to_owned(),
        process: world.info.process ^ 1,
        ..HostInfo::default()
    };
    rivals.replace(&other);
    let ended = (&mut world.agent).await.unwrap();
    let Err(error @ AgentError::Replaced { .. }) = ended else { panic!("{ended:?}") };
    assert!(error.to_string().contains("in its life 7 at `machine-b`"), "{error}");
    assert!(error.to_string().contains("another `--id`"), "{error}");

    // Started again, by a unit for instance: it waits for the other one's end, in one life later
    // than any of the other one's.
    let state = || rivals.state.lock().unwrap();
    state().asked.clear();
    let freed = async {
        while state().asked.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(state().asked, [("if free", Incarnation(1_008))]);
        state().other = None;
    };
    let (world, ()) = tokio::join!(world.setup.start(), freed);
    assert_eq!(state().asked.last(), Some(&("if free", world.info.incarnation)));
    let setup = world.shut_down().await;

    // The id is its own again, so that a start is one like any other.
    state().asked.clear();
    let world = setup.start().await;
    assert_eq!(state().asked, [("first", world.info.incarnation)]);
    world.shut_down().await;
}

#[tokio::test]
async fn f53_a_process_that_is_started_takes_the_id_in_a_later_life() {
    let mut setup = Setup::new();
    let other = HostInfo { incarnation: Incarnation(7), process: 1, ..HostInfo::default() };
    let state = State { other: Some(other), ..State::default() };
    let rivals = Arc::new(Rivals { membership: Arc::clone(&setup.membership), state: Mutex::new(state) });
    setup.membership = Arc::clone(&rivals) as _;
    let world = setup.start().await;
    assert_eq!(world.info.incarnation, Incarnation(8));
    assert_eq!(rivals.state.lock().unwrap().asked, [("first", Incarnation(1)), ("first", Incarnation(8))]);
    world.shut_down().await;
}
