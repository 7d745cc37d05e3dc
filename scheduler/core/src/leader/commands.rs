//! Commands about tenants, tokens, modules and aliases.

use std::sync::Arc;

use wasmill_protocol::command::{Command, Counted, Done, QuotaKind, Refusal};
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::policy::PolicyHook;
use wasmill_protocol::tenant::{Quotas, Tenant, Token};
use wasmill_protocol::{Digest, TaskId, TenantName};
use wasmill_record::event::EventBody;

use super::Core;
use super::backlog::Work;
use crate::state::tenants::TenantEntry;
use crate::state::{Slot, State};

/// Tokens of one tenant; there is no quota for them.
const TOKENS_PER_TENANT_MAX: usize = 10_000;
/// Aliases of one tenant; there is no quota for them.
const ALIASES_PER_TENANT_MAX: usize = 10_000;
/// Tenants in all, removed ones that have tasks left included.
pub(super) const TENANTS_MAX: usize = 100_000;

impl Core {
    /// Every command but those about single tasks.
    pub(super) fn administer(&mut self, command: Command) -> Result<Done, Refusal> {
        match command {
            Command::CreateTenant { name, weight, class, quotas } => {
                self.create_tenant(Tenant { name, weight, class, quotas })
            }
            Command::ChangeTenant { name, weight, class, quotas } => self.change_tenant(name, weight, class, quotas),
            Command::RemoveTenant { name } => self.remove_tenant(name),
            Command::AddToken { token } => self.add_token(token),
            Command::AddFirstToken { token } => self.add_first_token(token),
            Command::RemoveToken { tenant, id } => self.remove_token(tenant, id),
            Command::AddModule { tenant, module, alias } => self.add_module(tenant, module, alias),
            Command::RemoveModule { tenant, digest } => self.remove_module(tenant, digest),
            Command::SetAlias { tenant, name, digest } => self.set_alias(tenant, name, digest),
            Command::RemoveAlias { tenant, name } => self.remove_alias(tenant, name),
            Command::DrainHost { host, draining } => self.drain_host(host, draining),
            Command::LiftPolicy { hook, policy, digest } => self.lift_policy(hook, policy, digest),
            Command::Submit { .. } | Command::Cancel { .. } | Command::Prioritize { .. } => {
                unreachable!("commands about tasks are decided elsewhere")
            }
        }
    }

    fn tenant(&self, name: &TenantName) -> Result<&TenantEntry, Refusal> {
        self.state.tenants.named(name).ok_or(Refusal::TenantUnknown)
    }

    fn create_tenant(&mut self, tenant: Tenant) -> Result<Done, Refusal> {
        if self.tenant(&tenant.name).is_ok() {
            return Err(Refusal::TenantExists);
        }
        if self.state.tenants.entries().count() >= TENANTS_MAX {
            return Err(too_many(Counted::Tenants, TENANTS_MAX));
        }
        self.emit(EventBody::TenantPut { tenant });
        Ok(Done::Created)
    }

    fn change_tenant(
        &mut self,
        name: TenantName,
        weight: Option<u32>,
        class: Option<i8>,
        quotas: Option<Quotas>,
    ) -> Result<Done, Refusal> {
        let entry = self.tenant(&name)?;
        let before = (entry.weight, entry.class, entry.quotas);
        let (weight, class) = (weight.unwrap_or(entry.weight), class.unwrap_or(entry.class));
        let quotas = quotas.unwrap_or(entry.quotas);
        if (weight, class, quotas) != before {
            self.emit(EventBody::TenantPut { tenant: Tenant { name, weight, class, quotas } });
        }
        Ok(Done::Changed)
    }

    /// The tenant is gone at once; its tasks end one batch after the other, and those that run when
    /// their hosts say so.
    fn remove_tenant(&mut self, name: TenantName) -> Result<Done, Refusal> {
        if name == TenantName::default_tenant() {
            return Err(Refusal::TenantPermanent);
        }
        let number = self.state.tenants.number(&name).ok_or(Refusal::TenantUnknown)?;
        self.emit(EventBody::TenantRemoved { tenant: name });
        self.dispatch.forget_tenant(number);
        if self.state.tenants.find(number).is_some() {
            self.backlog.push(Work::EndTenant(number), &self.state);
            self.cancel_running_of_removed();
        }
        Ok(Done::Removed)
    }

    /// Asks what runs of removed tenants to stop. A new leader asks as well: the removal may be
    /// recorded, and the asking lost with the leader before.
    pub(super) fn cancel_running_of_removed(&mut self) {
        let State { tasks, tenants, shapes, placements, .. } = &self.state;
        let of_removed = |slot: &Slot| tenants.entry(shapes.shape(tasks[*slot].shape).key.tenant).removed;
        let running = placements.iter().flat_map(|placed| placed.tasks.slots(tasks));
        let asked: Vec<_> = running.filter(|slot| !tasks[*slot].cancel_requested && of_removed(slot)).collect();
        for slot in asked {
            let task = self.state.tasks[slot].id;
            self.emit(EventBody::CancelRequested { task, reason: Some("the tenant was removed".into()) });
            self.send_stop(slot);
        }
    }

    /// A policy that was benched decides again, here at once if it is seated.
    fn lift_policy(&mut self, hook: PolicyHook, policy: String, digest: Digest) -> Result<Done, Refusal> {
        if self.state.benched(hook, &policy, digest).is_some() {
            self.emit(EventBody::PolicyLifted { hook, policy, digest });
            self.dispatch.lift(&self.state);
        }
        Ok(Done::Changed)
    }

    fn add_token(&mut self, token: Token) -> Result<Done, Refusal> {
        let entry = self.tenant(&token.tenant)?;
        if self.state.tenants.has_token(&token.id, &token.hash) {
            return Err(Refusal::TokenExists);
        }
        if entry.belongings.tokens.len() >= TOKENS_PER_TENANT_MAX {
            return Err(too_many(Counted::Tokens, TOKENS_PER_TENANT_MAX));
        }
        self.emit(EventBody::TokenAdded { token });
        Ok(Done::Created)
    }

    fn add_first_token(&mut self, token: Token) -> Result<Done, Refusal> {
        if self.state.tenants.has_admin() { Err(Refusal::AdminExists) } else { self.add_token(token) }
    }

    fn remove_token(&mut self, tenant: TenantName, id: String) -> Result<Done, Refusal> {
        if !self.tenant(&tenant)?.belongings.tokens.contains_key(&id) {
            return Err(Refusal::TokenUnknown);
        }
        self.emit(EventBody::TokenRemoved { tenant, id });
        Ok(Done::Removed)
    }

    fn add_module(
        &mut self,
        tenant: TenantName,
        module: Arc<ModuleInfo>,
        alias: Option<String>,
    ) -> Result<Done, Refusal> {
        self.refuses_module(&tenant, &module, alias.as_deref())?;
        let entry = self.tenant(&tenant)?;
        let digest = module.digest;
        let known = entry.belongings.modules.contains_key(&digest);
        let aliased = alias.as_ref().is_none_or(|alias| entry.belongings.aliases.get(alias) == Some(&digest));
        if !known {
            self.emit(EventBody::ModuleAdded { tenant: tenant.clone(), module });
        }
        if let (false, Some(name)) = (aliased, alias) {
            self.emit(EventBody::AliasSet { tenant, name, digest });
        }
        Ok(if known { Done::Changed } else { Done::Created })
    }

    /// The refusal that a module would get as things are. Only its digest and its size matter.
    pub(super) fn refuses_module(
        &self,
        tenant: &TenantName,
        module: &ModuleInfo,
        alias: Option<&str>,
    ) -> Result<(), Refusal> {
        let entry = self.tenant(tenant)?;
        let known = entry.belongings.modules.contains_key(&module.digest);
        let quotas = entry.quotas;
        if let (false, Some(limit)) = (known, quotas.modules)
            && entry.belongings.modules.len() as u64 >= limit
        {
            return Err(Refusal::Quota { quota: QuotaKind::Modules, limit });
        }
        if let (false, Some(limit)) = (known, quotas.module_bytes)
            && entry.belongings.module_bytes.saturating_add(module.bytes) > limit
        {
            return Err(Refusal::Quota { quota: QuotaKind::ModuleBytes, limit });
        }
        alias.map_or(Ok(()), |alias| alias_has_room(entry, alias))
    }

    fn remove_module(&mut self, tenant: TenantName, digest: Digest) -> Result<Done, Refusal> {
        let entry = self.tenant(&tenant)?;
        if !entry.belongings.modules.contains_key(&digest) {
            return Err(Refusal::ModuleUnknown);
        }
        if let Some(task) = self.user_of(entry, &digest) {
            return Err(Refusal::ModuleInUse { task });
        }
        // No alias ever points at nothing: those of the module go with it.
        let pointing = entry.belongings.aliases.iter().filter(|(_, target)| **target == digest);
        let names: Vec<_> = pointing.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.emit(EventBody::AliasRemoved { tenant: tenant.clone(), name });
        }
        self.emit(EventBody::ModuleRemoved { tenant, digest });
        Ok(Done::Removed)
    }

    /// A task that is not final and uses the module.
    fn user_of(&self, tenant: &TenantEntry, digest: &Digest) -> Option<TaskId> {
        let state = &self.state;
        let used = |slot: &u32| state.shapes.shape(*slot).key.module == *digest;
        let shape = tenant.shapes.iter().copied().find(used)?;
        let lists = state.shapes.shape(shape);
        let running = state.placements.iter().flat_map(|placed| placed.tasks.slots(&state.tasks));
        let mut tasks =
            lists.queued.slots(&state.tasks).chain(lists.waiting.slots(&state.tasks)).chain(
                running.chain(state.unblocked.slots(&state.tasks)).filter(|&slot| state.tasks[slot].shape == shape),
            );
        let task = tasks.next().expect("a shape that exists has a task");
        Some(state.tasks[task].id)
    }

    fn set_alias(&mut self, tenant: TenantName, name: String, digest: Digest) -> Result<Done, Refusal> {
        let entry = self.tenant(&tenant)?;
        if !entry.belongings.modules.contains_key(&digest) {
            return Err(Refusal::ModuleUnknown);
        }
        alias_has_room(entry, &name)?;
        let before = entry.belongings.aliases.get(&name).copied();
        if before != Some(digest) {
            self.emit(EventBody::AliasSet { tenant, name, digest });
        }
        Ok(if before.is_some() { Done::Changed } else { Done::Created })
    }

    fn remove_alias(&mut self, tenant: TenantName, name: String) -> Result<Done, Refusal> {
        if !self.tenant(&tenant)?.belongings.aliases.contains_key(&name) {
            return Err(Refusal::AliasUnknown);
        }
        self.emit(EventBody::AliasRemoved { tenant, name });
        Ok(Done::Removed)
    }
}

fn alias_has_room(tenant: &TenantEntry, alias: &str) -> Result<(), Refusal> {
    let room =
        tenant.belongings.aliases.len() < ALIASES_PER_TENANT_MAX || tenant.belongings.aliases.contains_key(alias);
    if room { Ok(()) } else { Err(too_many(Counted::Aliases, ALIASES_PER_TENANT_MAX)) }
}

fn too_many(what: Counted, limit: usize) -> Refusal {
    Refusal::TooMany { what, limit: limit as u64 }
}
