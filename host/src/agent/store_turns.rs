//! Who may store a blob now: attempts in turns by tenant, what is large one after the other.

use std::sync::Arc;

use wasmill_protocol::TenantName;

use super::{LARGE_STORE_BYTES, LARGE_STORES_MAX, STORES_MAX, STORES_PER_TENANT_MAX};
use crate::slots::{Permit, SlotLimits, Slots};

/// See the module. Cheap to clone: clones share their turns.
#[derive(Clone)]
pub(super) struct StoreTurns {
    all: Arc<Slots>,
    large: Arc<Slots>,
}

/// Held while a blob is stored.
pub(super) struct Turn {
    _all: Permit,
    _large: Option<Permit>,
}

impl StoreTurns {
    pub(super) fn new() -> Self {
        Self {
            all: Slots::new(SlotLimits::endless_lines(STORES_MAX, STORES_PER_TENANT_MAX)),
            large: Slots::new(SlotLimits::endless_lines(LARGE_STORES_MAX, 1)),
        }
    }

    /// Waits for the turn of `bytes` of a tenant.
    pub(super) async fn turn(&self, tenant: TenantName, bytes: usize) -> Turn {
        // What waits for its turn among the large ones keeps none of the others from theirs.
        let large = match bytes as u64 > LARGE_STORE_BYTES {
            true => Some(self.large.turn(&tenant).await),
            false => None,
        };
        Turn { _all: self.all.turn(&tenant).await, _large: large }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn tenant(name: &str) -> TenantName {
        name.parse().unwrap()
    }

    #[tokio::test]
    async fn b39_what_is_large_goes_one_after_the_other_and_past_it_what_is_small() {
        let (turns, large) = (StoreTurns::new(), LARGE_STORE_BYTES as usize + 1);
        let first = turns.turn(tenant("a"), large).now_or_never().expect("nobody is before it");
        assert!(turns.turn(tenant("a"), large).now_or_never().is_none());
        let small = turns.turn(tenant("a"), large - 1).now_or_never().expect("it is small");
        let other = turns.turn(tenant("b"), large).now_or_never().expect("it is another tenant's");
        drop(first);
        assert!(turns.turn(tenant("a"), large).now_or_never().is_some());
        drop((small, other));
    }
}
