//! How many attempts a host likes to have beyond its slots.
//!
//! Short attempts need a queue on the host, or its slots idle while reports and assignments travel;
//! long ones must not wait here while another host is free. So the host measures, a window at a
//! time: it wants as many as end within [`PREFETCH_WORK_MS`], doubles when slots stood idle
//! although the leader had used up the credit (then the way to the leader is the longer time), and
//! halves when attempts waited longer than that or when the credit was hardly used.

use wasmill_protocol::Timestamp;

use crate::bounds::{PREFETCH_MAX, PREFETCH_WINDOW_MS, PREFETCH_WORK_MS};

/// Adapts the number of attempts that wait on the host.
#[derive(Debug)]
pub(crate) struct Prefetch {
    slots: u32,
    prefetch: u32,
    window: Window,
}

/// The attempts of one window.
#[derive(Debug, Default)]
struct Window {
    since: Timestamp,
    started: u64,
    waited_us: u64,
    ended: u64,
    held_max: u32,
    starved: bool,
}

/// How a host looks at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    /// Attempts that the leader counts against the credit: waiting, running, or ended and not
    /// acknowledged.
    pub(crate) held: usize,
    /// Attempts that have not started.
    pub(crate) waiting: usize,
    /// Whether a slot is free.
    pub(crate) slot_free: bool,
}

impl Prefetch {
    pub(crate) fn new(slots: u32) -> Self {
        Self { slots, prefetch: slots.min(PREFETCH_MAX), window: Window::default() }
    }

    /// Attempts that the host holds at most, as it tells the leader.
    pub(crate) fn credit(&self) -> u32 {
        self.slots.saturating_add(self.prefetch)
    }

    pub(crate) fn note_started(&mut self, waited_us: u64) {
        self.window.started += 1;
        self.window.waited_us += waited_us;
    }

    pub(crate) fn note_ended(&mut self) {
        self.window.ended += 1;
    }

    /// Looks at the host after everything that could start has started; adapts when the window is
    /// over.
    pub(crate) fn observe(&mut self, now: Timestamp, sight: Sight) {
        let held = u32::try_from(sight.held).unwrap_or(u32::MAX);
        let credit = self.credit();
        self.window.held_max = self.window.held_max.max(held);
        // Not all of the credit: some is always on its way from the leader.
        self.window.starved |= sight.slot_free && sight.waiting == 0 && held >= credit - credit / 4;

        let elapsed_us = now.us_since(self.window.since);
        if elapsed_us < PREFETCH_WINDOW_MS * 1000 {
            return;
        }
        self.adapt(elapsed_us, sight.waiting > 0);
        self.window = Window { since: now, ..Window::default() };
    }

    fn adapt(&mut self, elapsed_us: u64, some_wait: bool) {
        let window = &self.window;
        let waits_too_long = match window.waited_us.checked_div(window.started) {
            Some(mean_us) => mean_us > PREFETCH_WORK_MS * 1000,
            None => some_wait,
        };
        let hardly_used = window.held_max < self.credit() / 2;
        let for_rate = window.ended.saturating_mul(PREFETCH_WORK_MS * 1000) / elapsed_us;
        let for_rate = u32::try_from(for_rate).unwrap_or(PREFETCH_MAX);
        let stepped = if window.starved {
            self.prefetch.saturating_mul(2)
        } else if waits_too_long || hardly_used {
            self.prefetch / 2
        } else {
            self.prefetch
        };
        self.prefetch = stepped.max(for_rate).clamp(self.slots.min(PREFETCH_MAX), PREFETCH_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: u32 = 4;

    /// Plays one window in which `ended` attempts ended that had waited `waited_us` each.
    fn window(prefetch: &mut Prefetch, now: &mut Timestamp, ended: u64, waited_us: u64, sight: Sight) -> u32 {
        for _ in 0..ended {
            prefetch.note_started(waited_us);
            prefetch.note_ended();
        }
        prefetch.observe(now.plus_ms(1), sight);
        *now = now.plus_ms(PREFETCH_WINDOW_MS);
        prefetch.observe(*now, sight);
        prefetch.credit() - SLOTS
    }

    fn idle() -> Sight {
        Sight { held: 0, waiting: 0, slot_free: true }
    }

    #[test]
    fn long_attempts_are_hardly_prefetched() {
        let (mut prefetch, mut now) = (Prefetch::new(SLOTS), Timestamp(0));
        let busy = Sight { held: 8, waiting: 4, slot_free: false };
        for _ in 0..10 {
            assert_eq!(window(&mut prefetch, &mut now, 1, 500_000, busy), SLOTS);
        }
    }

    #[test]
    fn short_attempts_get_twenty_milliseconds_of_work() {
        let (mut prefetch, mut now) = (Prefetch::new(SLOTS), Timestamp(0));
        let busy = Sight { held: 60, waiting: 50, slot_free: false };
        assert_eq!(window(&mut prefetch, &mut now, 500, 10_000, busy), 200);
        let busier = Sight { held: 204, waiting: 190, slot_free: false };
        assert_eq!(window(&mut prefetch, &mut now, 2_500, 10_000, busier), 1000);
        assert_eq!(window(&mut prefetch, &mut now, 250_000, 10_000, busier), PREFETCH_MAX);
    }

    #[test]
    fn a_slow_leader_is_answered_with_a_longer_queue() {
        // All that the credit allows has ended and waits for its acknowledgement: the rate alone
        // would never grow.
        let (mut prefetch, mut now) = (Prefetch::new(SLOTS), Timestamp(0));
        let mut seen = Vec::new();
        for _ in 0..10 {
            let starved = Sight { held: prefetch.credit() as usize, waiting: 0, slot_free: true };
            seen.push(window(&mut prefetch, &mut now, 1, 0, starved));
        }
        assert_eq!(seen, [8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024]);
    }

    #[test]
    fn what_is_not_needed_is_given_up() {
        let (mut prefetch, mut now) = (Prefetch::new(SLOTS), Timestamp(0));
        window(&mut prefetch, &mut now, 250_000, 0, Sight { held: 8, waiting: 4, slot_free: false });
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(window(&mut prefetch, &mut now, 0, 0, idle()));
        }
        assert_eq!(seen, [512, 256, 128, 64]);
        // The same when long attempts follow short ones and fill the queue: none starts in a whole
        // window.
        let stuck = Sight { held: 68, waiting: 64, slot_free: false };
        assert_eq!(window(&mut prefetch, &mut now, 0, 0, stuck), 32);
    }
}
