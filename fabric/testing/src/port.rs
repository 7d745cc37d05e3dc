//! Free ports.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{LazyLock, Mutex, PoisonError};

/// Below what Linux hands out to clients: a connection of somebody else must not take a port between the probe and the start of the server.
const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// Ports that were given out by this process; a server that is restarted wants its own again.
static TAKEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A port on loopback that nobody listens on and that this process has not given out before.
pub(crate) fn free() -> u16 {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Test programs that run at the same time begin at different places.
    let start = std::process::id().wrapping_mul(7919) % u32::from(COUNT);
    for offset in 0..u32::from(COUNT) {
        let port = FIRST + u16::try_from((start + offset) % u32::from(COUNT)).expect("is below COUNT");
        if !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.insert(port);
            return port;
        }
    }
    panic!("no port from {FIRST} to {} is free", FIRST + COUNT - 1);
}
