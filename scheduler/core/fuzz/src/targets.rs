//! The targets, which the core's tests include too, so that what was found is tried again in every
//! run.

use std::collections::VecDeque;

use wasmill_protocol::Timestamp;
use wasmill_scheduler_core::policy::{
    Choice, Fair, HostChange, Key, Keys, LeastLoaded, Order, Place, PolicyFault, Ref, ShapeView, Stride, TenantView,
    Wanted,
};

use crate::story::{Op, Story};

/// Steps of one story at most: what is longer is found by shorter ones too.
const OPS_MAX: usize = 200;

/// The rules hold whatever happens in whatever order, and every task ends when all is well again.
pub(crate) fn story(bytes: &[u8]) {
    tell(bytes, Story::new(|_| {}));
}

/// The same with policies that answer what the first two quarters of the bytes say: wrong hosts,
/// wrong counts, too few keys, traps.
pub(crate) fn policy(bytes: &[u8]) {
    let (answers, ops) = bytes.split_at(bytes.len() / 2);
    let (orders, places) = answers.split_at(answers.len() / 2);
    let (orders, places) = (Source::of(orders), Source::of(places));
    let seat = move |core: &mut wasmill_scheduler_core::Core| {
        core.seat_order(Box::new(Arbitrary::new(orders.clone())));
        core.seat_place(Box::new(Arbitrary::new(places.clone())));
    };
    tell(ops, Story::new(seat));
}

fn tell(bytes: &[u8], mut story: Story) {
    let mut source = Source::of(bytes);
    for _ in 0..OPS_MAX {
        let Some(kind) = source.0.pop_front() else { break };
        story.run(&source.op(kind));
    }
    story.heal();
}

/// Bytes that are taken one after the other; zeros when there are none left.
#[derive(Debug, Clone)]
struct Source(VecDeque<u8>);

impl Source {
    fn of(bytes: &[u8]) -> Self {
        Self(bytes.iter().copied().collect())
    }

    fn byte(&mut self) -> u8 {
        self.0.pop_front().unwrap_or(0)
    }

    /// Mostly short, sometimes longer than any timeout.
    fn ms(&mut self) -> u64 {
        match self.byte() {
            byte @ 0..200 => u64::from(byte),
            byte => u64::from(byte - 200) * 300,
        }
    }

    fn op(&mut self, kind: u8) -> Op {
        match kind % 20 {
            _ if kind >= 240 => Op::SubmitAfter {
                tenant: kind,
                back: [self.byte() % 8, self.byte() % 8],
                on: self.byte(),
                delay_ms: self.ms(),
            },
            0..4 => Op::Submit {
                tenant: kind / 20,
                priority: i8::from_ne_bytes([self.byte()]) % 4,
                delay_ms: self.ms(),
                expires_ms: Some(self.ms()).filter(|ms| *ms > 0),
                attempts: u32::from(self.byte() % 4) + 1,
                key: Some(self.byte()).filter(|key| key.is_multiple_of(4)),
            },
            4 => Op::SubmitAgain { task: self.byte() },
            5 => Op::Cancel { task: self.byte() },
            6 => Op::Prioritize { task: self.byte(), priority: i8::from_ne_bytes([self.byte()]) },
            7 => Op::RemoveTenant { tenant: kind / 20 % 2 + 1 },
            8 => Op::ChangeQuotas { tenant: kind / 20, running: u64::from(self.byte() % 4) },
            9 => Op::After { ms: self.ms() },
            10 => Op::Join { host: kind / 20 % 3, anew: self.byte().is_multiple_of(2) },
            11 => Op::Leave { host: kind / 20 % 3, life: self.byte() },
            12 | 13 => {
                let (credit, forgets) = (self.byte() % 6, self.byte());
                Op::Beat { host: kind / 20 % 3, credit, forgets, draining: forgets == 255 }
            }
            14 => Op::Drain { host: kind / 20 % 3, draining: self.byte().is_multiple_of(2) },
            15 | 16 => {
                let (attempt, how) = (self.byte(), self.byte());
                let host = Some(how / 64).filter(|host| *host > 0);
                Op::Report { attempt, kind: how % 16, host, wrong_nonce: how == 255 }
            }
            17 => Op::Refuse { attempt: self.byte() },
            18 if kind < 80 => Op::ReadModel { behind: self.byte() },
            18 if kind < 160 => Op::SnapshotStored { behind: self.byte() },
            18 => Op::Restart,
            _ => Op::TakeReady,
        }
    }
}

/// Answers what the bytes say; like the built-in default when they say nothing.
#[derive(Debug)]
struct Arbitrary {
    source: Source,
    default: LeastLoaded,
}

impl Arbitrary {
    fn new(source: Source) -> Self {
        Self { source, default: LeastLoaded::default() }
    }

    fn fault() -> PolicyFault {
        PolicyFault { reason: "the bytes say so".to_owned() }
    }
}

impl Order for Arbitrary {
    fn name(&self) -> &str {
        "arbitrary"
    }

    fn keys(&mut self, now: Timestamp, tenants: &[TenantView], shapes: &[ShapeView]) -> Result<Keys, PolicyFault> {
        let source = &mut self.source;
        let of_tenants = match source.byte() {
            0 => return Fair.keys(now, tenants, shapes),
            1 => return Err(Self::fault()),
            2 => usize::from(source.byte()),
            _ => tenants.len(),
        };
        let mut key = || Key {
            class: [0, 1, -1, i64::MAX, i64::MIN][usize::from(source.byte() % 5)],
            rank: u64::from(source.byte()) << (source.byte() % 64),
            stride: match source.byte() {
                0 => Stride::Oldest,
                byte => Stride::By(u64::from(byte) << (source.byte() % 64)),
            },
        };
        let tenants = (0..of_tenants).map(|_| key()).collect();
        Ok(Keys { tenants, shapes: shapes.iter().map(|_| key()).collect() })
    }

    fn orders_shapes(&self) -> bool {
        true
    }
}

impl Place for Arbitrary {
    fn name(&self) -> &str {
        "arbitrary"
    }

    fn changed(&mut self, hosts: &[HostChange]) {
        self.default.changed(hosts);
    }

    fn place(&mut self, now: Timestamp, wanted: &[Wanted]) -> Result<Vec<Choice>, PolicyFault> {
        let source = &mut self.source;
        let choices = match source.byte() {
            0 => return self.default.place(now, wanted),
            1 => return Err(Self::fault()),
            byte => byte % 8,
        };
        let index = |byte: u8| if byte == 255 { usize::MAX } else { usize::from(byte % 5) };
        let mut choice = || Choice {
            wanted: index(source.byte()),
            host: Ref {
                slot: if source.byte() == 255 { u32::MAX } else { u32::from(source.byte() % 5) },
                generation: u32::from(source.byte() == 255),
            },
            count: [0, 1, 2, 3, 100, u32::MAX][usize::from(source.byte() % 6)],
        };
        Ok((0..choices).map(|_| choice()).collect())
    }
}
