//! Membership over the model of etcd, with the real decisions about leases and candidates.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use wasmill_fabric::{HostEvent, HostRegistration, Leadership, Lease, Membership, MembershipError};
use wasmill_fabric_core::candidacy::{self, Action, Candidacy, Input, Round};
use wasmill_fabric_core::lease::{self, LeaseInput};
use wasmill_fabric_models::Etcd;
use wasmill_fabric_models::etcd::{CampaignId, Compare, EtcdError, LeaderKey, LeaseId, Op, Range};
use wasmill_protocol::message::HostInfo;
use wasmill_protocol::{HostId, Incarnation, Term, Timestamp};

const TTL_S: i64 = 5;
const HOSTS: &str = "hosts/";

/// See the module.
pub(super) struct ModelMembership {
    shared: Arc<Shared>,
}

struct Shared {
    servers: Mutex<Servers>,
    changed: watch::Sender<u64>,
    begun: Instant,
    /// Every other campaign fails at the server, and every other keepalive is not answered.
    troubled: bool,
}

#[derive(Default)]
struct Servers {
    etcd: Etcd,
    elected: BTreeMap<CampaignId, Result<LeaderKey, EtcdError>>,
    infos: BTreeMap<(HostId, Incarnation), HostInfo>,
    campaigns: u64,
    keep_alives: u64,
}

/// Tells the task that holds something to give it back; when it is dropped, too.
struct Held(oneshot::Sender<oneshot::Sender<()>>);

impl ModelMembership {
    pub(super) fn new(troubled: bool) -> Self {
        let (servers, changed) = (Mutex::default(), watch::Sender::new(0));
        Self { shared: Arc::new(Shared { servers, changed, begun: Instant::now(), troubled }) }
    }
}

impl Membership for ModelMembership {
    fn campaign(&self, _node: &str) -> BoxFuture<'_, Result<Leadership, MembershipError>> {
        async move {
            let (answer, elected) = oneshot::channel();
            let config = candidacy::Config { retry_us: 1_000, ..candidacy::Config::for_leases(5_000_000, 1) };
            let seat = Seat {
                shared: Arc::clone(&self.shared),
                candidacy: Candidacy::new(config),
                campaign: None,
                waiting: Some(answer),
                lost: watch::Sender::new(false),
                leaving: None,
            };
            tokio::spawn(seat.run());
            Ok(elected.await.unwrap())
        }
        .boxed()
    }

    fn register(&self, host: HostInfo) -> BoxFuture<'_, Result<HostRegistration, MembershipError>> {
        let shared = Arc::clone(&self.shared);
        async move {
            let key = format!("{HOSTS}{}", host.id);
            let asked_at_us = shared.now_us();
            let id = shared.ask(|servers, now| {
                let (id, _) = servers.etcd.grant(now, TTL_S, None).unwrap();
                let value = Bytes::from(host.incarnation.0.to_be_bytes().to_vec());
                servers.etcd.put(&key, value, Some(id)).unwrap();
                servers.infos.insert((host.id.clone(), host.incarnation), host);
                id
            });
            let (lost, receiver) = watch::channel(false);
            let (leave, leaving) = oneshot::channel();
            let lease = lease::Lease::new(asked_at_us, 5_000_000, 500_000);
            tokio::spawn(hold(shared, id, lease, lost, leaving));
            Ok(HostRegistration { lost: receiver, replaced_by: Default::default(), lease: Box::new(Held(leave)) })
        }
        .boxed()
    }

    fn hosts(&self) -> BoxStream<'static, HostEvent> {
        let changed = self.shared.changed.subscribe();
        let follower = (Arc::clone(&self.shared), changed, BTreeMap::new());
        stream::unfold(follower, |(shared, mut changed, mut known)| async move {
            loop {
                changed.borrow_and_update();
                let events = shared.differences(&mut known);
                if !events.is_empty() {
                    return Some((stream::iter(events), (shared, changed, known)));
                }
                changed.changed().await.unwrap();
            }
        })
        .flatten()
        .boxed()
    }
}

impl Lease for Held {
    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            let (answer, answered) = oneshot::channel();
            if self.0.send(answer).is_ok() {
                drop(answered.await);
            }
        }
        .boxed()
    }
}

impl Shared {
    fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap()
    }

    fn ask<T>(&self, ask: impl FnOnce(&mut Servers, Timestamp) -> T) -> T {
        let now = Timestamp(self.now_us());
        let answer = {
            let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
            servers.etcd.tick(now);
            let answer = ask(&mut servers, now);
            let elected = servers.etcd.take_elected();
            servers.elected.extend(elected);
            answer
        };
        self.changed.send_modify(|changes| *changes += 1);
        answer
    }

    fn differences(&self, known: &mut BTreeMap<HostId, Incarnation>) -> Vec<HostEvent> {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let (found, _) = servers.etcd.get(&Range::Prefix(HOSTS.into())).unwrap();
        let living: BTreeMap<HostId, Incarnation> = found
            .iter()
            .map(|found| {
                let incarnation = u64::from_be_bytes(found.value.as_ref().try_into().unwrap());
                (HostId::from(&found.key[HOSTS.len()..]), Incarnation(incarnation))
            })
            .collect();
        let before = std::mem::replace(known, living.clone());
        let left = before.iter().filter(|(id, incarnation)| living.get(*id) != Some(*incarnation));
        let joined = living.iter().filter(|(id, incarnation)| before.get(*id) != Some(*incarnation));
        left.map(|(id, incarnation)| HostEvent::Left(id.clone(), *incarnation))
            .chain(
                joined.map(|(id, incarnation)| HostEvent::Joined(servers.infos[&(id.clone(), *incarnation)].clone())),
            )
            .collect()
    }

    fn keep_alive(&self, lease: LeaseId) -> Option<u64> {
        let troubled = self.troubled;
        self.ask(|servers, now| {
            servers.keep_alives += 1;
            let ttl_s = servers.etcd.keep_alive(now, lease).unwrap();
            let answered = !troubled || servers.keep_alives.is_multiple_of(2);
            answered.then(|| u64::try_from(ttl_s).unwrap() * 1_000_000)
        })
    }

    async fn until(&self, at_us: Option<u64>) {
        match at_us {
            Some(at_us) => tokio::time::sleep_until(self.begun + Duration::from_micros(at_us)).await,
            None => pending().await,
        }
    }
}

/// Keeps a host's lease alive until it is lost or given back.
async fn hold(
    shared: Arc<Shared>,
    id: LeaseId,
    mut lease: lease::Lease,
    lost: watch::Sender<bool>,
    mut leaving: oneshot::Receiver<oneshot::Sender<()>>,
) {
    let mut input = LeaseInput::Tick;
    loop {
        lease.step(shared.now_us(), input);
        let ready = lease.take_ready();
        if ready.lost.is_some() {
            lost.send_replace(true);
            return;
        }
        if let Some(keep_alive) = ready.keep_alive {
            let number = keep_alive.number;
            input = match shared.keep_alive(id) {
                Some(ttl_us) => LeaseInput::KeptAlive { number, ttl_us },
                None => LeaseInput::Failed(number),
            };
            continue;
        }
        tokio::select! {
            () = shared.until(lease.next_timeout_us()) => input = LeaseInput::Tick,
            told = &mut leaving => {
                // Its keys may belong to a later life by now, which is not touched.
                let _ = shared.ask(|servers, _| servers.etcd.revoke(id));
                if let Ok(told) = told {
                    let _ = told.send(());
                }
                return;
            }
        }
    }
}

/// A candidate, and then the holder of the seat.
struct Seat {
    shared: Arc<Shared>,
    candidacy: Candidacy,
    campaign: Option<(Round, CampaignId)>,
    waiting: Option<oneshot::Sender<Leadership>>,
    lost: watch::Sender<bool>,
    leaving: Option<oneshot::Receiver<oneshot::Sender<()>>>,
}

impl Seat {
    async fn run(mut self) {
        let mut changed = self.shared.changed.subscribe();
        let mut input = Input::Tick;
        loop {
            self.candidacy.step(self.shared.now_us(), input);
            let mut answers = Vec::new();
            for action in self.candidacy.take_ready() {
                if matches!(action, Action::Lost { .. }) {
                    self.lost.send_replace(true);
                    return;
                }
                answers.extend(self.carry_out(action));
            }
            if !answers.is_empty() {
                for answer in answers {
                    self.candidacy.step(self.shared.now_us(), answer);
                }
                input = Input::Tick;
                continue;
            }
            changed.borrow_and_update();
            if let Some(won) = self.told() {
                input = won;
                continue;
            }
            tokio::select! {
                _ = changed.changed() => input = Input::Tick,
                () = self.shared.until(self.candidacy.next_timeout_us()) => input = Input::Tick,
                told = left(&mut self.leaving) => return self.leave(told),
            }
        }
    }

    /// The server's answer to the election.
    fn told(&mut self) -> Option<Input> {
        let (round, id) = self.campaign?;
        let mut servers = self.shared.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let told = servers.elected.remove(&id)?;
        self.campaign = None;
        Some(match told {
            Ok(leader) => Input::Won { round, term: Term(leader.revision) },
            Err(_) => Input::Failed { round },
        })
    }

    fn carry_out(&mut self, action: Action) -> Option<Input> {
        let shared = Arc::clone(&self.shared);
        match action {
            Action::Grant { round } => {
                let (lease, ttl_s) = shared.ask(|servers, now| servers.etcd.grant(now, TTL_S, None).unwrap());
                let lease = candidacy::LeaseId(lease.0);
                Some(Input::Granted { round, lease, ttl_us: u64::try_from(ttl_s).unwrap() * 1_000_000 })
            }
            Action::KeepAlive { round, lease, keep_alive } => {
                let number = keep_alive.number;
                Some(match shared.keep_alive(LeaseId(lease.0)) {
                    Some(ttl_us) => Input::KeptAlive { round, number, ttl_us },
                    None => Input::KeepAliveFailed { round, number },
                })
            }
            Action::Campaign { round, lease } => {
                let troubled = shared.troubled;
                let id = shared.ask(|servers, _| {
                    servers.campaigns += 1;
                    let id = servers.etcd.campaign("leader", LeaseId(lease.0), Bytes::new()).unwrap();
                    if troubled && servers.campaigns % 2 == 1 {
                        // Told that it has failed, whatever became of it.
                        servers.etcd.fail_campaign(id);
                        servers.etcd.take_elected();
                        servers.elected.insert(id, Err(EtcdError::NoQuorum));
                    }
                    id
                });
                self.campaign = Some((round, id));
                None
            }
            Action::Guard { round, lease, term } => {
                let guard = Compare::created_at(&leader_key(lease), term.0);
                let holds = shared.ask(|servers, _| servers.etcd.txn(&[guard], &[], &[]).unwrap().succeeded);
                Some(Input::Guarded { round, holds })
            }
            Action::Revoke { lease } => {
                // It may have ended by itself.
                let _ = shared.ask(|servers, _| servers.etcd.revoke(LeaseId(lease.0)));
                None
            }
            Action::Release { lease, term } => {
                let key = leader_key(lease);
                let delete = Op::Delete(Range::Key(key.clone()));
                shared.ask(|servers, _| {
                    servers.etcd.txn(&[Compare::created_at(&key, term.0)], &[delete], &[]).unwrap();
                    let _ = servers.etcd.revoke(LeaseId(lease.0));
                });
                None
            }
            Action::Elected { term } => {
                let (leave, leaving) = oneshot::channel();
                self.leaving = Some(leaving);
                let leadership = Leadership { term, lost: self.lost.subscribe(), lease: Box::new(Held(leave)) };
                drop(self.waiting.take().map(|waiting| waiting.send(leadership)));
                None
            }
            Action::Lost { .. } => None,
        }
    }

    fn leave(mut self, told: Option<oneshot::Sender<()>>) {
        self.candidacy.step(self.shared.now_us(), Input::Resign);
        for action in self.candidacy.take_ready() {
            self.carry_out(action);
        }
        if let Some(told) = told {
            let _ = told.send(());
        }
    }
}

async fn left(leaving: &mut Option<oneshot::Receiver<oneshot::Sender<()>>>) -> Option<oneshot::Sender<()>> {
    match leaving {
        Some(leaving) => leaving.await.ok(),
        None => pending().await,
    }
}

fn leader_key(lease: candidacy::LeaseId) -> String {
    format!("leader/{:x}", lease.0)
}
