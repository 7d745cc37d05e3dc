//! Messages on their way: lost, doubled, late, in another order, or cut off in one direction.

use std::collections::BTreeMap;

use wasmill_protocol::Timestamp;

use crate::marks::{Mark, Marks};
use crate::options::Options;
use crate::rng::Rng;

/// The longest delay of a straggler in microseconds: longer than every time-out of the cores.
const STRAGGLER_US_MAX: u64 = 20_000_000;

/// Who sends and receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A control node.
    Node(usize),
    /// A host.
    Host(usize),
    /// The servers that carry messages and keep the log.
    Nats,
    /// The servers that know who leads and which hosts live.
    Etcd,
}

/// Which ways are cut.
#[derive(Debug, Default)]
pub struct Links {
    cut_until: BTreeMap<(Place, Place), Timestamp>,
}

impl Links {
    /// Nothing gets from one place to another until then.
    pub fn cut(&mut self, from: Place, to: Place, until: Timestamp) {
        let cut = self.cut_until.entry((from, to)).or_insert(until);
        *cut = until.max(*cut);
    }

    /// Whether nothing gets through now.
    pub fn is_cut(&self, now: Timestamp, from: Place, to: Place) -> bool {
        self.cut_until.get(&(from, to)).is_some_and(|until| *until > now)
    }

    /// Everything gets through again.
    pub fn mend(&mut self) {
        self.cut_until.clear();
    }
}

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
