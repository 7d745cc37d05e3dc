//! `poll_oneoff`: waiting for a clock.

use bytes::Buf;
use wasmtime::{Caller, Linker, Memory};

use super::descriptors::Stream;
use super::{Called, ERRNO_BADF, ERRNO_FAULT, ERRNO_INVAL, MODULE, Refused, errno, memory};
use crate::sandbox::guest::Guest;

const ERRNO_SUCCESS: u16 = 0;

/// Subscriptions in one `poll_oneoff`.
const SUBSCRIPTIONS_MAX: u32 = 1024;
const SUBSCRIPTION_BYTES: usize = 48;
const EVENT_BYTES: usize = 32;
/// The bytes that a stream is said to take at once.
const WRITABLE_BYTES: u64 = 64 * 1024;
/// CPU time in nanoseconds that a sleep costs its guest: what the timer and the way back take of
/// ours, measured.
const SLEEP_CPU_NS: u64 = 3_000;

/// Defines the function. wasmtime-wasi's sleeps in real time whatever the clock shows, and keeps
/// something of ours for each subscription.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "poll_oneoff",
        |mut caller: Caller<'_, Guest>, (subscriptions, events, count, written): (i32, i32, i32, i32)| {
            Box::new(async move {
                let list = (subscriptions as u32, events as u32, count as u32, written as u32);
                errno(poll_oneoff(&mut caller, list).await)
            })
        },
    )?;
    Ok(())
}

/// An event that a guest waits for.
struct Subscription {
    userdata: u64,
    wanted: Wanted,
}

#[derive(Clone, Copy)]
enum Wanted {
    /// A time of the guest's clock.
    Time {
        deadline_ns: u64,
    },
    Readable {
        fd: u32,
    },
    Writable {
        fd: u32,
    },
}

const TAG_CLOCK: u8 = 0;
const TAG_READ: u8 = 1;
const TAG_WRITE: u8 = 2;
const CLOCK_REALTIME: u32 = 0;
const CLOCK_MONOTONIC: u32 = 1;
const FLAG_ABSOLUTE: u16 = 1;

/// Waits until the first of the subscriptions is there, and writes an event for each that is.
async fn poll_oneoff(
    caller: &mut Caller<'_, Guest>,
    (subscriptions, events, count, written): (u32, u32, u32, u32),
) -> Called {
    if count == 0 || count > SUBSCRIPTIONS_MAX {
        return Err(Refused::Errno(ERRNO_INVAL));
    }
    let memory = memory(caller).map_err(Refused::Trap)?;
    let subscriptions = read_subscriptions(caller, &memory, subscriptions, count)?;
    let earliest = subscriptions.iter().filter_map(Subscription::deadline_ns).min();
    let has_stream = subscriptions.iter().any(|subscription| subscription.deadline_ns().is_none());
    let clock = caller.data().clock.clone();
    // Streams are always ready: with one among them there is nothing to wait for.
    let now_ns = match earliest {
        Some(deadline_ns) if !has_stream => {
            caller.data().control.charge(SLEEP_CPU_NS);
            clock.sleep_until(deadline_ns).await;
            clock.now_ns().max(deadline_ns)
        }
        _ => clock.now_ns(),
    };
    let mut happened: Vec<u8> = Vec::new();
    for subscription in &subscriptions {
        subscription.write_event(caller.data(), now_ns, &mut happened);
    }
    let number = (happened.len() / EVENT_BYTES) as u32;
    memory.write(&mut *caller, events as usize, &happened).map_err(|_| Refused::Errno(ERRNO_FAULT))?;
    memory.write(&mut *caller, written as usize, &number.to_le_bytes()).map_err(|_| Refused::Errno(ERRNO_FAULT))
}

fn read_subscriptions(
    caller: &Caller<'_, Guest>,
    memory: &Memory,
    start: u32,
    count: u32,
) -> Result<Vec<Subscription>, Refused> {
    let start = start as usize;
    let bytes = memory
        .data(caller)
        .get(start..start + count as usize * SUBSCRIPTION_BYTES)
        .ok_or(Refused::Errno(ERRNO_FAULT))?;
    bytes.chunks_exact(SUBSCRIPTION_BYTES).map(|bytes| Subscription::read(bytes, caller.data())).collect()
}

impl Subscription {
    /// `bytes` is one `subscription` in the layout of `wasi_snapshot_preview1.witx`.
    fn read(bytes: &[u8], guest: &Guest) -> Result<Self, Refused> {
        let userdata = (&bytes[0..]).get_u64_le();
        let wanted = match bytes[8] {
            TAG_CLOCK => {
                let (id, timeout) = ((&bytes[16..]).get_u32_le(), (&bytes[24..]).get_u64_le());
                let absolute = (&bytes[40..]).get_u16_le() & FLAG_ABSOLUTE != 0;
                let now_ns = guest.clock.now_ns();
                let deadline_ns = match (id, absolute) {
                    (CLOCK_REALTIME | CLOCK_MONOTONIC, false) => now_ns.saturating_add(timeout),
                    (CLOCK_MONOTONIC, true) => timeout,
                    (CLOCK_REALTIME, true) => {
                        let wall_ns = u64::try_from(guest.clock.wall().as_nanos()).unwrap_or(u64::MAX);
                        now_ns.saturating_add(timeout.saturating_sub(wall_ns))
                    }
                    _ => return Err(Refused::Errno(ERRNO_INVAL)),
                };
                Wanted::Time { deadline_ns }
            }
            TAG_READ => Wanted::Readable { fd: (&bytes[16..]).get_u32_le() },
            TAG_WRITE => Wanted::Writable { fd: (&bytes[16..]).get_u32_le() },
            _ => return Err(Refused::Errno(ERRNO_INVAL)),
        };
        Ok(Self { userdata, wanted })
    }

    fn deadline_ns(&self) -> Option<u64> {
        match self.wanted {
            Wanted::Time { deadline_ns } => Some(deadline_ns),
            Wanted::Readable { .. } | Wanted::Writable { .. } => None,
        }
    }

    /// Adds an `event` in the layout of `wasi_snapshot_preview1.witx`, if it happened. A stream is
    /// always ready.
    fn write_event(&self, guest: &Guest, now_ns: u64, events: &mut Vec<u8>) {
        let stream = |fd| guest.descriptors.get(fd);
        let (tag, errno, bytes) = match self.wanted {
            Wanted::Time { deadline_ns } if deadline_ns > now_ns => return,
            Wanted::Time { .. } => (TAG_CLOCK, ERRNO_SUCCESS, 0),
            Wanted::Readable { fd } if stream(fd) == Some(Stream::Stdin) => {
                (TAG_READ, ERRNO_SUCCESS, guest.stdin.bytes_left() as u64)
            }
            Wanted::Readable { .. } => (TAG_READ, ERRNO_BADF, 0),
            Wanted::Writable { fd } if matches!(stream(fd), Some(Stream::Stdout | Stream::Stderr)) => {
                (TAG_WRITE, ERRNO_SUCCESS, WRITABLE_BYTES)
            }
            Wanted::Writable { .. } => (TAG_WRITE, ERRNO_BADF, 0),
        };
        let mut event = [0; EVENT_BYTES];
        event[0..8].copy_from_slice(&self.userdata.to_le_bytes());
        event[8..10].copy_from_slice(&errno.to_le_bytes());
        event[10] = tag;
        event[16..24].copy_from_slice(&bytes.to_le_bytes());
        events.extend(event);
    }
}
