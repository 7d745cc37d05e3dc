//! When a heartbeat is due, what fits into it, and what it says of the load.

use std::collections::BTreeMap;
use std::ops::Bound;

use wasmill_protocol::message::Progress;
use wasmill_protocol::{AttemptId, Timestamp, Usage};

use crate::bounds::{HEARTBEAT_ATTEMPT_BYTES, HEARTBEAT_EARLY_MS, HEARTBEAT_MS, HEARTBEATS_FAST};

/// Decides when the next heartbeat goes out.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    number: u64,
    last: Option<Timestamp>,
    credit: u32,
    asked: bool,
    /// How many have come since somebody new was there to hear them.
    announced: u32,
}

impl Pulse {
    /// The next heartbeat goes out as soon as it may.
    pub(crate) fn ask(&mut self) {
        self.asked = true;
    }

    /// The next heartbeats come fast: somebody does not know us yet.
    pub(crate) fn announce(&mut self) {
        self.asked = true;
        self.announced = 0;
    }

    /// When the next heartbeat is due with this credit to tell.
    pub(crate) fn due(&self, credit: u32) -> Timestamp {
        let Some(last) = self.last else { return Timestamp(0) };
        let wait_ms = if self.asked || differs_much(self.credit, credit) {
            HEARTBEAT_EARLY_MS
        } else if self.announced <= HEARTBEATS_FAST {
            HEARTBEAT_EARLY_MS << self.announced.saturating_sub(1)
        } else {
            HEARTBEAT_MS
        };
        last.plus_ms(wait_ms)
    }

    /// The number of the heartbeat that goes out now, with this credit.
    pub(crate) fn beat(&mut self, now: Timestamp, credit: u32) -> u64 {
        self.number += 1;
        self.announced = self.announced.saturating_add(1);
        self.last = Some(now);
        self.credit = credit;
        self.asked = false;
        self.number
    }
}

/// A quarter more or less is worth a message.
fn differs_much(told: u32, now: u32) -> bool {
    told.abs_diff(now) > told / 4
}

/// Facts beyond the size of one heartbeat come in the next ones, in turns.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    listed_last: Option<AttemptId>,
    told_last: Option<AttemptId>,
}

impl Turns {
    /// As many attempts as fit into `bytes_max`, and whether others were left out.
    pub(crate) fn attempts<T>(&mut self, held: &BTreeMap<AttemptId, T>, bytes_max: u64) -> (Vec<AttemptId>, bool) {
        let room = usize::try_from(bytes_max / HEARTBEAT_ATTEMPT_BYTES).unwrap_or(usize::MAX);
        if held.len() <= room {
            return (held.keys().copied().collect(), false);
        }
        let listed: Vec<_> = from(held, self.listed_last).map(|(id, _)| *id).take(room).collect();
        self.listed_last = listed.last().copied();
        (listed, true)
    }

    /// As much of what attempts say about their progress as fits into `bytes_max`.
    pub(crate) fn progress<T>(
        &mut self,
        held: &BTreeMap<AttemptId, T>,
        said: impl Fn(&T) -> Option<Progress>,
        bytes_max: u64,
    ) -> Vec<(AttemptId, Progress)> {
        let mut bytes = 0;
        let all = from(held, self.told_last).filter_map(|(id, held)| Some((*id, said(held)?)));
        let told: Vec<_> = all
            .take_while(|(_, progress)| {
                bytes += 2 * HEARTBEAT_ATTEMPT_BYTES + progress.message.len() as u64;
                bytes <= bytes_max
            })
            .collect();
        self.told_last = told.last().map(|(id, _)| *id);
        told
    }
}

/// All entries once, beginning behind `last`.
fn from<T>(held: &BTreeMap<AttemptId, T>, last: Option<AttemptId>) -> impl Iterator<Item = (&AttemptId, &T)> {
    let behind = last.map_or(Bound::Unbounded, Bound::Excluded);
    let up_to = last.map(|last| held.range(..=last));
    held.range((behind, Bound::Unbounded)).chain(up_to.into_iter().flatten())
}

/// CPU time of guests over the last second or so.
///
/// A sandbox that says how much CPU time its guests have used in all is taken at its word. Until it
/// has said so, an attempt counts when it ends, with the part of its life that lies in the window.
#[derive(Debug, Default)]
pub(crate) struct Load {
    since: Timestamp,
    ended_us: u64,
    /// The sandbox's figures when the window began, and its last ones.
    told_us: Option<(u64, u64)>,
    millicores: u32,
}

impl Load {
    pub(crate) fn note_ended(&mut self, now: Timestamp, usage: &Usage) {
        let window_us = now.us_since(self.since);
        let within_us = if usage.run_us > window_us {
            let share = u128::from(usage.cpu_us) * u128::from(window_us) / u128::from(usage.run_us);
            u64::try_from(share).unwrap_or(u64::MAX)
        } else {
            usage.cpu_us
        };
        self.ended_us = self.ended_us.saturating_add(within_us);
    }

    /// Takes in the CPU time that all guests have used since the sandbox began.
    pub(crate) fn note_total(&mut self, cpu_us: u64) {
        let (first, _) = self.told_us.unwrap_or((cpu_us, cpu_us));
        // A total that went down is of a new sandbox.
        self.told_us = Some((first.min(cpu_us), cpu_us));
    }

    /// Thousandths of one core.
    pub(crate) fn millicores(&mut self, now: Timestamp) -> u32 {
        let elapsed_us = now.us_since(self.since);
        if elapsed_us >= HEARTBEAT_MS * 1000 {
            let cpu_us = self.told_us.map_or(self.ended_us, |(first, last)| last - first);
            self.millicores = u32::try_from(cpu_us.saturating_mul(1000) / elapsed_us).unwrap_or(u32::MAX);
            self.since = now;
            self.ended_us = 0;
            self.told_us = self.told_us.map(|(_, last)| (last, last));
        }
        self.millicores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f41_what_does_not_fit_comes_in_turns() {
        let id = |number| AttemptId { nonce: wasmill_protocol::Nonce(number), ..AttemptId::default() };
        let held: BTreeMap<_, _> = (0..10).map(|number| (id(number), ())).collect();
        let mut turns = Turns::default();
        let mut list = |attempts| {
            let (listed, partial) = turns.attempts(&held, attempts * HEARTBEAT_ATTEMPT_BYTES);
            (listed.iter().map(|id| id.nonce.0).collect::<Vec<_>>(), partial)
        };
        assert_eq!(list(4), (vec![0, 1, 2, 3], true));
        assert_eq!(list(4), (vec![4, 5, 6, 7], true));
        assert_eq!(list(4), (vec![8, 9, 0, 1], true));
        assert_eq!(list(10), ((0..10).collect(), false));

        let said = |(): &()| Some(Progress { message: "x".repeat(1000), ..Progress::default() });
        let mut tell = |bytes_max| {
            let told = turns.progress(&held, said, bytes_max);
            told.iter().map(|(id, _)| id.nonce.0).collect::<Vec<_>>()
        };
        assert_eq!(tell(4 << 10), [0, 1, 2]);
        assert_eq!(tell(4 << 10), [3, 4, 5]);
        assert_eq!(tell(1 << 20), [6, 7, 8, 9, 0, 1, 2, 3, 4, 5]);
    }

    /// Milliseconds to each of the next heartbeats.
    fn waits(pulse: &mut Pulse, mut at: Timestamp, count: usize) -> Vec<u64> {
        let mut wait = || {
            let due = pulse.due(8);
            let wait_ms = due.us_since(at) / 1000;
            at = due;
            pulse.beat(at, 8);
            wait_ms
        };
        (0..count).map(|_| wait()).collect()
    }

    #[test]
    fn a_new_host_announces_itself_fast_and_then_beats_every_second() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.due(8), Timestamp(0));
        let start = Timestamp(5_000_000);
        assert_eq!(pulse.beat(start, 8), 1);
        assert_eq!(waits(&mut pulse, start, 6), [50, 100, 200, 400, 1000, 1000]);
        let last = start.plus_ms(2750);
        assert_eq!(pulse.due(8), last.plus_ms(HEARTBEAT_MS));
        pulse.announce();
        assert_eq!(waits(&mut pulse, last, 6), [50, 50, 100, 200, 400, 1000]);
    }

    #[test]
    fn credit_that_changes_much_is_worth_an_early_one() {
        let mut pulse = Pulse::default();
        waits(&mut pulse, Timestamp(0), 8);
        let at = Timestamp(9_000_000);
        let number = pulse.beat(at, 8);
        assert_eq!(pulse.due(10), at.plus_ms(HEARTBEAT_MS));
        assert_eq!(pulse.due(11), at.plus_ms(HEARTBEAT_EARLY_MS));
        assert_eq!(pulse.due(0), at.plus_ms(HEARTBEAT_EARLY_MS));
        pulse.ask();
        assert_eq!(pulse.due(8), at.plus_ms(HEARTBEAT_EARLY_MS));
        assert_eq!(pulse.beat(at, 11), number + 1);
        assert_eq!(pulse.due(11), at.plus_ms(HEARTBEAT_MS));
    }

    #[test]
    fn load_counts_only_what_was_used_within_the_window() {
        let mut load = Load::default();
        let second = Timestamp(1_000_000);
        load.note_ended(second, &Usage { cpu_us: 250_000, run_us: 400_000, ..Usage::default() });
        load.note_ended(second, &Usage { cpu_us: 8_000_000, run_us: 8_000_000, ..Usage::default() });
        assert_eq!(load.millicores(second), 1250);
        assert_eq!(load.millicores(second.plus_ms(500)), 1250);
        assert_eq!(load.millicores(second.plus_ms(1000)), 0);
    }

    #[test]
    fn what_the_sandbox_says_counts_while_guests_still_run() {
        let mut load = Load::default();
        let second = Timestamp(1_000_000);
        load.note_total(500_000);
        assert_eq!(load.millicores(second), 0, "what it had used before is not of this window");
        load.note_total(2_500_000);
        load.note_ended(second, &Usage { cpu_us: 1_000, run_us: 1_000, ..Usage::default() });
        assert_eq!(load.millicores(second.plus_ms(1000)), 2000);
        load.note_total(100_000);
        load.note_total(300_000);
        assert_eq!(load.millicores(second.plus_ms(2000)), 200, "a new sandbox begins at zero");
    }
}
