//! Clients and the way to the control node.

use wasmill_protocol::LogSeq;
use wasmill_protocol::command::{Command, Done, Refusal};
use wasmill_scheduler_core::Input;

use super::{Happening, World};
use crate::clients::{PATIENCE_US, RequestId};
use crate::control::AnswerTo;
use crate::marks::Mark;
use crate::network;
use crate::oracle::{Checked, hold};
use crate::plant::Plant;

impl World {
    pub(super) fn act(&mut self) {
        let (request, command) = self.clients.act(self.now, &self.options);
        self.ask(request, command);
    }

    /// HTTP is neither lost nor doubled, but the answer can be: the control node may die.
    fn ask(&mut self, request: RequestId, command: Command) {
        let delay = network::delay_us(&self.options, &mut self.rng);
        self.at(delay, Happening::Asked(request, command));
        self.at(PATIENCE_US, Happening::Impatient(request));
    }

    /// The shell looks an idempotency key up before it asks the core, as the HTTP handler does.
    pub(super) fn asked(&mut self, request: RequestId, command: Command) {
        if self.control.is_none() {
            return;
        }
        let Command::Submit { task, module, spec, key: Some(mut key) } = command else {
            self.looked_up(request, command);
            return;
        };
        let position = LogSeq(self.disk.last().0.saturating_sub(self.rng.below(self.options.read_model_lag + 1)));
        let found =
            self.oracle.keys.get(&(spec.tenant.clone(), key.key.clone())).filter(|(_, _, seq)| *seq <= position);
        if let Some((task, fingerprint, _)) = found {
            let answer = if *fingerprint == key.fingerprint {
                Ok(Done::Repeated { task: *task })
            } else {
                Err(Refusal::KeyConflict { task: *task })
            };
            self.at(100, Happening::Answered(request, answer));
            return;
        }
        key.checked_to = position;
        if self.plant == Some(Plant::KeyLookupOld) {
            key.checked_to = LogSeq(u64::MAX);
        }
        // The core may forget keys while the request is on its way.
        let delay = self.rng.skewed(5_000);
        self.at(delay, Happening::LookedUp(request, Command::Submit { task, module, spec, key: Some(key) }));
    }

    pub(super) fn looked_up(&mut self, request: RequestId, command: Command) {
        let now = self.now;
        if let Some(control) = &mut self.control {
            let reply_to = control.reply_to(AnswerTo::Client(request));
            control.core.step(now, Input::Command { reply_to, command });
        }
    }

    pub(super) fn answered(&mut self, request: RequestId, answer: Result<Done, Refusal>) -> Checked {
        let Some(command) = self.clients.open.remove(&request) else { return Ok(()) };
        match (&command, answer) {
            (Command::Submit { spec, key, .. }, Ok(Done::Accepted { task } | Done::Repeated { task })) => {
                self.clients.accepted(spec.tenant.clone(), task);
                if let Some(key) = key {
                    let entry = (spec.tenant.clone(), key.key.clone(), key.fingerprint);
                    let told = *self.clients.keys_told.entry(entry).or_insert(task);
                    // A tenant that was deleted and created again has forgotten its keys.
                    let forgotten = self.marks.count(Mark::TenantRemoved) > 0;
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
                self.ask(request, command);
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
