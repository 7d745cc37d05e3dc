//! A leadership of a simulated control node: the same thin shell as in the real driver.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use wasmill_fabric_core::append::AppendNumber;
use wasmill_protocol::command::{Done, Refusal};
use wasmill_protocol::event::{AfterAttempt, Event, EventBody};
use wasmill_protocol::message::FromHost;
use wasmill_protocol::record::Record;
use wasmill_protocol::{Digest, LogSeq, Term, Timestamp};
use wasmill_scheduler_core::state::Frozen;
use wasmill_scheduler_core::{Core, CoreConfig, Input, Ready, ReplyTo};

use crate::clients::RequestId;
use crate::hosts::BatchAddress;
use crate::log::Entry;
use crate::node::{Fold, ForwardAddress};
use crate::plant::Plant;

/// Appends under way at once, as in the real driver.
pub const APPENDS_IN_FLIGHT_MAX: usize = 2;

/// What a control node is while it leads.
#[derive(Debug)]
pub struct Leader {
    /// The decisions.
    pub core: Core,
    /// Its term.
    pub term: Term,
    /// Appends under way, oldest first.
    pub appends: VecDeque<Append>,
    /// Who gets which answer.
    pub answers: BTreeMap<ReplyTo, AnswerTo>,
    /// Commands of other nodes that were heard, each try of them, and their answers once there are any.
    pub forwards_heard: BTreeMap<(ForwardAddress, u32), Option<ForwardAnswer>>,
    /// The time for which the next tick is on the agenda.
    pub tick_at: Option<Timestamp>,
    last: LogSeq,
    prev_hash: Digest,
    next_reply: u64,
    keeper: Keeper,
    removals_cut: bool,
}

/// When the next snapshot is due, and the one that waits for its last record to be durable.
#[derive(Debug, Default)]
struct Keeper {
    /// Records after which one is due; 0 for never.
    every: u64,
    newest: LogSeq,
    running: bool,
    held: Option<Frozen>,
    /// The last one that was stored is damaged.
    lost: bool,
}

/// A record on its way into the log.
#[derive(Debug)]
pub struct Append {
    /// Its place.
    pub seq: LogSeq,
    /// Its name for the appender, where there is one.
    pub number: Option<AppendNumber>,
    /// The last record that the node knew of when it was called.
    pub known: LogSeq,
    /// What it holds; `None` for effects that only wait for what is before them.
    pub entry: Option<Entry>,
    /// What waits for it.
    pub ready: Ready,
}

/// What another node is answered, and up to which record that is durable.
pub type ForwardAnswer = (LogSeq, Result<Done, Refusal>);

/// Who gets an answer.
#[derive(Debug, Clone)]
pub enum AnswerTo {
    /// A client of this node.
    Client(RequestId),
    /// Another control node, for a client of its own, and which of its tries.
    Node(ForwardAddress, u32),
    /// A host, about one batch; the reports are kept to check the acknowledgement.
    Host(BatchAddress, Arc<FromHost>),
}

impl Leader {
    /// Leads on top of what was read. After every so many records a snapshot is taken, never with 0.
    pub fn new(seed: u64, now: Timestamp, lead: Input, term: Term, fold: Fold, snapshot_records: u64) -> Self {
        let newest = fold.state.current().newest().map_or(LogSeq(0), |newest| newest.seq);
        let keeper = Keeper { every: snapshot_records, newest, ..Keeper::default() };
        let mut core = Core::new(seed, CoreConfig::default(), fold.state);
        core.step(now, lead);
        Self {
            core,
            term,
            appends: VecDeque::new(),
            answers: BTreeMap::new(),
            forwards_heard: BTreeMap::new(),
            tick_at: None,
            last: fold.last,
            prev_hash: fold.prev_hash,
            next_reply: 0,
            keeper,
            removals_cut: false,
        }
    }

    /// The same, cutting each removal of a tenant from what follows from it, as if both were too large for one record.
    pub fn cutting_removals(self, removals_cut: bool) -> Self {
        Self { removals_cut, ..self }
    }

    /// A number for an answer.
    pub fn reply_to(&mut self, to: AnswerTo) -> ReplyTo {
        let reply_to = ReplyTo(self.next_reply);
        self.next_reply += 1;
        self.answers.insert(reply_to, to);
        reply_to
    }

    /// What the core has decided, as the next appends, if there is room and anything to do: one, or several when one would be too
    /// large. They are under way from now on.
    pub fn take_appends(&mut self, now: Timestamp, bytes_max: usize, plant: Option<Plant>) -> usize {
        if self.appends.len() >= APPENDS_IN_FLIGHT_MAX {
            return 0;
        }
        let mut ready = self.core.take_ready();
        if ready.is_empty() {
            return 0;
        }
        let mut events = std::mem::take(&mut ready.events);
        if let Some(plant) = plant {
            spoil(plant, &mut events);
        }
        let before = self.appends.len();
        if events.is_empty() {
            self.appends.push_back(Append { seq: self.last, number: None, known: LogSeq(0), entry: None, ready });
        } else {
            self.append(now, bytes_max, events, ready);
            self.hold_if_due();
        }
        self.appends.len() - before
    }

    /// Takes hold of the state as it is after the record that was handed out last.
    fn hold_if_due(&mut self) {
        let keeper = &mut self.keeper;
        let due = keeper.every > 0 && self.last.0 >= keeper.newest.0 + keeper.every;
        if due && !keeper.running {
            keeper.running = true;
            keeper.held = Some(self.core.freeze());
        }
    }

    /// The last record that it has called to be appended.
    pub fn last(&self) -> LogSeq {
        self.last
    }

    /// What was taken hold of after record `seq`, which is durable now.
    pub fn take_held(&mut self, seq: LogSeq) -> Option<Frozen> {
        self.keeper.held.take_if(|held| held.seq() == seq)
    }

    /// A snapshot up to record `seq` is stored, and damaged or not.
    pub fn snapshot_done(&mut self, seq: LogSeq, lost: bool) {
        (self.keeper.running, self.keeper.newest, self.keeper.lost) = (false, seq, lost);
    }

    /// Whether the last snapshot that was stored is damaged.
    pub fn snapshot_lost(&self) -> bool {
        self.keeper.lost
    }

    fn append(&mut self, now: Timestamp, bytes_max: usize, mut events: Vec<Event>, ready: Ready) {
        let count = events.len();
        let entry = Entry::new(Record {
            version: Record::version_for(&events),
            term: self.term,
            prev_hash: self.prev_hash,
            events,
        });
        // Only the first half has the removal then.
        let removal = |event: &Event| matches!(event.body, EventBody::TenantRemoved { .. });
        let removal_at = entry.record.events.iter().position(removal).filter(|_| self.removals_cut);
        let cut_at = match removal_at {
            Some(at) if at + 1 < count => at + 1,
            _ if entry.bytes.len() > bytes_max => count / 2,
            _ => 0,
        };
        if cut_at > 0 && count > 1 {
            events = Arc::unwrap_or_clone(entry.record).events;
            let second_half = events.split_off(cut_at);
            self.append(now, bytes_max, events, Ready::default());
            self.append(now, bytes_max, second_half, ready);
            return;
        }
        self.prev_hash = entry.hash;
        self.last = self.last.next();
        self.core.step(now, Input::Appended(self.last));
        self.appends.push_back(Append { seq: self.last, number: None, known: LogSeq(0), entry: Some(entry), ready });
    }
}

/// Plants the bugs that show in what is written.
fn spoil(plant: Plant, events: &mut Vec<Event>) {
    match plant {
        Plant::RetryUncounted => {
            for event in events {
                if let EventBody::AttemptEnded { next: next @ AfterAttempt::Retry { .. }, .. } = &mut event.body {
                    *next = AfterAttempt::Requeue;
                }
            }
        }
        Plant::FinalTwice => {
            let is_final =
                |event: &&Event| matches!(event.body, EventBody::AttemptEnded { next: AfterAttempt::Final { .. }, .. });
            if let Some(twice) = events.iter().find(is_final).cloned() {
                events.push(twice);
            }
        }
        Plant::RemovalNotTakenUp => {
            if matches!(events.first(), Some(Event { body: EventBody::TermStarted { .. }, .. })) {
                events.retain(|event| !matches!(event.body, EventBody::CancelRequested { .. }));
            }
        }
        _ => {}
    }
}
