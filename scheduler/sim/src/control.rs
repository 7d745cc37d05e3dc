//! The simulated control node: the same thin shell as the real driver, over a simulated disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use wasmill_protocol::event::{AfterAttempt, Event, EventBody};
use wasmill_protocol::message::FromHost;
use wasmill_protocol::{LogSeq, Term, Timestamp};
use wasmill_scheduler_core::{Core, CoreConfig, Input, Ready, ReplyTo, State};

use crate::clients::RequestId;
use crate::hosts::BatchAddress;
use crate::plant::Plant;

/// Appends under way at once, as in the real driver.
pub const APPENDS_IN_FLIGHT_MAX: usize = 2;

/// What is on the disk: records that are durable, in order, from 1.
#[derive(Debug, Default)]
pub struct Disk {
    /// Durable records.
    pub records: Vec<Arc<Vec<Event>>>,
}

impl Disk {
    /// The last durable record.
    pub fn last(&self) -> LogSeq {
        LogSeq(self.records.len() as u64)
    }
}

/// One life of the control node.
#[derive(Debug)]
pub struct Control {
    /// The decisions.
    pub core: Core,
    /// Appends under way, oldest first.
    pub appends: VecDeque<Append>,
    /// Who gets which answer.
    pub answers: BTreeMap<ReplyTo, AnswerTo>,
    /// The time for which the next tick is on the agenda.
    pub tick_at: Option<Timestamp>,
    last: LogSeq,
    next_reply: u64,
}

/// A record on its way to the disk.
#[derive(Debug)]
pub struct Append {
    /// Its place.
    pub seq: LogSeq,
    /// What it holds; empty for effects that only wait for what is before them.
    pub events: Arc<Vec<Event>>,
    /// What waits for it.
    pub ready: Ready,
}

/// Who gets an answer.
#[derive(Debug, Clone)]
pub enum AnswerTo {
    /// A client.
    Client(RequestId),
    /// A host, about one batch; the reports are kept to check the acknowledgement.
    Host(BatchAddress, Arc<FromHost>),
}

impl Control {
    /// Reads the log and leads.
    pub fn start(seed: u64, now: Timestamp, disk: &Disk, plant: Option<Plant>) -> Self {
        let mut state = State::default();
        let mut seq = LogSeq(0);
        let read = match plant {
            Some(Plant::ReplayStopsShort) => disk.records.len().saturating_sub(1),
            _ => disk.records.len(),
        };
        for events in &disk.records[..read] {
            seq = seq.next();
            state.apply_record(seq, events);
        }
        let term =
            Term(disk.records.iter().flat_map(|events| events.iter()).filter_map(term_of).max().unwrap_or(0) + 1);
        let mut core = Core::new(seed, CoreConfig::default(), state);
        core.step(now, Input::Lead { term, node: "control".into() });
        Self {
            core,
            appends: VecDeque::new(),
            answers: BTreeMap::new(),
            tick_at: None,
            last: disk.last(),
            next_reply: 0,
        }
    }

    /// A number for an answer.
    pub fn reply_to(&mut self, to: AnswerTo) -> ReplyTo {
        let reply_to = ReplyTo(self.next_reply);
        self.next_reply += 1;
        self.answers.insert(reply_to, to);
        reply_to
    }

    /// What the core has decided, as the next append, if there is room and anything to do.
    pub fn next_append(&mut self, now: Timestamp, plant: Option<Plant>) -> Option<Append> {
        if self.appends.len() >= APPENDS_IN_FLIGHT_MAX {
            return None;
        }
        let mut ready = self.core.take_ready();
        if ready.is_empty() {
            return None;
        }
        let mut events = std::mem::take(&mut ready.events);
        if let Some(plant) = plant {
            spoil(plant, &mut events);
        }
        if !events.is_empty() {
            self.last = self.last.next();
            self.core.step(now, Input::Appended(self.last));
        }
        Some(Append { seq: self.last, events: Arc::new(events), ready })
    }
}

fn term_of(event: &Event) -> Option<u64> {
    match event.body {
        EventBody::TermStarted { term, .. } => Some(term.0),
        _ => None,
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
        _ => {}
    }
}
