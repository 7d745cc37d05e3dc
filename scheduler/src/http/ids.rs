//! Ids of new tasks.

use std::sync::atomic::{AtomicU64, Ordering};

use uuid::Uuid;
use wasmill_protocol::{TaskId, Timestamp};

/// Draws UUIDv7s that grow within this process, also within one millisecond and when the clock stands.
#[derive(Debug)]
pub(super) struct TaskIds {
    /// Milliseconds since 1970 in the upper 52 bits, a counter in the lower 12: RFC 9562, section 6.2, method 3 with the
    /// counter running over into the milliseconds.
    last: AtomicU64,
    /// Mixed into the last 62 bits.
    seed: u64,
}

/// Bits of the counter, which are `rand_a` of the UUID.
const COUNTER_BITS: u32 = 12;

impl TaskIds {
    /// Draws the seed from the operating system.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        Ok(Self { last: AtomicU64::new(0), seed: getrandom::u64()? })
    }

    /// An id for a task that is submitted now.
    pub(super) fn draw(&self, now: Timestamp) -> TaskId {
        let earliest = now.ms() << COUNTER_BITS;
        let next = |last: u64| earliest.max(last + 1);
        let last = match self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last))) {
            Ok(last) | Err(last) => last,
        };
        let ticket = next(last);
        let (milliseconds, counter) = (ticket >> COUNTER_BITS, ticket & ((1 << COUNTER_BITS) - 1));
        let high = (milliseconds << 16) | 0x7000 | counter;
        let low = (1 << 63) | (mixed(self.seed ^ ticket) >> 2);
        TaskId(Uuid::from_u64_pair(high, low))
    }
}

/// The finaliser of SplitMix64: spreads a counter over 64 bits without ever giving two the same value.
fn mixed(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let (seconds, nanos) = ids.draw(at.plus_ms(60_000)).0.get_timestamp().unwrap().to_unix();
        assert_eq!((seconds, nanos / 1_000_000), (1_772_366_460, 123));
    }
}
