//! The processes that tasks of this repository start: programs and their output, the tools that are
//! installed for them, the example guests, and a fleet of servers, control nodes and hosts in
//! namespaces of its own.

pub mod fleet;
pub mod guests;
pub mod http;
pub mod member;
pub mod namespaces;
pub mod setup;
pub mod shell;
