//! Asking policies, none of which is trusted.

use wasmill_protocol::Timestamp;

use super::tally::Tally;
use crate::policy::{Choice, Fair, HostRoom, Key, LeastLoaded, Policy, PolicyFault, ShapeView, Wanted, checked};

/// A policy that failed so often in a row is taken out.
const FAULTS_IN_A_ROW_MAX: u32 = 5;

/// A policy and how often it failed.
#[derive(Debug)]
pub(super) struct Seat {
    policy: Box<dyn Policy>,
    faults_in_a_row: u32,
}

impl Seat {
    pub(super) fn new(policy: Box<dyn Policy>) -> Self {
        Self { policy, faults_in_a_row: 0 }
    }

    /// One key for each shape; from the built-in default when the policy does not answer.
    pub(super) fn order(&mut self, shapes: &[ShapeView], now: Timestamp, tally: &mut Tally) -> Vec<Key> {
        let answer = self.policy.order(shapes, now).and_then(|keys| {
            if keys.len() == shapes.len() {
                return Ok(keys);
            }
            let reason = format!("{} keys for {} shapes", keys.len(), shapes.len());
            Err(PolicyFault { policy: format!("{:?}", self.policy), reason })
        });
        match answer {
            Ok(keys) => {
                self.faults_in_a_row = 0;
                keys
            }
            Err(_) => {
                self.count_fault(tally);
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
            Err(_) => {
                self.count_fault(tally);
                LeastLoaded.place(wanted, hosts).expect("a built-in policy does not fail")
            }
        };
        let (right, wrong) = checked(choices, wanted, hosts);
        tally.policy_choices_wrong += wrong;
        right
    }

    /// A policy did not answer. After too many times in a row the default takes its seat.
    fn count_fault(&mut self, tally: &mut Tally) {
        tally.policy_faults += 1;
        self.faults_in_a_row += 1;
        if self.faults_in_a_row >= FAULTS_IN_A_ROW_MAX {
            *self = Self::new(Box::new(Fair));
            tally.policies_benched += 1;
        }
    }
}
