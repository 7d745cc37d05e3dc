//! Remembers something of the attempts of late.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};

use wasmill_protocol::AttemptId;

/// A value for each of some attempts. It forgets the oldest beyond its bound, and keeps the first
/// value of each.
#[derive(Debug)]
pub(crate) struct Recent<T = ()> {
    capacity: usize,
    known: BTreeMap<AttemptId, T>,
    order: VecDeque<AttemptId>,
}

impl<T: Copy> Recent<T> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, known: BTreeMap::new(), order: VecDeque::new() }
    }

    pub(crate) fn contains(&self, id: AttemptId) -> bool {
        self.known.contains_key(&id)
    }

    pub(crate) fn find(&self, id: AttemptId) -> Option<T> {
        self.known.get(&id).copied()
    }

    pub(crate) fn insert(&mut self, id: AttemptId, value: T) {
        match self.known.entry(id) {
            Entry::Occupied(_) => return,
            Entry::Vacant(vacant) => vacant.insert(value),
        };
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
        for (nonce, value) in [(1, 'a'), (2, 'b'), (1, 'c'), (2, 'd'), (3, 'e')] {
            recent.insert(id(nonce), value);
        }
        assert_eq!([1, 2, 3].map(|nonce| recent.find(id(nonce))), [None, Some('b'), Some('e')]);
        assert!(!recent.contains(id(1)) && recent.contains(id(3)));
        assert_eq!((recent.known.len(), recent.order.len()), (2, 2));
    }
}
