//! What goes into a leadership and what comes out.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use wasmill_protocol::command::{Command, Done, Refusal};
use wasmill_protocol::{Digest, LogSeq, Term, Timestamp};
use wasmill_record::Record;
use wasmill_record::event::Event;
use wasmill_scheduler_core::io::{BenchedPolicy, HostView, MessageOut, QueueDepth, ReplyTo};
use wasmill_scheduler_core::policy::ask::Ask;
use wasmill_scheduler_core::state::Owners;

use crate::Chain;
use crate::upkeep::{Ended, Work};
use crate::watch::Question;

/// Bounds of a leadership.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Appends that are under way at once. With 2, one is being stored while the next waits for it, and what happens meanwhile gathers.
    pub appends_max: usize,
    /// Events that gather at most while the log is busy; then nothing more is taken in.
    pub events_gathered_max: usize,
    /// What is changed on purpose.
    pub tampering: Tampering,
}

impl Default for Config {
    fn default() -> Self {
        Self { appends_max: 2, events_gathered_max: 32 * 1024, tampering: Tampering::default() }
    }
}

/// After how many of its events a record is cut, if it is.
pub type CutAfter = fn(&[Event]) -> Option<usize>;

/// What a test changes in what is recorded; nothing in a real node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tampering {
    /// Changes the events of a record before they are encoded.
    pub spoil: Option<fn(&mut Vec<Event>)>,
    /// Cuts a record after this many of its events although it is not too large.
    pub cut_after: Option<CutAfter>,
}

/// Everything that can happen to a leadership.
#[derive(Debug, Clone)]
pub enum Input {
    /// Something that the core decides about. [`wasmill_scheduler_core::Input::Appended`] is never given: the leadership says so itself.
    Core(wasmill_scheduler_core::Input),
    /// A command of another control node, which is named in the record that decides it.
    Named {
        /// Its name.
        name: CommandName,
        /// Where the answer goes.
        reply_to: ReplyTo,
        /// What is asked.
        command: Box<Command>,
    },
    /// An overview is asked for.
    Overview(ReplyTo),
    /// Blobs that a host has named in reports that the core was not given.
    BlobsDropped(Vec<Digest>),
    /// Some work of the upkeep has ended.
    WorkEnded(Ended),
    /// The first append under way is durable: this record.
    Appended(LogSeq),
    /// The first append under way has failed, and with it all that follow it.
    AppendFailed(AppendFailure),
    /// The log was asked where it ends.
    LogEnds {
        /// In which question.
        question: Question,
        /// Where; `None` when it did not answer.
        end: Option<LogSeq>,
    },
    /// A host has seen this term.
    TermSeen(Term),
    /// The lease of this leadership has ended.
    LeaseLost,
    /// The time of this leadership cannot go on by the clock of this machine.
    TimeEnds,
    /// The node is to stop.
    Shutdown,
}

/// Names a command of another control node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommandName {
    /// Who asks.
    pub asker: u64,
    /// In which of its calls.
    pub number: u64,
    /// Which command of that call, from 0.
    pub place: u32,
}

/// Why an append is not in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendFailure {
    /// Another record stands in its place, or the log did not answer.
    Refused,
    /// The disk is full.
    NoSpace,
}

/// What follows, in this order: effects, then appends, then questions, then the end.
#[derive(Debug, Default)]
pub struct Ready {
    /// To be carried out one after the other, and each completely.
    pub effects: Vec<Effects>,
    /// To be handed to the log one after the other.
    pub appends: Vec<Append>,
    /// Questions to policies that live outside the core.
    pub asks: Vec<Ask>,
    /// To ask the log where it ends.
    pub ask_log: Option<Question>,
    /// The leadership is over: nothing follows any more.
    pub end: Option<End>,
}

impl Ready {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let Self { effects, appends, asks, ask_log, end } = self;
        effects.is_empty() && appends.is_empty() && asks.is_empty() && ask_log.is_none() && end.is_none()
    }
}

/// A record to be appended.
#[derive(Debug, Clone)]
pub struct Append {
    /// Where the log ends with it. It must end one record before.
    pub chain: Chain,
    /// What it says.
    pub record: Arc<Record>,
    /// What is stored.
    pub bytes: Bytes,
    /// Whether the next record holds more of what was decided together with this one. What waits for both waits for that one.
    pub is_cut: bool,
}

/// What was waiting for a record.
#[derive(Debug, Default)]
pub struct Effects {
    /// Everything up to this record is durable.
    pub seq: LogSeq,
    /// The record that has just become durable: shown to readers before anything else of this takes place. `None` when nothing was recorded.
    pub record: Option<Arc<Record>>,
    /// Whose the events of that record are.
    pub owners: Owners,
    /// Work to be begun that goes on beside the leadership. What it takes hold of is as it is after this record: nothing later is shown before.
    pub work: Vec<Work>,
    /// Answers to commands.
    pub replies: Vec<(ReplyTo, Result<Done, Refusal>)>,
    /// Reports to be acknowledged.
    pub acks: Vec<ReplyTo>,
    /// Messages to hosts, in the order of their decisions.
    pub messages: Vec<MessageOut>,
    /// Answers to who asked for an overview.
    pub overviews: Vec<(ReplyTo, Arc<Overview>)>,
    /// Blobs that hosts have named: those of reports that changed nothing are named by no record.
    pub blobs: Vec<Digest>,
}

/// What is going on, as the core sees it.
#[derive(Debug, Clone, Default)]
pub struct Overview {
    /// The hosts.
    pub hosts: Vec<HostView>,
    /// Tasks by state.
    pub queue: QueueDepth,
    /// What was counted, by name.
    pub counters: BTreeMap<String, u64>,
    /// Policies in whose place the built-in default decides.
    pub policies_benched: Vec<BenchedPolicy>,
    /// When this was so.
    pub at: Timestamp,
    /// The record that makes all of this true.
    pub log_seq: LogSeq,
}

/// How a leadership ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The node was to stop, and everything that was decided is durable.
    Shutdown,
    /// The disk is full. Nothing of what was not answered was done.
    NoSpace,
    /// Another node leads, or may.
    Lost(Loss),
}

/// Why a leadership is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Its lease has ended.
    Lease,
    /// A host knows this later term.
    TermSeen(Term),
    /// The log ends at this record, which this leadership has not appended.
    Replaced(LogSeq),
    /// The log has been out of reach for too long: others may reach it.
    LogGone,
    /// An append was refused, or was not answered.
    Refused,
    /// Its time could not go on. Everything that was decided is durable.
    Time,
}

impl From<wasmill_scheduler_core::Input> for Input {
    fn from(input: wasmill_scheduler_core::Input) -> Self {
        Self::Core(input)
    }
}
