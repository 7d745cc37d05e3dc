//! Messages on their way: lost, doubled, late, in another order.

use wasmill_protocol::Timestamp;

use crate::marks::{Mark, Marks};
use crate::options::Options;
use crate::rng::Rng;

/// The longest delay of a straggler in microseconds: longer than every time-out of the cores.
const STRAGGLER_US_MAX: u64 = 20_000_000;

/// When the copies of one message arrive: none, one or two times.
pub fn arrivals(now: Timestamp, options: &Options, rng: &mut Rng, marks: &mut Marks) -> Vec<Timestamp> {
    if rng.chance(options.loss) {
        marks.hit(Mark::MessageLost);
        return Vec::new();
    }
    let copies = if rng.chance(options.doubled) {
        marks.hit(Mark::MessageDoubled);
        2
    } else {
        1
    };
    (0..copies).map(|_| now.plus_us(delay_us(options, rng))).collect()
}

/// One delay in microseconds.
pub fn delay_us(options: &Options, rng: &mut Rng) -> u64 {
    if rng.chance(options.stragglers) { rng.below(STRAGGLER_US_MAX) } else { 20 + rng.skewed(options.delay_us) }
}
