//! `wasmill cancel`: stops tasks.

use reqwest::Method;
use wasmill_protocol::api::CancelTask;

use crate::client::Client;
use crate::commands::task_path;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// The options of `cancel`.
#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    /// The tasks' ids
    #[arg(required = true)]
    ids: Vec<String>,
    /// Why, for people
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// How long to wait for each to stop, in milliseconds, at most 60000
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    wait_ms: u64,
}

/// Cancels each; an error at one does not keep the others running.
pub(crate) async fn run(client: &Client, json: bool, args: &CancelArgs) -> Outcome {
    let mut exit = Exit::Done;
    for id in &args.ids {
        let path = task_path(id).segment("cancel").query("wait_ms", args.wait_ms);
        let body = CancelTask { reason: args.reason.clone() };
        match client.send_json(Method::POST, &path, &body).await {
            Ok(answer) if json => output::print_json(&answer.body)?,
            Ok(answer) if answer.status == 200 => output::print_line(&format!("{id} cancelled"))?,
            Ok(_) => output::print_line(&format!("{id} cancelling"))?,
            Err(error) => {
                let failure = Failure::from(error);
                exit = failure.exit;
                eprintln!("{failure}");
            }
        }
    }
    Ok(exit)
}
