//! From what the sandbox says to what the core hears: large bytes become blobs on the way.
//!
//! While something of an attempt is being stored, whatever the sandbox says of that attempt waits,
//! so that its order is kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use wasmill_fabric::{BlobError, Blobs};
use wasmill_host_core::{Ended as EndedInput, Input};
use wasmill_protocol::limits::INLINE_BYTES_MAX;
use wasmill_protocol::{AttemptId, Outcome, OutcomeKind, Payload, TenantName};

use crate::channel::{Ended, FromSandbox};
use crate::error_chain::chain;

/// Results that wait for their order to be kept.
#[derive(Debug, Default)]
pub(super) struct Results {
    /// One entry for each attempt of which something is being stored, with what came since.
    storing: BTreeMap<AttemptId, Since>,
}

/// The reports that came while another was being stored. One of each is enough: the newest
/// checkpoint, then the end.
#[derive(Debug, Default)]
struct Since {
    checkpoint: Option<FromSandbox>,
    ended: Option<FromSandbox>,
}

/// Something with bytes for a blob.
#[derive(Debug)]
pub(super) enum Large {
    Checkpoint(AttemptId, u32, Bytes),
    Ended(Box<Ended>),
}

impl Large {
    /// How much is to be stored.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Checkpoint(_, _, data) => data.len(),
            Self::Ended(ended) => ended.output.len() + ended.captured.len(),
        }
    }
}

/// The result of a store.
pub(super) enum Stored {
    /// Nothing, when it cannot be stored: then there is none.
    Checkpoint(Option<Input>),
    Ended(Input),
}

/// Where something that the sandbox said goes next.
#[derive(Debug)]
pub(super) enum Next {
    /// To the core.
    Hear(Input),
    /// Into the blobs, with [`store`]; then comes [`Results::stored`].
    Store(AttemptId, TenantName, Large),
    /// It waits.
    Wait,
}

impl Results {
    /// Takes in what the sandbox said.
    pub(super) fn take(&mut self, said: FromSandbox) -> Next {
        let id = match &said {
            // Nothing else depends on the order of these.
            FromSandbox::Progress(..) | FromSandbox::Load { .. } => return next(said),
            FromSandbox::Checkpoint { id, .. } => *id,
            FromSandbox::Ended(ended) => ended.id,
        };
        if let Some(since) = self.storing.get_mut(&id) {
            let slot = if matches!(said, FromSandbox::Ended(_)) { &mut since.ended } else { &mut since.checkpoint };
            *slot = Some(said);
            return Next::Wait;
        }
        let next = next(said);
        if matches!(next, Next::Store(..)) {
            self.storing.insert(id, Since::default());
        }
        next
    }

    /// Something of this attempt was stored, and the core has heard of it: what came since.
    pub(super) fn stored(&mut self, id: AttemptId) -> Vec<Next> {
        let Some(mut since) = self.storing.remove(&id) else { return Vec::new() };
        let waiting = [since.checkpoint.take(), since.ended.take()];
        waiting.into_iter().flatten().map(|said| self.take(said)).collect()
    }
}

fn next(said: FromSandbox) -> Next {
    let large = |bytes: &Bytes| bytes.len() as u64 > INLINE_BYTES_MAX;
    match said {
        FromSandbox::Progress(id, progress) => Next::Hear(Input::Progress(id, progress)),
        FromSandbox::Load { cpu_us, modules_cached, modules_warm } => {
            Next::Hear(Input::SandboxLoad { cpu_us, modules_cached, modules_warm })
        }
        FromSandbox::Checkpoint { id, tenant, number, data } if large(&data) => {
            Next::Store(id, tenant, Large::Checkpoint(id, number, data))
        }
        FromSandbox::Checkpoint { id, number, data, .. } => {
            Next::Hear(Input::Checkpoint { id, number, data: Payload::inline(data) })
        }
        FromSandbox::Ended(ended) if large(&ended.output) || large(&ended.captured) => {
            Next::Store(ended.id, ended.tenant.clone(), Large::Ended(ended))
        }
        FromSandbox::Ended(ended) => {
            let Ended { id, outcome, usage, output, captured, .. } = *ended;
            let (output, captured) = (Payload::inline(output), Payload::inline(captured));
            Next::Hear(Input::Ended(EndedInput { id, outcome: clipped(outcome), usage, output, captured }))
        }
    }
}

/// Stores a large result or checkpoint. A result comes back when there is no space for it: it is
/// not the guest's fault, and there is nothing else to end with. `is_worth_saying` is asked about
/// what is to be said of a checkpoint that cannot be stored: a guest can save one again and again.
pub(super) async fn store(
    blobs: &dyn Blobs,
    large: Large,
    is_worth_saying: impl FnOnce(&str) -> bool,
) -> Result<Stored, Large> {
    match large {
        Large::Checkpoint(id, number, data) => match payload(blobs, data).await {
            Ok(data) => Ok(Stored::Checkpoint(Some(Input::Checkpoint { id, number, data }))),
            Err(error) => {
                let message = format!("cannot store a checkpoint: {}", chain(&error));
                if is_worth_saying(&message) {
                    tracing::warn!(task = %id.task, number, "{message}");
                }
                Ok(Stored::Checkpoint(None))
            }
        },
        Large::Ended(ended) => {
            let captured = payload(blobs, ended.captured.clone()).await;
            match (payload(blobs, ended.output.clone()).await, captured) {
                (Err(BlobError::NoSpace { .. }), _) | (_, Err(BlobError::NoSpace { .. })) => Err(Large::Ended(ended)),
                (output, captured) => Ok(Stored::Ended(Input::Ended(with_payloads(*ended, output, captured)))),
            }
        }
    }
}

fn with_payloads(ended: Ended, output: Result<Payload, BlobError>, captured: Result<Payload, BlobError>) -> EndedInput {
    let Ended { id, outcome, usage, .. } = ended;
    match (output, captured) {
        (Ok(output), Ok(captured)) => EndedInput { id, outcome: clipped(outcome), usage, output, captured },
        (Err(error), _) | (_, Err(error)) => {
            // The result is lost, and not through the guest: the attempt did not happen as far as
            // its task is concerned.
            let message = format!("cannot store the result: {}", chain(&error));
            tracing::warn!(task = %id.task, "{message}");
            let outcome = Arc::new(Outcome::new(OutcomeKind::HostFault, message));
            EndedInput { id, outcome, usage, output: Payload::Empty, captured: Payload::Empty }
        }
    }
}

async fn payload(blobs: &dyn Blobs, bytes: Bytes) -> Result<Payload, BlobError> {
    if bytes.len() as u64 <= INLINE_BYTES_MAX {
        return Ok(Payload::inline(bytes));
    }
    let stat = blobs.put(bytes).await?;
    Ok(Payload::Blob { digest: stat.digest, bytes: stat.bytes })
}

fn clipped(mut outcome: Outcome) -> Arc<Outcome> {
    outcome.clip();
    Arc::new(outcome)
}

#[cfg(test)]
mod tests {
    use wasmill_protocol::{Nonce, Usage};

    use super::*;

    fn id() -> AttemptId {
        AttemptId { nonce: Nonce(1), ..AttemptId::default() }
    }

    fn checkpoint(number: u32, bytes: usize) -> FromSandbox {
        FromSandbox::Checkpoint { id: id(), tenant: TenantName::default(), number, data: vec![0; bytes].into() }
    }

    fn ended() -> FromSandbox {
        let outcome = Outcome { backtrace: vec!["é".repeat(400); 100], ..Outcome::default() };
        let (usage, output, captured) = (Usage::default(), Bytes::new(), Bytes::new());
        let tenant = TenantName::default();
        FromSandbox::Ended(Box::new(Ended { id: id(), tenant, outcome, usage, output, captured, repeatable: false }))
    }

    #[test]
    fn up_to_the_inline_size_nothing_is_stored() {
        let mut results = Results::default();
        let limit = INLINE_BYTES_MAX as usize;
        assert!(matches!(results.take(checkpoint(1, limit - 1)), Next::Hear(_)));
        assert!(matches!(results.take(checkpoint(2, limit)), Next::Hear(_)));
        assert!(matches!(results.take(checkpoint(3, limit + 1)), Next::Store(..)));
        assert_eq!(results.storing.len(), 1);
    }

    #[test]
    fn what_comes_while_something_is_stored_waits_and_the_newest_checkpoint_is_enough() {
        let mut results = Results::default();
        let large = INLINE_BYTES_MAX as usize + 1;
        assert!(matches!(results.take(checkpoint(1, large)), Next::Store(..)));
        for said in [checkpoint(2, 1), checkpoint(3, large), ended()] {
            assert!(matches!(results.take(said), Next::Wait));
        }
        // The end still waits for the third checkpoint.
        let next = results.stored(id());
        assert!(matches!(next[..], [Next::Store(_, _, Large::Checkpoint(_, 3, _)), Next::Wait]), "{next:?}");
        let next = results.stored(id());
        assert!(matches!(next[..], [Next::Hear(Input::Ended(_))]), "{next:?}");
        assert_eq!(results.storing.len(), 0);
    }

    #[test]
    fn backtraces_are_bounded() {
        let Next::Hear(Input::Ended(ended)) = Results::default().take(ended()) else { panic!("not an end") };
        assert_eq!(ended.outcome.backtrace.len(), Outcome::BACKTRACE_FRAMES_MAX);
        assert!(ended.outcome.backtrace.iter().all(|frame| frame.len() == Outcome::FRAME_BYTES_MAX));
    }
}
