//! What each tenant's uploads cost in compile time, and the bound on it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wasmill_protocol::TenantName;

/// Tenants whose compile time is known; those that owe nothing are forgotten first.
const TENANTS_MAX: usize = 10_000;

/// How much compile time one tenant may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileBudget {
    /// CPU time that it may use at once.
    pub burst: Duration,
    /// How much comes back: for every second that passes, a second of CPU time divided by this.
    pub refill_divisor: u32,
}

impl Default for CompileBudget {
    /// Ten minutes at once: a hundred of the largest known modules. A tenth of a core in the long run.
    fn default() -> Self {
        Self { burst: Duration::from_secs(600), refill_divisor: 10 }
    }
}

/// What a tenant's uploads have cost since this process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompileUsage {
    /// Children that were run.
    pub compiles: u64,
    /// Of those, how many ended in a refusal.
    pub rejected: u64,
    /// CPU time of the children, in microseconds.
    pub cpu_us: u64,
}

/// The accounts of all tenants.
#[derive(Debug)]
pub(crate) struct Meter {
    budget: CompileBudget,
    accounts: BTreeMap<TenantName, Account>,
}

#[derive(Debug)]
struct Account {
    usage: CompileUsage,
    /// CPU time that has not come back yet, as of `at`.
    debt: Duration,
    at: Instant,
}

impl Meter {
    pub(crate) fn new(budget: CompileBudget) -> Self {
        Self { budget, accounts: BTreeMap::new() }
    }

    /// Whether the tenant may compile now; else after how long.
    pub(crate) fn admit(&self, tenant: &TenantName, now: Instant) -> Result<(), Duration> {
        let Some(account) = self.accounts.get(tenant) else { return Ok(()) };
        let over = account.debt_at(now, &self.budget).saturating_sub(self.budget.burst);
        if over.is_zero() { Ok(()) } else { Err(over.saturating_mul(self.budget.refill_divisor)) }
    }

    /// Books one compile.
    pub(crate) fn charge(&mut self, tenant: &TenantName, cpu_us: u64, rejected: bool, now: Instant) {
        if self.accounts.len() >= TENANTS_MAX && !self.accounts.contains_key(tenant) {
            self.forget_one(now);
        }
        let budget = self.budget;
        let account = self.accounts.entry(tenant.clone()).or_insert_with(|| Account {
            usage: CompileUsage::default(),
            debt: Duration::ZERO,
            at: now,
        });
        account.debt = account.debt_at(now, &budget) + Duration::from_micros(cpu_us);
        account.at = now;
        account.usage.compiles += 1;
        account.usage.rejected += u64::from(rejected);
        account.usage.cpu_us += cpu_us;
    }

    /// The usage of every tenant, by name.
    pub(crate) fn usage(&self) -> Vec<(TenantName, CompileUsage)> {
        self.accounts.iter().map(|(tenant, account)| (tenant.clone(), account.usage)).collect()
    }

    fn forget_one(&mut self, now: Instant) {
        let least = self.accounts.iter().min_by_key(|(_, account)| (account.debt_at(now, &self.budget), account.at));
        if let Some(tenant) = least.map(|(tenant, _)| tenant.clone()) {
            self.accounts.remove(&tenant);
        }
    }
}

impl Account {
    fn debt_at(&self, now: Instant, budget: &CompileBudget) -> Duration {
        let back = now.saturating_duration_since(self.at) / budget.refill_divisor.max(1);
        self.debt.saturating_sub(back)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_used_much_waits_and_others_do_not() {
        let budget = CompileBudget { burst: Duration::from_secs(10), refill_divisor: 4 };
        let (greedy, other) = ("greedy".parse().unwrap(), "other".parse().unwrap());
        let mut meter = Meter::new(budget);
        let start = Instant::now();
        meter.charge(&greedy, 10_000_000, false, start);
        assert_eq!(meter.admit(&greedy, start), Ok(()));
        meter.charge(&greedy, 5_000_000, true, start);
        assert_eq!(meter.admit(&greedy, start), Err(Duration::from_secs(20)));
        assert_eq!(meter.admit(&other, start), Ok(()));
        assert_eq!(meter.admit(&greedy, start + Duration::from_secs(19)), Err(Duration::from_secs(1)));
        assert_eq!(meter.admit(&greedy, start + Duration::from_secs(20)), Ok(()));
        let usage = CompileUsage { compiles: 2, rejected: 1, cpu_us: 15_000_000 };
        assert_eq!(meter.usage(), [(greedy, usage)]);
    }

    #[test]
    fn accounts_are_bounded() {
        let mut meter = Meter::new(CompileBudget::default());
        let now = Instant::now();
        for number in 0..TENANTS_MAX + 5 {
            meter.charge(&format!("t{number}").parse().unwrap(), 1 + number as u64, false, now);
        }
        assert_eq!(meter.accounts.len(), TENANTS_MAX);
        assert!(!meter.accounts.contains_key("t0"));
    }
}
