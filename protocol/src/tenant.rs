//! Tenants, their tokens and their quotas.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use crate::ids::{Digest, TenantName};

/// The rights of a token. Each role may do all that the later ones may.
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

/// The bounds of one tenant; `None` is unlimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
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
    /// CPU time for compiling its modules, in milliseconds for each second, on each server that
    /// compiles; a minute of it at once. `None` is what the installation gives to everybody.
    pub compile_ms_per_s: Option<u64>,
    /// Sum of what its tasks take: payloads, results, logs, checkpoints, and the tasks themselves.
    pub stored_bytes: Option<u64>,
}

/// People are shown every quota. In the log those that the first version did not know are left out
/// while they are unlimited: its readers refuse what they do not know.
impl Serialize for Quotas {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let added = [("compile_ms_per_s", self.compile_ms_per_s), ("stored_bytes", self.stored_bytes)];
        let all = serializer.is_human_readable();
        let written = |quota: Option<u64>| all || quota.is_some();
        let count = added.iter().filter(|(_, quota)| written(*quota)).count();
        let mut fields = serializer.serialize_struct("Quotas", 5 + count)?;
        fields.serialize_field("tasks_queued", &self.tasks_queued)?;
        fields.serialize_field("tasks_running", &self.tasks_running)?;
        fields.serialize_field("memory_bytes", &self.memory_bytes)?;
        fields.serialize_field("modules", &self.modules)?;
        fields.serialize_field("module_bytes", &self.module_bytes)?;
        for (name, quota) in added {
            if written(quota) {
                fields.serialize_field(name, &quota)?;
            } else {
                fields.skip_field(name)?;
            }
        }
        fields.end()
    }
}

/// A tenant as the log knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tenant {
    /// Its name.
    pub name: TenantName,
    /// Its share against other tenants of its class, 1 to 1000.
    pub weight: u32,
    /// -100 to 100: tenants of a higher class are served strictly first.
    pub class: i8,
    /// Its quotas.
    pub quotas: Quotas,
}

impl Default for Tenant {
    fn default() -> Self {
        Self { name: TenantName::default(), weight: 1, class: 0, quotas: Quotas::default() }
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
    /// Its rights.
    pub role: Role,
    /// SHA-256 of the token's text, which has 256 random bits, so that no salt and no slow hash are
    /// needed.
    pub hash: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The quotas of the first version, as it reads them.
    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct First {
        tasks_queued: Option<u64>,
        tasks_running: Option<u64>,
        memory_bytes: Option<u64>,
        modules: Option<u64>,
        module_bytes: Option<u64>,
    }

    #[test]
    fn f48_a_quota_that_was_added_is_in_the_log_only_where_it_is_set() {
        let old = Quotas { modules: Some(2), ..Quotas::default() };
        let bytes = rmp_serde::to_vec_named(&old).unwrap();
        assert_eq!(rmp_serde::from_slice::<First>(&bytes).unwrap(), First { modules: Some(2), ..First::default() });
        assert_eq!(rmp_serde::from_slice::<Quotas>(&bytes).unwrap(), old);
        for new in [
            Quotas { stored_bytes: Some(3), ..old },
            Quotas { compile_ms_per_s: Some(4), ..old },
            Quotas { stored_bytes: Some(3), compile_ms_per_s: Some(4), ..old },
        ] {
            let bytes = rmp_serde::to_vec_named(&new).unwrap();
            assert!(rmp_serde::from_slice::<First>(&bytes).is_err(), "it must not be passed over");
            assert_eq!(rmp_serde::from_slice::<Quotas>(&bytes).unwrap(), new);
        }
    }

    #[test]
    fn people_are_shown_every_quota() {
        let shown = serde_json::to_string(&Quotas { stored_bytes: Some(3), ..Quotas::default() }).unwrap();
        let expected = r#"{"tasks_queued":null,"tasks_running":null,"memory_bytes":null,"modules":null,"module_bytes":null,"compile_ms_per_s":null,"stored_bytes":3}"#;
        assert_eq!(shown, expected);
    }
}
