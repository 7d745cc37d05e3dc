//! What clients of a node that does not lead ask, carried to the leader.
//!
//! Only what nobody has heard is asked again: a request without an answer may have been done, and is answered so.

mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use wasmill_fabric::{Bus, BusError, Responder};
use wasmill_protocol::LogSeq;
use wasmill_protocol::command::{Command, Overload, Refusal, Reply};
use wasmill_protocol::message::control::{self, ControlAnswer, ControlRequest};

use super::dispatch::encode;
use crate::handle::{Answer, Request, Shared};

/// Requests that are on their way to the leader at once; what comes then is refused.
const FORWARDS_MAX: usize = 512;
/// How long a leader is looked for that hears a request.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks for a leader, when no news of one come in between.
const LEADER_RETRY: Duration = Duration::from_millis(50);
/// How long the leader may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long it is waited for a record that the leader has answered with.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client is told to wait when too much is on its way.
const RETRY_MS: u64 = 500;

/// See the module.
#[derive(Clone)]
pub(super) struct Forwarder {
    bus: Arc<dyn Bus>,
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
}

impl Forwarder {
    /// Asks over this bus.
    pub(super) fn new(bus: Arc<dyn Bus>, shared: Arc<Shared>) -> Self {
        Self { bus, shared, room: Arc::new(Semaphore::new(FORWARDS_MAX)) }
    }

    /// Carries one request to the leader and its answer back, without waiting for it.
    pub(super) fn forward(&self, request: Request) {
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            refuse(request, &Refusal::Overloaded { what: Overload::Commands, retry_ms: RETRY_MS });
            return;
        };
        let forwarder = self.clone();
        tokio::spawn(async move {
            forwarder.carry(request).await;
            drop(permit);
        });
    }

    async fn carry(&self, request: Request) {
        match request {
            Request::Command(command, answer) => {
                let mut answers = self.commands(vec![*command]).await;
                let _ = answer.send(answers.pop().unwrap_or(Err(Refusal::NotLeader)));
            }
            Request::Commands(commands, answer) => drop(answer.send(self.commands(commands).await)),
            Request::Explain(tasks, answer) => {
                if let Some(ControlAnswer::Explained(explained)) = self.ask(&ControlRequest::Explain(tasks)).await {
                    let _ = answer.send(explained.into_iter().map(wire::waiting).collect());
                }
            }
            Request::Overview(answer) => {
                if let Some(ControlAnswer::Overview(overview)) = self.ask(&ControlRequest::Overview).await {
                    let _ = answer.send(wire::overview(*overview));
                }
            }
            Request::Drain(host, draining, answer) => {
                if let Some(ControlAnswer::Drained { known }) =
                    self.ask(&ControlRequest::Drain { host, draining }).await
                {
                    let _ = answer.send(known);
                }
            }
        }
    }

    /// Asks for all of these, and waits until this node shows what was done: whoever is answered finds it here.
    async fn commands(&self, commands: Vec<Command>) -> Vec<Answer> {
        let pieces = split(ControlRequest::Commands(commands), self.bus.payload_bytes_max());
        let asked = pieces.into_iter().map(|(payload, count)| async move {
            let answer = match payload {
                Some(payload) => self.ask_encoded(payload).await,
                None => None,
            };
            match answer {
                Some(ControlAnswer::Replies(replies)) if replies.len() == count => {
                    replies.into_iter().map(wire::answer).collect()
                }
                _ => vec![Err(Refusal::NotLeader); count],
            }
        });
        let answers: Vec<Answer> = join_all(asked).await.into_iter().flatten().collect();
        let last = answers.iter().filter_map(|answer| answer.as_ref().ok()).map(|(seq, _)| *seq).max();
        self.reach(last.unwrap_or_default()).await;
        answers
    }

    async fn ask(&self, request: &ControlRequest) -> Option<ControlAnswer> {
        self.ask_encoded(encode(request)).await
    }

    /// Asks the leader that this node knows of, or the next one, until one has heard it.
    async fn ask_encoded(&self, payload: Bytes) -> Option<ControlAnswer> {
        let deadline = Instant::now() + LEADER_PATIENCE;
        let mut standing = self.shared.standing.subscribe();
        loop {
            let term = standing.borrow_and_update().term;
            match self.bus.request(&control::commands(term), payload.clone(), ANSWER_TIMEOUT).await {
                Ok(answer) => {
                    return rmp_serde::from_slice(&answer)
                        .inspect_err(|error| tracing::warn!(%error, "the leader's answer is not readable"))
                        .ok();
                }
                // Nobody has heard it.
                Err(BusError::NoSubscriber(_) | BusError::Full(_)) if Instant::now() < deadline => {}
                Err(error) => {
                    tracing::debug!(%error, %term, "the leader has not answered");
                    return None;
                }
            }
            let _ = tokio::time::timeout(LEADER_RETRY, standing.changed()).await;
        }
    }

    /// Waits until this node has published a record, for a bounded time.
    async fn reach(&self, seq: LogSeq) {
        let mut published = self.shared.published.subscribe();
        if tokio::time::timeout(CATCH_UP_PATIENCE, published.wait_for(|last| *last >= seq)).await.is_err() {
            tracing::warn!(%seq, "this node is far behind the leader");
        }
    }
}

/// The commands in as many messages as the bus needs, each with their number; without a message, when one command alone is too large for the bus.
fn split(request: ControlRequest, bytes_max: usize) -> Vec<(Option<Bytes>, usize)> {
    let encoded = encode(&request);
    let ControlRequest::Commands(mut commands) = request else { unreachable!("only commands are split") };
    if encoded.len() <= bytes_max {
        return vec![(Some(encoded), commands.len())];
    }
    if commands.len() <= 1 {
        return vec![(None, commands.len())];
    }
    let rest = commands.split_off(commands.len() / 2);
    let mut pieces = split(ControlRequest::Commands(commands), bytes_max);
    pieces.extend(split(ControlRequest::Commands(rest), bytes_max));
    pieces
}

/// Answers without asking anybody. Who asks what is going on gets no answer, which they take for "not now".
pub(super) fn refuse(request: Request, refusal: &Refusal) {
    match request {
        Request::Command(_, answer) => drop(answer.send(Err(refusal.clone()))),
        Request::Commands(commands, answer) => drop(answer.send(vec![Err(refusal.clone()); commands.len()])),
        Request::Explain(..) | Request::Overview(_) | Request::Drain(..) => {}
    }
}

/// What a follower asks of this leader, as a request of our own; `respond` is to be spawned, and carries the answer back.
pub(super) fn received(payload: &[u8], responder: Responder) -> Option<(Request, impl Future<Output = ()> + use<>)> {
    let request: ControlRequest = rmp_serde::from_slice(payload)
        .inspect_err(|error| tracing::warn!(%error, "another node's request is not readable"))
        .ok()?;
    let (request, answered) = wire::receive(request);
    let respond = async move {
        let answer = answered.await.unwrap_or(ControlAnswer::LeadershipLost);
        responder.respond(encode(&answer));
    };
    Some((request, respond))
}

/// A command's answer as it travels.
fn reply(answer: Answer) -> Reply {
    match answer {
        Ok((seq, done)) => Reply::Done { seq, done },
        Err(refusal) => Reply::Refused(refusal),
    }
}

#[cfg(test)]
mod tests {
    use wasmill_protocol::TenantName;

    use super::*;

    #[test]
    fn commands_are_split_in_order_and_none_is_lost() {
        let command = |bytes: usize| Command::Cancel {
            tenant: TenantName::default_tenant(),
            task: Default::default(),
            reason: Some("x".repeat(bytes)),
        };
        let commands = vec![command(100), command(2_000), command(300), command(400), command(10)];
        let pieces = split(ControlRequest::Commands(commands.clone()), 1_000);
        let counts: Vec<_> = pieces.iter().map(|(payload, count)| (payload.is_some(), *count)).collect();
        assert_eq!(counts, [(true, 1), (false, 1), (true, 1), (true, 2)]);
        let carried: Vec<Command> = pieces
            .iter()
            .filter_map(|(payload, _)| payload.as_ref())
            .flat_map(|payload| match rmp_serde::from_slice(payload).unwrap() {
                ControlRequest::Commands(commands) => commands,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(carried, [&commands[..1], &commands[2..]].concat());
    }
}
