//! Appends of a leader: its appender decides, the log answers, and what is durable takes effect.

use wasmill_fabric_core::append::{
    Action, AppendError, AppendNumber, CallId, Done, Found, Input, MessageId, Published,
};
use wasmill_fabric_models::jetstream::{PublishError, PublishResult};
use wasmill_protocol::{LogSeq, Timestamp};
use wasmill_scheduler_core::Input as LeaderInput;
use wasmill_scheduler_node::leading::{AppendFailure, Effects, Input as NodeInput};

use super::keep::note_current;
use super::{Fault, Happening, LogHappening, Sender, World};
use crate::marks::Mark;
use crate::node::{Halt, LogWait, uptime_us};
use crate::oracle::{Checked, Violation, hold};
use crate::plant::Plant;
use crate::servers::LogAsk;

impl World {
    /// The newest appends of a leader go to its appender.
    pub(super) fn append_to_log(&mut self, node: usize, count: usize) {
        let now_us = self.now.0;
        let (armed, known) = (self.kill_armed == Some(node), self.nodes[node].known());
        let life = self.nodes[node].life;
        let Some(process) = &mut self.nodes[node].process else { return };
        let (Some(leader), Some(cluster)) = (&mut process.leader, &mut process.cluster) else { return };
        let newest = leader.appends.len() - count;
        if leader.appends[newest].seq <= cluster.floor {
            // Others have appended, and nothing must take the place of what they have.
            self.marks.hit(Mark::LeadershipRefused);
            self.tell_leader(Sender { node, life }, NodeInput::AppendFailed(AppendFailure::Refused));
            return;
        }
        for append in leader.appends.iter_mut().skip(newest) {
            let entry = &append.entry;
            let number = AppendNumber(cluster.next_append);
            cluster.next_append += 1;
            (append.number, append.known) = (Some(number), known);
            let expected_last = LogSeq(append.seq.0 - 1);
            cluster.appender.step(now_us, Input::Append { number, expected_last, record: entry.bytes.clone() });
        }
        if armed {
            let delay = self.rng.below(10_000);
            self.at(delay, Happening::Fault(Fault::NodeDies(node)));
        }
    }

    /// Asks what the appender wants asked, and takes in the outcomes.
    pub(super) fn pump_appender(&mut self, node: usize) -> Checked {
        loop {
            let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) else {
                return Ok(());
            };
            let ready = cluster.appender.take_ready();
            if ready.calls.is_empty() && ready.done.is_empty() {
                break;
            }
            for (call, action) in ready.calls {
                self.ask_for_append(node, call, action);
            }
            for done in ready.done {
                if !self.append_done(node, done)? {
                    break;
                }
            }
        }
        self.arm_appender(node);
        Ok(())
    }

    fn ask_for_append(&mut self, node: usize, call: CallId, action: Action) {
        let (ask, wait) = match action {
            Action::Publish { mut id, expected_last, mut after, record } => {
                let appends = self.nodes[node].leader().map(|leader| leader.appends.iter());
                let called = appends.into_iter().flatten().find(|append| append.number == Some(id.number));
                let known = called.map_or(LogSeq(0), |append| append.known);
                if self.plant == Some(Plant::AppendRenamed) {
                    // Every call has its own number, so no two tries share it.
                    id.number = AppendNumber(id.number.0 | call.0 << 32);
                }
                if matches!(self.plant, Some(Plant::PredecessorUnnamed | Plant::AppendRenamed)) {
                    after = None;
                }
                (LogAsk::Publish { id, expected_last, after, record, known }, LogWait::Publish(call))
            }
            Action::ReadBack { seq } => (LogAsk::ReadBack(seq), LogWait::ReadBack(call)),
        };
        self.ask_log(node, ask, wait);
    }

    /// What the answer of the server means for the appender.
    pub(super) fn published(&mut self, node: usize, result: PublishResult) -> Published {
        match result {
            Ok(ack) => {
                if ack.duplicate {
                    self.marks.hit(Mark::AckOfEarlierTry);
                }
                Published::Stored { seq: LogSeq(ack.seq) }
            }
            Err(PublishError::WrongLastSequence { last }) => {
                let leader = self.nodes[node].leader().map(|leader| leader.term());
                if leader.is_some_and(|term| term < self.oracle.term()) {
                    self.marks.hit(Mark::StaleLeaderRefused);
                }
                Published::WrongLast { last: LogSeq(last) }
            }
            Err(PublishError::WrongLastId { .. }) => {
                self.marks.hit(Mark::PredecessorRefused);
                Published::WrongPredecessor
            }
            Err(PublishError::NoSpace | PublishError::MaxBytes) => Published::NoSpace,
            Err(PublishError::MaxPayload | PublishError::MessageTooLarge) => {
                Published::TooLarge { bytes_max: self.cluster().record_bytes_max }
            }
            Err(error @ PublishError::StreamMismatch) => Published::Failed { reason: error.to_string() },
            Err(error @ (PublishError::NoResponders | PublishError::DuplicateInProcess)) => {
                Published::NoAnswer { reason: error.to_string() }
            }
        }
    }

    pub(super) fn found(&mut self, node: usize, found: Option<Option<MessageId>>, first: LogSeq) -> Found {
        let seq = self.nodes[node].leader().and_then(|leader| Some(leader.appends.front()?.seq));
        match found {
            Some(id) => {
                let own = id.is_some_and(|id| self.is_own(node, id));
                self.marks.hit(if own { Mark::ReadBackOwn } else { Mark::ReadBackForeign });
                Found::Record(id)
            }
            None if seq.is_some_and(|seq| seq < first) => Found::Trimmed,
            None => Found::Nothing,
        }
    }

    /// Whether that is the very append whose place was read.
    fn is_own(&self, node: usize, id: MessageId) -> bool {
        let Some(process) = &self.nodes[node].process else { return false };
        let (Some(leader), Some(cluster)) = (&process.leader, &process.cluster) else { return false };
        let front = leader.appends.front().and_then(|append| append.number);
        cluster.writer == id.writer && front == Some(id.number)
    }

    /// A planted bug: what the appender would have read back is said to be somebody else's.
    pub(super) fn conclude_at_once(&mut self, node: usize, now_us: u64) {
        let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) else {
            return;
        };
        let ready = cluster.appender.take_ready();
        let mut calls = Vec::new();
        for (call, action) in ready.calls {
            match action {
                Action::ReadBack { .. } => cluster.appender.step(now_us, Input::Found(call, Found::Record(None))),
                Action::Publish { .. } => calls.push((call, action)),
            }
        }
        for (call, action) in calls {
            self.ask_for_append(node, call, action);
        }
    }

    /// An append has an outcome. Answers whether the ones after it matter still.
    fn append_done(&mut self, node: usize, done: Done) -> Result<bool, Violation> {
        let front = self.nodes[node].leader().and_then(|leader| leader.appends.front());
        hold!(
            front.is_some_and(|front| front.number == Some(done.number)),
            "node-{node} hears of {:?} out of order",
            done.number
        );
        let mut failure = AppendFailure::Refused;
        match done.outcome {
            Ok(seq) => {
                self.append_durable(node, seq)?;
                // What has taken effect can have ended the leadership, and then nobody hears of the rest.
                return Ok(self.nodes[node].leader().is_some());
            }
            Err(AppendError::Conflict { .. }) => {
                self.marks.hit(Mark::LeadershipRefused);
                self.refused_for_a_reason(node)?;
            }
            Err(AppendError::Unreachable { .. }) => self.marks.hit(Mark::AppendGivenUp),
            Err(AppendError::NoSpace { .. }) => failure = AppendFailure::NoSpace,
            Err(error @ (AppendError::Storage { .. } | AppendError::TooLarge { .. })) => {
                self.halt(node, Halt::Storage(error.to_string()))?;
                return Ok(false);
            }
        }
        if self.plant == Some(Plant::EffectsAfterRefusal)
            && let Some(effects) = self.nodes[node].leader().and_then(|leader| leader.node.under_way().next().map(told))
        {
            self.effects(node, effects)?;
        }
        let life = self.nodes[node].life;
        self.tell_leader(Sender { node, life }, NodeInput::AppendFailed(failure));
        self.pump_leader(node)?;
        Ok(false)
    }

    /// A planted bug: what waits for the second half of a decision is carried out after the first one.
    fn answer_cut_early(&mut self, node: usize) -> Checked {
        let Some(leader) =
            self.nodes[node].leader().filter(|leader| leader.appends.front().is_some_and(|next| next.is_rest))
        else {
            return Ok(());
        };
        let early = leader.node.under_way().next().map(told);
        match early {
            Some(effects) if self.plant == Some(Plant::CutAnsweredEarly) => self.effects(node, effects),
            _ => Ok(()),
        }
    }

    /// Whoever concludes that its record was refused must not find that very record in the log.
    fn refused_for_a_reason(&mut self, node: usize) -> Checked {
        let Some(append) = self.nodes[node].leader().and_then(|leader| leader.appends.front()) else { return Ok(()) };
        let (seq, hash) = (append.seq, append.entry.hash);
        let stands = self.oracle.hash_at(seq) == Some(hash);
        hold!(!stands || self.oracle.disaster, "node-{node} gave up its leadership for record {seq}, which is its own");
        Ok(())
    }

    /// The first append of a leader is durable.
    fn append_durable(&mut self, node: usize, seq: LogSeq) -> Checked {
        let now = self.now;
        let lag = self.rng.below(self.options.read_model_lag + 1);
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let clock = process.clock(now);
        let Some(leader) = &mut process.leader else { return Ok(()) };
        let Some(append) = leader.appends.pop_front() else { return Ok(()) };
        let entry = append.entry;
        hold!(append.seq == seq, "record {} was acknowledged as record {seq}", append.seq);
        let stands = self.oracle.hash_at(seq);
        let same = stands == Some(entry.hash) || self.oracle.shortened;
        hold!(same, "node-{node} was told that its record {seq} is durable, and another one is");
        (process.published, process.heard_us) = (process.published.max(seq), uptime_us(now));
        entry.record.events.iter().for_each(|event| process.shown.apply(seq, event));
        if let Some(cluster) = &mut process.cluster {
            cluster.floor = cluster.floor.max(seq);
        }
        let read_model = LogSeq(seq.0.saturating_sub(lag));
        note_current(&mut process.current, &entry);
        leader.node.step(clock, NodeInput::Appended(seq));
        leader.node.step(clock, LeaderInput::ReadModelAt(read_model).into());
        self.nodes[node].read_model = self.nodes[node].read_model.max(read_model);
        self.note_read(node, seq, &entry.record);
        self.answer_cut_early(node)?;
        self.pump_leader(node)
    }

    fn arm_appender(&mut self, node: usize) {
        let (now, life) = (self.now, self.nodes[node].life);
        let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) else {
            return;
        };
        let Some(next_us) = cluster.appender.next_timeout_us() else { return };
        let next = Timestamp(next_us).max(now.plus_us(1));
        if cluster.append_tick_at.wants(now, next) {
            self.at_time(next, Happening::Log(LogHappening::AppendTick(Sender { node, life })));
        }
    }

    pub(super) fn append_tick(&mut self, sender: Sender) {
        let now = self.now;
        if let Some(process) = self.nodes[sender.node].alive(sender.life)
            && let Some(cluster) = &mut process.cluster
            && cluster.append_tick_at.comes(now)
        {
            cluster.appender.step(now.0, Input::Tick);
            self.touch_node(sender.node);
        }
    }

    pub(super) fn step_appender(&mut self, node: usize, now_us: u64, input: Input) {
        if let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) {
            cluster.appender.step(now_us, input);
        }
    }
}

/// What leaves a node by effects that are not due.
fn told(waiting: &Effects) -> Effects {
    Effects {
        seq: waiting.seq,
        replies: waiting.replies.clone(),
        acks: waiting.acks.clone(),
        messages: waiting.messages.clone(),
        ..Effects::default()
    }
}
