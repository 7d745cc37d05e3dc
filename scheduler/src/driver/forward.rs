//! Carries what clients of a node that does not lead ask to the leader and back, as [`Forwards`]
//! says; and hears on a leader what other nodes ask.

mod presence;
mod shared;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{AbortHandle, Abortable, BoxFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use wasmill_fabric::{Bus, BusError};
use wasmill_protocol::command::{Overload, Refusal};
use wasmill_protocol::message::control::{self, ControlAnswer, ControlCall, ControlRequest, LeaderOverview};
use wasmill_scheduler_core::io::Waiting;
use wasmill_scheduler_node::forward::{Action, Asked, Config, ForwardId, Outcome, Told};

use super::dispatch::encode;
use crate::handle::{Answer, Overview, Request, Shared};

pub(super) use presence::PresenceAsker;
pub(crate) use shared::SharedForwards;
pub(super) use wire::{question, replies};

/// How long a client is told to wait when too much is on its way.
const RETRY_MS: u64 = 500;

/// The way to a [`Forwarder`], which ends once this is dropped and nobody waits any more.
pub(super) struct ForwarderHandle(mpsc::Sender<Request>);

impl ForwarderHandle {
    /// Carries one request to the leader and its answer back, without waiting for it.
    pub(super) fn forward(&self, request: Request) {
        if let Err(full) = self.0.try_send(request) {
            refuse(full.into_inner(), &overloaded());
        }
    }
}

fn overloaded() -> Refusal {
    Refusal::Overloaded { what: Overload::Commands, retry_ms: RETRY_MS }
}

/// See the module.
struct Forwarder {
    bus: Arc<dyn Bus>,
    shared: Arc<Shared>,
    /// Tells what this process asks from what others do.
    asker: u64,
    requests: mpsc::Receiver<Request>,
    waiting: HashMap<ForwardId, Waits>,
    /// Asked over the bus and not answered.
    calls: FuturesUnordered<BoxFuture<'static, Option<Called>>>,
    /// Ends the newest of each call.
    aborts: HashMap<u64, AbortHandle>,
}

/// What came of asking over the bus.
struct Called {
    number: u64,
    tries: u32,
    outcome: Outcome,
}

/// Where an answer goes.
enum Waits {
    Command(oneshot::Sender<Answer>),
    Commands(oneshot::Sender<Vec<Answer>>),
    Check(oneshot::Sender<Option<Refusal>>),
    Explain(oneshot::Sender<Vec<Waiting>>),
    /// With what the pages so far have said.
    Overview(oneshot::Sender<Overview>, Option<LeaderOverview>),
}

/// Begins to forward over this bus. `asker` is drawn for this process.
pub(super) fn begin(bus: Arc<dyn Bus>, shared: Arc<Shared>, asker: u64) -> ForwarderHandle {
    let (sender, requests) = mpsc::channel(Config::default().forwards_max);
    let (waiting, aborts) = (HashMap::new(), HashMap::new());
    let forwarder = Forwarder { bus, shared, asker, requests, waiting, calls: FuturesUnordered::new(), aborts };
    tokio::spawn(forwarder.run());
    ForwarderHandle(sender)
}

impl Forwarder {
    async fn run(mut self) {
        let mut is_open = true;
        while is_open || !self.waiting.is_empty() {
            let next = self.carry_out();
            tokio::select! {
                request = self.requests.recv(), if is_open => match request {
                    Some(request) => self.asked(request),
                    None => is_open = false,
                },
                Some(called) = self.calls.next(), if !self.calls.is_empty() => {
                    if let Some(Called { number, tries, outcome }) = called {
                        self.aborts.remove(&number);
                        self.shared.forwards.with(|now_us, forwards| forwards.heard(now_us, number, tries, outcome));
                    }
                }
                () = self.shared.forwards.read_on() => {}
                () = sleep_until(next) => self.shared.forwards.with(|now_us, forwards| forwards.tick(now_us)),
            }
        }
    }

    /// A client asks something that only a leader can do.
    fn asked(&mut self, request: Request) {
        if !self.shared.forwards.with(|_, forwards| forwards.has_room()) {
            return refuse(request, &overloaded());
        }
        let (asked, waits) = match request {
            Request::Command(command, answer) => (Asked::Commands(vec![*command]), Waits::Command(answer)),
            Request::Commands(commands, answer) => (Asked::Commands(commands), Waits::Commands(answer)),
            Request::Check(command, answer) => (Asked::Question(ControlRequest::Check(command)), Waits::Check(answer)),
            Request::Explain(tasks, answer) => {
                (Asked::Question(ControlRequest::Explain(tasks)), Waits::Explain(answer))
            }
            Request::Overview(answer) => (Asked::Question(ControlRequest::Overview), Waits::Overview(answer, None)),
            // Told by the leader's own page alone.
            Request::Load(_) => return,
        };
        self.ask(asked, waits);
    }

    fn ask(&mut self, asked: Asked, waits: Waits) {
        let id = self.shared.forwards.with(|now_us, forwards| forwards.ask(now_us, asked));
        self.waiting.insert(id, waits);
    }

    /// Does what the machine says. When it is to be stepped next.
    fn carry_out(&mut self) -> Option<Instant> {
        loop {
            let (actions, next) = self.shared.forwards.take_ready();
            if actions.is_empty() {
                return next;
            }
            for action in actions {
                match action {
                    Action::Ask { number, tries, term, request, patience_us, .. } => {
                        let call = ControlCall { asker: self.asker, number, request };
                        let subject = control::commands(term);
                        let answer = self.bus.request(&subject, encode(&call), Duration::from_micros(patience_us));
                        let shared = Arc::clone(&self.shared);
                        let called = answer.map(move |answer| {
                            let outcome = outcome(answer);
                            if matches!(&outcome, Outcome::Answer(answer) if *answer != ControlAnswer::LeadershipLost) {
                                shared.leader_answers(term);
                            }
                            Called { number, tries, outcome }
                        });
                        let (abort, aborted) = AbortHandle::new_pair();
                        self.aborts.insert(number, abort);
                        self.calls.push(Abortable::new(called, aborted).map(Result::ok).boxed());
                    }
                    Action::Forget { number } => {
                        if let Some(abort) = self.aborts.remove(&number) {
                            abort.abort();
                        }
                    }
                    Action::Concluded { number, fate } => {
                        tracing::debug!(number, ?fate, "what became of a command whose answer was lost");
                    }
                    Action::Tell { id, told } => self.tell(id, told),
                }
            }
        }
    }

    fn tell(&mut self, id: ForwardId, told: Told) {
        match (self.waiting.remove(&id), told) {
            (Some(Waits::Command(answer)), Told::Commands(mut answers)) => {
                self.count(&answers);
                let _ = answer.send(answers.pop().unwrap_or(Err(Refusal::NotLeader)));
            }
            (Some(Waits::Commands(answer)), Told::Commands(answers)) => {
                self.count(&answers);
                let _ = answer.send(answers);
            }
            (Some(Waits::Check(answer)), Told::Question(Some(ControlAnswer::Checked(refusal)))) => {
                let _ = answer.send(refusal);
            }
            (Some(Waits::Explain(answer)), Told::Question(Some(ControlAnswer::Explained(explained)))) => {
                let _ = answer.send(explained.into_iter().map(wire::waiting).collect());
            }
            (Some(Waits::Overview(answer, before)), Told::Question(Some(ControlAnswer::Overview(page)))) => {
                self.overview(answer, before, *page);
            }
            // Who asks what is going on gets no answer, which they take for "not now".
            (Some(_) | None, _) => {}
        }
    }

    /// What is going on, with all hosts, in as many messages as that takes.
    fn overview(
        &mut self,
        answer: oneshot::Sender<Overview>,
        before: Option<LeaderOverview>,
        mut page: LeaderOverview,
    ) {
        if let Some(before) = before {
            page.hosts.splice(..0, before.hosts);
        }
        let last = page.hosts.last().filter(|_| page.hosts_follow).map(|host| host.info.id.clone());
        match last {
            Some(last) if self.shared.forwards.with(|_, forwards| forwards.has_room()) => {
                let next = Asked::Question(ControlRequest::OverviewAfter(last));
                self.ask(next, Waits::Overview(answer, Some(page)));
            }
            Some(_) => {}
            None => drop(answer.send(wire::overview(page))),
        }
    }

    fn count(&self, answers: &[Answer]) {
        for answer in answers {
            let result = match answer {
                Ok(_) => "done",
                Err(Refusal::NotLeader) => "nobody_leads",
                Err(Refusal::OutcomeUnknown) => "unknown",
                Err(_) => "refused",
            };
            self.shared.metrics.forwarded(result);
        }
    }
}

fn outcome(answer: Result<Bytes, BusError>) -> Outcome {
    match answer.as_deref().map(rmp_serde::from_slice) {
        Ok(Ok(answer)) => Outcome::Answer(answer),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the leader's answer is not readable");
            Outcome::Unanswered
        }
        Err(BusError::NoSubscriber(_) | BusError::Full(_)) => Outcome::Unheard,
        Err(BusError::TooLarge { .. }) => Outcome::TooLarge,
        Err(error @ (BusError::NoAnswer(_) | BusError::Unreachable(_))) => {
            tracing::debug!(%error, "the leader has not answered");
            Outcome::Unanswered
        }
    }
}

async fn sleep_until(next: Option<Instant>) {
    match next {
        Some(next) => tokio::time::sleep_until(next).await,
        None => std::future::pending().await,
    }
}

/// Answers without asking anybody. Who asks what is going on gets no answer, which they take for
/// "not now".
pub(super) fn refuse(request: Request, refusal: &Refusal) {
    match request {
        Request::Command(_, answer) => drop(answer.send(Err(refusal.clone()))),
        Request::Commands(commands, answer) => drop(answer.send(vec![Err(refusal.clone()); commands.len()])),
        Request::Check(_, answer) => drop(answer.send(Some(refusal.clone()))),
        Request::Explain(..) | Request::Overview(_) | Request::Load(_) => {}
    }
}
