//! What goes into the forwarding of a node and what comes out.

use wasmill_protocol::command::{Command, Done, Refusal};
use wasmill_protocol::message::control::{ControlAnswer, ControlRequest};
use wasmill_protocol::{LogSeq, Term};

use crate::recorded::Fate;

/// Bounds of what a node forwards.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Requests of clients that are on their way at once.
    pub forwards_max: usize,
    /// How long a leader is looked for that hears a request, in microseconds.
    pub leader_us: u64,
    /// Until a leader is looked for again when no later term begins in between, in microseconds;
    /// doubles with each time.
    pub retry_us: u64,
    /// So far, in microseconds.
    pub retry_us_max: u64,
    /// How long a request may take, over however many leaders, in microseconds.
    pub answer_us: u64,
    /// How long this node waits for a record that a leader has answered with, in microseconds.
    pub reach_us: u64,
    /// The largest call.
    pub call_bytes_max: usize,
    /// What is changed on purpose.
    pub tampering: Tampering,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            forwards_max: 512,
            leader_us: 5_000_000,
            retry_us: 50_000,
            retry_us_max: 800_000,
            answer_us: ANSWER_US,
            reach_us: 5_000_000,
            call_bytes_max: usize::MAX,
            tampering: Tampering::default(),
        }
    }
}

/// See [`Config::answer_us`]: a leader keeps its answers for longer.
pub const ANSWER_US: u64 = 15_000_000;

/// What a test changes in what a node concludes; nothing in a real node.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tampering {
    /// Changes what the log is taken to say of a command.
    pub fate: Option<fn(Fate) -> Fate>,
}

/// Names something that clients of this node ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardId(pub u64);

/// What clients ask.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// To decide these.
    Commands(Vec<Command>),
    /// What changes nothing, and can be asked as often as one likes.
    Question(ControlRequest),
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Told {
    /// What became of each command, in the order in which they were asked. This node shows the
    /// records of those that were done.
    Commands(Vec<Answer>),
    /// The leader's answer to a question; `None` when none came.
    Question(Option<ControlAnswer>),
}

/// What became of one command, and which record holds it. [`Refusal::NotLeader`] means that it was
/// not done and never will be, [`Refusal::OutcomeUnknown`] that this node cannot tell.
pub type Answer = Result<(LogSeq, Done), Refusal>;

/// What came of asking a leader once.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// It has answered.
    Answer(ControlAnswer),
    /// Nobody leads in that term, or the leader has no room: nobody has heard it.
    Unheard,
    /// No answer came that can be read: it may have been heard.
    Unanswered,
    /// The bus does not carry it.
    TooLarge,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// To ask the leader of a term. What comes of it is said with
    /// [`Forwards::heard`](super::Forwards::heard).
    Ask {
        /// What the client has asked.
        id: ForwardId,
        /// The call, which is new or was asked before.
        number: u64,
        /// How often it was asked, with this time.
        tries: u32,
        /// Whose leader is asked.
        term: Term,
        /// What is asked.
        request: ControlRequest,
        /// How long an answer is waited for, in microseconds.
        patience_us: u64,
    },
    /// Nobody waits for the answer to this call any more.
    Forget {
        /// Which.
        number: u64,
    },
    /// What the log says of a command whose answer was lost. Nothing need be done.
    Concluded {
        /// In which call it was asked.
        number: u64,
        /// What became of it.
        fate: Fate,
    },
    /// To answer a client.
    Tell {
        /// What it has asked.
        id: ForwardId,
        /// The answer.
        told: Told,
    },
}
