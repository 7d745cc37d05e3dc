//! A simulated cluster that runs the real decisions of both cores under virtual time.
//!
//! One seed draws everything: how many hosts and clients there are, what they do, what the network, the disk and the
//! processes do wrong, and when. After every event the [`oracle`] checks the invariants on the durable log with its own,
//! deliberately simple idea of a task's life. Then the faults stop, everything is healed, and every accepted task must become final in bounded
//! time.
//!
//! The simulated shells here are as thin as the real ones, and [`plant`] breaks them, or what passes through them, on purpose: a simulator
//! that does not catch planted bugs would not catch others either.

pub mod run;
pub mod world;

pub mod options;
pub mod plant;

pub mod clients;
pub mod guest;
pub mod hosts;
pub mod leader;
pub mod log;
pub mod network;
pub mod node;
pub mod policies;
pub mod servers;
pub mod tick;

pub mod marks;
pub mod oracle;
pub mod rng;

pub use plant::Plant;
pub use run::{Failure, Report, run_seed, run_world};
