//! What goes wrong, and how it is repaired.

use std::sync::Arc;

use wasmill_host_core::Input;

use super::{Happening, LEASE_US, World};
use crate::control::Control;
use crate::marks::Mark;

/// Something that goes wrong, or comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The control node starts, if it is dead.
    ControlStarts,
    /// The control node is killed: what is not durable is lost, or is not.
    ControlDies,
    /// A host starts, if it is dead.
    HostStarts(usize),
    /// A host is killed.
    HostDies(usize),
    /// A drained host ends in good order.
    HostStops(usize),
    /// A host is asked to stop.
    HostDrains(usize),
    /// A host is stopped and resumed after this many microseconds.
    HostPauses(usize, u64),
    /// A host is cut from everything for this many microseconds.
    HostCut(usize, u64),
}

/// The longest pause or cut in microseconds: well beyond the lease.
const OUTAGE_US_MAX: u64 = 20_000_000;
/// The time between two looks at the leases, in microseconds.
const LEASES_US: u64 = 500_000;

impl World {
    pub(super) fn plan_faults(&mut self, fault_us: u64) {
        for _ in 0..self.options.control_kills {
            let at = self.rng.below(fault_us);
            self.at(at, Happening::Fault(Fault::ControlDies));
        }
        let hosts = self.hosts.len() as u64;
        let host_at = |world: &mut Self| {
            let host = usize::try_from(world.rng.below(hosts)).unwrap_or(0);
            (host, world.rng.below(fault_us))
        };
        for _ in 0..self.options.host_kills {
            let (host, at) = host_at(self);
            self.at(at, Happening::Fault(Fault::HostDies(host)));
            let down = self.rng.skewed(10_000_000);
            self.at(at + down, Happening::Fault(Fault::HostStarts(host)));
        }
        for _ in 0..self.options.host_pauses {
            let (host, at) = host_at(self);
            let long = self.rng.below(OUTAGE_US_MAX);
            self.at(at, Happening::Fault(Fault::HostPauses(host, long)));
        }
        for _ in 0..self.options.host_cuts {
            let (host, at) = host_at(self);
            let long = self.rng.below(OUTAGE_US_MAX);
            self.at(at, Happening::Fault(Fault::HostCut(host, long)));
        }
        for _ in 0..self.options.host_drains {
            let (host, at) = host_at(self);
            self.at(at, Happening::Fault(Fault::HostDrains(host)));
        }
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::ControlStarts => self.control_starts(),
            Fault::ControlDies => self.control_dies(),
            Fault::HostStarts(index) => self.host_starts(index),
            Fault::HostDies(index) => {
                if self.hosts[index].core.is_some() {
                    self.marks.hit(Mark::HostKilled);
                    self.hosts[index].kill();
                }
            }
            Fault::HostStops(index) => {
                self.marks.hit(Mark::HostDrained);
                self.hosts[index].kill();
                self.deregister(index);
                let down = self.rng.below(2_000_000);
                self.at(down, Happening::Fault(Fault::HostStarts(index)));
            }
            Fault::HostDrains(index) => self.host_drains(index),
            Fault::HostPauses(index, long) => {
                self.marks.hit(Mark::HostPaused);
                self.hosts[index].paused_until = self.now.plus_us(long);
            }
            Fault::HostCut(index, long) => {
                self.marks.hit(Mark::HostCut);
                self.hosts[index].cut_until = self.now.plus_us(long);
            }
        }
    }

    fn control_starts(&mut self) {
        if self.control.is_some() {
            return;
        }
        self.control_life += 1;
        let seed = self.rng.draw();
        self.control = Some(Control::start(seed, self.now, &self.disk, self.plant));
        let hosts: Vec<_> = self.registered.values().cloned().collect();
        for info in hosts {
            self.at(1_000, Happening::HostJoined(info, self.control_life));
        }
    }

    /// Of what was under way, a first part has reached the disk and the rest has not. Nobody is told which.
    fn control_dies(&mut self) {
        // Most kills would find nothing under way: some wait for the next append, and come in the middle of it.
        let idle = self.control.as_ref().is_some_and(|control| control.appends.is_empty());
        if idle && !self.kill_armed && !self.healed && self.rng.chance(800) {
            self.kill_armed = true;
            return;
        }
        self.kill_armed = false;
        let Some(control) = self.control.take() else { return };
        self.marks.hit(Mark::ControlKilled);
        let down = self.rng.skewed(4_000_000);
        self.at(down, Happening::Fault(Fault::ControlStarts));
        let kept = self.rng.below(control.appends.len() as u64 + 1);
        for (index, append) in control.appends.into_iter().enumerate() {
            if !append.ready.replies.is_empty() {
                self.marks.hit(Mark::ReplyLostInKill);
            }
            if append.events.is_empty() {
                continue;
            }
            if (index as u64) < kept {
                self.marks.hit(Mark::RecordKeptInKill);
                self.disk.records.push(Arc::clone(&append.events));
                self.late_violation = self.oracle.durable(append.seq, &append.events, &mut self.marks).err();
            } else {
                self.marks.hit(Mark::RecordLostInKill);
                break;
            }
        }
    }

    fn host_starts(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        if host.core.is_none() {
            host.boot(now, LEASE_US);
            self.register(index);
        }
    }

    fn host_drains(&mut self, index: usize) {
        let now = self.now;
        let host = &mut self.hosts[index];
        if let Some(core) = host.core.as_mut().filter(|_| !host.draining) {
            host.draining = true;
            core.step(now, Input::Drain { stop_at: now.plus_ms(3_000), give_up_at: now.plus_ms(8_000) });
        }
    }

    fn register(&mut self, index: usize) {
        let info = self.hosts[index].info();
        self.registered.insert(info.id.clone(), info.clone());
        self.at(1_000, Happening::HostJoined(info, self.control_life));
    }

    fn deregister(&mut self, index: usize) {
        let id = self.hosts[index].id.clone();
        if let Some(info) = self.registered.remove(&id) {
            self.at(1_000, Happening::HostLeft(id, info.incarnation, self.control_life));
        }
    }

    /// Hosts that can renew do; of the others the lease ends in time, on both sides.
    pub(super) fn leases(&mut self) {
        let now = self.now;
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            if host.is_reachable(now) && !host.lease_lost && host.lease_until > now {
                host.lease_until = now.plus_us(LEASE_US);
            } else if host.lease_until <= now {
                self.lease_ended(index);
            }
        }
        self.at(LEASES_US, Happening::Leases);
    }

    fn lease_ended(&mut self, index: usize) {
        let now = self.now;
        if self.registered.contains_key(&self.hosts[index].id) {
            self.marks.hit(Mark::LeaseLost);
            self.deregister(index);
        }
        let host = &mut self.hosts[index];
        if host.paused_until > now {
            return;
        }
        let Some(core) = &mut host.core else { return };
        if !host.lease_lost {
            host.lease_lost = true;
            core.step(now, Input::LeaseLost);
        }
        if host.cut_until <= now && !host.draining {
            host.incarnation = host.incarnation.next();
            core.step(now, Input::LeaseRegained(host.incarnation));
            host.lease_lost = false;
            host.lease_until = now.plus_us(LEASE_US);
            self.register(index);
        }
    }

    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.options.heal();
        for host in &mut self.hosts {
            host.cut_until = self.now;
            host.paused_until = host.paused_until.min(self.now);
        }
        self.control_starts();
        for index in 0..self.hosts.len() {
            self.host_starts(index);
        }
    }
}
