//! Tenants, tokens, modules and aliases: small enough to be in memory, folded from the log.

mod parts;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::tenant::{Tenant, Token};
use wasmill_protocol::{Digest, TenantName, Timestamp};
use wasmill_record::event::{Event, EventBody};
use wasmill_record::snapshot::Current;

/// The facts of durable events about tenants, tokens, modules and aliases, and about snapshots.
pub struct Directory {
    contents: RwLock<Arc<Contents>>,
}

/// See [`Directory`]. Looked at under a read lock: never across an `.await`.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Contents {
    /// Tenants by name, with the time of their creation. `default` is always there.
    pub tenants: BTreeMap<TenantName, (Tenant, Timestamp)>,
    /// Tokens by the SHA-256 of their text, with the time of their creation.
    pub tokens: HashMap<Digest, (Token, Timestamp)>,
    /// Modules by tenant and digest, with the time of their upload.
    pub modules: BTreeMap<TenantName, BTreeMap<Digest, (Arc<ModuleInfo>, Timestamp)>>,
    /// Aliases by tenant and name.
    pub aliases: BTreeMap<TenantName, BTreeMap<String, Digest>>,
    /// The snapshots that count.
    pub current: Current,
}

impl Directory {
    /// Only the default tenant.
    pub fn new() -> Self {
        Self { contents: RwLock::new(Arc::new(Contents::of_empty_log())) }
    }

    /// The contents now.
    pub fn read(&self) -> RwLockReadGuard<'_, Arc<Contents>> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes hold of the contents, for a snapshot. A change meanwhile copies all of it once.
    pub fn contents(&self) -> Arc<Contents> {
        Arc::clone(&self.read())
    }

    /// Goes on from what a snapshot says.
    pub fn restore(&self, contents: Contents) {
        *self.contents.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(contents);
    }

    /// Takes in the events of a durable record. Events about tasks cost nothing. Returns the
    /// modules that a tenant had and has no more.
    pub fn apply(&self, events: &[Event]) -> Vec<Digest> {
        let mut events = events.iter().filter(|event| event.body.task().is_none()).peekable();
        let mut removed = Vec::new();
        if events.peek().is_none() {
            return removed;
        }
        let mut contents = self.contents.write().unwrap_or_else(PoisonError::into_inner);
        let contents = Arc::make_mut(&mut contents);
        for event in events {
            match &event.body {
                EventBody::ModuleRemoved { digest, .. } => removed.push(*digest),
                EventBody::TenantRemoved { tenant } => {
                    removed.extend(contents.modules.get(tenant).into_iter().flat_map(BTreeMap::keys));
                }
                _ => {}
            }
            contents.apply(event);
        }
        removed
    }
}

impl Default for Directory {
    fn default() -> Self {
        Self::new()
    }
}

impl Contents {
    /// Only the default tenant.
    pub(crate) fn of_empty_log() -> Self {
        let default = Tenant::default();
        let tenants = BTreeMap::from([(default.name.clone(), (default, Timestamp::default()))]);
        Self { tenants, ..Self::default() }
    }

    /// A tenant's module.
    pub fn module(&self, tenant: &TenantName, digest: Digest) -> Option<&(Arc<ModuleInfo>, Timestamp)> {
        self.modules.get(tenant)?.get(&digest)
    }

    /// The module that an alias of a tenant points at.
    pub fn alias(&self, tenant: &TenantName, name: &str) -> Option<Digest> {
        self.aliases.get(tenant)?.get(name).copied()
    }

    /// Takes in an event.
    pub(crate) fn apply(&mut self, event: &Event) {
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
            EventBody::SnapshotTaken { snapshot } => self.current.snapshot_taken(*snapshot),
            EventBody::ReadModelSaved { copy } => self.current.read_model_saved(*copy),
            _ => {}
        }
    }
}
