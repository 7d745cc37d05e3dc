//! The log of a cluster: what nodes ask of JetStream, what it does, and what they hear of it.

use wasmill_fabric_core::append::{
    Action, AppendError, AppendNumber, CallId, Done, Found, Input, MessageId, Published,
};
use wasmill_fabric_models::jetstream::{Publish, PublishError, PublishResult};
use wasmill_protocol::{LogSeq, Timestamp};
use wasmill_scheduler_core::Input as LeaderInput;

use super::{ClusterFault, Happening, LogHappening, Sender, World};
use crate::marks::Mark;
use crate::network::Place;
use crate::node::{Halt, LogWait};
use crate::oracle::{Checked, hold};
use crate::plant::Plant;
use crate::servers::{Caller, LogAnswer, LogAsk, STREAM, subject};

/// How long a node waits for an answer of the log, in microseconds.
const LOG_PATIENCE_US: u64 = 3_000_000;

impl World {
    /// The newest appends of a leader go to its appender.
    pub(super) fn append_to_log(&mut self, node: usize, count: usize) -> Checked {
        let now_us = self.now.0;
        let armed = self.kill_armed == Some(node);
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let (Some(leader), Some(cluster)) = (&mut process.leader, &mut process.cluster) else { return Ok(()) };
        let newest = leader.appends.len() - count;
        for append in leader.appends.iter_mut().skip(newest) {
            let Some(entry) = &append.entry else { continue };
            let number = AppendNumber(cluster.next_append);
            cluster.next_append += 1;
            append.number = Some(number);
            let expected_last = LogSeq(append.seq.0 - 1);
            cluster.appender.step(now_us, Input::Append { number, expected_last, record: entry.bytes.clone() });
        }
        if armed {
            let delay = self.rng.below(10_000);
            self.at(delay, Happening::Fault(super::Fault::NodeDies(node)));
        }
        self.settle_appends(node)
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
                if self.plant == Some(Plant::AppendRenamed) {
                    // Every call has its own number, so no two tries share it.
                    id.number = AppendNumber(id.number.0 | call.0 << 32);
                }
                if matches!(self.plant, Some(Plant::PredecessorUnnamed | Plant::AppendRenamed)) {
                    after = None;
                }
                (LogAsk::Publish { id, expected_last, after, record }, LogWait::Publish(call))
            }
            Action::ReadBack { seq } => (LogAsk::ReadBack(seq), LogWait::ReadBack(call)),
        };
        self.ask_log(node, ask, wait);
    }

    /// Sends a request to the log. The answer comes once, or nothing does.
    pub(super) fn ask_log(&mut self, node: usize, ask: LogAsk, wait: LogWait) {
        let life = self.nodes[node].life;
        let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) else {
            return;
        };
        let call = cluster.number();
        cluster.log_calls.insert(call, wait);
        let caller = Caller { place: Place::Node(node), life, call };
        if let Some(arrival) = self.wire(Place::Node(node), Place::Nats) {
            self.at_time(arrival, Happening::Log(LogHappening::Ask(caller, Box::new(ask))));
        }
        self.at(LOG_PATIENCE_US, Happening::Log(LogHappening::Timeout(caller)));
    }

    /// A request reaches the servers.
    pub(super) fn log_asked(&mut self, caller: Caller, ask: LogAsk) {
        let now = self.nats_now();
        let servers = self.servers();
        let answer = match ask {
            LogAsk::Publish { id, expected_last, after, record } => {
                let publish = Publish {
                    subject: subject(),
                    id: Some(id.to_string()),
                    expected_last: Some(expected_last.0),
                    expected_last_id: after.map(|after| after.to_string()),
                    expected_stream: Some(STREAM.into()),
                    payload: record,
                };
                match servers.jetstream.receive(now, publish) {
                    Ok(ticket) => {
                        servers.tickets.insert(ticket, caller);
                        self.store_soon();
                        return;
                    }
                    Err(answer) => LogAnswer::Published(answer),
                }
            }
            LogAsk::ReadBack(seq) => {
                let Ok(info) = servers.jetstream.info(STREAM) else { return };
                let found = servers.jetstream.message(STREAM, seq.0).ok().flatten();
                let id = |text: &String| text.parse::<MessageId>().ok();
                LogAnswer::Found(found.map(|found| found.id.as_ref().and_then(id)), LogSeq(info.first_seq))
            }
            LogAsk::End => match servers.log_end() {
                Ok(last) => LogAnswer::End(last),
                Err(_) => return,
            },
        };
        self.answer_log(caller, answer);
    }

    /// Stores what waits, one record after the other.
    fn store_soon(&mut self) {
        let servers = self.servers();
        if !servers.storing && servers.jetstream.waiting() > 0 {
            servers.storing = true;
            let armed = servers.stop_armed.take();
            let delay = self.append_delay();
            self.at(delay, Happening::Log(LogHappening::StoreNext));
            if let Some(stop) = armed {
                self.at(delay / 2, Happening::ClusterFault(ClusterFault::NatsStops(stop)));
            }
        }
    }

    pub(super) fn store_next(&mut self) -> Checked {
        let now = self.nats_now();
        let servers = self.servers();
        servers.storing = false;
        if let Some((ticket, result)) = servers.jetstream.store_next(now) {
            let caller = servers.tickets.remove(&ticket);
            self.stored(caller, &result)?;
            if let Some(caller) = caller {
                self.answer_log(caller, LogAnswer::Published(result));
            }
        }
        self.store_soon();
        Ok(())
    }

    /// A record is durable, whoever hears of it.
    pub(super) fn stored(&mut self, caller: Option<Caller>, result: &PublishResult) -> Checked {
        let Ok(ack) = result else { return Ok(()) };
        if ack.duplicate {
            return Ok(());
        }
        let seq = LogSeq(ack.seq);
        let servers = self.servers.as_deref().expect("only a cluster has this log");
        let Some(stored) = servers.jetstream.peek(STREAM, ack.seq) else { return Ok(()) };
        let payload = stored.payload.clone();
        let Ok(entry) = self.decoder.decode(seq, &payload) else { return Ok(()) };
        if let Some(Caller { place: Place::Node(node), .. }) = caller {
            let seen = self.nodes[node].seen();
            let floor = self.nodes[node].process.as_ref().and_then(|process| process.cluster.as_ref());
            let seen = floor.map_or(seen, |cluster| cluster.floor.max(seen));
            hold!(seq > seen, "node-{node} has seen record {seen} and appended record {seq}: the log was shorter");
        }
        self.oracle.durable(seq, &entry, &mut self.marks)?;
        for node in 0..self.nodes.len() {
            if let Some(arrival) = self.wire(Place::Nats, Place::Node(node)) {
                let sender = Sender { node, life: self.nodes[node].life };
                self.at_time(arrival, Happening::Log(LogHappening::News(sender)));
            }
        }
        Ok(())
    }

    /// Sends an answer to a node: lost, late or twice.
    fn answer_log(&mut self, caller: Caller, answer: LogAnswer) {
        let acked = matches!(answer, LogAnswer::Published(Ok(_)));
        if acked && self.rng.chance(self.cluster().acks_lost) {
            self.marks.hit(Mark::AckLost);
            return;
        }
        let twice = acked && self.rng.chance(self.cluster().acks_doubled);
        for _ in 0..=u8::from(twice) {
            if let Some(arrival) = self.wire(Place::Nats, caller.place) {
                self.at_time(arrival, Happening::Log(LogHappening::Answer(caller, Box::new(answer.clone()))));
            }
        }
    }

    /// An answer reaches a node, or it has waited long enough.
    pub(super) fn log_answered(&mut self, caller: Caller, answer: Option<LogAnswer>) -> Checked {
        let Place::Node(node) = caller.place else { return Ok(()) };
        let now_us = self.now.0;
        let Some(process) = self.nodes[node].alive(caller.life) else { return Ok(()) };
        let Some(cluster) = &mut process.cluster else { return Ok(()) };
        let Some(wait) = cluster.log_calls.remove(&caller.call) else {
            if answer.is_some() {
                self.marks.hit(Mark::AckDoubled);
            }
            return Ok(());
        };
        self.touch_node(node);
        match (wait, answer) {
            (LogWait::Publish(call), answer) => {
                let published = match answer {
                    Some(LogAnswer::Published(result)) => self.published(node, result),
                    _ => Published::NoAnswer { reason: "no answer".into() },
                };
                let wrong_last = matches!(published, Published::WrongLast { .. });
                self.step_appender(node, now_us, Input::Published(call, published));
                if wrong_last && self.plant == Some(Plant::ConflictWithoutReadBack) {
                    self.conclude_at_once(node, now_us);
                }
            }
            (LogWait::ReadBack(call), answer) => {
                let found = match answer {
                    Some(LogAnswer::Found(found, first)) => self.found(node, found, first),
                    _ => Found::NoAnswer { reason: "no answer".into() },
                };
                self.step_appender(node, now_us, Input::Found(call, found));
            }
            (LogWait::End(seen, looks), Some(LogAnswer::End(last))) => {
                return self.end_told(node, last, seen, looks);
            }
            (LogWait::End(..), _) => self.ask_end(node),
        }
        Ok(())
    }

    fn step_appender(&mut self, node: usize, now_us: u64, input: Input) {
        if let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) {
            cluster.appender.step(now_us, input);
        }
    }

    /// What the answer of the server means for the appender.
    fn published(&mut self, node: usize, result: PublishResult) -> Published {
        match result {
            Ok(ack) => {
                if ack.duplicate {
                    self.marks.hit(Mark::AckOfEarlierTry);
                }
                Published::Stored { seq: LogSeq(ack.seq) }
            }
            Err(PublishError::WrongLastSequence { last }) => {
                let leader = self.nodes[node].leader().map(|leader| leader.term);
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

    fn found(&mut self, node: usize, found: Option<Option<MessageId>>, first: LogSeq) -> Found {
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
    fn conclude_at_once(&mut self, node: usize, now_us: u64) {
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
    fn append_done(&mut self, node: usize, done: Done) -> Result<bool, crate::oracle::Violation> {
        let front = self.nodes[node].leader().and_then(|leader| leader.appends.front());
        if front.is_none_or(|front| front.number != Some(done.number)) {
            // Of a leadership that is over.
            return Ok(true);
        }
        match done.outcome {
            Ok(seq) => {
                self.append_durable(node, seq)?;
                self.settle_appends(node)?;
                return Ok(true);
            }
            Err(AppendError::Conflict { .. }) => {
                self.marks.hit(Mark::LeadershipRefused);
                self.refused_for_a_reason(node)?;
            }
            Err(AppendError::Unreachable { .. }) => self.marks.hit(Mark::AppendGivenUp),
            Err(AppendError::NoSpace { .. }) => {}
            Err(error @ (AppendError::Storage { .. } | AppendError::TooLarge { .. })) => {
                self.halt(node, Halt::Storage(error.to_string()))?;
                return Ok(false);
            }
        }
        if self.plant == Some(Plant::EffectsAfterRefusal)
            && let Some(append) = self.nodes[node].leader().and_then(|leader| leader.appends.pop_front())
        {
            self.effects(node, append.seq, append.ready)?;
        }
        self.step_down(node);
        Ok(false)
    }

    /// Whoever concludes that its record was refused must not find that very record in the log.
    fn refused_for_a_reason(&mut self, node: usize) -> Checked {
        let Some(append) = self.nodes[node].leader().and_then(|leader| leader.appends.front()) else { return Ok(()) };
        let (seq, hash) = (append.seq, append.entry.as_ref().map(|entry| entry.hash));
        let stands = hash.is_some() && self.oracle.hash_at(seq) == hash;
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
        let Some(entry) = &append.entry else { return Ok(()) };
        hold!(append.seq == seq, "record {} was acknowledged as record {seq}", append.seq);
        let stands = self.oracle.hash_at(seq);
        let same = stands == Some(entry.hash) || self.oracle.shortened;
        hold!(same, "node-{node} was told that its record {seq} is durable, and another one is");
        process.published = process.published.max(seq);
        if let Some(cluster) = &mut process.cluster {
            cluster.floor = cluster.floor.max(seq);
        }
        leader.core.step(clock, LeaderInput::ReadModelAt(LogSeq(seq.0.saturating_sub(lag))));
        let read_model = LogSeq(seq.0.saturating_sub(lag));
        self.nodes[node].read_model = self.nodes[node].read_model.max(read_model);
        self.touch_node(node);
        self.effects(node, seq, append.ready)
    }

    /// Effects that only wait for what was before them take place when nothing is.
    fn settle_appends(&mut self, node: usize) -> Checked {
        loop {
            let published = self.nodes[node].process.as_ref().map_or(LogSeq(0), |process| process.published);
            let Some(leader) = self.nodes[node].leader() else { return Ok(()) };
            if leader.appends.front().is_none_or(|append| append.entry.is_some()) {
                return Ok(());
            }
            let Some(append) = leader.appends.pop_front() else { return Ok(()) };
            self.touch_node(node);
            self.effects(node, published, append.ready)?;
        }
    }

    fn arm_appender(&mut self, node: usize) {
        let (now, life) = (self.now, self.nodes[node].life);
        let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) else {
            return;
        };
        let Some(next_us) = cluster.appender.next_timeout_us() else { return };
        let next = Timestamp(next_us).max(now.plus_us(1));
        if cluster.append_tick_at.is_none_or(|armed| armed > next || armed < now) {
            cluster.append_tick_at = Some(next);
            self.at_time(next, Happening::Log(LogHappening::AppendTick(Sender { node, life })));
        }
    }

    pub(super) fn append_tick(&mut self, sender: Sender) {
        let now_us = self.now.0;
        if let Some(process) = self.nodes[sender.node].alive(sender.life)
            && let Some(cluster) = &mut process.cluster
        {
            cluster.append_tick_at = None;
            cluster.appender.step(now_us, Input::Tick);
            self.touch_node(sender.node);
        }
    }
}
