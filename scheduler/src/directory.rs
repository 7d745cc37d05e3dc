//! Tenants, tokens, modules and aliases: small enough to be in memory, folded from the log.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use wasmill_protocol::event::{Event, EventBody};
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::tenant::{Tenant, Token};
use wasmill_protocol::{Digest, TenantName, Timestamp};

/// What durable events said about tenants, tokens, modules and aliases.
pub struct Directory {
    contents: RwLock<Contents>,
}

/// See [`Directory`]. Looked at under a read lock: never across an `.await`.
#[derive(Debug, Default, Clone)]
pub struct Contents {
    /// Tenants by name, with the time of their creation. `default` is always there.
    pub tenants: BTreeMap<TenantName, (Tenant, Timestamp)>,
    /// Tokens by the SHA-256 of their text, with the time of their creation.
    pub tokens: HashMap<Digest, (Token, Timestamp)>,
    /// Modules by tenant and digest, with the time of their upload.
    pub modules: BTreeMap<TenantName, BTreeMap<Digest, (Arc<ModuleInfo>, Timestamp)>>,
    /// Aliases by tenant and name.
    pub aliases: BTreeMap<TenantName, BTreeMap<String, Digest>>,
}

impl Directory {
    /// Only the default tenant.
    pub fn new() -> Self {
        let default = Tenant::default();
        let tenants = BTreeMap::from([(default.name.clone(), (default, Timestamp::default()))]);
        Self { contents: RwLock::new(Contents { tenants, ..Contents::default() }) }
    }

    /// What is known now.
    pub fn read(&self) -> RwLockReadGuard<'_, Contents> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the events of a durable record. Those about tasks cost nothing.
    pub fn apply(&self, events: &[Event]) {
        let mut events = events.iter().filter(|event| event.body.task().is_none()).peekable();
        if events.peek().is_none() {
            return;
        }
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        for event in events {
            contents.apply(event);
        }
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

impl Contents {
    /// A tenant's module.
    pub fn module(&self, tenant: &TenantName, digest: Digest) -> Option<&(Arc<ModuleInfo>, Timestamp)> {
        self.modules.get(tenant)?.get(&digest)
    }

    /// What an alias of a tenant points at.
    pub fn alias(&self, tenant: &TenantName, name: &str) -> Option<Digest> {
        self.aliases.get(tenant)?.get(name).copied()
    }

    fn apply(&mut self, event: &Event) {
        let at = event.at;
        match &event.body {
            EventBody::TenantPut { tenant } => {
                let created = self.tenants.get(&tenant.name).map_or(at, |(_, created)| *created);
                self.tenants.insert(tenant.name.clone(), (tenant.clone(), created));
            }
            EventBody::TenantRemoved { tenant } => {
                self.tenants.remove(tenant);
                self.tokens.retain(|_, (token, _)| token.tenant != *tenant);
                self.modules.remove(tenant);
                self.aliases.remove(tenant);
            }
            EventBody::TokenAdded { token } => {
                self.tokens.insert(token.hash, (token.clone(), at));
            }
            EventBody::TokenRemoved { tenant, id } => {
                self.tokens.retain(|_, (token, _)| token.tenant != *tenant || token.id != *id);
            }
            EventBody::ModuleAdded { tenant, module } => {
                let modules = self.modules.entry(tenant.clone()).or_default();
                modules.entry(module.digest).or_insert_with(|| (Arc::clone(module), at));
            }
            EventBody::ModuleRemoved { tenant, digest } => {
                if let Some(modules) = self.modules.get_mut(tenant) {
                    modules.remove(digest);
                }
            }
            EventBody::AliasSet { tenant, name, digest } => {
                self.aliases.entry(tenant.clone()).or_default().insert(name.clone(), *digest);
            }
            EventBody::AliasRemoved { tenant, name } => {
                if let Some(aliases) = self.aliases.get_mut(tenant) {
                    aliases.remove(name);
                }
            }
            _ => {}
        }
    }
}
