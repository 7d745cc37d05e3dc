//! What happens, told to the core.

use std::sync::Arc;

use tokio::task::JoinError;
use wasmill_fabric::Message;
use wasmill_host_core::{Input, ReplyTo};
use wasmill_protocol::message::{ReportAck, ToHost};
use wasmill_protocol::{AttemptId, Outcome, OutcomeKind};

use super::{Agent, Done};
use crate::agent::readiness::Made;
use crate::agent::results::{Next, Stored, store};
use crate::agent::{AgentError, GIVE_UP_MS, join};
use crate::channel::{FromSandbox, ToSandbox};
use crate::sandbox::LoadError;
use crate::slots::Lane;

impl Agent {
    pub(super) fn hear_leader(&mut self, message: Message) {
        self.ended = 0;
        match rmp_serde::from_slice::<ToHost>(&message.payload) {
            Ok(decoded) => {
                let reply_to = ReplyTo(self.responders.len() as u64);
                self.responders.push(message.responder);
                self.step(Input::Message { reply_to, message: decoded });
            }
            Err(error) => {
                tracing::warn!(bytes = message.payload.len(), "cannot decode a message of the leader: {error}")
            }
        }
    }

    pub(super) fn hear_sandbox(&mut self, said: FromSandbox) {
        if let FromSandbox::Ended(ended) = &said {
            self.known.learn(ended);
            self.metrics.ended(ended.outcome.kind, &ended.usage);
        }
        let next = self.results.take(said);
        self.go_on(next);
    }

    pub(super) fn go_on(&mut self, next: Next) {
        match next {
            Next::Hear(input) => self.step(input),
            Next::Wait => {}
            Next::Store(id, tenant, said) => {
                let (stores, blobs) = (Arc::clone(&self.stores), Arc::clone(&self.blobs));
                self.doing.spawn(async move {
                    let Ok(_permit) = stores.acquire(Lane::Tenant(tenant)).await else {
                        unreachable!("lines are endless")
                    };
                    Done::Stored(id, store(blobs, said).await)
                });
            }
        }
    }

    pub(super) fn hear_done(&mut self, done: Result<Done, JoinError>) -> Result<(), AgentError> {
        match done {
            Ok(Done::Reported(number, Some(ReportAck { term }))) => self.step(Input::Acknowledged { number, term }),
            Ok(Done::Reported(number, None)) => self.step(Input::RequestFailed(number)),
            Ok(Done::Prepared(id, prepared)) => {
                // One that was stopped in the meantime has ended already.
                if self.fetching.remove(&id).is_some() {
                    match prepared {
                        Ok(work) => self.outgoing.push_back(ToSandbox::Start(work)),
                        Err(message) => {
                            tracing::warn!(task = %id.task, "{message}");
                            self.end_here(id, OutcomeKind::HostFault, &message);
                        }
                    }
                }
            }
            Ok(Done::Readied(id, made)) => {
                // One that was given up in the meantime has ended already.
                if self.readying.remove(&id).is_some() {
                    self.hear_made(id, made);
                }
            }
            Ok(Done::Stored(id, stored)) => {
                match stored {
                    Stored::Ended(input) => self.step(input),
                    Stored::Checkpoint(input) => {
                        self.outgoing.push_back(ToSandbox::CheckpointTaken(id));
                        input.into_iter().for_each(|input| self.step(input));
                    }
                }
                self.results.stored(id).into_iter().for_each(|next| self.go_on(next));
            }
            Ok(Done::Published) => self.publishing = false,
            Ok(Done::Subscribed(subscription)) => self.subscription = Some(subscription),
            Ok(Done::Registered(registered)) => {
                let (info, registration) = registered?;
                tracing::info!(host = %info.id, incarnation = %info.incarnation, "the host is registered again");
                self.metrics.registered();
                self.step(Input::LeaseRegained(info.incarnation));
                self.info = info;
                self.registration = Some(registration);
            }
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => tracing::trace!("a fetch was given up"),
            },
        }
        Ok(())
    }

    fn hear_made(&mut self, id: AttemptId, made: Made) {
        let Made { compile_us, result } = made;
        let (kind, message) = match result {
            Ok(()) => return self.step(Input::Readied { id, compile_us }),
            Err(LoadError::Invalid(message)) => (OutcomeKind::ModuleInvalid, message),
            Err(LoadError::Fault(message)) => {
                tracing::warn!(task = %id.task, "{message}");
                (OutcomeKind::HostFault, message)
            }
        };
        let mut outcome = Outcome::new(kind, message);
        outcome.clip();
        self.end_unstarted(id, outcome, compile_us);
    }

    /// The bus has ended our subscription, for instance because we were too slow: what was in it is lost, and sent again.
    pub(super) fn resubscribe(&mut self) {
        tracing::warn!(host = %self.info.id, "the subscription has ended, subscribing again");
        self.subscription = None;
        self.metrics.subscription_lost();
        let subscribe = join::subscribe(Arc::clone(&self.bus), self.info.id.clone(), self.ended);
        self.ended = self.ended.saturating_add(1);
        self.doing.spawn(async move { Done::Subscribed(subscribe.await) });
    }

    /// The lease is lost: everything is stopped, and a new life begins.
    pub(super) fn rejoin(&mut self) {
        tracing::warn!(host = %self.info.id, "the lease is lost: stopping everything");
        self.registration = None;
        self.metrics.lease_lost();
        self.step(Input::LeaseLost);
        if !self.draining {
            let (membership, identity) = (Arc::clone(&self.membership), Arc::clone(&self.identity));
            let register = join::register(membership, identity, self.info.clone());
            self.doing.spawn(async move { Done::Registered(register.await) });
        }
    }

    pub(super) fn drain(&mut self) {
        tracing::info!(host = %self.info.id, grace_ms = self.drain_grace_ms, "the host drains");
        self.draining = true;
        let stop_at = self.now().plus_ms(self.drain_grace_ms);
        self.step(Input::Drain { stop_at, give_up_at: stop_at.plus_ms(GIVE_UP_MS) });
    }
}
