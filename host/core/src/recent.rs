//! Remembers which attempts are over and done with.

use std::collections::{BTreeSet, VecDeque};

use wasmill_protocol::AttemptId;

/// A set of attempts that forgets the oldest beyond its bound.
#[derive(Debug)]
pub(crate) struct Recent {
    capacity: usize,
    known: BTreeSet<AttemptId>,
    order: VecDeque<AttemptId>,
}

impl Recent {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, known: BTreeSet::new(), order: VecDeque::new() }
    }

    pub(crate) fn contains(&self, id: AttemptId) -> bool {
        self.known.contains(&id)
    }

    pub(crate) fn insert(&mut self, id: AttemptId) {
        if !self.known.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use wasmill_protocol::Nonce;

    use super::*;

    fn id(nonce: u64) -> AttemptId {
        AttemptId { nonce: Nonce(nonce), ..AttemptId::default() }
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut recent = Recent::new(2);
        for nonce in [1, 2, 1, 3] {
            recent.insert(id(nonce));
        }
        assert_eq!([1, 2, 3].map(|nonce| recent.contains(id(nonce))), [false, true, true]);
        assert_eq!((recent.known.len(), recent.order.len()), (2, 2));
    }
}
