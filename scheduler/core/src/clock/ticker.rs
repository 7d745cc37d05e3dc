//! A time that advances by the uptime, and is corrected without a step.

use wasmill_protocol::Timestamp;

/// Of the time that passes, so much is used to correct: a quarter.
const CORRECTION: u64 = 4;

/// Tells the time from an uptime. Never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticker {
    /// When this began.
    since_us: u64,
    /// How far the time was ahead of the uptime then.
    offset_us: i64,
    /// The value that the correction approaches.
    towards_us: i64,
}

impl Ticker {
    /// A time that is ahead of the uptime by `offset_us`.
    pub(super) fn new(uptime_us: u64, offset_us: i64) -> Self {
        Self { since_us: uptime_us, offset_us, towards_us: offset_us }
    }

    /// From now on another difference is right.
    pub(super) fn towards(self, uptime_us: u64, offset_us: i64) -> Self {
        Self { since_us: uptime_us, offset_us: self.offset_us(uptime_us), towards_us: offset_us }
    }

    /// The time.
    pub fn at(&self, uptime_us: u64) -> Timestamp {
        let us = super::signed(uptime_us).saturating_add(self.offset_us(uptime_us));
        Timestamp(u64::try_from(us).unwrap_or(0))
    }

    /// How far the time is ahead of the uptime.
    pub(super) fn offset_us(&self, uptime_us: u64) -> i64 {
        let room = super::signed(uptime_us.saturating_sub(self.since_us) / CORRECTION);
        let missing = self.towards_us.saturating_sub(self.offset_us);
        self.offset_us.saturating_add(missing.clamp(-room, room))
    }
}
