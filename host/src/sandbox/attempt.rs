//! One attempt from its work to its end.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc};
use tracing::Instrument;
use wasmill_protocol::{Limits, Outcome, OutcomeKind, Usage};
use wasmtime::component::{ComponentExportIndex, InstancePre};
use wasmtime::{Store, StoreContextMut, UpdateDeadline};
use wasmtime_wasi::p2::bindings::CommandPre;

use super::artifacts::{Artifacts, Entry, LoadError, LoadedModule, START_EXPORT};
use super::control::{Control, Watched, clock_us, panic_message, thread_cpu_ns};
use super::fuel::{self, Overspent};
use super::guest::{Guest, HANDLES_MAX, Stdio};
use super::output::Stdout;
use super::task;
use super::turns::{TurnHolder, Turns, Wants};
use super::verdict::{End, Finished, exit_of, fuel_exhausted, is_pool_exhausted, judge};
use crate::channel::{Ended, FromSandbox, GuestRun};
use crate::engine::Profile;
use crate::trace;

/// The bytes that a guest may move in one call beyond its result or checkpoint.
const COPY_BYTES_SPARE: u64 = 1024 * 1024;

/// Memory that a guest can have had for its thread to give it back: it takes less than a
/// millisecond.
const GIVEN_BACK_AT_ONCE_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// Somebody else may use the same engine's pool and not tell us when a slot is free.
const POOL_RETRY: Duration = Duration::from_millis(20);

/// The parts that all attempts of a sandbox share.
pub(super) struct Shared {
    pub(super) artifacts: Arc<dyn Artifacts>,
    /// As many as the engine's pool has stacks.
    pub(super) slots: Semaphore,
    /// The turns of guests.
    pub(super) turns: Arc<Turns>,
    /// Told when an attempt has given back what it had of the pool.
    pub(super) freed: Notify,
    pub(super) reports: mpsc::Sender<FromSandbox>,
}

impl Shared {
    /// Runs one attempt to its end, whatever happens: a panic of ours ends it too.
    pub(super) async fn run(&self, work: Box<GuestRun>, control: Arc<Control>) -> Ended {
        let (id, tenant, input_bytes) = (work.id, work.tenant.clone(), work.input.len() as u64);
        let span = trace::attempt(&work);
        let attempt = pin!(self.attempt(work, Arc::clone(&control)).instrument(span.clone()));
        let mut ended = match std::panic::AssertUnwindSafe(attempt).catch_unwind().await {
            Ok(ended) => ended,
            Err(panic) => {
                let message = panic_message(panic.as_ref());
                tracing::error!(attempt = ?id, message, "the sandbox panicked");
                let message = format!("a fault in the host, not in the task: {message}");
                unstarted(Outcome::new(OutcomeKind::HostFault, message))
            }
        };
        (ended.id, ended.tenant) = (id, tenant);
        ended.usage.input_bytes = input_bytes;
        ended.usage.output_bytes = ended.output.len() as u64;
        ended.usage.cpu_us = control.cpu_spent().as_micros() as u64;
        trace::ended(&span, &ended);
        ended
    }

    async fn attempt(&self, mut work: Box<GuestRun>, control: Arc<Control>) -> Ended {
        let loaded = match self.load(&work, &control).await {
            Ok(loaded) => loaded,
            Err(outcome) => return unstarted(outcome),
        };
        let Some(slot) = self.slot(&control).await else { return unstarted(stopped_before_start()) };
        let mut place = self.turns.place(work.tenant.clone());
        loop {
            let mut store = store(&loaded, work, Arc::clone(&control), self.reports.clone());
            let started_us = control.arm(store.data().work.limits.wall_ms);
            let freed = self.freed.notified();
            let end = control.watch(&mut place, pin!(enter(&loaded, &mut store))).await;
            if !is_pool_exhausted(&end) {
                let mut ended = finish(store, end, &control, &mut place).await;
                ended.usage.run_us = clock_us() - started_us;
                drop(slot);
                self.freed.notify_one();
                return ended;
            }
            work = store.into_data().work;
            control.end_turn(&mut place, Wants::Nothing);
            control.disarm();
            if control.wait(pin!(tokio::time::timeout(POOL_RETRY, freed))).await.is_none() {
                return unstarted(stopped_before_start());
            }
        }
    }

    /// A place among the guests that run at the same time; `None` when it was stopped while it
    /// waited.
    async fn slot(&self, control: &Control) -> Option<SemaphorePermit<'_>> {
        if let Ok(slot) = self.slots.try_acquire() {
            return Some(slot);
        }
        let slot = control.wait(pin!(self.slots.acquire())).await?;
        Some(slot.expect("the semaphore is never closed"))
    }

    async fn load(&self, work: &GuestRun, control: &Control) -> Result<Arc<LoadedModule>, Outcome> {
        let profile = Profile::of(&work.limits, work.seed);
        if let Some(loaded) = self.artifacts.cached(work.module, profile) {
            return Ok(loaded);
        }
        match control.wait(self.artifacts.load(work.module, &work.module_path, profile).as_mut()).await {
            Some(Ok(loaded)) => Ok(loaded),
            Some(Err(LoadError::Invalid(message))) => Err(Outcome::new(OutcomeKind::ModuleInvalid, message)),
            Some(Err(LoadError::Fault(message))) => Err(Outcome::new(OutcomeKind::HostFault, message)),
            None => Err(stopped_before_start()),
        }
    }
}

/// Only being asked to stop ends an attempt before its guest runs: no limit counts yet.
fn stopped_before_start() -> Outcome {
    Outcome::new(OutcomeKind::Cancelled, "stopped before it began")
}

fn unstarted(outcome: Outcome) -> Ended {
    let (output, captured) = (Bytes::new(), Bytes::new());
    let (id, tenant) = Default::default();
    Ended { id, tenant, outcome, usage: Usage::default(), output, captured, repeatable: false }
}

/// A store with every limit in place before anything of the guest runs.
fn store(
    loaded: &LoadedModule,
    work: Box<GuestRun>,
    control: Arc<Control>,
    reports: mpsc::Sender<FromSandbox>,
) -> Store<Guest> {
    let limits = work.limits;
    let copy_bytes_max = copy_bytes_max(loaded, &work);
    let mut store = Store::new(loaded.engine(), Guest::new(work, loaded.stdio(), control, reports));
    store.limiter(|guest| &mut guest.memory);
    store.set_hostcall_fuel(usize::try_from(copy_bytes_max).unwrap_or(usize::MAX));
    store.set_max_component_handles(HANDLES_MAX);
    fuel::fill(&mut store, limits.fuel);
    store.epoch_deadline_callback(tick);
    store.set_epoch_deadline(1);
    store
}

/// How many bytes one call of the guest's may make us copy.
fn copy_bytes_max(loaded: &LoadedModule, work: &GuestRun) -> u64 {
    let Limits { memory_bytes, output_bytes, .. } = work.limits;
    match &loaded.entry {
        // The result is copied whole before its length can be seen.
        Entry::Task { .. } => output_bytes.max(work.checkpoint_bytes_max).saturating_add(COPY_BYTES_SPARE),
        // Streams move their chunks.
        Entry::CommandComponent(_) => COPY_BYTES_SPARE,
        // WASI 0.1 counts whole buffers, of which a chunk is then moved: any buffer that a guest
        // has is fine.
        Entry::CommandModule(_) => memory_bytes.max(COPY_BYTES_SPARE),
    }
}

/// Runs at every tick inside the guest: stops it or lets others run.
fn tick(mut store: StoreContextMut<'_, Guest>) -> wasmtime::Result<UpdateDeadline> {
    let guest = store.data_mut();
    if guest.control.check().is_err() {
        return Ok(UpdateDeadline::Interrupt);
    }
    if guest.progress_due() {
        guest.send_progress();
    }
    Ok(UpdateDeadline::Yield(1))
}

/// Instantiates and calls the guest. Exiting is an error that unwinds the guest, and a way to
/// finish.
async fn enter(loaded: &LoadedModule, store: &mut Store<Guest>) -> wasmtime::Result<Finished> {
    let called = match &loaded.entry {
        Entry::Task { pre, run } => call_task(pre, run, store).await.map(Finished::Returned),
        Entry::CommandComponent(pre) => call_component(pre, store).await,
        Entry::CommandModule(pre) => call_module(pre, store).await,
    };
    called.or_else(exit_of)
}

async fn call_task(
    pre: &InstancePre<Guest>,
    run: &ComponentExportIndex,
    store: &mut Store<Guest>,
) -> wasmtime::Result<Result<Vec<u8>, task::Failure>> {
    let instance = pre.instantiate_async(&mut *store).await?;
    let run = instance.get_typed_func::<task::RunParameters<'_>, task::RunResults>(&mut *store, run)?;
    let input = store.data().work.input.clone();
    let (result,) = run.call_async(&mut *store, (&input[..],)).await?;
    Ok(result)
}

async fn call_component(pre: &CommandPre<Guest>, store: &mut Store<Guest>) -> wasmtime::Result<Finished> {
    let command = pre.instantiate_async(&mut *store).await?;
    let ran = command.wasi_cli_run().call_run(&mut *store).await?;
    Ok(Finished::Exited(if ran.is_ok() { 0 } else { 1 }))
}

async fn call_module(pre: &wasmtime::InstancePre<Guest>, store: &mut Store<Guest>) -> wasmtime::Result<Finished> {
    let instance = pre.instantiate_async(&mut *store).await?;
    instance.get_typed_func::<(), ()>(&mut *store, START_EXPORT)?.call_async(&mut *store, ()).await?;
    Ok(Finished::Exited(0))
}

/// Ends the guest, and its last turn: reading names for a backtrace, too, is done in it. The kernel
/// takes a tenth as long to take memory back as the guest took to touch it: where that can be long
/// it is the guest's CPU time, and no thread that runs guests waits for it.
async fn finish(store: Store<Guest>, end: End, control: &Arc<Control>, place: &mut TurnHolder) -> Ended {
    if store.data().memory.bytes_peak() <= GIVEN_BACK_AT_ONCE_BYTES_MAX {
        let ended = take_apart(store, end);
        control.end_turn(place, Wants::Nothing);
        return ended;
    }
    control.end_turn(place, Wants::Nothing);
    let control = Arc::clone(control);
    let taken = tokio::task::spawn_blocking(move || {
        let began_ns = thread_cpu_ns();
        let ended = take_apart(store, end);
        control.charge(thread_cpu_ns() - began_ns);
        ended
    });
    taken.await.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => unstarted(Outcome::new(OutcomeKind::HostFault, format!("the sandbox ends: {error}"))),
    })
}

/// Reads off what the store knows and drops it.
fn take_apart(store: Store<Guest>, end: End) -> Ended {
    let fuel_left = fuel::left(&store);
    let mut guest = store.into_data();
    guest.send_progress();
    let (mut outcome, output) = match fuel_left {
        Err(Overspent) if matches!(end, Watched::Finished(_)) => (fuel_exhausted(&guest), Bytes::new()),
        _ => judge(end, &guest),
    };
    outcome.progress = guest.take_progress();
    let fuel = guest.work.limits.fuel.map(|limit| limit - fuel_left.ok().flatten().unwrap_or(0));
    let ended = outcome.kind == OutcomeKind::Succeeded || outcome.exit_code.is_some();
    let stdout = match guest.stdio {
        Stdio::Payload if ended => Stdout::Result,
        Stdio::Payload | Stdio::Captured => Stdout::Captured,
    };
    let usage = Usage { fuel, memory_peak_bytes: guest.memory.bytes_peak(), ..Usage::default() };
    let repeatable = outcome.kind == OutcomeKind::Succeeded && guest.is_repeatable();
    let (id, tenant) = (guest.work.id, guest.work.tenant.clone());
    Ended { id, tenant, outcome, usage, output, captured: guest.output.take_captured(stdout), repeatable }
}
