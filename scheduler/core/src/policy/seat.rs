//! Which policy decides: one that is built in, by its name, or one that lives outside the core.

use std::sync::Arc;

use wasmill_protocol::policy::PolicyHook;

use super::ask::Outside;
use super::{ORDERS, PLACES};
use crate::config::ConfigError;

/// A policy for a hook, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    hook: PolicyHook,
    policy: Seated,
}

/// The policy in a seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seated {
    /// The built-in policy of that name.
    BuiltIn(String),
    /// One that is asked by [`Ready::asks`](crate::Ready::asks).
    Outside(Arc<Outside>),
}

impl Seat {
    /// The built-in policy of a name.
    ///
    /// # Errors
    ///
    /// When there is none of that name that decides this.
    pub fn built_in(hook: PolicyHook, name: &str) -> Result<Self, ConfigError> {
        check_name(hook, name)?;
        Ok(Self { hook, policy: Seated::BuiltIn(name.to_owned()) })
    }

    /// A policy that lives outside the core.
    pub fn outside(hook: PolicyHook, policy: Outside) -> Self {
        Self { hook, policy: Seated::Outside(Arc::new(policy)) }
    }

    /// The hook that it decides.
    pub fn hook(&self) -> PolicyHook {
        self.hook
    }

    pub(crate) fn into_policy(self) -> Seated {
        self.policy
    }
}

/// Whether a built-in policy of that name decides this.
pub(crate) fn check_name(hook: PolicyHook, name: &str) -> Result<(), ConfigError> {
    let (names, others): (&[&str], &[&str]) = match hook {
        PolicyHook::Order => (&ORDERS, &PLACES),
        PolicyHook::Place => (&PLACES, &ORDERS),
    };
    let (setting, name_owned, known) = (hook.as_str(), name.to_owned(), names.join(", "));
    if names.contains(&name) {
        return Ok(());
    }
    if !others.contains(&name) {
        return Err(ConfigError::PolicyUnknown { setting, name: name_owned, known });
    }
    let other = match hook {
        PolicyHook::Order => PolicyHook::Place,
        PolicyHook::Place => PolicyHook::Order,
    };
    Err(ConfigError::PolicyOfOther { setting, other: other.as_str(), name: name_owned, known })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_for_one_of_the_two() {
        let said =
            |hook, name| Seat::built_in(hook, name).map_or_else(|error| error.to_string(), |_| "fine".to_owned());
        assert!(ORDERS.iter().all(|name| said(PolicyHook::Order, name) == "fine"));
        assert!(PLACES.iter().all(|name| said(PolicyHook::Place, name) == "fine"));
        assert_eq!(
            said(PolicyHook::Order, "pack"),
            "the policy `pack` is for `place` and not for `order`: fair, fifo are known"
        );
        assert_eq!(
            said(PolicyHook::Place, "fifo"),
            "the policy `fifo` is for `order` and not for `place`: least_loaded, pack are known"
        );
        assert_eq!(
            said(PolicyHook::Place, "fast"),
            "there is no policy `fast` for `place`: least_loaded, pack are known"
        );
    }
}
