//! Asking policies, none of which is trusted.

use wasmill_protocol::Timestamp;
use wasmill_protocol::event::{EventBody, PolicyHook};

use super::tally::Tally;
use crate::io::BenchedPolicy;
use crate::policy::{Choice, Fair, HostRoom, Key, LeastLoaded, Policy, PolicyFault, ShapeView, Wanted, checked};

/// A policy that failed so often in a row is benched.
const FAULTS_IN_A_ROW_MAX: u32 = 5;

/// Bytes of a fault's reason that are kept.
const REASON_BYTES_MAX: usize = 512;

/// Who decides one thing, and how often it failed.
#[derive(Debug)]
pub(super) struct Seat {
    hook: PolicyHook,
    policy: Box<dyn Policy>,
    faults_in_a_row: u32,
    /// That the policy before this one was benched, until it is said.
    news: Option<EventBody>,
}

impl Seat {
    /// A seat for `policy`, or for the built-in default if that is the one that was benched.
    pub(super) fn new(hook: PolicyHook, policy: Box<dyn Policy>, benched: Option<&BenchedPolicy>) -> Self {
        let is_benched = benched.is_some_and(|benched| benched.policy == policy.name());
        let policy = if is_benched { built_in(hook) } else { policy };
        Self { hook, policy, faults_in_a_row: 0, news: None }
    }

    /// One key for each shape; from the built-in default when the policy does not answer.
    pub(super) fn order(&mut self, shapes: &[ShapeView], now: Timestamp, tally: &mut Tally) -> Vec<Key> {
        let answer = self.policy.order(shapes, now).and_then(|keys| {
            if keys.len() == shapes.len() {
                return Ok(keys);
            }
            Err(PolicyFault { reason: format!("{} keys for {} shapes", keys.len(), shapes.len()) })
        });
        match answer {
            Ok(keys) => {
                self.faults_in_a_row = 0;
                keys
            }
            Err(fault) => {
                self.count_fault(fault, tally);
                Fair.order(shapes, now).expect("a built-in policy does not fail")
            }
        }
    }

    /// Where to put what is wanted, as far as it is right; from the built-in default when the policy does not answer.
    pub(super) fn place(&mut self, wanted: &[Wanted<'_>], hosts: &[HostRoom], tally: &mut Tally) -> Vec<Choice> {
        let choices = match self.policy.place(wanted, hosts) {
            Ok(choices) => {
                self.faults_in_a_row = 0;
                choices
            }
            Err(fault) => {
                self.count_fault(fault, tally);
                LeastLoaded.place(wanted, hosts).expect("a built-in policy does not fail")
            }
        };
        let (right, wrong) = checked(choices, wanted, hosts);
        tally.policy_choices_wrong += wrong;
        right
    }

    /// The event of a policy that was benched since the last call.
    pub(super) fn take_news(&mut self) -> Option<EventBody> {
        self.news.take()
    }

    /// A policy did not answer. After too many times in a row the built-in default takes its seat.
    fn count_fault(&mut self, fault: PolicyFault, tally: &mut Tally) {
        tally.policy_faults += 1;
        self.faults_in_a_row += 1;
        if self.faults_in_a_row < FAULTS_IN_A_ROW_MAX {
            return;
        }
        let (hook, policy, mut reason) = (self.hook, self.policy.name().to_owned(), fault.reason);
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        *self = Self::new(hook, built_in(hook), None);
        self.news = Some(EventBody::PolicyBenched { hook, policy, reason });
        tally.policies_benched += 1;
    }
}

/// Who decides when nobody else does.
fn built_in(hook: PolicyHook) -> Box<dyn Policy> {
    match hook {
        PolicyHook::Order => Box::new(Fair),
        PolicyHook::Place => Box::new(LeastLoaded),
    }
}
