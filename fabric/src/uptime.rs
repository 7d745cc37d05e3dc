//! The clock of the machine that nobody can set.

use rustix::time::{ClockId, clock_gettime};

/// Microseconds since the machine was started; counts on while it sleeps.
pub fn now_us() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000_000).saturating_add(nanoseconds.unwrap_or(0) / 1_000)
}

/// Names this start of the machine; empty when the system does not say.
pub fn boot() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_was_started_once_and_runs_since() {
        let before = now_us();
        assert!(before > 0 && now_us() >= before);
        assert_eq!(boot(), boot());
        assert_eq!(boot().len(), 36, "{:?}", boot());
    }
}
