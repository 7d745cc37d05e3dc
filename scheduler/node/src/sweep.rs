//! When what nobody needs any more is removed: final tasks after their retention, and blobs that
//! nothing refers to.
//!
//! No wall clock has a part in it. Retention is counted by led time, the time for which somebody
//! has led as the log tells, and a blob's age by the uptime of this process.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use wasmill_protocol::Digest;
use wasmill_record::snapshot::{Expired, LedTime};

/// When something is removed, in microseconds.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// Final tasks are kept for as long.
    pub retention_us: u64,
    /// Between two sweeps.
    pub interval_us: u64,
    /// A blob that nothing refers to is removed when it has been seen like that for this long: the
    /// record that refers to it may be on its way.
    pub blob_age_us: u64,
    /// Blobs that are remembered; of more some wait until others are gone.
    pub blobs_max: usize,
}

impl Config {
    /// Keeps final tasks for this long, in microseconds.
    pub fn for_retention(retention_us: u64) -> Self {
        Self { retention_us, interval_us: 600_000_000, blob_age_us: 3_600_000_000, blobs_max: 1 << 20 }
    }
}

/// What is due, and what was seen so far. `Written` says when a blob was last written, by the clock
/// of whatever keeps it; it is compared and nothing else.
#[derive(Debug)]
pub struct Sweep<Written> {
    config: Config,
    due_us: u64,
    steps: VecDeque<Step>,
    /// Blobs that nothing referred to in this sweep, and the uptime when that was first seen.
    unused: BTreeMap<Digest, (Written, u64)>,
    /// Those of the sweep before that this one has not come to.
    before: BTreeMap<Digest, (Written, u64)>,
}

/// A step of a sweep. One is completed before the next one is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// To remove final tasks, in transactions of a bounded size.
    Tasks(Expired),
    /// To list all blobs and ask of each whether it goes, with [`Sweep::blob`].
    Blobs,
}

impl<Written: Copy + PartialEq> Sweep<Written> {
    /// The first sweep is due at once: a read model that was filled again shows what had been
    /// removed before.
    pub fn new(config: Config) -> Self {
        Self { config, due_us: 0, steps: VecDeque::new(), unused: BTreeMap::new(), before: BTreeMap::new() }
    }

    /// When the next sweep is due, by the uptime.
    pub fn next_timeout_us(&self) -> u64 {
        self.due_us
    }

    /// A sweep begins at this uptime. `led` is what this node shows of led time, and `passed_us`
    /// how long ago it has shown it first, by the uptime.
    pub fn begin(&mut self, uptime_us: u64, led: &LedTime, passed_us: u64) {
        self.due_us = uptime_us + self.config.interval_us;
        self.steps = led.expired(self.config.retention_us, passed_us).into_iter().map(Step::Tasks).collect();
        self.steps.push_back(Step::Blobs);
    }

    /// The next step. Blobs are swept while this node leads and at no other time: what it has not
    /// read yet may refer to any of them.
    pub fn next(&mut self, leads: bool) -> Option<Step> {
        let step = self.steps.pop_front()?;
        if step != Step::Blobs {
            return Some(step);
        }
        self.before = if leads { mem::take(&mut self.unused) } else { BTreeMap::new() };
        self.unused.clear();
        leads.then_some(step)
    }

    /// Whether a blob that was listed goes.
    pub fn blob(&mut self, uptime_us: u64, digest: Digest, written: Written, is_referenced: bool) -> bool {
        // One that was stored anew since is young again.
        let seen = self.before.remove(&digest).filter(|(before, _)| *before == written);
        if is_referenced {
            return false;
        }
        let since_us = seen.map_or(uptime_us, |(_, since_us)| since_us);
        if uptime_us.saturating_sub(since_us) >= self.config.blob_age_us {
            return true;
        }
        if self.unused.len() < self.config.blobs_max {
            self.unused.insert(digest, (written, since_us));
        }
        false
    }
}
