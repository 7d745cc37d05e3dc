//! The world `task` of `guest-sdk/wit/task.wit`: what a task component exports and what it can
//! import.

use std::sync::Arc;

use bytes::Bytes;
use wasmill_protocol::limits::INLINE_BYTES_MAX;
use wasmill_protocol::message::Progress;
use wasmtime::StoreContextMut;
use wasmtime::component::{ComponentType, Lift, Linker, Lower, WasmList, WasmStr};

use super::fuel;
use super::guest::Guest;

/// The interface's name.
const HOST_INTERFACE: &str = "wasmill:task/host@0.1.0";
/// The function that a task component exports.
pub(super) const RUN_EXPORT: &str = "run";
/// The parameters of [`RUN_EXPORT`].
pub(super) type RunParameters<'a> = (&'a [u8],);
/// The results of [`RUN_EXPORT`].
pub(super) type RunResults = (Result<Vec<u8>, Failure>,);

/// Fuel for one call of a host function, and for each [`BYTES_PER_FUEL`] bytes that it moves. Work
/// of the guest's own for that fuel takes about as long.
const CALL_FUEL: u64 = 100;
const BYTES_PER_FUEL: u64 = 8;
/// CPU time for each byte of a checkpoint that is stored as a blob: what copying, hashing and
/// writing it takes, on threads of ours.
const STORED_CPU_NS_PER_BYTE: u64 = 2;
/// The bytes of a checkpoint that are copied before others run: it takes about as long as a piece
/// of a long instruction.
const COPIED_AT_ONCE_BYTES: usize = 1024 * 1024;
/// The message of a progress report is cut here.
const PROGRESS_MESSAGE_BYTES_MAX: usize = 1024;

/// `failure`: how a task fails by its own decision.
#[derive(Debug, Clone, ComponentType, Lift)]
#[component(variant)]
pub(super) enum Failure {
    /// Do not try again.
    #[component(name = "reject")]
    Reject(String),
    /// Trying again may help.
    #[component(name = "retry")]
    Retry(String),
}

/// `level`: how loud a line is.
#[derive(Debug, Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "only made by reading what a guest passes")]
enum Level {
    #[component(name = "error")]
    Error,
    #[component(name = "warn")]
    Warn,
    #[component(name = "info")]
    Info,
    #[component(name = "debug")]
    Debug,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// `attempt-info`: what the task can learn of itself.
#[derive(Debug, Clone, ComponentType, Lower)]
#[component(record)]
struct AttemptInfo {
    #[component(name = "task-id")]
    task_id: String,
    attempt: u32,
    #[component(name = "attempts-max")]
    attempts_max: u32,
    deterministic: bool,
}

/// Defines the functions of the interface. None waits for anything but the agent taking a
/// checkpoint, none calls the guest, and each charges fuel before it does anything.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut host = linker.instance(HOST_INTERFACE)?;
    host.func_wrap("info", |mut store, (): ()| {
        charge(&mut store, 0)?;
        store.data_mut().knows_itself = true;
        let work = &store.data().work;
        Ok((AttemptInfo {
            task_id: work.id.task.to_string(),
            attempt: work.id.attempt.0,
            attempts_max: work.attempts_max,
            deterministic: work.seed.is_some(),
        },))
    })?;
    host.func_wrap("remaining-ms", |mut store, (): ()| {
        charge(&mut store, 0)?;
        let guest = store.data();
        // Real time would make a deterministic task differ from run to run.
        let left = match guest.work.seed {
            Some(_) => guest.work.limits.wall_ms as f64,
            None => guest.control.wall_left().as_secs_f64() * 1000.0,
        };
        Ok((left,))
    })?;
    host.func_wrap("remaining-cpu-ms", |mut store, (): ()| {
        charge(&mut store, 0)?;
        let guest = store.data();
        let left = match guest.work.seed {
            Some(_) => guest.work.limits.cpu_ms as f64,
            None => guest.control.cpu_left().as_secs_f64() * 1000.0,
        };
        Ok((left,))
    })?;
    host.func_wrap("remaining-fuel", |mut store, (): ()| {
        charge(&mut store, 0)?;
        let left = fuel::left(&store).unwrap_or(Some(0)).map(|fuel| fuel as f64);
        Ok((left,))
    })?;
    host.func_wrap("progress", |store, (done, total, message): (f64, f64, WasmStr)| {
        progress(store, done, total, &message)
    })?;
    host.func_wrap("log", |store, (level, message): (Level, WasmStr)| log(store, level, &message))?;
    host.func_wrap_async("checkpoint-save", |store, (state,): (WasmList<u8>,)| {
        Box::new(async move { Ok((checkpoint_save(store, &state).await?,)) })
    })?;
    host.func_wrap("checkpoint-load", |store, (): ()| checkpoint_load(store))
}

/// Takes the fuel for one call that moves `bytes`.
fn charge(store: &mut StoreContextMut<'_, Guest>, bytes: usize) -> wasmtime::Result<()> {
    fuel::charge(store, CALL_FUEL + bytes as u64 / BYTES_PER_FUEL)
}

fn progress(mut store: StoreContextMut<'_, Guest>, done: f64, total: f64, message: &WasmStr) -> wasmtime::Result<()> {
    let message = {
        let text = message.to_str(&store)?;
        cut(&text, PROGRESS_MESSAGE_BYTES_MAX).to_owned()
    };
    charge(&mut store, message.len())?;
    // A cast of a float saturates, and NaN is 0.
    store.data_mut().set_progress(Progress { done: done as u64, total: total as u64, message });
    Ok(())
}

fn log(mut store: StoreContextMut<'_, Guest>, level: Level, message: &WasmStr) -> wasmtime::Result<()> {
    let line = {
        let text = message.to_str(&store)?;
        // The bytes over the cap are only there to be counted as cut.
        let captured_max = usize::try_from(store.data().work.captured_bytes_max).unwrap_or(usize::MAX);
        format!("{}: {}\n", level.as_str(), cut(&text, captured_max.saturating_add(1)))
    };
    charge(&mut store, line.len())?;
    store.data().output.capture(line.as_bytes());
    Ok(())
}

async fn checkpoint_save(
    mut store: StoreContextMut<'_, Guest>,
    state: &WasmList<u8>,
) -> wasmtime::Result<Result<(), String>> {
    let bytes_max = store.data().work.checkpoint_bytes_max;
    if state.len() as u64 > bytes_max {
        charge(&mut store, 0)?;
        return Ok(Err(format!("the state has {} bytes, the limit of a checkpoint is {bytes_max}", state.len())));
    }
    charge(&mut store, state.len())?;
    if !store.data_mut().memory.keep(state.len() as u64) {
        let (bytes_max, used) = store.data().memory.bytes_max_and_used();
        return Ok(Err(format!(
            "the state has {} bytes, which count as memory of the task: with the {used} that it has they are over its limit of {bytes_max}",
            state.len()
        )));
    }
    let large = state.len() as u64 > INLINE_BYTES_MAX;
    if large {
        // Before it is stored, so that it is not when that is over the limit.
        store.data().control.charge(state.len() as u64 * STORED_CPU_NS_PER_BYTE);
        store.data().control.check()?;
    }
    // The one before goes first: never are there two.
    store.data_mut().reports.checkpoint = None;
    let data = copied(&mut store, state).await;
    let (reporter, message) = {
        let guest = store.data_mut();
        (guest.reporter(), guest.save_checkpoint(data))
    };
    // The only way to fail is that nobody listens any more, and then nobody runs the task again
    // from here.
    if reporter.send(message).await.is_ok() && large {
        // Within the wall time of the guest that wants it, and nobody else's.
        let control = Arc::clone(&store.data().control);
        control.until_taken().await;
    }
    Ok(Ok(()))
}

/// A copy of a list, made in pieces between which others run: the whole can take longer than a
/// tick.
async fn copied(store: &mut StoreContextMut<'_, Guest>, list: &WasmList<u8>) -> Bytes {
    let mut copy = Vec::with_capacity(list.len());
    loop {
        let rest = &list.as_le_slice(&*store)[copy.len()..];
        copy.extend_from_slice(&rest[..rest.len().min(COPIED_AT_ONCE_BYTES)]);
        if copy.len() == list.len() {
            return copy.into();
        }
        tokio::task::yield_now().await;
    }
}

fn checkpoint_load(mut store: StoreContextMut<'_, Guest>) -> wasmtime::Result<(Option<Vec<u8>>,)> {
    let guest = store.data();
    let state = guest.reports.checkpoint.clone().or_else(|| guest.work.checkpoint.clone());
    charge(&mut store, state.as_ref().map_or(0, Bytes::len))?;
    Ok((state.map(Vec::from),))
}

/// The longest beginning of at most `bytes_max` bytes that ends between characters.
fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
