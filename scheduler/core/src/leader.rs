//! The leader: what it decides when something happens.
//!
//! Each file decides one thing; this one holds what they share and hands the inputs out.

mod backlog;
mod commands;
mod explain;
mod flight;
mod heartbeats;
mod host_table;
mod hosts;
mod losses;
mod outbox;
mod reports;
mod retry;
mod submit;
mod tally;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::BTreeSet;

use wasmill_protocol::command::{Command, Done, Refusal};
use wasmill_protocol::{HostId, Incarnation, TaskId, TenantName, Timestamp};
use wasmill_record::event::{Event, EventBody};
use wasmill_record::snapshot::{ReadModelCopy, SnapshotRef};

use crate::config::CoreConfig;
use crate::dispatch::Dispatch;
use crate::io::{Counters, HostView, Input, QueueDepth, Ready, ReplyTo, Waiting};
use crate::policy::ask::Ask;
use crate::random::Random;
use crate::state::{EventSlots, Frozen, State, Timers};
use backlog::{Backlog, Work};
use host_table::HostTable;
use outbox::Outbox;
use timers::Deadline;

pub(crate) use flight::Flight;
pub(crate) use tally::Tally;

/// The deciding half of a control node.
///
/// One loop drives it: [`Core::step`] for everything that happens, then [`Core::take_ready`],
/// append, and once that is durable send and answer. Several steps may go before one `take_ready`:
/// what happens at the same time is decided together.
#[derive(Debug)]
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) state: State,
    pub(crate) random: Random,
    /// The time of the last step; never goes back while this core leads.
    pub(crate) now: Timestamp,
    leading: bool,
    pub(crate) hosts: HostTable,
    /// Times that this leader waits for, and no later one.
    deadlines: Timers<Deadline>,
    /// Lives of hosts that ran something when this leader began and have not been heard of.
    awaited: BTreeSet<(HostId, Incarnation)>,
    /// Work that is too large for one step.
    backlog: Backlog,
    /// Tenants that have used up their quota of stored bytes.
    pub(crate) stored_out: BTreeSet<TenantName>,
    pub(crate) dispatch: Dispatch,
    pub(crate) outbox: Outbox,
    ready: Ready,
    pub(crate) tally: Tally,
    /// A bound of one round was reached: there is more to do at once.
    pub(crate) unfinished: bool,
}

impl Core {
    /// A core on top of what the log says. It does nothing before [`Input::Lead`].
    ///
    /// `seed` must differ between leaderships: numbers that tell attempts apart are drawn from it.
    ///
    /// # Panics
    ///
    /// When `config` does not pass [`CoreConfig::check`].
    pub fn new(seed: u64, config: CoreConfig, mut state: State) -> Self {
        config.check().unwrap_or_else(|error| panic!("the configuration was checked before: {error}"));
        state.shapes.open_journal();
        let dispatch = Dispatch::new(&config, &state);
        Self {
            config,
            random: Random::new(seed),
            now: state.time(),
            leading: false,
            hosts: HostTable::default(),
            deadlines: Timers::default(),
            awaited: BTreeSet::new(),
            backlog: Backlog::default(),
            stored_out: BTreeSet::new(),
            dispatch,
            outbox: Outbox::default(),
            ready: Ready::default(),
            tally: Tally::default(),
            unfinished: false,
            state,
        }
    }

    /// Takes in one thing that happened. A `now` before the last one counts as the last one, but
    /// for that of [`Input::Lead`].
    ///
    /// # Panics
    ///
    /// When the term of [`Input::Lead`] is not above every term in the log, or an invariant is
    /// broken.
    pub fn step(&mut self, now: Timestamp, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::Lead { term, node, passed_us, uptime } => {
                // The times of the log may be ahead of the right one.
                self.now = now;
                assert!(term > self.state.term(), "term {term} is above term {} of the log", self.state.term());
                self.lead(EventBody::TermStarted { term, node, passed_us, uptime });
            }
            Input::ReadModelAt(seq) => self.state.read_model_at(seq),
            Input::Appended(seq) => self.state.appended(seq),
            Input::Command { reply_to, .. } if !self.leading => self.reply(reply_to, Err(Refusal::NotLeader)),
            Input::PolicyAnswered { .. } if !self.leading => self.tally.policy_answers_late += 1,
            Input::PolicySeated(seat) => self.dispatch.seat(seat, &self.state),
            // Hosts say it again to whoever leads.
            _ if !self.leading => {}
            Input::Command { reply_to, command } => {
                let result = self.command(command);
                self.reply(reply_to, result);
            }
            Input::HostJoined(info) => self.host_joined(info),
            Input::HostLeft(host, incarnation) => self.host_left(&host, incarnation),
            Input::Heartbeat(heartbeat) => self.heartbeat(heartbeat),
            Input::FromHost { reply_to, message } => self.reported(reply_to, message),
            Input::AssignRefused { host, attempts } => self.assign_refused(&host, &attempts),
            Input::SnapshotStored(snapshot) => self.snapshot_stored(snapshot),
            Input::ReadModelStored(copy) => self.read_model_stored(copy),
            Input::Stored { tenant, used_up } => self.note_stored(tenant, used_up),
            Input::PolicyAnswered { id, answer } => self.policy_answered(id, answer),
            Input::Tick => {}
        }
    }

    /// The refusal that a command which stores something beforehand would get as things are;
    /// nothing is done. Other commands are not refused here.
    pub fn refusal(&self, command: &Command) -> Option<Refusal> {
        if !self.leading {
            return Some(Refusal::NotLeader);
        }
        match command {
            Command::Submit { module, spec, edges, .. } => self.refuses(module, spec, edges).err(),
            Command::AddModule { tenant, module, alias } => self.refuses_module(tenant, module, alias.as_deref()).err(),
            _ => None,
        }
    }

    /// The consequences of the steps since the last call, and of the time that has passed: timers
    /// and dispatch are decided here, once for all of these steps.
    pub fn take_ready(&mut self) -> Ready {
        if self.leading {
            self.unfinished = false;
            self.advance();
            self.dispatch();
        }
        self.flush();
        self.state.close_record();
        assert!(self.ready.events.len() == self.ready.owners.len(), "every event has its owner");
        // The next one will be about as large as this one.
        let events = Vec::with_capacity(self.ready.events.len());
        let owners = Vec::with_capacity(self.ready.owners.len());
        std::mem::replace(&mut self.ready, Ready { events, owners, ..Ready::default() })
    }

    /// When the next step is due at the latest, if nothing else happens; the time of the last step
    /// when there is more to do at once.
    pub fn next_timeout(&self) -> Option<Timestamp> {
        if !self.leading {
            return None;
        }
        if self.unfinished {
            return Some(self.now);
        }
        [self.state.timers.next_at(), self.deadlines.next_at(), self.policies_due()].into_iter().flatten().min()
    }

    /// Events that the next [`Core::take_ready`] hands out, as far as they are decided already.
    pub fn events_ready(&self) -> usize {
        self.ready.events.len()
    }

    /// The events since there were so many of them.
    #[cfg(test)]
    pub(crate) fn events_since(&self, before: usize) -> impl Iterator<Item = &EventBody> {
        self.ready.events[before..].iter().map(|event| &event.body)
    }

    /// Takes hold of what the log says up to the last record, for a snapshot that is written while
    /// this core goes on.
    ///
    /// # Panics
    ///
    /// When something was decided since the last [`Core::take_ready`]: the log does not say that
    /// yet.
    pub fn freeze(&self) -> Frozen {
        assert!(self.ready.events.is_empty(), "a snapshot is taken between two records");
        self.state.freeze()
    }

    /// The state that the log tells, with the decisions since.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The hosts that are known, by id. One that has left is shown as lost for an hour.
    pub fn hosts(&self) -> Vec<HostView> {
        self.hosts.values().map(|host| host.view(self.now, &self.config)).collect()
    }

    /// How many tasks are in each state that is not final.
    pub fn queue_depth(&self) -> QueueDepth {
        self.state.queue_depth()
    }

    /// The counters since this core was made.
    pub fn counters(&self) -> Counters {
        self.tally.counters()
    }

    /// Why a task that is not final is not running; `None` for a task that the core does not know.
    /// For several tasks, ask for all at once.
    pub fn explain(&self, task: TaskId, now: Timestamp) -> Option<Waiting> {
        self.explain_all(&[task], now).pop()
    }

    /// Why tasks that are not final are not running, in the same order, without those that the core
    /// does not know. Costs O(log n) for each task and once O(shapes) for the tenants that are
    /// served before, and O(hosts) for each kind of task that no host can run.
    pub fn explain_all(&self, tasks: &[TaskId], now: Timestamp) -> Vec<Waiting> {
        explain::explain_all(self, tasks, now)
    }

    /// Asserts everything that must hold. O(n log n): for tests and the simulator.
    ///
    /// # Panics
    ///
    /// When something does not hold.
    pub fn assert_consistent(&self) {
        self.state.assert_consistent();
        for host in self.hosts.values() {
            host.assert_consistent(&self.state);
        }
        self.dispatch.assert_consistent();
        if self.leading {
            self.backlog.assert_consistent(&self.state);
        }
    }

    fn lead(&mut self, began: EventBody) {
        assert!(!self.leading, "a core leads once");
        self.emit(began);
        self.leading = true;
        let running = self.state.placements.iter();
        self.awaited = running.map(|placed| (placed.host.clone(), placed.incarnation)).collect();
        if !self.awaited.is_empty() {
            self.deadlines.insert(self.now.plus_ms(self.config.lead_grace_ms), Deadline::Awaited);
        }
        self.backlog = Backlog::of(&self.state);
        if !self.backlog.is_empty() {
            self.cancel_running_of_removed();
        }
        self.dispatch.wake();
    }

    fn command(&mut self, command: Command) -> Result<Done, Refusal> {
        let result = match command {
            Command::Submit { task, module, spec, key, edges } => self.submit(task, &module, spec, key, edges),
            Command::Cancel { tenant, task, reason } => self.cancel(&tenant, task, reason),
            Command::Prioritize { tenant, task, priority } => self.prioritize(&tenant, task, priority),
            other => self.administer(other),
        };
        self.tally.commands += 1;
        self.tally.commands_refused += u64::from(result.is_err());
        result
    }

    /// A snapshot that is not newer than that of the log is left to the sweep.
    fn snapshot_stored(&mut self, snapshot: SnapshotRef) {
        if self.state.current().newest().is_none_or(|newest| newest.seq < snapshot.seq) {
            self.emit(EventBody::SnapshotTaken { snapshot });
        }
    }

    /// As with snapshots.
    fn read_model_stored(&mut self, copy: ReadModelCopy) {
        if self.state.current().read_model.is_none_or(|known| known.seq < copy.seq) {
            self.emit(EventBody::ReadModelSaved { copy });
        }
    }

    /// Asks a policy that lives outside.
    pub(crate) fn hand_out(&mut self, ask: Ask) {
        self.tally.policy_asks += 1;
        self.ready.asks.push(ask);
    }

    fn reply(&mut self, reply_to: ReplyTo, result: Result<Done, Refusal>) {
        self.ready.replies.push((reply_to, result));
    }

    /// Decides an event: the only way in which the leader changes what the log says.
    pub(crate) fn emit(&mut self, body: EventBody) {
        self.emit_at(body, EventSlots::default());
    }

    /// Decides the start or the end of an attempt, of which it is known where the state has it.
    pub(crate) fn emit_at(&mut self, body: EventBody, known: EventSlots) {
        if !matches!(
            body,
            EventBody::AttemptStarted { .. }
                | EventBody::CheckpointSaved { .. }
                | EventBody::ReportLate { .. }
                | EventBody::SnapshotTaken { .. }
                | EventBody::ReadModelSaved { .. }
        ) {
            self.dispatch.wake();
        }
        let event = Event { at: self.now, body };
        let owner = self.state.apply_at(&event, known);
        if let (EventBody::TenantPut { .. }, Some(number)) = (&event.body, owner) {
            self.dispatch.touch_tenant(number);
        }
        if self.state.unblocked.count > 0 {
            self.backlog.push(Work::Unblock, &self.state);
        }
        self.ready.events.push(event);
        self.ready.owners.push(owner);
    }
}
