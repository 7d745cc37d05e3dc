//! How a policy behaves, and when it is benched for it.

use std::collections::VecDeque;

use wasmill_protocol::policy::PolicyHook;
use wasmill_protocol::{Digest, Timestamp};
use wasmill_record::event::EventBody;

use crate::leader::Tally;
use crate::policy::PolicyFault;
use crate::state::State;

/// Faults that a policy may have within [`FAULTS_WITHIN_MS`]: with one more it is benched.
const FAULTS_MAX: usize = 5;
/// The time in which faults count together, in milliseconds.
const FAULTS_WITHIN_MS: u64 = 60_000;
/// Bytes of a fault's reason that are kept.
const REASON_BYTES_MAX: usize = 512;

/// A policy that is seated: what it is known by, and how it went with it.
#[derive(Debug)]
pub(super) struct Conduct {
    hook: PolicyHook,
    name: String,
    digest: Digest,
    /// The built-in default decides in its place.
    is_benched: bool,
    /// When it failed, as far as that counts still.
    faults: VecDeque<Timestamp>,
}

impl Conduct {
    /// A policy takes its seat, unless the log says that it is benched.
    pub(super) fn new(hook: PolicyHook, name: &str, digest: Digest, state: &State) -> Self {
        let is_benched = state.benched(hook, name, digest).is_some();
        Self { hook, name: name.to_owned(), digest, is_benched, faults: VecDeque::new() }
    }

    pub(super) fn is_benched(&self) -> bool {
        self.is_benched
    }

    /// Whether the log does not say any more that it is benched.
    pub(super) fn is_lifted(&self, state: &State) -> bool {
        self.is_benched && state.benched(self.hook, &self.name, self.digest).is_none()
    }

    /// The policy did not answer, or answered nonsense. Returns the event when that was once too
    /// often.
    pub(super) fn failed(&mut self, now: Timestamp, fault: PolicyFault, tally: &mut Tally) -> Option<EventBody> {
        tally.policy_faults += 1;
        self.faults.push_back(now);
        while self.faults.front().is_some_and(|at| now >= at.plus_ms(FAULTS_WITHIN_MS)) {
            self.faults.pop_front();
        }
        if self.faults.len() <= FAULTS_MAX { None } else { self.bench(fault.reason, tally) }
    }

    /// The policy decides no more. Returns the event, unless it was benched already.
    pub(super) fn bench(&mut self, mut reason: String, tally: &mut Tally) -> Option<EventBody> {
        if std::mem::replace(&mut self.is_benched, true) {
            return None;
        }
        tally.policies_benched += 1;
        self.faults.clear();
        reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
        let (hook, policy, digest) = (self.hook, self.name.clone(), self.digest);
        Some(EventBody::PolicyBenched { hook, policy, reason, digest })
    }
}
