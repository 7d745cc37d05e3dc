//! Messages to one host: they leave in the order in which they were decided.
//!
//! An assignment may have to wait until its payload is read. What is decided for the same host
//! meanwhile waits behind it, but for stops: a stop leaves at once, because what it is for may run,
//! and a host remembers the stop of an attempt that has not come yet.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::mem;

use wasmill_scheduler_core::io::MessageOut;

/// Messages to one host that wait at most, the one included that waits for a payload. The core sends again what finds no room.
pub const WAITING_MAX: usize = 512;
/// Messages to one host that are sent and not acknowledged at most; stops that leave at once are
/// counted and are not held back.
pub const UNANSWERED_MAX: usize = 512;

/// The order of messages to one host.
#[derive(Debug)]
pub struct Post<M> {
    waiting: VecDeque<M>,
    front: Front,
    /// Messages that were sent and are not acknowledged or given up.
    unanswered: usize,
    ready: Vec<Action<M>>,
}

/// A message with whatever goes along with it.
pub trait Message: Sized {
    /// What is to be stopped, as a message of its own, if anything is.
    fn take_stops(&mut self) -> Option<Self>;
}

impl Message for MessageOut {
    fn take_stops(&mut self) -> Option<Self> {
        let stop = mem::take(&mut self.stop);
        let Self { incarnation, term, .. } = *self;
        let of_stops = |stop| Self { host: self.host.clone(), incarnation, term, assign: Vec::new(), stop };
        (!stop.is_empty()).then(|| of_stops(stop))
    }
}

/// The message before all that wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Front {
    /// There is none.
    Absent,
    /// It waits for its payloads.
    Attaching,
    /// It has its payloads and waits for room.
    Attached,
}

/// Something to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action<M> {
    /// To attach the payloads to a message; [`Post::attached`] is called then.
    Attach(M),
    /// To send the message whose payloads were attached last.
    SendAttached,
    /// To send this: it needs no payload.
    Send(M),
}

impl<M> Default for Post<M> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), front: Front::Absent, unanswered: 0, ready: Vec::new() }
    }
}

impl<M: Message> Post<M> {
    /// A message was decided. Whether there is room for it.
    pub fn decided(&mut self, mut message: M) -> bool {
        if self.waits() >= WAITING_MAX {
            return false;
        }
        if self.front != Front::Absent
            && let Some(stops) = message.take_stops()
        {
            self.unanswered += 1;
            self.ready.push(Action::Send(stops));
        }
        self.waiting.push_back(message);
        self.go_on();
        true
    }

    /// The message that was given to be attached has its payloads.
    ///
    /// # Panics
    ///
    /// When none was given.
    pub fn attached(&mut self) {
        assert_eq!(self.front, Front::Attaching, "a message was given to be attached");
        self.front = Front::Attached;
        self.go_on();
    }

    /// A message that was sent is acknowledged, or nobody waits for that any more.
    ///
    /// # Panics
    ///
    /// When none is without an answer.
    pub fn answered(&mut self) {
        assert!(self.unanswered > 0, "a message was sent");
        self.unanswered -= 1;
        self.go_on();
    }

    /// What is to be done since the last call.
    pub fn take_ready(&mut self) -> Vec<Action<M>> {
        mem::take(&mut self.ready)
    }

    /// Messages that have not left, but for stops that have.
    pub fn waits(&self) -> usize {
        self.waiting.len() + usize::from(self.front != Front::Absent)
    }

    /// Whether nothing waits and everything is answered.
    pub fn is_idle(&self) -> bool {
        self.waits() == 0 && self.unanswered == 0
    }

    fn go_on(&mut self) {
        if self.front == Front::Attached && self.unanswered < UNANSWERED_MAX {
            self.front = Front::Absent;
            self.unanswered += 1;
            self.ready.push(Action::SendAttached);
        }
        if self.front == Front::Absent
            && let Some(next) = self.waiting.pop_front()
        {
            self.front = Front::Attaching;
            self.ready.push(Action::Attach(next));
        }
    }
}
