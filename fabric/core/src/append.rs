//! Appending to a log that somebody else keeps and that answers late, twice or not at all.
//!
//! One append is under way at a time, the front, until [`Input::Pipeline`] says that the log can
//! take more. Where the log must end is a fence then: whoever has stored a record in between has
//! moved the end.
//!
//! Several appends under way at once would break that fence: when another writer takes the place of
//! the first of two, the second finds the end of the log where it expects it and follows a record
//! that it has never seen. So an append that is sent before its predecessor is known to be stored
//! names that predecessor ([`Action::Publish::after`]), and the log must refuse it behind any other
//! record. Not every log can.
//!
//! The rules, for the *front*: the first append whose outcome is not known. Nothing is concluded
//! about any other.
//!
//! - No answer is no outcome: it is sent again under the same [`MessageId`], until nothing has
//!   moved for [`Config::give_up_us`].
//! - The log ends further on than expected: perhaps by an earlier try of the same append. Its place
//!   in the log is read before anything is concluded.
//! - The log ends before what is expected: a conflict, unless the end was seen further on. Then
//!   whoever said it is behind.
//! - When one fails, all that are called after it fail, for ever: whoever calls may not have heard
//!   of the failure yet, and what it calls would follow a record that it has never seen. Whoever
//!   has heard of it and has read the log begins with a new appender.

mod error;
mod io;
mod queue;
#[cfg(test)]
mod tests;

use std::mem;

use wasmill_protocol::LogSeq;

pub use error::AppendError;
pub use io::{
    Action, AppendNumber, CallId, Config, Done, Found, Input, MessageId, ParseMessageIdError, Published, Ready,
    WriterId,
};

use self::queue::{Entry, Queue, State};
use crate::retry;

/// Decides the outcome of appends. Outcomes come in the order of the calls.
#[derive(Debug)]
pub struct Appender {
    config: Config,
    queue: Queue,
    /// Whether appends may be sent that name their predecessor.
    pipeline: bool,
    last_call: CallId,
    /// The last record that is known to be durable.
    durable: LogSeq,
    /// When the front last changed.
    moved_at_us: u64,
    /// The first failure, and where the log was to end for it.
    failed: Option<(AppendError, LogSeq)>,
    ready: Ready,
}

impl Appender {
    /// A writer that has nothing to append. No two writers ever may have the same `writer`.
    ///
    /// # Panics
    ///
    /// When `config.in_flight_max` is 0.
    pub fn new(config: Config, writer: WriterId) -> Self {
        assert!(config.in_flight_max > 0, "an appender that may not append");
        Self {
            config,
            queue: Queue::new(writer),
            pipeline: false,
            last_call: CallId(0),
            durable: LogSeq(0),
            moved_at_us: 0,
            failed: None,
            ready: Ready::default(),
        }
    }

    /// Takes in one thing that happened.
    ///
    /// # Panics
    ///
    /// When [`Input::Append`] has a number that is not above the one before.
    pub fn step(&mut self, now_us: u64, input: Input) {
        match input {
            Input::Append { number, expected_last, record } => {
                if self.queue.is_empty() {
                    self.moved_at_us = now_us;
                }
                self.queue.push(number, expected_last, record);
                if let Some((error, end)) = &self.failed {
                    let error = error.of_successor(expected_last, *end);
                    self.queue.fail(self.queue.len() - 1, &error, *end);
                    self.tell(now_us);
                }
            }
            Input::Published(call, published) => {
                if let Some(index) = self.queue.find(State::Publishing(call)) {
                    self.take_published(now_us, index, published);
                }
            }
            Input::Found(call, found) => {
                // Only the front is ever read back.
                if self.queue.find(State::Reading(call)).is_some() {
                    self.take_found(now_us, found);
                }
            }
            Input::Pipeline(pipeline) => self.pipeline = pipeline,
            Input::Tick => {}
        }
        self.give_up(now_us);
        self.publish(now_us);
    }

    /// Everything that follows from the steps since the last call.
    pub fn take_ready(&mut self) -> Ready {
        mem::take(&mut self.ready)
    }

    /// When to step at the latest, if at all.
    pub fn next_timeout_us(&self) -> Option<u64> {
        let front = self.queue.front()?;
        let give_up_us = self.moved_at_us.saturating_add(self.config.give_up_us);
        match front.state {
            State::Pausing { until_us } => Some(until_us.min(give_up_us)),
            _ => Some(give_up_us),
        }
    }

    /// How many appends have no outcome yet.
    pub fn pending(&self) -> usize {
        self.queue.len()
    }

    fn take_published(&mut self, now_us: u64, index: usize, published: Published) {
        match published {
            Published::Stored { seq } => self.stored(now_us, index, seq),
            Published::Failed { reason } => {
                let seq = self.queue[index].seq();
                self.fail(now_us, index, AppendError::Storage { seq, reason });
            }
            other => {
                let entry = &mut self.queue[index];
                if let Published::NoAnswer { reason } = &other {
                    entry.uncertain = true;
                    entry.trouble.clone_from(reason);
                }
                if index > 0 {
                    // Its answer may only be true because of the appends before it.
                    entry.state = State::Parked;
                } else {
                    self.front_refused(now_us, other);
                }
            }
        }
    }

    /// The front was not stored by this try.
    fn front_refused(&mut self, now_us: u64, refusal: Published) {
        let front = &mut self.queue[0];
        let (expected_last, seq, uncertain) = (front.expected_last, front.seq(), front.uncertain);
        match refusal {
            Published::WrongLast { last } if last > expected_last => {
                front.trouble = format!("the log ends at {last}, and record {seq} could not be read back");
                front.last_seen = last;
                let call = self.next_call();
                self.queue[0].state = State::Reading(call);
                self.ready.calls.push((call, Action::ReadBack { seq }));
            }
            // A server that has fallen behind; or the log has, which whoever reads it will find
            // out.
            Published::WrongLast { last } if last == expected_last || expected_last <= self.durable => {
                front.trouble = format!("the log is said to end at {last}, and record {} is durable", self.durable);
                self.pause(now_us);
            }
            Published::WrongLast { last } => self.fail(now_us, 0, AppendError::Conflict { expected_last, last }),
            Published::NoSpace if !uncertain => self.fail(now_us, 0, AppendError::NoSpace { seq }),
            Published::TooLarge { bytes_max } if !uncertain => {
                let bytes = front.record.len();
                self.fail(now_us, 0, AppendError::TooLarge { bytes, bytes_max });
            }
            Published::NoSpace => {
                front.trouble = "no space is left".to_owned();
                self.pause(now_us);
            }
            // The predecessor has been stored since, else this would not be the front.
            Published::WrongPredecessor => {
                front.trouble = "the log did not end with the record before it".to_owned();
                self.pause(now_us);
            }
            _ => self.pause(now_us),
        }
    }

    /// The record that stands in the place of the front.
    fn take_found(&mut self, now_us: u64, found: Found) {
        let id = self.queue.message_id(0);
        let front = &mut self.queue[0];
        let (expected_last, seq, last) = (front.expected_last, front.seq(), front.last_seen);
        match found {
            Found::Record(found) if found == Some(id) => self.stored(now_us, 0, seq),
            Found::Record(_) => self.fail(now_us, 0, AppendError::Conflict { expected_last, last }),
            Found::Trimmed => {
                let reason = "its place in the log was trimmed away before it could be read back".to_owned();
                self.fail(now_us, 0, AppendError::Unreachable { seq, reason });
            }
            // A record that was on its way when the log said that it ends there, and then was
            // refused.
            Found::Nothing => self.pause(now_us),
            Found::NoAnswer { reason } => {
                front.trouble = reason;
                self.pause(now_us);
            }
        }
    }

    fn stored(&mut self, now_us: u64, index: usize, seq: LogSeq) {
        let expected = self.queue[index].seq();
        if seq != expected {
            let reason = format!("it was stored as record {seq}");
            return self.fail(now_us, index, AppendError::Storage { seq: expected, reason });
        }
        self.queue[index].state = State::Stored;
        self.tell(now_us);
    }

    /// Tells the outcomes of those before which nothing is without one.
    fn tell(&mut self, now_us: u64) {
        let mut moved = false;
        while let Some(done) = self.queue.pop_done() {
            let seq = done.seq();
            if done.error.is_none() {
                self.durable = self.durable.max(seq);
            }
            self.ready.done.push(Done { number: done.number, outcome: done.error.map_or(Ok(seq), Err) });
            moved = true;
        }
        if moved {
            self.moved_at_us = now_us;
            self.queue.unpark();
        }
    }

    /// The front is sent again after a while.
    fn pause(&mut self, now_us: u64) {
        let front = &mut self.queue[0];
        let delay_us = retry::delay_us(self.config.retry_us, self.config.retry_us_max, front.pauses);
        front.pauses += 1;
        front.state = State::Pausing { until_us: now_us.saturating_add(delay_us) };
    }

    /// This append and all that were called after it fail.
    fn fail(&mut self, now_us: u64, index: usize, error: AppendError) {
        let end = self.queue[index].expected_last;
        self.queue.fail(index, &error, end);
        self.failed.get_or_insert((error, end));
        self.tell(now_us);
    }

    fn give_up(&mut self, now_us: u64) {
        let Some(front) = self.queue.front() else { return };
        if now_us < self.moved_at_us.saturating_add(self.config.give_up_us) {
            return;
        }
        let (seq, trouble) = (front.seq(), &front.trouble);
        let reason = match trouble.as_str() {
            "" => format!("no answer for {} ms", self.config.give_up_us / 1_000),
            trouble => format!("tried for {} ms: {trouble}", self.config.give_up_us / 1_000),
        };
        self.fail(now_us, 0, AppendError::Unreachable { seq, reason });
    }

    /// Sends what can be sent.
    fn publish(&mut self, now_us: u64) {
        if let Some(front) = self.queue.front_mut()
            && let State::Pausing { until_us } = front.state
            && until_us <= now_us
        {
            front.state = State::Waiting;
        }
        let in_flight_max = if self.pipeline { self.config.in_flight_max } else { 1 };
        while let Some(index) = self.queue.next_to_publish(in_flight_max) {
            let call = self.next_call();
            let id = self.queue.message_id(index);
            let after = (index > 0).then(|| self.queue.message_id(index - 1));
            let entry: &mut Entry = &mut self.queue[index];
            entry.state = State::Publishing(call);
            let (expected_last, record) = (entry.expected_last, entry.record.clone());
            self.ready.calls.push((call, Action::Publish { id, expected_last, after, record }));
        }
    }

    fn next_call(&mut self) -> CallId {
        self.last_call = CallId(self.last_call.0 + 1);
        self.last_call
    }
}
