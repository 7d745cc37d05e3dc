//! Facts about a module.

use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// The way in which a module is run: its exports decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ModuleKind {
    /// A component of the `wasmill:task` world: argument in, return value out.
    Task,
    /// A WASI command, core module or component: stdin in, stdout out.
    #[default]
    Command,
}

/// The result of the check of an upload.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModuleInfo {
    /// The SHA-256 of the bytes.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
    /// How it is run.
    pub kind: ModuleKind,
    /// Names of what it imports, sorted: `wasi:cli/environment@0.2.3` or
    /// `wasi_snapshot_preview1.fd_write`.
    pub imports: Vec<String>,
    /// Names of what it exports, sorted.
    pub exports: Vec<String>,
    /// The name of the file at its upload.
    pub name: Option<String>,
    /// Warnings for its owner, as sentences: the module is accepted all the same.
    pub hints: Vec<String>,
}

/// Why an upload is refused. `code` is stable, `message` says what was found and what is needed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ModuleRejection {
    /// `module_invalid` for now; a more precise code may follow.
    pub code: String,
    /// For people.
    pub message: String,
}
