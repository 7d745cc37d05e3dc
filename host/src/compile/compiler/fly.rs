//! One compile from the waiting line to the cache.
//!
//! Each tenant waits in a line of its own, also for a module that others want too: nobody waits
//! behind somebody else's modules. A caller that has a turn and finds that the same is being
//! compiled joins, and gives the turn to the next one. Small modules have slots that large ones
//! never take; one that turns out to be laborious there is given up and waits with the large ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::Instrument;
use wasmill_protocol::module::ModuleInfo;

use super::{Inner, InspectError, clamp_retry};
use crate::compile::meter::Payer;
use crate::compile::request::{CompileLimits, ReplyResult, Request};
use crate::compile::spawn::{self, CompileFault, Death};
use crate::compile::store::{Stamp, Which};
use crate::slots::{Lane, Permit};
use crate::trace;

/// Bytes of a module that is tried in the slots of small ones first.
const SMALL_BYTES_MAX: u64 = 256 * 1024;
/// Seconds of CPU time that such a module gets there.
const SMALL_CPU_S: u64 = 1;

/// Something to compile.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) which: Which,
    /// Where the module is.
    pub(super) path: PathBuf,
    pub(super) payer: Option<Payer>,
    /// CPU time in microseconds that children have used for this order, and for no other that asked
    /// for the same.
    pub(super) spent_us: Arc<AtomicU64>,
}

/// Whose slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// Of small modules: little time.
    Small,
    /// Of all.
    Any,
}

/// The result of a child for a module; `None` when it would need more than small modules get.
pub(super) type Flown = Option<Result<ModuleInfo, InspectError>>;

impl Order {
    fn lane(&self) -> Lane {
        self.payer.as_ref().map_or(Lane::Host, |payer| Lane::Tenant(payer.tenant.clone()))
    }
}

impl Inner {
    /// Joins the tenant's own wait for the same module, or begins to wait.
    pub(super) async fn compile(self: &Arc<Self>, order: Order) -> Result<ModuleInfo, InspectError> {
        let flight = self.waits.join((order.which, order.lane()), || {
            let shared = Arc::clone(self);
            let span = trace::compile(order.which.0, order.which.1);
            async move { shared.wait(order).await }.instrument(span)
        });
        flight.await
    }

    async fn wait(self: Arc<Self>, order: Order) -> Result<ModuleInfo, InspectError> {
        let asked = Instant::now();
        if fs::metadata(&order.path).is_ok_and(|stat| stat.len() <= SMALL_BYTES_MAX)
            && self.config.small_slots.running > 0
            && let Some(done) = self.turn(&order, Size::Small, asked).await?
        {
            return done;
        }
        loop {
            if let Some(done) = self.turn(&order, Size::Any, asked).await? {
                return done;
            }
        }
    }

    /// Waits for a turn, and compiles, or joins who does.
    async fn turn(self: &Arc<Self>, order: &Order, size: Size, asked: Instant) -> Result<Flown, InspectError> {
        let slots = match size {
            Size::Small => &self.small_slots,
            Size::Any => &self.slots,
        };
        let Ok(permit) = slots.acquire(order.lane()).await else {
            return Err(InspectError::Busy { retry_ms: self.retry_ms() });
        };
        trace::compile_begins(asked.elapsed());
        if let Some(refused) = self.refusal(order.which, Instant::now()) {
            return Ok(Some(Err(InspectError::Rejected(refused))));
        }
        let mut permit = Some(permit);
        let flight = self.flights.join(order.which, || {
            let (shared, order, permit) = (Arc::clone(self), order.clone(), permit.take());
            async move { shared.fly(order, size, permit).await }.in_current_span()
        });
        // A caller that has joined lets the next one have the turn.
        drop(permit);
        Ok(flight.await)
    }

    async fn fly(self: Arc<Self>, order: Order, size: Size, permit: Option<Permit>) -> Flown {
        let (which, began) = (order.which, Instant::now());
        let unfinished = Unfinished(self.store.unfinished(which));
        let limits = match size {
            Size::Small => CompileLimits { cpu_s: self.config.limits.cpu_s.min(SMALL_CPU_S), ..self.config.limits },
            Size::Any => self.config.limits,
        };
        let mut bill = Bill { shared: &self, payer: order.payer.as_ref(), began, limits };
        let ended = spawn::run(&self.config.program, &self.request(which, &order.path, &unfinished.0, limits)).await;
        drop(permit);
        self.compiles.fetch_add(1, Ordering::Relaxed);
        self.compile_us.fetch_add(ended.cpu_us, Ordering::Relaxed);
        self.learn_duration(began.elapsed());
        order.spent_us.fetch_add(ended.cpu_us, Ordering::Relaxed);
        let now = Instant::now();
        let given_up = matches!(ended.result, Err(Death::Module { needs_more: true, .. }))
            && limits.cpu_s < self.config.limits.cpu_s;
        let flown = (!given_up).then(|| self.land(&order, &unfinished.0, ended.result, now));
        trace::compile_ended(matches!(flown, Some(Ok(_))));
        let rejected = matches!(flown, Some(Err(InspectError::Rejected(_))));
        bill.settle(ended.cpu_us, rejected);
        flown
    }

    fn request(&self, (digest, profile): Which, path: &Path, artifact: &Path, limits: CompileLimits) -> Request {
        Request {
            module: path.to_owned(),
            digest,
            profile: profile.as_str().to_owned(),
            key: self.keys[profile as usize].clone(),
            artifact: artifact.to_owned(),
            limits,
            caps: self.config.caps,
        }
    }

    /// Keeps what a child made, or remembers that it made nothing.
    fn land(
        &self,
        order: &Order,
        unfinished: &Path,
        result: Result<ReplyResult, Death>,
        now: Instant,
    ) -> Result<ModuleInfo, InspectError> {
        let which = order.which;
        let (refused, lasting) = match result {
            Ok(ReplyResult::Compiled { info, artifact, form }) => {
                self.store.keep(which, unfinished, Stamp { artifact, form }).map_err(|error| {
                    InspectError::Fault(CompileFault::Cache {
                        action: format!("keep the artifact of {}", which.0),
                        reason: error.to_string(),
                    })
                })?;
                return Ok(info);
            }
            Ok(ReplyResult::Rejected(refused)) => (refused, true),
            Ok(ReplyResult::Failed(text)) => return Err(InspectError::Fault(CompileFault::Said(text))),
            Err(Death::Module { refused, lasting, .. }) => (refused, lasting),
            Err(Death::Fault(fault)) => return Err(InspectError::Fault(fault)),
        };
        let owner = order.payer.as_ref().map(|payer| &payer.tenant);
        self.refusals.remember(owner, which, &refused, lasting, now);
        Err(InspectError::Rejected(refused))
    }

    /// When a slot should be free for somebody who is not even in the line.
    fn retry_ms(&self) -> u64 {
        let rounds = self.slots.waiting() / self.config.slots.running.max(1) + 1;
        clamp_retry(u128::from(self.compile_ms.load(Ordering::Relaxed)) * rounds as u128)
    }

    fn learn_duration(&self, took: Duration) {
        let before = self.compile_ms.load(Ordering::Relaxed);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.compile_ms.store((before.saturating_mul(7).saturating_add(took_ms)) / 8, Ordering::Relaxed);
    }
}

/// The cost of a child for its payer, also when nobody waits for the child's end.
struct Bill<'a> {
    shared: &'a Inner,
    payer: Option<&'a Payer>,
    began: Instant,
    limits: CompileLimits,
}

impl Bill<'_> {
    fn settle(&mut self, cpu_us: u64, rejected: bool) {
        if let Some(payer) = self.payer.take() {
            self.shared.meter().charge(payer, cpu_us, rejected, Instant::now());
        }
    }
}

impl Drop for Bill<'_> {
    fn drop(&mut self) {
        // A child that is killed cannot say what it used; it was not more than this.
        let elapsed_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.settle(elapsed_us.min(self.limits.cpu_s.saturating_mul(1_000_000)), false);
    }
}

/// The file that a child writes; removed unless it was moved to its place.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Mostly it is not there: moved, or never written.
        let _ = fs::remove_file(&self.0);
    }
}
