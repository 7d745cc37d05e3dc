//! One call of a leader: what was asked, and how far it is.

use wasmill_protocol::command::Command;
use wasmill_protocol::message::control::ControlRequest;
use wasmill_protocol::{LogSeq, Term};

use super::io::{Config, ForwardId};
use crate::command_bytes;

/// What a leader is asked at once.
#[derive(Debug)]
pub(super) struct Call {
    /// For which request of a client.
    pub(super) forward: ForwardId,
    pub(super) content: Content,
    /// Until then an answer is waited for.
    pub(super) until_us: u64,
    /// Until then a leader is looked for that hears it.
    pub(super) leader_until_us: u64,
    /// How often it was asked.
    pub(super) tries: u32,
    /// How often the leader of one term was looked for in vain.
    pub(super) pauses: u32,
    /// When it was asked of the leader that has it, or may have it.
    pub(super) doubt: Doubt,
    /// Whether that leader may have heard it.
    pub(super) may_be_heard: bool,
    pub(super) phase: Phase,
    /// When it is looked at again.
    pub(super) due_us: u64,
}

/// What a call holds.
#[derive(Debug)]
pub(super) enum Content {
    /// Commands whose fate is open.
    Commands(Vec<Carried>),
    Question(ControlRequest),
}

/// A command of a call.
#[derive(Debug, Clone)]
pub(super) struct Carried {
    /// Its place in the call, which names it together with the call's number.
    pub(super) place: u32,
    /// Its place in what the client has asked.
    pub(super) index: usize,
    pub(super) command: Command,
}

/// When something was asked whose answer has not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doubt {
    /// Of the leader that was asked.
    pub(super) term: Term,
    /// What this node had read before: what was recorded of it comes later.
    pub(super) position: LogSeq,
}

/// How far a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// An answer is waited for.
    Asked,
    /// It is asked again in a moment.
    Paused,
    /// The leader that may have heard it has gone, or is not waited for: the log will tell.
    Doubtful,
}

impl Call {
    /// Waits until it is asked again. When that is.
    pub(super) fn pause(&mut self, now_us: u64, config: &Config) -> u64 {
        self.phase = Phase::Paused;
        let wait_us = (config.retry_us << self.pauses.min(16)).min(config.retry_us_max);
        self.pauses += 1;
        // Before it is given up it is asked once more.
        let end_us = if now_us < self.leader_until_us { self.leader_until_us } else { self.until_us };
        (now_us + wait_us).min(end_us.max(now_us))
    }

    /// What travels.
    pub(super) fn request(&self) -> ControlRequest {
        match &self.content {
            Content::Commands(carried) => {
                ControlRequest::Commands(carried.iter().map(|carried| carried.command.clone()).collect())
            }
            Content::Question(request) => request.clone(),
        }
    }

    pub(super) fn is_question(&self) -> bool {
        matches!(self.content, Content::Question(_))
    }
}

/// The commands in as many calls as the bus needs, in order. One that is too large alone stays
/// alone, and the bus refuses it.
pub(super) fn split(commands: Vec<(usize, Command)>, bytes_max: usize) -> Vec<Vec<Carried>> {
    let mut pieces: Vec<Vec<Carried>> = Vec::new();
    let mut bytes = 0;
    for (index, command) in commands {
        let more = command_bytes::at_most(&command);
        match pieces.last_mut() {
            Some(piece) if bytes + more <= bytes_max => {
                piece.push(Carried { place: u32::try_from(piece.len()).unwrap_or(u32::MAX), index, command });
                bytes += more;
            }
            _ => {
                pieces.push(vec![Carried { place: 0, index, command }]);
                bytes = command_bytes::CALL_BYTES + more;
            }
        }
    }
    pieces
}
