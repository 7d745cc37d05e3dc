//! The clocks that guests see.
//!
//! Ordinary attempts see real time. Deterministic ones see a virtual clock that stands still while
//! the guest computes and jumps to the end of a sleep when the guest sleeps: programs that wait for
//! time to pass work, at once, and every run reads the same times.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use wasmtime::component::{HasData, Resource, ResourceTable};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

/// The wall clock of a deterministic attempt when it starts, in seconds since 1970: the first of
/// January 2020.
pub const DETERMINISTIC_EPOCH_SECONDS: u64 = 1_577_836_800;

/// A guest's clock: nanoseconds since the attempt started. Clones are the same clock.
#[derive(Debug, Clone)]
pub(super) enum Clock {
    Real(Instant),
    Virtual(Arc<Mutex<Virtual>>),
}

/// A clock that only moves when everybody sleeps.
#[derive(Debug, Default)]
pub(super) struct Virtual {
    now_ns: u64,
    /// Sleepers by the time they wake at.
    sleepers: BTreeMap<u64, u32>,
}

impl Clock {
    pub(super) fn real() -> Self {
        Self::Real(Instant::now())
    }

    pub(super) fn frozen() -> Self {
        Self::Virtual(Arc::default())
    }

    /// Nanoseconds since the start.
    pub(super) fn now_ns(&self) -> u64 {
        match self {
            Self::Real(start) => u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
            Self::Virtual(clock) => lock(clock).now_ns,
        }
    }

    /// Time since 1970.
    pub(super) fn wall(&self) -> Duration {
        match self {
            Self::Real(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            Self::Virtual(clock) => {
                Duration::from_secs(DETERMINISTIC_EPOCH_SECONDS) + Duration::from_nanos(lock(clock).now_ns)
            }
        }
    }

    /// Waits until the clock shows `deadline_ns`; can be dropped at any time. Gives way to others
    /// at least once.
    pub(super) async fn sleep_until(&self, deadline_ns: u64) {
        match self {
            Self::Real(start) => match start.checked_add(Duration::from_nanos(deadline_ns)) {
                Some(deadline) if deadline > Instant::now() => tokio::time::sleep_until(deadline.into()).await,
                Some(_) => tokio::task::yield_now().await,
                None => std::future::pending().await,
            },
            Self::Virtual(clock) => {
                let sleeper = Sleeper::new(clock, deadline_ns);
                // Everything else that the guest waits for is asked once before time moves.
                tokio::task::yield_now().await;
                while !sleeper.wake() {
                    tokio::task::yield_now().await;
                }
            }
        }
    }
}

fn lock(clock: &Mutex<Virtual>) -> MutexGuard<'_, Virtual> {
    clock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody who waits on a virtual clock, for as long as this lives.
struct Sleeper<'a> {
    clock: &'a Mutex<Virtual>,
    deadline_ns: u64,
}

impl<'a> Sleeper<'a> {
    fn new(clock: &'a Mutex<Virtual>, deadline_ns: u64) -> Self {
        *lock(clock).sleepers.entry(deadline_ns).or_default() += 1;
        Self { clock, deadline_ns }
    }

    /// Whether it is time. The earliest sleeper moves the clock; the others see later whether that
    /// was far enough.
    fn wake(&self) -> bool {
        let mut clock = lock(self.clock);
        if clock.sleepers.first_key_value().is_some_and(|(earliest, _)| *earliest == self.deadline_ns) {
            clock.now_ns = clock.now_ns.max(self.deadline_ns);
        }
        clock.now_ns >= self.deadline_ns
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        let mut clock = lock(self.clock);
        if let Some(count) = clock.sleepers.get_mut(&self.deadline_ns) {
            *count -= 1;
            if *count == 0 {
                clock.sleepers.remove(&self.deadline_ns);
            }
        }
    }
}

impl HostMonotonicClock for Clock {
    fn resolution(&self) -> u64 {
        1
    }

    fn now(&self) -> u64 {
        self.now_ns()
    }
}

impl HostWallClock for Clock {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(1)
    }

    fn now(&self) -> Duration {
        self.wall()
    }
}

/// `wasi:clocks/monotonic-clock` on a [`Clock`]: wasmtime-wasi's own sleeps in real time whatever
/// the clock shows.
pub(super) struct MonotonicClock;

impl HasData for MonotonicClock {
    type Data<'a> = MonotonicClockView<'a>;
}

/// The parts that the functions of the interface need.
pub(super) struct MonotonicClockView<'a> {
    pub(super) clock: Clock,
    pub(super) table: &'a mut ResourceTable,
}

impl MonotonicClockView<'_> {
    fn timer(&mut self, deadline_ns: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let timer = self.table.push(Timer { clock: self.clock.clone(), deadline_ns })?;
        subscribe(self.table, timer)
    }
}

impl monotonic_clock::Host for MonotonicClockView<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(self.clock.now_ns())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(1)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.timer(when)
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let deadline_ns = self.clock.now_ns().saturating_add(duration);
        self.timer(deadline_ns)
    }
}

/// A pollable that is ready from a time on.
struct Timer {
    clock: Clock,
    deadline_ns: u64,
}

#[async_trait]
impl Pollable for Timer {
    async fn ready(&mut self) {
        // Over already: ready at once, else asking whether it is ready would never find it so.
        if self.clock.now_ns() < self.deadline_ns {
            self.clock.sleep_until(self.deadline_ns).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_virtual_clock_jumps_to_the_earliest_sleeper() {
        let clock = Clock::frozen();
        let (long, short) = (clock.sleep_until(2_000_000_000), clock.sleep_until(1_000_000_000));
        tokio::select! {
            () = long => panic!("the longer sleep ended first"),
            () = short => {}
        }
        assert_eq!(clock.now_ns(), 1_000_000_000);
        clock.sleep_until(5).await;
        assert_eq!(clock.now_ns(), 1_000_000_000);
        assert_eq!(clock.wall(), Duration::from_secs(DETERMINISTIC_EPOCH_SECONDS + 1));
    }

    #[tokio::test]
    async fn a_sleep_that_is_dropped_moves_nothing() {
        let clock = Clock::frozen();
        tokio::select! {
            biased;
            () = clock.sleep_until(7) => panic!("it did not give way"),
            () = std::future::ready(()) => {}
        }
        assert_eq!(clock.now_ns(), 0);
        let Clock::Virtual(inner) = &clock else { unreachable!() };
        assert!(lock(inner).sleepers.is_empty());
    }
}
