//! A node that does not lead: it reads the log, stands for election when it could lead, and once
//! elected reads to the log's end before it leads.
//!
//! Nobody can lead who cannot read the log, does not know the time, or has not read what was there
//! when it began: such a node stands for no election, and would only keep others from it.

mod io;
#[cfg(test)]
mod tests;

use std::mem;

use wasmill_protocol::{LogSeq, Term};

use crate::watch::{self, Question, Watch};

pub use io::{Action, Beginning, Config, GivenUp, Input, Presence, Tampering};

/// A node that follows, from when it knows where to begin until it leads. Time is in microseconds,
/// by a clock that nobody can set.
#[derive(Debug)]
pub struct Following {
    config: Config,
    /// Where the log ended when this began.
    end: LogSeq,
    /// The last record that was read, and its term.
    last: LogSeq,
    term: Term,
    /// Whether the log is where it ends, as far as is known.
    log: Watch,
    log_is_gone: bool,
    leader: Watch,
    /// Whether the clock of this node is believed.
    clock_is_believed: bool,
    phase: Phase,
    /// The term that was read of when this node stood for election: a later election must give a
    /// greater one, or the election has gone back in time.
    stood_after: Term,
    stand_not_before_us: u64,
    ready: Vec<Action>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Reading,
    Standing,
    CatchingUp {
        term: Term,
        until_us: u64,
        /// What was asked before the election tells nothing of what others have appended until
        /// then.
        first: Question,
        end: Option<LogSeq>,
    },
    Over,
}

impl Following {
    /// Goes on from a beginning.
    pub fn new(config: Config, beginning: Beginning, now_us: u64) -> Self {
        let Beginning { last, term, end, clock_is_believed } = beginning;
        let mut leader = Watch::new(config.leader, now_us);
        leader.begin_anew(now_us);
        let mut following = Self {
            config,
            end,
            last,
            term,
            log: Watch::new(watch::LOG, now_us),
            log_is_gone: false,
            leader,
            clock_is_believed,
            phase: Phase::Reading,
            stood_after: term,
            stand_not_before_us: now_us,
            ready: Vec::new(),
        };
        following.go_on(now_us);
        following
    }

    /// Takes in one thing that happened.
    pub fn step(&mut self, now_us: u64, input: Input) {
        match input {
            Input::Read { last, term } => self.read(now_us, last, term),
            Input::LogEnds { question, end } if self.log.answered(question) => match end {
                Some(end) => self.log_ends(now_us, question, end),
                None => self.log_unheard(now_us),
            },
            Input::LeaderAsked { question, presence } if self.leader.answered(question) => {
                self.leader_asked(now_us, presence);
            }
            Input::LogEnds { .. } | Input::LeaderAsked { .. } | Input::Tick => {}
            Input::ReadFailed => self.give_up(now_us, GivenUp::LogUnreachable),
            Input::Clock { is_believed } => self.clock_is_believed = is_believed,
            Input::Elected(term) => self.elected(now_us, term),
            Input::SeatLost => self.give_up(now_us, GivenUp::SeatLost),
        }
        if self.log.is_late(now_us) {
            self.log_unheard(now_us);
        }
        if self.leader.is_late(now_us) {
            self.leader_asked(now_us, Presence::Silent);
        }
        self.go_on(now_us);
    }

    /// What is to be done since the last call, in this order.
    pub fn take_ready(&mut self) -> Vec<Action> {
        mem::take(&mut self.ready)
    }

    /// When to step at the latest.
    pub fn next_timeout_us(&self) -> u64 {
        let log_us = self.log.next_timeout_us();
        match self.phase {
            Phase::Over => u64::MAX,
            Phase::CatchingUp { until_us, .. } => log_us.min(until_us),
            Phase::Reading if self.may_stand() => log_us.min(self.leader_timeout_us()).min(self.stand_not_before_us),
            Phase::Reading | Phase::Standing => log_us.min(self.leader_timeout_us()),
        }
    }

    /// Whether this node was elected and reads what is left of the log.
    pub fn is_catching_up(&self) -> bool {
        matches!(self.phase, Phase::CatchingUp { .. })
    }

    /// Whether it has read what was there when it began.
    pub fn is_caught_up(&self) -> bool {
        self.last >= self.end
    }

    fn leader_timeout_us(&self) -> u64 {
        if self.term == Term(0) { u64::MAX } else { self.leader.next_timeout_us() }
    }

    fn may_stand(&self) -> bool {
        self.is_caught_up() && !self.log_is_gone && self.clock_is_believed
    }

    fn read(&mut self, now_us: u64, last: LogSeq, term: Term) {
        assert!(last >= self.last && term >= self.term, "what was read is not read again");
        self.last = last;
        match self.phase {
            // Where the log ends has to be known all the same.
            Phase::CatchingUp { end: None, .. } => self.log.is_alive(now_us),
            _ => self.log.heard(now_us),
        }
        self.log_answers();
        if term > self.term {
            // Its leader has all its time.
            self.term = term;
            self.leader.begin_anew(now_us);
        }
    }

    fn log_ends(&mut self, now_us: u64, question: Question, last: LogSeq) {
        self.log.heard(now_us);
        self.log_answers();
        if let Phase::CatchingUp { first, end, .. } = &mut self.phase
            && question >= *first
        {
            *end = Some(last.max(end.unwrap_or_default()));
        }
    }

    fn log_answers(&mut self) {
        if mem::take(&mut self.log_is_gone) {
            self.ready.push(Action::TellLog { answers: true });
        }
    }

    fn log_unheard(&mut self, now_us: u64) {
        if self.log.unheard(now_us) {
            self.give_up(now_us, GivenUp::LogUnreachable);
            if !mem::replace(&mut self.log_is_gone, true) {
                self.ready.push(Action::TellLog { answers: false });
            }
        }
    }

    fn leader_asked(&mut self, now_us: u64, presence: Presence) {
        let is_gone = match presence {
            Presence::Leads => {
                self.leader.heard(now_us);
                return self.ready.push(Action::TellLeader { answers: Some(self.term) });
            }
            Presence::Silent => self.leader.unheard(now_us),
            Presence::Gone => self.leader.denied(now_us),
        };
        if is_gone && !self.is_catching_up() {
            self.ready.push(Action::TellLeader { answers: None });
        }
    }

    fn elected(&mut self, now_us: u64, term: Term) {
        assert_eq!(self.phase, Phase::Standing, "only a node that stands for election is elected");
        let first = self.log.begin_anew(now_us);
        self.phase = Phase::CatchingUp { term, until_us: now_us + self.config.catch_up_us, first, end: None };
        self.ready.push(Action::TellLeader { answers: None });
    }

    /// It was elected and does not lead: others are to try.
    fn give_up(&mut self, now_us: u64, reason: GivenUp) {
        if !self.is_catching_up() {
            return;
        }
        self.phase = Phase::Reading;
        if reason == GivenUp::LogUnreachable {
            self.stand_not_before_us = now_us + self.config.retry_us;
        }
        self.ready.push(Action::Release(reason));
    }

    /// What follows from how things are.
    fn go_on(&mut self, now_us: u64) {
        match self.phase {
            Phase::Reading if self.may_stand() && now_us >= self.stand_not_before_us => {
                (self.phase, self.stood_after) = (Phase::Standing, self.term);
                self.ready.push(Action::Stand);
            }
            Phase::Standing if !self.may_stand() => {
                self.phase = Phase::Reading;
                self.ready.push(Action::Withdraw);
            }
            Phase::CatchingUp { term, end: Some(end), .. }
                if self.last >= end || self.config.tampering.leads_unread =>
            {
                self.decide(now_us, term);
            }
            Phase::CatchingUp { until_us, .. } if now_us >= until_us => self.give_up(now_us, GivenUp::TooSlow),
            Phase::Over => return,
            Phase::Reading | Phase::Standing | Phase::CatchingUp { .. } => {}
        }
        if let Some(question) = self.log.question(now_us) {
            self.ready.push(Action::AskLog(question));
        }
        // Nobody else leads while this node has the seat; and where nobody has ever led nobody is
        // asked.
        if self.term > Term(0)
            && !self.is_catching_up()
            && let Some(question) = self.leader.question(now_us)
        {
            self.ready.push(Action::AskLeader(question, self.term));
        }
    }

    /// It was elected and has read to the end. A node that was slow may find that others were
    /// elected after it, and stands again. But an election can give no term that the log had come
    /// to before this node stood for it.
    fn decide(&mut self, now_us: u64, term: Term) {
        let seen = self.term;
        if term <= self.stood_after {
            self.phase = Phase::Over;
            self.ready.push(Action::Halt { term, seen });
        } else if term <= seen {
            self.give_up(now_us, GivenUp::Overtaken);
        } else if !self.clock_is_believed {
            self.give_up(now_us, GivenUp::Clock);
        } else {
            self.phase = Phase::Over;
            self.ready.push(Action::Lead(term));
        }
    }
}
