//! etcd: what nodes and hosts ask of it, and what they hear.

use wasmill_fabric_core::candidacy::Candidacy;
use wasmill_fabric_models::etcd::{Compare, EtcdError, LeaseId, Op, Range};
use wasmill_protocol::Term;

use super::{EtcdHappening, Happening, Sender, World};
use crate::network::Place;
use crate::node::EtcdWait;
use crate::oracle::{Checked, hold};
use crate::servers::{
    Caller, Claim, ELECTION, EtcdAnswer, EtcdAsk, HOSTS, HostEntry, MARK, host_key, host_of, leader_key,
};

/// How long a process waits for an answer of etcd, or until it notices that a stream is dead, in microseconds.
pub(super) const ETCD_PATIENCE_US: u64 = 4_000_000;
/// The time between two looks at the leases, in microseconds: etcd looks every 500 ms.
const ETCD_TICK_US: u64 = 500_000;

impl World {
    /// A node asks etcd something.
    pub(super) fn ask_etcd(&mut self, node: usize, ask: EtcdAsk, wait: EtcdWait) {
        let life = self.nodes[node].life;
        let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) else {
            return;
        };
        let call = cluster.number();
        cluster.etcd_calls.insert(call, wait);
        self.send_to_etcd(Caller { place: Place::Node(node), life, call }, ask);
    }

    /// Sends a request. Where an election is waited for there is no end to patience, but a dead connection is noticed.
    pub(super) fn send_to_etcd(&mut self, caller: Caller, ask: EtcdAsk) {
        let campaign = matches!(ask, EtcdAsk::Campaign(_));
        let arrival = self.wire(caller.place, Place::Etcd);
        if let Some(arrival) = arrival {
            self.at_time(arrival, Happening::Etcd(EtcdHappening::Ask(caller, ask)));
        }
        if !campaign || arrival.is_none() {
            self.at(ETCD_PATIENCE_US, Happening::Etcd(EtcdHappening::Timeout(caller)));
        }
    }

    pub(super) fn answer_etcd(&mut self, caller: Caller, answer: EtcdAnswer) {
        match self.wire(Place::Etcd, caller.place) {
            Some(arrival) => self.at_time(arrival, Happening::Etcd(EtcdHappening::Answer(caller, Box::new(answer)))),
            None => self.at(ETCD_PATIENCE_US, Happening::Etcd(EtcdHappening::Timeout(caller))),
        }
    }

    /// A request reaches etcd.
    pub(super) fn etcd_asked(&mut self, caller: Caller, ask: EtcdAsk) {
        let answer = match self.carry_out(caller, ask) {
            Ok(Some(answer)) => Some(answer),
            Ok(None) => None,
            // Without a leader etcd keeps requests waiting until their time is over.
            Err(EtcdError::NoQuorum) => None,
            Err(error) => Some(EtcdAnswer::Failed(error)),
        };
        if let Some(answer) = answer {
            self.answer_etcd(caller, answer);
        } else if self.servers().campaigns.values().all(|waiting| *waiting != caller) {
            self.at(ETCD_PATIENCE_US, Happening::Etcd(EtcdHappening::Timeout(caller)));
        }
        self.etcd_changed();
    }

    fn carry_out(&mut self, caller: Caller, ask: EtcdAsk) -> Result<Option<EtcdAnswer>, EtcdError> {
        let (ttl_s, elapsed_us) = (self.cluster().lease_ttl_s, self.elapsed_us());
        let name = format!("{:?}", caller.place);
        let servers = self.servers();
        let now = servers.etcd_time(elapsed_us);
        let answer = match ask {
            EtcdAsk::Grant => {
                let (lease, ttl_s) = servers.etcd.grant(now, ttl_s, None)?;
                servers.owners.insert(lease, caller);
                EtcdAnswer::Granted(lease, ttl_s)
            }
            EtcdAsk::KeepAlive(lease) => EtcdAnswer::KeptAlive(servers.etcd.keep_alive(now, lease)?),
            EtcdAsk::Campaign(lease) => {
                let id = servers.etcd.campaign(ELECTION, lease, name.into())?;
                servers.campaigns.insert(id, caller);
                return Ok(None);
            }
            EtcdAsk::Guard(lease, term) => {
                let put = Op::Put { key: "term".into(), value: term.0.to_be_bytes().to_vec().into(), lease: None };
                let guard = Compare::created_at(&leader_key(lease), term.0);
                let holds = servers.etcd.txn(&[guard], &[put], &[])?.succeeded;
                if holds {
                    self.oracle.guarded(term, caller);
                }
                EtcdAnswer::Guarded(holds)
            }
            EtcdAsk::Revoke(lease) => {
                servers.etcd.revoke(lease)?;
                EtcdAnswer::Done
            }
            EtcdAsk::Release(lease, term) => {
                let key = leader_key(lease);
                let delete = Op::Delete(Range::Key(key.clone()));
                servers.etcd.txn(&[Compare::created_at(&key, term.0)], &[delete], &[])?;
                servers.etcd.revoke(lease)?;
                EtcdAnswer::Done
            }
            EtcdAsk::PutHost(lease, entry, claim) => {
                let Place::Host(host) = caller.place else { return Ok(None) };
                let (found, _) = servers.etcd.get(&Range::Key(host_key(host)))?;
                if let Some(there) = found.first().map(|found| HostEntry::decode(&found.value)) {
                    let is_another = there.process != entry.process;
                    if is_another && (claim == Claim::IfFree || there.incarnation >= entry.incarnation) {
                        return Ok(Some(EtcdAnswer::Taken(there)));
                    }
                    // A later life of a host is never replaced by an earlier one.
                    if there.incarnation > entry.incarnation {
                        return Ok(Some(EtcdAnswer::Failed(EtcdError::NotLeader)));
                    }
                }
                servers.etcd.put(&host_key(host), entry.encode(), Some(lease))?;
                EtcdAnswer::Done
            }
            EtcdAsk::Hosts => {
                let (found, revision) = servers.etcd.get(&Range::Prefix(HOSTS.into()))?;
                let hosts =
                    found.iter().filter_map(|found| Some((host_of(&found.key)?, HostEntry::decode(&found.value))));
                EtcdAnswer::Hosts(hosts.collect(), revision)
            }
            EtcdAsk::Watch(from, epoch) => self.open_watch(caller, from, epoch)?,
            EtcdAsk::Mark => EtcdAnswer::Mark(servers.read_mark()?),
            EtcdAsk::Raise(seen) => {
                if servers.read_mark()? < seen {
                    servers.etcd.put(MARK, seen.0.to_be_bytes().to_vec().into(), None)?;
                }
                EtcdAnswer::Mark(seen)
            }
        };
        Ok(Some(answer))
    }

    /// Something may have changed in etcd: elections are decided, and those who watch are told.
    pub(super) fn etcd_changed(&mut self) {
        let servers = self.servers();
        let elected = servers.etcd.take_elected();
        let told: Vec<_> =
            elected.into_iter().filter_map(|(id, result)| Some((servers.campaigns.remove(&id)?, result))).collect();
        for (caller, result) in told {
            let answer = match result {
                Ok(leader) => EtcdAnswer::Won(Term(leader.revision)),
                Err(error) => EtcdAnswer::Failed(error),
            };
            self.answer_etcd(caller, answer);
        }
        self.tell_watchers();
        self.tell_hosts();
    }

    pub(super) fn etcd_answered(&mut self, caller: Caller, answer: Option<EtcdAnswer>) {
        match caller.place {
            Place::Node(node) => {
                let Some(process) = self.nodes[node].alive(caller.life) else { return };
                let Some(cluster) = &mut process.cluster else { return };
                let Some(wait) = cluster.etcd_calls.remove(&caller.call) else { return };
                self.node_answered(Sender { node, life: caller.life }, wait, answer);
                self.touch_node(node);
            }
            Place::Host(host) => self.host_answered(host, caller, answer),
            Place::Nats | Place::Etcd => {}
        }
    }

    /// etcd looks which leases are over.
    pub(super) fn etcd_tick(&mut self) -> Checked {
        let elapsed_us = self.elapsed_us();
        let servers = self.servers();
        let now = servers.etcd_time(elapsed_us);
        let ended = servers.etcd.tick(now);
        for lease in ended {
            self.lease_expired(lease)?;
        }
        self.etcd_changed();
        self.at(ETCD_TICK_US, Happening::Etcd(EtcdHappening::Tick));
        Ok(())
    }

    /// A lease has ended by itself. Whoever held it and is not stopped has known that before, by its own clock.
    fn lease_expired(&mut self, lease: LeaseId) -> Checked {
        let now = self.now;
        let servers = self.servers();
        let patient = servers.etcd_is_patient();
        let Some(owner) = servers.owners.remove(&lease) else { return Ok(()) };
        if !patient {
            return Ok(());
        }
        match owner.place {
            Place::Node(node) if self.nodes[node].paused_until <= now => {
                let Some(process) = self.nodes[node].alive(owner.life) else { return Ok(()) };
                let Some(cluster) = &process.cluster else { return Ok(()) };
                // Its shell counts on the seat for as long as it leads, whatever the candidate knows.
                let leads = cluster.seat_lease == Some(lease) && (process.leader.is_some() || cluster.is_seated());
                // What is due at this very moment comes in some order.
                let due = cluster.seat.as_ref().and_then(Candidacy::next_timeout_us);
                let due = due.is_some_and(|at_us| at_us <= now.0);
                hold!(!leads || due, "node-{node} counts on lease {lease:?}, which etcd has ended");
            }
            Place::Host(host) if self.hosts[host].paused_until <= now => {
                self.host_lease_expired(host, owner.life, lease)?;
            }
            _ => {}
        }
        Ok(())
    }
}
