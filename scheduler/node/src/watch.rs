//! Whether something still answers, of which nothing else may tell: it is asked again and again,
//! and given up when it was silent for too long.

#[cfg(test)]
mod tests;

use std::mem;

/// How often something is asked, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// After this time without news of it.
    pub ask_after_us: u64,
    /// After this time when no answer has come.
    pub ask_again_us: u64,
    /// After this time once it counts as gone: something else tells of what comes in its place.
    pub ask_gone_us: u64,
    /// One question may take this long.
    pub answer_us: u64,
    /// Silent for this long it counts as gone.
    pub silence_us_max: u64,
}

/// The log is asked where it ends. One that was silent for this long counts as out of reach: others
/// may reach it.
pub const LOG: Config = Config {
    ask_after_us: 2_000_000,
    ask_again_us: 250_000,
    ask_gone_us: 250_000,
    answer_us: 3_000_000,
    silence_us_max: 6_000_000,
};

/// A node that follows asks the leader whether it is there. A leader that was silent for this long
/// leads nobody: less than its lease, so that it is known by the time another one can be elected.
pub const LEADER: Config = Config {
    ask_after_us: 250_000,
    ask_again_us: 100_000,
    ask_gone_us: 1_000_000,
    answer_us: 1_000_000,
    silence_us_max: 4_000_000,
};

/// Names a question; a later one has a greater number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question(pub u64);

/// Says when to ask, and what to make of silence. Time is in microseconds, by a clock that nobody
/// can set.
#[derive(Debug, Clone)]
pub struct Watch {
    config: Config,
    heard_us: u64,
    ask_at_us: u64,
    /// The question that has no answer, and when it was asked.
    asked: Option<(Question, u64)>,
    next: Question,
    /// The last answer was that it is not there.
    is_denied: bool,
}

impl Watch {
    /// It was just heard of.
    pub fn new(config: Config, now_us: u64) -> Self {
        let ask_at_us = now_us + config.ask_after_us;
        Self { config, heard_us: now_us, ask_at_us, asked: None, next: Question(0), is_denied: false }
    }

    /// There are news of it, whatever was asked.
    pub fn heard(&mut self, now_us: u64) {
        (self.heard_us, self.ask_at_us, self.asked) = (now_us, now_us + self.config.ask_after_us, None);
        self.is_denied = false;
    }

    /// There are news of it that do not answer what was asked.
    pub fn is_alive(&mut self, now_us: u64) {
        self.heard_us = now_us;
    }

    /// It is asked at once, and has all its time to answer. The first question that counts.
    pub fn begin_anew(&mut self, now_us: u64) -> Question {
        self.heard(now_us);
        self.ask_at_us = now_us;
        self.next
    }

    /// The question that is due, if one is; it is to be asked once.
    pub fn question(&mut self, now_us: u64) -> Option<Question> {
        if self.asked.is_some() || now_us < self.ask_at_us {
            return None;
        }
        let question = self.next;
        self.next = Question(question.0 + 1);
        self.asked = Some((question, now_us));
        Some(question)
    }

    /// Whether this is the question that has no answer. It has one then.
    pub fn answered(&mut self, question: Question) -> bool {
        self.asked.take_if(|(asked, _)| *asked == question).is_some()
    }

    /// Whether a question has taken too long. It counts as answered with nothing then.
    pub fn is_late(&mut self, now_us: u64) -> bool {
        self.asked.take_if(|(_, at_us)| now_us >= *at_us + self.config.answer_us).is_some()
    }

    /// Nothing came of a question: it is asked again soon. Whether it counts as gone.
    pub fn unheard(&mut self, now_us: u64) -> bool {
        self.is_denied = false;
        self.ask_again(now_us, false)
    }

    /// The answer is that it is not there. That is believed when it was said twice in a row: a
    /// connection may just be made anew. Whether it counts as gone.
    pub fn denied(&mut self, now_us: u64) -> bool {
        let is_sure = mem::replace(&mut self.is_denied, true);
        self.ask_again(now_us, is_sure)
    }

    fn ask_again(&mut self, now_us: u64, is_sure: bool) -> bool {
        let is_gone = is_sure || now_us.saturating_sub(self.heard_us) >= self.config.silence_us_max;
        self.ask_at_us = now_us + if is_gone { self.config.ask_gone_us } else { self.config.ask_again_us };
        is_gone
    }

    /// When something is due at the latest.
    pub fn next_timeout_us(&self) -> u64 {
        self.asked.map_or(self.ask_at_us, |(_, at_us)| at_us + self.config.answer_us)
    }
}
