//! `wasmill bench`: measures a running system as its users meet it, over HTTP.
//!
//! Without `--server` it starts a private server on an empty data directory. The client takes part
//! of the same machine's CPU, and that is part of what is measured. Every measurement checks what
//! it measures: a task that did not succeed ends it.

mod bulk;
mod cancel;
mod fresh;
mod http;
mod latency;
mod machine;
mod module;
mod neighbours;
mod queue;
mod rate;
mod report;
mod sandbox;
mod server;

use std::path::PathBuf;

use anyhow::Result;

use crate::args::GlobalArgs;
use crate::commands::block_on;
use crate::failure::{Exit, Failure, Outcome};
use neighbours::Attack;
use report::Report;
use server::Target;

/// The options of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// Measure only these; can be repeated
    #[arg(long, value_enum, value_name = "NAME")]
    only: Vec<Measurement>,
    /// Also those that take minutes: a million queued tasks, and restarts
    #[arg(long)]
    big: bool,
    /// Where the private server keeps its data: on the disk that is to be measured
    /// [default: /var/tmp]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Tasks of the bulk submission
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    tasks: u64,
    /// Samples of each latency
    #[arg(long, value_name = "N", default_value_t = 2_000)]
    samples: u32,
    /// How long the rate of `run` is measured, and each turn of a neighbour
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    seconds: u64,
    /// Of bad neighbours, measure only these; can be repeated
    #[arg(long, value_enum, value_name = "NAME")]
    attack: Vec<Attack>,
}

/// A measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Measurement {
    /// A warm no-op in the sandbox alone, and in bare wasmtime
    Sandbox,
    /// Submit to result, one at a time
    Latency,
    /// `POST /v1/run` on 32 connections
    Rate,
    /// Bulk submission to the last recorded result
    Bulk,
    /// Cancel of a spinning task
    Cancel,
    /// First result of a fresh module
    Fresh,
    /// A million queued tasks, and a restart with them (--big)
    Queue,
    /// Restart with 100,000 unfinished tasks (--big)
    Restart,
    /// `run` of one tenant while another attacks, in thirteen ways (--big)
    Neighbours,
}

impl Measurement {
    const ALL: [Self; 9] = [
        Self::Sandbox,
        Self::Latency,
        Self::Rate,
        Self::Bulk,
        Self::Cancel,
        Self::Fresh,
        Self::Queue,
        Self::Restart,
        Self::Neighbours,
    ];

    fn needs_big(self) -> bool {
        matches!(self, Self::Queue | Self::Restart | Self::Neighbours)
    }
}

/// Measures and prints a table, or JSON.
pub(crate) fn run(global: &GlobalArgs, args: &BenchArgs) -> Outcome {
    let chosen: Vec<Measurement> = Measurement::ALL
        .into_iter()
        .filter(|one| if args.only.is_empty() { args.big || !one.needs_big() } else { args.only.contains(one) })
        .collect();
    if global.names_server() && chosen.iter().any(|one| one.needs_big()) {
        return Err(Failure::usage(
            "a million queued tasks, restarts and bad neighbours are only measured on a private server",
        )
        .hint("leave --server and WASMILL_SERVER away"));
    }
    let report = block_on(measure_all(global, args, &chosen))??;
    if global.json {
        crate::output::print_json(report.json().as_bytes())?;
    } else {
        crate::output::print_bytes(report.table().as_bytes())?;
    }
    Ok(Exit::Done)
}

async fn measure_all(global: &GlobalArgs, args: &BenchArgs, chosen: &[Measurement]) -> Result<Report, Failure> {
    let mut report = Report::new();
    for measurement in chosen {
        if crate::output::has_watcher() {
            crate::output::tell(&format!("measuring: {measurement:?}"));
        }
        measure(global, args, *measurement, &mut report).await?;
    }
    Ok(report)
}

async fn measure(global: &GlobalArgs, args: &BenchArgs, what: Measurement, report: &mut Report) -> Result<(), Failure> {
    if what == Measurement::Sandbox {
        sandbox::measure(report).await?;
        return Ok(());
    }
    if what == Measurement::Neighbours {
        return measure_neighbours(global, args, report).await;
    }
    // A server for each measurement: one must not pay for what another left behind.
    let mut target = Target::open(global, args.dir.as_deref()).await?;
    match what {
        Measurement::Sandbox | Measurement::Neighbours => {}
        Measurement::Latency => latency::measure(&target, args.samples, report).await?,
        Measurement::Rate => rate::measure(&target, args.seconds, report).await?,
        Measurement::Bulk => bulk::measure(&target, args.tasks, report).await?,
        Measurement::Cancel => cancel::measure(&target, args.samples.min(200), report).await?,
        Measurement::Fresh => fresh::measure(&target, report).await?,
        Measurement::Queue => queue::million(&mut target, report).await?,
        Measurement::Restart => queue::restart(&mut target, report).await?,
    }
    Ok(())
}

async fn measure_neighbours(global: &GlobalArgs, args: &BenchArgs, report: &mut Report) -> Result<(), Failure> {
    for attack in Attack::ALL.into_iter().filter(|one| args.attack.is_empty() || args.attack.contains(one)) {
        if crate::output::has_watcher() {
            crate::output::tell(&format!("attacking: {attack:?}"));
        }
        let open = async || Target::open(global, args.dir.as_deref()).await;
        neighbours::measure(open, attack, args.seconds, report).await?;
    }
    Ok(())
}
