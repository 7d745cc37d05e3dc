//! Led time: how long somebody has led, as the log tells.

use serde::{Deserialize, Serialize};

use crate::event::{Event, EventBody};
use wasmill_protocol::ids::LogSeq;
use wasmill_protocol::time::{Timestamp, Uptime};

/// The time that a new term may add although nobody has measured it, in microseconds: the usual
/// time without a leader.
const UNMEASURED_US_MAX: u64 = 60_000_000;
/// Spans that are kept. Of more, the two oldest become one.
const SPANS_MAX: usize = 64;

/// Beginnings of terms that are kept.
const BEGINNINGS_MAX: usize = 8;

/// Measures time in a way that no wrong clock can move: retention is counted by it.
///
/// Within a term the times in the log advance by a clock that cannot be set. From one term to the
/// next they may jump either way: the clocks of two nodes differ, a clock was set, nobody ran for
/// months. Of such a jump only as much counts as the node that begins the term has measured, or a
/// minute. So led time follows from the log alone, it is the same for everybody who reads it, and a
/// leader whose clock is a month ahead adds no more to it than the time for which it has led.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LedTime {
    /// The time of the last event.
    at: Timestamp,
    /// Where the difference between times in the log and led time has changed, oldest first.
    /// Without any there is none.
    spans: Vec<LedSpan>,
    /// When terms began, and the uptimes of their leaders' machines at these moments; of those that
    /// agree the last one, newest last.
    began: Vec<(Timestamp, Uptime)>,
}

/// Records that have one difference between their times and led time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
struct LedSpan {
    /// The first of them.
    from: LogSeq,
    /// Its time: none of them has an earlier one.
    since: Timestamp,
    /// Led time is less than the times in the log by this much, in microseconds.
    lag_us: i64,
}

/// Tasks that became final in one range of records, and when, if their retention is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// The time of the first record of the range: nothing ended in it earlier.
    pub since: Timestamp,
    /// The first record of the range.
    pub from: LogSeq,
    /// The first record after it.
    pub until: LogSeq,
    /// The retention of tasks that ended in the range before this time is over.
    pub before: Timestamp,
}

impl LedTime {
    /// Takes in an event of record `seq`.
    pub fn apply(&mut self, seq: LogSeq, event: &Event) {
        let EventBody::TermStarted { passed_us, uptime, .. } = &event.body else {
            self.at = self.at.max(event.at);
            return;
        };
        if self.at > Timestamp(0) {
            let measured_us = match self.began.last() {
                Some((began, before)) if runs_on(before, uptime) => {
                    uptime.us.saturating_sub(before.us).saturating_sub(self.at.us_since(*began))
                }
                _ => 0,
            };
            let counts_us = event.at.us_since(self.at).min(measured_us.max(*passed_us).max(UNMEASURED_US_MAX));
            let lag_us =
                self.lag_us() + signed(event.at) - signed(self.at) - i64::try_from(counts_us).unwrap_or(i64::MAX);
            if lag_us != self.lag_us() {
                self.begin_span(LedSpan { from: seq, since: event.at, lag_us });
            }
        }
        self.at = event.at;
        self.note_beginning(event.at, uptime);
    }

    fn note_beginning(&mut self, at: Timestamp, uptime: &Uptime) {
        if let Some((began, before)) = self.began.last()
            && runs_on(before, uptime)
            && began.plus_us(uptime.us.saturating_sub(before.us)).0.abs_diff(at.0) <= UNMEASURED_US_MAX
        {
            self.began.pop();
        }
        self.began.push((at, uptime.clone()));
        let outdated = self.began.len().saturating_sub(BEGINNINGS_MAX);
        self.began.drain(..outdated);
    }

    fn begin_span(&mut self, span: LedSpan) {
        if self.spans.is_empty() {
            self.spans.push(LedSpan::default());
        }
        self.spans.push(span);
        if self.spans.len() > SPANS_MAX {
            // Of two spans the smaller difference: what is kept a little longer harms nobody.
            let oldest = self.spans.remove(0);
            let LedSpan { since, lag_us, .. } = self.spans[0];
            self.spans[0] =
                LedSpan { from: oldest.from, since: oldest.since.min(since), lag_us: oldest.lag_us.min(lag_us) };
        }
    }

    fn lag_us(&self) -> i64 {
        self.spans.last().map_or(0, |span| span.lag_us)
    }

    /// The time of the last event.
    pub fn last_event(&self) -> Timestamp {
        self.at
    }

    /// Led time at the last event, in microseconds since some beginning.
    pub fn us(&self) -> i64 {
        signed(self.at).saturating_sub(self.lag_us())
    }

    /// The times at which terms began on a machine since it was started, counted on by its uptime:
    /// what time it was to be, newest last. Nothing unless the last term began there too.
    pub fn expected(&self, uptime: &Uptime) -> Vec<Timestamp> {
        let here = self.began.last().is_some_and(|(_, last)| runs_on(last, uptime));
        let began = self.began.iter().filter(|(_, before)| here && runs_on(before, uptime));
        began.map(|(at, before)| at.plus_us(uptime.us.saturating_sub(before.us))).collect()
    }

    /// The tasks whose retention is over, `passed_us` after the last event.
    pub fn expired(&self, retention_us: u64, passed_us: u64) -> Vec<Expired> {
        let bound = self.us().saturating_add(clamped(passed_us)).saturating_sub(clamped(retention_us));
        let spans = if self.spans.is_empty() { &[LedSpan::default()] } else { self.spans.as_slice() };
        let until = spans.iter().skip(1).map(|span| span.from).chain([LogSeq(u64::MAX)]);
        let expired = |(span, until): (&LedSpan, LogSeq)| Expired {
            since: span.since,
            from: span.from,
            until,
            before: Timestamp(u64::try_from(bound.saturating_add(span.lag_us)).unwrap_or(0)),
        };
        spans.iter().zip(until).map(expired).collect()
    }
}

/// Whether two uptimes are of one machine that was not started anew in between.
fn runs_on(before: &Uptime, after: &Uptime) -> bool {
    !before.boot.is_empty() && before.boot == after.boot
}

fn signed(time: Timestamp) -> i64 {
    clamped(time.0)
}

fn clamped(us: u64) -> i64 {
    // Far enough from the ends for sums of a few.
    i64::try_from(us).unwrap_or(i64::MAX).min(i64::MAX / 4)
}

#[cfg(test)]
mod tests;
