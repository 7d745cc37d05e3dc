//! Faults of the cluster, drawn from a seed.

use std::fmt;

use fastrand::Rng;

/// The kinds of processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Etcd,
    Nats,
    Control,
    Host,
}

/// Which process: its kind and its number from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Who {
    pub(crate) kind: Kind,
    pub(crate) number: usize,
}

/// How many there are of each kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowd {
    pub(crate) etcd: usize,
    pub(crate) nats: usize,
    pub(crate) control: usize,
    pub(crate) hosts: usize,
}

/// Something bad. It is over after a time, but for a polite restart, which takes as long as it
/// takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// `kill -9`, and a new start at the end.
    Kill(Vec<Who>),
    /// SIGSTOP, and SIGCONT at the end.
    Pause(Vec<Who>),
    /// SIGTERM, and a new start.
    Restart(Who),
    /// Nothing gets through between one process and all of others, in one direction or in both.
    Cut { who: Who, from: Vec<Kind>, way: Way },
}

/// Which packets are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Both,
    /// Packets that the process sends.
    Out,
    /// Packets that are sent to it.
    In,
}

/// A fault with its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Quiet before it.
    pub(crate) pause_ms: u64,
    pub(crate) fault: Fault,
    /// How long it lasts.
    pub(crate) lasts_ms: u64,
}

/// Draws faults without end.
pub(crate) struct Nemesis {
    rng: Rng,
    crowd: Crowd,
    lease_ms: u64,
}

impl Nemesis {
    pub(crate) fn new(seed: u64, crowd: Crowd, lease_ms: u64) -> Self {
        Self { rng: Rng::with_seed(seed), crowd, lease_ms }
    }

    /// The next fault.
    pub(crate) fn step(&mut self) -> Step {
        let pause_ms = self.rng.u64(200..4000);
        // Half of them are over before anybody's lease ends, half of them are not.
        let lasts_ms = if self.rng.bool() {
            self.rng.u64(200..self.lease_ms / 2)
        } else {
            self.rng.u64(self.lease_ms..self.lease_ms * 3)
        };
        Step { pause_ms, fault: self.fault(), lasts_ms }
    }

    fn fault(&mut self) -> Fault {
        let who = self.who();
        // One process alone has nobody to be cut from.
        let has_network = self.crowd.nats > 0;
        match self.rng.u32(0..100) {
            0..30 => Fault::Kill(vec![who]),
            30..50 => Fault::Pause(vec![who]),
            50..60 => Fault::Restart(who),
            60..65 if has_network => Fault::Kill(self.servers()),
            65..68 if has_network => Fault::Pause(self.servers()),
            60..100 if has_network => self.cut(who),
            _ => Fault::Kill(vec![who]),
        }
    }

    fn who(&mut self) -> Who {
        loop {
            let (kind, count) = match self.rng.u32(0..10) {
                0..2 => (Kind::Etcd, self.crowd.etcd),
                2..4 => (Kind::Nats, self.crowd.nats),
                4..7 => (Kind::Control, self.crowd.control),
                _ => (Kind::Host, self.crowd.hosts),
            };
            if count > 0 {
                return Who { kind, number: self.rng.usize(0..count) };
            }
        }
    }

    /// Most of the servers of a kind, or all of them: nothing can go on then.
    fn servers(&mut self) -> Vec<Who> {
        let (kind, count) = if self.rng.bool() { (Kind::Nats, self.crowd.nats) } else { (Kind::Etcd, self.crowd.etcd) };
        let spared = self.rng.usize(0..count * 2);
        (0..count).filter(|number| *number != spared).map(|number| Who { kind, number }).collect()
    }

    fn cut(&mut self, who: Who) -> Fault {
        let from = match self.rng.u32(0..4) {
            0 => vec![Kind::Nats],
            1 => vec![Kind::Etcd],
            _ => vec![Kind::Etcd, Kind::Nats, Kind::Control, Kind::Host],
        };
        // Servers are cut from each other in any case, or nothing would be cut.
        let from = if matches!(who.kind, Kind::Etcd | Kind::Nats) && !from.contains(&who.kind) {
            vec![who.kind]
        } else {
            from
        };
        let way = match self.rng.u32(0..4) {
            0 => Way::Out,
            1 => Way::In,
            _ => Way::Both,
        };
        Fault::Cut { who, from, way }
    }
}

impl Fault {
    /// Whom it touches: they are left alone until it is over.
    pub(crate) fn victims(&self) -> Vec<Who> {
        match self {
            Self::Kill(who) | Self::Pause(who) => who.clone(),
            Self::Restart(who) | Self::Cut { who, .. } => vec![*who],
        }
    }
}

impl Crowd {
    /// Everybody.
    pub(crate) fn all(self) -> impl Iterator<Item = Who> {
        let kinds =
            [(Kind::Etcd, self.etcd), (Kind::Nats, self.nats), (Kind::Control, self.control), (Kind::Host, self.hosts)];
        kinds.into_iter().flat_map(|(kind, count)| (0..count).map(move |number| Who { kind, number }))
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::Etcd => "etcd",
            Kind::Nats => "nats",
            Kind::Control => "control",
            Kind::Host => "host",
        };
        write!(f, "{kind}-{}", self.number + 1)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |who: &[Who]| who.iter().map(Who::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Kill(who) => write!(f, "kill {}", names(who)),
            Self::Pause(who) => write!(f, "pause {}", names(who)),
            Self::Restart(who) => write!(f, "restart {who}"),
            Self::Cut { who, from, way } => {
                let way = match way {
                    Way::Both => "",
                    Way::Out => " in what it sends",
                    Way::In => " in what it is sent",
                };
                write!(f, "cut {who} from {from:?}{way}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const CROWD: Crowd = Crowd { etcd: 3, nats: 3, control: 3, hosts: 3 };

    fn draw(seed: u64, count: usize, crowd: Crowd) -> Vec<Step> {
        let mut nemesis = Nemesis::new(seed, crowd, 5000);
        (0..count).map(|_| nemesis.step()).collect()
    }

    #[test]
    fn a_seed_always_draws_the_same() {
        assert_eq!(draw(7, 50, CROWD), draw(7, 50, CROWD));
        assert_ne!(draw(7, 50, CROWD), draw(8, 50, CROWD));
    }

    #[test]
    fn every_process_gets_its_share() {
        let steps = draw(1, 500, CROWD);
        let victims: BTreeSet<Who> = steps.iter().flat_map(|step| step.fault.victims()).collect();
        assert_eq!(victims, CROWD.all().collect());
        for way in [Way::Both, Way::Out, Way::In] {
            assert!(steps.iter().any(|step| matches!(&step.fault, Fault::Cut { way: drawn, .. } if *drawn == way)));
        }
    }

    #[test]
    fn one_process_alone_is_only_killed_paused_and_restarted() {
        let alone = Crowd { etcd: 0, nats: 0, control: 1, hosts: 0 };
        assert!(draw(1, 500, alone).iter().all(|step| !matches!(step.fault, Fault::Cut { .. })));
    }

    #[test]
    fn faults_say_what_they_are() {
        let who = Who { kind: Kind::Control, number: 1 };
        let cut = Fault::Cut { who, from: vec![Kind::Nats], way: Way::Out };
        assert_eq!(cut.to_string(), "cut control-2 from [Nats] in what it sends");
        assert_eq!(Fault::Kill(vec![who, Who { kind: Kind::Host, number: 0 }]).to_string(), "kill control-2, host-1");
    }
}
