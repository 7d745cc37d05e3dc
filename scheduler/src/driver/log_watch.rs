//! Whether the log is still there, while nothing is read from it or appended to it.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;
use wasmill_fabric::{Log, LogError};
use wasmill_protocol::LogSeq;

/// The log is asked where it ends after this time without news of it.
const ASK_AFTER: Duration = Duration::from_secs(2);
/// A log that has refused is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_millis(250);
/// How long one question may take.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
/// A log that was silent for this long counts as out of reach: others may reach it.
const SILENCE_MAX: Duration = Duration::from_secs(6);

/// Asks the log where it ends, when nothing else has told for a while.
pub(super) struct LogWatch<'a> {
    log: &'a dyn Log,
    heard: Instant,
    ask_at: Instant,
    asking: Option<BoxFuture<'a, Result<LogSeq, LogError>>>,
    /// Whether it was said that the log is out of reach.
    told: bool,
}

/// What came out of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LogNews {
    /// It ends here.
    EndsAt(LogSeq),
    /// It did not answer, but may do so yet.
    Silent,
    /// It has been out of reach for too long.
    Gone,
}

impl<'a> LogWatch<'a> {
    /// The log has just been heard of.
    pub(super) fn new(log: &'a dyn Log) -> Self {
        let heard = Instant::now();
        Self { log, heard, ask_at: heard + ASK_AFTER, asking: None, told: false }
    }

    /// The log has answered something else.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
        self.ask_at = self.heard + ASK_AFTER;
        self.asking = None;
        if std::mem::take(&mut self.told) {
            tracing::info!("the log is back");
        }
    }

    /// Ends when the log has been out of reach for too long.
    pub(super) async fn gone(mut self) {
        while self.news().await != LogNews::Gone {}
    }

    /// Waits until it is time to ask, and for the answer. Giving it up loses nothing.
    pub(super) async fn news(&mut self) -> LogNews {
        if self.asking.is_none() {
            tokio::time::sleep_until(self.ask_at).await;
        }
        let asking = self.asking.get_or_insert_with(|| {
            let asked = self.log.last_seq();
            Box::pin(async move {
                let late = || LogError::Unreachable { action: "find the end of", reason: "no answer".to_owned() };
                tokio::time::timeout(ANSWER_PATIENCE, asked).await.unwrap_or_else(|_| Err(late()))
            })
        });
        let answer = asking.await;
        self.asking = None;
        match answer {
            Ok(last) => {
                self.heard();
                LogNews::EndsAt(last)
            }
            Err(error) => self.unheard(&error),
        }
    }

    fn unheard(&mut self, error: &LogError) -> LogNews {
        self.ask_at = Instant::now() + ASK_AGAIN;
        if self.heard.elapsed() < SILENCE_MAX {
            return LogNews::Silent;
        }
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(%error, silent_s = self.heard.elapsed().as_secs(), "the log is out of reach");
        }
        LogNews::Gone
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};
    use wasmill_fabric::{LogTail, LogWriter};

    use super::*;

    /// A log that answers as it was told, or never.
    struct Played(Option<Result<LogSeq, LogError>>);

    impl Log for Played {
        fn writer(&self) -> Box<dyn LogWriter> {
            unreachable!("a watch only asks where the log ends")
        }

        fn last_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
            match self.0.clone() {
                Some(answer) => futures::future::ready(answer).boxed(),
                None => futures::future::pending().boxed(),
            }
        }

        fn first_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
            futures::future::ready(Ok(LogSeq(1))).boxed()
        }

        fn tail(&self, _: LogSeq) -> LogTail {
            futures::stream::pending().boxed()
        }

        fn trim(&self, _: LogSeq) -> BoxFuture<'_, Result<(), LogError>> {
            futures::future::ready(Ok(())).boxed()
        }

        fn record_bytes_max(&self) -> usize {
            1 << 20
        }
    }

    /// The first news that decide something, and how long they took.
    async fn decided(log: &Played) -> (LogNews, Duration) {
        let (began, mut watch) = (Instant::now(), LogWatch::new(log));
        loop {
            match watch.news().await {
                LogNews::Silent => {}
                news => return (news, began.elapsed()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_log_is_asked_where_it_ends_when_nothing_else_tells() {
        assert_eq!(decided(&Played(Some(Ok(LogSeq(7))))).await, (LogNews::EndsAt(LogSeq(7)), ASK_AFTER));
    }

    #[tokio::test(start_paused = true)]
    async fn f07_a_log_that_is_out_of_reach_is_given_up_in_bounded_time() {
        let unreachable = LogError::Unreachable { action: "find the end of", reason: "cut".to_owned() };
        for log in [Played(None), Played(Some(Err(unreachable)))] {
            let (news, after) = decided(&log).await;
            assert_eq!(news, LogNews::Gone);
            assert!((SILENCE_MAX..=SILENCE_MAX + ANSWER_PATIENCE).contains(&after), "{after:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn other_news_of_the_log_put_the_question_off() {
        let log = Played(None);
        let mut watch = LogWatch::new(&log);
        for _ in 0..10 {
            assert!(tokio::time::timeout(ASK_AFTER / 2, watch.news()).await.is_err());
            watch.heard();
        }
        assert!(watch.asking.is_none());
    }
}
