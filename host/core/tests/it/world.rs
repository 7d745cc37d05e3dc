//! A host under test, with times in milliseconds, attempts named by numbers, and a readable print
//! of what it wants.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use expect_test::Expect;
use wasmill_host_core::bounds::HEARTBEAT_MS;
use wasmill_host_core::{Batch, BatchNumber, Config, Ended, HostCore, Input, Ready, ReplyTo, StopReason};
use wasmill_protocol::message::{Assignment, HostAck, Report, StopCause, ToHost};
use wasmill_protocol::{
    Attempt, AttemptId, Incarnation, Limits, Nonce, Outcome, OutcomeKind, Payload, TaskSpec, Term, Timestamp, Usage,
};

/// The incarnation that a [`World`] begins with.
pub(crate) const INCARNATION: Incarnation = Incarnation(1);

/// A host and the time.
pub(crate) struct World {
    pub(crate) core: HostCore,
    pub(crate) now: Timestamp,
    /// The time that [`World::at_ms`] counts from.
    zero: Timestamp,
}

impl World {
    /// A host with 100 bytes of memory.
    pub(crate) fn new(slots: u32) -> Self {
        let (labels, message_bytes_max) = (BTreeMap::new(), 1 << 20);
        let (host, process) = ("h".into(), 70);
        let config = Config { host, slots, memory_bytes: 100, labels, seed: 7, message_bytes_max, process };
        Self { core: HostCore::new(config, INCARNATION), now: Timestamp(0), zero: Timestamp(0) }
    }

    /// A host of a leader of term 1 whose heartbeats come every second now; the last one has just
    /// been sent.
    pub(crate) fn settled(slots: u32) -> Self {
        let mut world = Self::new(slots);
        world.message(vec![], &[]);
        for _ in 0..8 {
            world.core.take_ready();
            world.now = world.core.next_timeout().unwrap();
            world.step(Input::Tick);
        }
        assert!(world.core.take_ready().heartbeat.is_some());
        assert_eq!(world.core.next_timeout(), Some(world.now.plus_ms(HEARTBEAT_MS)));
        world.zero = world.now;
        world
    }

    /// The time that is `ms` after the host was settled.
    pub(crate) fn time(&self, ms: u64) -> Timestamp {
        self.zero.plus_ms(ms)
    }

    /// Milliseconds until the host wants to be stepped, counted like [`World::at_ms`].
    pub(crate) fn next_timeout_ms(&self) -> Option<u64> {
        self.core.next_timeout().map(|at| at.us_since(self.zero) / 1000)
    }

    pub(crate) fn step(&mut self, input: Input) -> &mut Self {
        self.core.step(self.now, input);
        self
    }

    pub(crate) fn at_ms(&mut self, ms: u64) -> &mut Self {
        self.now = self.zero.plus_ms(ms);
        self.step(Input::Tick)
    }

    /// A message of the leader of term 1.
    pub(crate) fn message(&mut self, assign: Vec<Assignment>, cancel: &[u64]) -> &mut Self {
        let stop: Vec<_> = cancel.iter().map(|number| (*number, StopCause::Cancelled)).collect();
        self.message_with(assign, &stop)
    }

    /// The same with nothing but attempts to stop.
    pub(crate) fn stop(&mut self, stop: &[(u64, StopCause)]) -> &mut Self {
        self.message_with(Vec::new(), stop)
    }

    fn message_with(&mut self, assign: Vec<Assignment>, stop: &[(u64, StopCause)]) -> &mut Self {
        let stop = stop.iter().map(|(number, cause)| (id(*number), *cause)).collect();
        let message = ToHost { term: Term(1), incarnation: self.core.incarnation(), assign, stop };
        self.step(Input::Message { reply_to: ReplyTo(0), message })
    }

    pub(crate) fn assign(&mut self, numbers: &[u64]) -> &mut Self {
        let assign = numbers.iter().map(|number| assignment(*number, 10)).collect();
        self.message(assign, &[])
    }

    pub(crate) fn end(&mut self, number: u64, kind: OutcomeKind) -> &mut Self {
        self.step(Input::Ended(ended(id(number), kind)))
    }

    /// The module of an attempt that was started is not there.
    pub(crate) fn unready(&mut self, number: u64) -> &mut Self {
        self.step(Input::Unready(Box::new(assignment(number, 10))))
    }

    pub(crate) fn readied(&mut self, number: u64, compile_us: u64) -> &mut Self {
        self.step(Input::Readied { id: id(number), compile_us })
    }

    pub(crate) fn checkpoint(&mut self, of: u64, number: u32) -> &mut Self {
        self.step(Input::Checkpoint { id: id(of), number, data: Payload::inline(vec![number as u8].into()) })
    }

    pub(crate) fn acknowledge(&mut self, batch: u64) -> &mut Self {
        self.acknowledge_in(1, batch)
    }

    /// An answer of a leader of another term.
    pub(crate) fn acknowledge_in(&mut self, term: u64, batch: u64) -> &mut Self {
        self.step(Input::Acknowledged { number: BatchNumber(batch), term: Term(term) })
    }

    pub(crate) fn fail(&mut self, batch: u64) -> &mut Self {
        self.step(Input::RequestFailed(BatchNumber(batch)))
    }

    /// Compares what the host wants with `expect`.
    pub(crate) fn check(&mut self, expect: Expect) -> &mut Self {
        expect.assert_eq(&show(&self.core.take_ready()));
        self
    }
}

pub(crate) fn id(number: u64) -> AttemptId {
    let task = format!("00000000-0000-7000-8000-{number:012x}").parse().unwrap();
    AttemptId { task, attempt: Attempt(1), nonce: Nonce(number) }
}

pub(crate) fn assignment(number: u64, memory_bytes: u64) -> Assignment {
    let limits = Limits { memory_bytes, ..Limits::default() };
    let spec = Arc::new(TaskSpec { limits, ..TaskSpec::default() });
    Assignment { id: id(number), spec, queue_us: 1000, ..Assignment::default() }
}

pub(crate) fn ended(id: AttemptId, kind: OutcomeKind) -> Ended {
    let outcome = Arc::new(Outcome::new(kind, ""));
    let usage = Usage { cpu_us: 10, run_us: 20, ..Usage::default() };
    Ended { id, outcome, usage, output: Payload::Empty, captured: Payload::Empty }
}

/// One line for each thing that the host wants.
pub(crate) fn show(ready: &Ready) -> String {
    let mut text = String::new();
    for (reply_to, HostAck { term_seen, refused }) in &ready.acks {
        write!(text, "ack {}", reply_to.0).unwrap();
        if let Some(term) = term_seen {
            write!(text, " term_seen {term}").unwrap();
        }
        if !refused.is_empty() {
            write!(text, " refused{}", names(refused)).unwrap();
        }
        text.push('\n');
    }
    for assignment in &ready.start {
        writeln!(text, "start{}", names(&[assignment.id])).unwrap();
    }
    for id in &ready.give_up {
        writeln!(text, "give up{}", names(&[*id])).unwrap();
    }
    for (id, reason) in &ready.stop {
        let reason = match reason {
            StopReason::Asked(cause) => format!("{cause:?}"),
            StopReason::Drained => "Drained".to_owned(),
        };
        writeln!(text, "stop{} {reason}", names(&[*id])).unwrap();
    }
    for Batch { number, message } in &ready.batches {
        writeln!(text, "batch {} of incarnation {}", number.0, message.incarnation).unwrap();
        for report in &message.reports {
            writeln!(text, "  {}", show_report(report)).unwrap();
        }
    }
    if let Some(beat) = &ready.heartbeat {
        let draining = if beat.draining { " draining" } else { "" };
        let attempts = names(&beat.attempts);
        let unready = if beat.unready > 0 { format!(", {} unready", beat.unready) } else { String::new() };
        let sated = beat.sated.iter().fold(String::new(), |text, tenant| text + ", sated " + tenant.as_str());
        writeln!(text, "heartbeat with credit {}{draining} holds{attempts}{unready}{sated}", beat.credit).unwrap();
        for (id, progress) in &beat.progress {
            writeln!(text, "  progress{} {}/{}", names(&[*id]), progress.done, progress.total).unwrap();
        }
    }
    if ready.drained {
        text.push_str("drained\n");
    }
    text
}

fn show_report(report: &Report) -> String {
    let name = names(&[report.id()]);
    match report {
        Report::Ended { outcome, usage, .. } => {
            let compiled =
                if usage.compile_us > 0 { format!(", compiled {} us", usage.compile_us) } else { String::new() };
            // The usual message of a cancelled attempt is left out.
            let is_usual = outcome.message.is_empty() || outcome.message.starts_with("cancelled");
            let message = if is_usual { String::new() } else { format!(": {}", outcome.message) };
            let kind = outcome.kind.as_str();
            format!("ended{name} {kind} after {} us in queues{compiled}{message}", usage.queue_us)
        }
        Report::Checkpoint { number, .. } => format!("checkpoint{name} number {number}"),
        Report::Returned { .. } => format!("returned{name}"),
    }
}

fn names(ids: &[AttemptId]) -> String {
    ids.iter().fold(String::new(), |mut text, id| {
        write!(text, " #{}", id.nonce.0).unwrap();
        text
    })
}
