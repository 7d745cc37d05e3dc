//! What clients of a node that does not lead ask, carried to the leader.
//!
//! A command whose leader has gone before it answered may have been recorded. Every record names the commands that it decides, so this node knows as
//! soon as it has read where the next term begins: a command that was not recorded is asked of the next leader. Where the log does not tell, the client is
//! told that the outcome is unknown.

mod heard;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use wasmill_fabric::{Bus, BusError, Responder};
use wasmill_protocol::command::{Command, Overload, Refusal, Reply};
use wasmill_protocol::message::control::{self, ControlAnswer, ControlCall, ControlRequest, LeaderOverview};
use wasmill_protocol::{LogSeq, Term};
use wasmill_scheduler_node::recorded::{Fate, Name};

use super::dispatch::encode;
use crate::handle::{Answer, Overview, Request, Shared};

use heard::Before;

pub(super) use heard::Heard as HeardBefore;

/// Requests that are on their way to the leader at once; what comes then is refused.
const FORWARDS_MAX: usize = 512;
/// How long a leader is looked for that hears a request.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks for a leader, when no news of one come in between.
const LEADER_RETRY: Duration = Duration::from_millis(50);
/// How long a command may take, over however many leaders.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// How long it is waited for a record that the leader has answered with.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client is told to wait when too much is on its way.
const RETRY_MS: u64 = 500;

/// What came of asking a leader that may have heard it.
#[derive(Debug, Clone, PartialEq)]
enum Heard<T> {
    /// Its answer.
    Answer(T),
    /// It leads no longer, or is silent.
    Doubt(Doubt),
}

/// When something was asked whose answer has not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Doubt {
    /// Of the leader that was asked.
    term: Term,
    /// What this node had read before: what was recorded of it comes later.
    position: LogSeq,
}

/// Names a call of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Call {
    /// Who asks.
    pub(super) asker: u64,
    /// In which of its calls.
    pub(super) number: u64,
}

/// What is done when an answer of a leader was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    /// It is asked for again under the same name, unless the log shows first that all commands of the call are recorded.
    IsAskedAgain {
        /// The call.
        number: u64,
        /// Its commands.
        places: u32,
    },
    /// That is all: the question can be asked anew.
    IsNotAnswered,
}

/// What is known of the leader of a term after it was asked for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// It is there.
    Leads,
    /// It has not answered.
    Silent,
    /// Nobody leads in that term any more.
    Gone,
}

/// See the module.
#[derive(Clone)]
pub(super) struct Forwarder {
    bus: Arc<dyn Bus>,
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    /// Tells what this process asks from what others do.
    asker: u64,
    /// How often it was asked whether a leader is there.
    presences: Arc<AtomicU64>,
}

impl Forwarder {
    /// Asks over this bus. `asker` is drawn for this process.
    pub(super) fn new(bus: Arc<dyn Bus>, shared: Arc<Shared>, asker: u64) -> Self {
        Self { bus, shared, room: Arc::new(Semaphore::new(FORWARDS_MAX)), asker, presences: Arc::default() }
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
            Request::Check(command, answer) => {
                if let Some(ControlAnswer::Checked(refusal)) = self.ask(ControlRequest::Check(command)).await {
                    let _ = answer.send(refusal);
                }
            }
            Request::Explain(tasks, answer) => {
                if let Some(ControlAnswer::Explained(explained)) = self.ask(ControlRequest::Explain(tasks)).await {
                    let _ = answer.send(explained.into_iter().map(wire::waiting).collect());
                }
            }
            Request::Overview(answer) => {
                if let Some(overview) = self.overview().await {
                    let _ = answer.send(overview);
                }
            }
            // Told by the leader's own page alone.
            Request::Load(answer) => drop(answer),
        }
    }

    /// Asks for all of these, and waits until this node shows what was done: whoever is answered finds it here.
    async fn commands(&self, commands: Vec<Command>) -> Vec<Answer> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        let mut answers = vec![Err(Refusal::NotLeader); commands.len()];
        // Those that are still to be asked, with their places.
        let mut open: Vec<_> = commands.into_iter().enumerate().collect();
        while !open.is_empty() {
            let heard = self.hear(open.iter().map(|(_, command)| command.clone()).collect(), deadline).await;
            let mut doubtful = Vec::new();
            for ((place, command), (name, heard)) in std::mem::take(&mut open).into_iter().zip(heard) {
                match heard {
                    Heard::Answer(answer) => answers[place] = answer,
                    Heard::Doubt(doubt) => doubtful.push((place, command, name, doubt)),
                }
            }
            for (place, command, name, doubt) in doubtful {
                match self.clear_up(doubt, name, deadline).await {
                    Some(answer) => answers[place] = answer,
                    None => open.push((place, command)),
                }
            }
        }
        let last = answers.iter().filter_map(|answer| answer.as_ref().ok()).map(|(seq, _)| *seq).max();
        self.reach(last.unwrap_or_default()).await;
        let published = *self.shared.published.borrow();
        for answer in &mut answers {
            // Whoever was told of it would not find it here.
            if answer.as_ref().is_ok_and(|(seq, _)| *seq > published) {
                *answer = Err(Refusal::OutcomeUnknown);
            }
        }
        self.count(&answers);
        answers
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

    /// Asks for all of these once; what is heard comes in the same order, each with the name under which it was asked.
    async fn hear(&self, commands: Vec<Command>, deadline: Instant) -> Vec<(Name, Heard<Answer>)> {
        let call = |commands| self.call(ControlRequest::Commands(commands));
        let pieces = split(&call, commands, self.bus.payload_bytes_max());
        let asked = pieces.into_iter().map(|(call, count)| async move {
            let unheard = || vec![Heard::Answer(Err(Refusal::NotLeader)); count];
            let (number, heard) = match call {
                Some((number, payload)) => (number, self.ask_piece(number, payload, count, deadline).await),
                None => (0, None),
            };
            (0..).map(|place| (number, place)).zip(heard.unwrap_or_else(unheard)).collect::<Vec<_>>()
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Asks for the commands of one call; none when nobody has heard it.
    async fn ask_piece(
        &self,
        number: u64,
        payload: Bytes,
        count: usize,
        deadline: Instant,
    ) -> Option<Vec<Heard<Answer>>> {
        let places = u32::try_from(count).unwrap_or(u32::MAX);
        match self.ask_encoded(payload, deadline, Lost::IsAskedAgain { number, places }).await? {
            Heard::Answer(ControlAnswer::Replies(replies)) if replies.len() == count => {
                Some(replies.into_iter().map(|reply| Heard::Answer(wire::answer(reply))).collect())
            }
            Heard::Doubt(doubt) => Some(vec![Heard::Doubt(doubt); count]),
            Heard::Answer(_) => None,
        }
    }

    /// The answer to a command that an earlier leader may have heard; none when it is to be asked again.
    async fn clear_up(&self, doubt: Doubt, name: Name, deadline: Instant) -> Option<Answer> {
        let mut standing = self.shared.standing.subscribe();
        let mut published = self.shared.published.subscribe();
        let later = standing.wait_for(|standing| standing.term > doubt.term);
        let began = tokio::select! {
            later = tokio::time::timeout_at(deadline, later) => match later {
                Ok(Ok(standing)) => Some(standing.began),
                Ok(Err(_)) | Err(_) => None,
            },
            _ = self.shown(name) => None,
        };
        if let Some(began) = began {
            let read = published.wait_for(|last| *last >= began);
            let _ = tokio::time::timeout_at(deadline, read).await.map(drop);
        }
        let fate = self.shared.recorded().fate(name, doubt.position, began.unwrap_or(LogSeq(u64::MAX)));
        match fate {
            Fate::Done(seq, done) => Some(Ok((seq, done))),
            Fate::NotRecorded => None,
            Fate::Unknown => Some(Err(Refusal::OutcomeUnknown)),
        }
    }

    /// Waits until this node shows a record that decides a command.
    async fn shown(&self, name: Name) {
        let mut published = self.shared.published.subscribe();
        // What it yields must not be held while something else is waited for.
        drop(published.wait_for(|_| self.shared.recorded().done(name).is_some()).await);
    }

    /// What is going on, with all hosts, in as many messages as that takes.
    async fn overview(&self) -> Option<Overview> {
        let mut overview: Option<LeaderOverview> = None;
        loop {
            let last = overview.as_ref().and_then(|overview| overview.hosts.last());
            let next = last.map(|host| ControlRequest::OverviewAfter(host.info.id.clone()));
            let answer = self.ask(next.unwrap_or(ControlRequest::Overview)).await;
            let Some(ControlAnswer::Overview(mut next)) = answer else { return None };
            if let Some(before) = overview {
                next.hosts.splice(..0, before.hosts);
            }
            if !next.hosts_follow {
                return Some(wire::overview(*next));
            }
            overview = Some(*next);
        }
    }

    /// Asks what changes nothing, so that it can be asked again, under another name.
    async fn ask(&self, request: ControlRequest) -> Option<ControlAnswer> {
        let deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            match self.ask_encoded(self.call(request.clone()).1, deadline, Lost::IsNotAnswered).await? {
                Heard::Answer(answer) => return Some(answer),
                Heard::Doubt(_) if Instant::now() >= deadline => return None,
                Heard::Doubt(_) => tokio::time::sleep(LEADER_RETRY).await,
            }
        }
    }

    /// Whether the leader of a term is there. What it is asked costs it nothing.
    pub(super) async fn presence(&self, term: Term, timeout: Duration) -> Presence {
        let number = self.presences.fetch_add(1, Ordering::Relaxed);
        // Its own numbers, so that what clients have asked for can be counted.
        let call = ControlCall { asker: self.asker ^ 1, number, request: ControlRequest::Explain(Vec::new()) };
        let answer = self.bus.request(&control::commands(term), encode(&call), timeout).await;
        match answer.as_deref().map(rmp_serde::from_slice) {
            Ok(Ok(ControlAnswer::LeadershipLost)) | Err(BusError::NoSubscriber(_)) => Presence::Gone,
            // With more to do than it takes in, it is there all the same.
            Ok(_) | Err(BusError::Full(_)) => Presence::Leads,
            Err(_) => Presence::Silent,
        }
    }

    /// A request as it travels, under a number that no other has.
    fn call(&self, request: ControlRequest) -> (u64, Bytes) {
        let number = self.shared.asked.fetch_add(1, Ordering::Relaxed);
        (number, encode(&ControlCall { asker: self.asker, number, request }))
    }

    /// Whether this node shows records that decide all commands of a call.
    fn is_recorded(&self, lost: Lost) -> bool {
        let Lost::IsAskedAgain { number, places } = lost else { return false };
        let recorded = self.shared.recorded();
        (0..places).all(|place| recorded.done((number, place)).is_some())
    }

    /// Asks the leader that this node knows of, or the next one, until one has heard it; none when nobody has. Waits for the answer no longer than that
    /// leader leads, as far as this node knows. An answer that was lost is asked for again under the same name, which is decided once.
    async fn ask_encoded(&self, payload: Bytes, deadline: Instant, lost: Lost) -> Option<Heard<ControlAnswer>> {
        let patience = deadline.min(Instant::now() + LEADER_PATIENCE);
        let mut standing = self.shared.standing.subscribe();
        // Since when a leader may have heard it.
        let mut heard: Option<Doubt> = None;
        loop {
            let term = standing.borrow_and_update().term;
            let now = Doubt { term, position: *self.shared.published.borrow() };
            let doubt = heard.unwrap_or(now);
            // The leader is asked again first: it has the answer. One that stays silent is not needed where the log tells.
            let is_over = || Instant::now() >= deadline || (Instant::now() >= patience && self.is_recorded(lost));
            if term > doubt.term || (heard.is_some() && is_over()) {
                return Some(Heard::Doubt(doubt));
            }
            let mut later = standing.clone();
            let timeout = deadline.saturating_duration_since(Instant::now());
            let answer = tokio::select! {
                answer = self.bus.request(&control::commands(term), payload.clone(), timeout) => answer,
                _ = later.wait_for(|standing| standing.term > term) => return Some(Heard::Doubt(doubt)),
            };
            match answer.as_deref().map(rmp_serde::from_slice) {
                Ok(Ok(ControlAnswer::LeadershipLost)) => return Some(Heard::Doubt(doubt)),
                Ok(Ok(answer)) => {
                    self.shared.leader_answers(term);
                    return Some(Heard::Answer(answer));
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the leader's answer is not readable");
                    return Some(Heard::Doubt(doubt));
                }
                Err(BusError::TooLarge { .. }) => return None,
                // Nobody has heard it.
                Err(BusError::NoSubscriber(_) | BusError::Full(_)) if heard.is_none() => {
                    if Instant::now() >= patience {
                        return None;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, %term, "the leader has not answered");
                    if lost == Lost::IsNotAnswered {
                        return Some(Heard::Doubt(doubt));
                    }
                    heard = Some(doubt);
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

/// The commands in as many calls as the bus needs, each with how many it has; without a message, when one command alone is too large for the bus.
fn split(
    call: &impl Fn(Vec<Command>) -> (u64, Bytes),
    mut commands: Vec<Command>,
    bytes_max: usize,
) -> Vec<(Option<(u64, Bytes)>, usize)> {
    let (number, encoded) = call(commands.clone());
    if encoded.len() <= bytes_max {
        return vec![(Some((number, encoded)), commands.len())];
    }
    if commands.len() <= 1 {
        return vec![(None, commands.len())];
    }
    let rest = commands.split_off(commands.len() / 2);
    let mut pieces = split(call, commands, bytes_max);
    pieces.extend(split(call, rest, bytes_max));
    pieces
}

/// Answers without asking anybody. Who asks what is going on gets no answer, which they take for "not now".
pub(super) fn refuse(request: Request, refusal: &Refusal) {
    match request {
        Request::Command(_, answer) => drop(answer.send(Err(refusal.clone()))),
        Request::Commands(commands, answer) => drop(answer.send(vec![Err(refusal.clone()); commands.len()])),
        Request::Check(_, answer) => drop(answer.send(Some(refusal.clone()))),
        Request::Explain(..) | Request::Overview(_) | Request::Load(_) => {}
    }
}

/// What a leader has to do about what a follower asks.
pub(super) struct Received<F> {
    /// In which call.
    pub(super) call: Call,
    /// To be decided, unless it was heard before.
    pub(super) request: Option<Request>,
    /// Carries the answer back; to be spawned.
    pub(super) respond: F,
}

/// What a follower asks of this leader. Nothing when it cannot be read, or was heard so long ago that nobody waits for its answer.
pub(super) fn received(
    payload: &[u8],
    responder: Responder,
    heard: &mut HeardBefore,
    bytes_max: usize,
) -> Option<Received<impl Future<Output = ()> + use<>>> {
    let ControlCall { asker, number, request } = rmp_serde::from_slice(payload)
        .inspect_err(|error| tracing::warn!(%error, "another node's request is not readable"))
        .ok()?;
    let (request, answering) = match heard.before(asker, number) {
        Before::New => {
            let changes = matches!(request, ControlRequest::Commands(_));
            let (request, answered) = wire::receive(request, bytes_max);
            let answered = answered.map(|answer| encode(&answer.unwrap_or(ControlAnswer::LeadershipLost)));
            let answering = heard::answering(answered);
            heard.remember(
                (asker, number),
                payload.len(),
                changes.then(|| answering.clone()),
                std::time::Instant::now(),
            );
            (Some(request), answering)
        }
        Before::Answering(answering) => {
            tracing::debug!(asker, number, "another node asks again: its answer was lost");
            (None, answering)
        }
        Before::Forgotten => {
            tracing::debug!(asker, number, "another node's request came twice");
            return None;
        }
    };
    Some(Received { call: Call { asker, number }, request, respond: async move { responder.respond(answering.await) } })
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
        let commands = vec![command(100), command(2_000), command(600), command(700), command(10)];
        let call =
            |commands| (1, encode(&ControlCall { asker: 1, number: 1, request: ControlRequest::Commands(commands) }));
        let pieces = split(&call, commands.clone(), 1_000);
        let counts: Vec<_> = pieces.iter().map(|(payload, count)| (payload.is_some(), *count)).collect();
        assert_eq!(counts, [(true, 1), (false, 1), (true, 1), (true, 2)]);
        let carried: Vec<Command> = pieces
            .iter()
            .filter_map(|(payload, _)| payload.as_ref())
            .flat_map(|(_, payload)| match rmp_serde::from_slice::<ControlCall>(payload).unwrap().request {
                ControlRequest::Commands(commands) => commands,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(carried, [&commands[..1], &commands[2..]].concat());
    }
}
