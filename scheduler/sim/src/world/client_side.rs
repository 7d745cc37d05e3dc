//! Clients and the way to a control node.

use wasmill_protocol::LogSeq;
use wasmill_protocol::command::{Command, Done, Refusal};
use wasmill_scheduler_core::Input;

use super::{Happening, Sender, World};
use crate::clients::{PATIENCE_US, RequestId};
use crate::leader::AnswerTo;
use crate::marks::Mark;
use crate::network;
use crate::oracle::{Checked, hold};
use crate::plant::Plant;

/// How long a client waits before it turns to another node when one is not there, or does not know who leads, in microseconds.
const ELSEWHERE_US: u64 = 300_000;

/// Of 1000 things that clients do, how often somebody asks what is going on.
const OVERVIEWS: u64 = 100;

/// How long a request waits that a leader does not take in any more, until somebody else looks at it, in microseconds.
const WAITS_US: u64 = 20_000;

/// How long it takes until a key is looked up once more whose look-up was too old, in microseconds.
const LOOK_UP_AGAIN_US: u64 = 5_000;

impl World {
    pub(super) fn act(&mut self) {
        let (request, command) = self.clients.act(self.now, &self.options);
        self.ask(request, command);
        if self.rng.chance(OVERVIEWS) {
            self.ask_overview();
        }
    }

    pub(super) fn change(&mut self) {
        let (request, command) = self.clients.change();
        self.ask(request, command);
    }

    /// HTTP is neither lost nor doubled, but the answer can be: the control node may die.
    fn ask(&mut self, request: RequestId, command: Command) {
        let delay = network::delay_us(&self.options, &mut self.rng);
        let node = self.any_node();
        self.at(delay, Happening::Asked(node, request, Box::new(command)));
        self.at(PATIENCE_US, Happening::Impatient(request));
    }

    /// The node was not there, or has done nothing about the request: the same request goes to another one.
    fn ask_elsewhere(&mut self, request: RequestId, command: Command) {
        if self.is_clustered() && self.clients.open.contains_key(&request) {
            let node = self.any_node();
            self.at(ELSEWHERE_US, Happening::Asked(node, request, Box::new(command)));
        }
    }

    /// The shell looks an idempotency key up before it asks the core, as the HTTP handler does.
    pub(super) fn asked(&mut self, node: usize, request: RequestId, command: Command) -> Checked {
        let Some(process) = &self.nodes[node].process else {
            self.ask_elsewhere(request, command);
            return Ok(());
        };
        let (sender, published) = (Sender { node, life: self.nodes[node].life }, process.published);
        let Command::Submit { task, module, spec, key: Some(mut key), edges } = command else {
            return self.looked_up(sender, request, command);
        };
        let position = LogSeq(published.0.saturating_sub(self.rng.below(self.options.read_model_lag + 1)));
        let found =
            self.oracle.keys.get(&(spec.tenant.clone(), key.key.clone())).filter(|(_, _, seq)| *seq <= position);
        if let Some((task, fingerprint, _)) = found {
            let answer = if *fingerprint == key.fingerprint {
                Ok(Done::Repeated { task: *task })
            } else {
                Err(Refusal::KeyConflict { task: *task })
            };
            self.at(100, Happening::Answered(request, answer));
            return Ok(());
        }
        key.checked_to = position;
        if self.plant == Some(Plant::KeyLookupOld) {
            key.checked_to = LogSeq(u64::MAX);
        }
        // The core may forget keys while the request is on its way.
        let delay = self.rng.skewed(5_000);
        let command = Command::Submit { task, module, spec, key: Some(key), edges };
        self.at(delay, Happening::LookedUp(sender, request, Box::new(command)));
        Ok(())
    }

    pub(super) fn looked_up(&mut self, sender: Sender, request: RequestId, command: Command) -> Checked {
        let now = self.now;
        if !self.takes_in(sender.node) {
            self.at(WAITS_US, Happening::LookedUp(sender, request, Box::new(command)));
            return Ok(());
        }
        let Some(process) = self.nodes[sender.node].alive(sender.life) else { return Ok(()) };
        let clock = process.clock(now);
        match &mut process.leader {
            Some(leader) => {
                let reply_to = leader.reply_to(AnswerTo::Client(request));
                leader.node.step(clock, Input::Command { reply_to, command }.into());
                self.touch_node(sender.node);
                Ok(())
            }
            None => self.forward(sender, request, command),
        }
    }

    /// A node answers its client: everything that the answer rests on can be read there.
    pub(super) fn answer(&mut self, node: usize, request: RequestId, answer: Result<Done, Refusal>) -> Checked {
        match &answer {
            Ok(Done::Accepted { task } | Done::Repeated { task }) => {
                self.oracle.told_accepted(*task)?;
                let published = self.nodes[node].process.as_ref().map_or(LogSeq(0), |process| process.published);
                self.oracle.readable(*task, published)?;
            }
            Ok(Done::Cancelled) => self.told_cancelled(request)?,
            Ok(Done::CancelAsked) if self.plant == Some(Plant::CancelAnsweredEarly) => self.told_cancelled(request)?,
            _ => {}
        }
        let delay = network::delay_us(&self.options, &mut self.rng);
        self.at(delay, Happening::Answered(request, answer));
        Ok(())
    }

    fn told_cancelled(&self, request: RequestId) -> Checked {
        match self.clients.open.get(&request) {
            Some(Command::Cancel { task, .. }) => self.oracle.told_cancelled(*task),
            _ => Ok(()),
        }
    }

    pub(super) fn answered(&mut self, request: RequestId, answer: Result<Done, Refusal>) -> Checked {
        if answer == Err(Refusal::NotLeader)
            && let Some(command) = self.clients.open.get(&request).cloned()
        {
            self.ask_elsewhere(request, command);
            return Ok(());
        }
        let Some(command) = self.clients.open.remove(&request) else { return Ok(()) };
        match (&command, answer) {
            (Command::Submit { spec, key, .. }, Ok(Done::Accepted { task } | Done::Repeated { task })) => {
                self.clients.accepted(spec.tenant.clone(), task);
                if let Some(key) = key {
                    let entry = (spec.tenant.clone(), key.key.clone(), key.fingerprint);
                    let told = *self.clients.keys_told.entry(entry).or_insert(task);
                    // A tenant that was deleted and created again has forgotten its keys.
                    let forgotten = self.marks.count(Mark::TenantRemoved) > 0 || self.oracle.shortened;
                    hold!(told == task || forgotten, "one key was answered with {told} and {task}");
                    if let Some(known) = self.oracle.tasks.get(&task)
                        && known.spec.idempotency_key.as_ref() == Some(&key.key)
                    {
                        self.marks.hit(Mark::KeyRepeated);
                    }
                }
            }
            (Command::Submit { .. }, Err(Refusal::KeyConflict { .. })) => self.marks.hit(Mark::KeyConflict),
            (Command::Submit { .. }, Err(Refusal::Quota { .. })) => self.marks.hit(Mark::QuotaHit),
            (Command::Submit { .. }, Err(Refusal::KeyCheckStale)) => {
                self.marks.hit(Mark::KeyCheckStale);
                let (request, command) = self.clients.request(command);
                let node = self.any_node();
                self.at(LOOK_UP_AGAIN_US, Happening::Asked(node, request, Box::new(command)));
                self.at(PATIENCE_US, Happening::Impatient(request));
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn impatient(&mut self, request: RequestId) {
        let Some(command) = self.clients.open.remove(&request) else { return };
        if let Some((request, command)) = self.clients.ask_again(command) {
            self.ask(request, command);
        }
    }
}
