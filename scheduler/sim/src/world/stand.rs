//! When a node that follows stands for election and when it leads, as
//! [`wasmill_scheduler_node::Following`] says.

use wasmill_protocol::{Term, Timestamp};
use wasmill_scheduler_node::following::{Action, GivenUp, Input, Presence};
use wasmill_scheduler_node::watch::Question;

use super::{Happening, LogHappening, Sender, World};
use crate::leader::{AnswerTo, Leader, LeaderOptions};
use crate::marks::Mark;
use crate::network::Place;
use crate::node::{Asked, Fold, Halt};
use crate::oracle::Checked;
use crate::plant::Plant;
use crate::servers::STREAM;

impl World {
    /// Tells a node that follows what has happened.
    pub(super) fn step_following(&mut self, node: usize, input: Input) {
        let now_us = self.now.0;
        if let Some(following) = self.nodes[node].process.as_mut().and_then(|process| process.following.as_mut()) {
            following.step(now_us, input);
            self.touch_node(node);
        }
    }

    /// Does what a node that follows says.
    pub(super) fn pump_following(&mut self, node: usize) -> Checked {
        loop {
            let following = self.nodes[node].process.as_mut().and_then(|process| process.following.as_mut());
            let Some(following) = following else { return Ok(()) };
            let (actions, catches_up) = (following.take_ready(), following.is_catching_up());
            if actions.is_empty() {
                break;
            }
            for action in actions {
                self.act_for_following(node, action, catches_up)?;
            }
        }
        self.arm_following(node);
        Ok(())
    }

    fn act_for_following(&mut self, node: usize, action: Action, catches_up: bool) -> Checked {
        match action {
            // What others have appended before the election must be known.
            Action::AskLog(question) if catches_up => {
                let asked = self.nodes[node].process.as_ref().and_then(|process| process.cluster.as_ref());
                let asked = asked.map(|cluster| Asked { by: cluster.asks, question });
                self.ask_end(node, asked);
            }
            Action::AskLog(question) => self.watch_end(node, question),
            Action::AskLeader(question, term) => self.ask_presence(node, question, term),
            Action::Stand => self.stand(node),
            Action::Withdraw => {
                self.note_unbelieved(node);
                self.give_seat_back(node);
            }
            Action::Release(reason) => self.release(node, reason),
            Action::Lead(term) => return self.lead(node, term),
            Action::Halt { seen, .. } if self.plant == Some(Plant::TermMadeUp) => {
                return self.lead(node, Term(seen.0 + 1));
            }
            Action::Halt { term, seen } => return self.halt(node, Halt::TermRegressed { term, seen }),
            Action::TellLog { answers: false } => self.marks.hit(Mark::LogOutOfReach),
            Action::TellLeader { answers: None } => self.marks.hit(Mark::LeaderUnheard),
            Action::TellLog { answers: true } | Action::TellLeader { answers: Some(_) } => {}
        }
        Ok(())
    }

    /// Asks where the log ends, when nothing else tells.
    pub(super) fn watch_end(&mut self, node: usize, question: Question) {
        let seen = self.nodes[node].seen();
        if let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) {
            cluster.floor = cluster.floor.max(seen);
            let asked = Asked { by: cluster.asks, question };
            self.look_for_end(node, 1, Some(asked));
        }
    }

    /// Asks the leader of a term whether it is there. The servers know whether anybody listens in
    /// this term.
    fn ask_presence(&mut self, node: usize, question: Question, term: Term) {
        let sender = Sender { node, life: self.nodes[node].life };
        let leader = self.leader_of(term);
        let (to, presence) = leader.map_or((node, Presence::Gone), |leader| (leader, Presence::Leads));
        let reached = self.arrivals(Place::Node(node), Place::Node(to)).pop();
        let answered = self.arrivals(Place::Node(to), Place::Node(node)).pop();
        if let (Some(reached), Some(answered)) = (reached, answered)
            && self.nodes[to].paused_until <= reached
        {
            let at = answered.plus_us(reached.us_since(self.now));
            self.at_time(at, Happening::LeaderAsked(sender, question, presence));
        }
    }

    fn note_unbelieved(&mut self, node: usize) {
        if self.nodes[node].process.as_ref().is_some_and(|process| !process.may_lead()) {
            self.marks.hit(Mark::ClockNotBelieved);
        }
    }

    /// A node was elected and does not lead.
    fn release(&mut self, node: usize, reason: GivenUp) {
        let now = self.now;
        match reason {
            GivenUp::Overtaken => self.marks.hit(Mark::ElectionOvertaken),
            GivenUp::Clock => self.note_unbelieved(node),
            GivenUp::SeatLost | GivenUp::LogUnreachable | GivenUp::TooSlow => {}
        }
        if let Some(process) = &mut self.nodes[node].process {
            // Whoever was elected reads on anew.
            process.unshown = None;
            if process.behind_until > now {
                self.marks.hit(Mark::CatchUpGivenUp);
            }
        }
        self.give_seat_back(node);
    }

    fn arm_following(&mut self, node: usize) {
        let (now, life) = (self.now, self.nodes[node].life);
        let Some(process) = &mut self.nodes[node].process else { return };
        let (Some(following), Some(cluster)) = (&process.following, &mut process.cluster) else { return };
        let next = Timestamp(following.next_timeout_us()).max(now.plus_us(1));
        if cluster.follow_tick_at.wants(now, next) {
            self.at_time(next, Happening::FollowTick(Sender { node, life }));
        }
    }

    pub(super) fn follow_tick(&mut self, sender: Sender) {
        let now = self.now;
        if let Some(process) = self.nodes[sender.node].alive(sender.life)
            && let Some(cluster) = &mut process.cluster
            && cluster.follow_tick_at.comes(now)
        {
            self.step_following(sender.node, Input::Tick);
        }
    }

    /// Elected, and at the end of the log: leads.
    fn lead(&mut self, node: usize, term: Term) -> Checked {
        let plant = self.plant;
        let Some(process) = &mut self.nodes[node].process else { return Ok(()) };
        process.following = None;
        if let Some(cluster) = &mut process.cluster {
            cluster.asks += 1;
        }
        let mut fold = std::mem::take(&mut process.fold);
        let servers = self.servers.as_deref().expect("only a cluster has elections");
        if plant == Some(Plant::EndUnread)
            && let Ok(Some((_, end))) = servers.log_ends()
            && let Ok(Some(stored)) = servers.jetstream.message(STREAM, end.0)
            && let Ok(entry) = self.decoder.decode(end, &stored.payload)
        {
            (fold.last, fold.prev_hash) = (end, entry.hash);
        }
        // Nonces are drawn from it: no two leaderships may draw the same ones.
        let seed = self.rng.draw();
        let cluster = self.cluster();
        let (snapshot_records, records_kept) = (cluster.snapshot_records, cluster.records_kept);
        let options = LeaderOptions { snapshot_records, records_kept, removals_cut: cluster.removals_cut, plant };
        let (name, last) = (self.nodes[node].name.clone(), fold.last);
        self.begin_term(node, term, seed, fold, options);
        if self.listening().len() > 1 {
            self.marks.hit(Mark::TwoBelievedToLead);
        }
        self.remark(|| format!("{name} leads in term {term} after record {last}"));
        self.watch_hosts(node);
        self.touch_node(node);
        Ok(())
    }

    /// Leadership is over: the core is dropped, and the next one is built from the log.
    pub(super) fn step_down(&mut self, node: usize) {
        let (life, reading) = (self.nodes[node].life, self.nodes[node].reading(self.now));
        self.give_seat_back(node);
        let Some(process) = &mut self.nodes[node].process else { return };
        let leader = process.leader.take();
        process.clock.lead(false, Timestamp(0), reading);
        // A core that led ran ahead of the log: what it had decided is gone with it.
        (process.fold, process.begun, process.following) = (Fold::default(), false, None);
        if let Some(cluster) = &mut process.cluster {
            cluster.end_leadership();
        }
        // Whoever waited for an answer is told that there is none: what became of the command is
        // not known.
        if let Some(Leader { answers, heard, .. }) = leader {
            for answer in answers.into_values() {
                if let AnswerTo::Client(request) = answer {
                    self.at(1_000, Happening::Impatient(request));
                }
            }
            self.end_calls(node, heard);
        }
        self.at(0, Happening::Log(LogHappening::News(Sender { node, life })));
        self.ask_end(node, None);
        self.touch_node(node);
    }
}
