//! Runs seeds of the simulator until the time is over.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use wasmill_sim::marks::{ALL, Marks};
use wasmill_sim::run_seed;

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
}

/// Fewer seeds than this prove nothing about rare paths.
const SEEDS_FOR_MARKS: u64 = 200;

fn main() -> ExitCode {
    let args = Args::parse();
    let first = args.seed.unwrap_or_else(from_time_of_day);
    let begun = Instant::now();
    let mut marks = Marks::default();
    let (mut seeds, mut clusters, mut events, mut tasks, mut failures) = (0u64, 0u64, 0, 0, 0u64);
    println!("first seed {first}");
    while args.seeds.map_or(begun.elapsed() < Duration::from_secs(args.seconds), |count| seeds < count) {
        let seed = first.wrapping_add(seeds);
        match run_seed(seed, None, false) {
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
            Err(_) => return fail(seed),
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
    if seeds >= SEEDS_FOR_MARKS && !missed.is_empty() {
        println!("never reached: {missed:?}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Runs the seed once more with a trace, and prints it.
fn fail(seed: u64) -> ExitCode {
    match run_seed(seed, None, true) {
        Err(failure) => println!("{failure}\nrun it again with `--seed {seed} --seeds 1`"),
        Ok(_) => println!("seed {seed} failed once and not twice: something is not deterministic"),
    }
    ExitCode::FAILURE
}

fn from_time_of_day() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or(0)
}
