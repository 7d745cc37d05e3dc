//! Randomness from a seed, the same on every machine and in every version.

use std::convert::Infallible;

use rand_core::TryRng;
use sha2::{Digest, Sha256};

/// Which of a guest's sources of randomness it is: they must not give the same numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// `wasi:random/random` and `random_get`.
    Secure,
    /// `wasi:random/insecure`.
    Insecure,
    /// `wasi:random/insecure-seed`.
    InsecureSeed,
}

/// SHA-256 in counter mode: block `n` is the hash of the source's name, the seed and `n`. No
/// library's generator promises to give the same stream in its next version; this one is defined
/// here.
#[derive(Debug, Clone)]
pub(super) struct SeededRandom {
    prefix: Sha256,
    block: [u8; 32],
    used: usize,
    blocks: u64,
}

impl SeededRandom {
    pub(super) fn new(seed: u64, source: Source) -> Self {
        let name: &[u8] = match source {
            Source::Secure => b"wasmill random secure",
            Source::Insecure => b"wasmill random insecure",
            Source::InsecureSeed => b"wasmill random seed",
        };
        let prefix = Sha256::new().chain_update(name).chain_update(seed.to_le_bytes());
        Self { prefix, block: [0; 32], used: 32, blocks: 0 }
    }

    /// The next 16 bytes as a number.
    pub(super) fn next_u128(&mut self) -> u128 {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        u128::from_le_bytes(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.used == self.block.len() {
                self.block = self.prefix.clone().chain_update(self.blocks.to_le_bytes()).finalize().into();
                self.blocks += 1;
                self.used = 0;
            }
            *byte = self.block[self.used];
            self.used += 1;
        }
    }
}

impl TryRng for SeededRandom {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.fill(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By another program:
    /// `printf 'wasmill random secure\7\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0' | sha256sum`. If this
    /// changes, attempts replay differently.
    #[test]
    fn the_stream_never_changes() {
        let bytes = |seed, source| SeededRandom::new(seed, source).next_u128().to_le_bytes();
        let expected = [0x10, 0x52, 0x7b, 0x87, 0x85, 0x9e, 0x48, 0x7a, 0x74, 0x2d, 0x9c, 0x63, 0x12, 0x7f, 0x72, 0x06];
        assert_eq!(bytes(7, Source::Secure), expected);
        assert_ne!(bytes(7, Source::Secure), bytes(8, Source::Secure));
        assert_ne!(bytes(7, Source::Secure), bytes(7, Source::Insecure));
    }

    #[test]
    fn it_does_not_matter_how_it_is_read() {
        let mut at_once = [0; 100];
        SeededRandom::new(1, Source::Secure).fill(&mut at_once);
        let mut random = SeededRandom::new(1, Source::Secure);
        let mut piecewise = [0; 100];
        piecewise.chunks_mut(7).for_each(|chunk| random.fill(chunk));
        assert_eq!(at_once, piecewise);
    }
}
