//! What a leader has heard from other nodes. The bus may bring a request twice, and a node whose answer was lost asks again: it is decided once, and answered
//! as often as it is asked.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

/// Requests that are remembered. Each leadership has a subject of its own, so no copy comes from before it, and none comes this much later.
const HEARD_MAX: usize = 65_536;
/// Answers are kept for as long: whoever waits for one has given up by then.
const ANSWER_KEPT: Duration = Duration::from_secs(20);
/// The requests whose answers are kept have at most this many bytes together.
const ANSWERED_BYTES_MAX: usize = 16 << 20;

/// An answer as it travels, as soon as there is one.
pub(super) type Answering = Shared<BoxFuture<'static, Bytes>>;

/// Asker and number of a request.
type Name = (u64, u64);

/// Requests by their names.
#[derive(Default)]
pub(in crate::driver) struct Heard {
    requests: HashMap<Name, Option<Answering>>,
    by_age: VecDeque<Name>,
    /// Those with an answer: when they were heard, and their bytes.
    answering: VecDeque<(Name, Instant, usize)>,
    answering_bytes: usize,
}

/// What is known of a request.
pub(super) enum Before {
    /// It is heard for the first time.
    New,
    /// It was heard, and this is its answer.
    Answering(Answering),
    /// It was heard, and its answer is not kept.
    Forgotten,
}

impl Heard {
    /// What is known of a request.
    pub(super) fn before(&self, asker: u64, number: u64) -> Before {
        match self.requests.get(&(asker, number)) {
            None => Before::New,
            Some(Some(answering)) => Before::Answering(answering.clone()),
            Some(None) => Before::Forgotten,
        }
    }

    /// Remembers a request of so many bytes; and its answer, where it would not be given a second time.
    pub(super) fn remember(&mut self, name: Name, bytes: usize, answering: Option<Answering>, now: Instant) {
        if answering.is_some() {
            self.answering.push_back((name, now, bytes));
            self.answering_bytes += bytes;
        }
        self.requests.insert(name, answering);
        self.by_age.push_back(name);
        if self.by_age.len() > HEARD_MAX
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.requests.remove(&oldest);
        }
        while let Some(&(name, at, bytes)) = self.answering.front()
            && (self.answering_bytes > ANSWERED_BYTES_MAX || now >= at + ANSWER_KEPT)
        {
            self.answering.pop_front();
            self.answering_bytes -= bytes;
            if let Some(request) = self.requests.get_mut(&name) {
                *request = None;
            }
        }
    }
}

/// An answer that is shared by everybody who asks for it.
pub(super) fn answering(answer: impl Future<Output = Bytes> + Send + 'static) -> Answering {
    answer.boxed().shared()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(heard: &Heard, number: u64) -> &'static str {
        match heard.before(1, number) {
            Before::New => "new",
            Before::Answering(_) => "answering",
            Before::Forgotten => "forgotten",
        }
    }

    fn yes() -> Option<Answering> {
        Some(answering(async { Bytes::from_static(b"yes") }))
    }

    #[test]
    fn a_request_is_new_once_and_the_oldest_are_forgotten() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        heard.remember((1, 7), 10, None, now);
        assert_eq!((known(&heard, 7), known(&heard, 8)), ("forgotten", "new"));
        for number in 100..100 + HEARD_MAX as u64 {
            heard.remember((1, number), 10, None, now);
        }
        assert_eq!((heard.requests.len(), known(&heard, 7), known(&heard, 100)), (HEARD_MAX, "new", "forgotten"));
    }

    #[test]
    fn answers_are_kept_for_a_time_and_up_to_a_size() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        heard.remember((1, 1), 10, yes(), now);
        let Before::Answering(answer) = heard.before(1, 1) else { panic!("it was just heard") };
        assert_eq!(answer.now_or_never(), Some(Bytes::from_static(b"yes")));
        heard.remember((1, 2), 10, yes(), now + ANSWER_KEPT);
        assert_eq!((known(&heard, 1), known(&heard, 2)), ("forgotten", "answering"));
        heard.remember((1, 3), ANSWERED_BYTES_MAX, yes(), now + ANSWER_KEPT);
        assert_eq!((known(&heard, 2), known(&heard, 3)), ("forgotten", "answering"));
    }
}
