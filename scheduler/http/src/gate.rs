//! The check of modules before they are stored.

use std::path::Path;

use bytes::Bytes;
use futures::future::BoxFuture;
use wasmill_protocol::module::{ModuleInfo, ModuleRejection};
use wasmill_protocol::{Digest, TenantName};

/// Decides whether a module can be run and what it is. Compiling belongs to it: a module that
/// passes here can be run.
///
/// The implementation uses a compiler, which this crate must not depend on.
pub trait ModuleGate: Send + Sync {
    /// Looks at an upload before it is stored.
    ///
    /// # Errors
    ///
    /// See [`GateError`].
    fn inspect<'a>(
        &'a self,
        tenant: &'a TenantName,
        upload: Upload<'a>,
    ) -> BoxFuture<'a, Result<ModuleInfo, GateError>>;
}

/// A module whose bytes have all arrived.
#[derive(Debug, Clone)]
pub struct Upload<'a> {
    /// The SHA-256 of the bytes.
    pub digest: Digest,
    /// How many bytes.
    pub byte_count: u64,
    /// The tenant's quota of compile time.
    pub compile_ms_per_s: Option<u64>,
    /// Where they are.
    pub bytes: UploadBytes<'a>,
}

/// Where the bytes of an upload are.
#[derive(Debug, Clone)]
pub enum UploadBytes<'a> {
    /// In this file, which is there until the call ends.
    File(&'a Path),
    /// In memory, when the blobs are not on this machine.
    Memory(Bytes),
}

/// An upload that did not pass.
#[derive(Debug)]
pub enum GateError {
    /// It cannot be run, now or later.
    Rejected(ModuleRejection),
    /// Too many are being looked at.
    Busy {
        /// When to try again.
        retry_ms: u64,
    },
    /// The tenant has used up its compile time.
    OverBudget {
        /// When to try again.
        retry_ms: u64,
        /// How much of each second it may compile, in milliseconds.
        ms_per_s: u64,
    },
    /// A fault of ours.
    Fault(String),
}
