//! A host that does what the payload says instead of running a module.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::Fabric;
use wasmill_fabric::{Content, Message, Subscription};
use wasmill_protocol::message::{
    Assignment, FromHost, Heartbeat, HostAck, HostInfo, Progress, Report, ReportAck, ToHost, subjects,
};
use wasmill_protocol::{AttemptId, HostId, Incarnation, Outcome, OutcomeKind, Payload, TrapCode, Usage};
use wasmill_scheduler::Handle;

const MEMORY_BYTES: u64 = 1 << 40;
const SLOTS: u32 = 64;

/// The payload decides: `hang` runs until it is cancelled, `save N` saves as many states before,
/// `deaf` runs on even then, `fail` errs, `reject` rejects, `trap` traps, `say` ends with progress,
/// `resume` saves a state, fails, and gives that state when it is tried again, `html`, `big` and
/// `log` give what they say, everything else is given back.
pub(crate) struct FakeHost {
    stop: CancellationToken,
    running: JoinHandle<()>,
}

struct Running {
    fabric: Fabric,
    handle: Handle,
    info: HostInfo,
    /// Attempts that hang, and whether they stop when they are asked to.
    hanging: BTreeMap<AttemptId, bool>,
    ended: mpsc::UnboundedSender<Report>,
    /// The highest term that was heard.
    term: Arc<AtomicU64>,
}

impl FakeHost {
    /// Registers and waits until the leader takes it for ready.
    pub(crate) async fn start(fabric: Fabric, handle: Handle) -> Self {
        let info = HostInfo {
            id: HostId::from("fake"),
            incarnation: Incarnation(1),
            address: "here".to_owned(),
            cores: 2,
            memory_bytes: MEMORY_BYTES,
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            version: "0".to_owned(),
            ..HostInfo::default()
        };
        let stop = CancellationToken::new();
        let messages = fabric.bus.subscribe(&subjects::host(&info.id), 1024).await.unwrap();
        let registration = fabric.membership.register(info.clone()).await.unwrap();
        let (ended, reports) = mpsc::unbounded_channel();
        let running =
            Running { fabric, handle: handle.clone(), info, hanging: BTreeMap::new(), ended, term: Arc::default() };
        let stopped = stop.clone();
        let running = tokio::spawn(async move {
            running.run(messages, reports, stopped).await;
            drop(registration);
        });
        super::until("the host is ready", async || {
            let hosts = handle.overview().await.map(|overview| overview.hosts).unwrap_or_default();
            hosts.iter().any(|host| host.state == "ready" && host.heard)
        })
        .await;
        Self { stop, running }
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }
}

impl Running {
    async fn run(
        mut self,
        mut messages: Subscription,
        mut reports: mpsc::UnboundedReceiver<Report>,
        stop: CancellationToken,
    ) {
        let mut number = 0;
        let mut beat = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = beat.tick() => {
                    number += 1;
                    self.heartbeat(number).await;
                }
                Some(message) = messages.recv() => self.take(message).await,
                Some(report) = reports.recv() => {
                    let mut batch = vec![report];
                    while let Ok(report) = reports.try_recv() {
                        batch.push(report);
                    }
                    self.report(batch);
                }
            }
        }
    }

    async fn heartbeat(&self, number: u64) {
        let progress =
            self.hanging.keys().map(|id| (*id, Progress { done: 1, total: 4, message: "hanging".to_owned() }));
        let heartbeat = Heartbeat {
            host: self.info.id.clone(),
            incarnation: self.info.incarnation,
            number,
            attempts: self.hanging.keys().copied().collect(),
            credit: 4096,
            slots: SLOTS,
            memory_bytes: MEMORY_BYTES,
            labels: self.info.labels.clone(),
            progress: progress.collect(),
            modules_cached: 3,
            ..Heartbeat::default()
        };
        let bytes = rmp_serde::to_vec_named(&heartbeat).unwrap().into();
        self.fabric.bus.publish(&subjects::heartbeats(&self.info.id), bytes).await.unwrap();
    }

    async fn take(&mut self, message: Message) {
        let asked: ToHost = message.content.read().unwrap();
        self.term.fetch_max(asked.term.0, Ordering::Relaxed);
        if let Some(responder) = message.responder {
            responder.respond(Content::of(HostAck::default()));
        }
        for assignment in asked.assign {
            self.assigned(assignment).await;
        }
        for (id, _) in asked.stop {
            if self.hanging.get(&id) == Some(&true) {
                self.hanging.remove(&id);
                let outcome = Outcome::new(OutcomeKind::Cancelled, "stopped");
                let _ = self.ended.send(ended(id, outcome, Payload::Empty, Payload::Empty));
            }
        }
    }

    async fn assigned(&mut self, assignment: Assignment) {
        if assignment.spec.input == Payload::inline(Bytes::from_static(b"resume")) {
            return self.resume(assignment).await;
        }
        let input = self.bytes(&assignment.spec.input).await;
        let input = if input.is_empty() { Bytes::from(assignment.spec.args.join(" ")) } else { input };
        let text = String::from_utf8_lossy(&input).trim_matches('"').to_owned();
        let id = assignment.id;
        if let Some(count) = text.strip_prefix("save ") {
            self.save(id, count.parse().unwrap()).await;
            self.hanging.insert(id, true);
            return;
        }
        let of = |kind| Outcome::new(kind, "as the payload said");
        let fine = || of(OutcomeKind::Succeeded);
        let (outcome, output, captured) = match text.as_str() {
            "hang" | "deaf" => {
                self.hanging.insert(id, text == "hang");
                return;
            }
            "fail" => (of(OutcomeKind::Errored), Bytes::new(), Bytes::new()),
            "reject" => (of(OutcomeKind::Rejected), Bytes::new(), Bytes::new()),
            "trap" => {
                let backtrace = vec!["main".to_owned()];
                let trapped = Outcome { trap: Some(TrapCode::Unreachable), backtrace, ..of(OutcomeKind::Trapped) };
                (trapped, Bytes::new(), Bytes::new())
            }
            "say" => {
                let progress = Some(Progress { done: 2, total: 2, message: "said".to_owned() });
                (Outcome { progress, ..fine() }, Bytes::new(), Bytes::new())
            }
            "html" => (fine(), Bytes::from_static(b"<script>alert(1)</script>"), Bytes::new()),
            "log" => (fine(), Bytes::new(), Bytes::from_static(b"one line\n\xff\n")),
            "big" => (fine(), Bytes::from(vec![b'x'; 100_000]), Bytes::new()),
            "logs" => (fine(), Bytes::new(), Bytes::from("größe\n".repeat(20_000))),
            "logs?" => (fine(), Bytes::new(), Bytes::from([b"x".repeat(100_000), vec![0xc3]].concat())),
            // A command that exits so, and has written its own name.
            text if text.starts_with("exit ") => {
                let code = text["exit ".len()..].parse().unwrap();
                let ok = assignment.spec.ok_exit().contains(&code);
                let kind = if ok { OutcomeKind::Succeeded } else { OutcomeKind::Errored };
                let name = Bytes::from(assignment.spec.program().to_owned());
                (Outcome { exit_code: Some(code.into()), ..of(kind) }, name, Bytes::new())
            }
            _ => (fine(), input, Bytes::new()),
        };
        let (output, captured) = (self.payload(output).await, self.payload(captured).await);
        let _ = self.ended.send(ended(id, outcome, output, captured));
    }

    /// Saves as many states, each of 100 KB and unlike all others.
    async fn save(&self, id: AttemptId, count: u32) {
        for number in 1..=count {
            let mut state = format!("{id:?} {number} ").into_bytes().repeat(2_000);
            state.truncate(100_000);
            let data = self.payload(Bytes::from(state)).await;
            let _ = self.ended.send(Report::Checkpoint { id, number, data });
            tokio::task::yield_now().await;
        }
    }

    /// Saves a state and fails, or gives what the attempt before has saved.
    async fn resume(&self, Assignment { id, checkpoint, .. }: Assignment) {
        let kind = if checkpoint == Payload::Empty {
            let data = self.payload(Bytes::from(vec![b's'; 50_000])).await;
            let _ = self.ended.send(Report::Checkpoint { id, number: 1, data });
            OutcomeKind::Errored
        } else {
            OutcomeKind::Succeeded
        };
        let _ = self.ended.send(ended(id, Outcome::new(kind, ""), checkpoint, Payload::Empty));
    }

    /// Reports until it is acknowledged.
    fn report(&self, reports: Vec<Report>) {
        let (bus, subject) = (Arc::clone(&self.fabric.bus), subjects::reports(&self.info.id));
        let term = Arc::clone(&self.term);
        let message = FromHost { host: self.info.id.clone(), incarnation: self.info.incarnation, reports };
        let bytes = Bytes::from(rmp_serde::to_vec_named(&message).unwrap());
        tokio::spawn(async move {
            loop {
                let answer = bus.request(&subject, bytes.clone(), Duration::from_secs(5)).await;
                let ack = answer.ok().and_then(|answer| rmp_serde::from_slice::<ReportAck>(&answer).ok());
                // As a real host does: a leader whose time is over acknowledges nothing.
                if ack.is_some_and(|ack| ack.term.0 >= term.load(Ordering::Relaxed)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }

    async fn bytes(&self, payload: &Payload) -> Bytes {
        match payload {
            Payload::Empty => Bytes::new(),
            Payload::Inline(bytes) => bytes.clone(),
            Payload::Blob { digest, .. } => self.handle.shared().blobs.read(*digest, u64::MAX).await.unwrap(),
        }
    }

    async fn payload(&self, bytes: Bytes) -> Payload {
        if bytes.len() <= 32 * 1024 {
            return Payload::inline(bytes);
        }
        let stat = self.handle.shared().blobs.put(bytes).await.unwrap();
        Payload::Blob { digest: stat.digest, bytes: stat.bytes }
    }
}

fn ended(id: AttemptId, outcome: Outcome, output: Payload, captured: Payload) -> Report {
    let usage = Usage { cpu_us: 7, output_bytes: output.byte_count(), ..Usage::default() };
    Report::Ended { id, outcome: Arc::new(outcome), usage, output, captured }
}
