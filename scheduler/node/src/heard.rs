//! What a leader has heard from other nodes. The bus may bring a call twice, and a node whose
//! answer was lost asks again: it is decided once, and answered as often as it is asked.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

/// Bounds of what is remembered.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Calls that are remembered. Each leadership has a subject of its own, so no copy comes from
    /// before it, and none comes this much later.
    pub calls_max: usize,
    /// Answers are kept for as long, in microseconds: whoever waits for one has given up by then.
    pub kept_us: u64,
    /// The calls whose answers are kept have at most this many bytes together.
    pub kept_bytes_max: usize,
    /// Copies of one call that wait for its answer; of more the oldest are given up by who has sent
    /// them.
    pub waiting_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { calls_max: 65_536, kept_us: KEPT_US, kept_bytes_max: 16 << 20, waiting_max: 4 }
    }
}

/// See [`Config::kept_us`].
const KEPT_US: u64 = 20_000_000;
const _: () = assert!(KEPT_US > crate::forward::ANSWER_US, "an answer is kept for as long as somebody asks for it");

/// Names a call: who asks, and in which of its calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallName {
    /// Who asks.
    pub asker: u64,
    /// In which of its calls.
    pub number: u64,
}

/// Calls by their names. `To` is the way back to who has asked, `A` an answer.
#[derive(Debug)]
pub struct Heard<To, A> {
    config: Config,
    calls: BTreeMap<CallName, Known<To, A>>,
    by_age: VecDeque<CallName>,
    /// Those whose answers are kept, or will be: when they were heard, and their bytes.
    kept: VecDeque<(CallName, u64, usize)>,
    kept_bytes: usize,
}

#[derive(Debug)]
enum Known<To, A> {
    /// It is being decided; these wait. Whether the answer is kept then.
    Waits {
        to: VecDeque<To>,
        is_kept: bool,
    },
    Answered(A),
    Forgotten,
}

/// What is to be done about a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Hearing<To, A> {
    /// To decide it: it is heard for the first time.
    Decide,
    /// To answer: it was decided before.
    Tell(To, A),
    /// Nothing yet: it is being decided, and answered then.
    Waits,
    /// Nothing: it was heard so long ago that nobody waits for its answer.
    Forgotten,
}

impl<To, A: Clone> Heard<To, A> {
    /// Nothing was heard yet.
    pub fn new(config: Config) -> Self {
        Self { config, calls: BTreeMap::new(), by_age: VecDeque::new(), kept: VecDeque::new(), kept_bytes: 0 }
    }

    /// Commands of another node, in a call of so many bytes: they would not be decided in the same
    /// way a second time. O(log calls).
    pub fn commands(&mut self, now_us: u64, name: CallName, bytes: usize, to: To) -> Hearing<To, A> {
        match self.calls.get_mut(&name) {
            Some(Known::Waits { to: waiting, .. }) => {
                if waiting.len() == self.config.waiting_max {
                    waiting.pop_front();
                }
                waiting.push_back(to);
                Hearing::Waits
            }
            Some(Known::Answered(answer)) => Hearing::Tell(to, answer.clone()),
            Some(Known::Forgotten) => Hearing::Forgotten,
            None => {
                self.remember(name, Known::Waits { to: VecDeque::from([to]), is_kept: true });
                self.kept.push_back((name, now_us, bytes));
                self.kept_bytes += bytes;
                self.forget(now_us);
                Hearing::Decide
            }
        }
    }

    /// A question of another node, which asks it anew when no answer comes. Whether it is heard for
    /// the first time.
    pub fn question(&mut self, name: CallName) -> bool {
        let is_new = !self.calls.contains_key(&name);
        if is_new {
            self.remember(name, Known::Forgotten);
        }
        is_new
    }

    /// The commands of a call are decided, and what was done is durable: who is to be told.
    pub fn answered(&mut self, name: CallName, answer: &A) -> impl Iterator<Item = To> + use<To, A> {
        let mut told = VecDeque::new();
        if let Some(known) = self.calls.get_mut(&name)
            && let Known::Waits { to, is_kept } = known
        {
            told = std::mem::take(to);
            *known = if *is_kept { Known::Answered(answer.clone()) } else { Known::Forgotten };
        }
        told.into_iter()
    }

    /// The leadership is over: these have no answer.
    pub fn end(self) -> impl Iterator<Item = To> {
        self.calls.into_values().flat_map(|known| match known {
            Known::Waits { to, .. } => to,
            Known::Answered(_) | Known::Forgotten => VecDeque::new(),
        })
    }

    fn remember(&mut self, name: CallName, known: Known<To, A>) {
        self.calls.insert(name, known);
        self.by_age.push_back(name);
        if self.by_age.len() > self.config.calls_max
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.calls.remove(&oldest);
        }
    }

    /// Forgets answers that are too old or too many.
    fn forget(&mut self, now_us: u64) {
        while let Some(&(name, heard_us, bytes)) = self.kept.front()
            && (self.kept_bytes > self.config.kept_bytes_max || now_us >= heard_us + self.config.kept_us)
        {
            self.kept.pop_front();
            self.kept_bytes -= bytes;
            match self.calls.get_mut(&name) {
                // Somebody waits still.
                Some(Known::Waits { is_kept, .. }) => *is_kept = false,
                Some(known) => *known = Known::Forgotten,
                None => {}
            }
        }
    }
}
