//! The decisions of the clustered fabric, as state machines without I/O.
//!
//! [`append`] decides when a record of the log is durable, refused or given up, on a server that
//! answers late, twice or not at all. [`lease`] decides how long a lease can be counted on, and
//! [`candidacy`] when a node leads. Each takes what happens with `step`, hands back what is to be
//! done with `take_ready`, and says with `next_timeout_us` when to step at the latest. Time is
//! handed in, in microseconds of a clock that never goes back and does not stop while the machine
//! sleeps.
//!
//! Deliberately absent: everything that names a server. The same machines run over models
//! of the servers in the simulator.

#![forbid(unsafe_code)]

pub mod append;
pub mod candidacy;
pub mod lease;

mod retry;
