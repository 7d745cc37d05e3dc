//! Whether the leader still answers, while this node follows: clients, proxies and operators are told when nobody does.
//!
//! A node that follows knows from the log who began to lead, and nothing in the log says that somebody has stopped. So the leader is asked, over the way that
//! requests of clients take, what costs it nothing.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::Instant;
use wasmill_protocol::Term;

use super::forward::{Presence, PresenceAsker};

/// Between two questions.
const ASK_AFTER: Duration = Duration::from_millis(250);
/// Before a leader is believed to be gone, it is asked again after this time: a connection may just be made anew.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long one question may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// A leader that was silent for this long leads nobody: less than its lease, so that it is known by the time another one can be elected.
const SILENCE_MAX: Duration = Duration::from_secs(4);

/// Asks the leader of the newest term again and again.
pub(super) struct LeaderWatch<A> {
    asked: A,
    term: Term,
    heard: Instant,
    ask_at: Instant,
    asking: Option<BoxFuture<'static, Presence>>,
    /// Nobody led when it was asked last.
    was_gone: bool,
}

/// What came out of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaderNews {
    /// The leader of this term answers.
    Answers(Term),
    /// It did not answer, but may do so yet.
    Silent,
    /// Nobody leads in this term any more, or nobody whom this node can reach.
    Gone,
}

/// Who can be asked whether a leader is there.
pub(super) trait AskLeader {
    /// Asks the leader of a term.
    fn presence(&self, term: Term, timeout: Duration) -> BoxFuture<'static, Presence>;
}

impl AskLeader for PresenceAsker {
    fn presence(&self, term: Term, timeout: Duration) -> BoxFuture<'static, Presence> {
        let asker = self.clone();
        async move { asker.presence(term, timeout).await }.boxed()
    }
}

impl<A: AskLeader> LeaderWatch<A> {
    /// Nothing is known yet of the leader of `term`.
    pub(super) fn new(asked: A, term: Term) -> Self {
        let now = Instant::now();
        Self { asked, term, heard: now, ask_at: now, asking: None, was_gone: false }
    }

    /// The log has gone as far as this term: its leader is the one to ask.
    pub(super) fn note_term(&mut self, term: Term) {
        if term > self.term {
            self.term = term;
            self.heard();
            self.ask_at = self.heard;
        }
    }

    fn heard(&mut self) {
        self.heard = Instant::now();
        self.ask_at = self.heard + ASK_AFTER;
        (self.asking, self.was_gone) = (None, false);
    }

    /// Waits until it is time to ask, and for the answer. Giving it up loses nothing.
    pub(super) async fn news(&mut self) -> LeaderNews {
        if self.term == Term(0) {
            // Nobody has ever led.
            return std::future::pending().await;
        }
        if self.asking.is_none() {
            tokio::time::sleep_until(self.ask_at).await;
        }
        let asking = self.asking.get_or_insert_with(|| self.asked.presence(self.term, ANSWER_PATIENCE));
        let presence = asking.await;
        self.asking = None;
        match presence {
            Presence::Leads => {
                self.heard();
                LeaderNews::Answers(self.term)
            }
            Presence::Silent => self.unheard(false),
            Presence::Gone => {
                let is_sure = self.was_gone;
                self.was_gone = true;
                self.unheard(is_sure)
            }
        }
    }

    fn unheard(&mut self, is_sure: bool) -> LeaderNews {
        self.ask_at = Instant::now() + ASK_AGAIN;
        if is_sure || self.heard.elapsed() >= SILENCE_MAX { LeaderNews::Gone } else { LeaderNews::Silent }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A leader that always says the same; `Silent` takes all the time that it may.
    #[derive(Clone, Copy)]
    struct Played(Presence);

    impl AskLeader for Played {
        fn presence(&self, _: Term, timeout: Duration) -> BoxFuture<'static, Presence> {
            let presence = self.0;
            let takes = if presence == Presence::Silent { timeout } else { Duration::ZERO };
            tokio::time::sleep(takes).map(move |()| presence).boxed()
        }
    }

    /// The first news that decide something, and how long they took.
    async fn decided(presence: Presence) -> (LeaderNews, Duration) {
        let (began, mut watch) = (Instant::now(), LeaderWatch::new(Played(presence), Term(7)));
        loop {
            match watch.news().await {
                LeaderNews::Silent => {}
                news => return (news, began.elapsed()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn f54_a_leader_that_has_gone_or_is_silent_is_noticed_within_a_lease() {
        assert_eq!(decided(Presence::Leads).await, (LeaderNews::Answers(Term(7)), Duration::ZERO));
        assert_eq!(decided(Presence::Gone).await, (LeaderNews::Gone, ASK_AGAIN));
        let (news, after) = decided(Presence::Silent).await;
        assert_eq!(news, LeaderNews::Gone);
        assert!((SILENCE_MAX..Duration::from_secs(5)).contains(&after), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_leader_of_a_later_term_has_all_its_time() {
        let mut watch = LeaderWatch::new(Played(Presence::Gone), Term(7));
        assert_eq!(watch.news().await, LeaderNews::Silent);
        watch.note_term(Term(8));
        assert_eq!(watch.news().await, LeaderNews::Silent, "its predecessor was gone");
        assert_eq!(watch.news().await, LeaderNews::Gone);
        watch.note_term(Term(8));
        assert_eq!(watch.news().await, LeaderNews::Gone);
    }

    #[tokio::test(start_paused = true)]
    async fn where_nobody_has_ever_led_nobody_is_asked() {
        let mut watch = LeaderWatch::new(Played(Presence::Leads), Term(0));
        assert!(tokio::time::timeout(Duration::from_secs(60), watch.news()).await.is_err());
    }
}
