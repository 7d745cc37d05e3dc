//! The read model, fed with records as the driver would.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod checkpoints;
mod copy;
mod erasure;
mod lifecycle;
mod listing;
mod reference;
mod restart;
mod stored;
mod support;
