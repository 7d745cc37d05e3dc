//! A clock that never goes back and counts on while the machine sleeps.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Microseconds since the machine was started.
pub(super) fn now_us() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0).saturating_mul(1_000_000).saturating_add(nanoseconds.unwrap_or(0) / 1_000)
}

/// Waits until the clock shows `at_us`, for ever without one. After the machine has slept it may be late.
pub(super) async fn until_us(at_us: Option<u64>) {
    match at_us {
        // A timer has a resolution of a millisecond; rounded up, so that it is not too early.
        Some(at_us) => {
            let wait = Duration::from_micros(at_us.saturating_sub(now_us()));
            tokio::time::sleep_until(Instant::now() + wait).await;
        }
        None => std::future::pending().await,
    }
}
