//! Standing for election, and holding the seat: what [`Candidacy`] decides is done here.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use etcd_client::{Compare, CompareOp, Txn, TxnOp};
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{oneshot, watch};
use wasmill_fabric_core::candidacy::{Action, Candidacy, Config, Input, LeaseId, Round};
use wasmill_fabric_core::lease::LeaseLost;
use wasmill_protocol::Term;

use super::error::SeatError;
use super::keep_alive::{KeepAliveOutcome, KeepAlives};
use super::{Etcd, EtcdError, EtcdThread, ttl_us};
use crate::Reminder;
use crate::cluster::clock::{now_us, until_us};
use crate::cluster::error::chain;

/// A seat that was won.
pub(in crate::cluster) struct Elected {
    /// Greater than that of everybody before.
    pub(in crate::cluster) term: Term,
    /// Becomes true when the seat is lost.
    pub(in crate::cluster) lost: watch::Receiver<bool>,
    /// Dropped or used to resign; the answer comes when others can know.
    pub(in crate::cluster) resign: oneshot::Sender<oneshot::Sender<()>>,
}

impl EtcdThread {
    /// Waits until `node` is elected, for as long as it takes. When that is not awaited to its end,
    /// it stands for election no longer.
    pub(in crate::cluster) async fn campaign(&self, node: String, seed: u64) -> Result<Elected, EtcdError> {
        let (answer, answered) = oneshot::channel();
        self.begin(move |etcd| async move {
            let config = Config::for_leases(ttl_us(etcd.ttl_s), seed);
            Candidate::new(etcd, node, config, answer).run().await;
        })
        .await;
        answered.await.map_err(|_| EtcdError::ThreadEnded)
    }
}

struct Candidate {
    etcd: Rc<Etcd>,
    node: String,
    candidacy: Candidacy,
    keep_alives: KeepAlives,
    /// The requests of this round.
    calls: FuturesUnordered<LocalBoxFuture<'static, Input>>,
    /// Of what keeps it from being elected.
    reminder: Rc<RefCell<Reminder>>,
    /// The caller that waits for the election.
    waiting: Option<oneshot::Sender<Elected>>,
    lost: watch::Sender<bool>,
    resigning: Option<oneshot::Receiver<oneshot::Sender<()>>>,
}

impl Candidate {
    fn new(etcd: Rc<Etcd>, node: String, config: Config, waiting: oneshot::Sender<Elected>) -> Self {
        Self {
            etcd,
            node,
            candidacy: Candidacy::new(config),
            keep_alives: KeepAlives::default(),
            calls: FuturesUnordered::new(),
            reminder: Rc::default(),
            waiting: Some(waiting),
            lost: watch::Sender::new(false),
            resigning: None,
        }
    }

    async fn run(mut self) {
        self.candidacy.step(now_us(), Input::Tick);
        let mut round = Round(0);
        loop {
            let mut over = false;
            for action in self.candidacy.take_ready() {
                if let Action::Grant { round: next } = action {
                    round = next;
                }
                over |= self.carry_out(action, round).await;
            }
            if over {
                return;
            }
            let input = tokio::select! {
                Some(input) = self.calls.next(), if !self.calls.is_empty() => input,
                KeepAliveOutcome { number, ttl_us } = self.keep_alives.outcome() => match ttl_us {
                    Some(ttl_us) => Input::KeptAlive { round, number, ttl_us },
                    None => Input::KeepAliveFailed { round, number },
                },
                () = until_us(self.candidacy.next_timeout_us()) => Input::Tick,
                () = given_up(&mut self.waiting) => return self.abandon(round).await,
                told = resigned(&mut self.resigning) => return self.resign(told, round).await,
            };
            self.candidacy.step(now_us(), input);
        }
    }

    /// Does what was decided; whether nothing follows any more.
    async fn carry_out(&mut self, action: Action, round: Round) -> bool {
        let (etcd, reminder) = (Rc::clone(&self.etcd), Rc::clone(&self.reminder));
        match action {
            Action::Grant { round } => {
                // Nothing of the round before matters any more.
                self.calls.clear();
                self.keep_alives = KeepAlives::default();
                self.calls.push(Box::pin(async move {
                    match etcd.grant().await {
                        Ok((lease, ttl_us)) => Input::Granted { round, lease, ttl_us },
                        Err(error) => failed(&reminder, round, "a lease was not granted", &error),
                    }
                }));
            }
            Action::KeepAlive { lease, keep_alive, .. } => {
                self.keep_alives.send(&self.etcd, lease, keep_alive);
            }
            Action::Campaign { round, lease } => {
                let node = self.node.clone();
                self.calls.push(Box::pin(async move {
                    match etcd.campaign(node, lease).await {
                        Ok(term) => Input::Won { round, term },
                        Err(error) => failed(&reminder, round, "the election has failed", &error),
                    }
                }));
            }
            Action::Guard { round, lease, term } => {
                let node = self.node.clone();
                self.calls.push(Box::pin(async move {
                    match etcd.guard(node, lease, term).await {
                        Ok(holds) => Input::Guarded { round, holds },
                        Err(error) => failed(&reminder, round, "the won election could not be checked", &error),
                    }
                }));
            }
            Action::Revoke { lease } => {
                // The round is over: an election that is waited for still is not worth waiting for.
                self.calls.clear();
                self.etcd.revoke(lease).await;
            }
            Action::Release { lease, term } => {
                self.etcd.release(lease, term).await;
                return true;
            }
            Action::Elected { term } => {
                let (resign, resigning) = oneshot::channel();
                self.resigning = Some(resigning);
                let elected = Elected { term, lost: self.lost.subscribe(), resign };
                // When nobody waits any more, `resign` is dropped with it, and that resigns.
                drop(self.waiting.take().map(|waiting| waiting.send(elected)));
            }
            Action::Lost { reason } => {
                self.tell_lost(reason, round);
                return true;
            }
        }
        false
    }

    fn tell_lost(&self, reason: LeaseLost, round: Round) {
        tracing::warn!(round = round.0, "the leadership is lost: {reason}");
        self.lost.send_replace(true);
    }

    /// Nobody waits for the election any more: the lease is given back, also one that is only just
    /// being granted.
    async fn abandon(mut self, round: Round) {
        self.candidacy.step(now_us(), Input::Resign);
        let mut actions = self.candidacy.take_ready();
        if actions.is_empty()
            && let Some(input) = self.calls.next().await
        {
            self.candidacy.step(now_us(), input);
            actions = self.candidacy.take_ready();
        }
        for action in actions {
            self.carry_out(action, round).await;
        }
    }

    /// Gives the seat back, and says so to whoever waits for it.
    async fn resign(mut self, told: Option<oneshot::Sender<()>>, round: Round) {
        self.candidacy.step(now_us(), Input::Resign);
        for action in self.candidacy.take_ready() {
            self.carry_out(action, round).await;
        }
        self.lost.send_replace(true);
        if let Some(told) = told {
            // The caller may have given up.
            let _ = told.send(());
        }
    }
}

/// Ends when nobody waits for the election any more.
async fn given_up(waiting: &mut Option<oneshot::Sender<Elected>>) {
    match waiting {
        Some(waiting) => waiting.closed().await,
        None => std::future::pending().await,
    }
}

/// Ends when the seat is given back, or dropped.
async fn resigned(resigning: &mut Option<oneshot::Receiver<oneshot::Sender<()>>>) -> Option<oneshot::Sender<()>> {
    match resigning {
        Some(resigning) => resigning.await.ok(),
        None => std::future::pending().await,
    }
}

/// The same problem is said at once, and then every minute: an etcd that is away would fill the
/// log.
fn failed(reminder: &RefCell<Reminder>, round: Round, what: &str, error: &dyn std::error::Error) -> Input {
    let problem = format!("{what}, trying again: {}", chain(error));
    if reminder.borrow_mut().is_due(Instant::now(), &problem) {
        tracing::warn!(round = round.0, "{problem}");
    } else {
        tracing::debug!(round = round.0, "{problem}");
    }
    Input::Failed { round }
}

impl Etcd {
    fn leader_name(&self) -> String {
        format!("{}/leader", self.prefix)
    }

    /// The key of a candidate in etcd.
    fn leader_key(&self, lease: LeaseId) -> String {
        format!("{}/{:x}", self.leader_name(), lease.0)
    }

    async fn campaign(&self, node: String, lease: LeaseId) -> Result<Term, SeatError> {
        let mut elections = self.waiting.election_client();
        let won = elections.campaign(self.leader_name(), node, lease.0).await.map_err(EtcdError::from)?;
        let leader = won.leader().ok_or(SeatError::NoLeader)?;
        if leader.key() != self.leader_key(lease).as_bytes() {
            return Err(SeatError::OtherSeat { key: String::from_utf8_lossy(leader.key()).into_owned() });
        }
        u64::try_from(leader.rev()).map(Term).map_err(|_| SeatError::NoTerm { revision: leader.rev() })
    }

    /// Writes who leads, if and only if the seat is ours still.
    async fn guard(&self, node: String, lease: LeaseId, term: Term) -> Result<bool, SeatError> {
        let key = self.leader_key(lease);
        let put = TxnOp::put(key.clone(), node, Some(etcd_client::PutOptions::new().with_lease(lease.0)));
        let txn = Txn::new().when([is_ours(&key, term)?]).and_then([put]);
        let answer = self.asking.kv_client().txn(txn).await.map_err(EtcdError::from)?;
        Ok(answer.succeeded())
    }

    /// Removes the seat if it is ours still, then gives the lease back.
    async fn release(&self, lease: LeaseId, term: Term) {
        let key = self.leader_key(lease);
        if let Ok(ours) = is_ours(&key, term) {
            let txn = Txn::new().when([ours]).and_then([TxnOp::delete(key, None)]);
            if let Err(error) = self.asking.kv_client().txn(txn).await {
                tracing::debug!("cannot resign: {}", chain(&EtcdError::from(error)));
            }
        }
        self.revoke(lease).await;
    }
}

fn is_ours(key: &str, term: Term) -> Result<Compare, SeatError> {
    let revision = i64::try_from(term.0).map_err(|_| SeatError::NoRevision { term })?;
    Ok(Compare::create_revision(key, CompareOp::Equal, revision))
}
