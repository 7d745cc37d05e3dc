//! Runs one seed: faults, healing, and the proof that everything ends.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};

use crate::marks::Marks;
use crate::options::Options;
use crate::oracle::Violation;
use crate::plant::Plant;
use crate::world::World;

/// After healing, everything must be final within this many virtual microseconds.
pub const LIVENESS_US: u64 = 600_000_000;
/// A seed with more events than this runs in circles.
const EVENTS_MAX: u64 = 5_000_000;

/// A seed that went well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What was reached.
    pub marks: Marks,
    /// How many things happened.
    pub events: u64,
    /// How many tasks clients were promised.
    pub tasks: usize,
    /// Whether there were several control nodes.
    pub clustered: bool,
    /// Names the course of events: the same for every run of the seed.
    pub trace_hash: u64,
}

/// A seed that did not.
#[derive(Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// What does not hold.
    pub violation: Violation,
    /// What the cluster was like.
    pub options: Options,
    /// The last things that happened, when traced.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} fails: {}", self.seed, self.violation.0)?;
        writeln!(f, "{:#?}", self.options)?;
        self.trace.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// Of so many seeds one is a single machine, the others are clusters.
const SINGLE_OF: u64 = 4;

/// Runs one seed, of a single machine or of several control nodes as the seed decides.
///
/// # Errors
///
/// As [`run_world`].
pub fn run_seed(seed: u64, plant: Option<Plant>, traced: bool) -> Result<Report, Box<Failure>> {
    run_world(seed, !seed.is_multiple_of(SINGLE_OF), plant, traced)
}

/// Runs one seed.
///
/// # Errors
///
/// When an invariant does not hold, or a task is not final in time after healing.
pub fn run_world(seed: u64, clustered: bool, plant: Option<Plant>, traced: bool) -> Result<Report, Box<Failure>> {
    let mut world = World::new(seed, clustered, plant, traced);
    // What a core asserts is an invariant like any other.
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| run(&mut world))).unwrap_or_else(|cause| {
        let said = cause.downcast_ref::<String>().map(String::as_str).or(cause.downcast_ref::<&str>().copied());
        Err(Violation(format!("panicked: {}", said.unwrap_or("without a word"))))
    });
    match outcome {
        Ok(()) => Ok(Report {
            events: world.happened(),
            tasks: world.oracle.promised_count(),
            trace_hash: world.trace_hash(),
            clustered,
            marks: world.marks,
        }),
        Err(violation) => {
            Err(Box::new(Failure { seed, violation, options: world.options.clone(), trace: world.trace() }))
        }
    }
}

fn run(world: &mut World) -> Result<(), Violation> {
    let mut healed_us = None;
    loop {
        world.step()?;
        if !world.healed {
            continue;
        }
        let healed_us = *healed_us.get_or_insert(world.elapsed_us());
        if world.is_wrecked(healed_us) {
            return world.check_wreck();
        }
        if world.is_done() && !world.oracle.disaster {
            return Ok(());
        }
        if world.elapsed_us() > healed_us + LIVENESS_US || world.happened() > EVENTS_MAX {
            return Err(Violation(world.stuck()));
        }
    }
}
