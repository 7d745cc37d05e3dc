//! The time, by clocks of which each may be wrong.
//!
//! A machine has two clocks: the wall clock, which somebody may set, and the uptime, which nobody
//! can. [`Clock`] keeps the time of a control node: it counts by the uptime, and is corrected by
//! the wall clock as far as that can be believed. [`Witness`]es speak for or against the wall
//! clock: the servers that keep the log, the leader, the log itself, and what the uptime says of a
//! time that was right before.
//!
//! Where others can lead, a node whose wall clock no witness confirms does not lead. On a single
//! machine nobody else knows the time: there a clock that is set is followed, a large step forward
//! only once it has lasted for a while.

mod ticker;

use std::collections::BTreeMap;

use wasmill_protocol::Timestamp;

pub use ticker::Ticker;

/// How far two clocks may differ and count as equal, in microseconds.
pub const DIFFERENCE_US_MAX: u64 = 60_000_000;
/// On a single machine a step forward of up to this much is followed at once.
pub const STEP_US_MAX: u64 = 12 * 3_600_000_000;
/// A larger one is followed when it has lasted for this long.
pub const STEP_LASTS_US: u64 = 10 * 60_000_000;
/// No clock that was ever set shows less: 2024-01-01.
const WALL_MIN: Timestamp = Timestamp(1_704_067_200_000_000);
/// Differences between wall clock and uptime that were right once, and are remembered.
const RIGHT_BEFORE_MAX: usize = 4;

/// The clocks of a machine at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The wall clock.
    pub wall: Timestamp,
    /// Microseconds since the machine was started; counts on while it sleeps.
    pub uptime_us: u64,
}

impl Reading {
    /// How far the wall clock is ahead of the uptime.
    fn offset_us(self) -> i64 {
        offset(self.wall, self.uptime_us)
    }
}

/// A time that the wall clock is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Witness {
    /// The servers that keep the log.
    Servers,
    /// The times in the records of another leader, as they come.
    Leader,
    /// The last record of the log, when nobody leads: it cannot be later than now.
    Log,
    /// A time that was right before, counted on by the uptime.
    Uptime,
}

impl Witness {
    /// As it is called in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Servers => "the servers that keep the log",
            Self::Leader => "the leader",
            Self::Log => "the last record of the log",
            Self::Uptime => "what it was before, counted on by the machine's uptime",
        }
    }
}

/// How the wall clock stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// How far the wall clock is ahead of what it is compared with, in microseconds.
    pub difference_us: i64,
    /// With what it is compared.
    pub witness: Witness,
    /// Whether it is believed: as a leader's clock has to be.
    pub believed: bool,
    /// Whether a leadership must end, because its time cannot go on as it is: the node's clock is
    /// wrong, or was set.
    pub ends_leadership: bool,
    /// The wall clock is followed in so many microseconds, if it stays as it is.
    pub followed_in_us: Option<u64>,
}

/// The time of one control node.
#[derive(Debug, Clone)]
pub struct Clock {
    /// Nobody else can lead, and nobody else knows the time.
    alone: bool,
    leading: bool,
    ticker: Ticker,
    /// Times of other machines: how far each is ahead of the uptime.
    witnesses: BTreeMap<Witness, i64>,
    /// Differences between wall clock and uptime that were right, newest last.
    right_before: Vec<i64>,
    /// The one that was taken for right while nobody could say otherwise.
    assumed: Option<i64>,
    /// The wall clock stands at this difference since that uptime, and is not followed yet.
    step: Option<(i64, u64)>,
    /// The time rests on a wall clock that was never set, or goes on where the log ends for want of
    /// one.
    unset: bool,
    verdict: Verdict,
}

impl Clock {
    /// Begins with what the wall clock shows.
    pub fn new(alone: bool, reading: Reading) -> Self {
        let offset_us = reading.offset_us();
        Self {
            alone,
            leading: false,
            ticker: Ticker::new(reading.uptime_us, offset_us),
            witnesses: BTreeMap::new(),
            right_before: Vec::new(),
            assumed: None,
            step: None,
            unset: reading.wall < WALL_MIN,
            verdict: Verdict {
                difference_us: 0,
                witness: Witness::Uptime,
                believed: true,
                ends_leadership: false,
                followed_in_us: None,
            },
        }
    }

    /// The ticker that tells the time between two readings.
    pub fn ticker(&self) -> Ticker {
        self.ticker
    }

    /// How the wall clock stood at the last look.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// The log was found: `last` is the time of its last event, `expected` what time it is if the
    /// times were right at which terms began on this machine since it was started, newest last.
    /// Call it once, before this node leads.
    pub fn log_found(&mut self, last: Timestamp, expected: &[Timestamp], reading: Reading) {
        let at = |time| offset(time, reading.uptime_us);
        self.witnesses.insert(Witness::Log, at(last));
        expected.iter().for_each(|expected| self.note_right(at(*expected)));
        if self.alone {
            let expected = expected.last().copied().or_else(|| (self.unset && last > reading.wall).then_some(last));
            if let Some(expected) = expected {
                self.ticker = Ticker::new(reading.uptime_us, at(expected));
            }
        }
        self.look(reading);
    }

    /// A witness has said what time it was at an uptime.
    pub fn told(&mut self, witness: Witness, time: Timestamp, uptime_us: u64, reading: Reading) {
        self.witnesses.insert(witness, offset(time, uptime_us));
        self.look(reading);
    }

    /// This node begins to lead, or ends. The time that it leads with is never a little before
    /// `last`, the last event of the log, and may be long before it: then that was ahead.
    pub fn lead(&mut self, leading: bool, last: Timestamp, reading: Reading) {
        self.leading = leading;
        self.look(reading);
        let behind_us = last.us_since(self.ticker.at(reading.uptime_us));
        if leading && (1..=DIFFERENCE_US_MAX).contains(&behind_us) {
            self.ticker = Ticker::new(reading.uptime_us, offset(last, reading.uptime_us));
            self.look(reading);
        }
    }

    /// Looks at the clocks: at least every few seconds. Gives how the wall clock stands.
    pub fn look(&mut self, reading: Reading) -> Verdict {
        self.verdict = if self.alone { self.look_alone(reading) } else { self.look_among_others(reading) };
        self.verdict
    }

    fn look_among_others(&mut self, reading: Reading) -> Verdict {
        let offset_us = reading.offset_us();
        let others = [Witness::Servers, Witness::Leader].map(|witness| self.witnesses.get(&witness).copied());
        let confirmed = others.iter().flatten().any(|other| agree(*other, offset_us));
        if confirmed {
            self.right_before = vec![offset_us];
        }
        let unchanged = self.right_before.iter().any(|right| agree(*right, offset_us));
        let known = others[0].or(others[1]);
        let before = self.right_before.last().copied().or(self.assumed).unwrap_or(offset_us);
        let (witness, other) = match (others, self.witnesses.get(&Witness::Log)) {
            ([Some(servers), _], _) => (Witness::Servers, servers),
            ([None, Some(leader)], _) => (Witness::Leader, leader),
            ([None, None], Some(&log)) if log > offset_us => (Witness::Log, log),
            _ => (Witness::Uptime, before),
        };
        let believed = confirmed || unchanged || (known.is_none() && agree(other, offset_us));
        if believed && known.is_none() {
            self.assumed.get_or_insert(offset_us);
        }
        let right = if believed { offset_us } else { known.unwrap_or(other) };
        let set = self.correct(right, reading);
        Verdict {
            difference_us: offset_us.saturating_sub(other),
            witness,
            believed,
            ends_leadership: self.leading && (set || !believed),
            followed_in_us: None,
        }
    }

    fn look_alone(&mut self, reading: Reading) -> Verdict {
        let offset_us = reading.offset_us();
        let ahead_us = offset_us.saturating_sub(self.ticker.offset_us(reading.uptime_us));
        let followed_in_us = self.followed_in_us(ahead_us, reading);
        let set = followed_in_us == Some(0) && self.correct(offset_us, reading);
        let believed = followed_in_us == Some(0);
        let difference_us = offset_us.saturating_sub(self.ticker.offset_us(reading.uptime_us));
        let ends_leadership = self.leading && set;
        let followed_in_us = followed_in_us.filter(|us| *us > 0);
        Verdict { difference_us, witness: Witness::Uptime, believed, ends_leadership, followed_in_us }
    }

    /// When a wall clock that is ahead by `ahead_us` is followed; `None` for never, as it stands.
    fn followed_in_us(&mut self, ahead_us: i64, reading: Reading) -> Option<u64> {
        let offset_us = reading.offset_us();
        if agree(ahead_us, 0) {
            self.step = None;
            return Some(0);
        }
        if reading.wall < WALL_MIN {
            return None;
        }
        let small = ahead_us <= signed(STEP_US_MAX);
        if small || self.unset || self.right_before.iter().any(|right| agree(*right, offset_us)) {
            self.step = None;
            return Some(0);
        }
        let since = match self.step {
            Some((step_us, since)) if agree(step_us, offset_us) => since,
            _ => reading.uptime_us,
        };
        self.step = Some((offset_us, since));
        Some(STEP_LASTS_US.saturating_sub(reading.uptime_us.saturating_sub(since)))
    }

    /// Makes the time what it is `offset_us` ahead of the uptime: bit by bit when it is nearly
    /// that, else at once. Whether a step is needed that must wait until this node does not lead
    /// any more.
    fn correct(&mut self, offset_us: i64, reading: Reading) -> bool {
        let now_us = self.ticker.offset_us(reading.uptime_us);
        if agree(now_us, offset_us) {
            self.ticker = self.ticker.towards(reading.uptime_us, offset_us);
            self.unset = reading.wall < WALL_MIN;
            return false;
        }
        if self.leading {
            return true;
        }
        if self.alone && !self.unset {
            self.note_right(now_us);
        }
        self.ticker = Ticker::new(reading.uptime_us, offset_us);
        (self.step, self.unset) = (None, reading.wall < WALL_MIN);
        false
    }

    fn note_right(&mut self, offset_us: i64) {
        self.right_before.push(offset_us);
        let outdated = self.right_before.len().saturating_sub(RIGHT_BEFORE_MAX);
        self.right_before.drain(..outdated);
    }
}

fn offset(time: Timestamp, uptime_us: u64) -> i64 {
    signed(time.0).saturating_sub(signed(uptime_us))
}

fn signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

fn agree(left_us: i64, right_us: i64) -> bool {
    left_us.abs_diff(right_us) <= DIFFERENCE_US_MAX
}

#[cfg(test)]
mod tests;
