//! Modules and aliases.

use serde::{Deserialize, Serialize};

use crate::Time;
use wasmill_protocol::ids::{Digest, is_name};
use wasmill_protocol::module::{ModuleInfo, ModuleKind};
use wasmill_protocol::time::Timestamp;

/// A module.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct ModuleDoc {
    /// The SHA-256 of its bytes.
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
    /// How it is run.
    pub kind: ModuleKind,
    /// Its imports.
    pub imports: Vec<String>,
    /// Its exports.
    pub exports: Vec<String>,
    /// The name of the file at its upload, as `name` said.
    pub name: Option<String>,
    /// Warnings for its owner, as sentences; mostly none.
    pub hints: Vec<String>,
    /// When this tenant uploaded it first.
    pub created_at: Time,
}

impl ModuleDoc {
    /// A module and when it was uploaded.
    pub fn new(info: &ModuleInfo, created_at: Timestamp) -> Self {
        Self {
            digest: info.digest,
            bytes: info.bytes,
            kind: info.kind,
            imports: info.imports.clone(),
            exports: info.exports.clone(),
            name: info.name.clone(),
            hints: info.hints.clone(),
            created_at: Time(created_at),
        }
    }
}

/// A name for a module.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AliasDoc {
    /// `NAME` or `NAME:VERSION`.
    pub name: String,
    /// The module that it points at.
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Digest,
}

/// Where to point an alias.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PutAlias {
    /// A module of the tenant.
    #[cfg_attr(feature = "openapi", schema(value_type = String, pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Digest,
}

/// Whether `text` can be an alias: a name, alone or with `:` and a version that is spelt like one.
/// `sha256` is taken by digests.
pub fn is_alias(text: &str) -> bool {
    match text.split_once(':') {
        Some((name, version)) => name != "sha256" && is_name(name) && is_name(version),
        None => is_name(text),
    }
}

#[cfg(test)]
mod tests {
    use super::is_alias;

    #[test]
    fn aliases_have_at_most_one_version() {
        for right in ["resize", "resize:v3", "a.b-c_d:1.2.3", "sha256"] {
            assert!(is_alias(right), "{right}");
        }
        for wrong in ["", ":", "a:", ":v", "a:b:c", "A", "a b", "-a", "sha256:00", "é", &"a".repeat(64)] {
            assert!(!is_alias(wrong), "{wrong}");
        }
    }
}
