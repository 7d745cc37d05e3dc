//! One suite per trait, run against every implementation, and what only one implementation promises.

mod blobs;
mod bus;
mod conformance;
mod embedded;
mod log;
mod membership;
