//! A clock that never goes back and counts on while the machine sleeps.

use std::time::Duration;

use tokio::time::Instant;

pub(super) use crate::uptime::now_us;

/// Waits until the clock shows `at_us`, for ever without one. After the machine has slept it may be
/// late.
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
