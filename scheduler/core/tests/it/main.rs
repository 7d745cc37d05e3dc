//! Tests of the core through its public interface.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]
#![allow(clippy::disallowed_methods, reason = "tests read the scenarios")]

mod asks;
mod boundary;
mod broken;
mod fairness;
mod fuzz;
mod model;
mod names;
mod owners;
mod random;
mod scenario;
mod show;
mod snapshot;
mod story;
mod world;
