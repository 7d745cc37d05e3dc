//! How much slot time each tenant has had: what `fair` orders by.

use std::collections::{BTreeMap, BTreeSet};

use crate::state::tenants::TenantNumber;

/// What an attempt is thought to cost before any has ended, in microseconds of slot time.
const COST_US_FIRST: u64 = 1_000;
/// The least that an attempt costs, in microseconds: placing it is work too.
const COST_US_MIN: u64 = 50;
/// Virtual time is microseconds times this over the weight, so that large weights still count.
const SCALE: u64 = 1_024;

/// Virtual times of tenants. Soft: a new leader starts everybody equal.
///
/// An attempt is charged what attempts of its tenant usually cost when it is placed. When it has ended exactly that is given back, and what it has
/// used is charged instead.
#[derive(Debug, Default)]
pub(super) struct Shares {
    by_tenant: BTreeMap<TenantNumber, Share>,
    /// Tenants that had something to start in the last round.
    active: BTreeSet<TenantNumber>,
    /// The least virtual time of an active tenant: who becomes active starts from here, so that idling saves nothing up.
    clock: u64,
}

#[derive(Debug, Clone, Copy)]
struct Share {
    time: u64,
    cost_us: u64,
}

/// What an attempt was placed for: nothing by this leader, unless it says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Charge(u64);

impl Charge {
    /// For so many attempts.
    pub(super) fn times(self, count: u32) -> u64 {
        self.0.saturating_mul(u64::from(count))
    }
}

impl Default for Share {
    fn default() -> Self {
        Self { time: 0, cost_us: COST_US_FIRST }
    }
}

impl Shares {
    /// These tenants have something to start.
    pub(super) fn activate(&mut self, tenants: BTreeSet<TenantNumber>) {
        let stay = tenants.intersection(&self.active).map(|tenant| self.time(*tenant));
        self.clock = stay.min().unwrap_or(0).max(self.clock);
        for tenant in tenants.difference(&self.active) {
            let share = self.by_tenant.entry(*tenant).or_default();
            share.time = share.time.max(self.clock);
        }
        self.active = tenants;
    }

    /// The virtual time of a tenant.
    pub(super) fn time(&self, tenant: TenantNumber) -> u64 {
        self.by_tenant.get(&tenant).map_or(self.clock, |share| share.time)
    }

    /// By how much virtual time grows when an attempt is placed.
    pub(super) fn charge(&self, tenant: TenantNumber, weight: u32) -> Charge {
        Charge(scaled(self.by_tenant.get(&tenant).map_or(COST_US_FIRST, |share| share.cost_us), weight))
    }

    /// `count` attempts were placed, each for `charge`.
    pub(super) fn placed(&mut self, tenant: TenantNumber, charge: Charge, count: u32) {
        let time = self.time(tenant).saturating_add(charge.times(count));
        self.by_tenant.entry(tenant).or_default().time = time;
    }

    /// An attempt that was placed for `charge` has ended after `run_us` microseconds.
    pub(super) fn ended(&mut self, tenant: TenantNumber, weight: u32, run_us: u64, charge: Charge) {
        let share = self.by_tenant.entry(tenant).or_default();
        let cost_us = run_us.max(COST_US_MIN);
        let corrected = share.time.saturating_add(scaled(cost_us, weight));
        share.time = corrected.saturating_sub(charge.0);
        // An average in which the last eight attempts count most.
        share.cost_us = (share.cost_us / 8 * 7).saturating_add(cost_us / 8).max(COST_US_MIN);
    }

    /// The tenant is gone.
    pub(super) fn remove(&mut self, tenant: TenantNumber) {
        self.by_tenant.remove(&tenant);
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
            self.placed(tenant, charge, count);
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
        let (long, short) = (shares.by_tenant[&0].time, shares.by_tenant[&1].time);
        assert!(long.abs_diff(short) < long / 10, "{long} {short}");
    }

    #[test]
    fn bursts_of_long_and_short_attempts_cost_what_they_use() {
        // The short ones are placed beside the long ones, end after them, and once were given back what a long one costs.
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
        let charged_us = shares.by_tenant[&0].time / SCALE;
        assert!(charged_us.abs_diff(used_us) < used_us / 100, "{charged_us} for {used_us}");
    }

    #[test]
    fn who_was_idle_has_caught_up() {
        let mut shares = Shares::default();
        shares.activate([0].into());
        shares.place(0, 1, 100);
        shares.activate([0].into());
        shares.activate([0, 1].into());
        assert_eq!(shares.time(1), shares.time(0));
        for _ in 0..100 {
            shares.place(1, 1, 1);
        }
        shares.activate([1].into());
        shares.activate([0, 1].into());
        assert_eq!(shares.time(0), shares.time(1), "what 0 did not use is gone");
    }

    #[test]
    fn who_waits_keeps_what_is_due() {
        let mut shares = Shares::default();
        shares.activate([0, 1].into());
        shares.place(0, 1, 100);
        shares.activate([0, 1].into());
        assert!(shares.time(1) < shares.time(0));
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
