//! A host: runs attempts in the sandbox, and says how they ended.
//!
//! The agent (`agent`) talks to the leader and holds the credentials; the sandbox (`sandbox`) runs
//! guests. Between them is the narrow interface of [`channel`] and nothing else.

pub mod agent;
pub mod bench;
pub mod channel;
pub mod compile;
pub mod engine;
mod error_chain;
mod lru;
pub mod metrics;
pub mod replay;
pub mod sandbox;
mod slots;
mod trace;
