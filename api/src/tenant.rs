//! Tenants and their tokens.

use serde::{Deserialize, Serialize};

use crate::{Time, number, object};
use wasmill_protocol::ids::TenantName;
use wasmill_protocol::tenant::{Quotas, Role};

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TenantDoc {
    /// Its name.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub name: TenantName,
    /// Its share against other tenants of its class.
    pub weight: u32,
    /// Tenants of a higher class are served strictly first.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(minimum = -100, maximum = 100))]
    pub class: i8,
    /// Its quotas; `null` is unlimited.
    pub quotas: Quotas,
    /// Its use of them.
    #[serde(default)]
    pub usage: TenantUsage,
    /// When it was created.
    pub created_at: Time,
}

/// The use that a tenant makes of its quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct TenantUsage {
    /// Modules.
    pub modules: u64,
    /// Sum of the modules' sizes.
    pub module_bytes: u64,
    /// Sum of what its tasks take: payloads, results, logs, checkpoints, and the tasks themselves.
    pub stored_bytes: u64,
}

/// A tenant to create.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateTenant {
    /// 1 to 63 of `a-z`, `0-9`, `-`, `_`, `.`, beginning with a letter or digit.
    #[cfg_attr(feature = "openapi", schema(pattern = "^[a-z0-9][a-z0-9._-]{0,62}$"))]
    pub name: String,
    /// Its share against other tenants of its class; 1 when absent.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    #[serde(default, deserialize_with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
    /// Tenants of a higher class are served strictly first; 0 when absent.
    #[cfg_attr(feature = "openapi", schema(minimum = -100, maximum = 100))]
    #[serde(default, deserialize_with = "number::optional_signed", skip_serializing_if = "Option::is_none")]
    pub class: Option<i64>,
    /// Its quotas; one that is absent or `null` is unlimited.
    #[serde(default, deserialize_with = "object::optional", skip_serializing_if = "Option::is_none")]
    pub quotas: Option<QuotasChange>,
}

/// Changes of a tenant; a field that is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeTenant {
    /// Its share against other tenants of its class.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 1000))]
    #[serde(default, deserialize_with = "number::optional", skip_serializing_if = "Option::is_none")]
    pub weight: Option<u64>,
    /// Tenants of a higher class are served strictly first.
    #[cfg_attr(feature = "openapi", schema(minimum = -100, maximum = 100))]
    #[serde(default, deserialize_with = "number::optional_signed", skip_serializing_if = "Option::is_none")]
    pub class: Option<i64>,
    /// Its quotas; one that is absent stays, `null` is unlimited.
    #[serde(default, deserialize_with = "object::optional", skip_serializing_if = "Option::is_none")]
    pub quotas: Option<QuotasChange>,
}

/// Quotas of a tenant: a number, `null` for unlimited, or absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct QuotasChange {
    /// Tasks that are not final and not running.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    #[serde(default, deserialize_with = "number::nullable", skip_serializing_if = "Option::is_none")]
    pub tasks_queued: Option<Option<u64>>,
    /// Tasks with a current attempt.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    #[serde(default, deserialize_with = "number::nullable", skip_serializing_if = "Option::is_none")]
    pub tasks_running: Option<Option<u64>>,
    /// Sum of `limits.memory_bytes` over running tasks.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    #[serde(default, deserialize_with = "number::nullable", skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Option<u64>>,
    /// Modules.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    #[serde(default, deserialize_with = "number::nullable", skip_serializing_if = "Option::is_none")]
    pub modules: Option<Option<u64>>,
    /// Sum of the modules' sizes.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    #[serde(default, deserialize_with = "number::nullable", skip_serializing_if = "Option::is_none")]
    pub module_bytes: Option<Option<u64>>,
    /// CPU time for compiling its modules, in milliseconds for each second; `null` is the default,
    /// 100 and ten minutes at once.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    #[serde(default, deserialize_with = "number::nullable", skip_serializing_if = "Option::is_none")]
    pub compile_ms_per_s: Option<Option<u64>>,
    /// Sum of what its tasks take: payloads, results, logs, checkpoints, and the tasks themselves.
    #[cfg_attr(feature = "openapi", schema(value_type = Option<u64>))]
    #[serde(default, deserialize_with = "number::nullable", skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<Option<u64>>,
}

impl QuotasChange {
    /// `quotas` with what is set here.
    pub fn applied_to(&self, quotas: Quotas) -> Quotas {
        Quotas {
            tasks_queued: self.tasks_queued.unwrap_or(quotas.tasks_queued),
            tasks_running: self.tasks_running.unwrap_or(quotas.tasks_running),
            memory_bytes: self.memory_bytes.unwrap_or(quotas.memory_bytes),
            modules: self.modules.unwrap_or(quotas.modules),
            module_bytes: self.module_bytes.unwrap_or(quotas.module_bytes),
            compile_ms_per_s: self.compile_ms_per_s.unwrap_or(quotas.compile_ms_per_s),
            stored_bytes: self.stored_bytes.unwrap_or(quotas.stored_bytes),
        }
    }
}

/// A token to create.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct CreateToken {
    /// For people.
    #[cfg_attr(feature = "openapi", schema(min_length = 1, max_length = 256))]
    pub name: String,
    /// Its role.
    pub role: Role,
}

/// A new token: the only time that its text is shown.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenCreated {
    /// Names the token; not secret.
    pub id: String,
    /// Secret: goes into `Authorization: Bearer`.
    pub token: String,
    /// For people.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Whose it is.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub tenant: TenantName,
}

/// A token without its text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenDoc {
    /// Names the token; not secret.
    pub id: String,
    /// For people.
    pub name: String,
    /// Its role.
    pub role: Role,
    /// Whose it is.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub tenant: TenantName,
    /// When it was created.
    pub created_at: Time,
}
