//! A control node that follows: it reads the log.

use wasmill_protocol::LogSeq;
use wasmill_scheduler_core::clock::Witness;
use wasmill_scheduler_node::following::Input;
use wasmill_scheduler_node::leading::Input as NodeInput;
use wasmill_scheduler_node::watch::Question;

use super::keep::note_current;
use super::{Fault, Happening, LogHappening, Sender, World};
use crate::marks::Mark;
use crate::network::Place;
use crate::node::{Asked, ClusterSide, EtcdWait, Fold, Halt, LogWait, Process, uptime_us};
use crate::oracle::{Checked, Violation, hold};
use crate::plant::Plant;
use crate::servers::{EtcdAsk, LogAsk, STREAM};

/// Records that are read at once.
const READ_MAX: usize = 64;
/// The time between two looks at the log without news, in microseconds.
const POLL_US: u64 = 1_000_000;
/// How often it is asked where the log ends before it is believed that records are gone.
const LOOKS: u32 = 8;
/// Between two looks, in microseconds.
const LOOK_US: u64 = 400_000;
/// How long somebody waits before what has halted is started again, in microseconds; doubles with each time.
const RESTART_US: u64 = 1_000_000;
/// How often that doubles.
const RESTART_DOUBLINGS_MAX: u32 = 5;

impl World {
    /// A process of a cluster begins.
    pub(super) fn follower_starts(&mut self, node: usize) {
        let writer = self.rng.draw();
        let replicated = self.cluster().replicated;
        self.draw_wall_clock(node);
        let reading = self.nodes[node].reading(self.now);
        let started = &mut self.nodes[node];
        started.life += 1;
        let cluster = ClusterSide::new(writer, replicated, self.plant);
        started.process = Some(Process::new(reading, started.retention_us, Some(cluster)));
        if started.halts > 0 {
            self.marks.hit(Mark::HaltedStarted);
        }
        let sender = Sender { node, life: self.nodes[node].life };
        self.at(0, Happening::Log(LogHappening::Poll(sender)));
        self.ask_end(node, None);
        self.touch_node(node);
    }

    pub(super) fn poll_log(&mut self, sender: Sender) -> Checked {
        if self.nodes[sender.node].alive(sender.life).is_none() {
            return Ok(());
        }
        let looks_again = POLL_US / 2 + self.rng.below(POLL_US);
        self.at(looks_again, Happening::Log(LogHappening::Poll(sender)));
        self.raise_mark(sender.node);
        self.ask_time(sender.node);
        self.look_at_clock(sender.node)?;
        self.sweep_if_due(sender.node)?;
        self.read_log(sender)
    }

    /// Reads what there is, as a consumer of the stream is given it.
    pub(super) fn read_log(&mut self, sender: Sender) -> Checked {
        let (now, node) = (self.now, sender.node);
        let reading = self.nodes[node].reading(now);
        if self.links.is_cut(now, Place::Nats, Place::Node(node)) {
            return Ok(());
        }
        let before = self.nodes[node].process.as_ref().map_or(LogSeq(0), |process| process.fold.last);
        for _ in 0..READ_MAX {
            let Some(process) = self.nodes[node].alive(sender.life) else { return Ok(()) };
            if process.leader.is_some() || !process.begun {
                return Ok(());
            }
            if process.behind_until > now {
                let until = process.behind_until;
                if self.plant != Some(Plant::ReadBeforeWait) || process.unshown.is_some() {
                    self.at_time(until, Happening::Log(LogHappening::News(sender)));
                    return self.is_read(sender, before);
                }
            } else if let Some(seq) = process.unshown.take() {
                process.published = process.published.max(seq);
            }
            let next = process.fold.last.next();
            let servers = self.servers.as_deref().expect("only a cluster is followed");
            if let Ok(Some((first, _))) = servers.log_ends()
                && first > next
            {
                return self.halt(node, Halt::Trimmed { next, first });
            }
            let Ok(Some(stored)) = servers.jetstream.next_message(STREAM, next.0) else {
                return self.is_read(sender, before);
            };
            let (seq, payload) = (LogSeq(stored.seq), stored.payload.clone());
            let read = match self.decoder.decode(seq, &payload) {
                Ok(_) if seq != next => Err(Halt::Missing(next)),
                Ok(entry) => process.fold.read(seq, &entry).map(|()| entry),
                Err(_) => Err(Halt::Unreadable(seq)),
            };
            match read {
                Ok(entry) => {
                    if seq > process.end_found {
                        let time = process.fold.state.time();
                        process.clock.told(Witness::Leader, time, uptime_us(now), reading);
                    }
                    let published = process.published;
                    hold!(seq <= published.next(), "node-{node} shows record {seq} after record {published}");
                    if process.behind_until > now && seq > published {
                        process.unshown = Some(seq);
                        continue;
                    }
                    if seq > process.published {
                        entry.record.events.iter().for_each(|event| process.shown.apply(seq, event));
                    }
                    process.publish(seq, now);
                    note_current(&mut process.current, &entry);
                    self.note_read(node, seq, &entry.record);
                    self.read_model_may_stall(node);
                }
                Err(_) if self.plant == Some(Plant::HoleAccepted) => self.read_over(node, seq, &payload),
                Err(halt) => return self.halt(node, halt),
            }
        }
        // There is more, and others want to be heard too.
        self.at(100, Happening::Log(LogHappening::News(sender)));
        self.is_read(sender, before)
    }

    /// A planted bug: what does not fit is passed over.
    fn read_over(&mut self, node: usize, seq: LogSeq, payload: &bytes::Bytes) {
        let entry = self.decoder.decode(seq, payload);
        if let Some(process) = &mut self.nodes[node].process {
            process.fold.last = seq;
            process.published = process.published.max(seq);
            if let Ok(entry) = entry {
                process.fold.prev_hash = entry.hash;
            }
        }
    }

    /// Says how far a node has read, if it has read anything after record `before`: that there is
    /// nothing to read says nothing of the log.
    fn is_read(&mut self, sender: Sender, before: LogSeq) -> Checked {
        if let Some(process) = self.nodes[sender.node].alive(sender.life)
            && process.fold.last > before
        {
            let (last, term) = (process.fold.last, process.fold.state.term());
            self.step_following(sender.node, Input::Read { last, term });
        }
        Ok(())
    }

    /// Asks where the log ends, and before that how far others have seen it go: at the start, after an election, and when reading begins
    /// anew.
    pub(super) fn ask_end(&mut self, node: usize, asked: Option<Asked>) {
        self.ask_etcd(node, EtcdAsk::Mark, EtcdWait::Mark(asked));
    }

    /// etcd has said how far others have seen the log go. Without an answer what is known has to do.
    pub(super) fn mark_told(&mut self, node: usize, mark: Option<LogSeq>, asked: Option<Asked>) {
        let seen = self.nodes[node].seen();
        if let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) {
            cluster.floor = cluster.floor.max(seen).max(mark.unwrap_or_default());
            self.look_for_end(node, 1, asked);
        }
    }

    pub(super) fn look_for_end(&mut self, node: usize, looks: u32, asked: Option<Asked>) {
        if let Some(cluster) = self.nodes[node].process.as_ref().and_then(|process| process.cluster.as_ref()) {
            let floor = cluster.floor;
            self.ask_log(node, LogAsk::End, LogWait::End(floor, looks, asked));
        }
    }

    /// The servers have said where the log begins and ends, `None` when there is none. They may have fallen behind, or not have found it yet, so it is
    /// asked again before anything is concluded.
    pub(super) fn end_told(
        &mut self,
        node: usize,
        ends: Option<(LogSeq, LogSeq)>,
        (seen, looks, asked): (LogSeq, u32, Option<Asked>),
    ) -> Checked {
        let life = self.nodes[node].life;
        let accepted = self.plant == Some(Plant::ShortenedAccepted);
        let (first, last) = match ends {
            Some((first, last)) if last >= seen || accepted => (first, last),
            _ if looks < LOOKS => {
                self.at(LOOK_US, Happening::Log(LogHappening::Look(Sender { node, life }, looks + 1, asked)));
                return Ok(());
            }
            ends => {
                let last = ends.map_or(LogSeq(0), |(_, last)| last);
                return self.halt(node, Halt::Shortened { last, seen });
            }
        };
        let cluster = self.nodes[node].process.as_ref().and_then(|process| process.cluster.as_ref());
        if cluster.is_some_and(|cluster| last < cluster.floor) && !accepted {
            // More is known by now than when it was asked.
            self.at(LOOK_US, Happening::Log(LogHappening::Look(Sender { node, life }, looks, asked)));
            return Ok(());
        }
        let question = self.question(node, asked);
        if self.nodes[node].leader().is_some() {
            if let Some(question) = question.filter(|_| !accepted) {
                self.tell_leader(Sender { node, life }, NodeInput::LogEnds { question, end: Some(last) });
            }
            return Ok(());
        }
        if self.was_trimmed_since(node, first) {
            self.at(LOOK_US, Happening::Log(LogHappening::Look(Sender { node, life }, looks, asked)));
            return Ok(());
        }
        let forgets = |process: &&mut Process| accepted && process.fold.last > last;
        if let Some(process) = self.nodes[node].process.as_mut().filter(forgets) {
            // What is known better is forgotten.
            (process.fold, process.begun, process.following) = (Fold::default(), false, None);
            self.give_seat_back(node);
        }
        self.begin_reading(node, first, last)?;
        // What is read after the machine has said that the node leads would be missing there.
        self.read_log(Sender { node, life })?;
        if let Some(question) = question {
            self.step_following(node, Input::LogEnds { question, end: Some(last) });
        }
        Ok(())
    }

    /// The servers have not said where the log ends.
    pub(super) fn end_not_told(&mut self, node: usize, asked: Option<Asked>) {
        let sender = Sender { node, life: self.nodes[node].life };
        if asked.is_none() {
            return self.ask_end(node, None);
        }
        match self.question(node, asked) {
            Some(question) if self.nodes[node].leader().is_some() => {
                self.tell_leader(sender, NodeInput::LogEnds { question, end: None });
            }
            Some(question) => self.step_following(node, Input::LogEnds { question, end: None }),
            // Who has asked has ended.
            None => {}
        }
    }

    /// What is answered, if the machine that has asked is there still.
    fn question(&self, node: usize, asked: Option<Asked>) -> Option<Question> {
        let cluster = self.nodes[node].process.as_ref()?.cluster.as_ref()?;
        asked.filter(|asked| asked.by == cluster.asks).map(|asked| asked.question)
    }

    /// A node tells others how far it has seen the log go, about once a second while it grows.
    pub(super) fn raise_mark(&mut self, node: usize) {
        let seen = self.nodes[node].seen();
        if let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut())
            && cluster.raised < seen
        {
            cluster.raised = seen;
            self.ask_etcd(node, EtcdAsk::Raise(seen), EtcdWait::Raise);
        }
    }

    /// Whether the mark was raised is not known: it is tried again.
    pub(super) fn mark_unraised(&mut self, node: usize) {
        if let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) {
            cluster.raised = LogSeq(0);
        }
    }

    /// Something is wrong with what the node stands on: it ends with an error, and somebody starts it again.
    pub(super) fn halt(&mut self, node: usize, halt: Halt) -> Checked {
        self.remark(|| format!("node-{node} halts: {halt}"));
        let disaster = self.options.cluster.as_ref().and_then(|cluster| cluster.disaster);
        let restarts = matches!(halt, Halt::Trimmed { .. });
        hold!(self.oracle.disaster || restarts, "node-{node} halts for nothing: {halt}; {disaster:?} has not happened");
        self.marks.hit(match &halt {
            Halt::Shortened { .. } => Mark::ShortenedHalted,
            Halt::TermRegressed { .. } => Mark::TermRegressedHalted,
            Halt::Missing(_) | Halt::Chain(_) | Halt::Unreadable(_) | Halt::TermMixed(_) => Mark::HoleHalted,
            Halt::Trimmed { .. } | Halt::NoSnapshot { .. } => Mark::FollowerOvertakenByTrim,
            Halt::Storage(reason) => return Err(Violation(format!("node-{node} halts: {reason}"))),
        });
        self.process_ends(node);
        let halted = &mut self.nodes[node];
        let delay = RESTART_US << halted.halts.min(RESTART_DOUBLINGS_MAX);
        (halted.halted, halted.halts) = (Some(halt), halted.halts + 1);
        self.at(delay, Happening::Fault(Fault::NodeStarts(node)));
        Ok(())
    }
}
