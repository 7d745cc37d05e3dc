//! The sequel of an attempt: what its end brings about for the task.

use wasmill_protocol::task::{RetryOn, RetryPolicy};
use wasmill_protocol::{FinalState, OutcomeKind, Timestamp};
use wasmill_record::event::Sequel;

use crate::random::Random;

/// The history of a task before the attempt that has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttemptHistory {
    pub(super) retry: RetryPolicy,
    /// Attempts that were charged before.
    pub(super) failures: u32,
    /// Hosts that were lost before.
    pub(super) hosts_lost: u8,
    /// Faults of hosts before.
    pub(super) host_faults: u8,
    /// Somebody asked it to stop.
    pub(super) cancel_requested: bool,
    /// Its tenant is gone, and a result would be nobody's.
    pub(super) tenant_removed: bool,
}

/// How often a task meets what is not its own failure before it is given up.
#[derive(Debug, Clone, Copy)]
pub(super) struct FaultBounds {
    pub(super) hosts_lost_max: u8,
    pub(super) host_faults_max: u8,
}

/// Decides. `random` is drawn from only for a retry.
pub(super) fn sequel_of(
    kind: OutcomeKind,
    past: &AttemptHistory,
    bounds: FaultBounds,
    now: Timestamp,
    random: &mut Random,
) -> Sequel {
    let last = |state| Sequel::Final { state };
    if past.tenant_removed {
        return last(FinalState::Cancelled);
    }
    if kind == OutcomeKind::Succeeded {
        // Also when a cancel was asked: the success is first in the log.
        return last(FinalState::Succeeded);
    }
    if past.cancel_requested {
        return last(FinalState::Cancelled);
    }
    let requeue = |before: u8, max: u8| {
        if before.saturating_add(1) >= max { last(FinalState::Failed) } else { Sequel::Requeue }
    };
    match kind {
        OutcomeKind::Succeeded => unreachable!("decided above"),
        OutcomeKind::Returned => Sequel::Requeue,
        OutcomeKind::HostLost => requeue(past.hosts_lost, bounds.hosts_lost_max),
        OutcomeKind::HostFault => requeue(past.host_faults, bounds.host_faults_max),
        // The host says that it was asked to stop, and a stopped task is not started again.
        OutcomeKind::Cancelled => last(FinalState::Cancelled),
        OutcomeKind::Rejected | OutcomeKind::ModuleInvalid => last(FinalState::Failed),
        OutcomeKind::Errored => retry(past, now, random),
        OutcomeKind::Trapped
        | OutcomeKind::FuelExhausted
        | OutcomeKind::CpuExceeded
        | OutcomeKind::DeadlineExceeded
        | OutcomeKind::MemoryExceeded
        | OutcomeKind::OutputTooLarge => match past.retry.on {
            RetryOn::AnyFailure => retry(past, now, random),
            RetryOn::Errored => last(FinalState::Failed),
        },
    }
}

fn retry(past: &AttemptHistory, now: Timestamp, random: &mut Random) -> Sequel {
    if past.failures.saturating_add(1) >= past.retry.attempts_max {
        return Sequel::Final { state: FinalState::Failed };
    }
    let delay_us = random.up_to(backoff_ms(&past.retry, past.failures).saturating_mul(1_000));
    Sequel::Retry { not_before: now.plus_us(delay_us) }
}

/// The bound of the delay after `failures` earlier failures and one more, in milliseconds.
fn backoff_ms(retry: &RetryPolicy, failures: u32) -> u64 {
    let factor = 1u64.checked_shl(failures).unwrap_or(u64::MAX);
    retry.backoff_ms.saturating_mul(factor).min(retry.backoff_ms_max)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::expect;

    use super::*;

    const BOUNDS: FaultBounds = FaultBounds { hosts_lost_max: 3, host_faults_max: 10 };

    fn past() -> AttemptHistory {
        let retry = RetryPolicy::default();
        AttemptHistory {
            retry,
            failures: 0,
            hosts_lost: 0,
            host_faults: 0,
            cancel_requested: false,
            tenant_removed: false,
        }
    }

    fn shown(kind: OutcomeKind, past: &AttemptHistory) -> String {
        match sequel_of(kind, past, BOUNDS, Timestamp(0), &mut Random::new(1)) {
            Sequel::Final { state } => format!("{state:?}"),
            Sequel::Retry { .. } => "retry".into(),
            Sequel::Requeue => "requeue".into(),
        }
    }

    #[test]
    fn every_kind_in_every_past() {
        let any = RetryPolicy { on: RetryOn::AnyFailure, ..RetryPolicy::default() };
        let pasts = [
            past(),
            AttemptHistory { retry: any, ..past() },
            AttemptHistory { retry: any, failures: 2, hosts_lost: 2, host_faults: 9, ..past() },
            AttemptHistory { cancel_requested: true, ..past() },
            AttemptHistory { tenant_removed: true, cancel_requested: true, ..past() },
        ];
        let mut table =
            format!("{:18}{:11}{:11}{:11}{:11}removed\n", "outcome", "default", "any", "last try", "cancelled");
        for kind in OutcomeKind::ALL {
            let cells: String = pasts.iter().map(|past| format!("{:11}", shown(kind, past))).collect();
            writeln!(table, "{:18}{}", kind.as_str(), cells.trim_end()).unwrap();
        }
        expect![[r#"
            outcome           default    any        last try   cancelled  removed
            succeeded         Succeeded  Succeeded  Succeeded  Succeeded  Cancelled
            rejected          Failed     Failed     Failed     Cancelled  Cancelled
            errored           retry      retry      Failed     Cancelled  Cancelled
            trapped           Failed     retry      Failed     Cancelled  Cancelled
            fuel_exhausted    Failed     retry      Failed     Cancelled  Cancelled
            cpu_exceeded      Failed     retry      Failed     Cancelled  Cancelled
            deadline_exceeded Failed     retry      Failed     Cancelled  Cancelled
            memory_exceeded   Failed     retry      Failed     Cancelled  Cancelled
            output_too_large  Failed     retry      Failed     Cancelled  Cancelled
            cancelled         Cancelled  Cancelled  Cancelled  Cancelled  Cancelled
            host_lost         requeue    requeue    Failed     Cancelled  Cancelled
            module_invalid    Failed     Failed     Failed     Cancelled  Cancelled
            host_fault        requeue    requeue    Failed     Cancelled  Cancelled
            returned          requeue    requeue    requeue    Cancelled  Cancelled
        "#]]
        .assert_eq(&table);
    }

    #[test]
    fn the_bound_of_the_delay_doubles_up_to_its_maximum() {
        let retry = RetryPolicy { backoff_ms: 100, backoff_ms_max: 1_000, ..RetryPolicy::default() };
        let bounds: Vec<_> = [0, 1, 2, 3, 4, 63, 64, u32::MAX].map(|failures| backoff_ms(&retry, failures)).into();
        assert_eq!(bounds, [100, 200, 400, 800, 1_000, 1_000, 1_000, 1_000]);
        let none = RetryPolicy { backoff_ms: 0, ..retry };
        assert_eq!(backoff_ms(&none, 70), 0);
    }

    #[test]
    fn delays_are_spread_over_the_whole_range() {
        let mut random = Random::new(3);
        let (mut low, mut high) = (u64::MAX, 0);
        for _ in 0..1_000 {
            let next = sequel_of(OutcomeKind::Errored, &past(), BOUNDS, Timestamp(50), &mut random);
            let Sequel::Retry { not_before } = next else { panic!("{next:?}") };
            (low, high) = (low.min(not_before.0 - 50), high.max(not_before.0 - 50));
        }
        assert!(low < 10_000 && (990_000..=1_000_000).contains(&high), "{low} {high}");
    }
}
