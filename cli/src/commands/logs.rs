//! `wasmill logs`: what a task wrote.

use crate::client::Client;
use crate::commands::task_path;
use crate::failure::{Exit, Outcome};
use crate::output;

/// The options of `logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// The task's id
    id: String,
}

/// Prints the captured stdout and stderr as they are.
pub(crate) async fn run(client: &Client, args: &LogsArgs) -> Outcome {
    output::print_bytes(&client.get(&task_path(&args.id).segment("logs")).await?.body)?;
    Ok(Exit::Done)
}
