//! A host under test: the real agent, a leader and a sandbox that do what the test says.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use wasmill_fabric::embedded;
use wasmill_fabric::{Blobs, Bus, Content, Membership};
use wasmill_host::agent::{Agent, AgentConfig, AgentError, Made, Readiness, ResultCacheBounds, SandboxEnds, Wanted};
use wasmill_host::channel::{Ended, FromSandbox, GuestRun, StopReason, ToSandbox};
use wasmill_host::engine::Profile;
use wasmill_host::metrics::Metrics;
use wasmill_metrics::Registry;
use wasmill_protocol::limits::Caps;
use wasmill_protocol::message::{
    Assignment, FromHost, Heartbeat, HostAck, HostInfo, Report, ReportAck, StopCause, ToHost, subjects,
};
use wasmill_protocol::{
    Attempt, AttemptId, Digest, Nonce, Outcome, OutcomeKind, Payload, TaskSpec, TenantName, Term, Usage,
};

/// Longer than anything takes here; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// The messages of the host, as the test hears them.
#[derive(Debug, Default, Clone)]
pub(crate) struct Heard {
    /// Reports in the order in which they came, those included that came twice.
    pub(crate) reports: Vec<Report>,
    /// The sender of each.
    pub(crate) senders: Vec<FromHost>,
    pub(crate) heartbeat: Option<Heartbeat>,
    /// The attempts that the sandbox was asked to start, and those to stop.
    pub(crate) started: Vec<AttemptId>,
    pub(crate) stopped: Vec<(AttemptId, StopReason)>,
    /// Whose checkpoints it was told to be taken.
    pub(crate) taken: Vec<AttemptId>,
}

impl Heard {
    /// The end of an attempt, once it was reported.
    pub(crate) fn end(&self, number: u64) -> Option<&Report> {
        self.reports.iter().find(|report| report.id() == id(number) && !matches!(report, Report::Checkpoint { .. }))
    }

    pub(crate) fn kind(&self, number: u64) -> Option<OutcomeKind> {
        match self.end(number)? {
            Report::Ended { outcome, .. } => Some(outcome.kind),
            _ => None,
        }
    }
}

/// Every module is there.
#[derive(Debug)]
struct AllReady;

impl Readiness for AllReady {
    fn is_ready(&self, _: Digest, _: Profile) -> bool {
        true
    }

    fn make_ready(&self, _: Wanted) -> BoxFuture<'static, Made> {
        unreachable!("it is ready")
    }
}

/// The parts that the test can replace before the host starts.
pub(crate) struct Setup {
    pub(crate) dir: TempDir,
    pub(crate) membership: Arc<dyn Membership>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) slots: u32,
    pub(crate) drain_grace_ms: u64,
    pub(crate) channel_capacity: usize,
    /// Which modules are ready: all, unless the test says otherwise.
    pub(crate) readiness: Arc<dyn Readiness>,
    /// Requests with reports that the leader leaves without an answer.
    pub(crate) unanswered: usize,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fabric = embedded::open(&dir.path().join("fabric")).unwrap();
        Self {
            dir,
            membership: fabric.membership,
            bus: fabric.bus,
            blobs: fabric.blobs,
            slots: 4,
            drain_grace_ms: AgentConfig::DRAIN_GRACE_MS,
            channel_capacity: 64,
            readiness: Arc::new(AllReady),
            unanswered: 0,
        }
    }

    /// Starts the host and waits until it is known.
    pub(crate) async fn start(self) -> World {
        let module = self.blobs.put(Bytes::from_static(b"a module")).await.unwrap().digest;
        let heard = watch::Sender::new(Heard::default());
        let reports = self.bus.subscribe(subjects::REPORTS, 64).await.unwrap();
        let heartbeats = self.bus.subscribe(subjects::HEARTBEATS, 64).await.unwrap();
        let (to_sandbox, work) = mpsc::channel(self.channel_capacity);
        let (say, from_sandbox) = mpsc::channel(self.channel_capacity);
        let (shutdown, shutdown_asked) = watch::channel(false);
        let (ready, info) = oneshot::channel();
        let sandbox = Sandbox { say: say.clone(), held: Arc::default(), heard: heard.clone() };
        let tasks = vec![
            tokio::spawn(hear_reports(reports, heard.clone(), self.unanswered)),
            tokio::spawn(hear_heartbeats(heartbeats, heard.clone())),
            tokio::spawn(sandbox.clone().run(work)),
        ];
        let config = AgentConfig {
            data: self.dir.path().join("host"),
            address: "127.0.0.1".into(),
            slots: self.slots,
            cores: 2,
            memory_bytes: 64 << 30,
            labels: BTreeMap::from([("gpu".into(), "1".into())]),
            caps: Caps::default(),
            known: ResultCacheBounds::default(),
            drain_grace_ms: self.drain_grace_ms,
            metrics: Metrics::new(&Registry::new()),
            ready: Some(ready),
        };
        let ends = SandboxEnds { to: to_sandbox, from: from_sandbox, readiness: Arc::clone(&self.readiness) };
        let agent = tokio::spawn(Agent::run(
            config,
            Arc::clone(&self.membership),
            Arc::clone(&self.bus),
            Arc::clone(&self.blobs),
            ends,
            shutdown_asked,
        ));
        let info = patiently("the host is ready", info).await.unwrap();
        World { setup: self, module, info, heard, sandbox, shutdown, agent, tasks }
    }
}

/// A host that runs.
pub(crate) struct World {
    pub(crate) setup: Setup,
    pub(crate) module: Digest,
    pub(crate) info: HostInfo,
    heard: watch::Sender<Heard>,
    pub(crate) sandbox: Sandbox,
    pub(crate) shutdown: watch::Sender<bool>,
    pub(crate) agent: JoinHandle<Result<(), AgentError>>,
    tasks: Vec<JoinHandle<()>>,
}

impl World {
    /// An attempt of a task that does what `what` says; see [`Sandbox`].
    pub(crate) fn assignment(&self, number: u64, what: &str) -> Assignment {
        let spec = TaskSpec {
            module: self.module,
            input: Payload::inline(Bytes::copy_from_slice(what.as_bytes())),
            ..TaskSpec::default()
        };
        Assignment { id: id(number), spec: Arc::new(spec), ..Assignment::default() }
    }

    pub(crate) async fn send(&self, message: ToHost) -> Option<HostAck> {
        self.send_bytes(rmp_serde::to_vec_named(&message).unwrap().into()).await
    }

    pub(crate) async fn send_bytes(&self, bytes: Bytes) -> Option<HostAck> {
        let answer = self.setup.bus.request(&subjects::host(&self.info.id), bytes, PATIENCE).await.ok()?;
        Some(rmp_serde::from_slice(&answer).unwrap())
    }

    /// Sends assignments to this life of the host as the leader of term 1, and expects that all are
    /// taken.
    pub(crate) async fn assign(&self, assign: Vec<Assignment>) {
        let message = ToHost { term: Term(1), incarnation: self.info.incarnation, assign, stop: Vec::new() };
        let HostAck { term_seen, refused } = self.send(message).await.unwrap();
        assert_eq!((term_seen, refused.len()), (None, 0));
    }

    pub(crate) async fn cancel(&self, number: u64) {
        let stop = vec![(id(number), StopCause::Cancelled)];
        let message = ToHost { term: Term(1), incarnation: self.info.incarnation, assign: Vec::new(), stop };
        assert_eq!(self.send(message).await, Some(HostAck::default()));
    }

    /// Waits until what was heard is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl FnMut(&Heard) -> bool) -> Heard {
        let mut heard = self.heard.subscribe();
        let waited = tokio::time::timeout(PATIENCE, heard.wait_for(wanted)).await.map(|seen| seen.unwrap().clone());
        waited.unwrap_or_else(|_| {
            let heard = format!("{:?}", self.heard.borrow());
            panic!("not within {PATIENCE:?}: {what}; heard {:.2000}", heard)
        })
    }

    /// The sandbox breaks down: both its channels close.
    pub(crate) fn stop_sandbox(&mut self) {
        self.tasks.pop().unwrap().abort();
    }

    /// Ends the host as a signal would, and waits until it is gone.
    pub(crate) async fn shut_down(mut self) -> Setup {
        self.shutdown.send_replace(true);
        patiently("the host shuts down", &mut self.agent).await.unwrap().unwrap();
        for task in &self.tasks {
            task.abort();
        }
        self.setup
    }
}

/// Plays the sandbox. The payload says what the guest does:
///
/// - `echo TEXT` ends at once with `TEXT` as its result
/// - `bytes N` ends at once with N bytes
/// - `capture N` ends at once with N bytes of captured output
/// - `checkpoint` ends at once with what the checkpoint holds that it was given
/// - `save N` saves a checkpoint of N bytes, then a small one, then ends
/// - `repeat N` ends at once with N bytes that every attempt with this payload would give
/// - `hold` runs until it is stopped
#[derive(Clone)]
pub(crate) struct Sandbox {
    say: mpsc::Sender<FromSandbox>,
    held: Arc<Mutex<BTreeMap<AttemptId, Box<GuestRun>>>>,
    heard: watch::Sender<Heard>,
}

impl Sandbox {
    async fn run(self, mut work: mpsc::Receiver<ToSandbox>) {
        while let Some(asked) = work.recv().await {
            match asked {
                ToSandbox::Start(work) => {
                    self.heard.send_modify(|heard| heard.started.push(work.id));
                    self.start(work).await;
                }
                ToSandbox::CheckpointTaken(id) => self.heard.send_modify(|heard| heard.taken.push(id)),
                ToSandbox::Stop(id, reason) => {
                    self.heard.send_modify(|heard| heard.stopped.push((id, reason)));
                    if self.held.lock().unwrap().remove(&id).is_some() {
                        self.end(id, OutcomeKind::Cancelled, Bytes::new(), Bytes::new()).await;
                    }
                }
            }
        }
    }

    async fn start(&self, work: Box<GuestRun>) {
        let id = work.id;
        let text = String::from_utf8(work.input.to_vec()).unwrap();
        let (what, argument) = text.split_once(' ').unwrap_or((&text, ""));
        let bytes = |count: &str| Bytes::from(vec![7; count.parse().unwrap()]);
        let (output, captured) = match what {
            "hold" => return drop(self.held.lock().unwrap().insert(id, work)),
            "echo" => (Bytes::copy_from_slice(argument.as_bytes()), Bytes::new()),
            "bytes" => (bytes(argument), Bytes::new()),
            "capture" => (Bytes::new(), bytes(argument)),
            "repeat" => {
                let ended = ended(id, OutcomeKind::Succeeded, bytes(argument), Bytes::from_static(b"log"));
                return self.say(FromSandbox::Ended(Box::new(Ended { repeatable: true, ..ended }))).await;
            }
            "checkpoint" => (work.checkpoint.clone().unwrap_or_default(), Bytes::new()),
            "save" => {
                let (tenant, data) = (work.tenant.clone(), bytes(argument));
                self.say(FromSandbox::Checkpoint { id, tenant: tenant.clone(), number: 1, data }).await;
                let data = Bytes::from_static(b"second");
                self.say(FromSandbox::Checkpoint { id, tenant, number: 2, data }).await;
                (Bytes::new(), Bytes::new())
            }
            other => (Bytes::from(format!("{other} at {}", work.module_path.display())), Bytes::new()),
        };
        let ended = Ended { tenant: work.tenant, ..ended(id, OutcomeKind::Succeeded, output, captured) };
        self.say(FromSandbox::Ended(Box::new(ended))).await;
    }

    async fn end(&self, id: AttemptId, kind: OutcomeKind, output: Bytes, captured: Bytes) {
        self.say(FromSandbox::Ended(Box::new(ended(id, kind, output, captured)))).await;
    }

    /// A guest that was held ends by itself.
    pub(crate) async fn finish(&self, number: u64) {
        self.held.lock().unwrap().remove(&id(number)).unwrap();
        self.end(id(number), OutcomeKind::Succeeded, Bytes::new(), Bytes::new()).await;
    }

    /// Says something to the agent, which may be gone.
    pub(crate) async fn say(&self, said: FromSandbox) {
        let _ = self.say.send(said).await;
    }
}

fn ended(id: AttemptId, kind: OutcomeKind, output: Bytes, captured: Bytes) -> Ended {
    let (outcome, usage) = (Outcome::new(kind, ""), Usage { cpu_us: 5, run_us: 9, ..Usage::default() });
    Ended { id, tenant: TenantName::default(), outcome, usage, output, captured, repeatable: false }
}

async fn hear_reports(mut requests: wasmill_fabric::Subscription, heard: watch::Sender<Heard>, mut unanswered: usize) {
    while let Some(request) = requests.recv().await {
        let message = Arc::unwrap_or_clone(request.content.read::<Arc<FromHost>>().unwrap());
        heard.send_modify(|heard| {
            heard.reports.extend(message.reports.iter().cloned());
            heard.senders.push(message);
        });
        if unanswered > 0 {
            unanswered -= 1;
        } else if let Some(responder) = request.responder {
            let ack = ReportAck { term: Term(1) };
            responder.respond(Content::of(ack));
        }
    }
}

async fn hear_heartbeats(mut heartbeats: wasmill_fabric::Subscription, heard: watch::Sender<Heard>) {
    while let Some(message) = heartbeats.recv().await {
        let heartbeat = message.content.read().unwrap();
        heard.send_modify(|heard| heard.heartbeat = Some(heartbeat));
    }
}

pub(crate) fn id(number: u64) -> AttemptId {
    let task = format!("00000000-0000-7000-8000-{number:012x}").parse().unwrap();
    AttemptId { task, attempt: Attempt(1), nonce: Nonce(number) }
}

pub(crate) async fn patiently<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}: {what}"))
}
