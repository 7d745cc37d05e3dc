//! Becoming known: the subscription and the registration, tried again until they succeed.

use std::sync::Arc;
use std::time::Duration;

use wasmill_fabric::{Bus, HostRegistration, Membership, Subscription};
use wasmill_protocol::HostId;
use wasmill_protocol::message::{HostInfo, subjects};

use super::identity::{Identity, IdentityError};
use super::{MESSAGES_WAITING_MAX, chain};

/// The wait before the second try; doubles with each.
const RETRY_MS: u64 = 100;
/// Where the doubling ends.
const RETRY_MS_MAX: u64 = 2_000;

/// Messages for this host. `ended` subscriptions before this one have ended without a message: the more, the longer it waits.
pub(super) async fn subscribe(bus: Arc<dyn Bus>, host: HostId, ended: u32) -> Subscription {
    let subject = subjects::host(&host);
    if let Some(before) = ended.checked_sub(1) {
        tokio::time::sleep(wait(before)).await;
    }
    let mut retry = Retry::default();
    loop {
        match bus.subscribe(&subject, MESSAGES_WAITING_MAX).await {
            Ok(subscription) => return subscription,
            Err(error) => retry.wait(&format!("cannot subscribe to `{subject}`: {}", chain(&error))).await,
        }
    }
}

/// Begins a new life and makes it known.
pub(super) async fn register(
    membership: Arc<dyn Membership>,
    identity: Arc<Identity>,
    mut info: HostInfo,
) -> Result<(HostInfo, HostRegistration), IdentityError> {
    // One life is enough for all tries: while none has succeeded nobody knows of it.
    let begun = tokio::task::spawn_blocking(move || identity.begin_life()).await;
    info.incarnation = match begun {
        Ok(incarnation) => incarnation?,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    };
    let mut retry = Retry::default();
    loop {
        match membership.register(info.clone()).await {
            Ok(registration) => return Ok((info, registration)),
            Err(error) => retry.wait(&format!("cannot register `{}`: {}", info.id, chain(&error))).await,
        }
    }
}

/// Waits longer each time, and says so the first time.
#[derive(Debug, Default)]
struct Retry {
    failures: u32,
}

impl Retry {
    async fn wait(&mut self, problem: &str) {
        if self.failures == 0 {
            tracing::warn!("{problem}; trying again until it succeeds");
        } else {
            tracing::debug!(failures = self.failures, "{problem}");
        }
        let wait = wait(self.failures);
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(wait).await;
    }
}

fn wait(failures: u32) -> Duration {
    Duration::from_millis((RETRY_MS << failures.min(16)).min(RETRY_MS_MAX))
}
