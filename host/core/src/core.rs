//! The state machine itself: ties admission, prefetch, outbox and heartbeat together.

mod attempts;
mod messages;
mod unready;

use std::collections::BTreeMap;

use wasmill_protocol::message::{Heartbeat, HostAck, Progress, StopCause};
use wasmill_protocol::{AttemptId, Incarnation, Term, Timestamp, kept};

use crate::admission::{Admission, Occupancy};
use crate::bounds::{BATCH_BYTES_MAX, MESSAGE_BYTES_MIN, PREFETCH_MAX, RECENT_MAX, STOPPED_EARLY_MAX};
use crate::heartbeat::{Load, Pulse, Turns};
use crate::io::{Config, Input, Ready, ReplyTo, StopReason};
use crate::outbox::Outbox;
use crate::prefetch::{Prefetch, Sight};
use crate::recent::Recent;
use crate::unready::Unready;
use crate::warm::Warm;

/// The decisions of one host.
#[derive(Debug)]
pub struct HostCore {
    config: Config,
    incarnation: Incarnation,
    now: Timestamp,
    /// The highest term seen; lower ones are refused.
    term: Term,
    phase: Phase,
    /// Whether the host is registered, so that the leader counts on what it holds.
    leased: bool,
    /// Attempts that were taken and whose end is not acknowledged.
    held: BTreeMap<AttemptId, HeldAttempt>,
    /// Attempts that the leader has given to others and that the sandbox has not ended yet: they
    /// occupy their place still.
    abandoned: BTreeMap<AttemptId, Occupancy>,
    recent: Recent,
    /// Attempts that are to be stopped and have not come.
    stopped_early: Recent<StopCause>,
    admission: Admission,
    unready: Unready,
    prefetch: Prefetch,
    outbox: Outbox,
    pulse: Pulse,
    load: Load,
    /// Which attempts were listed last, and whose progress was told last, where not all fit into
    /// one heartbeat.
    turns: Turns,
    modules_cached: u32,
    /// Which modules these are, and when that was told.
    warm: Warm,
    acks: Vec<(ReplyTo, HostAck)>,
    give_up: Vec<AttemptId>,
    stops: Vec<(AttemptId, StopReason)>,
    counters: Counters,
}

/// Where an attempt stands on this host.
#[derive(Debug)]
enum HeldAttempt {
    /// Among the waiting ones of `admission`.
    Waiting,
    /// In `unready`.
    Unready,
    /// In the sandbox.
    Running(RunningAttempt),
    /// Over; its report is in `outbox`.
    Ended,
}

/// An attempt in the sandbox.
#[derive(Debug)]
struct RunningAttempt {
    place: Occupancy,
    /// Microseconds that the task has waited, here and before.
    queue_us: u64,
    /// When it was taken, and microseconds that the task had waited before.
    taken: (Timestamp, u64),
    /// CPU time of what was compiled for it, in microseconds.
    compile_us: u64,
    /// Why the sandbox was asked to stop it. A reason that ends it takes the place of one that
    /// hands it back.
    stop: Option<StopReason>,
    /// The newest checkpoint.
    checkpoint_number: u32,
    progress: Option<Box<Progress>>,
}

/// Whether the host takes attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining { stop_at: Timestamp, give_up_at: Timestamp },
}

/// Counters; they only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Assignments taken.
    pub taken: u64,
    /// Assignments not taken.
    pub refused: u64,
    /// Assignments of attempts that were known already.
    pub duplicates: u64,
    /// Messages refused for their term.
    pub stale: u64,
    /// Attempts given to the sandbox.
    pub started: u64,
    /// Of those, attempts that were not ready and gave their place back.
    pub unready: u64,
    /// Attempts that ended, those included that never started.
    pub ended: u64,
    /// Attempts handed back.
    pub returned: u64,
    /// Attempts dropped because the lease was lost.
    pub abandoned: u64,
    /// Batches that were not answered.
    pub batches_failed: u64,
}

impl HostCore {
    /// A host that holds nothing yet.
    ///
    /// # Panics
    ///
    /// When `config.slots` is 0, or `config.message_bytes_max` is below [`MESSAGE_BYTES_MIN`].
    pub fn new(config: Config, incarnation: Incarnation) -> Self {
        assert!(config.slots > 0, "a host without slots");
        let message_bytes_max = config.message_bytes_max;
        assert!(message_bytes_max >= MESSAGE_BYTES_MIN, "messages of {message_bytes_max} bytes are too small");
        Self {
            incarnation,
            now: Timestamp(0),
            term: Term(0),
            phase: Phase::Serving,
            leased: true,
            held: BTreeMap::new(),
            abandoned: BTreeMap::new(),
            recent: Recent::new(RECENT_MAX),
            stopped_early: Recent::new(STOPPED_EARLY_MAX),
            admission: Admission::new(config.slots, config.memory_bytes),
            unready: Unready::default(),
            prefetch: Prefetch::new(config.slots),
            outbox: Outbox::new(config.seed, BATCH_BYTES_MAX.min(message_bytes_max / 2)),
            pulse: Pulse::default(),
            load: Load::default(),
            turns: Turns::default(),
            modules_cached: 0,
            warm: Warm::default(),
            acks: Vec::new(),
            give_up: Vec::new(),
            stops: Vec::new(),
            counters: Counters::default(),
            config,
        }
    }

    /// Takes in one thing that happened. A `now` below the last one counts as the last one.
    ///
    /// # Panics
    ///
    /// When [`Input::LeaseRegained`] names an incarnation that is not higher than the one before.
    pub fn step(&mut self, now: Timestamp, input: Input) {
        self.now = self.now.max(now);
        match input {
            Input::Message { reply_to, message } => self.handle_message(reply_to, message),
            Input::Ended(ended) => self.handle_ended(ended),
            Input::Unready(assignment) => self.handle_unready(*assignment),
            Input::Readied { id, compile_us } => self.handle_readied(id, compile_us),
            Input::Checkpoint { id, number, data } => self.handle_checkpoint(id, number, data),
            Input::Progress(id, progress) => self.handle_progress(id, progress),
            Input::Acknowledged { number, term } => self.handle_acknowledged(number, term),
            Input::RequestFailed(number) => self.handle_request_failed(number),
            Input::Drain { stop_at, give_up_at } => self.handle_drain(stop_at, give_up_at),
            Input::LeaseLost => self.handle_lease_lost(),
            Input::LeaseRegained(incarnation) => self.handle_lease_regained(incarnation),
            Input::SandboxLoad { cpu_us, modules_cached, modules_warm } => {
                self.load.note_total(cpu_us);
                self.modules_cached = modules_cached;
                self.warm.note(modules_warm);
            }
            Input::Tick => {}
        }
    }

    /// The consequences of the steps since the last call. Several steps before one call gather into
    /// larger batches.
    pub fn take_ready(&mut self) -> Ready {
        self.stop_at_grace();
        self.end_overdue();
        let start = self.start_waiting();
        let sight = Sight {
            held: self.held.len() - self.unready.len(),
            waiting: self.admission.waiting(),
            slot_free: self.admission.has_free_slot(),
        };
        self.prefetch.observe(self.now, sight);
        Ready {
            acks: std::mem::take(&mut self.acks),
            start,
            give_up: std::mem::take(&mut self.give_up),
            stop: std::mem::take(&mut self.stops),
            batches: self.outbox.take_batches(self.now, &self.config.host, self.incarnation),
            heartbeat: self.heartbeat(),
            drained: self.is_drained(),
        }
    }

    /// When to step at the latest, with [`Input::Tick`] if nothing else happens. To be asked after
    /// [`HostCore::take_ready`].
    pub fn next_timeout(&self) -> Option<Timestamp> {
        let heartbeat = self.leased.then(|| self.pulse.due(self.credit()));
        let drain = match self.phase {
            Phase::Draining { stop_at, .. } if self.now < stop_at => Some(stop_at),
            Phase::Draining { give_up_at, .. } if self.now < give_up_at => Some(give_up_at),
            _ => None,
        };
        [heartbeat, drain, self.outbox.next_timeout(), self.unready.next_timeout()].into_iter().flatten().min()
    }

    fn heartbeat(&mut self) -> Option<Heartbeat> {
        let credit = self.credit();
        if !self.leased || self.now < self.pulse.due(credit) {
            return None;
        }
        let (attempts, partial) = self.turns.attempts(&self.held, self.config.message_bytes_max / 2);
        let said = |held: &HeldAttempt| match held {
            HeldAttempt::Running(RunningAttempt { progress, .. }) => progress.as_deref().cloned(),
            HeldAttempt::Waiting | HeldAttempt::Unready | HeldAttempt::Ended => None,
        };
        Some(Heartbeat {
            progress: self.turns.progress(&self.held, said, self.config.message_bytes_max / 4),
            attempts,
            partial,
            unready: count(self.unready.len()),
            sated: self.unready.sated(),
            host: self.config.host.clone(),
            incarnation: self.incarnation,
            number: self.pulse.beat(self.now, credit),
            credit,
            slots: self.config.slots,
            memory_bytes: self.config.memory_bytes,
            labels: self.config.labels.clone(),
            draining: self.is_draining(),
            modules_cached: self.modules_cached,
            load_millicores: self.load.millicores(self.now),
            process: self.config.process,
            memory_held: self.memory_held(),
            modules_warm: self.warm.tell(),
        })
    }

    /// How many attempts the host holds at most, as it tells the leader.
    ///
    /// Unready ones come on top: they must not keep others from being sent. And whatever is here
    /// already, when it has become ready for example, there are places beyond it that the leader
    /// keeps for tenants that run nothing or little.
    pub fn credit(&self) -> u32 {
        if self.is_draining() {
            return 0;
        }
        let slots = self.config.slots;
        let wanted = self.prefetch.credit().saturating_add(count(self.unready.len()));
        let beyond_held = count(self.held.len()).saturating_add(kept::credit(slots, u32::MAX));
        wanted.max(beyond_held.min(slots.saturating_add(PREFETCH_MAX)))
    }

    /// Memory limits of what runs here, or will.
    fn memory_held(&self) -> u64 {
        self.admission.memory_used() + self.admission.memory_waiting() + self.unready.memory_bytes()
    }

    /// Attempts in the sandbox.
    pub fn running(&self) -> usize {
        self.admission.running()
    }

    /// Attempts whose module must be compiled or loaded first.
    pub fn unready(&self) -> usize {
        self.unready.len()
    }

    /// Attempts that were taken and have not started, without those that are unready.
    pub fn waiting(&self) -> usize {
        self.admission.waiting()
    }

    /// The sum of `limits.memory_bytes` over the attempts in the sandbox.
    pub fn memory_used(&self) -> u64 {
        self.admission.memory_used()
    }

    /// Whether an attempt was taken and its end is not acknowledged.
    pub fn holds(&self, id: AttemptId) -> bool {
        self.held.contains_key(&id)
    }

    /// Which life of the host this is.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The highest term seen.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The counters.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn is_draining(&self) -> bool {
        self.phase != Phase::Serving
    }

    fn is_drained(&self) -> bool {
        match self.phase {
            Phase::Serving => false,
            Phase::Draining { give_up_at, .. } => {
                let nothing_left = self.held.is_empty() && self.abandoned.is_empty() && self.outbox.is_empty();
                nothing_left || self.now >= give_up_at
            }
        }
    }
}

fn count(attempts: usize) -> u32 {
    u32::try_from(attempts).unwrap_or(u32::MAX)
}
