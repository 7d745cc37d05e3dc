//! Shapes that a policy leaves in the queue although a host has a place for them.
//!
//! A shape's clock runs while each dispatch finds it left again. A dispatch that finds no place for
//! it, or does not come to it, stops the clock, and so does a time in which nothing was dispatched:
//! a machine that was suspended, say. A shape that has not been left lately costs nothing.

use std::collections::BTreeMap;

use wasmill_protocol::Timestamp;

use crate::policy::{Ref, ShapeView};
use crate::state::Slot;

/// While something is left a dispatch comes after so many milliseconds at the latest.
const DISPATCH_MS_MAX: u64 = 1_000;
/// A longer time without a dispatch was not the policy's, in milliseconds.
pub(super) const PAUSE_MS: u64 = 2 * DISPATCH_MS_MAX;

/// The shapes that the last dispatch has left, and the one before.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    before: BTreeMap<Slot, Left>,
    left: BTreeMap<Slot, Left>,
}

/// A shape that is left.
#[derive(Debug, Clone, Copy)]
struct Left {
    shape: Ref,
    since: Timestamp,
    /// The last dispatch that left it.
    at: Timestamp,
}

impl Stalls {
    /// A dispatch begins.
    pub(super) fn begin(&mut self) {
        self.before = std::mem::take(&mut self.left);
    }

    /// Another policy places from now on.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The dispatch leaves a shape that has a place. Returns for how many milliseconds it has been
    /// left.
    pub(super) fn leave(&mut self, now: Timestamp, shape: &ShapeView) -> u64 {
        let slot = shape.id.slot;
        let is_same = |left: &&Left| left.shape == shape.id && now <= left.at.plus_ms(PAUSE_MS);
        let known = self.left.get(&slot).or_else(|| self.before.get(&slot)).filter(is_same);
        let since = known.map_or(now, |left| left.since).max(shape.oldest);
        self.left.insert(slot, Left { shape: shape.id, since, at: now });
        now.us_since(since) / 1_000
    }

    /// When the next dispatch must come.
    pub(super) fn next_due(&self) -> Option<Timestamp> {
        // All of them were left by the same dispatch, give or take the time that its questions
        // took.
        self.left.first_key_value().map(|(_, left)| left.at.plus_ms(DISPATCH_MS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wasmill_protocol::{Digest, TenantName};

    use super::*;

    fn shape(generation: u32, oldest_ms: u64) -> ShapeView {
        ShapeView {
            id: Ref { slot: 3, generation },
            tenant_id: 0,
            tenant: TenantName::default(),
            priority: 0,
            module: Digest::default(),
            memory_bytes: 0,
            require: Arc::default(),
            queued: 1,
            oldest: Timestamp(oldest_ms * 1_000),
        }
    }

    /// Leaves the shape in dispatches at these times, and says how long it was left at the last of
    /// them.
    fn left_ms(dispatches: &[(u64, Option<ShapeView>)]) -> u64 {
        let mut stalls = Stalls::default();
        let mut last = 0;
        for (at_ms, left) in dispatches {
            stalls.begin();
            last = left.as_ref().map_or(0, |shape| stalls.leave(Timestamp(at_ms * 1_000), shape));
        }
        last
    }

    #[test]
    fn the_clock_runs_while_each_dispatch_leaves_the_shape() {
        let left = |at_ms| (at_ms, Some(shape(0, 0)));
        assert_eq!(left_ms(&[left(1_000), left(1_500), left(2_500), left(3_500)]), 2_500);
        // One dispatch in between had no place for it.
        assert_eq!(left_ms(&[left(1_000), (1_500, None), left(2_500), left(3_500)]), 1_000);
        // Nothing was dispatched for a while.
        assert_eq!(left_ms(&[left(1_000), left(9_000), left(9_500)]), 500);
        // It is another shape, or has other tasks.
        assert_eq!(left_ms(&[left(1_000), left(2_000), (2_500, Some(shape(1, 0)))]), 0);
        assert_eq!(left_ms(&[left(1_000), left(2_000), (2_500, Some(shape(0, 1_800)))]), 700);
    }
}
