//! What a control node does with its core, as state machines without I/O.
//!
//! [`Leading`] is one leadership: where a record is cut, which appends are under way, what waits
//! for which record, when nothing more is taken in, and how it ends. [`upkeep`] is what keeps
//! starts short and the log small meanwhile, and [`post`] the order of messages to each host.
//! [`Following`] is a node that does not lead: when it stands for election, and what it makes sure
//! of before it leads. [`watch`] says when silence is more than that, and [`sweep`] what is removed
//! that nobody needs any more. [`forward`] is what becomes of commands that reach a node that does
//! not lead, [`heard`] what a leader has heard of those, and [`recorded`] what the log says of
//! them. A machine takes what happens, hands back what is to be done, and says when to step it at
//! the latest. The driver carries that out on a real log and a real bus; the simulator runs the
//! same machines over models of both.

#![forbid(unsafe_code)]

pub mod chain;
pub mod command_bytes;
pub mod following;
pub mod forward;
pub mod heard;
pub mod leading;
pub mod post;
pub mod recorded;
pub mod sweep;
pub mod upkeep;
pub mod watch;

pub use chain::Chain;
pub use following::Following;
pub use forward::Forwards;
pub use heard::Heard;
pub use leading::Leading;
pub use post::Post;
pub use recorded::Recorded;
pub use sweep::Sweep;
pub use upkeep::Upkeep;
