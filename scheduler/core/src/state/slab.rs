//! Where tasks live: numbered places that are used again, and lists that are threaded through them.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use super::task::Task;

/// The number of a place in a [`Slab`].
pub(crate) type Slot = u32;

/// No place at all: the end of a list.
pub(crate) const NONE: Slot = Slot::MAX;

/// Places per chunk. A slab grows by chunks so that no push ever moves a million tasks.
pub(crate) const CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: usize = 12;

/// Values in numbered places. Taking a place and giving it back are O(1); memory is kept for the
/// next value.
///
/// A clone shares the chunks until one of both changes them, so it costs a pointer for each chunk:
/// that is how a snapshot is written beside a leader who goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slab<T> {
    chunks: Vec<Arc<Vec<Option<T>>>>,
    /// The last one is taken first.
    vacant: Vec<Slot>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), vacant: Vec::new() }
    }
}

impl<T: Clone> Slab<T> {
    /// Puts `value` somewhere.
    pub(crate) fn insert(&mut self, value: T) -> Slot {
        if let Some(slot) = self.vacant.pop() {
            *self.place_mut(slot) = Some(value);
            return slot;
        }
        self.push(Some(value))
    }

    /// Gives a place back.
    pub(crate) fn remove(&mut self, slot: Slot) -> T {
        let value = self.place_mut(slot).take().expect("a place is given back once");
        self.vacant.push(slot);
        value
    }

    fn push(&mut self, place: Option<T>) -> Slot {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Arc::default());
        }
        let chunks = self.chunks.len();
        let chunk = Arc::make_mut(self.chunks.last_mut().expect("a chunk with room was pushed if there was none"));
        if chunks > 1 && chunk.len() == chunk.capacity() {
            // The first chunk grows by doubling, so that a small slab stays small.
            chunk.reserve_exact(CHUNK - chunk.len());
        }
        chunk.push(place);
        let index = chunk.len() - 1 + (chunks - 1) * CHUNK;
        let slot = Slot::try_from(index).expect("the number of tasks is bounded far below 2^32");
        assert!(slot != NONE);
        slot
    }

    fn place_mut(&mut self, slot: Slot) -> &mut Option<T> {
        let index = slot as usize;
        &mut Arc::make_mut(&mut self.chunks[index >> CHUNK_BITS])[index & (CHUNK - 1)]
    }
}

impl<T> Slab<T> {
    /// The value in a place; `None` for [`NONE`].
    pub(crate) fn find(&self, slot: Slot) -> Option<&T> {
        (slot != NONE).then(|| &self[slot])
    }

    /// The value in a place; `None` also for a vacant one and for one that there is not.
    pub(crate) fn look_up(&self, slot: Slot) -> Option<&T> {
        let index = slot as usize;
        self.chunks.get(index >> CHUNK_BITS)?.get(index & (CHUNK - 1))?.as_ref()
    }

    /// How many places there are, vacant ones included.
    pub(crate) fn places(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// Vacant places; the last one is taken first.
    pub(crate) fn vacant(&self) -> &[Slot] {
        &self.vacant
    }

    /// All that is in it, by place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Slot, &T)> {
        (0..)
            .zip(self.chunks.iter().flat_map(|chunk| chunk.iter()))
            .filter_map(|(slot, place)| Some((slot, place.as_ref()?)))
    }

    /// Its chunks, each with the number of its first place. Gives every chunk back to its other
    /// owner as soon as the next is asked for.
    pub(crate) fn into_chunks(self) -> impl Iterator<Item = (Slot, Arc<Vec<Option<T>>>)> {
        (0..).step_by(CHUNK).zip(self.chunks)
    }
}

impl<T> Index<Slot> for Slab<T> {
    type Output = T;

    fn index(&self, slot: Slot) -> &T {
        let index = slot as usize;
        let place = &self.chunks[index >> CHUNK_BITS][index & (CHUNK - 1)];
        place.as_ref().expect("a vacant place is never looked at")
    }
}

impl<T: Clone> IndexMut<Slot> for Slab<T> {
    fn index_mut(&mut self, slot: Slot) -> &mut T {
        self.place_mut(slot).as_mut().expect("a vacant place is never changed")
    }
}

/// A slab that is put together place by place.
#[derive(Debug)]
pub(crate) struct SlabBuilder<T> {
    slab: Slab<T>,
    places: u32,
    values: usize,
}

impl<T> Default for SlabBuilder<T> {
    fn default() -> Self {
        Self { slab: Slab::default(), places: 0, values: 0 }
    }
}

impl<T: Clone> SlabBuilder<T> {
    /// There are so many places, and these of them are vacant, after those that were named before.
    pub(crate) fn add_places(&mut self, places: u32, vacant: &[Slot]) {
        self.places = self.places.max(places);
        self.slab.vacant.extend_from_slice(vacant);
    }

    /// Puts a value into a place, from the first to the last. Whether there is such a place.
    #[must_use]
    pub(crate) fn put(&mut self, slot: Slot, value: T) -> bool {
        if slot >= self.places || (slot as usize) < self.slab.places() {
            return false;
        }
        while self.slab.places() < slot as usize {
            self.slab.push(None);
        }
        self.slab.push(Some(value));
        self.values += 1;
        true
    }

    /// The slab, when every place has either a value or is vacant.
    pub(crate) fn build(mut self) -> Option<Slab<T>> {
        while self.slab.places() < self.places as usize {
            self.slab.push(None);
        }
        let is_free = |slot: &Slot| *slot < self.places && self.slab.look_up(*slot).is_none();
        let complete = self.values + self.slab.vacant.len() == self.places as usize;
        (complete && self.slab.vacant.iter().all(is_free)).then_some(self.slab)
    }
}

/// A doubly linked list of tasks through their own `prev` and `next`: a task is in one list at a
/// time, so the links cost nothing more, and taking one out of the middle is O(1).
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

    /// A list of which only the first task is known.
    pub(crate) fn beginning(head: Slot) -> Self {
        Self { head, ..Self::default() }
    }

    /// The list that begins at `head` and goes on as each task's `next` says; the rest of the links
    /// is filled in. `accept` is asked for each task in turn; when it says no there is no list, so
    /// it must say so for a task that it has seen.
    pub(crate) fn relink(
        tasks: &mut Slab<Task>,
        head: Slot,
        mut accept: impl FnMut(Slot, &Task) -> bool,
    ) -> Option<Self> {
        let mut list = Self::beginning(head);
        let mut slot = head;
        while slot != NONE {
            if !accept(slot, tasks.look_up(slot)?) {
                return None;
            }
            tasks[slot].prev = list.tail;
            list.tail = slot;
            list.count += 1;
            slot = tasks[slot].next;
        }
        Some(list)
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
        assert_eq!(slab.remove(slots[17]), 17);
        assert_eq!(slab.insert(5), slots[17]);
        assert_eq!(slab[slots[17]], 5);
    }

    #[test]
    fn a_clone_stays_as_it_was() {
        let mut slab = Slab::default();
        let slots: Vec<_> = (0..10_000u32).map(|value| slab.insert(value)).collect();
        let before = slab.clone();
        slab[slots[9_000]] = 1;
        slab.remove(slots[1]);
        slab.insert(2);
        slab.insert(3);
        assert_eq!((before[slots[9_000]], before[slots[1]], before.places()), (9_000, 1, 10_000));
        assert_eq!((slab[slots[9_000]], slab[slots[1]], slab.places()), (1, 2, 10_001));
        let shared = before.chunks.iter().zip(&slab.chunks).filter(|(before, now)| Arc::ptr_eq(before, now));
        assert_eq!(shared.count(), 1, "the chunk in the middle was not changed");
    }

    #[test]
    fn a_slab_is_put_together_as_it_was() {
        let mut slab = Slab::default();
        let slots: Vec<_> = (0..9_000u32).map(|value| slab.insert(value)).collect();
        for index in [5, 8_999, 4_096] {
            slab.remove(slots[index]);
        }
        let put_together = |leave_out: Option<Slot>, vacant: &[Slot]| {
            let mut builder = SlabBuilder::default();
            builder.add_places(9_000, vacant);
            let mut values = slab.iter().filter(|(slot, _)| Some(*slot) != leave_out);
            values.all(|(slot, value)| builder.put(slot, *value)).then(|| builder.build()).flatten()
        };
        assert_eq!(put_together(None, slab.vacant()), Some(slab.clone()));
        assert_eq!(put_together(Some(7), slab.vacant()), None, "one is missing");
        assert_eq!(put_together(None, &[5, 8_999, 8]), None, "one is taken");
        assert_eq!(put_together(None, &[5, 8_999, 9_001]), None, "one is beyond the end");
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
