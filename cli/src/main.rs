//! The `wasmill` binary: the server in one process, and the commands that talk to one over HTTP.

// Printing panics when the reader has gone away: `output` does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod args;
mod bench;
mod client;
mod commands;
mod data_dir;
mod failure;
mod interrupt;
mod output;
mod server;
mod telemetry;
mod units;

mod control;
mod host;
mod up;

use std::process::ExitCode;

use clap::Parser;

/// Requests allocate small things on one thread and free them on another: with the allocator of the
/// C library that takes a tenth of their time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match commands::dispatch(cli) {
        Ok(exit) => exit,
        Err(failure) => {
            if !failure.is_silent() {
                output::tell(&failure.to_string());
            }
            failure.exit.into()
        }
    }
}
