//! `cargo xtask`: everything that has to do with this repository as a whole.
//!
//! It depends on next to nothing, so that it is built within seconds on a machine that has built
//! nothing yet.

mod bench;
mod check;
mod cluster;
mod demo;
mod fuzz;
mod monitoring;
mod server;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};
use wasmill_faults::{fire, power};
use wasmill_processes::{guests, setup, shell};

/// Builds, tests and shows Wasmill.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build, start a server, run the examples on real input, and show what happened
    Demo,
    /// Start a cluster on this machine: etcd, NATS, control nodes and hosts
    Cluster(cluster::ClusterArgs),
    /// Measure a cluster on this machine, and what its failures cost
    Bench(bench::BenchArgs),
    /// Kill, pause and cut off the processes of a cluster under load, and check what clients were
    /// told
    Fire(fire::FireArgs),
    /// Take the power from a NATS server, and look for what it had acknowledged; needs root
    Power(power::PowerArgs),
    /// Run every test
    Test(test::TestArgs),
    /// Check format, lints, documentation, and licences of dependencies
    Check,
    /// Look for inputs that break what reads them
    Fuzz(fuzz::FuzzArgs),
    /// Build the example guests into target/guests
    Guests,
    /// Install what builds and tests need
    Setup,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Demo => demo::run(),
        Command::Cluster(args) => cluster::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Fire(args) => fire::run(&args),
        Command::Power(args) => power::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Check => check::run(),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Guests => {
            for guest in guests::build_all(&shell::target_dir().join("guests"))? {
                println!("{}", guest.path.display());
            }
            Ok(())
        }
        Command::Setup => setup::everything(),
    }
}
