//! The agent between a leader and a sandbox, both played by the test, on the embedded fabric.

mod blobs;
mod lease;
mod life;
mod shutdown;
mod world;
