//! Does to the cluster what the nemesis has drawn, and brings back what has died.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::arena::Arena;
use super::history::{Clock, Line, Writer};
use super::nemesis::{Fault, Kind, Nemesis, Step, Way, Who};
use wasmill_processes::fleet::{Fleet, STOP_MAX};
use wasmill_processes::member::Member;

/// Faults that go on at the same time at most.
const FAULTS_MAX: usize = 2;
/// Between two looks at the clock and at the processes.
const LOOK: Duration = Duration::from_millis(20);
/// A supervisor waits for so long before it starts a process again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// The exit code of a Rust program that has panicked.
const PANICKED: i32 = 101;

/// The processes, the network between them, and a diary.
pub(crate) struct Stage {
    actors: BTreeMap<Who, Actor>,
    addresses: BTreeMap<Who, Ipv4Addr>,
    arena: Arena,
    diary: Writer,
    clock: Clock,
}

struct Actor {
    member: Member,
    /// Whether it is to run; a fault may not want it to.
    is_wanted: bool,
    is_paused: bool,
    /// When it was asked to end.
    stopping: Option<Instant>,
    /// When a supervisor starts it again.
    restart_at: Option<Instant>,
}

impl Stage {
    /// Takes over a cluster that runs.
    pub(crate) fn new(
        fleet: Fleet,
        arena: Arena,
        addresses: BTreeMap<Who, Ipv4Addr>,
        diary: Writer,
        clock: Clock,
    ) -> Result<Self> {
        let kinds = [
            (Kind::Etcd, fleet.etcd),
            (Kind::Nats, fleet.nats),
            (Kind::Control, fleet.control),
            (Kind::Host, fleet.hosts),
        ];
        let mut stage = Self { actors: BTreeMap::new(), addresses, arena, diary, clock };
        for (kind, members) in kinds {
            for (number, member) in members.into_iter().enumerate() {
                let who = Who { kind, number };
                stage.actors.insert(who, Actor::new(member));
                stage.started(who)?;
            }
        }
        Ok(stage)
    }

    /// One fault after the other, for so long; then everything is well again as far as it is up to
    /// us.
    pub(crate) fn play(&mut self, nemesis: &mut Nemesis, time: Duration) -> Result<()> {
        let begun = Instant::now();
        let mut active: Vec<(Instant, Fault)> = Vec::new();
        let mut next = upcoming(nemesis.step());
        while begun.elapsed() < time {
            let now = Instant::now();
            for (_, fault) in active.extract_if(.., |(ends, _)| *ends <= now).collect::<Vec<_>>() {
                self.end(&fault)?;
            }
            if next.0 <= now {
                let victims: Vec<Who> = active.iter().flat_map(|(_, fault)| fault.victims()).collect();
                let is_free =
                    active.len() < FAULTS_MAX && !next.1.fault.victims().iter().any(|who| victims.contains(who));
                // One that does not fit is left out, so that the next one is not late.
                if is_free && self.begin(&next.1)? {
                    active.push((now + Duration::from_millis(next.1.lasts_ms), next.1.fault));
                }
                next = upcoming(nemesis.step());
            }
            self.supervise()?;
            thread::sleep(LOOK);
        }
        active.iter().try_for_each(|(_, fault)| self.end(fault))
    }

    /// Starts again whatever has ended although it is wanted.
    pub(crate) fn supervise(&mut self) -> Result<()> {
        for who in self.actors.keys().copied().collect::<Vec<_>>() {
            let actor = self.actor(who);
            if let Some(status) = actor.member.ended() {
                let was_asked = actor.stopping.take().is_some();
                actor.restart_at = Some(Instant::now() + RESTART_PAUSE);
                self.ended(who, status, was_asked)?;
            }
            let actor = self.actor(who);
            if actor.stopping.is_some_and(|since| since.elapsed() > STOP_MAX) {
                actor.stopping = None;
                actor.member.kill();
                actor.restart_at = Some(Instant::now());
                self.broken(who, format!("does not end in {STOP_MAX:?} when it is asked to"))?;
            }
            let actor = self.actor(who);
            if actor.is_wanted && !actor.member.is_running() && actor.restart_at.is_none_or(|at| at <= Instant::now()) {
                actor.member.start()?;
                self.started(who)?;
            }
        }
        Ok(())
    }

    /// Asks everything to end, hosts first; what does not end well is written down.
    pub(crate) fn close(&mut self) -> Result<()> {
        for who in self.actors.keys().copied().rev().collect::<Vec<_>>() {
            if let Err(error) = self.actor(who).member.stop(STOP_MAX) {
                // Of our own processes it is expected that they end well; a server may have its
                // reasons.
                if matches!(who.kind, Kind::Control | Kind::Host) {
                    self.broken(who, format!("{error:#}"))?;
                }
            }
        }
        Ok(())
    }

    /// Whether the fault could begin.
    fn begin(&mut self, step: &Step) -> Result<bool> {
        let mut victims = step.fault.victims().into_iter();
        // A process that the supervisor starts again, or that ends just now, is not touched.
        if !victims.all(|who| self.actors[&who].member.is_running() && self.actors[&who].stopping.is_none()) {
            return Ok(false);
        }
        self.note(format!("{} for {} ms", step.fault, step.lasts_ms))?;
        match &step.fault {
            Fault::Kill(victims) => {
                for who in victims {
                    self.actor(*who).is_wanted = false;
                    self.actor(*who).member.kill();
                }
            }
            Fault::Pause(victims) => {
                for who in victims {
                    let actor = self.actor(*who);
                    actor.is_paused = true;
                    actor.member.pause()?;
                }
            }
            Fault::Restart(who) => {
                let actor = self.actor(*who);
                actor.member.ask_to_end()?;
                actor.stopping = Some(Instant::now());
            }
            Fault::Cut { .. } => self.each_way(&step.fault, Arena::cut)?,
        }
        Ok(true)
    }

    fn end(&mut self, fault: &Fault) -> Result<()> {
        self.note(format!("over: {fault}"))?;
        match fault {
            Fault::Kill(victims) => victims.iter().for_each(|who| self.actor(*who).is_wanted = true),
            Fault::Pause(victims) => {
                for who in victims {
                    let actor = self.actor(*who);
                    // It may have been killed by somebody else meanwhile.
                    if actor.member.is_running() && actor.is_paused {
                        actor.member.resume()?;
                    }
                    actor.is_paused = false;
                }
            }
            Fault::Restart(_) => {}
            Fault::Cut { .. } => self.each_way(fault, Arena::heal)?,
        }
        self.supervise()
    }

    fn each_way(&self, fault: &Fault, act: impl Fn(&Arena, &str, Ipv4Addr) -> Result<()>) -> Result<()> {
        let Fault::Cut { who, from, way } = fault else { return Ok(()) };
        for (other, address) in self.addresses.iter().filter(|(other, _)| *other != who && from.contains(&other.kind)) {
            if *way != Way::In {
                act(&self.arena, &who.to_string(), *address)?;
            }
            if *way != Way::Out {
                act(&self.arena, &other.to_string(), self.addresses[who])?;
            }
        }
        Ok(())
    }

    fn actor(&mut self, who: Who) -> &mut Actor {
        self.actors.get_mut(&who).expect("the nemesis knows who there is")
    }

    fn started(&mut self, who: Who) -> Result<()> {
        let line = Line::Started { member: who.to_string(), at_us: self.clock.now_us() };
        self.diary.line(&line)
    }

    fn ended(&mut self, who: Who, status: ExitStatus, was_asked: bool) -> Result<()> {
        let is_ours = matches!(who.kind, Kind::Control | Kind::Host);
        let has_crashed = status.code().is_none_or(|code| code == PANICKED);
        if is_ours && (has_crashed || (was_asked && !status.success())) {
            return self.broken(who, format!("{status}{}", if was_asked { " when it was asked to end" } else { "" }));
        }
        // A process that cannot go on may end: it is started again.
        if was_asked { Ok(()) } else { self.note(format!("{who} has ended by itself: {status}")) }
    }

    fn broken(&mut self, who: Who, how: String) -> Result<()> {
        let line = Line::EndedByItself { member: who.to_string(), at_us: self.clock.now_us(), how };
        self.diary.line(&line)
    }

    /// Writes down what is done, for people.
    pub(crate) fn note(&mut self, what: String) -> Result<()> {
        let at_us = self.clock.now_us();
        eprintln!("{:8.3} s  {what}", at_us as f64 / 1e6);
        self.diary.line(&Line::Fault { at_us, what })
    }
}

impl Actor {
    fn new(member: Member) -> Self {
        Self { member, is_wanted: true, is_paused: false, stopping: None, restart_at: None }
    }
}

fn upcoming(step: Step) -> (Instant, Step) {
    (Instant::now() + Duration::from_millis(step.pause_ms), step)
}
