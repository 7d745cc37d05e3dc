//! How much one tenant may have under way, so that others are served while it floods.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wasmill_protocol::TenantName;

use super::problem::{Code, Fault, Handled};

/// Counts what every tenant has under way.
#[derive(Debug)]
pub(super) struct TenantLimits {
    tenants: Mutex<HashMap<TenantName, Arc<TenantRequests>>>,
    requests_max: usize,
    waits_max: usize,
}

/// The requests of one tenant that are under way.
#[derive(Debug, Default)]
struct TenantRequests {
    requests: AtomicUsize,
    waits: AtomicUsize,
}

/// Counts as one until dropped.
#[derive(Debug)]
pub(super) struct RequestPermit {
    under_way: Arc<TenantRequests>,
    kind: RequestKind,
}

#[derive(Debug, Clone, Copy)]
enum RequestKind {
    Request,
    Wait,
}

/// Tenants that are counted before those with nothing under way are forgotten.
const TENANTS_KEPT: usize = 1024;

impl TenantLimits {
    /// Nothing is under way.
    pub(super) fn new(requests_max: usize, waits_max: usize) -> Self {
        Self { tenants: Mutex::default(), requests_max, waits_max }
    }

    /// A place for a request.
    pub(super) fn request(&self, tenant: &TenantName) -> Handled<RequestPermit> {
        self.place(tenant, RequestKind::Request, self.requests_max)
            .ok_or_else(|| Fault::plain(Code::TooManyRequests).limit(self.requests_max as u64))
    }

    /// A place for a request that waits for a task to end.
    pub(super) fn wait(&self, tenant: &TenantName) -> Handled<RequestPermit> {
        self.place(tenant, RequestKind::Wait, self.waits_max)
            .ok_or_else(|| Fault::plain(Code::TooManyWaits).limit(self.waits_max as u64))
    }

    fn place(&self, tenant: &TenantName, kind: RequestKind, max: usize) -> Option<RequestPermit> {
        let place = RequestPermit { under_way: self.under_way(tenant), kind };
        // Taken before it is known to be free: dropping the place gives it back.
        (place.counter().fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }

    fn under_way(&self, tenant: &TenantName) -> Arc<TenantRequests> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(under_way) = tenants.get(tenant) {
            return Arc::clone(under_way);
        }
        if tenants.len() >= TENANTS_KEPT {
            tenants.retain(|_, under_way| Arc::strong_count(under_way) > 1);
        }
        Arc::clone(tenants.entry(tenant.clone()).or_default())
    }
}

impl RequestPermit {
    fn counter(&self) -> &AtomicUsize {
        match self.kind {
            RequestKind::Request => &self.under_way.requests,
            RequestKind::Wait => &self.under_way.waits,
        }
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.counter().fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_one_tenant_leaves_others_alone() {
        let tenant_limits = TenantLimits::new(2, 1);
        let (noisy, quiet): (TenantName, TenantName) = ("noisy".parse().unwrap(), "quiet".parse().unwrap());
        let first = tenant_limits.request(&noisy).unwrap();
        let _second = tenant_limits.request(&noisy).unwrap();
        for _ in 0..10 {
            assert_eq!(tenant_limits.request(&noisy).unwrap_err().code(), Code::TooManyRequests);
        }
        assert!(tenant_limits.request(&quiet).is_ok());
        drop(first);
        let _again = tenant_limits.request(&noisy).unwrap();
        let _wait = tenant_limits.wait(&noisy).unwrap();
        assert_eq!(tenant_limits.wait(&noisy).unwrap_err().code(), Code::TooManyWaits);
    }
}
