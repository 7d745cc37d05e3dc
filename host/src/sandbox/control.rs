//! The stop flag of a guest, and its use so far: shared by the attempt, the guest's tick
//! callback and the watchdog.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use tokio::sync::Notify;
use wasmill_protocol::Limits;

use super::turns::{TurnHolder, Wants};

/// Why a guest is stopped before it ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Cause {
    /// Asked to.
    Asked = 1,
    /// `limits.wall_ms` is over.
    Deadline,
    /// `limits.cpu_ms` is used up.
    Cpu,
    /// A command wrote more than `limits.output_bytes` to stdout.
    Output,
}

impl Cause {
    fn from_code(code: u8) -> Option<Self> {
        [Self::Asked, Self::Deadline, Self::Cpu, Self::Output].into_iter().find(|cause| *cause as u8 == code)
    }
}

/// The error that unwinds a guest when its [`Control`] has a cause; carries nothing because the
/// control does.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
pub(super) struct Stopped;

/// One attempt's brake and meter.
///
/// A guest that runs sees the cause at its next tick; one that waits in a host call is woken and
/// dropped. All of it is atomics: the watchdog reads while the guest runs.
#[derive(Debug)]
pub(super) struct Control {
    /// The first [`Cause`], 0 while there is none. It never changes again.
    cause: AtomicU8,
    /// In microseconds of [`clock_us`].
    deadline_us: AtomicU64,
    cpu_limit_ns: u64,
    /// CPU time of polls that are over.
    cpu_spent_ns: AtomicU64,
    /// The polling thread's CPU clock when the current poll began.
    poll_began_ns: AtomicU64,
    waker: AtomicWaker,
    /// Told when the agent has stored what the guest waits for.
    taken: Notify,
}

/// How a watched future ended.
#[derive(Debug)]
pub(super) enum Watched<T> {
    /// By itself.
    Finished(T),
    /// Dropped: the control has a cause.
    Stopped,
    /// A host function of ours panicked; the message of the panic.
    Panicked(String),
}

impl Control {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            cause: AtomicU8::new(0),
            deadline_us: AtomicU64::new(u64::MAX),
            cpu_limit_ns: limits.cpu_ms.saturating_mul(1_000_000),
            cpu_spent_ns: AtomicU64::new(0),
            poll_began_ns: AtomicU64::new(0),
            waker: AtomicWaker::new(),
            taken: Notify::new(),
        }
    }

    /// A checkpoint of the guest is stored.
    pub(super) fn take(&self) {
        self.taken.notify_one();
    }

    /// Waits until what the guest has given to the agent is stored; dropped with the guest when
    /// that is stopped.
    pub(super) async fn until_taken(&self) {
        self.taken.notified().await;
    }

    /// Starts the wall clock of the attempt; when, in microseconds of [`clock_us`].
    pub(super) fn arm(&self, wall_ms: u64) -> u64 {
        let now_us = clock_us();
        self.deadline_us.store(now_us.saturating_add(wall_ms.saturating_mul(1000)), Ordering::Relaxed);
        now_us
    }

    /// Stops the wall clock: the attempt waits for us.
    pub(super) fn disarm(&self) {
        self.deadline_us.store(u64::MAX, Ordering::Relaxed);
    }

    /// Time left until the deadline; zero when it is over, very long when there is none.
    pub(super) fn wall_left(&self) -> Duration {
        Duration::from_micros(self.deadline_us.load(Ordering::Relaxed).saturating_sub(clock_us()))
    }

    /// Why the guest is stopped, if it is.
    pub(super) fn cause(&self) -> Option<Cause> {
        Cause::from_code(self.cause.load(Ordering::Acquire))
    }

    /// Stops the guest. The first cause stays.
    pub(super) fn stop(&self, cause: Cause) {
        let first = self.cause.compare_exchange(0, cause as u8, Ordering::AcqRel, Ordering::Acquire);
        if first.is_ok() {
            self.waker.wake();
        }
    }

    /// The watchdog's look at the wall clock.
    pub(super) fn check_deadline(&self, now_us: u64) {
        if now_us >= self.deadline_us.load(Ordering::Relaxed) {
            self.stop(Cause::Deadline);
        }
    }

    /// Checks everything that stops a guest, from the thread that polls it. Costs one system call.
    ///
    /// # Errors
    ///
    /// [`Stopped`] when there is a cause.
    pub(super) fn check(&self) -> Result<(), Stopped> {
        if self.cpu_ns() >= self.cpu_limit_ns {
            self.stop(Cause::Cpu);
        }
        self.check_deadline(clock_us());
        if self.cause().is_some() { Err(Stopped) } else { Ok(()) }
    }

    /// CPU time so far, from the thread that polls the guest.
    fn cpu_ns(&self) -> u64 {
        let poll = thread_cpu_ns().saturating_sub(self.poll_began_ns.load(Ordering::Relaxed));
        self.cpu_spent_ns.load(Ordering::Relaxed) + poll
    }

    /// CPU time of the polls that are over.
    pub(super) fn cpu_spent(&self) -> Duration {
        Duration::from_nanos(self.cpu_spent_ns.load(Ordering::Relaxed))
    }

    /// Adds CPU time that was spent for the guest and is not in its polls: what follows its last
    /// one, or what a host function makes others do.
    pub(super) fn charge(&self, spent_ns: u64) {
        self.cpu_spent_ns.fetch_add(spent_ns, Ordering::Relaxed);
    }

    /// CPU time left; from a host function, which runs on the thread that polls.
    pub(super) fn cpu_left(&self) -> Duration {
        Duration::from_nanos(self.cpu_limit_ns.saturating_sub(self.cpu_ns()))
    }

    /// Polls `future` in its turns and with its CPU time measured, until it ends, panics or is
    /// stopped. A guest that did not end is to be dropped then, also when it waits in a host call.
    /// The last turn is still to be [ended](Self::end_turn). It is borrowed because moving a
    /// guest's future costs more than many guests do.
    pub(super) async fn watch<F: Future + ?Sized>(
        &self,
        place: &mut TurnHolder,
        mut future: Pin<&mut F>,
    ) -> Watched<F::Output> {
        std::future::poll_fn(|cx| self.poll(place, future.as_mut(), cx)).await
    }

    /// Waits for something of ours, which costs the guest nothing; `None` when it was stopped
    /// meanwhile.
    pub(super) async fn wait<F: Future + ?Sized>(&self, mut future: Pin<&mut F>) -> Option<F::Output> {
        std::future::poll_fn(|cx| {
            self.waker.register(cx.waker());
            if self.cause().is_some() {
                return Poll::Ready(None);
            }
            future.as_mut().poll(cx).map(Some)
        })
        .await
    }

    fn poll<F: Future + ?Sized>(
        &self,
        place: &mut TurnHolder,
        future: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<Watched<F::Output>> {
        // Registered before the look at the cause: a stop in between wakes us.
        self.waker.register(cx.waker());
        if self.cause().is_some() {
            return Poll::Ready(Watched::Stopped);
        }
        if place.poll_turn(cx).is_pending() {
            return Poll::Pending;
        }
        self.poll_began_ns.store(thread_cpu_ns(), Ordering::Relaxed);
        match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
            Ok(Poll::Ready(output)) => return Poll::Ready(Watched::Finished(output)),
            Ok(Poll::Pending) => {}
            Err(panic) => return Poll::Ready(Watched::Panicked(panic_message(panic.as_ref()))),
        }
        if self.cpu_ns() >= self.cpu_limit_ns {
            self.stop(Cause::Cpu);
            return Poll::Ready(Watched::Stopped);
        }
        self.end_turn(place, Wants::More);
        Poll::Pending
    }

    /// Ends the turn that a guest has after its last poll, from the thread that polled it: what was
    /// done for the guest since then counts as its CPU time. Does nothing when it has none.
    pub(super) fn end_turn(&self, place: &mut TurnHolder, wants: Wants) {
        if place.has_turn() {
            let (before, spent) = (self.cpu_spent_ns.load(Ordering::Relaxed), self.cpu_ns());
            self.cpu_spent_ns.store(spent, Ordering::Relaxed);
            place.give_back(spent.saturating_sub(before), wants);
        }
    }
}

/// The message of a panic.
pub(super) fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Microseconds on a monotonic clock that all attempts share.
pub(super) fn clock_us() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_micros() as u64
}

/// CPU time of the calling thread in nanoseconds.
pub(super) fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call, which writes nothing else.
    #[allow(unsafe_code, reason = "std has no thread CPU clock")]
    let code = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(code, 0, "every supported kernel has a CPU clock for each thread");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
