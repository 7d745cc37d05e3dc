//! Tasks that have waited for too long.
//!
//! Most shapes never are overdue, so it costs nothing when one of their tasks starts: each is noted
//! under a time that was true once, and looked at again when that is too long ago.

use std::collections::BTreeSet;
use std::ops::Bound;

use wasmill_protocol::Timestamp;

use super::choose::{Choosing, Chosen};
use super::{Queue, QueuedShape};
use crate::state::Slot;
use crate::state::tenants::TenantNumber;

/// Shapes that are looked at in one dispatch because they may be overdue: others are found in the
/// next one.
const GATHERED_MAX: usize = 1_024;
/// Tenants and shapes that are tried for one turn of the guard.
const TRIES_MAX: usize = 64;
const _: () = assert!(TRIES_MAX <= GATHERED_MAX, "every try has a shape that was gathered");

impl Choosing<'_> {
    /// Chooses `turns` tasks that became queued at `since` or before, or fewer. Tenants take turns,
    /// beginning with the one after `last`, whatever their tasks are and however long each has
    /// waited; a tenant's turn is for its shape that waits longest.
    pub(in crate::dispatch) fn choose_overdue(
        mut self,
        turns: u32,
        since: Timestamp,
        last: &mut Option<TenantNumber>,
    ) -> Vec<Chosen> {
        self.queue.gather_overdue(since);
        let mut left = turns;
        let mut tries = 0;
        let mut without = BTreeSet::new();
        while left > 0
            && tries < TRIES_MAX
            && let Some(tenant) = self.queue.overdue_after(*last)
        {
            *last = Some(tenant);
            if !without.contains(&tenant) && self.take_overdue_of(tenant, since) {
                left -= 1;
            } else {
                tries += 1;
                without.insert(tenant);
            }
        }
        let mut chosen = self.finish();
        chosen.sort_unstable_by_key(|chosen| chosen.shape);
        chosen
    }

    fn take_overdue_of(&mut self, number: TenantNumber, since: Timestamp) -> bool {
        let mut from = (Timestamp(0), 0);
        for _ in 0..TRIES_MAX {
            let shapes = self.queue.overdue.get(&number);
            let Some(&(at, slot)) = shapes.and_then(|shapes| shapes.range(from..).next()) else { return false };
            from = (at, slot + 1);
            let shape = self.queue.shapes[slot as usize].as_ref().expect("what is overdue is queued");
            if shape.since != at {
                // Another task of it is the one that waits longest.
                self.queue.note_age(slot, since);
                continue;
            }
            if self.queue.may_start(number, slot) && self.take(slot, 1, false) {
                let lane = self.queue.shapes[slot as usize].as_ref().expect("it was just there").lane;
                self.queue.enter(number, lane);
                return true;
            }
        }
        false
    }
}

impl Queue {
    /// A shape waits since then: it is looked at when that is long ago.
    pub(super) fn age_at(&mut self, slot: Slot, since: Timestamp) {
        let Some(Some(shape)) = self.shapes.get(slot as usize) else { return };
        // Noted under an earlier time it is found early enough.
        if shape.age > since {
            self.note_age(slot, Timestamp(0));
        }
    }

    /// Notes a shape under its present time: as overdue when it waits since `since` or before.
    fn note_age(&mut self, slot: Slot, since: Timestamp) {
        let Some(shape) = self.shapes[slot as usize].take() else { return };
        self.forget_age(slot, &shape);
        let is_overdue = shape.since <= since;
        let noted = (shape.since, slot);
        if is_overdue {
            self.overdue.entry(shape.tenant).or_default().insert(noted);
        } else if shape.count > 0 {
            self.ages.insert(noted);
        }
        let age = if is_overdue || shape.count > 0 { shape.since } else { Timestamp::MAX };
        self.shapes[slot as usize] = Some(QueuedShape { age, is_overdue, ..shape });
    }

    pub(super) fn forget_age(&mut self, slot: Slot, shape: &QueuedShape) {
        if !shape.is_overdue {
            self.ages.remove(&(shape.age, slot));
        } else if let Some(shapes) = self.overdue.get_mut(&shape.tenant) {
            shapes.remove(&(shape.age, slot));
            if shapes.is_empty() {
                self.overdue.remove(&shape.tenant);
            }
        }
    }

    fn gather_overdue(&mut self, since: Timestamp) {
        for _ in 0..GATHERED_MAX {
            match self.ages.first() {
                Some(&(at, slot)) if at <= since => self.note_age(slot, since),
                _ => break,
            }
        }
    }

    /// The tenant that comes after another one in a circle, of those that have something overdue.
    fn overdue_after(&self, last: Option<TenantNumber>) -> Option<TenantNumber> {
        let after = last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.overdue.range((after, Bound::Unbounded)).next().or_else(|| self.overdue.first_key_value());
        next.map(|(tenant, _)| *tenant)
    }

    /// Whether the quotas of a tenant let a task of a shape start.
    fn may_start(&self, number: TenantNumber, slot: Slot) -> bool {
        let tenant = self.tenants[number as usize].as_ref();
        let shape = self.shapes[slot as usize].as_ref().filter(|shape| shape.count > 0 && !shape.is_aside);
        let fits =
            |memory_bytes: u64| tenant.is_some_and(|tenant| !tenant.is_held() && memory_bytes <= tenant.memory_left());
        shape.is_some_and(|shape| fits(shape.memory_bytes))
    }
}
