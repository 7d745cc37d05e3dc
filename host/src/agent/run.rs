//! The loop: an event, a step, and then what follows from it.

mod effects;
mod events;

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use wasmill_fabric::{Blobs, Bus, HostRegistration, Membership, Message, Responder, Subscription};
use wasmill_host_core::bounds::MESSAGE_BYTES_MIN;
use wasmill_host_core::{BatchNumber, Config, HostCore, Input};
use wasmill_protocol::message::{HostInfo, ReportAck};
use wasmill_protocol::{AttemptId, Incarnation, Timestamp};

use super::contact::Contact;
use super::identity::Identity;
use super::modules::ModuleFiles;
use super::readiness::{Made, Readiness};
use super::result_cache::ResultCache;
use super::results::{Results, Stored};
use super::store_turns::StoreTurns;
use super::work::Preparation;
use super::{AgentConfig, AgentError, EVENTS_AT_ONCE_MAX, MODULE_COPIES_BYTES_MAX, join, random};
use crate::channel::{FromSandbox, GuestRun, ToSandbox};
use crate::metrics::Metrics;

/// A host's agent, from its registration to its last report.
pub struct Agent {
    core: HostCore,
    started: Instant,
    info: HostInfo,
    identity: Arc<Identity>,
    membership: Arc<dyn Membership>,
    bus: Arc<dyn Bus>,
    blobs: Arc<dyn Blobs>,
    registration: Option<HostRegistration>,
    subscription: Option<Subscription>,
    /// How many subscriptions have ended since the last message.
    ended: u32,
    /// How often another life has taken the place of this one of which it is not known whose it is.
    replaced: u32,
    contact: Contact,
    preparation: Preparation,
    known: ResultCache,
    results: Results,
    stores: StoreTurns,
    to_sandbox: mpsc::Sender<ToSandbox>,
    readiness: Arc<dyn Readiness>,
    /// For the sandbox, as soon as its channel has room: at most a start, a checkpoint's answer and
    /// two stops for each slot.
    outgoing: VecDeque<ToSandbox>,
    /// The callers that wait for the answers of this round; [`ReplyTo`] is the index.
    responders: Vec<Option<Responder>>,
    /// Attempts that the core has started and whose blobs are on their way.
    fetching: BTreeMap<AttemptId, AbortHandle>,
    /// Attempts whose module is being compiled or loaded.
    readying: BTreeMap<AttemptId, AbortHandle>,
    doing: JoinSet<Done>,
    publishing: bool,
    metrics: Metrics,
    drain_grace_ms: u64,
    draining: bool,
}

/// The agent's way to the sandbox: the ends of its channels, and what it can start.
pub struct SandboxEnds {
    /// Messages to the sandbox.
    pub to: mpsc::Sender<ToSandbox>,
    /// Its messages.
    pub from: mpsc::Receiver<FromSandbox>,
    /// Its modules.
    pub readiness: Arc<dyn Readiness>,
}

/// Something that ran beside the loop has ended.
enum Done {
    /// A batch was answered, or not.
    Reported(BatchNumber, Option<ReportAck>),
    /// The blobs of an attempt are here, or why not.
    Prepared(AttemptId, Result<Box<GuestRun>, String>),
    /// The module of an unready attempt is ready, or never will be.
    Readied(AttemptId, Made),
    /// A large result or checkpoint of an attempt is stored.
    Stored(AttemptId, Stored),
    /// A heartbeat is out.
    Published,
    /// Whether any control node is there.
    Asked(Result<(), String>),
    /// Messages of the leader come in again.
    Subscribed(Subscription),
    /// The host is known again, as a new incarnation.
    Registered(Result<(HostInfo, HostRegistration), AgentError>),
}

/// A host before it is registered.
fn described(config: &AgentConfig, identity: &Identity) -> HostInfo {
    HostInfo {
        id: identity.host().clone(),
        incarnation: Incarnation(0),
        address: config.address.clone(),
        cores: config.cores,
        memory_bytes: config.memory_bytes,
        labels: config.labels.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process: identity.process(),
        predecessor: identity.predecessor(),
    }
}

impl Agent {
    /// Runs a host until `shutdown` becomes true, or its sender is gone, and what it holds is
    /// finished or handed back.
    ///
    /// The sandbox outlives the agent.
    ///
    /// # Errors
    ///
    /// When the data directory cannot be used or the sandbox is gone. A fabric that cannot be
    /// reached is waited for.
    pub async fn run(
        config: AgentConfig,
        membership: Arc<dyn Membership>,
        bus: Arc<dyn Bus>,
        blobs: Arc<dyn Blobs>,
        sandbox: SandboxEnds,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), AgentError> {
        if config.slots == 0 {
            return Err(AgentError::NoSlots);
        }
        let bytes_max = bus.payload_bytes_max() as u64;
        if bytes_max < MESSAGE_BYTES_MIN {
            return Err(AgentError::MessagesTooSmall { bytes_max, bytes_min: MESSAGE_BYTES_MIN });
        }
        let identity = Arc::new(Identity::open(&config.data, random()?, random()?)?);
        let copies_dir = config.data.join("modules");
        let modules =
            ModuleFiles::open(Arc::clone(&blobs), copies_dir, config.caps.module_bytes, MODULE_COPIES_BYTES_MAX)?;
        let info = described(&config, &identity);
        let joining = join::join(&membership, &bus, &identity, &info, random);
        let (subscription, info, registration) = tokio::select! {
            joined = joining => joined?,
            _ = shutdown.wait_for(|asked| *asked) => return Ok(()),
        };
        tracing::info!(host = %info.id, incarnation = %info.incarnation, "the host is registered");
        config.metrics.registered();
        if let Some(ready) = config.ready {
            // The caller may be gone.
            let _ = ready.send(info.clone());
        }

        let core_config = Config {
            host: info.id.clone(),
            slots: config.slots,
            memory_bytes: config.memory_bytes,
            labels: config.labels,
            seed: random()?,
            message_bytes_max: bytes_max,
            process: info.process,
        };
        let agent = Self {
            core: HostCore::new(core_config, info.incarnation),
            started: Instant::now(),
            preparation: Preparation::new(Arc::clone(&blobs), modules, &config.caps),
            info,
            identity,
            membership,
            bus,
            blobs,
            registration: Some(registration),
            subscription: Some(subscription),
            ended: 0,
            replaced: 0,
            contact: Contact::new(std::time::Instant::now()),
            known: ResultCache::new(config.known, &config.caps),
            results: Results::default(),
            stores: StoreTurns::new(),
            to_sandbox: sandbox.to,
            readiness: sandbox.readiness,
            outgoing: VecDeque::new(),
            responders: Vec::new(),
            fetching: BTreeMap::new(),
            readying: BTreeMap::new(),
            doing: JoinSet::new(),
            publishing: false,
            metrics: config.metrics,
            drain_grace_ms: config.drain_grace_ms,
            draining: false,
        };
        agent.work(sandbox.from, shutdown).await
    }

    async fn work(
        mut self,
        mut from_sandbox: mpsc::Receiver<FromSandbox>,
        mut shutdown: watch::Receiver<bool>,
    ) -> Result<(), AgentError> {
        let mut messages = Vec::with_capacity(EVENTS_AT_ONCE_MAX);
        let mut said = Vec::with_capacity(EVENTS_AT_ONCE_MAX);
        let room = self.to_sandbox.clone();
        let mut timeout = pin!(tokio::time::sleep_until(self.started));
        while !self.settle() {
            let deadline = self.deadline();
            if timeout.deadline() != deadline {
                timeout.as_mut().reset(deadline);
            }
            tokio::select! {
                count = receive(&mut self.subscription, &mut messages) => match count {
                    0 => self.resubscribe(),
                    _ => messages.drain(..).for_each(|message| self.hear_leader(message)),
                },
                count = from_sandbox.recv_many(&mut said, EVENTS_AT_ONCE_MAX) => match count {
                    0 => return Err(AgentError::SandboxGone),
                    _ => said.drain(..).for_each(|said| self.hear_sandbox(said)),
                },
                open = has_room(&room), if !self.outgoing.is_empty() => match open {
                    true => self.flush(),
                    false => return Err(AgentError::SandboxGone),
                },
                Some(done) = self.doing.join_next() => self.hear_done(done)?,
                () = lease_lost(&mut self.registration) => self.rejoin()?,
                _ = shutdown.wait_for(|asked| *asked), if !self.draining => self.drain(),
                () = &mut timeout => self.look_for_control_nodes(),
            }
        }
        tracing::info!(host = %self.info.id, "the host is drained");
        if let Some(registration) = self.registration.take() {
            // Others need not wait for the lease to end by itself.
            registration.lease.release().await;
        }
        Ok(())
    }

    fn now(&self) -> Timestamp {
        let us = self.started.elapsed().as_micros();
        Timestamp(u64::try_from(us).unwrap_or(u64::MAX))
    }

    fn deadline(&self) -> Instant {
        let next = self.core.next_timeout().map(|at| self.started + Duration::from_micros(at.0));
        let look_at = Instant::from_std(self.contact.look_at());
        next.map_or(look_at, |next| next.min(look_at))
    }

    fn step(&mut self, input: Input) {
        self.core.step(self.now(), input);
    }
}

async fn receive(subscription: &mut Option<Subscription>, messages: &mut Vec<Message>) -> usize {
    match subscription {
        Some(subscription) => subscription.recv_many(messages, EVENTS_AT_ONCE_MAX).await,
        None => pending().await,
    }
}

async fn has_room(to_sandbox: &mpsc::Sender<ToSandbox>) -> bool {
    to_sandbox.reserve().await.is_ok()
}

async fn lease_lost(registration: &mut Option<HostRegistration>) {
    match registration {
        // Without its other end nobody would tell us of a loss.
        Some(registration) => drop(registration.lost.wait_for(|lost| *lost).await),
        None => pending().await,
    }
}
