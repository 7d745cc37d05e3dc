//! Hosts with room, the first of each kind at hand: what the built-in policies place with.

use std::collections::BTreeSet;

use super::{Choice, HostChange, HostRoom, Ref, ShapeView, Wanted, fits};

/// A key after that of every host.
const LAST: (u64, u32) = (u64::MAX, u32::MAX);

/// Hosts by kind, ordered by a number. To place a task costs O(log hosts) for each kind that can
/// have it.
#[derive(Debug)]
pub(super) struct HostHeap {
    /// By the host's slot.
    hosts: Vec<Option<RankedHost>>,
    /// By the number of the kind.
    kinds: Vec<KindHeap>,
    /// The number by which hosts are ordered, the smallest first.
    rank: fn(&HostRoom) -> u64,
}

#[derive(Debug, Clone)]
struct RankedHost {
    id: Ref,
    room: HostRoom,
    /// The number under which it is ordered.
    rank: u64,
}

/// Hosts of one kind, each at most once.
#[derive(Debug, Default)]
struct KindHeap {
    /// With a free place for everybody.
    free: BTreeSet<(u64, u32)>,
    /// With none but what is kept.
    kept: BTreeSet<(u64, u32)>,
}

impl HostHeap {
    pub(super) fn new(rank: fn(&HostRoom) -> u64) -> Self {
        Self { hosts: Vec::new(), kinds: Vec::new(), rank }
    }

    /// Takes in what has become of hosts. O(log hosts) for each.
    pub(super) fn changed(&mut self, hosts: &[HostChange]) {
        for HostChange { host, room } in hosts {
            let index = host.slot as usize;
            if self.hosts.len() <= index {
                self.hosts.resize_with(index + 1, || None);
            }
            let known = room.clone().map(|room| RankedHost { id: *host, rank: (self.rank)(&room), room });
            let after = known.as_ref().map(Standpoint::of);
            let before = std::mem::replace(&mut self.hosts[index], known).as_ref().map(Standpoint::of);
            self.reorder(host.slot, before, after);
        }
    }

    /// Places as much as there is room for.
    pub(super) fn place(&mut self, wanted: &[Wanted]) -> Vec<Choice> {
        let mut choices = Vec::new();
        let mut chosen: Vec<(usize, u32, u32)> = Vec::new();
        for (index, wish) in wanted.iter().enumerate() {
            let mut left = wish.count;
            while left > 0
                && let Some((slot, rival)) = self.best(wish)
            {
                let count = self.fill(slot, wish, left, rival);
                assert!(count > 0, "a host that fits takes a task");
                left -= count;
                chosen.push((chosen.len(), slot, count));
            }
            gather(&mut chosen);
            let choice = |(_, slot, count)| Choice { wanted: index, host: self.known(slot).id, count };
            choices.extend(chosen.drain(..).map(choice));
        }
        choices
    }

    /// Whether some host has room for one of these tasks.
    pub(super) fn has_room(&self, wish: &Wanted) -> bool {
        self.best(wish).is_some()
    }

    /// The host that comes first for a shape, and the one that comes next.
    fn best(&self, wish: &Wanted) -> Option<(u32, (u64, u32))> {
        let (mut best, mut rival) = (LAST, LAST);
        let sets = wish.kinds.iter().filter_map(|&kind| self.kinds.get(kind as usize));
        for kind in sets {
            for set in [Some(&kind.free), wish.kept.then_some(&kind.kept)].into_iter().flatten() {
                let mut fitting = set.iter().filter(|(_, slot)| self.fits(&wish.shape, *slot));
                let Some(&first) = fitting.next() else { continue };
                let next = if first < best { std::mem::replace(&mut best, first) } else { first };
                rival = rival.min(next);
                // A host that does not fit is no rival, but to compare with it does no harm.
                if let Some(&second) = set.range((std::ops::Bound::Excluded(first), std::ops::Bound::Unbounded)).next()
                {
                    rival = rival.min(second);
                }
            }
        }
        (best != LAST).then_some((best.1, rival))
    }

    fn fits(&self, shape: &ShapeView, slot: u32) -> bool {
        fits(shape, &self.known(slot).room, true).is_ok()
    }

    /// Puts tasks on a host until it is full or another one comes first. Returns how many.
    fn fill(&mut self, slot: u32, wish: &Wanted, most: u32, rival: (u64, u32)) -> u32 {
        let rank = self.rank;
        let known = self.hosts[slot as usize].as_mut().expect("a host that is ordered is known");
        let before = Standpoint::of(known);
        let most = most.min(known.room.left_for(wish.kept, wish.shape.memory_bytes));
        let mut count = 0;
        if rival == LAST {
            known.room.take(most, wish.shape.memory_bytes);
            known.rank = rank(&known.room);
            count = most;
        }
        while count < most && (count == 0 || (known.rank, slot) < rival) {
            known.room.take(1, wish.shape.memory_bytes);
            known.rank = rank(&known.room);
            count += 1;
        }
        let after = Standpoint::of(known);
        self.reorder(slot, Some(before), Some(after));
        count
    }

    fn known(&self, slot: u32) -> &RankedHost {
        self.hosts[slot as usize].as_ref().expect("a host that is ordered is known")
    }

    fn reorder(&mut self, slot: u32, before: Option<Standpoint>, after: Option<Standpoint>) {
        if before == after {
            return;
        }
        if let Some(before) = before.filter(|before| before.is_open) {
            let removed = self.kinds[before.kind as usize].set(before.is_free).remove(&(before.rank, slot));
            assert!(removed, "a host with room is ordered");
        }
        if let Some(after) = after.filter(|after| after.is_open) {
            if self.kinds.len() <= after.kind as usize {
                self.kinds.resize_with(after.kind as usize + 1, KindHeap::default);
            }
            self.kinds[after.kind as usize].set(after.is_free).insert((after.rank, slot));
        }
    }
}

/// Of turns, hosts and counts: a host that came up several times gets all at once, when it is its
/// turn for the first time.
fn gather(chosen: &mut Vec<(usize, u32, u32)>) {
    if chosen.len() < 2 {
        return;
    }
    chosen.sort_unstable_by_key(|&(turn, slot, _)| (slot, turn));
    chosen.dedup_by(|later, first| {
        let is_same = later.1 == first.1;
        first.2 += if is_same { later.2 } else { 0 };
        is_same
    });
    chosen.sort_unstable();
}

/// Where a host is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standpoint {
    kind: u32,
    is_open: bool,
    is_free: bool,
    rank: u64,
}

impl Standpoint {
    fn of(known: &RankedHost) -> Self {
        let room = &known.room;
        Self { kind: room.kind, is_open: room.left(true) > 0, is_free: room.left(false) > 0, rank: known.rank }
    }
}

impl KindHeap {
    fn set(&mut self, is_free: bool) -> &mut BTreeSet<(u64, u32)> {
        if is_free { &mut self.free } else { &mut self.kept }
    }
}
