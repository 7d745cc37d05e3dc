//! How much slot time each tenant has had: what `fair` orders by.

use std::collections::BTreeMap;

use crate::state::tenants::TenantNumber;

/// The supposed cost of an attempt before any has ended, in microseconds of slot time.
const COST_US_FIRST: u64 = 1_000;
/// The least that an attempt costs, in microseconds: placing it is work too.
const COST_US_MIN: u64 = 50;
/// Virtual time is microseconds times this over the weight, so that large weights still count.
const SCALE: u64 = 1_024;
const _: () = assert!(COST_US_MIN <= COST_US_FIRST, "the first guess is no less than the least");

/// Virtual times of tenants. Soft: a new leader starts everybody equal.
///
/// An attempt is charged what attempts of its tenant usually cost when it is placed, and more while
/// it runs for longer than that. When it has ended exactly that is given back, and what it has used
/// is charged instead.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    /// By the tenant's number.
    tenants: Vec<Share>,
    /// By class, the greatest virtual time at which a tenant was served: who becomes active beside
    /// nobody starts from here.
    clocks: BTreeMap<i8, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Share {
    time: u64,
    cost_us: u64,
}

/// The charge of an attempt: nothing by this leader, unless it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Charge {
    /// Virtual time.
    time: u64,
    /// The microseconds that it stands for.
    us: u64,
}

impl Charge {
    /// The virtual time for so many attempts.
    fn times(self, count: u32) -> u64 {
        self.time.saturating_mul(u64::from(count))
    }

    /// By how much the virtual time grows.
    pub(crate) fn time(self) -> u64 {
        self.time
    }

    /// For how many microseconds that is.
    pub(crate) fn us(self) -> u64 {
        self.us
    }

    /// An attempt has run for `us` microseconds. Returns what is to be charged for that besides
    /// what was, and counts it as charged.
    pub(crate) fn extend(&mut self, us: u64, weight: u32) -> u64 {
        let more_us = us.saturating_sub(self.us);
        let more = scaled(more_us, weight);
        *self = Self { time: self.time.saturating_add(more), us: self.us.saturating_add(more_us) };
        more
    }
}

impl Default for Share {
    fn default() -> Self {
        Self { time: 0, cost_us: COST_US_FIRST }
    }
}

impl Shares {
    /// A tenant has something to start that had nothing. It has caught up with `rival`, the active
    /// tenant of its class that is served next, so that idling saves nothing up.
    pub(crate) fn activate(&mut self, tenant: TenantNumber, class: i8, rival: Option<TenantNumber>) {
        let least = match rival {
            Some(rival) => self.time(rival),
            None => self.clocks.get(&class).copied().unwrap_or_default(),
        };
        let share = self.share_mut(tenant);
        share.time = share.time.max(least);
    }

    /// The virtual time of a tenant.
    pub(crate) fn time(&self, tenant: TenantNumber) -> u64 {
        self.share(tenant).time
    }

    /// The charge of an attempt when it is placed.
    pub(crate) fn charge(&self, tenant: TenantNumber, weight: u32) -> Charge {
        let us = self.share(tenant).cost_us;
        Charge { time: scaled(us, weight), us }
    }

    /// `count` attempts were placed, each for `charge`.
    pub(crate) fn placed(&mut self, tenant: TenantNumber, class: i8, charge: Charge, count: u32) {
        let share = self.share_mut(tenant);
        let before = share.time;
        share.time = share.time.saturating_add(charge.times(count));
        let clock = self.clocks.entry(class).or_default();
        *clock = before.max(*clock);
    }

    /// Attempts run for longer than they were charged for: so much virtual time more.
    pub(crate) fn run_on(&mut self, tenant: TenantNumber, time: u64) {
        let share = self.share_mut(tenant);
        share.time = share.time.saturating_add(time);
    }

    /// An attempt that was charged `charge` in all has ended after `run_us` microseconds.
    pub(crate) fn ended(&mut self, tenant: TenantNumber, weight: u32, run_us: u64, charge: Charge) {
        let share = self.share_mut(tenant);
        let cost_us = run_us.max(COST_US_MIN);
        let corrected = share.time.saturating_add(scaled(cost_us, weight));
        share.time = corrected.saturating_sub(charge.time);
        // An average in which the last eight attempts count most.
        share.cost_us = (share.cost_us / 8 * 7).saturating_add(cost_us / 8).max(COST_US_MIN);
    }

    /// The tenant is gone.
    pub(crate) fn remove(&mut self, tenant: TenantNumber) {
        *self.share_mut(tenant) = Share::default();
    }

    fn share(&self, tenant: TenantNumber) -> Share {
        self.tenants.get(tenant as usize).copied().unwrap_or_default()
    }

    fn share_mut(&mut self, tenant: TenantNumber) -> &mut Share {
        let index = tenant as usize;
        if self.tenants.len() <= index {
            self.tenants.resize_with(index + 1, Share::default);
        }
        &mut self.tenants[index]
    }
}

fn scaled(cost_us: u64, weight: u32) -> u64 {
    cost_us.saturating_mul(SCALE) / u64::from(weight.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Shares {
        fn place(&mut self, tenant: TenantNumber, weight: u32, count: u32) -> Charge {
            let charge = self.charge(tenant, weight);
            self.placed(tenant, 0, charge, count);
            charge
        }
    }

    #[test]
    fn slot_time_counts_not_attempts() {
        let mut shares = Shares::default();
        for _ in 0..50 {
            let charge = shares.place(0, 1, 1);
            shares.ended(0, 1, 80_000, charge);
            let charge = shares.place(1, 1, 8);
            (0..8).for_each(|_| shares.ended(1, 1, 10_000, charge));
        }
        let (long, short) = (shares.tenants[0].time, shares.tenants[1].time);
        assert!(long.abs_diff(short) < long / 10, "{long} {short}");
    }

    #[test]
    fn bursts_of_long_and_short_attempts_cost_what_they_use() {
        // The short ones are placed beside the long ones, end after them, and once were given back
        // what a long one costs.
        let mut shares = Shares::default();
        let mut used_us = 0;
        for _ in 0..50 {
            let long = shares.place(0, 1, 4);
            let short = shares.place(0, 1, 60);
            for (count, run_us, charge) in [(4, 80_000_000, long), (60, 1_000, short)] {
                (0..count).for_each(|_| shares.ended(0, 1, run_us, charge));
                used_us += count * run_us;
            }
        }
        let charged_us = shares.tenants[0].time / SCALE;
        assert!(charged_us.abs_diff(used_us) < used_us / 100, "{charged_us} for {used_us}");
    }

    #[test]
    fn who_was_idle_has_caught_up() {
        let mut shares = Shares::default();
        shares.activate(0, 0, None);
        shares.place(0, 1, 100);
        shares.activate(1, 0, Some(0));
        assert_eq!(shares.time(1), shares.time(0));
        for _ in 0..101 {
            shares.place(1, 1, 1);
        }
        // Neither has anything in the queue any more, and both come back.
        shares.activate(0, 0, None);
        assert_eq!(shares.time(0) + COST_US_FIRST * SCALE, shares.time(1), "what 0 did not use is gone");
        shares.activate(2, 1, None);
        assert_eq!(shares.time(2), 0, "each class has its own time");
    }

    #[test]
    fn who_waits_keeps_what_is_due() {
        let mut shares = Shares::default();
        shares.activate(0, 0, None);
        shares.activate(1, 0, Some(0));
        shares.place(0, 1, 100);
        assert!(shares.time(1) < shares.time(0));
    }

    #[test]
    fn what_runs_is_charged_while_it_runs_and_once() {
        let mut shares = Shares::default();
        let mut charge = shares.place(0, 2, 1);
        for seconds in 1..=100 {
            let more = charge.extend(seconds * 1_000_000, 2);
            shares.run_on(0, more);
            assert_eq!(shares.time(0), seconds * 1_000_000 * SCALE / 2);
        }
        assert_eq!(charge.extend(1_000_000, 2), 0, "nothing is charged twice");
        shares.ended(0, 2, 7_000_000, charge);
        assert_eq!(shares.time(0), 7_000_000 * SCALE / 2);
    }

    #[test]
    fn nothing_overflows() {
        let mut shares = Shares::default();
        let charge = shares.place(0, 1, u32::MAX);
        shares.ended(0, 0, u64::MAX, charge);
        shares.ended(0, 1, u64::MAX, Charge::default());
        shares.place(0, 1_000, u32::MAX);
        assert!(shares.time(0) > 0);
    }
}
