//! Hosts as the leader knows them: soft facts that no log holds.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wasmill_protocol::command::{Counted, Done, Refusal};
use wasmill_protocol::message::{Heartbeat, HostInfo, StopCause};
use wasmill_protocol::{AttemptId, Digest, HostId, Incarnation, TenantName, Timestamp, kept};
use wasmill_record::event::EventBody;

use super::Core;
use super::flight::Flight;
use super::losses::HostLoss;
use crate::config::CoreConfig;
use crate::dispatch::Charge;
use crate::io::HostView;
use crate::policy::{HostRoom, HostStatus};
use crate::state::{Labels, Slot, State};

/// Hosts that are drained at the same time, those that are gone included: until somebody ends the
/// draining they are remembered.
const HOSTS_DRAINED_MAX: usize = 10_000;

/// One host in its present life.
#[derive(Debug)]
pub(crate) struct Host {
    /// Its number where dispatch counts hosts.
    pub(crate) slot: u32,
    pub(super) info: HostInfo,
    pub(super) labels: Arc<Labels>,
    pub(super) sated: Arc<[TenantName]>,
    pub(super) heartbeat: Option<Heartbeat>,
    /// Its lease lasts.
    pub(super) joined: bool,
    /// An operator drains it: what the state says.
    pub(super) drained: bool,
    pub(super) last_seen: Timestamp,
    /// It refused or handed back an attempt: its next heartbeat says how much it takes.
    pub(super) credit_stale: bool,
    /// It let assignments time out.
    pub(super) distrusted_until: Timestamp,
    /// Attempts that were placed on it and have not ended.
    pub(super) flights: BTreeMap<AttemptId, Flight>,
    /// Memory limits of those, summed up.
    memory_promised: u64,
    /// The memory that the host said last that it holds beyond that.
    pub(super) memory_beyond: u64,
    /// Modules that are ready to run there, as it said last, in order.
    pub(super) modules_warm: Arc<[Digest]>,
    /// Attempts in its last heartbeat that are not current.
    pub(super) strangers: BTreeSet<AttemptId>,
    /// Where the state had what runs on it when something was placed there last.
    pub(crate) placement: Option<Slot>,
}

impl Host {
    fn new(slot: u32, info: HostInfo, now: Timestamp) -> Self {
        Self {
            slot,
            labels: Arc::new(info.labels.clone()),
            info,
            sated: Arc::default(),
            heartbeat: None,
            joined: true,
            drained: false,
            last_seen: now,
            credit_stale: false,
            distrusted_until: Timestamp(0),
            flights: BTreeMap::new(),
            memory_promised: 0,
            memory_beyond: 0,
            modules_warm: Arc::default(),
            strangers: BTreeSet::new(),
            placement: None,
        }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.info.incarnation
    }

    pub(crate) fn id(&self) -> &HostId {
        &self.info.id
    }

    #[cfg(test)]
    pub(crate) fn memory_beyond(&self) -> u64 {
        self.memory_beyond
    }

    #[cfg(test)]
    pub(crate) fn attempts(&self) -> Vec<AttemptId> {
        self.flights.keys().copied().collect()
    }

    /// Whether the host has shown to hold the attempt.
    pub(super) fn holds(&self, id: AttemptId) -> bool {
        self.flights.get(&id).is_some_and(Flight::is_confirmed)
    }

    /// An attempt was placed on it.
    pub(crate) fn began(&mut self, id: AttemptId, flight: Flight) {
        self.memory_promised = self.memory_promised.saturating_add(flight.memory_bytes);
        let before = self.flights.insert(id, flight);
        assert!(before.is_none(), "an attempt is placed once");
    }

    /// The attempt has ended. Returns what was known of it.
    pub(super) fn ended(&mut self, id: AttemptId) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        self.memory_promised = self.memory_promised.saturating_sub(flight.memory_bytes);
        Some(flight)
    }

    fn status(&self, now: Timestamp, config: &CoreConfig) -> HostStatus {
        if !self.joined || now > self.last_seen.plus_ms(config.host_timeout_ms) {
            HostStatus::Lost
        } else if self.drained || self.heartbeat.as_ref().is_some_and(|heartbeat| heartbeat.draining) {
            HostStatus::Draining
        } else {
            HostStatus::Ready
        }
    }

    /// The view that policies have of it, but for its kind.
    pub(crate) fn room(&self, now: Timestamp, config: &CoreConfig) -> HostRoom {
        let status = self.status(now, config);
        let attempts = self.flights.len();
        let beat = self.heartbeat.as_ref();
        let credit = beat.map_or(0, |beat| beat.credit.min(config.host_credit_max));
        let slots = beat.map_or(0, |beat| beat.slots);
        let open = status == HostStatus::Ready && !self.credit_stale && now >= self.distrusted_until;
        let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
        let left = if open { credit.saturating_sub(attempts) } else { 0 };
        let kept = kept::credit(slots, credit).min(left);
        let memory_bytes = beat.map_or(self.info.memory_bytes, |beat| beat.memory_bytes);
        // As much waits in proportion to memory as in proportion to slots.
        let memory_most = u128::from(memory_bytes) * u128::from(credit.max(slots)) / u128::from(slots.max(1));
        HostRoom {
            id: self.info.id.clone(),
            kind: 0,
            status,
            free: left - kept,
            kept,
            attempts,
            slots,
            cores: self.info.cores,
            memory_bytes,
            memory_promised: self.memory_promised.saturating_add(self.memory_beyond),
            memory_most: u64::try_from(memory_most).unwrap_or(u64::MAX).max(memory_bytes).max(1),
            sated: Arc::clone(&self.sated),
            labels: Arc::clone(&self.labels),
            load_millicores: beat.map_or(0, |beat| beat.load_millicores),
            modules_cached: beat.map_or(0, |beat| beat.modules_cached),
            modules_warm: Arc::clone(&self.modules_warm),
            memory_held: beat.map_or(0, |beat| beat.memory_held),
        }
    }

    /// The host says how much memory it holds. Attempts on their way to it, or that were when it
    /// said that, are not in there; those that an earlier leader has left there, or an earlier life
    /// of the host, are. Of the two sums the larger counts.
    pub(super) fn count_memory(&mut self, heartbeat: &Heartbeat, now: Timestamp) {
        let is_unseen = |flight: &&Flight| flight.is_unseen(heartbeat, now);
        let unseen = self.flights.values().filter(is_unseen).map(|flight| flight.memory_bytes);
        let held = unseen.fold(heartbeat.memory_held, u64::saturating_add);
        self.memory_beyond = held.saturating_sub(self.memory_promised);
    }

    /// When the room changes without a word, at the earliest: it is silent for too long, or trusted
    /// again.
    pub(crate) fn due(&self, now: Timestamp, config: &CoreConfig) -> Option<Timestamp> {
        let silent = self.last_seen.plus_ms(config.host_timeout_ms).plus_us(1);
        let changes = [silent, self.distrusted_until];
        changes.into_iter().filter(|at| self.joined && *at > now).min()
    }

    pub(super) fn view(&self, now: Timestamp, config: &CoreConfig) -> HostView {
        let said = self.heartbeat.as_ref();
        HostView {
            info: self.info.clone(),
            heard: said.is_some(),
            slots: said.map_or(0, |said| said.slots),
            load_millicores: said.map_or(0, |said| said.load_millicores),
            modules_cached: said.map_or(0, |said| said.modules_cached),
            state: self.status(now, config).as_str(),
            attempts: u32::try_from(self.flights.len()).unwrap_or(u32::MAX),
            unready: said.map_or(0, |said| said.unready),
            last_seen: self.last_seen,
        }
    }

    /// Its flights are the attempts that run there according to the log.
    pub(super) fn assert_consistent(&self, state: &State) {
        let placed = state.placements.of(&self.info.id, self.incarnation());
        assert!(self.joined || self.flights.is_empty(), "a host that has left has nothing");
        assert_eq!(self.flights.len(), placed.count as usize, "{} has what was placed on it", self.info.id);
        let known = |slot: Slot| self.flights.contains_key(&state.tasks[slot].attempt_id());
        assert!(placed.slots(&state.tasks).all(known), "{} has what was placed on it", self.info.id);
        let promised: u64 = self.flights.values().map(|flight| flight.memory_bytes).sum();
        assert_eq!(promised, self.memory_promised, "{} has promised what was placed on it", self.info.id);
    }
}

impl Core {
    /// A host lives. A new life of a known host means that the one before is over, and so does
    /// another process with the same life.
    ///
    /// An earlier life than one that has left, or than what the log says, is another process's, or
    /// that of a host whose rival has gone: the process that joined last is there now. An attempt
    /// that runs on a later life according to the log is waited for all the same.
    pub(super) fn host_joined(&mut self, info: HostInfo) {
        let (id, incarnation) = (info.id.clone(), info.incarnation);
        if let Some(host) = self.hosts.get_mut(&id).filter(|host| host.joined) {
            let loss = if host.info.is_rivalled_by(&info) { HostLoss::Rivalled } else { HostLoss::Ended };
            match host.incarnation().cmp(&incarnation) {
                Ordering::Greater => {
                    self.tally.host_news_stale += 1;
                    return;
                }
                Ordering::Equal if !host.info.is_another_process(info.process) => {
                    host.info = info;
                    self.dispatch.fleet.touch(host.slot);
                    return;
                }
                Ordering::Equal => self.lose(&id, incarnation, loss),
                Ordering::Less => {}
            }
            self.lose_before(&id, incarnation, loss);
        } else {
            self.lose_before(&id, incarnation, HostLoss::Ended);
        }
        let slot = self.hosts.get(&id).map(|host| host.slot);
        let slot = slot.unwrap_or_else(|| self.dispatch.fleet.appear());
        self.dispatch.fleet.touch(slot);
        let mut host = Host::new(slot, info, self.now);
        host.drained = self.state.drained.contains(&id);
        self.hosts.insert(host);
        self.awaited.remove(&(id.clone(), incarnation));
        self.adopt(&id, incarnation);
        // It says how much it takes as soon as it knows who asks.
        self.outbox.greet(slot, incarnation);
        self.dispatch.wake();
    }

    /// Takes over what runs on a host according to the log. Its heartbeats will say what is true.
    fn adopt(&mut self, id: &HostId, incarnation: Incarnation) {
        let placed = self.state.placements.of(id, incarnation);
        let slots: Vec<_> = placed.slots(&self.state.tasks).collect();
        let host = self.hosts.get_mut(id).expect("it has just joined");
        for &slot in &slots {
            let task = &self.state.tasks[slot];
            let shape = &self.state.shapes.shape(task.shape).key;
            let weight = self.state.tenants.entry(shape.tenant).weight;
            let flight = Flight::new(self.now, shape.tenant, weight, shape.memory_bytes, Charge::default());
            host.began(task.attempt_id(), flight);
        }
        for slot in slots {
            if self.state.tasks[slot].cancel_requested {
                self.send_stop(slot);
            }
        }
    }

    /// An operator drains a host, or ends the draining. It outlives the leader and the host's own
    /// lives.
    pub(super) fn drain_host(&mut self, id: HostId, draining: bool) -> Result<Done, Refusal> {
        let drained = self.state.drained.contains(&id);
        if !drained && !self.hosts.contains(&id) {
            return Err(Refusal::HostUnknown);
        }
        if drained != draining {
            if draining && self.state.drained.len() >= HOSTS_DRAINED_MAX {
                return Err(Refusal::TooMany { what: Counted::HostsDrained, limit: HOSTS_DRAINED_MAX as u64 });
            }
            if let Some(host) = self.hosts.get_mut(&id) {
                host.drained = draining;
                self.dispatch.fleet.touch(host.slot);
            }
            self.emit(EventBody::HostDrained { host: id, draining });
        }
        Ok(Done::Changed)
    }

    /// Gives the host nothing until it has said how much it takes.
    pub(super) fn wait_for_heartbeat(&mut self, host: &HostId) {
        if let Some(host) = self.hosts.get_mut(host) {
            host.credit_stale = true;
            self.dispatch.fleet.touch(host.slot);
        }
    }

    /// Tells the host of a running task that was asked to stop. If the message is lost, the host's
    /// heartbeats bring it up again.
    pub(super) fn send_stop(&mut self, slot: Slot) {
        let task = &self.state.tasks[slot];
        let id = task.attempt_id();
        let removed = self.state.owner(task).removed;
        let cause = if removed { StopCause::TenantRemoved } else { StopCause::Cancelled };
        let placement = self.state.placements.placement(task.placement);
        let Some(host) = self.hosts.get_mut(&placement.host) else { return };
        if let Some(flight) = host.flights.get_mut(&id) {
            flight.stop(cause, self.now);
            self.outbox.stop(host.slot, placement.incarnation, id, cause);
        }
    }
}
