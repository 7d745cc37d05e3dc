//! Memory for what is large: request bodies that come, answers that nobody has read yet; and room
//! on the disk for modules that come.
//!
//! A pool has a share for each tenant that depends on the others: a tenant may hold as much as it
//! leaves free. One alone gets half of the pool, the next one half of the rest, and so on, so that
//! whoever comes later always finds something.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmill_protocol::TenantName;

use super::problem::{Code, Fault, Handled};

/// A bounded pool.
#[derive(Debug)]
pub(super) struct Memory {
    taken: Mutex<Taken>,
    bytes_max: u64,
    /// The kind of body that takes it, in the plural.
    of: &'static str,
}

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    by_tenant: HashMap<TenantName, u64>,
}

/// A body of up to this size is not counted: there is one for each request, and requests are
/// bounded already.
const UNCOUNTED_BYTES: u64 = 64 * 1024;

/// Memory of a tenant; given back when dropped.
#[derive(Debug)]
pub(super) struct MemoryTaken {
    memory: Arc<Memory>,
    tenant: TenantName,
    bytes: u64,
}

impl Memory {
    /// A pool of `bytes_max`.
    pub(super) fn new(bytes_max: u64, of: &'static str) -> Arc<Self> {
        Arc::new(Self { taken: Mutex::default(), bytes_max, of })
    }

    /// Nothing of it, to begin with.
    pub(super) fn of(self: &Arc<Self>, tenant: &TenantName) -> MemoryTaken {
        MemoryTaken { memory: Arc::clone(self), tenant: tenant.clone(), bytes: 0 }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MemoryTaken {
    /// Takes what is missing up to `bytes`.
    ///
    /// # Errors
    ///
    /// When the pool, or the tenant's share of it, is used up; nothing more is taken then.
    pub(super) fn grow(&mut self, bytes: u64) -> Handled<()> {
        if bytes <= UNCOUNTED_BYTES || bytes <= self.bytes {
            return Ok(());
        }
        let (bytes_max, of) = (self.memory.bytes_max, self.memory.of);
        let more = bytes - self.bytes;
        let mut taken = self.memory.taken();
        let own = taken.by_tenant.get(&self.tenant).copied().unwrap_or(0) + more;
        let free = bytes_max.saturating_sub(taken.all).checked_sub(more);
        match free {
            Some(free) if own <= free => {}
            Some(_) if own > more => {
                let detail = format!("the tenant's {of} take {} bytes already, its share now", own - more);
                return Err(Fault::new(Code::TooManyRequests, detail));
            }
            _ => return Err(Fault::new(Code::Overloaded, format!("there are too many {of} at once"))),
        }
        taken.all += more;
        taken.by_tenant.insert(self.tenant.clone(), own);
        drop(taken);
        self.bytes = bytes;
        Ok(())
    }

    /// Gives back what is over `bytes`.
    pub(super) fn shrink(&mut self, bytes: u64) {
        let kept = if bytes <= UNCOUNTED_BYTES { 0 } else { bytes };
        let less = self.bytes.saturating_sub(kept);
        if less == 0 {
            return;
        }
        let mut taken = self.memory.taken();
        taken.all -= less;
        if let Some(own) = taken.by_tenant.get_mut(&self.tenant) {
            *own -= less;
            if *own == 0 {
                taken.by_tenant.remove(&self.tenant);
            }
        }
        drop(taken);
        self.bytes = kept;
    }
}

impl Drop for MemoryTaken {
    fn drop(&mut self) {
        self.shrink(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantName {
        name.parse().unwrap()
    }

    #[test]
    fn c31_a_tenant_may_hold_as_much_as_it_leaves_free() {
        let memory = Memory::new(8_000_000, "large bodies");
        let mut greedy: Vec<_> = (0..10).map(|_| memory.of(&tenant("greedy"))).collect();
        let taken = greedy.iter_mut().filter_map(|one| one.grow(1_000_000).ok()).count();
        assert_eq!(taken, 4, "half of the pool");
        let mut others: Vec<_> = ["a", "b", "c"].map(|name| memory.of(&tenant(name))).into();
        assert!(others[0].grow(2_000_000).is_ok());
        assert!(others[1].grow(1_000_000).is_ok());
        // Nothing of its own is in the way of the third: the pool is nearly empty.
        assert_eq!(others[2].grow(1_000_000).unwrap_err().code(), Code::Overloaded);
        assert!(others[2].grow(500_000).is_ok());
        assert_eq!(greedy[0].grow(1_000_001).unwrap_err().code(), Code::TooManyRequests);
        greedy.clear();
        assert!(others[2].grow(1_000_000).is_ok());
    }

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let memory = Memory::new(1_000_000, "large bodies");
        let mut one = memory.of(&tenant("one"));
        one.grow(500_000).unwrap();
        one.shrink(200_000);
        let mut other = memory.of(&tenant("one"));
        other.grow(300_000).unwrap();
        assert!(one.grow(200_001).is_err());
        drop((one, other));
        assert_eq!(memory.taken().all, 0);
        assert!(memory.taken().by_tenant.is_empty());
    }

    #[test]
    fn what_is_small_is_not_counted() {
        let memory = Memory::new(0, "large bodies");
        assert!(memory.of(&tenant("one")).grow(UNCOUNTED_BYTES).is_ok());
        assert!(memory.of(&tenant("one")).grow(UNCOUNTED_BYTES + 1).is_err());
    }
}
