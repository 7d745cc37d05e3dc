//! The memory limit: one sum over all linear memories and tables of a store.

use wasmtime::ResourceLimiter;

/// Bytes of one table element, as wasmtime keeps it.
const TABLE_ELEMENT_BYTES: u64 = size_of::<usize>() as u64;

/// Counts every memory and table of a store, also those that instantiation allocates.
#[derive(Debug)]
pub(super) struct MemoryMeter {
    bytes_max: u64,
    bytes: u64,
    /// Bytes that we keep for the guest: its last checkpoint.
    kept: u64,
    bytes_peak: u64,
    /// The sum that was last asked for and refused.
    refused: Option<u64>,
    /// The bytes that the last permission added: taken back when the growth then fails for another
    /// reason.
    granted_last: u64,
    /// A growth that the limit allowed has failed: for want of memory on this machine, as far as we
    /// know.
    failed_here: bool,
}

impl MemoryMeter {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, bytes: 0, kept: 0, bytes_peak: 0, refused: None, granted_last: 0, failed_here: false }
    }

    /// The highest sum there was.
    pub(super) fn bytes_peak(&self) -> u64 {
        self.bytes_peak
    }

    /// The sum that the limit refused last, if it ever did.
    pub(super) fn refused(&self) -> Option<u64> {
        self.refused
    }

    /// Whether a growth has failed that another machine, or this one at another time, might have
    /// granted.
    pub(super) fn failed_here(&self) -> bool {
        self.failed_here
    }

    /// `size_max` is the guest's own maximum or the engine's; more than that fails whatever we say,
    /// and is not our refusal.
    fn grow(&mut self, current: u64, desired: u64, size_max: Option<u64>) -> bool {
        self.granted_last = 0;
        if size_max.is_some_and(|max| desired > max) {
            return false;
        }
        let more = desired.saturating_sub(current);
        let sum = self.bytes.saturating_add(more);
        if sum.saturating_add(self.kept) > self.bytes_max {
            self.refused = Some(sum);
            return false;
        }
        self.bytes = sum;
        self.bytes_peak = self.bytes_peak.max(sum);
        self.granted_last = more;
        true
    }

    /// Counts `bytes` that are kept for the guest in the place of what was kept before; `false`,
    /// and nothing is counted, when that is over the limit.
    pub(super) fn keep(&mut self, bytes: u64) -> bool {
        let fits = self.bytes.saturating_add(bytes) <= self.bytes_max;
        if fits {
            self.kept = bytes;
        }
        fits
    }

    /// The bound of the guest's memory and of the spare that is kept for it, and the guest's part.
    pub(super) fn bytes_max_and_used(&self) -> (u64, u64) {
        (self.bytes_max, self.bytes)
    }

    fn take_back(&mut self) {
        self.failed_here = true;
        self.bytes -= std::mem::take(&mut self.granted_last);
    }
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(current as u64, desired as u64, maximum.map(|bytes| bytes as u64)))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(%error, "a memory did not grow");
        self.take_back();
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let bytes = |elements: usize| (elements as u64).saturating_mul(TABLE_ELEMENT_BYTES);
        Ok(self.grow(bytes(current), bytes(desired), maximum.map(bytes)))
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        tracing::debug!(%error, "a table did not grow");
        self.take_back();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_count_together() {
        let mut meter = MemoryMeter::new(100 + 8 * 10);
        assert!(meter.memory_growing(0, 60, None).unwrap());
        assert!(meter.memory_growing(0, 40, None).unwrap());
        assert!(meter.table_growing(0, 10, None).unwrap());
        assert_eq!(meter.refused(), None);
        assert!(!meter.memory_growing(40, 41, None).unwrap());
        assert_eq!((meter.refused(), meter.bytes_peak()), (Some(181), 180));
    }

    /// B38: what is kept for a guest is part of its memory.
    #[test]
    fn what_is_kept_counts_until_it_is_replaced() {
        let mut meter = MemoryMeter::new(100);
        assert!(meter.memory_growing(0, 60, None).unwrap());
        assert!(!meter.keep(41));
        assert!(meter.keep(40));
        assert!(!meter.memory_growing(60, 61, None).unwrap());
        assert!(meter.keep(10));
        assert!(meter.memory_growing(60, 90, None).unwrap());
        assert_eq!(meter.bytes_peak(), 90);
    }

    #[test]
    fn a_growth_that_fails_otherwise_is_not_counted() {
        let mut meter = MemoryMeter::new(100);
        assert!(!meter.memory_growing(0, 50, Some(40)).unwrap());
        assert_eq!(meter.refused(), None);
        assert!(meter.memory_growing(0, 90, None).unwrap());
        assert!(!meter.failed_here());
        meter.memory_grow_failed(wasmtime::Error::msg("no")).unwrap();
        assert!(meter.failed_here());
        assert!(meter.memory_growing(0, 100, None).unwrap());
    }
}
