//! `wasmill cancel`: stops tasks.

use futures::StreamExt as _;
use reqwest::Method;
use wasmill_api::CancelTask;

use crate::client::Client;
use crate::commands::filter::{FilterArgs, UNFINISHED};
use crate::commands::task_path;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// Tasks that are stopped at the same time.
const AT_ONCE: usize = 16;

/// The options of `cancel`.
#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    /// The tasks' ids
    #[arg(required_unless_present = "filter", conflicts_with = "filter")]
    ids: Vec<String>,
    #[command(flatten)]
    filter: Option<FilterArgs>,
    /// Why, for people
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// How long to wait for each to stop, in milliseconds, at most 60000
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    wait_ms: u64,
}

/// Cancels each; an error at one does not keep the others running. Of those that the filter finds,
/// one that has ended meanwhile is no error.
pub(crate) async fn run(client: &Client, json: bool, args: &CancelArgs) -> Outcome {
    let ids: Vec<String> = match &args.filter {
        Some(filter) => filter.tasks(client, &UNFINISHED).await?.into_iter().map(|(id, _)| id).collect(),
        None => args.ids.clone(),
    };
    let body = CancelTask { reason: args.reason.clone() };
    let cancelled = |id: String| {
        let path = task_path(&id).segment("cancel").query("wait_ms", args.wait_ms);
        let body = &body;
        async move { (id, client.send_json(Method::POST, &path, body).await) }
    };
    let mut exit = Exit::Done;
    let mut answers = futures::stream::iter(ids.into_iter().map(cancelled)).buffered(AT_ONCE);
    while let Some((id, answer)) = answers.next().await {
        match answer {
            Ok(answer) if json => output::print_json(&answer.body)?,
            Ok(answer) if answer.status == 200 => output::print_line(&format!("{id} cancelled"))?,
            Ok(_) => output::print_line(&format!("{id} cancelling"))?,
            Err(error) if args.filter.is_some() && error.code() == Some("already_final") => {}
            Err(error) => {
                let failure = Failure::from(error);
                exit = failure.exit;
                output::tell(&failure.to_string());
            }
        }
    }
    Ok(exit)
}
