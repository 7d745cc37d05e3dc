//! Tenants, their tokens and their quotas.

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, TenantName};

/// What a token may do. Each role may do all that the later ones may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Everything, for every tenant.
    Admin,
    /// Everything within one tenant, tokens included.
    TenantAdmin,
    /// Modules, aliases and tasks of one tenant.
    Submit,
    /// Looking at one tenant.
    #[default]
    Read,
}

/// What one tenant may have at most; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Quotas {
    /// Tasks that are not final and not running.
    pub tasks_queued: Option<u64>,
    /// Tasks with a current attempt.
    pub tasks_running: Option<u64>,
    /// Sum of `limits.memory_bytes` over running tasks.
    pub memory_bytes: Option<u64>,
    /// Modules.
    pub modules: Option<u64>,
    /// Sum of the modules' sizes.
    pub module_bytes: Option<u64>,
    /// CPU time for compiling its modules, in milliseconds for each second, on each server that compiles; a minute of it at once. `None` is what
    /// the installation gives to everybody.
    pub compile_ms_per_s: Option<u64>,
}

/// A tenant as the log knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tenant {
    /// Its name.
    pub name: TenantName,
    /// Its share against other tenants of the same priority, 1 to 1000.
    pub weight: u32,
    /// What it may have.
    pub quotas: Quotas,
}

impl Default for Tenant {
    fn default() -> Self {
        Self { name: TenantName::default(), weight: 1, quotas: Quotas::default() }
    }
}

/// A token as the log knows it: never its text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Token {
    /// Names the token; not secret.
    pub id: String,
    /// Whose it is. An admin token belongs to the tenant it was made under and may act for any.
    pub tenant: TenantName,
    /// For people.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// SHA-256 of the token's text, which has 256 random bits, so that no salt and no slow hash are needed.
    pub hash: Digest,
}
