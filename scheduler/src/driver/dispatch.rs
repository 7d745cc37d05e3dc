//! Carries one decided message to its host.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use wasmill_fabric::{Bus, Content};
use wasmill_protocol::message::{Assignment, HostAck, ToHost, subjects};
use wasmill_protocol::{AttemptId, HostId, Payload, TaskSpec, Term, Timestamp};
use wasmill_scheduler_core::io::MessageOut;
use wasmill_scheduler_node::post::Message;

use super::specs::SpecCache;
use super::trace;
use crate::handle::Shared;

/// How long a host may take to acknowledge. The core sends again what matters.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);

/// What the leader learns from a dispatch.
pub(super) enum DispatchResult {
    /// The host did not take these.
    Refused(HostId, Vec<AttemptId>),
    /// The host has seen a higher term: somebody else leads.
    TermSeen(Term),
}

/// A message and what is at hand of its tasks.
pub(super) struct Dispatch {
    message: MessageOut,
    at_hand: Vec<Option<(Arc<TaskSpec>, Payload)>>,
}

/// A message with its payloads.
pub(super) struct Attached {
    host: HostId,
    message: ToHost,
    /// Attempts whose tasks nobody knows.
    unknown: Vec<AttemptId>,
}

impl Dispatch {
    /// Looks the tasks up in the cache.
    pub(super) fn new(message: MessageOut, specs: &SpecCache) -> Self {
        let at_hand = message.assign.iter().map(|(id, _)| specs.get(id.task)).collect();
        Self { message, at_hand }
    }

    /// To whom.
    pub(super) fn host(&self) -> &HostId {
        &self.message.host
    }

    /// The message as it is: it assigns nothing.
    pub(super) fn without_payloads(self) -> Attached {
        let MessageOut { host, incarnation, term, assign, stop } = self.message;
        assert!(assign.is_empty(), "an assignment needs its payload");
        Attached { host, message: ToHost { term, incarnation, assign: Vec::new(), stop }, unknown: Vec::new() }
    }

    /// Attaches the payloads.
    pub(super) async fn attach(self, shared: &Shared) -> Attached {
        let Self { message, mut at_hand } = self;
        let missing: Vec<_> = message
            .assign
            .iter()
            .zip(&at_hand)
            .filter(|(_, found)| found.is_none())
            .map(|((id, _), _)| id.task)
            .collect();
        if !missing.is_empty() {
            let mut found = shared.read_model.specs(&missing).await;
            for ((id, _), slot) in message.assign.iter().zip(&mut at_hand) {
                if slot.is_none() {
                    *slot = found.remove(&id.task);
                }
            }
        }
        let mut to_host = ToHost {
            term: message.term,
            incarnation: message.incarnation,
            assign: Vec::with_capacity(message.assign.len()),
            stop: message.stop,
        };
        let mut unknown = Vec::new();
        let directory = shared.directory.read();
        for ((id, queue_us), found) in message.assign.into_iter().zip(at_hand) {
            match found {
                Some((spec, checkpoint)) => {
                    let owner = directory.tenants.get(&spec.tenant);
                    let (tenant_since, class) =
                        owner.map_or((Timestamp(0), 0), |(tenant, since)| (*since, tenant.class));
                    let compile_ms_per_s = owner.and_then(|(tenant, _)| tenant.quotas.compile_ms_per_s);
                    to_host.assign.push(Assignment {
                        id,
                        spec,
                        checkpoint,
                        queue_us,
                        tenant_since,
                        compile_ms_per_s,
                        class,
                    });
                }
                None => unknown.push(id),
            }
        }
        Attached { host: message.host, message: to_host, unknown }
    }
}

impl Message for Dispatch {
    fn take_stops(&mut self) -> Option<Self> {
        self.message.take_stops().map(|message| Self { message, at_hand: Vec::new() })
    }
}

impl Attached {
    /// The pieces that the bus needs, each of which is sent when it is first polled and ends when the host has acknowledged it. What the host did not
    /// take is reported.
    pub(super) fn send(
        self,
        bus: &dyn Bus,
        results: mpsc::Sender<DispatchResult>,
    ) -> Vec<impl Future<Output = ()> + Send + use<>> {
        let Self { host, message, unknown } = self;
        if !unknown.is_empty() {
            tracing::error!(%host, tasks = unknown.len(), "the read model does not know tasks that are to be dispatched");
        }
        let spans: Arc<[_]> = trace::dispatch(&host, &message).into();
        let mut unknown = Some(unknown).filter(|unknown| !unknown.is_empty());
        let mut pieces = Vec::new();
        let contents =
            if bus.is_local() { vec![Content::of(message)] } else { split(message, bus.payload_bytes_max()) };
        for content in contents {
            let request = bus.ask(&subjects::host(&host), content, ACK_TIMEOUT);
            let (host, results, spans, unknown) = (host.clone(), results.clone(), Arc::clone(&spans), unknown.take());
            pieces.push(async move {
                let answer = request.await;
                if let Some(unknown) = unknown {
                    let _ = results.send(DispatchResult::Refused(host.clone(), unknown)).await;
                }
                match answer {
                    Ok(answer) => acknowledged(host, answer, &results).await,
                    Err(error) => {
                        tracing::debug!(%host, %error, "a message to a host was not acknowledged");
                        trace::unanswered(&spans);
                    }
                }
            });
        }
        pieces
    }
}

async fn acknowledged(host: HostId, answer: Content, results: &mpsc::Sender<DispatchResult>) {
    let Ok(ack) = answer.read::<HostAck>() else {
        tracing::warn!(%host, "a host's acknowledgement is not readable");
        return;
    };
    if let Some(term) = ack.term_seen {
        let _ = results.send(DispatchResult::TermSeen(term)).await;
    }
    if !ack.refused.is_empty() {
        let _ = results.send(DispatchResult::Refused(host, ack.refused)).await;
    }
}

/// The message in as many pieces as the bus needs. A piece that is too large with a single assignment stays as it is, and the bus refuses it.
fn split(mut message: ToHost, bytes_max: usize) -> Vec<Content> {
    let encoded = encode(&message);
    if encoded.len() <= bytes_max || message.assign.len() <= 1 {
        return vec![encoded.into()];
    }
    let rest = ToHost {
        term: message.term,
        incarnation: message.incarnation,
        assign: message.assign.split_off(message.assign.len() / 2),
        stop: std::mem::take(&mut message.stop),
    };
    let mut pieces = split(message, bytes_max);
    pieces.extend(split(rest, bytes_max));
    pieces
}

/// A message as it travels.
pub(super) fn encode<T: serde::Serialize>(message: &T) -> Bytes {
    match rmp_serde::to_vec_named(message) {
        Ok(bytes) => bytes.into(),
        Err(error) => unreachable!("messages are always encodable: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use wasmill_protocol::message::StopCause;

    use super::*;

    #[test]
    fn a_large_message_is_split_and_stops_come_last() {
        let spec = Arc::new(TaskSpec { input: Payload::Inline(vec![7; 1_000].into()), ..TaskSpec::default() });
        let assign = vec![Assignment { spec, ..Assignment::default() }; 9];
        let message = ToHost { assign, stop: vec![(AttemptId::default(), StopCause::Cancelled)], ..ToHost::default() };
        let pieces: Vec<ToHost> = split(message, 4_000).into_iter().map(|piece| piece.read().unwrap()).collect();
        let counts: Vec<_> = pieces.iter().map(|piece| (piece.assign.len(), piece.stop.len())).collect();
        assert_eq!(counts.iter().map(|(assigned, _)| assigned).sum::<usize>(), 9);
        assert!(pieces.len() >= 3, "{counts:?}");
        assert_eq!(counts.iter().rposition(|(_, stopped)| *stopped == 1), Some(pieces.len() - 1));
    }
}
