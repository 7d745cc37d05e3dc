//! The sandbox: runs guests, each in a store of its own, and stops those that go over a limit.
//!
//! It is reached through [`ToSandbox`] and [`FromSandbox`] only, holds no credentials and knows no
//! network, so that it can move into processes of its own. Guests run on a tokio runtime of their
//! own at a lower priority than everything else, so that leases and commits do not wait for them,
//! and [in turns](turns) by tenant.
//!
//! **Invariant** every [`ToSandbox::Start`] is answered by exactly one [`FromSandbox::Ended`],
//! after everything of the attempt is gone.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Runtime;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::time::MissedTickBehavior;
use wasmill_protocol::message::MODULES_WARM_MAX;

use crate::channel::{Ended, FromSandbox, GuestRun, ToSandbox};
use crate::engine::Engines;

mod artifacts;
mod attempt;
mod clock;
mod control;
mod fuel;
mod guest;
mod linker;
mod memory;
mod output;
mod preview1;
mod random;
mod seeded;
mod task;
mod turns;
mod verdict;
mod watchdog;

pub use artifacts::{Artifacts, LoadError, LoadedModule};
pub use clock::DETERMINISTIC_EPOCH_SECONDS;
pub use guest::Guest;
pub use linker::{LinkError, Linkers};
pub use output::TRUNCATION_MARK;
pub use watchdog::TICK;

use attempt::Shared;
use control::Control;
use turns::Turns;
use watchdog::{Running, Watchdog};

/// Messages to the sandbox that wait to be taken; the sender waits when there are more.
pub const TO_SANDBOX_MAX: usize = 4096;
/// Messages from the sandbox that wait to be taken; attempts wait with their end when there are
/// more.
pub const FROM_SANDBOX_MAX: usize = 4096;
/// How many messages are taken at once.
const BATCH_MAX: usize = 256;
/// How often the sandbox says what goes on in it.
const LOAD_INTERVAL: Duration = Duration::from_secs(1);
/// How much lower than the rest of the process guests are in priority (`nice`).
const GUEST_NICENESS: libc::c_int = 5;
/// Threads beyond those that run guests at the same time. They take in whoever wants a turn, while
/// all cores are taken: without them the next guest would be whichever a thread looks at first.
const THREADS_SPARE: usize = 1;
/// Stack of a thread that runs guests; guests themselves have fibers.
const THREAD_STACK_BYTES: usize = 2 * 1024 * 1024;

/// The settings of a sandbox.
#[derive(Clone)]
pub struct SandboxConfig {
    /// The engines that the artifacts were loaded into.
    pub engines: Arc<Engines>,
    /// Threads that run guests: one for each core that guests may use.
    pub threads: usize,
    /// Guests that run or wait at the same time; further ones wait to begin. At most what the
    /// engines' pool was made for.
    pub guests_max: usize,
}

/// Why a sandbox does not start.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// The system refuses threads.
    #[error("cannot start the threads that run guests")]
    Threads(#[source] std::io::Error),
}

/// Runs guests. See the module's documentation.
#[derive(Debug)]
pub struct Sandbox;

impl Sandbox {
    /// Starts a sandbox. It ends when the sender is dropped: what runs then is stopped, and the
    /// receiver closes when all of it has ended.
    ///
    /// # Errors
    ///
    /// When its threads cannot be started.
    pub fn start(
        config: SandboxConfig,
        artifacts: Arc<dyn Artifacts>,
    ) -> Result<(mpsc::Sender<ToSandbox>, mpsc::Receiver<FromSandbox>), SandboxError> {
        let (to, inbox) = mpsc::channel(TO_SANDBOX_MAX);
        let (outbox, from) = mpsc::channel(FROM_SANDBOX_MAX);
        let runtime = runtime(config.threads).map_err(SandboxError::Threads)?;
        let running = Arc::new(Running::default());
        let watchdog =
            Watchdog::start(Arc::clone(&config.engines), Arc::clone(&running)).map_err(SandboxError::Threads)?;
        let shared = Arc::new(Shared::new(artifacts, &config, outbox));
        let dispatcher = Dispatcher { shared, running, engines: config.engines };
        std::thread::Builder::new()
            .name("sandbox".to_owned())
            .spawn(move || {
                runtime.block_on(dispatcher.run(inbox));
                drop(watchdog);
            })
            .map_err(SandboxError::Threads)?;
        Ok((to, from))
    }

    /// Runs one attempt after the other on the calling task, through everything that
    /// [`Sandbox::start`] puts an attempt through but the channels: what a benchmark of the sandbox
    /// alone measures. `repeat` is called with each end and says whether to go on.
    ///
    /// The ticking thread runs meanwhile.
    ///
    /// # Errors
    ///
    /// When the ticking thread cannot be started.
    pub async fn run_repeatedly(
        config: SandboxConfig,
        artifacts: Arc<dyn Artifacts>,
        work: &GuestRun,
        mut repeat: impl FnMut(Ended) -> bool,
    ) -> Result<(), SandboxError> {
        let running = Arc::new(Running::default());
        let _watchdog =
            Watchdog::start(Arc::clone(&config.engines), Arc::clone(&running)).map_err(SandboxError::Threads)?;
        // Nobody reads reports of progress here; the channel only has to be there.
        let (outbox, _inbox) = mpsc::channel(FROM_SANDBOX_MAX);
        let shared = Shared::new(artifacts, &config, outbox);
        loop {
            let control = Arc::new(Control::new(&work.limits));
            running.insert(work.id, Arc::clone(&control));
            let ended = shared.run(Box::new(work.clone()), control).await;
            running.remove(work.id);
            if !repeat(ended) {
                return Ok(());
            }
        }
    }
}

impl Shared {
    fn new(artifacts: Arc<dyn Artifacts>, config: &SandboxConfig, reports: mpsc::Sender<FromSandbox>) -> Self {
        let engines = Arc::clone(&config.engines);
        let turns = Turns::new(config.threads, move || engines.tick());
        let slots = Semaphore::new(config.guests_max);
        Self { artifacts, slots, turns, freed: Notify::new(), reports }
    }
}

/// Takes messages and starts a task for each attempt.
struct Dispatcher {
    shared: Arc<Shared>,
    running: Arc<Running>,
    engines: Arc<Engines>,
}

impl Dispatcher {
    async fn run(self, mut inbox: mpsc::Receiver<ToSandbox>) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        // Every attempt holds a sender; nothing is ever sent.
        let (alive, mut all_ended) = mpsc::channel::<Infallible>(1);
        let reporter = self.report_load();
        while inbox.recv_many(&mut batch, BATCH_MAX).await > 0 {
            let mut stopped = false;
            for message in batch.drain(..) {
                match message {
                    ToSandbox::Start(work) => self.start(work, alive.clone()),
                    ToSandbox::CheckpointTaken(id) => self.running.take(id),
                    ToSandbox::Stop(id, _reason) => stopped |= self.running.stop(id),
                }
            }
            if stopped {
                // Guests that compute see the request now and not at the next tick.
                self.engines.tick();
            }
        }
        self.running.stop_all();
        drop(alive);
        // Closed when the last attempt has ended and been reported.
        let None = all_ended.recv().await;
        reporter.abort();
    }

    /// Says once a second what goes on, until the attempts' last report is out. A figure that the
    /// agent has no room for is not missed.
    fn report_load(&self) -> tokio::task::JoinHandle<()> {
        let (shared, running) = (Arc::clone(&self.shared), Arc::clone(&self.running));
        tokio::spawn(async move {
            let mut interval = tokio::time::interval(LOAD_INTERVAL);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                let mut modules_warm = shared.artifacts.cached_modules();
                let modules_cached = u32::try_from(modules_warm.len()).unwrap_or(u32::MAX);
                modules_warm.truncate(MODULES_WARM_MAX);
                let load = FromSandbox::Load { cpu_us: running.cpu_us(), modules_cached, modules_warm };
                let _ = shared.reports.try_send(load);
            }
        })
    }

    fn start(&self, work: Box<GuestRun>, alive: mpsc::Sender<Infallible>) {
        let id = work.id;
        let control = Arc::new(Control::new(&work.limits));
        if !self.running.insert(id, Arc::clone(&control)) {
            tracing::warn!(attempt = ?id, "an attempt was started twice; the second start is ignored");
            return;
        }
        let (shared, running) = (Arc::clone(&self.shared), Arc::clone(&self.running));
        tokio::spawn(async move {
            let ended = shared.run(work, control).await;
            running.remove(id);
            // Nobody listens any more: nobody wants to know.
            let _ = shared.reports.send(FromSandbox::Ended(Box::new(ended))).await;
            drop(alive);
        });
    }
}

fn runtime(threads: usize) -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.max(1) + THREADS_SPARE)
        .thread_name("guest")
        .thread_stack_size(THREAD_STACK_BYTES)
        // Guests use the clock only; compiling a module that is not there yet talks to a child
        // process.
        .enable_all()
        .on_thread_start(lower_priority)
        .build()
}

fn lower_priority() {
    // SAFETY: no memory is involved. 0 is the calling thread: on Linux the priority belongs to
    // threads.
    #[allow(unsafe_code, reason = "std has no thread priorities")]
    let code = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, GUEST_NICENESS) };
    if code != 0 {
        tracing::warn!(error = %std::io::Error::last_os_error(), "guests run at the priority of the rest");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_run_at_a_lower_priority_than_the_rest() {
        fn niceness() -> libc::c_int {
            // SAFETY: no memory is involved; 0 is the calling thread.
            #[allow(unsafe_code, reason = "std has no thread priorities")]
            unsafe {
                libc::getpriority(libc::PRIO_PROCESS, 0)
            }
        }
        let runtime = runtime(1).unwrap();
        let guests = runtime.block_on(async { tokio::spawn(async { niceness() }).await.unwrap() });
        assert!(guests >= GUEST_NICENESS && guests >= niceness(), "{guests}");
    }
}
