//! Ids of new tasks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;
use wasmill_protocol::{TaskId, Timestamp};

/// Draws UUIDv7s that grow within this process, also within one millisecond and when the clock
/// stands.
#[derive(Debug)]
pub(super) struct TaskIds {
    /// Milliseconds since 1970 in the upper 52 bits, a counter in the lower 12: RFC 9562, section
    /// 6.2, method 3 with the counter running over into the milliseconds.
    last: AtomicU64,
    /// The source of the last 62 bits.
    random: Mutex<RandomBits>,
}

/// Bits of the counter, which are `rand_a` of the UUID.
const COUNTER_BITS: u32 = 12;

impl TaskIds {
    /// Draws the first bits from the operating system.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        Ok(Self { last: AtomicU64::new(0), random: Mutex::new(RandomBits::new()?) })
    }

    /// An id for a task that is submitted now. Ids that are known say nothing of the random bits of
    /// others.
    pub(super) fn draw(&self, now: Timestamp) -> TaskId {
        let earliest = now.ms() << COUNTER_BITS;
        let next = |last: u64| earliest.max(last + 1);
        let last = match self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last))) {
            Ok(last) | Err(last) => last,
        };
        let ticket = next(last);
        let (milliseconds, counter) = (ticket >> COUNTER_BITS, ticket & ((1 << COUNTER_BITS) - 1));
        let high = (milliseconds << 16) | 0x7000 | counter;
        let random = self.random.lock().unwrap_or_else(PoisonError::into_inner).next();
        TaskId(Uuid::from_u64_pair(high, (1 << 63) | (random >> 2)))
    }
}

/// Bytes that are drawn together: asking the operating system for each id would take as long as the
/// rest of a submission's id.
const DRAWN_BYTES: usize = 4096;

/// Random bits of the operating system, each used once.
struct RandomBits {
    drawn: Box<[u8; DRAWN_BYTES]>,
    used: usize,
}

impl RandomBits {
    fn new() -> Result<Self, getrandom::Error> {
        let mut drawn = Box::new([0; DRAWN_BYTES]);
        getrandom::fill(&mut *drawn)?;
        Ok(Self { drawn, used: 0 })
    }

    fn next(&mut self) -> u64 {
        if self.used == DRAWN_BYTES {
            getrandom::fill(&mut *self.drawn).expect("the operating system gave randomness when the process began");
            self.used = 0;
        }
        let mut bits = [0; 8];
        let taken = &mut self.drawn[self.used..self.used + bits.len()];
        bits.copy_from_slice(taken);
        taken.fill(0);
        self.used += bits.len();
        u64::from_ne_bytes(bits)
    }
}

impl std::fmt::Debug for RandomBits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RandomBits").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c03_what_is_drawn_is_used_once() {
        let mut bits = RandomBits::new().unwrap();
        let first: Vec<u64> = (0..DRAWN_BYTES / 8).map(|_| bits.next()).collect();
        assert!(bits.drawn.iter().all(|byte| *byte == 0), "nothing of it is kept");
        let second: Vec<u64> = (0..DRAWN_BYTES / 8).map(|_| bits.next()).collect();
        assert!(first.iter().all(|bits| !second.contains(bits)));
        let ones: u32 = first.iter().chain(&second).map(|bits| bits.count_ones()).sum();
        let all = u32::try_from(DRAWN_BYTES * 16).unwrap();
        assert!(ones > all * 45 / 100 && ones < all * 55 / 100, "{ones} of {all}");
    }

    #[test]
    fn ids_are_uuids_of_version_7_that_grow() {
        let ids = TaskIds::new().unwrap();
        let at = Timestamp(1_772_366_400_123_456);
        // More than one millisecond has room for, and then a clock that went back.
        let mut drawn: Vec<_> = (0..10_000).map(|_| ids.draw(at)).collect();
        drawn.push(ids.draw(Timestamp(0)));
        assert!(drawn.is_sorted_by(|a, b| a < b));
        for id in drawn {
            assert_eq!(id.0.get_version_num(), 7);
            assert_eq!(id.0.get_variant(), uuid::Variant::RFC4122);
        }
        let unpredictable: std::collections::HashSet<u64> =
            (0..10_000).map(|_| ids.draw(at).0.as_u64_pair().1).collect();
        assert_eq!(unpredictable.len(), 10_000);
        let (seconds, nanos) = ids.draw(at.plus_ms(60_000)).0.get_timestamp().unwrap().to_unix();
        assert_eq!((seconds, nanos / 1_000_000), (1_772_366_460, 123));
    }
}
