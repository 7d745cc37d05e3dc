//! How long to wait before something is tried again.

/// `first_us`, doubled with each of the `failures`, at most `max_us`.
pub(crate) fn delay_us(first_us: u64, max_us: u64, failures: u32) -> u64 {
    first_us.saturating_mul(1 << failures.min(32)).min(max_us)
}

/// Draws from the half to the whole of a delay, so that those who were cut off together do not come
/// back together.
///
/// SplitMix64, by Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014).
/// Not for secrets.
#[derive(Debug, Clone)]
pub(crate) struct Jitter(pub(crate) u64);

impl Jitter {
    pub(crate) fn draw_us(&mut self, delay_us: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let half = delay_us / 2;
        delay_us - mixed % (half + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_their_bound() {
        let delays = [0, 1, 2, 3, 4, 64].map(|failures| delay_us(100, 1_000, failures));
        assert_eq!(delays, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(delay_us(u64::MAX, u64::MAX, 9), u64::MAX);
    }

    #[test]
    fn jitter_stays_between_the_half_and_the_whole() {
        let mut jitter = Jitter(1);
        let drawn: Vec<u64> = (0..1_000).map(|_| jitter.draw_us(100)).collect();
        assert!(drawn.iter().all(|delay| (50..=100).contains(delay)));
        assert!(drawn.contains(&50) && drawn.contains(&100));
        assert_eq!(jitter.draw_us(0), 0);
    }
}
