//! Hosts of a cluster: each is known by a key under a lease, and stops everything when it cannot be sure of that lease any more.

use wasmill_fabric_core::lease::{Lease, LeaseInput, LeaseLost};
use wasmill_fabric_models::etcd::{LeaseId, Range};
use wasmill_host_core::Input;
use wasmill_protocol::Timestamp;

use super::etcd_side::ETCD_PATIENCE_US;
use super::{EtcdHappening, Fault, Happening, World};
use crate::hosts::{HostLease, HostWait};
use crate::marks::Mark;
use crate::network::Place;
use crate::oracle::{Checked, hold};
use crate::plant::Plant;
use crate::servers::{Caller, Claim, EtcdAnswer, EtcdAsk, HostEntry, host_key};

/// How long a host waits before it tries again to become known, in microseconds.
const REGISTER_AGAIN_US: u64 = 500_000;

impl World {
    /// A host's process begins, or has lost its lease: a new life of it is to be known.
    pub(super) fn host_begins_life(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        host.incarnation = host.incarnation.next();
        host.lease = None;
        let life = host.life;
        self.at(0, Happening::Etcd(EtcdHappening::HostRegisters(index, life)));
    }

    /// Asks for a lease: the first step of becoming known.
    pub(super) fn host_registers(&mut self, index: usize, life: u64) {
        if let Some(later) = self.deferred(index) {
            self.at_time(later, Happening::Etcd(EtcdHappening::HostRegisters(index, life)));
            return;
        }
        let host = &self.hosts[index];
        if host.life == life && host.alive && host.lease.is_none() && !host.draining {
            self.host_asks(index, EtcdAsk::Grant, HostWait::Grant(self.now));
        }
    }

    fn host_asks(&mut self, index: usize, ask: EtcdAsk, wait: HostWait) {
        let host = &mut self.hosts[index];
        host.next_call += 1;
        let caller = Caller { place: Place::Host(index), life: host.life, call: host.next_call };
        host.calls.insert(caller.call, wait);
        self.send_to_etcd(caller, ask);
    }

    pub(super) fn host_answered(&mut self, index: usize, caller: Caller, answer: Option<EtcdAnswer>) {
        if let Some(later) = self.deferred(index) {
            let again = match answer {
                Some(answer) => EtcdHappening::Answer(caller, Box::new(answer)),
                None => EtcdHappening::Timeout(caller),
            };
            self.at_time(later, Happening::Etcd(again));
            return;
        }
        let host = &mut self.hosts[index];
        if host.life != caller.life || !host.alive {
            return;
        }
        let Some(wait) = host.calls.remove(&caller.call) else { return };
        let us = |ttl_s: i64| u64::try_from(ttl_s).unwrap_or(0) * 1_000_000;
        match (wait, answer) {
            (HostWait::Grant(asked_at), Some(EtcdAnswer::Granted(id, ttl_s))) => {
                let lease = Lease::new(asked_at.0, us(ttl_s), us(ttl_s) / 10);
                host.lease = Some(HostLease { id, lease, registered: false, missed: false, replaced_by: None });
                let (entry, claim) = (host.entry(), host.claim());
                self.step_host_lease(index, LeaseInput::Tick);
                self.host_asks(index, EtcdAsk::PutHost(id, entry, claim), HostWait::Put(id));
            }
            (HostWait::Put(id), Some(EtcdAnswer::Done)) => self.host_known(index, id),
            (HostWait::KeepAlive(id, number), Some(EtcdAnswer::KeptAlive(ttl_s))) => {
                if host.lease.as_ref().is_some_and(|lease| lease.id == id) {
                    self.step_host_lease(index, LeaseInput::KeptAlive { number, ttl_us: us(ttl_s) });
                }
            }
            (HostWait::KeepAlive(id, number), _) => {
                if host.lease.as_ref().is_some_and(|lease| lease.id == id) {
                    self.step_host_lease(index, LeaseInput::Failed(number));
                }
            }
            (HostWait::Grant(_), _) => self.host_registers_again(index),
            (HostWait::Put(id), Some(EtcdAnswer::Taken(by))) => self.host_is_taken(index, id, by),
            (HostWait::Put(id), _) => {
                if host.lease.as_ref().is_some_and(|lease| lease.id == id) {
                    // Whether it was put is not known: the lease goes, and with it the key.
                    host.lease = None;
                    self.host_asks(index, EtcdAsk::Revoke(id), HostWait::Nothing);
                    self.host_registers_again(index);
                }
            }
            (HostWait::Nothing, _) => {}
        }
    }

    fn host_registers_again(&mut self, index: usize) {
        let life = self.hosts[index].life;
        let delay = REGISTER_AGAIN_US / 2 + self.rng.below(REGISTER_AGAIN_US);
        self.at(delay, Happening::Etcd(EtcdHappening::HostRegisters(index, life)));
    }

    /// The host is known as what it is now.
    fn host_known(&mut self, index: usize, id: LeaseId) {
        let now = self.now;
        let host = &mut self.hosts[index];
        let Some(lease) = host.lease.as_mut().filter(|lease| lease.id == id) else { return };
        lease.registered = true;
        (host.was_known, host.replaced, host.lease_lost) = (true, false, false);
        match &mut host.core {
            Some(core) => core.step(now, Input::LeaseRegained(host.incarnation)),
            None => host.begin_core(),
        }
        self.touch_host(index);
    }

    fn step_host_lease(&mut self, index: usize, input: LeaseInput) {
        let now_us = self.now.0;
        let Some(lease) = &mut self.hosts[index].lease else { return };
        let id = lease.id;
        lease.lease.step(now_us, input);
        let ready = lease.lease.take_ready();
        if let Some(keep_alive) = ready.keep_alive {
            self.host_asks(index, EtcdAsk::KeepAlive(id), HostWait::KeepAlive(id, keep_alive.number));
        }
        match ready.lost {
            Some(LeaseLost::Expired { .. }) if self.plant == Some(Plant::HostDeadlineIgnored) => {}
            Some(_) => {
                self.marks.hit(Mark::HostLeaseExpired);
                self.host_lease_lost(index);
            }
            None => {}
        }
        self.arm_host_lease(index);
    }

    fn host_lease_lost(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        host.lease_lost = true;
        if let Some(core) = &mut host.core {
            core.step(now, Input::LeaseLost);
        }
        self.touch_host(index);
        self.host_begins_life(index);
    }

    fn arm_host_lease(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        let Some(next_us) = host.lease.as_ref().and_then(|lease| lease.lease.next_timeout_us()) else { return };
        let next = Timestamp(next_us).max(now.plus_us(1));
        if host.lease_tick_at.wants(now, next) {
            let life = host.life;
            self.at_time(next, Happening::Etcd(EtcdHappening::HostLeaseTick(index, life)));
        }
    }

    pub(super) fn host_lease_tick(&mut self, index: usize, life: u64) {
        if let Some(later) = self.deferred(index) {
            self.at_time(later, Happening::Etcd(EtcdHappening::HostLeaseTick(index, life)));
            return;
        }
        let host = &mut self.hosts[index];
        if host.life == life && host.alive && host.lease_tick_at.comes(self.now) {
            self.step_host_lease(index, LeaseInput::Tick);
        }
    }

    /// etcd has ended the lease of a host that is not stopped: it has stopped its guests before.
    pub(super) fn host_lease_expired(&mut self, index: usize, life: u64, id: LeaseId) -> Checked {
        let now = self.now;
        let host = &self.hosts[index];
        let Some(lease) = host.lease.as_ref().filter(|lease| lease.id == id) else { return Ok(()) };
        let counts = host.life == life && host.alive && lease.registered && !host.lease_lost;
        let due = lease.lease.next_timeout_us().is_some_and(|at_us| at_us <= now.0);
        hold!(!counts || due, "{} counts on lease {id:?}, which etcd has ended", host.id);
        Ok(())
    }

    /// Tells the hosts whose keys are gone or under another lease: each watches its own. One that the news does not reach looks when its
    /// watch has ended.
    pub(super) fn tell_hosts(&mut self) {
        for index in 0..self.hosts.len() {
            let (host, key) = (&self.hosts[index], Range::Key(host_key(index)));
            let Some(lease) = host.lease.as_ref().filter(|lease| lease.registered && !lease.missed) else { continue };
            let (life, id) = (host.life, lease.id);
            let Ok((found, _)) = self.servers().etcd.get(&key) else { return };
            if found.first().is_some_and(|found| found.lease == Some(id)) {
                continue;
            }
            let replaced_by = found.first().map(|found| HostEntry::decode(&found.value));
            if let Some(lease) = &mut self.hosts[index].lease {
                (lease.missed, lease.replaced_by) = (true, replaced_by);
            }
            let arrival = self.wire(Place::Etcd, Place::Host(index));
            let at = arrival.unwrap_or(self.now.plus_us(ETCD_PATIENCE_US));
            self.at_time(at, Happening::Etcd(EtcdHappening::HostKeyGone(index, life, id)));
        }
    }

    /// A host hears that its key is not there any more, or another's.
    pub(super) fn host_key_gone(&mut self, index: usize, life: u64, id: LeaseId) {
        if let Some(later) = self.deferred(index) {
            self.at_time(later, Happening::Etcd(EtcdHappening::HostKeyGone(index, life, id)));
            return;
        }
        let host = &self.hosts[index];
        if host.life == life && host.alive && host.lease.as_ref().is_some_and(|lease| lease.id == id) {
            self.marks.hit(Mark::HostKeyMissed);
            let replaced_by = host.lease.as_ref().and_then(|lease| lease.replaced_by);
            match replaced_by.filter(|by| by.process != host.life) {
                Some(by) => self.host_is_replaced(index, by),
                None => self.host_lease_lost(index),
            }
        }
    }

    /// Another process has the id, and this one was refused.
    fn host_is_taken(&mut self, index: usize, id: LeaseId, by: HostEntry) {
        let host = &mut self.hosts[index];
        if host.lease.as_ref().is_none_or(|lease| lease.id != id) {
            return;
        }
        host.lease = None;
        match host.claim() {
            Claim::First => host.incarnation = host.incarnation.max(by.incarnation).next(),
            Claim::IfFree if host.was_known => return self.host_is_replaced(index, by),
            Claim::IfFree => {
                host.replaced_by(by);
                self.marks.hit(Mark::HostWaitedForRival);
            }
        }
        self.host_asks(index, EtcdAsk::Revoke(id), HostWait::Nothing);
        self.host_registers_again(index);
    }

    /// Another process is this host: this one ends, and is started again by whoever keeps it running.
    fn host_is_replaced(&mut self, index: usize, by: HostEntry) {
        self.marks.hit(Mark::HostReplaced);
        let host = &mut self.hosts[index];
        host.kill();
        host.replaced_by(by);
        self.at(REGISTER_AGAIN_US, Happening::Fault(Fault::HostStarts(index)));
    }

    /// A drained host takes its leave.
    pub(super) fn host_leaves(&mut self, index: usize) {
        if let Some(lease) = self.hosts[index].lease.take() {
            self.host_asks(index, EtcdAsk::Revoke(lease.id), HostWait::Nothing);
        }
    }
}
