//! Tenants with what belongs to them besides tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wasmill_protocol::module::{ModuleInfo, ModuleKind};
use wasmill_protocol::tenant::{Quotas, Role, Tenant, Token};
use wasmill_protocol::{Digest, TenantName};

use super::slab::Slot;

/// A tenant's number. Never used again, so that what remains of a removed tenant is not taken for a
/// new one of the same name.
pub type TenantNumber = u32;

/// A tenant and what it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TenantEntry {
    pub(crate) name: TenantName,
    pub(crate) weight: u32,
    /// Tenants of a higher one are served strictly first.
    pub(crate) class: i8,
    pub(crate) quotas: Quotas,
    /// Removed, but some of its tasks have not ended yet.
    pub(crate) removed: bool,
    /// Tasks that are neither final nor running.
    pub(crate) tasks_queued: u64,
    pub(crate) tasks_running: u64,
    /// Sum of the memory limits of running tasks.
    pub(crate) memory_bytes: u64,
    /// Shared with a snapshot that is being written, until it changes.
    pub(crate) belongings: Arc<Belongings>,
    /// Shapes of its tasks.
    pub(crate) shapes: BTreeSet<Slot>,
}

/// The belongings of a tenant besides tasks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Belongings {
    pub(crate) modules: BTreeMap<Digest, ModuleEntry>,
    pub(crate) module_bytes: u64,
    pub(crate) aliases: BTreeMap<String, Digest>,
    /// By id, with the hash of the text.
    pub(crate) tokens: BTreeMap<String, Digest>,
    /// Ids of those that may do everything.
    pub(crate) admins: BTreeSet<String>,
}

/// The facts of a module that the core needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleEntry {
    /// How many bytes.
    pub bytes: u64,
    /// How it is run.
    pub kind: ModuleKind,
}

/// All tenants and tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tenants {
    by_name: BTreeMap<TenantName, TenantNumber>,
    /// By number, which is never below the index.
    entries: Vec<(TenantNumber, Box<TenantEntry>)>,
    next: TenantNumber,
    tokens: BTreeMap<String, (TenantNumber, Digest)>,
    token_hashes: BTreeSet<Digest>,
}

/// There is always the tenant `default`.
impl Default for Tenants {
    fn default() -> Self {
        let mut tenants = Self {
            by_name: BTreeMap::new(),
            entries: Vec::new(),
            next: 0,
            tokens: BTreeMap::new(),
            token_hashes: BTreeSet::new(),
        };
        tenants.put(&Tenant::default());
        tenants
    }
}

impl Tenants {
    /// The number of a tenant that is not removed.
    pub(crate) fn number(&self, name: &TenantName) -> Option<TenantNumber> {
        self.by_name.get(name).copied()
    }

    /// A tenant that is not removed.
    pub(crate) fn named(&self, name: &TenantName) -> Option<&TenantEntry> {
        self.number(name).map(|number| self.entry(number))
    }

    /// A tenant, if something of it is left.
    pub(crate) fn find(&self, number: TenantNumber) -> Option<&TenantEntry> {
        self.index_of(number).map(|index| &*self.entries[index].1)
    }

    /// O(1) as long as no tenant with a lower number is gone, else O(log tenants).
    fn index_of(&self, number: TenantNumber) -> Option<usize> {
        let last = (number as usize).min(self.entries.len().checked_sub(1)?);
        if self.entries[last].0 == number {
            return Some(last);
        }
        self.entries[..last].binary_search_by_key(&number, |(number, _)| *number).ok()
    }

    /// A tenant of which something is left.
    pub(crate) fn entry(&self, number: TenantNumber) -> &TenantEntry {
        self.find(number).expect("a tenant's entry stays until its last task has ended")
    }

    pub(crate) fn entry_mut(&mut self, number: TenantNumber) -> &mut TenantEntry {
        let index = self.index_of(number).expect("a tenant's entry stays until its last task has ended");
        &mut self.entries[index].1
    }

    /// The belongings of a tenant, to be changed, and its number.
    fn belongings_mut(&mut self, name: &TenantName) -> (TenantNumber, &mut Belongings) {
        let number = self.number(name).expect("the event was decided while the tenant existed");
        (number, Arc::make_mut(&mut self.entry_mut(number).belongings))
    }

    /// All of which something is left, removed ones included.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (TenantNumber, &TenantEntry)> {
        self.entries.iter().map(|(number, entry)| (*number, &**entry))
    }

    /// The number that the next tenant gets.
    pub(crate) fn next(&self) -> TenantNumber {
        self.next
    }

    /// From all of which something is left. `None` when two of them contradict each other.
    pub(crate) fn from_entries(entries: BTreeMap<TenantNumber, TenantEntry>, next: TenantNumber) -> Option<Self> {
        let (mut by_name, mut tokens, mut token_hashes) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for (&number, entry) in &entries {
            let twice = !entry.removed && by_name.insert(entry.name.clone(), number).is_some();
            if twice || number >= next {
                return None;
            }
            for (id, hash) in &entry.belongings.tokens {
                if tokens.insert(id.clone(), (number, *hash)).is_some() {
                    return None;
                }
                token_hashes.insert(*hash);
            }
        }
        let entries = entries.into_iter().map(|(number, entry)| (number, Box::new(entry))).collect();
        Some(Self { by_name, entries, next, tokens, token_hashes })
    }

    /// Creates or changes a tenant. Returns its number.
    pub(crate) fn put(&mut self, tenant: &Tenant) -> TenantNumber {
        if let Some(number) = self.number(&tenant.name) {
            let entry = self.entry_mut(number);
            (entry.weight, entry.class, entry.quotas) = (tenant.weight, tenant.class, tenant.quotas);
            return number;
        }
        let number = self.next;
        self.next += 1;
        self.by_name.insert(tenant.name.clone(), number);
        let entry = TenantEntry {
            name: tenant.name.clone(),
            weight: tenant.weight,
            class: tenant.class,
            quotas: tenant.quotas,
            removed: false,
            tasks_queued: 0,
            tasks_running: 0,
            memory_bytes: 0,
            belongings: Arc::default(),
            shapes: BTreeSet::new(),
        };
        self.entries.push((number, Box::new(entry)));
        number
    }

    /// Takes away all but the tasks. Returns the number under which those remain.
    pub(crate) fn remove(&mut self, name: &TenantName) -> TenantNumber {
        let number = self.by_name.remove(name).expect("the event was decided while the tenant existed");
        let entry = self.entry_mut(number);
        entry.removed = true;
        for id in std::mem::take(&mut entry.belongings).tokens.keys() {
            self.forget_token(id);
        }
        self.drop_if_empty(number);
        number
    }

    /// A task that neither waits nor runs any more is gone.
    pub(crate) fn forget_task(&mut self, number: TenantNumber) {
        let entry = self.entry_mut(number);
        entry.tasks_queued -= 1;
        if entry.removed {
            self.drop_if_empty(number);
        }
    }

    /// Forgets a removed tenant whose last task has ended.
    fn drop_if_empty(&mut self, number: TenantNumber) {
        let entry = self.entry(number);
        if entry.removed && entry.tasks_queued == 0 && entry.tasks_running == 0 {
            let index = self.index_of(number).expect("its entry was just there");
            self.entries.remove(index);
        }
    }

    pub(crate) fn has_token(&self, id: &str, hash: &Digest) -> bool {
        self.tokens.contains_key(id) || self.token_hashes.contains(hash)
    }

    /// Whether anybody may do everything.
    pub(crate) fn has_admin(&self) -> bool {
        self.entries().any(|(_, entry)| !entry.belongings.admins.is_empty())
    }

    pub(crate) fn add_token(&mut self, token: &Token) -> TenantNumber {
        let (number, belongings) = self.belongings_mut(&token.tenant);
        belongings.tokens.insert(token.id.clone(), token.hash);
        if token.role == Role::Admin {
            belongings.admins.insert(token.id.clone());
        }
        let replaced = self.tokens.insert(token.id.clone(), (number, token.hash));
        assert!(replaced.is_none(), "the id of a token is unique");
        self.token_hashes.insert(token.hash);
        number
    }

    pub(crate) fn remove_token(&mut self, tenant: &TenantName, id: &str) -> TenantNumber {
        let (number, belongings) = self.belongings_mut(tenant);
        belongings.tokens.remove(id);
        belongings.admins.remove(id);
        self.forget_token(id);
        number
    }

    fn forget_token(&mut self, id: &str) {
        let (_, hash) = self.tokens.remove(id).expect("a token of a tenant is known");
        self.token_hashes.remove(&hash);
    }

    pub(crate) fn add_module(&mut self, tenant: &TenantName, module: &ModuleInfo) -> TenantNumber {
        let (number, belongings) = self.belongings_mut(tenant);
        let replaced = belongings.modules.insert(module.digest, ModuleEntry { bytes: module.bytes, kind: module.kind });
        belongings.module_bytes += module.bytes;
        belongings.module_bytes -= replaced.map_or(0, |replaced| replaced.bytes);
        number
    }

    pub(crate) fn remove_module(&mut self, tenant: &TenantName, digest: &Digest) -> TenantNumber {
        let (number, belongings) = self.belongings_mut(tenant);
        let removed = belongings.modules.remove(digest).expect("the event was decided while the module existed");
        belongings.module_bytes -= removed.bytes;
        number
    }

    pub(crate) fn set_alias(&mut self, tenant: &TenantName, name: &str, digest: Digest) -> TenantNumber {
        let (number, belongings) = self.belongings_mut(tenant);
        belongings.aliases.insert(name.to_owned(), digest);
        number
    }

    pub(crate) fn remove_alias(&mut self, tenant: &TenantName, name: &str) -> TenantNumber {
        let (number, belongings) = self.belongings_mut(tenant);
        let removed = belongings.aliases.remove(name);
        assert!(removed.is_some(), "the event was decided while the alias existed");
        number
    }
}
