//! The log of a cluster: what nodes ask of JetStream, what it does, and what they hear of it.

use wasmill_fabric_core::append::{Found, Input, MessageId, Published};
use wasmill_fabric_models::jetstream::{Publish, PublishResult};
use wasmill_protocol::LogSeq;
use wasmill_scheduler_node::upkeep::Ended;

use super::{ClusterFault, Happening, LogHappening, Sender, World};
use crate::marks::Mark;
use crate::network::Place;
use crate::node::LogWait;
use crate::oracle::{Checked, hold};
use crate::plant::Plant;
use crate::servers::{Caller, LogAnswer, LogAsk, STREAM, subject};

/// How long a node waits for an answer of the log, in microseconds.
const LOG_PATIENCE_US: u64 = 3_000_000;

impl World {
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
            LogAsk::Publish { id, expected_last, after, record, known } => {
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
                        servers.tickets.insert(ticket, (caller, known));
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
            LogAsk::End => match servers.log_ends() {
                Ok(ends) => LogAnswer::End(ends),
                Err(_) => return,
            },
            LogAsk::Time => match servers.log_ends() {
                Ok(_) => LogAnswer::Time(now),
                Err(_) => return,
            },
            LogAsk::Trim(to) => {
                // The servers would take a number beyond the end as the new end.
                let Ok(Some((_, last))) = servers.log_ends() else { return };
                let Ok(()) = servers.jetstream.purge(STREAM, to.min(last).0 + 1) else { return };
                self.marks.hit(Mark::LogTrimmed);
                LogAnswer::Trimmed
            }
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
            let writer = servers.tickets.remove(&ticket);
            self.stored(writer, &result)?;
            if let Some((caller, _)) = writer {
                self.answer_log(caller, LogAnswer::Published(result));
            }
        }
        self.store_soon();
        Ok(())
    }

    /// A record is durable, whoever hears of it. With whoever sent it comes the last record that was known there when it was
    /// called: nobody can call a record back that was on its way when the log lost its end.
    pub(super) fn stored(&mut self, writer: Option<(Caller, LogSeq)>, result: &PublishResult) -> Checked {
        let Ok(ack) = result else { return Ok(()) };
        if ack.duplicate {
            return Ok(());
        }
        let seq = LogSeq(ack.seq);
        let servers = self.servers.as_deref().expect("only a cluster has this log");
        let Some(stored) = servers.jetstream.peek(STREAM, ack.seq) else { return Ok(()) };
        let payload = stored.payload.clone();
        let Ok(entry) = self.decoder.decode(seq, &payload) else { return Ok(()) };
        if let Some((Caller { place: Place::Node(node), .. }, known)) = writer {
            // A try of the very record that is gone puts it back.
            let same = self.oracle.hash_at(seq) == Some(entry.hash);
            hold!(
                same || seq > known,
                "node-{node} knew of record {known} and appended record {seq}: the log was shorter"
            );
        }
        self.oracle.durable(self.now, seq, &entry, &mut self.marks)?;
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
            (LogWait::End(seen, looks, asked), Some(LogAnswer::End(ends))) => {
                return self.end_told(node, ends, (seen, looks, asked));
            }
            (LogWait::End(_, _, asked), _) => self.end_not_told(node, asked),
            (LogWait::Time(asked_at), Some(LogAnswer::Time(time))) => self.time_told(node, time, asked_at),
            (LogWait::Time(_), _) => {}
            (LogWait::Trim(term), answer) => {
                let sender = Sender { node, life: caller.life };
                let ended = if answer.is_some() { Ended::Trimmed } else { Ended::TrimFailed };
                self.work_ended(sender, term, ended);
            }
        }
        Ok(())
    }
}
