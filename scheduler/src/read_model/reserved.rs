//! Bytes of quotas that are taken for tasks on their way to the log.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use wasmill_protocol::TenantName;

type ByTenant = HashMap<TenantName, u64>;

/// Bytes that are reserved.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    by_tenant: Arc<Mutex<ByTenant>>,
}

/// Bytes of a tenant's quota; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    by_tenant: Arc<Mutex<ByTenant>>,
    tenant: TenantName,
    bytes: u64,
}

/// There is not enough left of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverQuota {
    /// Bytes that are stored or on their way.
    pub used: u64,
}

impl Reserved {
    /// Takes bytes if what is `stored`, reserved and asked for is not over `bytes_max`.
    pub(super) fn take(
        &self,
        tenant: &TenantName,
        bytes: u64,
        bytes_max: u64,
        stored: impl FnOnce() -> u64,
    ) -> Result<Reservation, OverQuota> {
        let mut by_tenant = self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner);
        let reserved = by_tenant.get(tenant).copied().unwrap_or(0);
        // Looked at under the lock: what becomes stored keeps its reservation until it is, so it is
        // counted twice rather than not at all.
        let used = stored().saturating_add(reserved);
        if used.saturating_add(bytes) > bytes_max {
            return Err(OverQuota { used });
        }
        by_tenant.insert(tenant.clone(), reserved + bytes);
        drop(by_tenant);
        Ok(Reservation { by_tenant: Arc::clone(&self.by_tenant), tenant: tenant.clone(), bytes })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut by_tenant = self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reserved) = by_tenant.get_mut(&self.tenant) {
            *reserved -= self.bytes;
            if *reserved == 0 {
                by_tenant.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b39_two_at_once_do_not_pass_where_there_is_room_for_one() {
        let (reserved, tenant) = (Reserved::default(), TenantName::default());
        let first = reserved.take(&tenant, 60, 100, || 0).unwrap();
        assert_eq!(reserved.take(&tenant, 60, 100, || 0).unwrap_err(), OverQuota { used: 60 });
        // The first one is stored, and has not been answered yet.
        assert_eq!(reserved.take(&tenant, 40, 100, || 60).unwrap_err(), OverQuota { used: 120 });
        drop(first);
        assert!(reserved.take(&tenant, 40, 100, || 60).is_ok());
        assert!(reserved.by_tenant.lock().unwrap().is_empty());
    }
}
