//! Runs seeds of the simulator until the time is over.

use std::panic;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use wasmill_sim::marks::{ALL, Marks};
use wasmill_sim::{Failure, Plant, Report, run_seed, run_world};

/// Simulates clusters with faults and checks that every promise holds.
#[derive(Parser)]
struct Args {
    /// How long to go on.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The first seed; drawn from the time of day when absent.
    #[arg(long)]
    seed: Option<u64>,
    /// Runs only this many seeds, however long that takes.
    #[arg(long)]
    seeds: Option<u64>,
    /// Goes on after a seed that fails, and prints one line for each.
    #[arg(long)]
    keep_going: bool,
    /// Only single machines or only clusters; three in four seeds are clusters when absent.
    #[arg(long)]
    kind: Option<Kind>,
    /// Plants a bug, by its name in the code.
    #[arg(long)]
    plant: Option<String>,
}

/// What is simulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// One process on one disk.
    Single,
    /// Several control nodes.
    Cluster,
}

impl Args {
    fn run(&self, seed: u64, plant: Option<Plant>, traced: bool) -> Result<Report, Box<Failure>> {
        match self.kind {
            None => run_seed(seed, plant, traced),
            Some(kind) => run_world(seed, kind == Kind::Cluster, plant, traced),
        }
    }

    fn plant(&self) -> Result<Option<Plant>, String> {
        let Some(name) = &self.plant else { return Ok(None) };
        let mut plants = Plant::ALL.into_iter().chain(Plant::OF_CLUSTERS);
        let found = plants.find(|plant| format!("{plant:?}") == *name);
        found.map(Some).ok_or_else(|| format!("there is no planted bug `{name}`; see scheduler/sim/src/plant.rs"))
    }
}

/// Fewer seeds than this prove nothing about rare paths.
const SEEDS_FOR_MARKS: u64 = 1_500;

fn main() -> ExitCode {
    let args = Args::parse();
    let plant = match args.plant() {
        Ok(plant) => plant,
        Err(unknown) => {
            println!("{unknown}");
            return ExitCode::FAILURE;
        }
    };
    // What cores assert of a log that a disaster has damaged is caught, and halts their nodes: nothing to tell.
    panic::set_hook(Box::new(|_| {}));
    let first = args.seed.unwrap_or_else(from_time_of_day);
    let begun = Instant::now();
    let mut marks = Marks::default();
    let (mut seeds, mut clusters, mut events, mut tasks, mut failures) = (0u64, 0u64, 0, 0, 0u64);
    println!("first seed {first}");
    while args.seeds.map_or(begun.elapsed() < Duration::from_secs(args.seconds), |count| seeds < count) {
        let seed = first.wrapping_add(seeds);
        match args.run(seed, plant, false) {
            Ok(report) => {
                marks.add(&report.marks);
                events += report.events;
                tasks += report.tasks;
                clusters += u64::from(report.clustered);
            }
            Err(failure) if args.keep_going => {
                failures += 1;
                println!("seed {seed} fails: {}", failure.violation.0);
            }
            Err(_) => return fail(&args, plant, seed),
        }
        seeds += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{seeds} seeds ({clusters} clusters), {tasks} tasks, {events} events in {seconds:.1} s: {:.0} seeds/s",
        seeds as f64 / seconds
    );
    for mark in ALL {
        println!("{:>10} {mark:?}", marks.count(mark));
    }
    if failures > 0 {
        println!("{failures} seeds failed");
        return ExitCode::FAILURE;
    }
    let missed = marks.missed();
    if seeds >= SEEDS_FOR_MARKS && args.kind.is_none() && !missed.is_empty() {
        println!("never reached: {missed:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Runs the seed once more with a trace, and prints it, and where something panics.
fn fail(args: &Args, plant: Option<Plant>, seed: u64) -> ExitCode {
    drop(panic::take_hook());
    match args.run(seed, plant, true) {
        Err(failure) => println!("{failure}\nrun it again with `--seed {seed} --seeds 1`"),
        Ok(_) => println!("seed {seed} failed once and not twice: something is not deterministic"),
    }
    ExitCode::FAILURE
}

fn from_time_of_day() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or(0)
}
