//! Gives equal values one number.

use std::collections::BTreeMap;

use super::slab::{Slab, Slot};

/// Values by number, each kept as long as somebody uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Interner<T> {
    slots: BTreeMap<T, Slot>,
    values: Slab<(T, u32)>,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self { slots: BTreeMap::new(), values: Slab::default() }
    }
}

impl<T: Ord + Clone> Interner<T> {
    /// The number of `value`, with one user more.
    pub(crate) fn acquire(&mut self, value: &T) -> Slot {
        if let Some(&slot) = self.slots.get(value) {
            self.values[slot].1 += 1;
            return slot;
        }
        let slot = self.values.insert((value.clone(), 1));
        self.slots.insert(value.clone(), slot);
        slot
    }

    /// One user less; the last one makes the number free.
    pub(crate) fn release(&mut self, slot: Slot) {
        let (_, users) = &mut self.values[slot];
        assert!(*users > 0, "a value is released as often as it was acquired");
        *users -= 1;
        if *users == 0 {
            let (value, _) = self.values.remove(slot);
            self.slots.remove(&value);
        }
    }

    /// The values by place, each with the number of its users. Cheap: nothing is copied until it
    /// changes.
    pub(crate) fn places(&self) -> Slab<(T, u32)> {
        self.values.clone()
    }

    /// From what is in each place. `None` when two values are the same.
    pub(crate) fn from_places(values: Slab<(T, u32)>) -> Option<Self> {
        let slots: BTreeMap<_, _> = values.iter().map(|(slot, (value, _))| (value.clone(), slot)).collect();
        (slots.len() == values.iter().count()).then_some(Self { slots, values })
    }

    /// The value of a number that is in use.
    pub(crate) fn value(&self, slot: Slot) -> &T {
        &self.values[slot].0
    }

    /// How many different values there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_share_a_number_while_in_use() {
        let mut interner = Interner::default();
        let a = interner.acquire(&"a");
        let b = interner.acquire(&"b");
        assert_eq!((interner.acquire(&"a"), interner.len()), (a, 2));
        interner.release(a);
        assert_eq!(interner.value(a), &"a");
        interner.release(a);
        assert_eq!((interner.len(), interner.acquire(&"c")), (1, a));
        assert_eq!(interner.value(b), &"b");
    }
}
