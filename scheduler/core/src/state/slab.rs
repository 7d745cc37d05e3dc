//! Where tasks live: numbered places that are used again, and lists that are threaded through them.

use std::ops::{Index, IndexMut};

use super::task::Task;

/// The number of a place in a [`Slab`].
pub(crate) type Slot = u32;

/// No place at all: the end of a list.
pub(crate) const NONE: Slot = Slot::MAX;

/// Places per chunk. A slab grows by chunks so that no push ever moves a million tasks.
const CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: usize = 12;

/// Values in numbered places. Taking a place and giving it back are O(1); memory is kept for the next value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    vacant: Vec<Slot>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), vacant: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// Puts `value` somewhere.
    pub(crate) fn insert(&mut self, value: T) -> Slot {
        if let Some(slot) = self.vacant.pop() {
            self[slot] = value;
            return slot;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            // The first chunk grows by doubling, so that a small slab stays small.
            self.chunks.push(if self.chunks.is_empty() { Vec::new() } else { Vec::with_capacity(CHUNK) });
        }
        let chunk = self.chunks.last_mut().expect("a chunk with room was pushed if there was none");
        chunk.push(value);
        let index = chunk.len() - 1 + (self.chunks.len() - 1) * CHUNK;
        let slot = Slot::try_from(index).expect("the number of tasks is bounded far below 2^32");
        assert!(slot != NONE);
        slot
    }

    /// What is in a place; `None` for [`NONE`].
    pub(crate) fn find(&self, slot: Slot) -> Option<&T> {
        (slot != NONE).then(|| &self[slot])
    }

    /// Gives a place back. What is in it stays until the place is taken again.
    pub(crate) fn remove(&mut self, slot: Slot) {
        self.vacant.push(slot);
    }
}

impl<T> Index<Slot> for Slab<T> {
    type Output = T;

    fn index(&self, slot: Slot) -> &T {
        let index = slot as usize;
        &self.chunks[index >> CHUNK_BITS][index & (CHUNK - 1)]
    }
}

impl<T> IndexMut<Slot> for Slab<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        let index = slot as usize;
        &mut self.chunks[index >> CHUNK_BITS][index & (CHUNK - 1)]
    }
}

/// A doubly linked list of tasks through their own `prev` and `next`: a task is in one list at a time, so the links cost nothing
/// more, and taking one out of the middle is O(1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct List {
    /// The first, or [`NONE`].
    pub(crate) head: Slot,
    tail: Slot,
    /// How many.
    pub(crate) count: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE, count: 0 }
    }
}

impl List {
    /// Appends at the end.
    pub(crate) fn push_back(&mut self, tasks: &mut Slab<Task>, slot: Slot) {
        let last = self.tail;
        (tasks[slot].prev, tasks[slot].next) = (last, NONE);
        if last == NONE {
            self.head = slot
        } else {
            tasks[last].next = slot
        }
        self.tail = slot;
        self.count += 1;
    }

    /// Puts in front of all others.
    pub(crate) fn push_front(&mut self, tasks: &mut Slab<Task>, slot: Slot) {
        let first = self.head;
        (tasks[slot].prev, tasks[slot].next) = (NONE, first);
        if first == NONE {
            self.tail = slot
        } else {
            tasks[first].prev = slot
        }
        self.head = slot;
        self.count += 1;
    }

    /// Takes out a task that is in this list.
    pub(crate) fn unlink(&mut self, tasks: &mut Slab<Task>, slot: Slot) {
        let (prev, next) = (tasks[slot].prev, tasks[slot].next);
        assert!(self.count > 0, "a list is not empty while a task is in it");
        if prev == NONE {
            self.head = next
        } else {
            tasks[prev].next = next
        }
        if next == NONE {
            self.tail = prev
        } else {
            tasks[next].prev = prev
        }
        (tasks[slot].prev, tasks[slot].next) = (NONE, NONE);
        self.count -= 1;
    }

    /// All of them, in order.
    pub(crate) fn slots(self, tasks: &Slab<Task>) -> impl Iterator<Item = Slot> + '_ {
        std::iter::successors((self.head != NONE).then_some(self.head), |&slot| {
            let next = tasks[slot].next;
            (next != NONE).then_some(next)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again() {
        let mut slab = Slab::default();
        let slots: Vec<_> = (0..10_000u32).map(|value| slab.insert(value)).collect();
        assert!(slots.iter().zip(0..).all(|(&slot, value)| slab[slot] == value));
        slab.remove(slots[17]);
        assert_eq!(slab.insert(5), slots[17]);
        assert_eq!(slab[slots[17]], 5);
    }

    #[test]
    fn a_list_keeps_its_order() {
        let mut tasks = Slab::default();
        let slots: Vec<_> = (0..4).map(|_| tasks.insert(Task::default())).collect();
        let mut list = List::default();
        list.push_back(&mut tasks, slots[1]);
        list.push_back(&mut tasks, slots[2]);
        list.push_front(&mut tasks, slots[0]);
        list.push_back(&mut tasks, slots[3]);
        assert_eq!(list.slots(&tasks).collect::<Vec<_>>(), slots);
        list.unlink(&mut tasks, slots[1]);
        list.unlink(&mut tasks, slots[3]);
        list.unlink(&mut tasks, slots[0]);
        assert_eq!(list.slots(&tasks).collect::<Vec<_>>(), [slots[2]]);
        list.unlink(&mut tasks, slots[2]);
        assert_eq!(list, List::default());
    }
}
