//! Policies: the order in which shapes are served, and the hosts that they are placed on.
//!
//! A policy sees shapes, never single tasks, and is never trusted: the core checks every answer with [`fits()`], drops what is
//! wrong and counts it. Quotas, fencing and the guard against endless waits belong to the core. What was decided is
//! an event, so a replay never asks a policy.

mod fair;
mod fifo;
mod fits;
mod least_loaded;
mod pack;

#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::sync::Arc;

use thiserror::Error;
use wasmill_protocol::{Digest, HostId, TenantName, Timestamp};

use crate::state::Labels;

pub use fair::Fair;
pub use fifo::Fifo;
pub(crate) use fits::Bytes;
pub use fits::{Misfit, fits};
pub use least_loaded::LeastLoaded;
pub use pack::Pack;

/// The names that [`by_name`] knows.
pub const NAMES: [&str; 4] = ["fair", "fifo", "least_loaded", "pack"];

/// A built-in policy. Each does one half well and does the other half like [`Fair`] and [`LeastLoaded`].
pub fn by_name(name: &str) -> Option<Box<dyn Policy>> {
    match name {
        "fair" => Some(Box::new(Fair)),
        "fifo" => Some(Box::new(Fifo)),
        "least_loaded" => Some(Box::new(LeastLoaded)),
        "pack" => Some(Box::new(Pack)),
        _ => None,
    }
}

/// Orders shapes and places them on hosts.
pub trait Policy: Debug + Send {
    /// What it is called. Another version of a policy has another name: what was benched stays so under its name.
    fn name(&self) -> &str;

    /// One key for each shape, in the same order; the smallest is served first. Of equal keys the tenant whose oldest task has waited
    /// longest goes first, and of shapes of one tenant with equal keys the one of the highest priority. Called again after every slice of what can be dispatched, with what has changed by it.
    ///
    /// # Errors
    ///
    /// When a plugin trapped or ran out of time: the built-in default decides this round.
    fn order(&mut self, shapes: &[ShapeView], now: Timestamp) -> Result<Vec<Key>, PolicyFault> {
        Fair.order(shapes, now)
    }

    /// Where to put what is wanted. To leave some or all of it out is to decline it for this round.
    ///
    /// # Errors
    ///
    /// When a plugin trapped or ran out of time: the built-in default decides this round.
    fn place(&mut self, wanted: &[Wanted<'_>], hosts: &[HostRoom]) -> Result<Vec<Choice>, PolicyFault> {
        LeastLoaded.place(wanted, hosts)
    }
}

/// What a shape is ordered by: `class` first, then `rank`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Key {
    /// Smaller goes strictly first.
    pub class: i64,
    /// Within a class, smaller goes first.
    pub rank: u64,
}

/// Tasks in the queue that are alike in everything that a policy may look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeView {
    /// Names the shape as long as some task has it.
    pub id: u32,
    /// Whose.
    pub tenant: TenantName,
    /// The tenant's weight, at least 1.
    pub weight: u32,
    /// The tenant's class, -100 to 100: higher ones go strictly first.
    pub class: i8,
    /// -100 to 100, higher is more urgent among the tasks of its tenant.
    pub priority: i8,
    /// The module.
    pub module: Digest,
    /// The memory limit of each task.
    pub memory_bytes: u64,
    /// Labels that a host must carry.
    pub require: Arc<Labels>,
    /// Tasks in the queue.
    pub queued: u32,
    /// Tasks of the tenant that run, of any shape.
    pub tenant_running: u64,
    /// Virtual time of the tenant: slot time that it has used in microseconds, scaled by 1024 and divided by its weight. A tenant
    /// that had nothing to run has caught up, so idling saves nothing up.
    pub tenant_time: u64,
    /// When the task in front became queued.
    pub oldest: Timestamp,
}

/// Tasks of one shape that are to be placed.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Which shape.
    pub shape: &'a ShapeView,
    /// How many of its tasks.
    pub count: u32,
}

/// Some tasks of a shape on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Index into what was wanted.
    pub wanted: usize,
    /// Index into the hosts.
    pub host: usize,
    /// How many tasks.
    pub count: u32,
}

/// A host as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRoom {
    /// Which.
    pub id: HostId,
    /// Whether it takes new attempts.
    pub standing: Standing,
    /// Attempts that it can take now.
    pub free: u32,
    /// Attempts that it can take beyond those, of tenants that run nothing or little: see [`kept`](wasmill_protocol::kept).
    pub kept: u32,
    /// Attempts that it has.
    pub attempts: u32,
    /// Guests that can run at the same time; what is above waits on the host.
    pub slots: u32,
    /// Bytes of memory for guests.
    pub memory_bytes: u64,
    /// Tenants that it takes no more attempts of for now.
    pub sated: Arc<[TenantName]>,
    /// What it carries.
    pub labels: Arc<Labels>,
    /// CPU in use by guests, thousandths of one core.
    pub load_millicores: u32,
}

/// Whether a host takes new attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It does.
    Ready,
    /// It was asked not to, or asks itself.
    Draining,
    /// It is gone, or has not been heard of for too long.
    Lost,
}

impl HostRoom {
    /// The same host as tenants see it that may take what is kept.
    pub(crate) fn opened(&self) -> Self {
        Self { free: self.free.saturating_add(self.kept), kept: 0, ..self.clone() }
    }

    /// What is left of a host that was opened and has `free` places now. Those that are kept are the last.
    pub(crate) fn close(&mut self, opened: &Self) {
        self.attempts = opened.attempts;
        (self.free, self.kept) = (opened.free.saturating_sub(self.kept), opened.free.min(self.kept));
    }
}

impl Standing {
    /// The stable name, as HTTP answers carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Lost => "lost",
        }
    }
}

/// A policy that did not answer: what happened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the policy did not answer: {reason}")]
pub struct PolicyFault {
    /// In a few words; the rest of a long text is dropped.
    pub reason: String,
}

/// Which of some shapes is served first, by a key for each. A priority decides between those of one tenant that the policy does not tell apart, and never between
/// two tenants.
pub(crate) fn first(keys: &[Key], views: &[ShapeView]) -> usize {
    let keyed = || keys.iter().zip(views).enumerate();
    let Some((_, (best, of))) = keyed().min_by_key(|(_, (key, view))| (**key, view.oldest, view.id)) else { return 0 };
    let alike = keyed().filter(|(_, (key, view))| *key == best && view.tenant == of.tenant);
    alike.min_by_key(|(_, (_, view))| (-i16::from(view.priority), view.oldest, view.id)).map_or(0, |(at, _)| at)
}

/// What is right among `choices`, and how many tasks the wrong ones were about. Every answer goes through this.
pub(crate) fn checked(choices: Vec<Choice>, wanted: &[Wanted<'_>], hosts: &[HostRoom]) -> (Vec<Choice>, u64) {
    let mut left: Vec<u32> = wanted.iter().map(|wanted| wanted.count).collect();
    let mut free: Vec<u32> = hosts.iter().map(|host| host.free).collect();
    let mut wrong = 0;
    let mut right = Vec::with_capacity(choices.len());
    for choice in choices {
        let (Some(wish), Some(host)) = (wanted.get(choice.wanted), hosts.get(choice.host)) else {
            wrong += u64::from(choice.count);
            continue;
        };
        let count = match fits(wish.shape, host) {
            Ok(()) => choice.count.min(left[choice.wanted]).min(free[choice.host]),
            Err(_) => 0,
        };
        wrong += u64::from(choice.count - count);
        left[choice.wanted] -= count;
        free[choice.host] -= count;
        if count > 0 {
            right.push(Choice { count, ..choice });
        }
    }
    (right, wrong)
}
