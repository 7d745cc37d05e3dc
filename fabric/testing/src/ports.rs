//! Ports that are free.

use std::net::{Ipv4Addr, TcpListener};
use std::process;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which the kernel draws ports for outgoing connections: nobody takes one by
/// accident.
const FIRST: u16 = 11_000;
/// How many there are.
const COUNT: u16 = 20_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A port of the loopback that nobody listens on, and that this process has not been given before.
pub fn free_port() -> u16 {
    // Processes that run at the same time begin at different places.
    let begin = process::id().wrapping_mul(7_919) % u32::from(COUNT);
    let begin = u16::try_from(begin).expect("a remainder is below what was divided by");
    for _ in 0..COUNT {
        let offset = (u32::from(begin) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(COUNT);
        let port = FIRST + u16::try_from(offset).expect("a remainder is below what was divided by");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no port of 127.0.0.1 from {FIRST} on is free");
}
