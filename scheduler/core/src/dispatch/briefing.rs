//! The facts that a policy outside the core was told, so that each name is told once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wasmill_protocol::Digest;

use crate::policy::ask::{HostFacts, HostNews, HostProfile, News, ShapeFacts, ShapeNews, TenantFacts};
use crate::policy::{HostRoom, Ref, ShapeView, TenantView};
use crate::state::tenants::{TenantNumber, Tenants};
use crate::state::{Labels, Slot};

/// The knowledge of one sitting of a policy. No larger than what there is: a slot is told of once.
#[derive(Debug, Default)]
pub(super) struct Briefing {
    tenants: BTreeSet<TenantNumber>,
    /// Tenants that it knows and that are gone.
    gone: Vec<TenantNumber>,
    /// The generation of each slot.
    shapes: BTreeMap<Slot, u32>,
    hosts: BTreeMap<u32, BriefedHost>,
}

#[derive(Debug)]
struct BriefedHost {
    generation: u32,
    labels: Arc<Labels>,
    cores: u32,
    modules_warm: Arc<[Digest]>,
}

impl Briefing {
    /// A tenant is removed.
    pub(super) fn forget_tenant(&mut self, number: TenantNumber) {
        if self.tenants.remove(&number) {
            self.gone.push(number);
        }
    }

    /// News to be filled in, with what is gone already in it.
    pub(super) fn news(&mut self) -> News {
        News { tenants_gone: std::mem::take(&mut self.gone), ..News::default() }
    }

    pub(super) fn tenant(&mut self, view: &TenantView, news: &mut News) -> TenantFacts {
        if self.tenants.insert(view.id) {
            news.tenants.push((view.id, view.name.clone()));
        }
        let TenantView { id, weight, class, running, time, charge, .. } = *view;
        TenantFacts { id, weight, class, running, time, charge }
    }

    pub(super) fn shape(&mut self, view: &ShapeView, news: &mut News) -> ShapeFacts {
        if self.tenants.insert(view.tenant_id) {
            news.tenants.push((view.tenant_id, view.tenant.clone()));
        }
        if self.shapes.insert(view.id.slot, view.id.generation) != Some(view.id.generation) {
            news.shapes.push(ShapeNews {
                id: view.id,
                tenant: view.tenant_id,
                priority: view.priority,
                module: view.module,
                memory_bytes: view.memory_bytes,
                require: Arc::clone(&view.require),
            });
        }
        ShapeFacts { id: view.id, queued: view.queued, oldest: view.oldest }
    }

    /// The news of the host of a slot; nothing where it was not known and is gone.
    pub(super) fn host(
        &mut self,
        host: Ref,
        room: Option<&HostRoom>,
        tenants: &Tenants,
        news: &mut News,
    ) -> Option<HostNews> {
        let Some(room) = room else {
            let known = self.hosts.remove(&host.slot)?;
            let host = Ref { generation: known.generation, ..host };
            return Some(HostNews { host, profile: None, modules_warm: None, facts: None });
        };
        let known = self.hosts.get(&host.slot).filter(|known| known.generation == host.generation);
        let is_profile_known = known.is_some_and(|known| known.labels == room.labels && known.cores == room.cores);
        let is_warm_known = known.map_or(room.modules_warm.is_empty(), |known| known.modules_warm == room.modules_warm);
        let (labels, cores) = (Arc::clone(&room.labels), room.cores);
        let modules_warm = Arc::clone(&room.modules_warm);
        self.hosts.insert(host.slot, BriefedHost { generation: host.generation, labels, cores, modules_warm });
        let (id, labels) = (room.id.clone(), Arc::clone(&room.labels));
        Some(HostNews {
            host,
            profile: (!is_profile_known).then_some(HostProfile { id, labels, cores }),
            modules_warm: (!is_warm_known).then(|| Arc::clone(&room.modules_warm)),
            facts: Some(self.host_facts(room, tenants, news)),
        })
    }

    fn host_facts(&mut self, room: &HostRoom, tenants: &Tenants, news: &mut News) -> HostFacts {
        let sated = room.sated.iter().filter_map(|name| Some((tenants.number(name)?, name)));
        let sated = sated.map(|(number, name)| {
            if self.tenants.insert(number) {
                news.tenants.push((number, name.clone()));
            }
            number
        });
        HostFacts {
            sated: sated.collect(),
            kind: room.kind,
            status: room.status,
            free: room.free,
            kept: room.kept,
            attempts: room.attempts,
            slots: room.slots,
            memory_bytes: room.memory_bytes,
            memory_promised: room.memory_promised,
            memory_most: room.memory_most,
            memory_held: room.memory_held,
            load_millicores: room.load_millicores,
            modules_cached: room.modules_cached,
        }
    }
}
