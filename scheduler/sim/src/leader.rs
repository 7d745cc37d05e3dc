//! A leadership of a simulated control node: the same machine as in the real driver, and who waits for what it answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use wasmill_fabric_core::append::AppendNumber;
use wasmill_protocol::message::FromHost;
use wasmill_protocol::message::control::ControlAnswer;
use wasmill_protocol::{AttemptId, HostId, LogSeq, Term, Timestamp};
use wasmill_record::event::{Event, EventBody, Sequel};
use wasmill_scheduler_core::{Core, CoreConfig, MessageOut, ReplyTo};
use wasmill_scheduler_node::heard::{self, CallName};
use wasmill_scheduler_node::leading::{Append, Config, Tampering};
use wasmill_scheduler_node::upkeep::SnapshotConfig;
use wasmill_scheduler_node::{Chain, Heard, Leading, Post, Upkeep};

use crate::clients::RequestId;
use crate::hosts::BatchAddress;
use crate::log::Entry;
use crate::node::{CallFrom, Fold};
use crate::plant::Plant;
use crate::policies::Policies;
use crate::tick::NextTick;

/// What a control node is while it leads.
#[derive(Debug)]
pub struct Leader {
    /// The decisions.
    pub node: Leading,
    /// Appends under way, oldest first.
    pub appends: VecDeque<UnderWay>,
    /// Who gets which answer.
    pub answers: BTreeMap<ReplyTo, AnswerTo>,
    /// Calls of other nodes that were heard.
    pub heard: Heard<CallFrom, ControlAnswer>,
    /// Those, as a simple idea of them: when each was first heard, and whether it was answered.
    pub calls: BTreeMap<CallName, (Timestamp, bool)>,
    /// The time for which the next tick is on the agenda.
    pub tick_at: NextTick,
    /// The last snapshot that was stored is damaged.
    pub snapshot_lost: bool,
    /// Messages to each host.
    pub posts: BTreeMap<HostId, HostPost>,
    /// The policies outside that it asks.
    pub policies: Policies,
    next_reply: u64,
}

/// Messages to one host.
#[derive(Debug, Default)]
pub struct HostPost {
    /// Their order.
    pub post: Post<MessageOut>,
    /// The one whose payloads are attached, or are being so.
    pub front: Option<MessageOut>,
    /// The attempts of messages that have not left, in the order of their decisions.
    pub decided: VecDeque<Vec<AttemptId>>,
}

/// A record on its way into the log.
#[derive(Debug)]
pub struct UnderWay {
    /// Its place.
    pub seq: LogSeq,
    /// Its name for the appender, where there is one.
    pub number: Option<AppendNumber>,
    /// The last record that the node knew of when it was called.
    pub known: LogSeq,
    /// What it holds.
    pub entry: Entry,
    /// Whether the record before it holds a part of the same decisions.
    pub is_rest: bool,
}

/// Who gets an answer.
#[derive(Debug, Clone)]
pub enum AnswerTo {
    /// A client of this node.
    Client(RequestId),
    /// Another control node, for a client of its own.
    Node(CallName),
    /// A host, about one batch; the reports are kept to check the acknowledgement.
    Host(BatchAddress, Arc<FromHost>),
    /// Somebody who has asked what is going on.
    Overview,
}

/// What a simulation asks of a leadership.
#[derive(Debug, Clone, Copy, Default)]
pub struct LeaderOptions {
    /// After every so many records a snapshot is taken, never with 0.
    pub snapshot_records: u64,
    /// Records that are kept although no start needs them.
    pub records_kept: u64,
    /// Each removal of a tenant is cut from what follows from it, as if both were too large for one record.
    pub removals_cut: bool,
    /// The planted bug.
    pub plant: Option<Plant>,
}

/// About how many bytes a record has: copies of the read model come as often as snapshots.
const RECORD_BYTES: u64 = 400;

impl LeaderOptions {
    fn snapshots(&self) -> SnapshotConfig {
        let records = if self.snapshot_records == 0 { u64::MAX } else { self.snapshot_records };
        SnapshotConfig {
            records,
            log_bytes: u64::MAX,
            keep_records: self.records_kept,
            copy_log_bytes: records.saturating_mul(RECORD_BYTES),
            copy_percent: 0,
        }
    }
}

impl Leader {
    /// Leads on top of what was read, once its first input is given.
    pub fn new(seed: u64, term: Term, fold: Fold, options: LeaderOptions) -> Self {
        let upkeep = Upkeep::new(options.snapshots(), fold.state.current().clone(), Vec::new());
        let chain = Chain { last: fold.last, hash: fold.prev_hash, log_bytes: fold.log_bytes };
        let tampering = Tampering {
            spoil: options.plant.and_then(spoil),
            cut_after: if options.removals_cut { Some(after_removal) } else { None },
        };
        let config = Config { tampering, ..Config::default() };
        Self {
            node: Leading::new(config, Core::new(seed, CoreConfig::default(), fold.state), chain, term, upkeep),
            appends: VecDeque::new(),
            answers: BTreeMap::new(),
            heard: Heard::new(heard_config(options.plant)),
            calls: BTreeMap::new(),
            tick_at: NextTick::default(),
            snapshot_lost: false,
            posts: BTreeMap::new(),
            policies: Policies::default(),
            next_reply: 0,
        }
    }

    /// Its term.
    pub fn term(&self) -> Term {
        self.node.term()
    }

    /// A number for an answer.
    pub fn reply_to(&mut self, to: AnswerTo) -> ReplyTo {
        let reply_to = ReplyTo(self.next_reply);
        self.next_reply += 1;
        self.answers.insert(reply_to, to);
        reply_to
    }

    /// Records are handed to the log.
    pub fn handed_out(&mut self, appends: Vec<Append>) {
        let mut is_rest = false;
        for Append { chain, record, bytes, is_cut } in appends {
            let entry = Entry { record, bytes, hash: chain.hash };
            self.appends.push_back(UnderWay { seq: chain.last, number: None, known: LogSeq(0), entry, is_rest });
            is_rest = is_cut;
        }
    }

    /// The last record that it has called to be appended.
    pub fn last(&self) -> LogSeq {
        self.node.chain().last
    }
}

fn heard_config(plant: Option<Plant>) -> heard::Config {
    let config = heard::Config::default();
    if plant == Some(Plant::AnswerForgotten) { heard::Config { kept_us: 0, ..config } } else { config }
}

/// Only the first half of a record has the removal of a tenant then.
fn after_removal(events: &[Event]) -> Option<usize> {
    let removal = |event: &Event| matches!(event.body, EventBody::TenantRemoved { .. });
    events.iter().position(removal).map(|at| at + 1)
}

/// The bugs that show in what is written.
fn spoil(plant: Plant) -> Option<fn(&mut Vec<Event>)> {
    match plant {
        Plant::RetryUncounted => Some(|events| {
            for event in events {
                if let EventBody::AttemptEnded { next: next @ Sequel::Retry { .. }, .. } = &mut event.body {
                    *next = Sequel::Requeue;
                }
            }
        }),
        Plant::FinalTwice => Some(|events| {
            let is_final =
                |event: &&Event| matches!(event.body, EventBody::AttemptEnded { next: Sequel::Final { .. }, .. });
            if let Some(twice) = events.iter().find(is_final).cloned() {
                events.push(twice);
            }
        }),
        Plant::RemovalNotTakenUp => Some(|events| {
            if matches!(events.first(), Some(Event { body: EventBody::TermStarted { .. }, .. })) {
                events.retain(|event| !matches!(event.body, EventBody::CancelRequested { .. }));
            }
        }),
        _ => None,
    }
}
