//! What goes wrong with processes and with the ways between them, and how it is repaired.

use wasmill_host_core::Input;
use wasmill_protocol::{LogSeq, Timestamp};
use wasmill_scheduler_node::leading::Input as NodeInput;

use super::{Happening, Sender, World};
use crate::leader::{AnswerTo, Leader};
use crate::marks::Mark;
use crate::network::Place;
use crate::oracle::{Checked, hold};
use crate::plant::Plant;

/// Something that goes wrong, or comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A control node starts, if it is dead.
    NodeStarts(usize),
    /// A control node is killed: what is not durable is lost, or is not.
    NodeDies(usize),
    /// Some control node is killed, the leader more often than not.
    SomeNodeDies,
    /// Some control node is asked to stop, the leader more often than not.
    SomeNodeStops,
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
    /// The wall clock of some control node is set, the leader's more often than not.
    ClockSet,
}

/// When clients come once more after everything was repaired, in microseconds: who leads finds out whether it can.
const ACTS_AFTER_HEALING_US: [u64; 3] = [1_000_000, 20_000_000, 40_000_000];
/// The longest pause or cut in microseconds: well beyond the lease.
const OUTAGE_US_MAX: u64 = 20_000_000;

impl World {
    pub(super) fn plan_faults(&mut self, fault_us: u64) {
        for _ in 0..self.options.control_kills {
            let at = self.rng.below(fault_us);
            self.at(at, Happening::Fault(Fault::SomeNodeDies));
        }
        for _ in 0..self.options.control_stops {
            let at = self.rng.below(fault_us);
            self.at(at, Happening::Fault(Fault::SomeNodeStops));
        }
        for _ in 0..self.options.clock_sets {
            let at = self.rng.below(fault_us);
            self.at(at, Happening::Fault(Fault::ClockSet));
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
            Fault::NodeStarts(node) => self.node_starts(node),
            Fault::NodeDies(node) => self.node_dies(node),
            Fault::SomeNodeDies => {
                let node = self.likely_leader();
                self.node_dies(node);
            }
            Fault::SomeNodeStops => self.some_node_stops(),
            Fault::HostStarts(index) => self.host_starts(index),
            Fault::HostDies(index) => {
                if self.hosts[index].alive {
                    self.marks.hit(Mark::HostKilled);
                    self.hosts[index].kill();
                }
            }
            Fault::HostStops(index) => self.host_stops(index),
            Fault::HostDrains(index) => self.host_drains(index),
            Fault::HostPauses(index, long) => {
                self.marks.hit(Mark::HostPaused);
                // Never earlier than it was: what waits for it keeps its order.
                let until = &mut self.hosts[index].paused_until;
                *until = self.now.plus_us(long).max(*until);
            }
            Fault::HostCut(index, long) => self.cut_host(index, long),
            Fault::ClockSet => {
                self.marks.hit(Mark::ClockSet);
                let node = self.likely_leader();
                self.draw_wall_clock(node);
            }
        }
    }

    fn node_starts(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        // It was the process before that was stopped.
        self.nodes[node].paused_until = Timestamp(0);
        if self.is_clustered() {
            self.follower_starts(node);
        } else {
            self.machine_starts();
        }
    }

    fn node_dies(&mut self, node: usize) {
        // Most kills would find nothing under way: some wait for the next append, and come in the middle of it.
        let idle = self.nodes[node].leader().is_some_and(|leader| leader.appends.is_empty());
        if idle && self.kill_armed.is_none() && !self.healed && self.rng.chance(800) {
            self.kill_armed = Some(node);
            return;
        }
        self.kill_armed = None;
        if self.nodes[node].process.is_none() {
            return;
        }
        self.marks.hit(Mark::ControlKilled);
        let down = self.rng.skewed(4_000_000);
        self.at(down, Happening::Fault(Fault::NodeStarts(node)));
        self.process_ends(node);
    }

    /// A control node is asked to stop: one that leads ends once everything is durable that it has decided.
    fn some_node_stops(&mut self) {
        let node = self.likely_leader();
        if self.nodes[node].paused_until > self.now {
            return;
        }
        let sender = Sender { node, life: self.nodes[node].life };
        match self.nodes[node].leader() {
            Some(_) if self.plant != Some(Plant::StopsAtOnce) => self.tell_leader(sender, NodeInput::Shutdown),
            Some(leader) => self.late_violation = check_unanswered(leader).err(),
            None => {}
        }
        if self.nodes[node].process.is_some() && self.nodes[node].leader().is_none() {
            self.node_stops(node);
        }
    }

    /// A leader that was asked to stop has recorded and answered everything that it has taken in.
    pub(super) fn leader_stops(&mut self, node: usize) -> Checked {
        self.nodes[node].leader().map_or(Ok(()), |leader| check_unanswered(leader))?;
        self.marks.hit(Mark::ControlStopped);
        if self.is_clustered() {
            self.give_seat_back(node);
            if let Some(leader) = self.nodes[node].process.as_mut().and_then(|process| process.leader.take()) {
                self.end_calls(node, leader.heard);
            }
        }
        self.node_stops(node);
        Ok(())
    }

    fn node_stops(&mut self, node: usize) {
        let down = self.rng.skewed(4_000_000);
        self.at(down, Happening::Fault(Fault::NodeStarts(node)));
        self.process_ends(node);
    }

    /// A control node's process is over, with everything that was in its memory.
    pub(super) fn process_ends(&mut self, node: usize) {
        let lag = self.rng.below(self.options.read_model_lag + 1);
        let life = self.nodes[node].life;
        let Some(process) = self.nodes[node].process.take() else { return };
        let file = LogSeq(process.published.0.saturating_sub(lag));
        self.nodes[node].read_model = self.nodes[node].read_model.max(file);
        match process.leader {
            Some(leader) if self.is_clustered() => {
                self.marks.hit(Mark::LeaderKilled);
                drop(leader);
            }
            Some(leader) => self.machine_dies(leader),
            None => {}
        }
        if self.is_clustered() {
            self.hang_up(node, life);
        }
    }

    /// The connections of a process are closed: etcd removes the keys of its candidates that wait.
    fn hang_up(&mut self, node: usize, life: u64) {
        let cut = self.links.is_cut(self.now, Place::Node(node), Place::Etcd);
        let servers = self.servers();
        let of_process: Vec<_> = servers
            .campaigns
            .iter()
            .filter(|(_, caller)| caller.place == Place::Node(node) && caller.life == life)
            .map(|(id, _)| *id)
            .collect();
        for id in of_process {
            servers.campaigns.remove(&id);
            if !cut {
                servers.etcd.cancel_campaign(id);
            }
        }
        servers.watchers.retain(|watcher| watcher.node != node);
        self.etcd_changed();
    }

    fn host_starts(&mut self, index: usize) {
        if self.hosts[index].alive {
            return;
        }
        let clustered = self.is_clustered();
        let host = &mut self.hosts[index];
        host.boot();
        if clustered {
            self.host_begins_life(index);
        } else {
            host.incarnation = host.incarnation.next();
            host.begin_core();
            self.register(index);
        }
        self.touch_host(index);
    }

    /// A drained host's process ends.
    fn host_stops(&mut self, index: usize) {
        self.marks.hit(Mark::HostDrained);
        if self.is_clustered() {
            self.host_leaves(index);
        } else {
            self.deregister(index);
        }
        self.hosts[index].kill();
        let down = self.rng.below(2_000_000);
        self.at(down, Happening::Fault(Fault::HostStarts(index)));
    }

    fn host_drains(&mut self, index: usize) {
        if let Some(later) = self.deferred(index) {
            self.at_time(later, Happening::Fault(Fault::HostDrains(index)));
            return;
        }
        let now = self.now;
        let host = &mut self.hosts[index];
        if let Some(core) = host.core.as_mut().filter(|_| !host.draining) {
            host.draining = true;
            core.step(now, Input::Drain { stop_at: now.plus_ms(3_000), give_up_at: now.plus_ms(8_000) });
            self.touch_host(index);
        }
    }

    fn cut_host(&mut self, index: usize, long: u64) {
        self.marks.hit(Mark::HostCut);
        let until = self.now.plus_us(long);
        let others = if self.is_clustered() { [Place::Nats, Place::Etcd] } else { [Place::Node(0), Place::Node(0)] };
        // In a cluster sometimes one of the servers is still there.
        let spared = if self.is_clustered() && self.rng.chance(400) { Some(*self.rng.pick(&others)) } else { None };
        for other in others.into_iter().filter(|other| Some(*other) != spared) {
            self.links.cut(Place::Host(index), other, until);
            self.links.cut(other, Place::Host(index), until);
        }
    }

    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.options.heal();
        self.links.mend();
        // Who is stopped goes on by itself, and hears of everything in its order.
        if self.is_clustered() {
            self.heal_servers();
        }
        for later in ACTS_AFTER_HEALING_US {
            self.at(later, Happening::Change);
        }
        for node in 0..self.nodes.len() {
            self.draw_wall_clock(node);
            self.node_starts(node);
            self.touch_node(node);
        }
        for index in 0..self.hosts.len() {
            self.host_starts(index);
            self.touch_host(index);
        }
    }
}

/// A leader that stops leaves no command behind that it has taken in.
fn check_unanswered(leader: &Leader) -> Checked {
    let open = leader.answers.values().filter(|to| matches!(to, AnswerTo::Client(_) | AnswerTo::Node(..))).count();
    hold!(open == 0 && leader.appends.is_empty(), "a leader stops with {open} commands that it has not answered");
    Ok(())
}
