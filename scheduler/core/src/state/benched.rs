//! Policies in whose place the built-in default decides.

use std::collections::BTreeMap;

use wasmill_protocol::Digest;
use wasmill_protocol::policy::PolicyHook;

use crate::io::BenchedPolicy;

/// Benched policies that are remembered. When there are more, the one that was benched first may
/// decide again.
const BENCHED_MAX: usize = 64;

/// Policies that were benched and not lifted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Benched(BTreeMap<PolicyIdentity, BenchedPolicy>);

/// The identity of a policy: its digest, whatever it is called; one that is built in has none and
/// is known by its name.
type PolicyIdentity = (PolicyHook, Digest, String);

fn identity(hook: PolicyHook, policy: &str, digest: Digest) -> PolicyIdentity {
    let name = if digest == Digest::default() { policy.to_owned() } else { String::new() };
    (hook, digest, name)
}

impl Benched {
    pub(crate) fn insert(&mut self, benched: BenchedPolicy) {
        self.0.insert(identity(benched.hook, &benched.policy, benched.digest), benched);
        if self.0.len() > BENCHED_MAX {
            let first =
                self.0.iter().min_by_key(|(identity, benched)| (benched.at, *identity)).map(|(key, _)| key.clone());
            first.and_then(|first| self.0.remove(&first));
        }
    }

    pub(crate) fn remove(&mut self, hook: PolicyHook, policy: &str, digest: Digest) {
        self.0.remove(&identity(hook, policy, digest));
    }

    pub(crate) fn find(&self, hook: PolicyHook, policy: &str, digest: Digest) -> Option<&BenchedPolicy> {
        self.0.get(&identity(hook, policy, digest))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &BenchedPolicy> {
        self.0.values()
    }
}

#[cfg(test)]
mod tests {
    use wasmill_protocol::Timestamp;

    use super::*;

    fn benched(number: u8, policy: &str, at: u64) -> BenchedPolicy {
        let (hook, digest) = (PolicyHook::Place, Digest([number; 32]));
        BenchedPolicy { hook, policy: policy.to_owned(), digest, reason: String::new(), at: Timestamp(at) }
    }

    #[test]
    fn one_with_a_digest_is_known_by_that_alone() {
        let mut all = Benched::default();
        all.insert(benched(1, "mine", 1));
        all.insert(benched(0, "pack", 2));
        let is_known = |policy, number| all.find(PolicyHook::Place, policy, Digest([number; 32])).is_some();
        assert!(is_known("renamed", 1) && !is_known("mine", 2));
        assert!(is_known("pack", 0) && !is_known("least_loaded", 0));
        assert!(all.find(PolicyHook::Order, "mine", Digest([1; 32])).is_none(), "each hook has its own");
        all.remove(PolicyHook::Place, "renamed", Digest([1; 32]));
        assert_eq!(all.iter().count(), 1);
    }

    #[test]
    fn the_first_gives_way_when_there_are_too_many() {
        let mut all = Benched::default();
        (1..=65).for_each(|number| all.insert(benched(number, "mine", 100 - u64::from(number))));
        assert_eq!(all.iter().count(), BENCHED_MAX);
        assert!(all.find(PolicyHook::Place, "mine", Digest([65; 32])).is_none());
    }
}
