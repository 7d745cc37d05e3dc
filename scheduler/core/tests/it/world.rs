//! A core with everything around it that a test needs: a log, a follower that reads it, and what
//! hosts hold.
//!
//! Beside it every test gets this for nothing: each event has the owner that it should, leader and
//! follower agree on it. After each record a snapshot is taken, and reading it back gives the same
//! state. And whoever leads after a restart has a twin that has started from a snapshot, hears the
//! same, and must say the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use wasmill_protocol::{AttemptId, HostId, LogSeq, Term, Timestamp};
use wasmill_record::event::{Event, EventBody};
use wasmill_record::snapshot::Part;
use wasmill_scheduler_core::io::MessageOut;
use wasmill_scheduler_core::{Core, CoreConfig, Input, Ready, State};

use crate::owners::OwnersModel;

/// When every test begins.
pub(crate) const START: Timestamp = Timestamp(1_000_000_000);

/// A leader, its log, and a follower.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) now: Timestamp,
    pub(crate) log: Vec<Vec<Event>>,
    pub(crate) config: CoreConfig,
    /// Attempts that each host was given and has not ended.
    pub(crate) held: BTreeMap<HostId, Vec<AttemptId>>,
    follower: State,
    owners: OwnersModel,
    read_model_at: LogSeq,
    /// Up to each record.
    snapshots: Vec<Vec<Bytes>>,
    twin: Option<Core>,
}

impl World {
    /// A core that does not lead yet.
    pub(crate) fn new(config: CoreConfig) -> Self {
        Self {
            core: Core::new(1, config.clone(), State::default()),
            now: START,
            log: Vec::new(),
            config,
            held: BTreeMap::new(),
            follower: State::default(),
            owners: OwnersModel::default(),
            read_model_at: LogSeq(0),
            snapshots: Vec::new(),
            twin: None,
        }
    }

    pub(crate) fn step(&mut self, input: Input) {
        if let Input::ReadModelAt(seq) = input {
            self.follower.read_model_at(seq);
            self.read_model_at = self.read_model_at.max(seq);
        }
        self.step_both(input);
        self.core.assert_consistent();
    }

    /// The leader, and its twin.
    pub(crate) fn cores(&mut self) -> impl Iterator<Item = &mut Core> {
        [&mut self.core].into_iter().chain(&mut self.twin)
    }

    fn step_both(&mut self, input: Input) {
        let now = self.now;
        self.cores().for_each(|core| core.step(now, input.clone()));
    }

    /// Takes what is ready, appends it, and lets the follower read it.
    pub(crate) fn take_ready(&mut self) -> Ready {
        let ready = self.core.take_ready();
        if let Some(twin) = &mut self.twin {
            let said = twin.take_ready();
            assert_eq!(format!("{said:?}"), format!("{ready:?}"), "who starts from a snapshot decides the same");
        }
        if !ready.events.is_empty() {
            self.log.push(ready.events.clone());
            let seq = LogSeq(self.log.len() as u64);
            self.step_both(Input::Appended(seq));
            let owners = self.follower.apply_record(seq, &ready.events);
            assert_eq!(*owners, *ready.owners, "leader and follower know whose events are");
            self.owners.check(&ready.events, &owners);
            self.snapshot(seq);
        }
        self.core.assert_consistent();
        for message in &ready.messages {
            self.deliver(message);
        }
        ready
    }

    /// Takes a snapshot, as bytes, and reads it back.
    fn snapshot(&mut self, seq: LogSeq) {
        let frozen = self.core.freeze();
        assert_eq!(frozen.seq(), seq);
        let parts: Vec<Bytes> = frozen.into_parts().map(|part| part.encode()).collect();
        let restored = restore(&parts);
        restored.assert_consistent();
        let mut expected = self.core.state().clone();
        expected.read_model_at(seq);
        assert_eq!(restored, expected, "a snapshot holds what the log says");
        self.snapshots.push(parts);
    }

    fn deliver(&mut self, message: &MessageOut) {
        let held = self.held.entry(message.host.clone()).or_default();
        for (id, _) in &message.assign {
            if !held.contains(id) {
                held.push(*id);
            }
        }
    }

    /// A host has nothing more to do with an attempt.
    pub(crate) fn let_go(&mut self, host: &HostId, id: AttemptId) {
        self.held.entry(host.clone()).or_default().retain(|held| *held != id);
    }

    /// The process dies, and a new one leads after reading the log.
    pub(crate) fn restart(&mut self, term: u64) {
        let mut state = State::default();
        state.read_model_at(self.read_model_at);
        for (seq, events) in (1..).zip(&self.log) {
            state.apply_record(LogSeq(seq), events);
        }
        assert_eq!(state, self.follower, "whoever reads the log holds the same state");
        self.twin = self.start_from_snapshot().map(|state| Core::new(term, self.config.clone(), state));
        self.core = Core::new(term, self.config.clone(), state);
        self.step(Input::Lead {
            term: Term(term),
            node: "n1".into(),
            passed_us: 0,
            uptime: wasmill_protocol::Uptime::default(),
        });
    }

    /// The state by the log, from the newest snapshot on that the read model has caught up with.
    fn start_from_snapshot(&self) -> Option<State> {
        let known = (self.read_model_at.0 as usize).min(self.snapshots.len());
        let mut state = restore(self.snapshots[..known].last()?);
        state.read_model_at(self.read_model_at);
        for (seq, events) in (1..).zip(&self.log).skip(known) {
            state.apply_record(LogSeq(seq), events);
        }
        assert_eq!(state, self.follower, "whoever starts from a snapshot holds the same state");
        Some(state)
    }

    /// When nothing is left to do, leader and follower hold the same.
    pub(crate) fn assert_follower_agrees(&mut self) {
        while !self.take_ready().is_empty() {}
        assert_eq!(*self.core.state(), self.follower, "leader and follower hold the same state");
    }

    /// All events so far.
    pub(crate) fn events(&self) -> impl Iterator<Item = &EventBody> {
        self.log.iter().flatten().map(|event| &event.body)
    }
}

fn restore(parts: &[Bytes]) -> State {
    State::from_snapshot(parts.iter().map(|part| Part::decode(part).unwrap())).unwrap()
}
