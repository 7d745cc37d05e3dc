//! The time that events carry.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use wasmill_protocol::Timestamp;

/// The wall clock, read once, and counted on by the monotonic clock; never before what was seen in the log.
#[derive(Debug)]
pub struct Clock {
    base_us: AtomicU64,
    started: Instant,
}

impl Clock {
    /// Reads the wall clock.
    pub fn start() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let base_us = u64::try_from(since_1970.as_micros()).unwrap_or(u64::MAX);
        Self { base_us: AtomicU64::new(base_us), started: Instant::now() }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        let elapsed_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        Timestamp(self.base_us.load(Ordering::Relaxed).saturating_add(elapsed_us))
    }

    /// Makes sure that [`Clock::now`] is not before `seen`: the wall clock may have been set back between two runs.
    pub fn not_before(&self, seen: Timestamp) {
        let behind_us = seen.us_since(self.now());
        self.base_us.fetch_add(behind_us, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_before_what_was_seen() {
        let clock = Clock::start();
        let later = clock.now().plus_ms(3_600_000);
        clock.not_before(later);
        let now = clock.now();
        assert!(now >= later);
        clock.not_before(Timestamp(0));
        assert!(clock.now() >= now);
    }
}
