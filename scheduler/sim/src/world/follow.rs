//! A control node that follows: it reads the log, stands for election, and reads to the end before it leads.

use wasmill_protocol::{LogSeq, Term, Timestamp};
use wasmill_scheduler_core::clock::Witness;
use wasmill_scheduler_node::leading::Input as NodeInput;

use super::keep::note_current;
use super::{Fault, Happening, LogHappening, Sender, World};
use crate::leader::{AnswerTo, Leader, LeaderOptions};
use crate::marks::Mark;
use crate::network::Place;
use crate::node::{ClusterSide, EtcdWait, Fold, Halt, LogWait, Process, uptime_us};
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
        let (writer, seed) = (self.rng.draw(), self.rng.draw());
        let ttl_s = self.cluster().lease_ttl_s;
        let replicated = self.cluster().replicated;
        self.draw_wall_clock(node);
        let reading = self.nodes[node].reading(self.now);
        let started = &mut self.nodes[node];
        started.life += 1;
        started.process =
            Some(Process::new(reading, Some(ClusterSide::new(writer, seed, ttl_s, replicated, self.plant))));
        if started.halts > 0 {
            self.marks.hit(Mark::HaltedStarted);
        }
        let sender = Sender { node, life: self.nodes[node].life };
        self.at(0, Happening::Log(LogHappening::Poll(sender)));
        self.ask_end(node);
        self.touch_node(node);
    }

    pub(super) fn poll_log(&mut self, sender: Sender) -> Checked {
        if self.nodes[sender.node].alive(sender.life).is_none() {
            return Ok(());
        }
        let looks_again = POLL_US / 2 + self.rng.below(POLL_US);
        self.at(looks_again, Happening::Log(LogHappening::Poll(sender)));
        self.raise_mark(sender.node);
        self.watch_end(sender.node);
        self.ask_time(sender.node);
        self.look_at_clock(sender.node)?;
        self.read_log(sender)
    }

    /// A leader that appends nothing asks where the log ends, or it would never notice that it is gone.
    fn watch_end(&mut self, node: usize) {
        let seen = self.nodes[node].seen();
        let Some(process) = &mut self.nodes[node].process else { return };
        if let (Some(_), Some(cluster)) = (&process.leader, &mut process.cluster)
            && !cluster.log_calls.values().any(|wait| matches!(wait, LogWait::End(..)))
        {
            cluster.floor = cluster.floor.max(seen);
            self.look_for_end(node, 1);
        }
    }

    /// Reads what there is, as a consumer of the stream is given it.
    pub(super) fn read_log(&mut self, sender: Sender) -> Checked {
        let (now, node) = (self.now, sender.node);
        let reading = self.nodes[node].reading(now);
        if self.links.is_cut(now, Place::Nats, Place::Node(node)) {
            return Ok(());
        }
        for _ in 0..READ_MAX {
            let Some(process) = self.nodes[node].alive(sender.life) else { return Ok(()) };
            if process.leader.is_some() || !process.begun {
                return Ok(());
            }
            if process.behind_until > now {
                let until = process.behind_until;
                if self.plant != Some(Plant::ReadBeforeWait) || process.unshown.is_some() {
                    self.at_time(until, Happening::Log(LogHappening::News(sender)));
                    return self.is_read(sender);
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
                return self.is_read(sender);
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
        self.is_read(sender)
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

    /// Leads if what was read is the end.
    fn is_read(&mut self, sender: Sender) -> Checked {
        if self.nodes[sender.node].alive(sender.life).is_none() {
            return Ok(());
        }
        self.lead_if_read(sender.node)
    }

    /// Asks where the log ends, and before that how far others have seen it go: at the start, after an election, and when reading begins
    /// anew.
    pub(super) fn ask_end(&mut self, node: usize) {
        self.ask_etcd(node, EtcdAsk::Mark, EtcdWait::Mark);
    }

    /// etcd has said how far others have seen the log go. Without an answer what is known has to do.
    pub(super) fn mark_told(&mut self, node: usize, mark: Option<LogSeq>) {
        let seen = self.nodes[node].seen();
        if let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) {
            cluster.floor = cluster.floor.max(seen).max(mark.unwrap_or_default());
            self.look_for_end(node, 1);
        }
    }

    pub(super) fn look_for_end(&mut self, node: usize, looks: u32) {
        if let Some(cluster) = self.nodes[node].process.as_ref().and_then(|process| process.cluster.as_ref()) {
            let floor = cluster.floor;
            self.ask_log(node, LogAsk::End, LogWait::End(floor, looks));
        }
    }

    /// The servers have said where the log begins and ends, `None` when there is none. They may have fallen behind, or not have found it yet, so it is
    /// asked again before anything is concluded.
    pub(super) fn end_told(
        &mut self,
        node: usize,
        ends: Option<(LogSeq, LogSeq)>,
        seen: LogSeq,
        looks: u32,
    ) -> Checked {
        let life = self.nodes[node].life;
        let accepted = self.plant == Some(Plant::ShortenedAccepted);
        let (first, last) = match ends {
            Some((first, last)) if last >= seen || accepted => (first, last),
            _ if looks < LOOKS => {
                self.at(LOOK_US, Happening::Log(LogHappening::Look(Sender { node, life }, looks + 1)));
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
            self.at(LOOK_US, Happening::Log(LogHappening::Look(Sender { node, life }, looks)));
            return Ok(());
        }
        if self.nodes[node].leader().is_some_and(|leader| leader.last() < last) && !accepted {
            self.tell_leader(Sender { node, life }, NodeInput::LogEndsAt(last));
            return Ok(());
        }
        if self.was_trimmed_since(node, first) {
            self.at(LOOK_US, Happening::Log(LogHappening::Look(Sender { node, life }, looks)));
            return Ok(());
        }
        self.begin_reading(node, first, last)?;
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let Some(cluster) = &mut process.cluster else { return Ok(()) };
        if cluster.elected.is_some() {
            cluster.end = Some(last);
        }
        if accepted && process.leader.is_none() && process.fold.last > last {
            // What is known better is forgotten.
            process.fold = Fold::default();
        }
        self.read_log(Sender { node, life })
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

    /// Elected, and at the end of the log: leads.
    fn lead_if_read(&mut self, node: usize) -> Checked {
        let plant = self.plant;
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        let Some(cluster) = &process.cluster else { return Ok(()) };
        let (Some(mut term), Some(end)) = (cluster.elected, cluster.end) else { return Ok(()) };
        let unread = plant == Some(Plant::EndUnread);
        if process.leader.is_some() || (process.fold.last < end && !unread) {
            return Ok(());
        }
        let seen = process.fold.state.term();
        if term <= seen && plant == Some(Plant::TermMadeUp) {
            term = Term(seen.0 + 1);
        }
        if term <= seen {
            if term <= cluster.stood_after {
                return self.halt(node, Halt::TermRegressed { term, seen });
            }
            // Somebody was elected after us, and was faster.
            self.marks.hit(Mark::ElectionOvertaken);
            self.step_down(node);
            return Ok(());
        }
        if !process.may_lead() {
            self.withdraw(node);
            return Ok(());
        }
        let mut fold = std::mem::take(&mut process.fold);
        if unread {
            let servers = self.servers.as_deref().expect("only a cluster has elections");
            if let Ok(Some(stored)) = servers.jetstream.message(STREAM, end.0)
                && let Ok(entry) = self.decoder.decode(end, &stored.payload)
            {
                (fold.last, fold.prev_hash) = (end, entry.hash);
            }
        }
        // Nonces are drawn from it: no two leaderships may draw the same ones.
        let seed = self.rng.draw();
        let cluster = self.cluster();
        let (snapshot_records, records_kept) = (cluster.snapshot_records, cluster.records_kept);
        let options = LeaderOptions { snapshot_records, records_kept, removals_cut: cluster.removals_cut, plant };
        let name = self.nodes[node].name.clone();
        self.begin_term(node, term, seed, fold, options);
        if self.listening().len() > 1 {
            self.marks.hit(Mark::TwoBelievedToLead);
        }
        self.remark(|| format!("{name} leads in term {term} after record {end}"));
        self.watch_hosts(node);
        self.touch_node(node);
        Ok(())
    }

    /// Leadership is over: the core is dropped, and the next one is built from the log.
    pub(super) fn step_down(&mut self, node: usize) {
        let ttl_s = self.cluster().lease_ttl_s;
        let seed = self.rng.draw();
        let (life, reading) = (self.nodes[node].life, self.nodes[node].reading(self.now));
        self.give_seat_back(node);
        let now = self.now;
        let Some(process) = &mut self.nodes[node].process else { return };
        let leader = process.leader.take();
        let was_elected = process.cluster.as_ref().is_some_and(|cluster| cluster.elected.is_some());
        if leader.is_none() && was_elected && process.behind_until > now {
            self.marks.hit(Mark::CatchUpGivenUp);
        }
        // Whoever was elected reads on anew.
        process.unshown = None;
        process.clock.lead(false, Timestamp(0), reading);
        let known = process.fold.state.term();
        // A core that led ran ahead of the log: what it had decided is gone with it.
        if leader.is_some() {
            process.fold = Fold::default();
            process.begun = false;
        }
        if let Some(cluster) = &mut process.cluster {
            cluster.stand_again(ttl_s, seed, known);
        }
        // Whoever waited for an answer is told that there is none: what became of the command is not known.
        if let Some(Leader { answers, heard, .. }) = leader {
            for answer in answers.into_values() {
                if let AnswerTo::Client(request) = answer {
                    self.at(1_000, Happening::Impatient(request));
                }
            }
            self.end_calls(node, heard);
        }
        self.at(0, Happening::Log(LogHappening::News(Sender { node, life })));
        self.ask_end(node);
        self.touch_node(node);
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
