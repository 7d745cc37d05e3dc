//! What clients of a node that does not lead ask, on its way to a leader and back.
//!
//! What nobody has heard is asked again, for as long as there is patience. An answer that was lost
//! is asked for again under the same name, which the leader decides once ([`heard`](crate::heard)).
//! A command whose leader has gone before it answered may have been recorded: every record names
//! the commands that it decides, so this node knows as soon as it has read where the next term
//! begins ([`recorded`](crate::recorded)). One that was not recorded is asked of the next leader.
//! Where the log does not tell, the client is told that the outcome is unknown.

mod call;
mod io;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use wasmill_protocol::command::{Command, Refusal, Reply};
use wasmill_protocol::message::control::ControlAnswer;
use wasmill_protocol::{LogSeq, Term};
use wasmill_record::Record;
use wasmill_record::event::EventBody;

use crate::recorded::{Fate, Recorded};
use call::{Call, Carried, Content, Doubt, Phase};

pub use io::{ANSWER_US, Action, Answer, Asked, Config, ForwardId, Outcome, Tampering, Told};

/// What a node forwards.
///
/// It takes what happens at a time in microseconds, by a clock that nobody can set.
#[derive(Debug)]
pub struct Forwards {
    config: Config,
    recorded: Recorded,
    /// The newest term that the log is known to have.
    term: Term,
    /// The record that began it, or a later one.
    began: LogSeq,
    forwards: BTreeMap<ForwardId, Forward>,
    calls: BTreeMap<u64, Call>,
    /// Calls about which the log will tell.
    doubtful: BTreeSet<u64>,
    /// Requests that are answered once this record is read.
    unread: BTreeSet<(LogSeq, ForwardId)>,
    timers: BTreeSet<(u64, Timer)>,
    next_forward: u64,
    next_call: u64,
    ready: Vec<Action>,
}

/// What a client has asked.
#[derive(Debug)]
struct Forward {
    /// What became of its commands.
    answers: Vec<Option<Answer>>,
    /// How many of those are missing.
    missing: usize,
    /// Until then it is waited for the record that it rests on.
    reach_until_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Call(u64),
    Forward(ForwardId),
}

impl Forwards {
    /// Nothing is asked yet, and nothing was read. `asker` tells what this process asks from what
    /// all others do.
    pub fn new(config: Config, asker: u64) -> Self {
        Self {
            config,
            recorded: Recorded::new(asker),
            term: Term(0),
            began: LogSeq(0),
            forwards: BTreeMap::new(),
            calls: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            unread: BTreeSet::new(),
            timers: BTreeSet::new(),
            next_forward: 0,
            next_call: 0,
            ready: Vec::new(),
        }
    }

    /// Whether one more request may be asked.
    pub fn has_room(&self) -> bool {
        self.forwards.len() < self.config.forwards_max
    }

    /// Whether nothing is on its way.
    pub fn is_idle(&self) -> bool {
        self.forwards.is_empty()
    }

    /// How many calls were made.
    pub fn calls_made(&self) -> u64 {
        self.next_call
    }

    /// A client asks something. It is answered once, with [`Action::Tell`].
    ///
    /// # Panics
    ///
    /// When there is no room.
    pub fn ask(&mut self, now_us: u64, asked: Asked) -> ForwardId {
        assert!(self.has_room(), "more is forwarded than {} at once", self.config.forwards_max);
        let id = ForwardId(self.next_forward);
        self.next_forward += 1;
        let until_us = now_us + self.config.answer_us;
        match asked {
            Asked::Commands(commands) => {
                let (answers, missing) = (vec![None; commands.len()], commands.len());
                self.forwards.insert(id, Forward { answers, missing, reach_until_us: 0 });
                self.call_for(now_us, id, commands.into_iter().enumerate().collect(), until_us);
                if missing == 0 {
                    self.all_answered(now_us, id);
                }
            }
            Asked::Question(request) => {
                self.forwards.insert(id, Forward { answers: Vec::new(), missing: 1, reach_until_us: 0 });
                self.call(now_us, id, Content::Question(request), until_us);
            }
        }
        id
    }

    /// Something came of asking a leader: of the call `number` when it was asked for the `tries`th
    /// time.
    pub fn heard(&mut self, now_us: u64, number: u64, tries: u32, outcome: Outcome) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        let is_newest = call.tries == tries && call.phase == Phase::Asked;
        match outcome {
            // A late answer to an earlier try is as good.
            Outcome::Answer(answer) => {
                if call.phase == Phase::Asked && !is_newest {
                    self.ready.push(Action::Forget { number });
                }
                self.answered(now_us, number, answer);
            }
            _ if !is_newest => {}
            Outcome::Unheard if !call.may_be_heard => {
                if now_us >= call.leader_until_us {
                    self.given_up(now_us, number);
                } else {
                    self.pause(now_us, number);
                }
            }
            Outcome::TooLarge => self.given_up(now_us, number),
            Outcome::Unheard | Outcome::Unanswered => {
                (call.may_be_heard, call.phase) = (true, Phase::Paused);
                if call.is_question() { self.doubt(now_us, number) } else { self.pause(now_us, number) }
            }
        }
    }

    /// This node shows a record. One that it has shown before changes nothing. O(1) while nothing
    /// is on its way.
    pub fn read(&mut self, now_us: u64, seq: LogSeq, record: &Record) {
        if seq <= self.recorded.last() {
            return;
        }
        self.recorded.read(seq, record);
        let began = record.events.iter().filter_map(|event| match event.body {
            EventBody::TermStarted { term, .. } => Some(term),
            _ => None,
        });
        let began = began.max().filter(|term| *term > self.term);
        if let Some(term) = began {
            (self.term, self.began) = (term, seq);
        }
        self.is_read(now_us, began.is_some());
    }

    /// This node shows everything up to a record without having read it. The log has come to a term
    /// by then.
    pub fn restored(&mut self, now_us: u64, seq: LogSeq, term: Term) {
        self.recorded.restored(seq);
        let is_later = term > self.term;
        if is_later {
            (self.term, self.began) = (term, seq);
        }
        self.is_read(now_us, is_later);
    }

    /// Does what is due.
    pub fn tick(&mut self, now_us: u64) {
        while let Some(&(due_us, timer)) = self.timers.first()
            && due_us <= now_us
        {
            self.timers.pop_first();
            match timer {
                Timer::Call(number) => self.call_is_due(now_us, number),
                Timer::Forward(id) => self.tell_commands(id),
            }
        }
    }

    /// When the next [`Forwards::tick`] is due, if nothing else happens.
    pub fn next_timeout_us(&self) -> Option<u64> {
        self.timers.first().map(|(due_us, _)| *due_us)
    }

    /// What is to be done since the last call, in this order.
    pub fn take_ready(&mut self) -> Vec<Action> {
        mem::take(&mut self.ready)
    }

    /// Asks for commands in as many calls as they need.
    fn call_for(&mut self, now_us: u64, forward: ForwardId, commands: Vec<(usize, Command)>, until_us: u64) {
        for piece in call::split(commands, self.config.call_bytes_max) {
            self.call(now_us, forward, Content::Commands(piece), until_us);
        }
    }

    fn call(&mut self, now_us: u64, forward: ForwardId, content: Content, until_us: u64) {
        let number = self.next_call;
        self.next_call += 1;
        let call = Call {
            forward,
            content,
            until_us,
            leader_until_us: until_us.min(now_us + self.config.leader_us),
            tries: 0,
            pauses: 0,
            doubt: Doubt { term: self.term, position: self.recorded.last() },
            may_be_heard: false,
            phase: Phase::Paused,
            due_us: now_us,
        };
        self.calls.insert(number, call);
        self.ask_leader(now_us, number);
    }

    /// Asks the leader of the newest term, unless another one may have heard it.
    fn ask_leader(&mut self, now_us: u64, number: u64) {
        let now = Doubt { term: self.term, position: self.recorded.last() };
        let is_recorded = self.is_recorded(number);
        let Some(call) = self.calls.get_mut(&number) else { return };
        if !call.may_be_heard {
            call.doubt = now;
        }
        // The leader is asked again first: it has the answer. One that stays silent is not needed
        // where the log tells.
        let is_over = now_us >= call.until_us || (now_us >= call.leader_until_us && is_recorded);
        if now.term > call.doubt.term || (call.may_be_heard && is_over) {
            return self.doubt(now_us, number);
        }
        call.tries += 1;
        call.phase = Phase::Asked;
        let (id, tries, term, request) = (call.forward, call.tries, now.term, call.request());
        let patience_us = call.until_us.saturating_sub(now_us);
        let due_us = if now_us < call.leader_until_us { call.leader_until_us } else { call.until_us };
        self.ready.push(Action::Ask { id, number, tries, term, request, patience_us });
        self.wake(number, due_us);
    }

    /// Whether the log has all commands of a call.
    fn is_recorded(&self, number: u64) -> bool {
        match self.calls.get(&number).map(|call| &call.content) {
            Some(Content::Commands(carried)) => {
                carried.iter().all(|carried| self.recorded.done((number, carried.place)).is_some())
            }
            Some(Content::Question(_)) | None => false,
        }
    }

    fn answered(&mut self, now_us: u64, number: u64, answer: ControlAnswer) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        match (&call.content, answer) {
            // What was done is in the log. Nothing is said of it here.
            (_, ControlAnswer::LeadershipLost) => {
                (call.may_be_heard, call.phase) = (true, Phase::Paused);
                self.doubt(now_us, number);
            }
            (Content::Question(_), answer) => self.tell_question(number, Some(answer)),
            (Content::Commands(carried), ControlAnswer::Replies(replies)) if replies.len() == carried.len() => {
                let Some(Call { forward, content: Content::Commands(carried), .. }) = self.end_call(number) else {
                    return;
                };
                for (carried, reply) in carried.into_iter().zip(replies) {
                    let answer = match reply {
                        Reply::Done { seq, done } => Ok((seq, done)),
                        Reply::Refused(refusal) => Err(refusal),
                    };
                    self.settle(now_us, forward, carried.index, answer);
                }
            }
            // A call of which a part is settled was asked as a whole: the log has to tell of the
            // rest.
            (Content::Commands(_), _) => {
                (call.may_be_heard, call.phase) = (true, Phase::Paused);
                self.doubt(now_us, number);
            }
        }
    }

    /// It is asked again, the later the longer nobody has heard it: each later term has it asked
    /// at once.
    fn pause(&mut self, now_us: u64, number: u64) {
        if let Some(call) = self.calls.get_mut(&number) {
            let again_us = call.pause(now_us, &self.config);
            self.wake(number, again_us);
        }
    }

    /// Nobody has heard it, and nobody will.
    fn given_up(&mut self, now_us: u64, number: u64) {
        if self.calls.get(&number).is_some_and(Call::is_question) {
            return self.tell_question(number, None);
        }
        if let Some(Call { forward, content: Content::Commands(carried), .. }) = self.end_call(number) {
            for carried in carried {
                self.settle(now_us, forward, carried.index, Err(Refusal::NotLeader));
            }
        }
    }

    /// The leader that may have heard a call is not waited for any more. A question is asked anew;
    /// the log tells of commands.
    fn doubt(&mut self, now_us: u64, number: u64) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        if call.phase == Phase::Asked {
            self.ready.push(Action::Forget { number });
        }
        let until_us = call.until_us;
        call.phase = Phase::Doubtful;
        if !call.is_question() {
            self.doubtful.insert(number);
            self.wake(number, until_us);
            self.clear_up(now_us, number);
        } else if now_us >= until_us {
            self.tell_question(number, None);
        } else {
            self.wake(number, now_us + self.config.retry_us);
        }
    }

    /// Concludes from the log what became of the commands of a call, as far as it tells by now.
    fn clear_up(&mut self, now_us: u64, number: u64) {
        let is_later = |doubt: Doubt| self.term > doubt.term && self.recorded.last() >= self.began;
        let Some(call) = self.calls.get_mut(&number) else { return };
        let Content::Commands(carried) = &mut call.content else { return };
        let (forward, doubt, until_us) = (call.forward, call.doubt, call.until_us);
        let began = match is_later(doubt) {
            true => Some(self.began),
            false => (now_us >= until_us).then_some(LogSeq(u64::MAX)),
        };
        let (mut fates, mut open) = (Vec::new(), Vec::new());
        for carried in mem::take(carried) {
            let name = (number, carried.place);
            let fate = match began {
                Some(began) => Some(self.recorded.fate(name, doubt.position, began)),
                None => self.recorded.done(name).map(|(seq, done)| Fate::Done(seq, done)),
            };
            match fate {
                Some(fate) => fates.push((carried, self.config.tampering.fate.map_or(fate.clone(), |of| of(fate)))),
                None => open.push(carried),
            }
        }
        *carried = open;
        if carried.is_empty() {
            self.end_call(number);
        }
        self.conclude(now_us, number, forward, fates, until_us);
    }

    fn conclude(&mut self, now_us: u64, number: u64, forward: ForwardId, fates: Vec<(Carried, Fate)>, until_us: u64) {
        let mut undone = Vec::new();
        for (Carried { index, command, .. }, fate) in fates {
            self.ready.push(Action::Concluded { number, fate: fate.clone() });
            match fate {
                Fate::Done(seq, done) => self.settle(now_us, forward, index, Ok((seq, done))),
                Fate::Unknown => self.settle(now_us, forward, index, Err(Refusal::OutcomeUnknown)),
                Fate::NotRecorded if now_us < until_us => undone.push((index, command)),
                Fate::NotRecorded => self.settle(now_us, forward, index, Err(Refusal::NotLeader)),
            }
        }
        self.call_for(now_us, forward, undone, until_us);
    }

    /// What became of one command of a client is known.
    fn settle(&mut self, now_us: u64, id: ForwardId, index: usize, answer: Answer) {
        let Some(forward) = self.forwards.get_mut(&id) else { return };
        assert!(forward.answers[index].is_none(), "what became of a command is known once");
        forward.answers[index] = Some(answer);
        forward.missing -= 1;
        if forward.missing == 0 {
            self.all_answered(now_us, id);
        }
    }

    /// What became of all commands of a client is known: it is told once this node shows what was
    /// done.
    fn all_answered(&mut self, now_us: u64, id: ForwardId) {
        let reach_until_us = now_us + self.config.reach_us;
        let Some(forward) = self.forwards.get_mut(&id) else { return };
        let last = forward.answers.iter().flatten().filter_map(|answer| answer.as_ref().ok()).map(|(seq, _)| *seq);
        let last = last.max().unwrap_or_default();
        if last <= self.recorded.last() {
            return self.tell_commands(id);
        }
        forward.reach_until_us = reach_until_us;
        self.unread.insert((last, id));
        self.timers.insert((reach_until_us, Timer::Forward(id)));
    }

    fn tell_commands(&mut self, id: ForwardId) {
        let read = self.recorded.last();
        let Some(forward) = self.forwards.remove(&id) else { return };
        self.timers.remove(&(forward.reach_until_us, Timer::Forward(id)));
        let mut answers: Vec<Answer> = forward.answers.into_iter().flatten().collect();
        for answer in &mut answers {
            if let Ok((seq, _)) = answer
                && *seq > read
            {
                self.unread.remove(&(*seq, id));
                // The client would not find here what it is told.
                *answer = Err(Refusal::OutcomeUnknown);
            }
        }
        self.ready.push(Action::Tell { id, told: Told::Commands(answers) });
    }

    fn tell_question(&mut self, number: u64, answer: Option<ControlAnswer>) {
        if let Some(call) = self.end_call(number) {
            self.forwards.remove(&call.forward);
            self.ready.push(Action::Tell { id: call.forward, told: Told::Question(answer) });
        }
    }

    /// This node has read on: what waits for that goes on.
    fn is_read(&mut self, now_us: u64, is_later_term: bool) {
        if is_later_term {
            self.ask_next_leader(now_us);
        }
        for number in self.doubtful.iter().copied().collect::<Vec<_>>() {
            self.clear_up(now_us, number);
        }
        while let Some(&(seq, id)) = self.unread.first()
            && seq <= self.recorded.last()
        {
            self.unread.pop_first();
            self.tell_commands(id);
        }
    }

    /// A later term has begun: what an earlier leader may have heard is in doubt, and the rest is
    /// asked of the new one at once.
    fn ask_next_leader(&mut self, now_us: u64) {
        for number in self.calls.keys().copied().collect::<Vec<_>>() {
            let Some(call) = self.calls.get_mut(&number) else { continue };
            call.pauses = 0;
            match (call.phase, call.doubt.term < self.term) {
                (Phase::Asked, true) => self.doubt(now_us, number),
                (Phase::Paused, _) => self.ask_leader(now_us, number),
                _ => {}
            }
        }
    }

    fn call_is_due(&mut self, now_us: u64, number: u64) {
        let is_recorded = self.is_recorded(number);
        let Some(call) = self.calls.get_mut(&number) else { return };
        match call.phase {
            Phase::Paused => self.ask_leader(now_us, number),
            Phase::Asked if now_us >= call.until_us || is_recorded => {
                call.may_be_heard = true;
                self.doubt(now_us, number);
            }
            Phase::Asked => {
                let until_us = call.until_us;
                self.wake(number, until_us);
            }
            Phase::Doubtful if call.is_question() => {
                // The leader forgets questions: it is asked under another name.
                let until_us = call.until_us;
                if let Some(Call { forward, content, .. }) = self.end_call(number) {
                    self.call(now_us, forward, content, until_us);
                }
            }
            Phase::Doubtful => self.clear_up(now_us, number),
        }
    }

    fn wake(&mut self, number: u64, due_us: u64) {
        if let Some(call) = self.calls.get_mut(&number) {
            self.timers.remove(&(call.due_us, Timer::Call(number)));
            call.due_us = due_us;
            self.timers.insert((due_us, Timer::Call(number)));
        }
    }

    fn end_call(&mut self, number: u64) -> Option<Call> {
        let call = self.calls.remove(&number)?;
        self.timers.remove(&(call.due_us, Timer::Call(number)));
        self.doubtful.remove(&number);
        Some(call)
    }
}
