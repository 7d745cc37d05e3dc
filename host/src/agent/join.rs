//! Becoming known: the subscription and the registration, tried again until they succeed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmill_fabric::{Bus, HostRegistration, Membership, MembershipError, Reminder, Subscription};
use wasmill_protocol::message::{HostInfo, subjects};
use wasmill_protocol::{HostId, Incarnation};

use super::identity::{Identity, IdentityError};
use super::{AgentError, MESSAGES_WAITING_MAX};
use crate::error_chain::chain;

/// The wait before the second try; doubles with each.
const RETRY_MS: u64 = 100;
/// Where the doubling ends.
const RETRY_MS_MAX: u64 = 2_000;
/// The wait before it is looked again whether another process is this host: its lease, when it has
/// ended. Doubles with each look.
const RIVAL_WAIT_MS: u64 = 5_000;
/// Where that doubling ends.
const RIVAL_WAIT_MS_MAX: u64 = 60_000;

/// Messages for this host. `ended` subscriptions before this one have ended without a message: the
/// more, the longer it waits.
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

/// The way to treat another process that is this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rival {
    /// This process has just been started: it takes the id, and the other one ends.
    IsReplaced,
    /// The other one came after this one, and keeps the id.
    Stays,
}

/// Begins a new life and makes it known.
///
/// # Errors
///
/// [`AgentError::Replaced`] when another process has the id and keeps it.
pub(super) async fn register(
    membership: Arc<dyn Membership>,
    identity: Arc<Identity>,
    mut info: HostInfo,
    rival: Rival,
) -> Result<(HostInfo, HostRegistration), AgentError> {
    // One life is enough for all tries: it is given nothing to run before one has succeeded, though
    // a leader may have seen one whose answer was lost.
    info.incarnation = begin_life(&identity, Incarnation(0)).await?;
    let mut retry = Retry::default();
    loop {
        let registered = match rival {
            Rival::IsReplaced => membership.register(info.clone()).await,
            Rival::Stays => membership.register_if_free(info.clone()).await,
        };
        match registered {
            Ok(registration) => {
                identity.note_registered()?;
                return Ok((info, registration));
            }
            Err(MembershipError::Taken { by }) if rival == Rival::IsReplaced => {
                tracing::warn!(host = %info.id, life = %by.incarnation, address = by.address, "another process is this host, and is replaced");
                info.incarnation = begin_life(&identity, by.incarnation).await?;
            }
            Err(MembershipError::Taken { by }) => return Err(AgentError::Replaced { by }),
            Err(error) => retry.wait(&format!("cannot register `{}`: {}", info.id, chain(&error))).await,
        }
    }
}

/// Subscribes and registers.
///
/// Whose id was taken by another process before leaves it to that one for as long as it lives: were
/// each new process to take it back, two that are started again whenever they end would throw each
/// other out for ever. It neither hears what the other one is sent nor answers it.
pub(super) async fn join(
    membership: &Arc<dyn Membership>,
    bus: &Arc<dyn Bus>,
    identity: &Arc<Identity>,
    info: &HostInfo,
    mut random: impl FnMut() -> Result<u64, AgentError>,
) -> Result<(Subscription, HostInfo, HostRegistration), AgentError> {
    let (mut reminder, mut refusals) = (Reminder::default(), 0);
    loop {
        // Subscribed first: the leader sends as soon as it knows of the host.
        let subscription = subscribe(Arc::clone(bus), info.id.clone(), 0).await;
        let rival = if identity.was_replaced() { Rival::Stays } else { Rival::IsReplaced };
        match register(Arc::clone(membership), Arc::clone(identity), info.clone(), rival).await {
            Ok((info, registration)) => return Ok((subscription, info, registration)),
            Err(AgentError::Replaced { by }) => {
                identity.note_replaced(&by)?;
                let problem = AgentError::Replaced { by }.to_string();
                if reminder.is_due(Instant::now(), &problem) {
                    tracing::warn!("{problem}; this one waits until the other one has ended");
                }
            }
            Err(error) => return Err(error),
        }
        drop(subscription);
        tokio::time::sleep(rival_wait(refusals, random()?)).await;
        refusals = refusals.saturating_add(1);
    }
}

/// The wait before it is looked again whether another process is this host: a lease first,
/// doubling, the half to the whole of it as `random` says.
pub(super) fn rival_wait(refusals: u32, random: u64) -> Duration {
    let whole_ms = (RIVAL_WAIT_MS << refusals.min(16)).min(RIVAL_WAIT_MS_MAX);
    Duration::from_millis(whole_ms - random % (whole_ms / 2 + 1))
}

async fn begin_life(identity: &Arc<Identity>, above: Incarnation) -> Result<Incarnation, IdentityError> {
    let identity = Arc::clone(identity);
    match tokio::task::spawn_blocking(move || identity.begin_life(above)).await {
        Ok(incarnation) => incarnation,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Waits longer each time, and says why at first, when the reason changes, and every minute.
#[derive(Debug, Default)]
struct Retry {
    failures: u32,
    reminder: Reminder,
}

impl Retry {
    async fn wait(&mut self, problem: &str) {
        if self.reminder.is_due(Instant::now(), problem) {
            tracing::warn!(failures = self.failures + 1, "{problem}; trying again until it succeeds");
        } else {
            tracing::debug!(failures = self.failures + 1, "{problem}");
        }
        let wait = wait(self.failures);
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(wait).await;
    }
}

fn wait(failures: u32) -> Duration {
    Duration::from_millis((RETRY_MS << failures.min(16)).min(RETRY_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f53_two_processes_of_one_host_wait_longer_each_time_and_not_for_the_same_time() {
        for (refusals, whole_ms) in [(0, 5_000), (1, 10_000), (2, 20_000), (4, 60_000), (u32::MAX, 60_000)] {
            let waits: Vec<_> = (0..1_000)
                .map(|number: u64| rival_wait(refusals, number.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
                .collect();
            let bounds = Duration::from_millis(whole_ms / 2)..=Duration::from_millis(whole_ms);
            assert!(waits.iter().all(|wait| bounds.contains(wait)), "{refusals}");
            assert!(waits.iter().any(|wait| *wait != waits[0]), "{refusals}");
        }
    }
}
