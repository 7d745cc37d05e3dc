//! One leadership: from its first record until it ends.

mod io;
mod names;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use wasmill_protocol::message::{FromHost, Report};
use wasmill_protocol::{Digest, LogSeq, Term, Timestamp};
use wasmill_record::Record;
use wasmill_record::event::Event;
use wasmill_scheduler_core::Core;
use wasmill_scheduler_core::io::{self as core_io, ReplyTo};
use wasmill_scheduler_core::state::Owner;

use crate::Chain;
use crate::upkeep::{Ended, Upkeep};
use crate::watch::{self, Watch};
use names::{Named, Names};

pub use io::{
    Append, AppendFailure, CommandName, Config, CutAfter, Effects, End, Input, Loss, Overview, Ready, Tampering,
};

/// A core that leads, the appends that are under way, and what waits for them.
///
/// The core runs ahead of the log. What it decides between two calls of [`Leading::take_ready`] becomes one record, and nothing of it takes
/// effect before that record is durable. A failed append is never undone: the leadership ends, and whoever leads next has a core that is
/// built from the log.
#[derive(Debug)]
pub struct Leading {
    config: Config,
    core: Core,
    term: Term,
    /// The time of the last step.
    now: Timestamp,
    /// The last record that was handed out.
    chain: Chain,
    /// What waits for each record that was handed out and is not known to be durable, oldest first.
    under_way: VecDeque<Effects>,
    upkeep: Upkeep,
    names: Names,
    /// Whether the log is there, and ends where this leadership says.
    log: Watch,
    /// Overviews that were asked for and not made yet.
    overviews_asked: Vec<ReplyTo>,
    /// Blobs that hosts have named since the last record.
    blobs: Vec<Digest>,
    phase: Phase,
    /// What a record is encoded in: it would grow to its size each time.
    scratch: Vec<u8>,
    ready: Ready,
}

/// What was decided together.
struct Decisions {
    events: Vec<Event>,
    /// Whose each event is.
    owners: Vec<Owner>,
    named: Vec<Named>,
}

impl Decisions {
    fn cut(mut self, at: usize) -> (Self, Self) {
        let (named, named_after) = names::cut(self.named, at);
        let rest = Self { events: self.events.split_off(at), owners: self.owners.split_off(at), named: named_after };
        (Self { named, ..self }, rest)
    }
}

/// How far a leadership is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// What happens is decided.
    Open,
    /// Nothing more is taken in: what the core has decided is recorded once more.
    Closing(End),
    /// Nothing more is recorded: what is under way becomes durable.
    Closed(End),
    /// Nothing follows any more.
    Over,
}

impl Leading {
    /// A leadership in a term, on top of what the log says up to `chain`. Its first input is
    /// [`Lead`](wasmill_scheduler_core::Input::Lead) for the same term.
    ///
    /// # Panics
    ///
    /// When the term is not above every term in the log, or no append may be under way.
    pub fn new(config: Config, core: Core, chain: Chain, term: Term, upkeep: Upkeep) -> Self {
        assert!(config.appends_max > 0, "a leadership that may not append");
        assert!(term > core.state().term(), "term {term} is above term {} of the log", core.state().term());
        Self {
            config,
            // The time of the log may be ahead of the right one, which the first input brings.
            now: Timestamp(0),
            core,
            term,
            chain,
            under_way: VecDeque::new(),
            upkeep,
            names: Names::default(),
            log: Watch::new(watch::LOG, 0),
            overviews_asked: Vec::new(),
            blobs: Vec::new(),
            phase: Phase::Open,
            scratch: Vec::new(),
            ready: Ready::default(),
        }
    }

    /// Takes in one thing that happened.
    ///
    /// # Panics
    ///
    /// When another record than the first one under way is said to be durable, or an invariant of the core is broken.
    pub fn step(&mut self, now: Timestamp, input: Input) {
        if self.now == Timestamp(0) {
            self.log.heard(now.0);
        }
        self.now = self.now.max(now);
        if self.phase == Phase::Over {
            return;
        }
        match input {
            Input::Core(input) => self.step_core(now, input),
            Input::Named { name, reply_to, command } => {
                let first = self.core.events_ready();
                self.step_core(now, core_io::Input::Command { reply_to, command: *command });
                if self.core.events_ready() > first {
                    self.names.note(first, name, reply_to);
                }
            }
            Input::Overview(reply_to) => self.overviews_asked.push(reply_to),
            Input::BlobsDropped(blobs) => self.blobs.extend(blobs),
            Input::WorkEnded(ended) => self.work_ended(now, ended),
            Input::Appended(seq) => self.appended(seq),
            Input::AppendFailed(AppendFailure::Refused) => self.end(End::Lost(Loss::Refused)),
            Input::AppendFailed(AppendFailure::NoSpace) => self.end(End::NoSpace),
            Input::LogEnds { question, end } if self.log.answered(question) => self.log_ends(end),
            Input::LogEnds { .. } => {}
            Input::TermSeen(term) if term <= self.term => {}
            Input::TermSeen(term) => self.end(End::Lost(Loss::TermSeen(term))),
            Input::LeaseLost => self.end(End::Lost(Loss::Lease)),
            Input::TimeEnds => self.close(End::Lost(Loss::Time)),
            Input::Shutdown => self.close(End::Shutdown),
        }
        self.watch_log();
    }

    /// What follows from the steps since the last call and from the time that has passed. No record is larger than `record_bytes_max`
    /// bytes, but for one that holds a single event.
    pub fn take_ready(&mut self, record_bytes_max: usize) -> Ready {
        while matches!(self.phase, Phase::Open | Phase::Closing(_)) && self.has_room() {
            let mut decided = self.core.take_ready();
            // Questions rest on nothing that must be durable: what is decided by their answers is
            // recorded later.
            self.ready.asks.append(&mut decided.asks);
            let is_done = decided.is_empty();
            if !is_done {
                self.record(decided, record_bytes_max);
            }
            self.make_overviews();
            if let Phase::Closing(end) = self.phase {
                self.phase = Phase::Closed(end);
            }
            if is_done {
                break;
            }
        }
        if let Phase::Closed(end) = self.phase
            && self.under_way.is_empty()
        {
            self.end(end);
        }
        mem::take(&mut self.ready)
    }

    /// What has become durable since the last call takes effect. Nothing is decided for that, so that what follows from its publication can be
    /// told before.
    pub fn take_durable(&mut self) -> Vec<Effects> {
        mem::take(&mut self.ready.effects)
    }

    /// When the next [`Tick`](wasmill_scheduler_core::Input::Tick) is due at the latest, if nothing else happens. The core has nothing to do while the
    /// log is busy: what is decided then could not be recorded.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let core = self.core.next_timeout().filter(|_| self.phase == Phase::Open && self.has_room());
        let log = Some(Timestamp(self.log.next_timeout_us())).filter(|_| self.phase != Phase::Over);
        core.into_iter().chain(log).min()
    }

    /// Whether more work may be taken in: the log must keep up, or what has gathered would grow without bound.
    pub fn takes_in(&self) -> bool {
        self.phase == Phase::Open && (self.has_room() || self.core.events_ready() < self.config.events_gathered_max)
    }

    /// Whether nothing has ended this leadership, or was to end it.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// The core, for questions that change nothing.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Its term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The last record that was handed out, whether it is durable or not.
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// What waits for each record that was handed out and is not known to be durable, oldest first.
    pub fn under_way(&self) -> impl DoubleEndedIterator<Item = &Effects> + ExactSizeIterator {
        self.under_way.iter()
    }

    /// The last record that is known to be durable.
    fn durable(&self) -> LogSeq {
        self.under_way.front().map_or(self.chain.last, |waiting| LogSeq(waiting.seq.0 - 1))
    }

    fn has_room(&self) -> bool {
        self.under_way.len() < self.config.appends_max
    }

    fn step_core(&mut self, now: Timestamp, input: core_io::Input) {
        assert!(!matches!(input, core_io::Input::Appended(_)), "a leadership knows what it appends");
        if let core_io::Input::FromHost { message, .. } = &input {
            self.blobs.extend(blobs_named(message));
        }
        self.core.step(now, input);
    }

    /// A leader that appends nothing would never notice that the log is gone, or that somebody else has appended.
    fn watch_log(&mut self) {
        if self.log.is_late(self.now.0) {
            self.log_ends(None);
        }
        if self.phase != Phase::Over
            && let Some(question) = self.log.question(self.now.0)
        {
            self.ready.ask_log = Some(question);
        }
    }

    /// The log was asked where it ends.
    fn log_ends(&mut self, end: Option<LogSeq>) {
        match end {
            Some(last) if last > self.chain.last => self.end(End::Lost(Loss::Replaced(last))),
            Some(_) => self.log.heard(self.now.0),
            None if self.log.unheard(self.now.0) => self.end(End::Lost(Loss::LogGone)),
            None => {}
        }
    }

    fn appended(&mut self, seq: LogSeq) {
        self.log.heard(self.now.0);
        let mut effects = self.under_way.pop_front().expect("what becomes durable was handed out");
        assert_eq!(effects.seq, seq, "records become durable in the order in which they were handed out");
        if let Some(record) = &effects.record {
            effects.work = self.upkeep.durable(self.now, seq, &record.events, &self.chain);
        }
        self.ready.effects.push(effects);
    }

    fn work_ended(&mut self, now: Timestamp, ended: Ended) {
        match ended {
            Ended::Snapshot(taken) => self.step_core(now, core_io::Input::SnapshotStored(taken)),
            Ended::Copy(copy) => self.step_core(now, core_io::Input::ReadModelStored(copy)),
            _ => {}
        }
        if let Some(work) = self.upkeep.ended(self.now, ended) {
            let seq = self.durable();
            self.ready.effects.push(Effects { seq, work: vec![work], ..Effects::default() });
        }
    }

    /// Nothing more is taken in, and the leadership ends once what was decided is durable.
    fn close(&mut self, end: End) {
        if self.phase == Phase::Open {
            self.phase = Phase::Closing(end);
        }
    }

    /// Nothing follows any more but what is durable already.
    fn end(&mut self, end: End) {
        self.phase = Phase::Over;
        self.under_way.clear();
        self.ready.appends.clear();
        self.ready.asks.clear();
        self.ready.ask_log = None;
        self.ready.end = Some(end);
    }

    /// Makes a record of what was decided, or lets it wait for the last one when there is nothing to record.
    fn record(&mut self, mut decided: core_io::Ready, record_bytes_max: usize) {
        let mut events = mem::take(&mut decided.events);
        if let Some(spoil) = self.config.tampering.spoil {
            spoil(&mut events);
            decided.owners.resize(events.len(), None);
        }
        let owners = mem::take(&mut decided.owners);
        let named = self.names.take(&decided.replies);
        if !events.is_empty() {
            self.append(Decisions { events, owners, named }, record_bytes_max);
            if self.upkeep.wants_snapshot(self.now, &self.chain) {
                self.upkeep.hold(self.core.freeze(), self.chain);
            }
        }
        let core_io::Ready { replies, acks, messages, .. } = decided;
        let blobs = mem::take(&mut self.blobs);
        let waiting = self.behind_last();
        waiting.replies.extend(replies);
        waiting.acks.extend(acks);
        waiting.messages.extend(messages);
        waiting.blobs.extend(blobs);
    }

    /// What takes place once everything is durable that was handed out.
    fn behind_last(&mut self) -> &mut Effects {
        let waiting = if self.under_way.is_empty() { &mut self.ready.effects } else { return self.last_under_way() };
        // What was durable already goes before, completely.
        waiting.push(Effects { seq: self.chain.last, ..Effects::default() });
        waiting.last_mut().expect("it was just pushed")
    }

    fn last_under_way(&mut self) -> &mut Effects {
        self.under_way.back_mut().expect("it was just looked whether something is under way")
    }

    /// Hands out one record, or several when one would be too large.
    fn append(&mut self, decisions: Decisions, record_bytes_max: usize) {
        let count = decisions.events.len();
        let forced = self.config.tampering.cut_after.and_then(|cut_after| cut_after(&decisions.events));
        if let Some(at) = forced.filter(|at| (1..count).contains(at)) {
            return self.append_both(decisions, at, record_bytes_max);
        }
        let Decisions { events, owners, named } = decisions;
        assert_eq!(events.len(), owners.len(), "of each event it is known whose it is");
        let version = Record::version_for(&events);
        let decided = Some(names::grouped(&named));
        let record = Record { version, term: self.term, prev_hash: self.chain.hash, events, decided };
        record.encode_into(&mut self.scratch);
        if self.scratch.len() > record_bytes_max && count > 1 {
            let decisions = Decisions { events: record.events, owners, named };
            return self.append_both(decisions, count / 2, record_bytes_max);
        }
        let bytes = Bytes::copy_from_slice(&self.scratch);
        self.chain = self.chain.then(&bytes);
        self.core.step(self.now, core_io::Input::Appended(self.chain.last));
        let record = Arc::new(record);
        self.under_way.push_back(Effects {
            seq: self.chain.last,
            record: Some(Arc::clone(&record)),
            owners: owners.into(),
            ..Effects::default()
        });
        self.ready.appends.push(Append { chain: self.chain, record, bytes, is_cut: false });
    }

    /// Hands out what was decided together in two parts, the first of `at` events, each in one
    /// record or several.
    fn append_both(&mut self, first: Decisions, at: usize, record_bytes_max: usize) {
        let (first, rest) = first.cut(at);
        self.append(first, record_bytes_max);
        if let Some(append) = self.ready.appends.last_mut() {
            append.is_cut = true;
        }
        self.append(rest, record_bytes_max);
    }

    /// The core runs ahead of the log: what is going on is told once it is durable, so that nobody hears of an end that a look at the task does
    /// not show yet. However much happens, it is told after the next record.
    fn make_overviews(&mut self) {
        if self.overviews_asked.is_empty() {
            return;
        }
        let overview = Arc::new(self.overview());
        let asked = mem::take(&mut self.overviews_asked);
        let overviews = asked.into_iter().map(|reply_to| (reply_to, Arc::clone(&overview)));
        self.behind_last().overviews.extend(overviews);
    }

    fn overview(&self) -> Overview {
        let counters = self.core.counters().by_name.into_iter();
        Overview {
            hosts: self.core.hosts(),
            queue: self.core.queue_depth(),
            counters: counters.map(|(name, count)| (name.to_owned(), count)).collect(),
            policies_benched: self.core.state().policies_benched().cloned().collect(),
            at: self.now,
            log_seq: self.chain.last,
        }
    }
}

/// The blobs that reports name.
pub fn blobs_named(message: &FromHost) -> impl Iterator<Item = Digest> {
    message
        .reports
        .iter()
        .flat_map(|report| match report {
            Report::Ended { output, captured, .. } => [output.blob(), captured.blob()],
            Report::Checkpoint { data, .. } => [data.blob(), None],
            Report::Returned { .. } => [None, None],
        })
        .flatten()
}
