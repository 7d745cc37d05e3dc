//! What a control node keeps for the log, the seat and the other nodes, where it is not alone.

use std::collections::BTreeMap;

use wasmill_fabric_core::append::{self, Appender, CallId, WriterId};
use wasmill_fabric_core::candidacy::{self, Candidacy, Round};
use wasmill_fabric_core::lease::KeepAliveNumber;
use wasmill_fabric_models::etcd::LeaseId;
use wasmill_protocol::command::Command;
use wasmill_protocol::{LogSeq, Term, Timestamp};
use wasmill_scheduler_node::Forwards;
use wasmill_scheduler_node::forward::{self, ForwardId};
use wasmill_scheduler_node::heard::CallName;
use wasmill_scheduler_node::recorded::Fate;
use wasmill_scheduler_node::watch::Question;

use crate::clients::RequestId;
use crate::plant::Plant;
use crate::servers::HostEntry;
use crate::tick::NextTick;
use crate::world::Sender;

/// The shells around the machines of the fabric, and what is under way.
#[derive(Debug)]
pub struct ClusterSide {
    /// Decides about appends, of one leadership.
    pub appender: Appender,
    /// Tells its records from those of everybody else.
    pub writer: WriterId,
    /// Whether several NATS servers keep the log.
    replicated: bool,
    /// The number of the next append.
    pub next_append: u64,
    /// Decides about the seat, while the node stands for election or has it.
    pub seat: Option<Candidacy>,
    /// The lease of the newest round.
    pub seat_lease: Option<LeaseId>,
    /// Asked of the log and not answered.
    pub log_calls: BTreeMap<u64, LogWait>,
    /// Asked of etcd and not answered.
    pub etcd_calls: BTreeMap<u64, EtcdWait>,
    /// Tells the machines that ask where the log ends from one another: this node follows or leads anew.
    pub asks: u64,
    /// The hosts, as this node hears of them while it leads.
    pub watch: HostWatch,
    /// Decides about commands that another node is to decide.
    pub forwards: Forwards,
    /// The clients that wait for those.
    pub forwarding: BTreeMap<ForwardId, Waiting>,
    /// Tells what this process asks of leaders from what others do.
    pub asker: u64,
    /// The last record that anybody is known to have seen.
    pub floor: LogSeq,
    /// What others were told.
    pub raised: LogSeq,
    /// The times for which ticks are on the agenda.
    pub seat_tick_at: NextTick,
    /// As above.
    pub follow_tick_at: NextTick,
    /// As above.
    pub append_tick_at: NextTick,
    /// As above.
    pub forward_tick_at: NextTick,
    /// When it was resumed last.
    pub resumed_at: Timestamp,
    /// When the servers have last said what time it is.
    pub time_told_at: Timestamp,
    next_call: u64,
}

/// A question of a machine of this process, which answers of an earlier one must not be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// Grows with every machine that asks where the log ends.
    pub by: u64,
    /// Which of its questions.
    pub question: Question,
}

/// What an answer of the log is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogWait {
    /// A try of an append.
    Publish(CallId),
    /// What stands in the place of an append.
    ReadBack(CallId),
    /// Where the log ends. An answer that is late may be older than what was read since, so it is compared with what was seen when it was
    /// asked for. The second number is how often it was asked already, the question that of the machine that waits.
    End(LogSeq, u32, Option<Asked>),
    /// Whether the log was trimmed for the leader of a term.
    Trim(Term),
    /// What time it is, and when that was asked.
    Time(Timestamp),
}

/// What an answer of etcd is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdWait {
    /// A lease for a round.
    Grant(Round),
    /// A keepalive of a round, and when it was sent.
    KeepAlive(Round, KeepAliveNumber, Timestamp),
    /// The election of a round.
    Campaign(Round),
    /// The guarded write of a round.
    Guard(Round),
    /// The list of hosts.
    Hosts(u64),
    /// A watch on the hosts, and from which revision on.
    Watch(u64, u64),
    /// How far others have seen the log go; asked before it is asked where it ends.
    Mark(Option<Asked>),
    /// Others were told how far the log went.
    Raise,
    /// Nobody waits for it.
    Nothing,
}

/// Follows who lives among the hosts.
#[derive(Debug, Default)]
pub struct HostWatch {
    /// Grows whenever watching begins anew, so that what comes from an earlier time is recognised; 0 while nobody watches.
    pub epoch: u64,
    /// The hosts that are known, by their index.
    pub known: BTreeMap<usize, HostEntry>,
}

/// What a client of this node waits for that another node is to decide.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Which client.
    pub request: RequestId,
    /// What is asked.
    pub command: Command,
    /// The term whose leader was asked last.
    pub asked_of: Option<Term>,
}

/// Where the answer to a call goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallFrom {
    /// Who has asked.
    pub sender: Sender,
    /// In which of its calls.
    pub number: u64,
    /// Which try this is.
    pub tries: u32,
}

/// Commands on their way to the leader of a term.
#[derive(Debug, Clone)]
pub struct Forwarded {
    /// Who sent them.
    pub from: CallFrom,
    /// By which name the leader knows the call.
    pub name: CallName,
    /// To whoever leads in this term.
    pub term: Term,
    /// What is asked.
    pub commands: Vec<Command>,
}

impl ClusterSide {
    /// A process that begins; `writer` and `seed` are its own.
    pub fn new(writer: u64, replicated: bool, plant: Option<Plant>) -> Self {
        let writer = WriterId(writer);
        Self {
            appender: appender(writer, replicated),
            writer,
            replicated,
            next_append: 1,
            seat: None,
            seat_lease: None,
            asks: 0,
            log_calls: BTreeMap::new(),
            etcd_calls: BTreeMap::new(),
            watch: HostWatch::default(),
            forwards: Forwards::new(forwards_config(plant), writer.0),
            forwarding: BTreeMap::new(),
            asker: writer.0,
            floor: LogSeq(0),
            raised: LogSeq(0),
            seat_tick_at: NextTick::default(),
            follow_tick_at: NextTick::default(),
            append_tick_at: NextTick::default(),
            forward_tick_at: NextTick::default(),
            resumed_at: Timestamp(0),
            time_told_at: Timestamp(0),
            next_call: 0,
        }
    }

    /// A number that names a call or a watch of this process.
    pub fn number(&mut self) -> u64 {
        self.next_call += 1;
        self.next_call
    }

    /// Stands for election, as a new candidate.
    pub fn stand(&mut self, lease_ttl_s: i64, seed: u64) {
        let ttl_us = u64::try_from(lease_ttl_s).unwrap_or(0) * 1_000_000;
        self.seat = Some(Candidacy::new(candidacy::Config::for_leases(ttl_us, seed)));
        self.seat_lease = None;
    }

    /// Whether it has the seat.
    pub fn is_seated(&self) -> bool {
        self.seat.as_ref().is_some_and(|seat| seat.elected().is_some())
    }

    /// A leadership is over: the next one begins with a new appender.
    pub fn end_leadership(&mut self) {
        self.writer = WriterId(self.writer.0.wrapping_add(1));
        self.appender = appender(self.writer, self.replicated);
        self.append_tick_at = NextTick::default();
        // Nobody waits for what those are about any more.
        self.log_calls.retain(|_, wait| !matches!(wait, LogWait::Publish(_) | LogWait::ReadBack(_)));
        self.watch = HostWatch::default();
    }
}

/// As in a real node, but that a leader is looked for less often: it is the same, and costs less here.
fn forwards_config(plant: Option<Plant>) -> forward::Config {
    let fate: Option<fn(Fate) -> Fate> = match plant {
        Some(Plant::FateUnread) => Some(|_| Fate::NotRecorded),
        Some(Plant::FateGuessed) => Some(|fate| if fate == Fate::Unknown { Fate::NotRecorded } else { fate }),
        _ => None,
    };
    forward::Config { tampering: forward::Tampering { fate }, ..forward::Config::default() }
}

fn appender(writer: WriterId, replicated: bool) -> Appender {
    let mut appender = Appender::new(append::Config::default(), writer);
    appender.step(0, append::Input::Pipeline(!replicated));
    appender
}
