//! Times that are waited for.

use std::collections::BTreeSet;

use wasmill_protocol::Timestamp;

use super::slab::Slot;

/// Something that the state waits for. A timer follows from the log and so outlives the leader; the
/// leader of that time decides what happens.
///
/// Another thing with a time is one more variant here, and one more arm where the leader fires
/// timers (`leader/timers.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A waiting task is queued, or a queued one expires.
    Task(Slot),
}

/// Things with the times at which they are due, in that order; things of one time are in their own
/// order. Each call is O(log n).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Timers<T> {
    by_time: BTreeSet<(Timestamp, T)>,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { by_time: BTreeSet::new() }
    }
}

impl<T: Ord> FromIterator<(Timestamp, T)> for Timers<T> {
    fn from_iter<I: IntoIterator<Item = (Timestamp, T)>>(timers: I) -> Self {
        Self { by_time: timers.into_iter().collect() }
    }
}

impl<T: Ord> Timers<T> {
    pub(crate) fn insert(&mut self, at: Timestamp, what: T) {
        self.by_time.insert((at, what));
    }

    /// # Panics
    ///
    /// When it is not due then.
    pub(crate) fn remove(&mut self, at: Timestamp, what: T) {
        assert!(self.by_time.remove(&(at, what)), "a timer is taken away once");
    }

    /// When the next is due.
    pub(crate) fn next_at(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// The first whose time has come.
    pub(crate) fn due(&self, now: Timestamp) -> Option<&T> {
        self.by_time.first().filter(|(at, _)| *at <= now).map(|(_, what)| what)
    }

    /// Takes the first whose time has come.
    pub(crate) fn take_due(&mut self, now: Timestamp) -> Option<T> {
        self.due(now)?;
        self.by_time.pop_first().map(|(_, what)| what)
    }

    pub(crate) fn contains(&self, at: Timestamp, what: T) -> bool {
        self.by_time.contains(&(at, what))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_time.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_due_comes_in_order_and_not_before_its_time() {
        let mut timers: Timers<&str> = [(Timestamp(5), "b"), (Timestamp(9), "c")].into_iter().collect();
        timers.insert(Timestamp(5), "a");
        timers.insert(Timestamp(7), "d");
        timers.remove(Timestamp(7), "d");
        assert_eq!((timers.next_at(), timers.due(Timestamp(4))), (Some(Timestamp(5)), None));
        let mut due = |now| std::iter::from_fn(|| timers.take_due(Timestamp(now))).collect::<Vec<_>>();
        assert_eq!((due(4), due(8), due(9)), (vec![], vec!["a", "b"], vec!["c"]));
        assert_eq!((timers.len(), timers.next_at()), (0, None));
    }
}
