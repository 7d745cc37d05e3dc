//! Messages stay readable between neighbouring versions, and is never the reader's end.
#![allow(clippy::unwrap_used, reason = "a test that unwraps fails and says where and why")]

mod fuzz;
#[path = "../shared/neighbour.rs"]
mod neighbour;
mod versions;
