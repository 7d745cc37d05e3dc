//! `wasmill retry`: submits a failed or cancelled task again.

use reqwest::Method;
use wasmill_api::TaskDoc;

use crate::client::Client;
use crate::commands::task_path;
use crate::failure::{Exit, Outcome};
use crate::output;

/// The options of `retry`.
#[derive(Debug, clap::Args)]
pub(crate) struct RetryArgs {
    /// The task's id
    id: String,
}

/// Prints the id of the new task.
pub(crate) async fn run(client: &Client, json: bool, args: &RetryArgs) -> Outcome {
    let answer = client.answer(client.request(Method::POST, &task_path(&args.id).segment("retry"))).await?;
    if json {
        output::print_json(&answer.body)?;
    } else {
        output::print_line(&answer.json::<TaskDoc>()?.id.to_string())?;
    }
    Ok(Exit::Done)
}
