//! Policies that live outside the core: what is to be asked of them next, and what counts until
//! they answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wasmill_protocol::Timestamp;
use wasmill_protocol::policy::PolicyHook;

use super::briefing::Briefing;
use super::desk::Desk;
use crate::policy::ask::{OrderQuestion, Outside, PlaceQuestion, WantedFacts};
use crate::policy::{Fair, HostChange, HostRoom, Key, Keys, Order, Ref, ShapeView, TenantView, Wanted};
use crate::state::Slot;
use crate::state::tenants::{TenantNumber, Tenants};

/// The tenants and shapes whose keys are asked for, in the order of the question.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) tenants: Vec<TenantNumber>,
    pub(super) shapes: Vec<Ref>,
}

/// A policy that orders.
#[derive(Debug)]
pub(super) struct OutsideOrder {
    pub(super) desk: Desk<Subject>,
    briefing: Briefing,
    /// The last keys, as the starts since then have moved them.
    tenants: BTreeMap<TenantNumber, Key>,
    shapes: BTreeMap<Slot, (u32, Key)>,
    /// The tenants that have changed since the last question.
    changed_tenants: BTreeSet<TenantNumber>,
    changed_shapes: BTreeSet<Slot>,
    /// Tasks that have started since the question that is under way.
    started_tenants: BTreeMap<TenantNumber, u32>,
    started_shapes: BTreeMap<Slot, u32>,
}

impl OutsideOrder {
    pub(super) fn new(policy: Arc<Outside>, sitting: u64) -> Self {
        Self {
            desk: Desk::new(policy, PolicyHook::Order, sitting),
            briefing: Briefing::default(),
            tenants: BTreeMap::new(),
            shapes: BTreeMap::new(),
            changed_tenants: BTreeSet::new(),
            changed_shapes: BTreeSet::new(),
            started_tenants: BTreeMap::new(),
            started_shapes: BTreeMap::new(),
        }
    }

    /// The policy has failed, and may have lost its memory: it is told everything again. Its
    /// answers until then count.
    pub(super) fn begin_anew(&mut self, sitting: u64) {
        self.desk.begin_anew(sitting);
        self.briefing = Briefing::default();
    }

    /// Keys that count until the policy has answered: its last ones, and those of the default for
    /// what it has not been asked about. Changes are noted for the next question.
    pub(super) fn meanwhile(&mut self, now: Timestamp, tenants: &[TenantView], shapes: &[ShapeView]) -> Keys {
        self.changed_tenants.extend(tenants.iter().map(|tenant| tenant.id));
        self.changed_shapes.extend(shapes.iter().map(|shape| shape.id.slot));
        let mut keys = Fair.keys(now, tenants, shapes).expect("a built-in policy does not fail");
        for (key, tenant) in keys.tenants.iter_mut().zip(tenants) {
            *key = self.tenants.get(&tenant.id).copied().unwrap_or(*key);
        }
        for (key, shape) in keys.shapes.iter_mut().zip(shapes) {
            let last = self.shapes.get(&shape.id.slot).filter(|(generation, _)| *generation == shape.id.generation);
            *key = last.map_or(*key, |(_, last)| *last);
        }
        keys
    }

    /// Tasks have started.
    pub(super) fn started(&mut self, shape: &ShapeView, count: u32) {
        let (tenant, slot) = (shape.tenant_id, shape.id.slot);
        if let Some(key) = self.tenants.get_mut(&tenant) {
            key.advance(count);
        }
        if let Some((_, key)) = self.shapes.get_mut(&slot).filter(|(generation, _)| *generation == shape.id.generation)
        {
            key.advance(count);
        }
        if self.desk.is_waiting() {
            *self.started_tenants.entry(tenant).or_default() += count;
            *self.started_shapes.entry(slot).or_default() += count;
        }
    }

    pub(super) fn forget_tenant(&mut self, number: TenantNumber) {
        self.briefing.forget_tenant(number);
        self.tenants.remove(&number);
    }

    /// Takes what has changed, when it can be asked about.
    pub(super) fn take_changed(&mut self) -> Option<(BTreeSet<TenantNumber>, BTreeSet<Slot>)> {
        let is_idle = self.changed_tenants.is_empty() && self.changed_shapes.is_empty();
        if is_idle || !self.desk.is_free() {
            return None;
        }
        (self.started_tenants, self.started_shapes) = (BTreeMap::new(), BTreeMap::new());
        Some((std::mem::take(&mut self.changed_tenants), std::mem::take(&mut self.changed_shapes)))
    }

    pub(super) fn question(&mut self, tenants: &[TenantView], shapes: &[ShapeView]) -> (Subject, OrderQuestion) {
        let mut news = self.briefing.news();
        let subject = Subject {
            tenants: tenants.iter().map(|tenant| tenant.id).collect(),
            shapes: shapes.iter().map(|shape| shape.id).collect(),
        };
        let tenants = tenants.iter().map(|tenant| self.briefing.tenant(tenant, &mut news)).collect();
        let shapes = shapes.iter().map(|shape| self.briefing.shape(shape, &mut news)).collect();
        (subject, OrderQuestion { news, tenants, shapes })
    }

    /// Takes in the keys that were asked for, moved by what has started since.
    pub(super) fn take_keys(&mut self, subject: &Subject, keys: &mut Keys) {
        for (number, key) in subject.tenants.iter().zip(&mut keys.tenants) {
            key.advance(self.started_tenants.get(number).copied().unwrap_or(0));
            self.tenants.insert(*number, *key);
        }
        for (shape, key) in subject.shapes.iter().zip(&mut keys.shapes) {
            key.advance(self.started_shapes.get(&shape.slot).copied().unwrap_or(0));
            self.shapes.insert(shape.slot, (shape.generation, *key));
        }
    }

    /// The subject of a question without an answer is asked about again.
    pub(super) fn ask_again(&mut self, subject: Subject) {
        self.changed_tenants.extend(subject.tenants);
        self.changed_shapes.extend(subject.shapes.iter().map(|shape| shape.slot));
    }
}

/// A policy that places.
#[derive(Debug)]
pub(super) struct OutsidePlace {
    pub(super) desk: Desk<Vec<Wanted>>,
    briefing: Briefing,
    /// Hosts that have changed since the last question.
    changed: BTreeSet<u32>,
    /// Hosts that have changed since the question under way was asked.
    changed_since: BTreeSet<u32>,
}

impl OutsidePlace {
    /// A policy that knows none of these hosts yet.
    pub(super) fn new(policy: Arc<Outside>, sitting: u64, hosts: &[HostChange]) -> Self {
        let changed = hosts.iter().map(|change| change.host.slot).collect();
        let desk = Desk::new(policy, PolicyHook::Place, sitting);
        Self { desk, briefing: Briefing::default(), changed, changed_since: BTreeSet::new() }
    }

    /// The policy has failed, and may have lost its memory: it is told everything again.
    pub(super) fn begin_anew(&mut self, sitting: u64, hosts: &[HostChange]) {
        self.desk.begin_anew(sitting);
        self.briefing = Briefing::default();
        self.changed(hosts);
    }

    pub(super) fn changed(&mut self, hosts: &[HostChange]) {
        let slots = || hosts.iter().map(|change| change.host.slot);
        self.changed.extend(slots());
        if self.desk.is_waiting() {
            self.changed_since.extend(slots());
        }
    }

    /// Takes the hosts that have changed while a question was under way: what was said of them may
    /// have been right then.
    pub(super) fn take_changed_since(&mut self) -> BTreeSet<u32> {
        std::mem::take(&mut self.changed_since)
    }

    pub(super) fn forget_tenant(&mut self, number: TenantNumber) {
        self.briefing.forget_tenant(number);
    }

    pub(super) fn question<'a>(
        &mut self,
        wanted: &[Wanted],
        host: impl Fn(u32) -> (Ref, Option<&'a HostRoom>),
        tenants: &Tenants,
    ) -> PlaceQuestion {
        self.changed_since.clear();
        let mut news = self.briefing.news();
        let briefing = &mut self.briefing;
        let wanted = wanted.iter().map(|wish| WantedFacts {
            shape: briefing.shape(&wish.shape, &mut news),
            count: wish.count,
            kept: wish.kept,
            kinds: Arc::clone(&wish.kinds),
        });
        let wanted = wanted.collect();
        let hosts = std::mem::take(&mut self.changed).into_iter().filter_map(|slot| {
            let (reference, room) = host(slot);
            briefing.host(reference, room, tenants, &mut news)
        });
        PlaceQuestion { hosts: hosts.collect(), wanted, news }
    }
}
