//! The agent between a leader and a sandbox, both played by the test, on the embedded fabric.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod blobs;
mod known;
mod lease;
mod life;
mod rivals;
mod shutdown;
mod unready;
mod world;
