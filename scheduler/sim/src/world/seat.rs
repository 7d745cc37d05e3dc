//! The seat of the leader: what a node's candidate asks for, and what becomes of it.

use wasmill_fabric_core::candidacy::{Action, Candidacy, Input, LeaseId as SeatLease};
use wasmill_fabric_core::lease::LeaseLost;
use wasmill_fabric_models::etcd::LeaseId;
use wasmill_protocol::{Term, Timestamp};
use wasmill_scheduler_node::following::Input as FollowInput;
use wasmill_scheduler_node::leading::Input as NodeInput;

use super::{EtcdHappening, Happening, Sender, World};
use crate::marks::Mark;
use crate::node::EtcdWait;
use crate::oracle::{Checked, hold};
use crate::plant::Plant;
use crate::servers::{EtcdAnswer, EtcdAsk};

/// A lease that was lost this soon after the process was resumed has ended while it was stopped, in microseconds.
const JUST_RESUMED_US: u64 = 100_000;

impl World {
    /// Asks what the candidate wants asked.
    pub(super) fn pump_seat(&mut self, node: usize) -> Checked {
        loop {
            let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) else {
                return Ok(());
            };
            let Some(seat) = &mut cluster.seat else { return Ok(()) };
            let actions = seat.take_ready();
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.act_for_seat(node, action)?;
            }
        }
        self.arm_seat(node);
        Ok(())
    }

    fn act_for_seat(&mut self, node: usize, action: Action) -> Checked {
        let now = self.now;
        match action {
            Action::Grant { round } => self.ask_etcd(node, EtcdAsk::Grant, EtcdWait::Grant(round)),
            Action::KeepAlive { round, lease, keep_alive } => {
                let wait = EtcdWait::KeepAlive(round, keep_alive.number, now);
                self.ask_etcd(node, EtcdAsk::KeepAlive(LeaseId(lease.0)), wait);
            }
            Action::Campaign { round, lease } => {
                let lease = LeaseId(lease.0);
                if let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) {
                    cluster.seat_lease = Some(lease);
                }
                self.ask_etcd(node, EtcdAsk::Campaign(lease), EtcdWait::Campaign(round));
            }
            Action::Guard { round, lease, term } if self.plant == Some(Plant::CampaignTrusted) => {
                let _ = (lease, term);
                self.step_seat(node, Input::Guarded { round, holds: true });
            }
            Action::Guard { round, lease, term } => {
                self.ask_etcd(node, EtcdAsk::Guard(LeaseId(lease.0), term), EtcdWait::Guard(round));
            }
            Action::Revoke { lease } => self.ask_etcd(node, EtcdAsk::Revoke(LeaseId(lease.0)), EtcdWait::Nothing),
            Action::Release { lease, term } => {
                self.ask_etcd(node, EtcdAsk::Release(LeaseId(lease.0), term), EtcdWait::Nothing);
            }
            Action::Elected { term } => return self.elected(node, term),
            Action::Lost { reason } => self.seat_lost(node, reason),
        }
        Ok(())
    }

    /// The seat is ours, which is the permission to try: the log is read to its end.
    fn elected(&mut self, node: usize, term: Term) -> Checked {
        self.marks.hit(Mark::ElectionWon);
        let life = self.nodes[node].life;
        hold!(self.oracle.is_guarded(term, node, life), "node-{node} takes the seat of term {term} unproven");
        self.may_lose_seat_behind(node);
        self.step_following(node, FollowInput::Elected(term));
        Ok(())
    }

    fn seat_lost(&mut self, node: usize, reason: LeaseLost) {
        let now = self.now;
        if self.plant == Some(Plant::NodeDeadlineIgnored) && matches!(reason, LeaseLost::Expired { .. }) {
            return;
        }
        self.marks.hit(Mark::LeadershipLeaseLost);
        let cluster = self.nodes[node].process.as_ref().and_then(|process| process.cluster.as_ref());
        if let LeaseLost::Expired { .. } = reason
            && cluster.is_some_and(|cluster| now.us_since(cluster.resumed_at) < JUST_RESUMED_US)
        {
            self.marks.hit(Mark::DeadlinePassedPaused);
        }
        let life = self.nodes[node].life;
        match self.nodes[node].leader() {
            Some(_) => self.tell_leader(Sender { node, life }, NodeInput::LeaseLost),
            None => self.step_following(node, FollowInput::SeatLost),
        }
    }

    fn step_seat(&mut self, node: usize, input: Input) {
        let now_us = self.now.0;
        if let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) {
            let Some(seat) = &mut cluster.seat else { return };
            let waiting = seat.elected().is_none() && cluster.seat_lease.is_some();
            seat.step(now_us, input);
            if waiting && matches!(input, Input::KeptAlive { ttl_us: 0, .. }) {
                self.marks.hit(Mark::CandidateLeaseLost);
            }
            self.touch_node(node);
        }
    }

    /// An answer of etcd for a node, or none in time.
    pub(super) fn node_answered(&mut self, sender: Sender, wait: EtcdWait, answer: Option<EtcdAnswer>) {
        let (now, node) = (self.now, sender.node);
        let us = |ttl_s: i64| u64::try_from(ttl_s).unwrap_or(0) * 1_000_000;
        let input = match (wait, answer) {
            (EtcdWait::Grant(round), Some(EtcdAnswer::Granted(lease, ttl_s))) => {
                Input::Granted { round, lease: SeatLease(lease.0), ttl_us: us(ttl_s) }
            }
            (EtcdWait::KeepAlive(round, number, sent_at), Some(EtcdAnswer::KeptAlive(ttl_s))) => {
                let mut ttl_us = us(ttl_s);
                if self.plant == Some(Plant::DeadlineFromReceipt) && ttl_us > 0 {
                    ttl_us += now.us_since(sent_at);
                }
                Input::KeptAlive { round, number, ttl_us }
            }
            (EtcdWait::KeepAlive(round, number, _), _) => Input::KeepAliveFailed { round, number },
            (EtcdWait::Campaign(round), Some(EtcdAnswer::Won(term))) => Input::Won { round, term },
            (EtcdWait::Guard(round), Some(EtcdAnswer::Guarded(holds))) => {
                if !holds {
                    self.marks.hit(Mark::CampaignPhantom);
                }
                Input::Guarded { round, holds }
            }
            (EtcdWait::Campaign(round), _) => {
                self.marks.hit(Mark::CampaignFailed);
                Input::Failed { round }
            }
            (EtcdWait::Grant(round) | EtcdWait::Guard(round), _) => Input::Failed { round },
            (EtcdWait::Hosts(epoch), answer) => return self.hosts_listed(sender, epoch, answer),
            (EtcdWait::Watch(epoch, from), answer) => return self.watch_opened(sender, epoch, from, answer),
            (EtcdWait::Mark(asked), answer) => {
                let mark = if let Some(EtcdAnswer::Mark(mark)) = answer { Some(mark) } else { None };
                return self.mark_told(node, mark, asked);
            }
            (EtcdWait::Raise, Some(EtcdAnswer::Mark(_))) => return,
            (EtcdWait::Raise, _) => return self.mark_unraised(node),
            (EtcdWait::Nothing, _) => return,
        };
        self.step_seat(node, input);
    }

    /// A node stands for election.
    pub(super) fn stand(&mut self, node: usize) {
        let (seed, ttl_s) = (self.rng.draw(), self.cluster().lease_ttl_s);
        if let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) {
            cluster.stand(ttl_s, seed);
        }
        self.touch_node(node);
    }

    /// A node gives its seat back, or stands for election no longer: others need not wait until the lease is over.
    pub(super) fn give_seat_back(&mut self, node: usize) {
        let now_us = self.now.0;
        let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) else {
            return;
        };
        let Some(mut seat) = cluster.seat.take() else { return };
        seat.step(now_us, Input::Resign);
        for action in seat.take_ready() {
            if let Action::Release { .. } | Action::Revoke { .. } = action {
                // Neither can fail an invariant.
                let _ = self.act_for_seat(node, action);
            }
        }
    }

    fn arm_seat(&mut self, node: usize) {
        let (now, life) = (self.now, self.nodes[node].life);
        let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) else {
            return;
        };
        let Some(next_us) = cluster.seat.as_ref().and_then(Candidacy::next_timeout_us) else { return };
        let next = Timestamp(next_us).max(now.plus_us(1));
        if cluster.seat_tick_at.wants(now, next) {
            self.at_time(next, Happening::Etcd(EtcdHappening::SeatTick(Sender { node, life })));
        }
    }

    pub(super) fn seat_tick(&mut self, sender: Sender) {
        let now = self.now;
        if let Some(process) = self.nodes[sender.node].alive(sender.life)
            && let Some(cluster) = &mut process.cluster
            && cluster.seat_tick_at.comes(now)
        {
            self.step_seat(sender.node, Input::Tick);
        }
    }
}
