//! The quota of stored bytes, as a leader keeps it for what runs and for what is in the queue.
//!
//! Submissions are refused before they come here. What comes of attempts is counted by the read model when it is written, so what runs can go over
//! the quota: by its own results, and no further, because nothing else starts then.

use std::collections::BTreeSet;

use wasmill_protocol::message::{FromHost, Report};
use wasmill_protocol::{Digest, TenantName};
use wasmill_record::event::{Event, EventBody};
use wasmill_scheduler_core::State;
use wasmill_scheduler_core::io::Input;

use super::specs::SpecCache;
use crate::handle::Shared;

/// Which tenants have used up their quota, as the core was told.
#[derive(Debug, Default)]
pub(super) struct StoredQuotas {
    used_up: BTreeSet<TenantName>,
    /// Tenants of which a quota may have changed.
    open: BTreeSet<TenantName>,
    /// Whether every tenant was looked at once.
    begun: bool,
}

impl StoredQuotas {
    /// Takes in what is durable.
    pub(super) fn durable(&mut self, events: &[Event]) {
        for event in events {
            if let EventBody::TenantPut { tenant } = &event.body {
                self.open.insert(tenant.name.clone());
            }
        }
    }

    /// What the core does not know yet.
    pub(super) fn news(&mut self, shared: &Shared) -> Vec<Input> {
        let mut open = std::mem::take(&mut self.open);
        open.extend(shared.read_model.stored_changed());
        if !std::mem::replace(&mut self.begun, true) {
            open.extend(shared.directory.read().tenants.keys().cloned());
        }
        let mut news = Vec::new();
        for tenant in open {
            let quota = quota(shared, &tenant);
            let used_up = quota.is_some_and(|quota| shared.read_model.stored_bytes(&tenant) >= quota);
            let changed = if used_up { self.used_up.insert(tenant.clone()) } else { self.used_up.remove(&tenant) };
            if changed {
                news.push(Input::Stored { tenant, used_up });
            }
        }
        news
    }
}

/// Drops checkpoints that are over the quota of their tenant: the guest goes on, and a later attempt begins with an earlier one.
pub(super) fn drop_over_quota(
    message: &mut FromHost,
    state: &State,
    specs: &SpecCache,
    shared: &Shared,
) -> Vec<Digest> {
    let mut dropped = Vec::new();
    message.reports.retain(|report| {
        let Report::Checkpoint { id, number, data } = report else { return true };
        let Some(task) = state.task(id.task) else { return true };
        let Some(quota) = quota(shared, &task.tenant) else { return true };
        let replaced = specs.get(id.task).map_or(0, |(_, before)| before.byte_count());
        let used = shared.read_model.stored_bytes(&task.tenant).saturating_sub(replaced);
        let fits = used.saturating_add(data.byte_count()) <= quota;
        if !fits {
            tracing::info!(
                task = %id.task, tenant = %task.tenant, number, bytes = data.byte_count(), used, quota,
                "a checkpoint is over the tenant's quota `stored_bytes`, and is dropped"
            );
            dropped.extend(data.blob());
        }
        fits
    });
    dropped
}

fn quota(shared: &Shared, tenant: &TenantName) -> Option<u64> {
    shared.directory.read().tenants.get(tenant).and_then(|(tenant, _)| tenant.quotas.stored_bytes)
}
