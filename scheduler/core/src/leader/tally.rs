//! The counters of the core.

use wasmill_protocol::OutcomeKind;
use wasmill_record::event::Sequel;

use crate::io::Counters;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts that only grow, each under the name that `/metrics` shows.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub(crate) struct Tally {
            $($(#[$doc])* pub(crate) $name: u64,)*
        }

        impl Tally {
            pub(super) fn counters(&self) -> Counters {
                Counters { by_name: [$((stringify!($name), self.$name)),*].into_iter().collect() }
            }
        }
    };
}

tally! {
    commands,
    commands_refused,
    tasks_submitted,
    tasks_succeeded,
    tasks_failed,
    tasks_cancelled,
    tasks_expired,
    /// Tasks that did not run because another one did not end as it should.
    tasks_skipped,
    attempts_started,
    attempts_retried,
    attempts_requeued,
    hosts_lost,
    /// Attempts that ended because a host was lost while it may have run them.
    attempts_lost,
    /// Reports in all.
    reports,
    /// Reports for attempts that were given up, or from a host that does not have the attempt.
    reports_late,
    /// Reports that had been taken in before.
    reports_repeated,
    assignments_refused,
    assignments_resent,
    assignments_timed_out,
    cancels_resent,
    /// Messages about a life of a host that is over, or heartbeats out of order.
    host_news_stale,
    /// Tasks in answers of a policy that were dropped.
    policy_choices_wrong,
    /// Tasks in such answers that could have been placed as the question was asked, and could not
    /// when it was answered.
    policy_choices_stale,
    /// Questions to policies that live outside.
    policy_asks,
    /// Answers to another question than the one under way, or that came too late.
    policy_answers_late,
    /// Times that a policy did not answer, or answered nonsense.
    policy_faults,
    /// Rounds that the built-in default placed for a policy that has not answered, or nonsense.
    policy_rounds_by_default,
    /// Policies that were taken out: after too many faults, or because they left tasks in the queue
    /// that had a place.
    policies_benched,
    /// Attempts that were placed by the guard against endless waits.
    attempts_overdue,
}

impl Tally {
    /// An attempt ended like this.
    pub(super) fn attempt_ended(&mut self, kind: OutcomeKind, next: Sequel) {
        use wasmill_protocol::FinalState;
        self.attempts_lost += u64::from(kind == OutcomeKind::HostLost);
        match next {
            Sequel::Retry { .. } => self.attempts_retried += 1,
            Sequel::Requeue => self.attempts_requeued += 1,
            Sequel::Final { state: FinalState::Succeeded } => self.tasks_succeeded += 1,
            Sequel::Final { state: FinalState::Failed | FinalState::Skipped } => self.tasks_failed += 1,
            Sequel::Final { state: FinalState::Cancelled } => self.tasks_cancelled += 1,
        }
    }
}
