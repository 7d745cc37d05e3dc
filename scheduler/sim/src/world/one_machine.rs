//! What only a single machine has: its disk is the log, and it knows its hosts without asking anybody.

use super::{Fault, Happening, World};
use crate::leader::{Leader, LeaderOptions};
use crate::log::Entry;
use crate::marks::Mark;
use crate::network::Place;
use crate::node::{Fold, Process, uptime_us};
use crate::oracle::Checked;
use crate::plant::Plant;
use wasmill_host_core::Input;
use wasmill_protocol::{LogSeq, Term, Timestamp};
use wasmill_record::event::EventBody;
use wasmill_scheduler_core::Input as LeaderInput;
use wasmill_scheduler_node::leading::Input as NodeInput;

/// How long an append of a troubled disk takes at most, in microseconds.
const SLOW_APPEND_US: u64 = 5_000_000;
/// How long a host's lease lives without renewal, in microseconds.
const LEASE_US: u64 = 5_000_000;
/// The time between two looks at the leases, in microseconds.
const LEASES_US: u64 = 500_000;

impl World {
    /// The control node reads its disk, and leads.
    pub(super) fn machine_starts(&mut self) {
        self.draw_wall_clock(0);
        let node = &mut self.nodes[0];
        node.process = Some(Process::new(node.reading(self.now), node.retention_us, None));
        node.life += 1;
        self.machine_leads();
    }

    /// Reads the whole log and leads on top of it: after a start, and when the time of the leadership before could not go on.
    pub(super) fn machine_leads(&mut self) {
        let (now, seed) = (self.now, self.rng.draw());
        let read = match self.plant {
            Some(Plant::ReplayStopsShort) => self.disk.records.len().saturating_sub(1),
            _ => self.disk.records.len(),
        };
        let mut fold = Fold::default();
        for (entry, seq) in self.disk.records[..read].iter().zip(1..) {
            fold.read(LogSeq(seq), entry).expect("a disk keeps what was written");
        }
        // A planted bug forgets the last record, and appends after it all the same.
        fold.last = self.disk.last();
        fold.prev_hash = self.disk.records.last().map(|entry| entry.hash).unwrap_or_default();
        let term = Term(self.disk.records.iter().filter_map(term_of).max().unwrap_or(0) + 1);
        let node = &mut self.nodes[0];
        let (life, reading, uptime) = (node.life, node.reading(now), node.uptime(now));
        let Some(process) = &mut node.process else { return };
        if !std::mem::replace(&mut process.begun, true) {
            process.publish(fold.last, now);
            process.shown = fold.state.led().clone();
            process.clock.log_found(fold.state.led().last_event(), &fold.state.led().expected(&uptime), reading);
        }
        self.begin_term(0, term, seed, fold, LeaderOptions { plant: self.plant, ..LeaderOptions::default() });
        let hosts: Vec<_> = self.registered.values().cloned().collect();
        for info in hosts {
            self.at(1_000, Happening::HostJoined(Box::new(info), life));
        }
        self.touch_node(0);
    }

    /// The time of a leadership could not go on, and what it had decided is durable: it leads again, with another one.
    pub(super) fn machine_leads_again(&mut self) {
        let reading = self.nodes[0].reading(self.now);
        let Some(process) = &mut self.nodes[0].process else { return };
        process.leader = None;
        process.clock.lead(false, Timestamp(0), reading);
        self.machine_leads();
    }

    /// The newest appends go to the disk, one after the other.
    pub(super) fn append_to_disk(&mut self, count: usize) {
        let life = self.nodes[0].life;
        let delay = self.append_delay();
        let Some(leader) = self.nodes[0].leader() else { return };
        let first = leader.appends.len() == count;
        let Some(append) = leader.appends.front() else { return };
        let seq = append.seq;
        if first {
            self.at(delay, Happening::Durable(seq, life));
        }
        if self.kill_armed.is_some() {
            self.at(delay / 2, Happening::Fault(Fault::NodeDies(0)));
        }
    }

    /// How long it takes until a record is durable, in microseconds.
    pub(super) fn append_delay(&mut self) -> u64 {
        if self.rng.chance(self.options.slow_appends) {
            self.marks.hit(Mark::AppendSlow);
            return self.rng.below(SLOW_APPEND_US);
        }
        50 + self.rng.skewed(self.options.append_us)
    }

    pub(super) fn durable_on_disk(&mut self, seq: LogSeq, life: u64) -> Checked {
        let now = self.now;
        let lag = self.rng.below(self.options.read_model_lag + 1);
        let Some(process) = self.nodes[0].alive(life) else { return Ok(()) };
        let clock = process.clock(now);
        let Some(leader) = &mut process.leader else { return Ok(()) };
        let Some(append) = leader.appends.pop_front() else { return Ok(()) };
        assert_eq!(append.seq, seq, "appends end in order");
        let next = leader.appends.front().map(|append| append.seq);
        let entry = append.entry;
        (process.published, process.heard_us) = (seq, uptime_us(now));
        entry.record.events.iter().for_each(|event| process.shown.apply(seq, event));
        leader.node.step(clock, NodeInput::Appended(seq));
        leader.node.step(clock, LeaderInput::ReadModelAt(LogSeq(seq.0.saturating_sub(lag))).into());
        self.disk.records.push(entry.clone());
        self.oracle.durable(self.now, seq, &entry, &mut self.marks)?;
        if let Some(next) = next {
            let delay = self.append_delay();
            self.at(delay, Happening::Durable(next, life));
        }
        self.touch_node(0);
        Ok(())
    }

    /// Of what was under way, a first part has reached the disk and the rest has not. Nobody is told which.
    pub(super) fn machine_dies(&mut self, leader: Leader) {
        let kept = self.rng.below(leader.appends.len() as u64 + 1);
        if leader.node.under_way().any(|waiting| !waiting.replies.is_empty()) {
            self.marks.hit(Mark::ReplyLostInKill);
        }
        for (index, append) in leader.appends.into_iter().enumerate() {
            let entry = append.entry;
            if (index as u64) < kept {
                self.marks.hit(Mark::RecordKeptInKill);
                self.disk.records.push(entry.clone());
                self.late_violation = self.oracle.durable(self.now, append.seq, &entry, &mut self.marks).err();
            } else {
                self.marks.hit(Mark::RecordLostInKill);
                break;
            }
        }
    }

    /// A host becomes known.
    pub(super) fn register(&mut self, index: usize) {
        self.hosts[index].lease_until = self.now.plus_us(LEASE_US);
        let (info, life) = (self.hosts[index].info(), self.nodes[0].life);
        self.registered.insert(info.id.clone(), info.clone());
        self.at(1_000, Happening::HostJoined(Box::new(info), life));
    }

    /// A host is known no longer.
    pub(super) fn deregister(&mut self, index: usize) {
        let (id, life) = (self.hosts[index].id.clone(), self.nodes[0].life);
        if let Some(info) = self.registered.remove(&id) {
            self.at(1_000, Happening::HostLeft(id, info.incarnation, life));
        }
    }

    fn is_reachable(&self, index: usize) -> bool {
        let cut = self.links.is_cut(self.now, Place::Host(index), Place::Node(0));
        self.hosts[index].core.is_some() && self.hosts[index].paused_until <= self.now && !cut
    }

    /// Hosts that can renew do; of the others the lease ends in time, on both sides.
    pub(super) fn leases(&mut self) -> Checked {
        let now = self.now;
        for index in 0..self.hosts.len() {
            let reachable = self.is_reachable(index);
            let host = &mut self.hosts[index];
            if reachable && !host.lease_lost && host.lease_until > now {
                host.lease_until = now.plus_us(LEASE_US);
            } else if host.lease_until <= now {
                self.lease_ended(index);
            }
        }
        self.at(LEASES_US, Happening::Leases);
        self.sweep_if_due(0)?;
        self.look_at_clock(0)
    }

    fn lease_ended(&mut self, index: usize) {
        let now = self.now;
        if self.registered.contains_key(&self.hosts[index].id) {
            self.marks.hit(Mark::LeaseLost);
            self.deregister(index);
        }
        let cut = self.links.is_cut(now, Place::Host(index), Place::Node(0));
        let host = &mut self.hosts[index];
        if host.paused_until > now {
            return;
        }
        let Some(core) = &mut host.core else { return };
        if !host.lease_lost {
            host.lease_lost = true;
            core.step(now, Input::LeaseLost);
        }
        if !cut && !host.draining {
            host.incarnation = host.incarnation.next();
            core.step(now, Input::LeaseRegained(host.incarnation));
            host.lease_lost = false;
            self.register(index);
        }
        self.touch_host(index);
    }
}

fn term_of(entry: &Entry) -> Option<u64> {
    entry.record.events.iter().find_map(|event| match event.body {
        EventBody::TermStarted { term, .. } => Some(term.0),
        _ => None,
    })
}
