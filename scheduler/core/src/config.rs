//! Settings of the core, checked once.

use thiserror::Error;
use wasmill_protocol::policy::PolicyHook;

use crate::policy;

/// Settings of the core. Every bound on time or size that an installation may want to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreConfig {
    /// Which policy orders: a name that [`policy::order_by_name`] knows.
    pub order: String,
    /// Which policy places: a name that [`policy::place_by_name`] knows.
    pub place: String,
    /// A host that was silent for longer gets no new work, in milliseconds.
    pub host_timeout_ms: u64,
    /// How long a new leader waits for the hosts of attempts that run according to the log, in
    /// milliseconds.
    pub lead_grace_ms: u64,
    /// An assignment or a cancel that a heartbeat does not confirm is sent again after this many
    /// milliseconds.
    pub resend_ms: u64,
    /// An attempt that was confirmed and is missing from two heartbeats in a row is sent again when
    /// it was sent longer ago than this, in milliseconds.
    pub missing_ms: u64,
    /// An assignment that no heartbeat confirms for this many milliseconds goes back into the
    /// queue.
    pub assign_timeout_ms: u64,
    /// A host that let assignments time out gets no new work for this many milliseconds.
    pub distrust_ms: u64,
    /// A task that has waited longer in the queue than this is overdue: it gets a share of what is
    /// dispatched whatever the policy says, in milliseconds.
    pub longest_wait_ms: u64,
    /// How long a dispatch waits for policies that live outside the core, all its questions
    /// together, in milliseconds. The built-in default places the rest.
    pub ask_ms: u64,
    /// A policy that leaves tasks in the queue for so long although a host has a place for them, or
    /// that does not come back with an answer, is benched, in milliseconds.
    pub stall_ms: u64,
    /// Hosts that one task may lose before it is given up.
    pub hosts_lost_max: u8,
    /// Faults of hosts that one task may meet before it is given up.
    pub host_faults_max: u8,
    /// Attempts that are dispatched by one [`take_ready`](crate::Core::take_ready).
    pub dispatch_max: u32,
    /// Tasks whose time has come, and those of work that is done in slices, that are handled by one
    /// [`take_ready`](crate::Core::take_ready).
    pub batch_max: u32,
    /// Tasks that are not final, in all.
    pub tasks_max: u64,
    /// Edges between tasks that are not final, in all.
    pub edges_max: u32,
    /// Shapes of tasks that are not final, in all.
    pub shapes_max: u32,
    /// Shapes of tasks that are not final, per tenant.
    pub shapes_per_tenant_max: u32,
    /// The most attempts that a host can have, whatever it announces.
    pub host_credit_max: u32,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            order: "fair".into(),
            place: "least_loaded".into(),
            host_timeout_ms: 5_000,
            lead_grace_ms: 10_000,
            resend_ms: 1_000,
            missing_ms: 3_000,
            assign_timeout_ms: 30_000,
            distrust_ms: 10_000,
            longest_wait_ms: 60_000,
            ask_ms: 20,
            stall_ms: 5_000,
            hosts_lost_max: 3,
            host_faults_max: 10,
            dispatch_max: 1_024,
            batch_max: 1_024,
            tasks_max: 5_000_000,
            edges_max: 10_000_000,
            shapes_max: 100_000,
            shapes_per_tenant_max: 1_024,
            host_credit_max: 4_096,
        }
    }
}

/// Settings that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// No such policy.
    #[error("there is no policy `{name}` for `{setting}`: {known} are known")]
    PolicyUnknown {
        /// Which setting.
        setting: &'static str,
        /// The value that it was set to.
        name: String,
        /// The values that it can be set to.
        known: String,
    },
    /// There is one, and it decides something else.
    #[error("the policy `{name}` is for `{other}` and not for `{setting}`: {known} are known")]
    PolicyOfOther {
        /// Which setting.
        setting: &'static str,
        /// The setting that takes this value.
        other: &'static str,
        /// The value that it was set to.
        name: String,
        /// The values that the setting can be set to.
        known: String,
    },
    /// Nothing would ever happen.
    #[error("`{setting}` is 0: at least 1 is needed")]
    Zero {
        /// Which setting.
        setting: &'static str,
    },
    /// A relation between two settings does not hold.
    #[error(
        "`{smaller}` is {smaller_ms} ms and `{larger}` is {larger_ms} ms: the first must not be longer than the second"
    )]
    Order {
        /// The setting that must be smaller.
        smaller: &'static str,
        /// Its value.
        smaller_ms: u64,
        /// The setting that must be larger.
        larger: &'static str,
        /// Its value.
        larger_ms: u64,
    },
}

impl CoreConfig {
    /// Whether the core can work with these settings.
    ///
    /// # Errors
    ///
    /// The first setting that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        policy::check_name(PolicyHook::Order, &self.order)?;
        policy::check_name(PolicyHook::Place, &self.place)?;
        let counts = [
            ("host_timeout_ms", self.host_timeout_ms),
            ("resend_ms", self.resend_ms),
            ("longest_wait_ms", self.longest_wait_ms),
            ("ask_ms", self.ask_ms),
            ("stall_ms", self.stall_ms),
            ("hosts_lost_max", u64::from(self.hosts_lost_max)),
            ("host_faults_max", u64::from(self.host_faults_max)),
            ("dispatch_max", u64::from(self.dispatch_max)),
            ("batch_max", u64::from(self.batch_max)),
            ("tasks_max", self.tasks_max),
            ("edges_max", u64::from(self.edges_max)),
            ("shapes_max", u64::from(self.shapes_max)),
            ("shapes_per_tenant_max", u64::from(self.shapes_per_tenant_max)),
            ("host_credit_max", u64::from(self.host_credit_max)),
        ];
        if let Some(&(setting, _)) = counts.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Zero { setting });
        }
        let ordered = [
            ("resend_ms", self.resend_ms, "missing_ms", self.missing_ms),
            ("missing_ms", self.missing_ms, "assign_timeout_ms", self.assign_timeout_ms),
            ("ask_ms", self.ask_ms, "stall_ms", self.stall_ms),
        ];
        match ordered.into_iter().find(|(_, smaller_ms, _, larger_ms)| smaller_ms > larger_ms) {
            Some((smaller, smaller_ms, larger, larger_ms)) => {
                Err(ConfigError::Order { smaller, smaller_ms, larger, larger_ms })
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(change: impl FnOnce(&mut CoreConfig), expected: Expect) {
        let mut config = CoreConfig::default();
        change(&mut config);
        let result = config.check();
        expected.assert_eq(&result.err().map_or("fine".into(), |error| error.to_string()));
    }

    #[test]
    fn wrong_settings_are_named() {
        check(|_| {}, expect!["fine"]);
        check(
            |config| config.order = "random".into(),
            expect!["there is no policy `random` for `order`: fair, fifo are known"],
        );
        // One that places does not order.
        check(
            |config| config.order = "pack".into(),
            expect!["the policy `pack` is for `place` and not for `order`: fair, fifo are known"],
        );
        check(
            |config| config.place = "fair".into(),
            expect!["the policy `fair` is for `order` and not for `place`: least_loaded, pack are known"],
        );
        check(|config| config.dispatch_max = 0, expect!["`dispatch_max` is 0: at least 1 is needed"]);
        check(
            |config| config.resend_ms = 4_000,
            expect!["`resend_ms` is 4000 ms and `missing_ms` is 3000 ms: the first must not be longer than the second"],
        );
    }
}
