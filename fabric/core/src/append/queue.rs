//! The appends without an outcome, in the order of their calls.

use std::collections::VecDeque;
use std::ops::{Index, IndexMut};

use bytes::Bytes;
use wasmill_protocol::LogSeq;

use super::{AppendError, AppendNumber, CallId, MessageId, WriterId};

#[derive(Debug)]
pub(super) struct Queue {
    writer: WriterId,
    last_number: Option<AppendNumber>,
    entries: VecDeque<Entry>,
}

/// An append without an outcome.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) number: AppendNumber,
    pub(super) expected_last: LogSeq,
    pub(super) record: Bytes,
    pub(super) state: State,
    /// A try had no answer: it may be stored all the same.
    pub(super) uncertain: bool,
    /// Where the log ended when it was last said to end further on.
    pub(super) last_seen: LogSeq,
    /// How often it was paused.
    pub(super) pauses: u32,
    /// The last failure.
    pub(super) trouble: String,
    /// Why it has failed, if it has.
    pub(super) error: Option<AppendError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// To be sent as soon as those before it are.
    Waiting,
    /// Sent.
    Publishing(CallId),
    /// Refused or not answered while something before it had no outcome: sent again when that has
    /// one.
    Parked,
    /// The front only: its place in the log is being read.
    Reading(CallId),
    /// The front only: sent again later.
    Pausing { until_us: u64 },
    /// Durable; waits for the outcome of those before it.
    Stored,
    /// Not appended, for the reason in [`Entry::error`]; waits for the outcome of those before it.
    Failed,
}

impl Entry {
    pub(super) fn seq(&self) -> LogSeq {
        self.expected_last.next()
    }

    /// Whether an append that expects it can be sent already.
    fn can_be_followed(&self) -> bool {
        matches!(self.state, State::Publishing(_) | State::Stored)
    }
}

impl Queue {
    pub(super) fn new(writer: WriterId) -> Self {
        Self { writer, last_number: None, entries: VecDeque::new() }
    }

    pub(super) fn push(&mut self, number: AppendNumber, expected_last: LogSeq, record: Bytes) {
        assert!(self.last_number < Some(number), "append {number:?} after {:?}", self.last_number);
        self.last_number = Some(number);
        self.entries.push_back(Entry {
            number,
            expected_last,
            record,
            state: State::Waiting,
            uncertain: false,
            last_seen: LogSeq(0),
            pauses: 0,
            trouble: String::new(),
            error: None,
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn front(&self) -> Option<&Entry> {
        self.entries.front()
    }

    pub(super) fn front_mut(&mut self) -> Option<&mut Entry> {
        self.entries.front_mut()
    }

    pub(super) fn message_id(&self, index: usize) -> MessageId {
        MessageId { writer: self.writer, number: self.entries[index].number }
    }

    /// The append in this state, which names a call.
    pub(super) fn find(&self, state: State) -> Option<usize> {
        self.entries.iter().position(|entry| entry.state == state)
    }

    /// Removes the front if it has an outcome.
    pub(super) fn pop_done(&mut self) -> Option<Entry> {
        self.entries.pop_front_if(|front| matches!(front.state, State::Stored | State::Failed))
    }

    /// Gives an outcome to every append from this one on that has none.
    pub(super) fn fail(&mut self, index: usize, error: &AppendError, end: LogSeq) {
        for (behind, entry) in self.entries.iter_mut().skip(index).enumerate() {
            if entry.state != State::Failed {
                entry.state = State::Failed;
                entry.error = Some(match behind {
                    0 => error.clone(),
                    _ => error.of_successor(entry.expected_last, end),
                });
            }
        }
    }

    /// The front has an outcome: those that waited for it are sent again.
    pub(super) fn unpark(&mut self) {
        for entry in self.entries.iter_mut().filter(|entry| entry.state == State::Parked) {
            entry.state = State::Waiting;
        }
    }

    /// The first append that is to be sent, if it can be: as the front, or right behind one that is
    /// on its way. When only one may be under way it is the front: what stands before any other may
    /// not be stored, even though nothing else is on its way.
    pub(super) fn next_to_publish(&self, in_flight_max: usize) -> Option<usize> {
        let index = self.find(State::Waiting)?;
        let in_flight = self.entries.iter().filter(|entry| matches!(entry.state, State::Publishing(_))).count();
        let follows = match index.checked_sub(1) {
            None => true,
            Some(_) if in_flight_max == 1 => false,
            Some(before) => {
                let before = &self.entries[before];
                before.can_be_followed() && before.seq() == self.entries[index].expected_last
            }
        };
        (follows && in_flight < in_flight_max).then_some(index)
    }
}

impl Index<usize> for Queue {
    type Output = Entry;

    fn index(&self, index: usize) -> &Entry {
        &self.entries[index]
    }
}

impl IndexMut<usize> for Queue {
    fn index_mut(&mut self, index: usize) -> &mut Entry {
        &mut self.entries[index]
    }
}
