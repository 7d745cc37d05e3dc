//! What is to happen, in its order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use wasmill_protocol::Timestamp;

use super::Happening;

/// Things to happen by their time, and those of one time in the order in which they were put here.
/// What happens is large, so only its place is moved about.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    next: BinaryHeap<Reverse<(Timestamp, u64, usize)>>,
    places: Vec<Option<Happening>>,
    free: Vec<usize>,
    scheduled: u64,
}

impl Agenda {
    /// Puts something here for a time.
    pub(super) fn put(&mut self, at: Timestamp, happening: Happening) {
        self.scheduled += 1;
        let place = self.free.pop().unwrap_or(self.places.len());
        match self.places.get_mut(place) {
            Some(free) => *free = Some(happening),
            None => self.places.push(Some(happening)),
        }
        self.next.push(Reverse((at, self.scheduled, place)));
    }

    /// What comes first, and when.
    pub(super) fn pop(&mut self) -> Option<(Timestamp, Happening)> {
        let Reverse((at, _, place)) = self.next.pop()?;
        self.free.push(place);
        Some((at, self.places[place].take().expect("each place is taken once")))
    }

    /// How many things were put here so far.
    pub(super) fn scheduled(&self) -> u64 {
        self.scheduled
    }
}
