//! Places that are kept for tenants that run nothing, or little.
//!
//! One tenant alone may fill all that is shared but for these, with tasks of any length, and the
//! next one still finds a place at once. They are the last places to be taken: which ones is
//! nobody's business, and a host is never larger for them.

/// Slots of a host that are kept: one of eight, and none of fewer than eight.
///
/// One of few would be a large part of what the only tenant could use.
pub const fn slots(slots: u32) -> u32 {
    slots / 8
}

/// Attempts that a host with so many slots takes and that are kept: half a slot for each slot, of
/// what it takes beyond its slots.
///
/// They wait on the host, and go first there. So this costs the only tenant nothing but a shorter
/// queue.
pub const fn credit(slots: u32, credit: u32) -> u32 {
    let (half, beyond) = (slots / 2, credit.saturating_sub(slots));
    if half < beyond { half } else { beyond }
}

/// Memory of a host that is kept, in bytes: as large a part as of its slots.
pub const fn memory_bytes(slots: u32, memory_bytes: u64) -> u64 {
    if self::slots(slots) == 0 { 0 } else { memory_bytes / 8 }
}

/// Whether a tenant that has so much already may take more of what is kept, of which `free` is
/// left.
///
/// The first is always granted, another only while more than twice as much is left as the tenant
/// has: a few tenants can share what is kept, and no one can take all of it.
pub const fn may_take(has: u64, free: u64) -> bool {
    free > 0 && (has == 0 || has.saturating_mul(2) < free)
}

/// How many kept places a tenant with so many attempts may take, of `free` that are left.
pub const fn allowance(has: u64, free: u32) -> u32 {
    let mut taken = 0;
    while may_take(has.saturating_add(taken as u64), (free - taken) as u64) {
        taken += 1;
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_of_hosts_of_each_size() {
        let kept = |count: u32| (slots(count), credit(count, count * 2), memory_bytes(count, 800));
        assert_eq!([1, 2, 4, 7].map(kept), [(0, 0, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0)]);
        assert_eq!([8, 16, 32].map(kept), [(1, 4, 100), (2, 8, 100), (4, 16, 100)]);
        assert_eq!([credit(32, 32), credit(32, 40), credit(32, 0)], [0, 8, 0], "the slots themselves are everybody's");
    }

    #[test]
    fn one_tenant_leaves_something_for_the_next() {
        let mut left = 16;
        let mut taken = Vec::new();
        while left > 0 {
            taken.push(allowance(0, left));
            left -= allowance(0, left);
        }
        assert_eq!(taken, [6, 4, 2, 2, 1, 1]);
        assert_eq!([allowance(1, 2), allowance(1, 3), allowance(100, 16), allowance(0, 0)], [0, 1, 0, 0]);
    }
}
