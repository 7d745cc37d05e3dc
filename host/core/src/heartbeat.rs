//! When a heartbeat is due, and what it says of the load.

use wasmill_protocol::{Timestamp, Usage};

use crate::bounds::{HEARTBEAT_EARLY_MS, HEARTBEAT_MS};

/// Decides when the next heartbeat goes out.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    number: u64,
    last: Option<Timestamp>,
    credit: u32,
    asked: bool,
}

impl Pulse {
    /// The next heartbeat goes out as soon as it may.
    pub(crate) fn ask(&mut self) {
        self.asked = true;
    }

    /// When the next heartbeat is due with this credit to tell.
    pub(crate) fn due(&self, credit: u32) -> Timestamp {
        let Some(last) = self.last else { return Timestamp(0) };
        let early = self.asked || differs_much(self.credit, credit);
        last.plus_ms(if early { HEARTBEAT_EARLY_MS } else { HEARTBEAT_MS })
    }

    /// The number of the heartbeat that goes out now, with this credit.
    pub(crate) fn beat(&mut self, now: Timestamp, credit: u32) -> u64 {
        self.number += 1;
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

/// CPU time of guests over the last second or so, as far as it is known: an attempt says what it used when it ends, and counts
/// with the part of its life that lies in the window.
#[derive(Debug, Default)]
pub(crate) struct Load {
    since: Timestamp,
    cpu_us: u64,
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
        self.cpu_us = self.cpu_us.saturating_add(within_us);
    }

    /// Thousandths of one core.
    pub(crate) fn millicores(&mut self, now: Timestamp) -> u32 {
        let elapsed_us = now.us_since(self.since);
        if elapsed_us >= HEARTBEAT_MS * 1000 {
            self.millicores = u32::try_from(self.cpu_us.saturating_mul(1000) / elapsed_us).unwrap_or(u32::MAX);
            self.since = now;
            self.cpu_us = 0;
        }
        self.millicores
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_a_second_and_an_early_one_when_the_credit_changes_much() {
        let mut pulse = Pulse::default();
        assert_eq!(pulse.due(8), Timestamp(0));
        let at = Timestamp(5_000_000);
        assert_eq!(pulse.beat(at, 8), 1);
        assert_eq!(pulse.due(8), at.plus_ms(HEARTBEAT_MS));
        assert_eq!(pulse.due(10), at.plus_ms(HEARTBEAT_MS));
        assert_eq!(pulse.due(11), at.plus_ms(HEARTBEAT_EARLY_MS));
        assert_eq!(pulse.due(0), at.plus_ms(HEARTBEAT_EARLY_MS));
        pulse.ask();
        assert_eq!(pulse.due(8), at.plus_ms(HEARTBEAT_EARLY_MS));
        assert_eq!(pulse.beat(at, 8), 2);
        assert_eq!(pulse.due(8), at.plus_ms(HEARTBEAT_MS));
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
}
