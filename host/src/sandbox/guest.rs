//! The data of a store for its guest, and for WASI.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use wasmill_protocol::message::Progress;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

use super::clock::Clock;
use super::control::Control;
use super::memory::MemoryMeter;
use super::output::{InputPipe, Output, OutputPipe, Target};
use super::preview1::Descriptors;
use super::random;
use super::seeded::{SeededRandom, Source};
use crate::channel::{FromSandbox, GuestRun};

/// Handles that a guest holds at most, each with something of ours behind it.
pub(super) const HANDLES_MAX: usize = 4096;
/// Progress is passed on at most this often; only the newest matters.
const PROGRESS_INTERVAL_MS: u128 = 50;

/// The data of a store: everything that belongs to one attempt.
pub struct Guest {
    pub(super) work: Box<GuestRun>,
    pub(super) stdio: Stdio,
    pub(super) control: Arc<Control>,
    pub(super) memory: MemoryMeter,
    pub(super) output: Output,
    pub(super) stdin: InputPipe,
    /// Of a core module; components have none.
    pub(super) descriptors: Descriptors,
    pub(super) clock: Clock,
    pub(super) reports: Reports,
    /// It has asked which task and attempt it is.
    pub(super) knows_itself: bool,
    /// Made when the guest first asks for something of it: many never do.
    wasi: Wasi,
}

enum Wasi {
    Unused,
    P1(Box<WasiP1Ctx>),
    P2(Box<(WasiCtx, ResourceTable)>),
}

impl std::fmt::Debug for Guest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guest").field("id", &self.work.id).finish_non_exhaustive()
    }
}

/// Whether stdin and stdout carry payload and result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stdio {
    /// A command: they do.
    Payload,
    /// A task component: stdin is empty and stdout is captured.
    Captured,
}

impl Guest {
    pub(super) fn new(
        work: Box<GuestRun>,
        stdio: Stdio,
        control: Arc<Control>,
        reports: mpsc::Sender<FromSandbox>,
    ) -> Self {
        let stdin = match stdio {
            Stdio::Payload => work.input.clone(),
            Stdio::Captured => Bytes::new(),
        };
        Self {
            control,
            memory: MemoryMeter::new(work.limits.memory_bytes),
            output: Output::new(work.limits.output_bytes, work.captured_bytes_max),
            stdin: InputPipe::new(stdin),
            descriptors: Descriptors::default(),
            clock: if work.seed.is_some() { Clock::frozen() } else { Clock::real() },
            reports: Reports {
                sender: reports,
                pending: None,
                passed_on: None,
                sent_at: None,
                checkpoints: 0,
                checkpoint: None,
            },
            work,
            stdio,
            knows_itself: false,
            wasi: Wasi::Unused,
        }
    }

    /// Whether another attempt with the same work would see the same of the world, whenever and for
    /// whomever it runs. Deterministic guests are told the whole limits as the rest of time and
    /// CPU, and what is left of fuel follows from what they did.
    pub(super) fn is_repeatable(&self) -> bool {
        let GuestRun { seed, checkpoint, .. } = &*self.work;
        seed.is_some() && checkpoint.is_none() && !self.knows_itself && !self.memory.failed_here()
    }

    /// The context of WASI 0.1, for core modules.
    pub(super) fn p1(&mut self) -> &mut WasiP1Ctx {
        if !matches!(self.wasi, Wasi::P1(_)) {
            let mut ctx = self.wasi_builder(Target::Result).build_p1();
            ctx.ctx().table.set_max_capacity(HANDLES_MAX);
            self.wasi = Wasi::P1(Box::new(ctx));
        }
        match &mut self.wasi {
            Wasi::P1(ctx) => ctx,
            Wasi::Unused | Wasi::P2(_) => unreachable!("made above"),
        }
    }

    fn p2(&mut self) -> &mut (WasiCtx, ResourceTable) {
        if !matches!(self.wasi, Wasi::P2(_)) {
            let target = match self.stdio {
                Stdio::Payload => Target::Result,
                Stdio::Captured => Target::Captured,
            };
            let mut table = ResourceTable::new();
            table.set_max_capacity(HANDLES_MAX);
            self.wasi = Wasi::P2(Box::new((self.wasi_builder(target).build(), table)));
        }
        match &mut self.wasi {
            Wasi::P2(ctx) => ctx,
            Wasi::Unused | Wasi::P1(_) => unreachable!("made above"),
        }
    }

    /// No directories, no network, nothing of the host's environment.
    fn wasi_builder(&self, stdout: Target) -> WasiCtxBuilder {
        let pipe = |target| OutputPipe::new(self.output.clone(), target, Arc::clone(&self.control));
        let mut builder = WasiCtxBuilder::new();
        builder
            .allow_blocking_current_thread(false)
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(random::PIECE_BYTES)
            .stdin(self.stdin.clone())
            .stdout(pipe(stdout))
            .stderr(pipe(Target::Captured))
            .monotonic_clock(self.clock.clone())
            .arg(&*self.work.program)
            .args(&self.work.args);
        for (name, value) in self.work.env.iter() {
            builder.env(name, value);
        }
        if let Some(seed) = self.work.seed {
            builder
                .wall_clock(self.clock.clone())
                .secure_random(SeededRandom::new(seed, Source::Secure))
                .insecure_random(SeededRandom::new(seed, Source::Insecure))
                .insecure_random_seed(SeededRandom::new(seed, Source::InsecureSeed).next_u128());
        }
        builder
    }
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let (ctx, table) = self.p2();
        WasiCtxView { ctx, table }
    }
}

/// The reports of a guest while it runs.
#[derive(Debug)]
pub(super) struct Reports {
    sender: mpsc::Sender<FromSandbox>,
    /// Not passed on yet.
    pending: Option<Progress>,
    /// The last one that was.
    passed_on: Option<Progress>,
    sent_at: Option<Instant>,
    checkpoints: u32,
    /// The last checkpoint of this attempt.
    pub(super) checkpoint: Option<Bytes>,
}

impl Guest {
    /// Replaces what is pending and passes it on if it is time.
    pub(super) fn set_progress(&mut self, progress: Progress) {
        self.reports.pending = Some(progress);
        if self.reports.sent_at.is_none_or(|sent| sent.elapsed().as_millis() >= PROGRESS_INTERVAL_MS) {
            self.send_progress();
        }
    }

    /// Passes on what is pending, unless the channel is full: then it stays pending, and what comes
    /// later replaces it.
    pub(super) fn send_progress(&mut self) {
        if let Some(progress) = self.reports.pending.take() {
            self.reports.passed_on = Some(progress.clone());
            match self.reports.sender.try_send(FromSandbox::Progress(self.work.id, progress)) {
                Ok(()) => self.reports.sent_at = Some(Instant::now()),
                Err(mpsc::error::TrySendError::Full(FromSandbox::Progress(_, progress))) => {
                    self.reports.pending = Some(progress);
                }
                Err(_) => {}
            }
        }
    }

    /// How far the guest said last that it is.
    pub(super) fn take_progress(&mut self) -> Option<Progress> {
        let passed_on = self.reports.passed_on.take();
        self.reports.pending.take().or(passed_on)
    }

    /// Whether progress waits to be passed on and it is time.
    pub(super) fn progress_due(&self) -> bool {
        self.reports.pending.is_some()
            && self.reports.sent_at.is_none_or(|sent| sent.elapsed().as_millis() >= PROGRESS_INTERVAL_MS)
    }

    /// Numbers a checkpoint and makes it the one that `checkpoint-load` gives. The message is for
    /// [`Guest::reporter`].
    pub(super) fn save_checkpoint(&mut self, data: Bytes) -> FromSandbox {
        self.reports.checkpoints += 1;
        self.reports.checkpoint = Some(data.clone());
        let (id, tenant) = (self.work.id, self.work.tenant.clone());
        FromSandbox::Checkpoint { id, tenant, number: self.reports.checkpoints, data }
    }

    /// Where messages go that must not be lost.
    pub(super) fn reporter(&self) -> mpsc::Sender<FromSandbox> {
        self.reports.sender.clone()
    }
}
