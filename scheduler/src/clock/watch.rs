//! Looks at the clocks all the time, and says what is wrong with them.

use std::time::Duration;

use tokio::time::Instant;
use wasmill_fabric::{Log, uptime};
use wasmill_scheduler_core::clock::Verdict;

use super::{Clock, complaint, shown};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// How often the servers that keep the log are asked what time it is.
const ASK: Duration = Duration::from_secs(5);
/// How long they may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// What is wrong is said again after this time.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// Looks at the clocks for as long as it is polled.
pub(crate) async fn keep(clock: &Clock, log: &dyn Log) -> std::convert::Infallible {
    let mut asked: Option<Instant> = None;
    let mut said = Said::default();
    loop {
        if asked.is_none_or(|at| at.elapsed() >= ASK) {
            ask_servers(clock, log).await;
            asked = Some(Instant::now());
        }
        let verdict = clock.look();
        said.say(&verdict, clock.alone);
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks the servers that keep the log what time it is, for a bounded time. Whether they have answered; where there are none this does nothing.
pub(crate) async fn ask_servers(clock: &Clock, log: &dyn Log) -> bool {
    let Some(asking) = log.servers_time() else { return true };
    let asked_us = uptime::now_us();
    match tokio::time::timeout(ANSWER_MAX, asking).await {
        Ok(Ok(time)) => {
            // It was that time in the middle between question and answer, give or take half of what they took.
            time.inspect(|time| clock.servers_told(*time, asked_us.midpoint(uptime::now_us())));
            true
        }
        Ok(Err(_)) | Err(_) => false,
    }
}

/// What was said of the clock, and when.
#[derive(Default)]
struct Said {
    wrong_at: Option<Instant>,
}

impl Said {
    fn say(&mut self, verdict: &Verdict, alone: bool) {
        let difference_s = verdict.difference_us / 1_000_000;
        if verdict.ends_leadership && verdict.believed {
            tracing::warn!(difference_s, "the clock was set: {}", shown(verdict.difference_us).trim_end_matches(" of"));
        }
        match (verdict.believed, self.wrong_at) {
            (true, Some(_)) => {
                tracing::info!("the clock is believed again");
                self.wrong_at = None;
            }
            (false, said) if said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) => {
                tracing::warn!(difference_s, "{}", complaint(verdict, alone));
                self.wrong_at = Some(Instant::now());
            }
            _ => {}
        }
    }
}
