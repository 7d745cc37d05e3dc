//! Tells the core its inputs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinError;
use wasmill_fabric::{BlobError, Message};
use wasmill_host_core::{Input, ReplyTo};
use wasmill_protocol::message::{HostInfo, ReportAck, ToHost};
use wasmill_protocol::{AttemptId, Digest, Outcome, OutcomeKind};

use super::{Agent, Done};
use crate::agent::join::Rival;
use crate::agent::readiness::Made;
use crate::agent::results::{Next, Stored};
use crate::agent::{AgentError, GIVE_UP_MS, join, random};
use crate::channel::{FromSandbox, ToSandbox};
use crate::error_chain::chain;
use crate::sandbox::LoadError;

impl Agent {
    pub(super) fn hear_leader(&mut self, message: Message) {
        self.ended = 0;
        self.contact.heard(Instant::now());
        match message.content.read::<ToHost>() {
            Ok(decoded) => {
                let reply_to = ReplyTo(self.responders.len() as u64);
                self.responders.push(message.responder);
                self.step(Input::Message { reply_to, message: decoded });
            }
            Err(error) => {
                tracing::warn!("cannot decode a message of the leader: {error}");
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
                let (stores, blobs) = (self.stores.clone(), Arc::clone(&self.blobs));
                self.doing.spawn(async move { Done::Stored(id, stores.store(&*blobs, &tenant, said).await) });
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
            Ok(Done::Asked(answer)) => self.contact.answered(Instant::now(), answer),
            Ok(Done::Published) => self.publishing = false,
            Ok(Done::Subscribed(subscription)) => self.subscription = Some(subscription),
            Ok(Done::Registered(registered)) => {
                let (info, registration) = match registered {
                    Err(AgentError::Replaced { by }) => return Err(self.replaced_by(by)),
                    registered => registered?,
                };
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

    /// The bus has ended our subscription, for instance because we were too slow: what was in it is
    /// lost, and sent again.
    pub(super) fn resubscribe(&mut self) {
        tracing::warn!(host = %self.info.id, "the subscription has ended, subscribing again");
        self.subscription = None;
        self.metrics.subscription_lost();
        let subscribe = join::subscribe(Arc::clone(&self.bus), self.info.id.clone(), self.ended);
        self.ended = self.ended.saturating_add(1);
        self.doing.spawn(async move { Done::Subscribed(subscribe.await) });
    }

    /// The lease is lost: everything is stopped, and a new life begins, unless another process has
    /// this one's place.
    pub(super) fn rejoin(&mut self) -> Result<(), AgentError> {
        let replaced_by = self.registration.take().and_then(|registration| registration.replaced_by.get().cloned());
        tracing::warn!(host = %self.info.id, "the lease is lost: stopping everything");
        self.metrics.lease_lost();
        self.step(Input::LeaseLost);
        let wait = match replaced_by {
            Some(by) if by.process != 0 && by.process != self.info.process => {
                return Err(self.replaced_by(Box::new(by)));
            }
            // Of an older version: it may be this host's own key, written late.
            Some(_) => {
                self.replaced = self.replaced.saturating_add(1);
                join::rival_wait(self.replaced - 1, random()?)
            }
            None => Duration::ZERO,
        };
        if !self.draining {
            let (membership, identity) = (Arc::clone(&self.membership), Arc::clone(&self.identity));
            let register = join::register(membership, identity, self.info.clone(), Rival::Stays);
            self.doing.spawn(async move {
                tokio::time::sleep(wait).await;
                Done::Registered(register.await)
            });
        }
        Ok(())
    }

    /// Another process is this host now. This one ends, and remembers that it is not to take the id
    /// back.
    fn replaced_by(&self, by: Box<HostInfo>) -> AgentError {
        match self.identity.note_replaced(&by) {
            Ok(()) => AgentError::Replaced { by },
            Err(error) => error.into(),
        }
    }

    /// Asks whether there is any control node, when that is due: any blob will do, also one that is
    /// not there.
    pub(super) fn look_for_control_nodes(&mut self) {
        let now = Instant::now();
        if now < self.contact.look_at() {
            return;
        }
        self.contact.looks(now);
        let blobs = Arc::clone(&self.blobs);
        self.doing.spawn(async move {
            Done::Asked(match blobs.stat(Digest::default()).await {
                Ok(_) | Err(BlobError::Unknown(_)) => Ok(()),
                Err(error) => Err(chain(&error)),
            })
        });
    }

    pub(super) fn drain(&mut self) {
        tracing::info!(host = %self.info.id, grace_ms = self.drain_grace_ms, "the host drains");
        self.draining = true;
        let stop_at = self.now().plus_ms(self.drain_grace_ms);
        self.step(Input::Drain { stop_at, give_up_at: stop_at.plus_ms(GIVE_UP_MS) });
    }
}
