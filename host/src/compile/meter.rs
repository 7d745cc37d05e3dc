//! The compile time of each tenant's modules, for uploads and for attempts, and the bound on
//! it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use wasmill_protocol::TenantName;

/// Tenants whose compile time is known; those that owe nothing are forgotten first.
const TENANTS_MAX: usize = 10_000;

/// For how many milliseconds a tenant with a quota of its own may use that quota at once.
const BURST_MS: u64 = 60_000;
/// The wait of a tenant that may not compile at all.
const NEVER: Duration = Duration::from_hours(24);

/// How much compile time one tenant may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileBudget {
    /// CPU time that it may use at once.
    pub burst: Duration,
    /// How much comes back in the long run: milliseconds of CPU time for each second.
    pub ms_per_s: u64,
}

impl Default for CompileBudget {
    /// Ten minutes at once: a hundred of the largest known modules. A tenth of a core in the long
    /// run.
    fn default() -> Self {
        Self { burst: Duration::from_secs(600), ms_per_s: 100 }
    }
}

/// The payer of a compilation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payer {
    /// Whose module it is.
    pub tenant: TenantName,
    /// The tenant's quota `compile_ms_per_s`; `None` is the budget that everybody has.
    pub ms_per_s: Option<u64>,
}

impl Payer {
    /// A tenant without a quota of its own.
    pub fn new(tenant: TenantName) -> Self {
        Self { tenant, ms_per_s: None }
    }
}

/// The compile time of a tenant's modules since this process started.
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

    /// The compile time that a tenant gets back, in milliseconds for each second.
    pub(crate) fn ms_per_s(&self, payer: &Payer) -> u64 {
        self.budget_of(payer).ms_per_s
    }

    fn budget_of(&self, payer: &Payer) -> CompileBudget {
        payer.ms_per_s.map_or(self.budget, |ms_per_s| CompileBudget {
            burst: Duration::from_millis(ms_per_s.saturating_mul(BURST_MS / 1_000)),
            ms_per_s,
        })
    }

    /// Whether the tenant may compile now; else after how long.
    pub(crate) fn admit(&self, payer: &Payer, now: Instant) -> Result<(), Duration> {
        let budget = self.budget_of(payer);
        if budget.ms_per_s == 0 && budget.burst.is_zero() {
            return Err(NEVER);
        }
        let Some(account) = self.accounts.get(&payer.tenant) else { return Ok(()) };
        let over = account.debt_at(now, &budget).saturating_sub(budget.burst);
        if over.is_zero() {
            return Ok(());
        }
        let wait_us = over.as_micros().saturating_mul(1_000).checked_div(u128::from(budget.ms_per_s));
        Err(wait_us.and_then(|us| u64::try_from(us).ok()).map_or(NEVER, Duration::from_micros).min(NEVER))
    }

    /// Books one compile.
    pub(crate) fn charge(&mut self, payer: &Payer, cpu_us: u64, rejected: bool, now: Instant) {
        let (tenant, budget) = (&payer.tenant, self.budget_of(payer));
        if self.accounts.len() >= TENANTS_MAX && !self.accounts.contains_key(tenant) {
            self.forget_one(now);
        }
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
        let passed_us = now.saturating_duration_since(self.at).as_micros();
        let back_us = passed_us.saturating_mul(u128::from(budget.ms_per_s)) / 1_000;
        self.debt.saturating_sub(Duration::from_micros(u64::try_from(back_us).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payer(name: &str) -> Payer {
        Payer::new(name.parse().unwrap())
    }

    #[test]
    fn who_used_much_waits_and_others_do_not() {
        let budget = CompileBudget { burst: Duration::from_secs(10), ms_per_s: 250 };
        let (greedy, other) = (payer("greedy"), payer("other"));
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
        assert_eq!(meter.usage(), [(greedy.tenant, usage)]);
    }

    #[test]
    fn a_quota_gives_a_minute_of_itself_at_once() {
        let mut meter = Meter::new(CompileBudget::default());
        let start = Instant::now();
        let small = Payer { ms_per_s: Some(10), ..payer("small") };
        meter.charge(&small, 600_000, false, start);
        assert_eq!(meter.admit(&small, start), Ok(()));
        meter.charge(&small, 1_000_000, false, start);
        assert_eq!(meter.admit(&small, start), Err(Duration::from_secs(100)));
        // The quota counts that it has now.
        assert_eq!(meter.admit(&Payer { ms_per_s: Some(100), ..small.clone() }, start), Ok(()));
        assert_eq!(meter.admit(&Payer { ms_per_s: None, ..small.clone() }, start), Ok(()));
        assert_eq!(meter.admit(&Payer { ms_per_s: Some(0), ..small }, start), Err(NEVER));
        assert_eq!(meter.admit(&Payer { ms_per_s: Some(0), ..payer("new") }, start), Err(NEVER));
        let most = Payer { ms_per_s: Some(u64::MAX), ..payer("most") };
        meter.charge(&most, u64::MAX, false, start);
        assert_eq!(meter.admit(&most, start), Ok(()));
    }

    #[test]
    fn accounts_are_bounded() {
        let mut meter = Meter::new(CompileBudget::default());
        let now = Instant::now();
        for number in 0..TENANTS_MAX + 5 {
            meter.charge(&payer(&format!("t{number}")), 1 + number as u64, false, now);
        }
        assert_eq!(meter.accounts.len(), TENANTS_MAX);
        assert!(!meter.accounts.contains_key("t0"));
    }
}
