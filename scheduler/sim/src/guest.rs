//! What a simulated guest does: a pure function of the task and the attempt, so that every observer can compute what must come out.

use std::sync::Arc;

use bytes::Bytes;
use wasmill_protocol::{AttemptId, Outcome, OutcomeKind, Payload, TaskSpec};

use crate::rng::{Rng, mix};

/// How one attempt will go.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Microseconds until it ends by itself.
    pub run_us: u64,
    /// Microseconds until it saves a checkpoint.
    pub checkpoint_us: Option<u64>,
    /// How it ends by itself.
    pub outcome: OutcomeKind,
    /// It takes its host with it when it ends.
    pub kills_host: bool,
    /// Microseconds until its module is ready, when it is not from the start.
    pub unready_us: Option<u64>,
}

/// The byte of a payload that marks a deadly task.
const DEADLY: u8 = b'!';

impl Plan {
    /// The plan of an attempt.
    pub fn of(id: AttemptId, spec: &TaskSpec) -> Self {
        let task = id.task.0.as_u128();
        let mut rng = Rng::new(mix(u64::try_from(task & u128::from(u64::MAX)).unwrap_or(0)) ^ u64::from(id.attempt.0));
        let kills_host = matches!(&spec.input, Payload::Inline(bytes) if bytes.first() == Some(&DEADLY));
        let outcome = match rng.below(100) {
            0..70 => OutcomeKind::Succeeded,
            70..82 => OutcomeKind::Errored,
            82..87 => OutcomeKind::Trapped,
            87..90 => OutcomeKind::Rejected,
            90..92 => OutcomeKind::FuelExhausted,
            92..94 => OutcomeKind::HostFault,
            // Spins until it is stopped or its wall time is over.
            _ => OutcomeKind::DeadlineExceeded,
        };
        let run_us = match outcome {
            OutcomeKind::DeadlineExceeded => spec.limits.wall_ms * 1000,
            _ => rng.skewed(8_000_000),
        };
        let checkpoint_us = rng.chance(200).then(|| rng.below(run_us.max(1)));
        let unready_us = rng.chance(100).then(|| rng.skewed(20_000_000));
        Self { run_us, checkpoint_us, outcome, kills_host, unready_us }
    }
}

/// The input of a task, which says what made it; a deadly one takes its hosts with it.
pub fn input(deadly: bool, submission: u64) -> Payload {
    let mut bytes = vec![if deadly { DEADLY } else { b'.' }];
    bytes.extend_from_slice(&submission.to_be_bytes());
    Payload::inline(Bytes::from(bytes))
}

/// What made a task.
pub fn submission_of(input: &Payload) -> Option<u64> {
    let Payload::Inline(bytes) = input else { return None };
    Some(u64::from_be_bytes(bytes.get(1..9)?.try_into().ok()?))
}

/// The result of an attempt: it names the attempt, so that a result that was accepted for another one is recognised.
pub fn output(id: AttemptId) -> Payload {
    let mut bytes = id.task.0.as_bytes().to_vec();
    bytes.extend_from_slice(&id.attempt.0.to_be_bytes());
    bytes.extend_from_slice(&id.nonce.0.to_be_bytes());
    Payload::inline(Bytes::from(bytes))
}

/// An outcome without words.
pub fn outcome(kind: OutcomeKind) -> Arc<Outcome> {
    Arc::new(Outcome::new(kind, ""))
}
