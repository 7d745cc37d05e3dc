//! The key under which artifacts of one engine are kept.

use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;

use super::pieces::PIECES_VERSION;

/// Names all that decides what code an engine generates: two engines with the same key can load
/// each other's artifacts.
///
/// 32 hexadecimal digits. Covers wasmtime's version, its settings, the processor, and what is made
/// of a module before it is compiled, so what an upgrade or another machine left behind is never
/// found.
pub fn artifact_key(engine: &Engine) -> String {
    let mut hasher = Sha256Hasher(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut hasher);
    PIECES_VERSION.hash(&mut hasher);
    hex(&hasher.0.finalize()[..16])
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Feeds what is hashed to SHA-256: unlike the hasher of the standard library, it is the same in
/// every release of Rust.
pub(crate) struct Sha256Hasher(pub(crate) Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: [u8; 32] = self.0.clone().finalize().into();
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        u64::from_le_bytes(first)
    }
}
