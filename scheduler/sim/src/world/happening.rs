//! What can be on the agenda.

use std::sync::Arc;

use wasmill_fabric_models::etcd::LeaseId;
use wasmill_protocol::command::{Command, Done, Refusal};
use wasmill_protocol::message::{FromHost, Heartbeat, HostAck, HostInfo, ToHost};
use wasmill_protocol::{AttemptId, HostId, Incarnation, LogSeq, Term};
use wasmill_scheduler_core::policy::ask::{AskId, PolicyAnswer};
use wasmill_scheduler_node::following::{self, Presence};
use wasmill_scheduler_node::forward::Outcome;
use wasmill_scheduler_node::upkeep::Ended;
use wasmill_scheduler_node::watch::Question;

use super::{ClusterFault, Fault, World};
use crate::clients::RequestId;
use crate::hosts::BatchAddress;
use crate::network::Place;
use crate::node::{Asked, Forwarded};
use crate::oracle::Checked;
use crate::servers::{Caller, EtcdAnswer, EtcdAsk, LogAnswer, LogAsk, Snapshot, WatchNews};

/// One life of a control node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// Which node.
    pub node: usize,
    /// Which life of it.
    pub life: u64,
}

/// Something on the agenda.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A client does something.
    Act,
    /// A client changes something, whatever was before.
    Change,
    /// A request reaches a control node.
    Asked(usize, RequestId, Box<Command>),
    /// A request was looked up in the read model and reaches the core, or the leader.
    LookedUp(Sender, RequestId, Box<Command>),
    /// An answer reaches a client.
    Answered(RequestId, Result<Done, Refusal>),
    /// A client runs out of patience.
    Impatient(RequestId),
    /// A command of another node reaches the one that leads in its term.
    Forwarded(usize, Box<Forwarded>),
    /// Something comes of a try of a call that a node has made to a leader.
    ForwardEnds(Sender, u64, u32, Box<Outcome>),
    /// A node's forwards asked to be woken.
    ForwardTick(Sender),
    /// A node hears whether the leader that it follows is there.
    LeaderAsked(Sender, Question, Presence),
    /// A node that follows asked to be woken.
    FollowTick(Sender),
    /// The first append under way is durable, on a single machine.
    Durable(LogSeq, u64),
    /// A control node's core asked to be woken.
    NodeTick(Sender),
    /// Membership tells the control node of a host, in order, on a single machine.
    HostJoined(Box<HostInfo>, u64),
    /// Membership tells the control node that a lease has ended, on a single machine.
    HostLeft(HostId, Incarnation, u64),
    /// A message of a control node reaches a host.
    ToHost(usize, Sender, Arc<ToHost>),
    /// The payloads of a message to a host are there, in the term of a leader.
    PayloadsAttached(Sender, Box<(Term, HostId)>),
    /// A host's answer to a message reaches the control node that sent it.
    HostAck(Sender, Box<(HostId, HostAck)>),
    /// Reports reach a control node.
    FromHost(usize, BatchAddress, Arc<FromHost>),
    /// A heartbeat reaches a control node.
    Heartbeat(usize, Arc<Heartbeat>),
    /// An acknowledgement of the leader of a term reaches a host.
    BatchAcked(BatchAddress, Term),
    /// A host stops waiting for an acknowledgement.
    BatchTimeout(BatchAddress),
    /// A host's core asked to be woken.
    HostTick(usize, u64),
    /// A guest ends by itself.
    GuestEnds(usize, u64, AttemptId),
    /// The module of an unready attempt is compiled.
    GuestReadied(usize, u64, AttemptId),
    /// A guest saves a checkpoint.
    GuestCheckpoint(usize, u64, AttemptId),
    /// A guest that was stopped is gone.
    GuestStopped(usize, u64, AttemptId),
    /// Leases are renewed, or end, on a single machine.
    Leases,
    /// Something with the log.
    Log(LogHappening),
    /// Something with etcd.
    Etcd(EtcdHappening),
    /// A policy outside answers what a life of a control node has asked.
    PolicyAnswers(Sender, Box<(AskId, PolicyAnswer)>),
    /// Another policy decides from now on.
    PolicySeated,
    /// Something goes wrong.
    Fault(Fault),
    /// Something goes wrong that only a cluster knows.
    ClusterFault(ClusterFault),
    /// Everything is repaired, and nothing goes wrong any more.
    Heal,
}

/// Something with the log of a cluster.
#[derive(Debug, Clone)]
pub enum LogHappening {
    /// A request reaches the servers.
    Ask(Caller, Box<LogAsk>),
    /// The server stores the next record.
    StoreNext,
    /// An answer reaches a node.
    Answer(Caller, Box<LogAnswer>),
    /// A node stops waiting for an answer.
    Timeout(Caller),
    /// A node hears that there is something to read, or looks by itself.
    News(Sender),
    /// A node looks by itself, and will again.
    Poll(Sender),
    /// A node asks once more where the log ends.
    Look(Sender, u32, Option<Asked>),
    /// A leader of a term has stored a snapshot.
    SnapshotStored(Sender, Term, Arc<Snapshot>),
    /// Some other work of the leader of a term has ended.
    WorkEnded(Sender, Term, Box<Ended>),
    /// A node's appender asked to be woken.
    AppendTick(Sender),
}

/// Something with etcd.
#[derive(Debug, Clone)]
pub enum EtcdHappening {
    /// A request reaches the servers.
    Ask(Caller, EtcdAsk),
    /// An answer reaches a node or a host.
    Answer(Caller, Box<EtcdAnswer>),
    /// A node or a host stops waiting for an answer.
    Timeout(Caller),
    /// Those who watch hear of something.
    WatchNews(Sender, Box<WatchNews>),
    /// etcd looks which leases are over.
    Tick,
    /// A node's candidate asked to be woken.
    SeatTick(Sender),
    /// A host's lease asked to be woken.
    HostLeaseTick(usize, u64),
    /// A host tries to become known.
    HostRegisters(usize, u64),
    /// A host hears that it is not known under its lease any more.
    HostKeyGone(usize, u64, LeaseId),
}

impl Happening {
    /// The control node that this happens to, if it is one: while that is stopped it does not notice.
    pub(super) fn node(&self) -> Option<usize> {
        match self {
            Self::Asked(node, ..) | Self::Forwarded(node, _) | Self::FromHost(node, ..) | Self::Heartbeat(node, ..) => {
                Some(*node)
            }
            Self::LookedUp(sender, ..)
            | Self::NodeTick(sender)
            | Self::ForwardEnds(sender, ..)
            | Self::ForwardTick(sender)
            | Self::LeaderAsked(sender, ..)
            | Self::FollowTick(sender)
            | Self::HostAck(sender, ..)
            | Self::PayloadsAttached(sender, ..)
            | Self::PolicyAnswers(sender, _)
            | Self::Log(
                LogHappening::News(sender)
                | LogHappening::Poll(sender)
                | LogHappening::Look(sender, ..)
                | LogHappening::SnapshotStored(sender, ..)
                | LogHappening::WorkEnded(sender, ..)
                | LogHappening::AppendTick(sender),
            )
            | Self::Etcd(EtcdHappening::WatchNews(sender, _) | EtcdHappening::SeatTick(sender)) => Some(sender.node),
            Self::Log(LogHappening::Answer(caller, _) | LogHappening::Timeout(caller))
            | Self::Etcd(EtcdHappening::Answer(caller, _) | EtcdHappening::Timeout(caller)) => match caller.place {
                Place::Node(node) => Some(node),
                _ => None,
            },
            _ => None,
        }
    }
}

impl World {
    pub(super) fn happen(&mut self, happening: Happening) -> Checked {
        match happening {
            Happening::Act => self.act(),
            Happening::Change => self.change(),
            Happening::Asked(node, request, command) => return self.asked(node, request, *command),
            Happening::LookedUp(sender, request, command) => return self.looked_up(sender, request, *command),
            Happening::Answered(request, answer) => return self.answered(request, answer),
            Happening::Impatient(request) => self.impatient(request),
            Happening::Forwarded(node, forwarded) => return self.hear_forwarded(node, *forwarded),
            Happening::ForwardEnds(sender, number, tries, outcome) => {
                self.forward_ends(sender, number, tries, *outcome);
            }
            Happening::ForwardTick(sender) => self.forward_tick(sender),
            Happening::FollowTick(sender) => self.follow_tick(sender),
            Happening::LeaderAsked(sender, question, presence) => {
                if self.nodes[sender.node].alive(sender.life).is_some() {
                    self.step_following(sender.node, following::Input::LeaderAsked { question, presence });
                }
            }
            Happening::Durable(seq, life) => return self.durable_on_disk(seq, life),
            Happening::NodeTick(sender) => self.node_tick(sender),
            Happening::HostJoined(info, life) => self.host_joined(Sender { node: 0, life }, *info),
            Happening::HostLeft(host, incarnation, life) => {
                self.host_left(Sender { node: 0, life }, host, incarnation);
            }
            Happening::ToHost(host, sender, message) => return self.reach_host(host, sender, &message),
            Happening::PayloadsAttached(sender, to) => return self.payloads_attached(sender, to.0, &to.1),
            Happening::HostAck(sender, ack) => self.host_ack(sender, ack.0, ack.1),
            Happening::FromHost(node, address, message) => self.hear_host(node, address, &message),
            Happening::Heartbeat(node, heartbeat) => self.heartbeat(node, &heartbeat),
            Happening::BatchAcked(address, term) => return self.batch_acked(address, term),
            Happening::BatchTimeout(address) => self.batch_timeout(address),
            Happening::HostTick(host, life) => self.host_tick(host, life),
            Happening::GuestEnds(host, life, id) => self.guest_ends(host, life, id),
            Happening::GuestReadied(host, life, id) => self.guest_readied(host, life, id),
            Happening::GuestCheckpoint(host, life, id) => self.guest_checkpoint(host, life, id),
            Happening::GuestStopped(host, life, id) => self.guest_stopped(host, life, id),
            Happening::Leases => return self.leases(),
            Happening::Log(happening) => return self.happen_to_log(happening),
            Happening::Etcd(happening) => return self.happen_to_etcd(happening),
            Happening::PolicyAnswers(sender, answer) => return self.policy_answers(sender, answer.0, answer.1),
            Happening::PolicySeated => self.policy_seated(),
            Happening::Fault(fault) => self.fault(fault),
            Happening::ClusterFault(fault) => return self.cluster_fault(fault),
            Happening::Heal => self.heal(),
        }
        Ok(())
    }

    fn happen_to_log(&mut self, happening: LogHappening) -> Checked {
        match happening {
            LogHappening::Ask(caller, ask) => self.log_asked(caller, *ask),
            LogHappening::StoreNext => return self.store_next(),
            LogHappening::Answer(caller, answer) => return self.log_answered(caller, Some(*answer)),
            LogHappening::Timeout(caller) => return self.log_answered(caller, None),
            LogHappening::News(sender) => return self.read_log(sender),
            LogHappening::Poll(sender) => return self.poll_log(sender),
            LogHappening::Look(sender, looks, asked) => {
                if self.nodes[sender.node].alive(sender.life).is_some() {
                    self.look_for_end(sender.node, looks, asked);
                }
            }
            LogHappening::SnapshotStored(sender, term, snapshot) => self.snapshot_stored(sender, term, &snapshot),
            LogHappening::WorkEnded(sender, term, ended) => self.work_ended(sender, term, *ended),
            LogHappening::AppendTick(sender) => self.append_tick(sender),
        }
        Ok(())
    }

    fn happen_to_etcd(&mut self, happening: EtcdHappening) -> Checked {
        match happening {
            EtcdHappening::Ask(caller, ask) => self.etcd_asked(caller, ask),
            EtcdHappening::Answer(caller, answer) => self.etcd_answered(caller, Some(*answer)),
            EtcdHappening::Timeout(caller) => self.etcd_answered(caller, None),
            EtcdHappening::WatchNews(sender, news) => self.watch_news(sender, *news),
            EtcdHappening::Tick => return self.etcd_tick(),
            EtcdHappening::SeatTick(sender) => self.seat_tick(sender),
            EtcdHappening::HostLeaseTick(host, life) => self.host_lease_tick(host, life),
            EtcdHappening::HostKeyGone(host, life, lease) => self.host_key_gone(host, life, lease),
            EtcdHappening::HostRegisters(host, life) => self.host_registers(host, life),
        }
        Ok(())
    }
}
