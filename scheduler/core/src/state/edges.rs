//! Which task waits for which: edges between tasks that are not final.

use wasmill_protocol::task::EdgeOn;

use super::slab::{NONE, Slab, Slot};
use super::task::Task;

/// From a predecessor to a task that waits for its end.
///
/// It is in two lists: one of all edges that leave the predecessor, and one of all that lead to the
/// task. Each task has the first of both. So every edge is added and taken away once, and both are
/// O(1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EdgeEntry {
    pub(crate) from: Slot,
    pub(crate) to: Slot,
    pub(crate) on: EdgeOn,
    /// Among the edges that leave `from`.
    pub(crate) leaving: Links,
    /// Among the edges that lead to `to`.
    pub(crate) leading: Links,
}

/// The edges before and after one in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Links {
    pub(crate) prev: Slot,
    pub(crate) next: Slot,
}

/// All edges.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Edges {
    edges: Slab<EdgeEntry>,
    count: u32,
}

impl Edges {
    /// How many there are.
    pub(crate) fn len(&self) -> u32 {
        self.count
    }

    /// Adds an edge in front of both lists that it is in.
    pub(crate) fn add(&mut self, tasks: &mut Slab<Task>, from: Slot, to: Slot, on: EdgeOn) {
        assert!(from != to, "no task waits for itself");
        let (after_from, after_to) = (tasks[from].edges_leaving, tasks[to].edges_leading);
        let links = |next| Links { prev: NONE, next };
        let (leaving, leading) = (links(after_from), links(after_to));
        let edge = self.edges.insert(EdgeEntry { from, to, on, leaving, leading });
        if after_from != NONE {
            self.edges[after_from].leaving.prev = edge;
        }
        if after_to != NONE {
            self.edges[after_to].leading.prev = edge;
        }
        (tasks[from].edges_leaving, tasks[to].edges_leading) = (edge, edge);
        self.count += 1;
    }

    /// The task that `to` waits for, the first of several.
    pub(crate) fn predecessor(&self, tasks: &Slab<Task>, to: Slot) -> Option<Slot> {
        self.edges.find(tasks[to].edges_leading).map(|edge| edge.from)
    }

    /// Takes away all edges that leave a task. Returns where they lead, in the order in which they
    /// were added.
    pub(crate) fn take_leaving(&mut self, tasks: &mut Slab<Task>, from: Slot) -> Vec<(Slot, EdgeOn)> {
        let mut taken = Vec::new();
        while tasks[from].edges_leaving != NONE {
            let edge = tasks[from].edges_leaving;
            let EdgeEntry { to, on, .. } = self.take(tasks, edge);
            taken.push((to, on));
        }
        taken.reverse();
        taken
    }

    /// Takes away all edges that lead to a task.
    pub(crate) fn drop_leading(&mut self, tasks: &mut Slab<Task>, to: Slot) {
        while tasks[to].edges_leading != NONE {
            let edge = tasks[to].edges_leading;
            self.take(tasks, edge);
        }
    }

    fn take(&mut self, tasks: &mut Slab<Task>, edge: Slot) -> EdgeEntry {
        let entry = self.edges.remove(edge);
        let EdgeEntry { from, to, leaving, leading, .. } = entry;
        match leaving.prev {
            NONE => tasks[from].edges_leaving = leaving.next,
            prev => self.edges[prev].leaving.next = leaving.next,
        }
        if leaving.next != NONE {
            self.edges[leaving.next].leaving.prev = leaving.prev;
        }
        match leading.prev {
            NONE => tasks[to].edges_leading = leading.next,
            prev => self.edges[prev].leading.next = leading.next,
        }
        if leading.next != NONE {
            self.edges[leading.next].leading.prev = leading.prev;
        }
        assert!(self.count > 0, "an edge that is taken away was counted");
        self.count -= 1;
        entry
    }

    /// The values by place. Cheap: nothing is copied until it changes.
    pub(crate) fn places(&self) -> Slab<EdgeEntry> {
        self.edges.clone()
    }

    /// From what is in each place, without links back, which are filled in. `None` when some edge
    /// is not exactly once in each of the two lists that it belongs to.
    pub(crate) fn from_places(mut edges: Slab<EdgeEntry>, tasks: &Slab<Task>) -> Option<Self> {
        let count = edges.iter().count();
        let (mut left_leaving, mut left_leading) = (count, count);
        for (slot, task) in tasks.iter() {
            let (mut prev, mut edge) = (NONE, task.edges_leaving);
            while edge != NONE {
                left_leaving = left_leaving.checked_sub(1)?;
                edges.look_up(edge).filter(|entry| entry.from == slot)?;
                edges[edge].leaving.prev = prev;
                (prev, edge) = (edge, edges[edge].leaving.next);
            }
            (prev, edge) = (NONE, task.edges_leading);
            while edge != NONE {
                left_leading = left_leading.checked_sub(1)?;
                edges.look_up(edge).filter(|entry| entry.to == slot)?;
                edges[edge].leading.prev = prev;
                (prev, edge) = (edge, edges[edge].leading.next);
            }
        }
        let count = u32::try_from(count).ok()?;
        (left_leaving == 0 && left_leading == 0).then_some(Self { edges, count })
    }

    /// Every edge is in both lists that it belongs to, once.
    pub(crate) fn assert_consistent(&self, tasks: &Slab<Task>) {
        assert_eq!(self.edges.iter().count(), self.count as usize);
        let again = Self::from_places(self.edges.clone(), tasks);
        assert_eq!(again.as_ref(), Some(self), "every edge is in two lists");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_go_with_either_end() {
        let (mut tasks, mut edges) = (Slab::default(), Edges::default());
        let slots: Vec<Slot> = (0..4).map(|_| tasks.insert(Task::default())).collect();
        let [a, b, c, d] = slots[..] else { unreachable!("there are four") };
        for (from, to) in [(a, c), (b, c), (a, d), (a, b), (b, d)] {
            edges.add(&mut tasks, from, to, EdgeOn::Success);
        }
        edges.assert_consistent(&tasks);
        assert_eq!(edges.predecessor(&tasks, c), Some(b));
        edges.drop_leading(&mut tasks, d);
        edges.assert_consistent(&tasks);
        assert_eq!((edges.len(), edges.predecessor(&tasks, d)), (3, None));
        assert_eq!(edges.take_leaving(&mut tasks, a), [(c, EdgeOn::Success), (b, EdgeOn::Success)]);
        edges.assert_consistent(&tasks);
        assert_eq!(edges.take_leaving(&mut tasks, b), [(c, EdgeOn::Success)]);
        assert_eq!(edges.len(), 0);
    }
}
