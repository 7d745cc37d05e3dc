//! What a control node does with its core, as a state machine without I/O.
//!
//! [`Leading`] is one leadership: where a record is cut, which appends are under way, what waits for which record, when nothing more is
//! taken in, and how it ends. [`upkeep`] is what keeps starts short and the log small meanwhile, and
//! [`post`] the order of messages to each host. [`recorded`] is what a node knows from the log of commands whose answer was lost. It takes what happens with `step`, hands back what is to be done with `take_ready`, and says with
//! `next_timeout` when to step at the latest. The driver carries that out on a real log and a real bus; the simulator runs the same
//! machine over models of both.

#![forbid(unsafe_code)]

pub mod chain;
pub mod leading;
pub mod post;
pub mod recorded;
pub mod upkeep;

pub use chain::Chain;
pub use leading::Leading;
pub use post::Post;
pub use recorded::Recorded;
pub use upkeep::Upkeep;
