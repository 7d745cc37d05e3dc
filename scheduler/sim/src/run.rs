//! Runs one seed: faults, healing, and the proof that everything ends.

use std::fmt;

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

/// Runs one seed.
///
/// # Errors
///
/// When an invariant does not hold, or a task is not final in time after healing.
pub fn run_seed(seed: u64, plant: Option<Plant>, traced: bool) -> Result<Report, Box<Failure>> {
    let mut world = World::new(seed, plant, traced);
    match run(&mut world) {
        Ok(()) => Ok(Report {
            events: world.happened(),
            tasks: world.oracle.promised_count(),
            trace_hash: world.trace_hash(),
            marks: world.marks,
        }),
        Err(violation) => {
            Err(Box::new(Failure { seed, violation, options: world.options.clone(), trace: world.trace() }))
        }
    }
}

fn run(world: &mut World) -> Result<(), Violation> {
    let mut deadline = None;
    loop {
        world.step()?;
        if !world.healed {
            continue;
        }
        let deadline = *deadline.get_or_insert(world.elapsed_us() + LIVENESS_US);
        if world.is_done() {
            return Ok(());
        }
        if world.elapsed_us() > deadline || world.happened() > EVENTS_MAX {
            return Err(Violation(world.stuck()));
        }
    }
}
