//! A map that forgets what was used least recently: behind everything here that has a bound and may
//! be made again.

use std::collections::{BTreeMap, BTreeSet};

/// The bounds of a map.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LruBounds {
    /// Entries.
    pub(crate) entries: usize,
    /// The sum of what [`Lru::insert`] was told about the size of each.
    pub(crate) bytes: u64,
}

/// Keeps the entries used last, within bounds. The newest is always kept, also when it alone is
/// over the bound of bytes.
#[derive(Debug)]
pub(crate) struct Lru<K, V> {
    bounds: LruBounds,
    entries: BTreeMap<K, Entry<V>>,
    /// By time of last use, oldest first. Holds exactly the keys of `entries`.
    order: BTreeSet<(u64, K)>,
    bytes: u64,
    clock: u64,
}

#[derive(Debug)]
struct Entry<V> {
    used: u64,
    bytes: u64,
    value: V,
}

impl<K: Ord + Copy, V> Lru<K, V> {
    pub(crate) fn new(bounds: LruBounds) -> Self {
        Self { bounds, entries: BTreeMap::new(), order: BTreeSet::new(), bytes: 0, clock: 0 }
    }

    /// The value, which counts as used now.
    pub(crate) fn get(&mut self, key: K) -> Option<&mut V> {
        let entry = self.entries.get_mut(&key)?;
        // Mostly it is the one that was used last, and nothing changes.
        if entry.used == self.clock {
            return Some(&mut entry.value);
        }
        self.order.remove(&(entry.used, key));
        self.clock += 1;
        entry.used = self.clock;
        self.order.insert((entry.used, key));
        Some(&mut entry.value)
    }

    /// Adds or replaces; answers what had to go for it, not counting what was replaced.
    pub(crate) fn insert(&mut self, key: K, bytes: u64, value: V) -> Vec<(K, V)> {
        self.remove(key);
        self.clock += 1;
        self.order.insert((self.clock, key));
        self.entries.insert(key, Entry { used: self.clock, bytes, value });
        self.bytes += bytes;
        let mut gone = Vec::new();
        while self.entries.len() > 1 && (self.entries.len() > self.bounds.entries || self.bytes > self.bounds.bytes) {
            let (_, oldest) = self.order.first().copied().expect("every entry has a place in the order");
            let value = self.remove(oldest).expect("every place in the order is an entry's");
            gone.push((oldest, value));
        }
        gone
    }

    pub(crate) fn remove(&mut self, key: K) -> Option<V> {
        let entry = self.entries.remove(&key)?;
        self.order.remove(&(entry.used, key));
        self.bytes -= entry.bytes;
        Some(entry.value)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = K> {
        self.entries.keys().copied()
    }

    /// The sum of sizes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes() {
        let mut lru = Lru::new(LruBounds { entries: 2, bytes: 100 });
        assert!(lru.insert("a", 10, 1).is_empty());
        assert!(lru.insert("b", 10, 2).is_empty());
        assert_eq!(lru.get("a"), Some(&mut 1));
        assert_eq!(lru.insert("c", 10, 3), [("b", 2)]);
        assert_eq!(lru.get("b"), None);
        assert_eq!(lru.keys().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(lru.bytes(), 20);
    }

    #[test]
    fn bytes_are_bounded_but_for_the_newest() {
        let mut lru = Lru::new(LruBounds { entries: 10, bytes: 100 });
        lru.insert(1, 60, ());
        assert_eq!(lru.insert(2, 60, ()), [(1, ())]);
        assert_eq!(lru.insert(3, 500, ()), [(2, ())]);
        assert_eq!(lru.bytes(), 500);
        // Replacing counts once.
        assert!(lru.insert(3, 50, ()).is_empty());
        assert_eq!(lru.bytes(), 50);
        assert_eq!(lru.remove(3), Some(()));
        assert_eq!((lru.bytes(), lru.order.len()), (0, 0));
    }
}
