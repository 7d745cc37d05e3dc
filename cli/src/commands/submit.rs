//! `wasmill submit`: tasks that nobody waits for.

mod bulk;
mod defaults;

use std::path::PathBuf;

use reqwest::Method;
use wasmill_api::{TaskDoc, Time};

use crate::client::{Client, Path};
use crate::commands::task_args::{InputArgs, Module, TaskArgs};
use crate::failure::{Exit, Outcome};
use crate::output;
use defaults::Defaults;

/// The options of `submit`.
#[derive(Debug, clap::Args)]
pub(crate) struct SubmitArgs {
    /// Digest or alias of a module, or a .wasm file that is uploaded first
    #[arg(required_unless_present = "ndjson")]
    module: Option<String>,
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    task: TaskArgs,
    #[command(flatten)]
    later: LaterArgs,
    /// Idempotency key: a task of the same key is submitted only once
    #[arg(long)]
    key: Option<String>,
    /// Submit many: a file with one task in JSON on each line; `-` reads stdin. Other options here
    /// are for all lines that do not say it themselves
    #[arg(long, value_name = "FILE", conflicts_with_all = ["InputArgs", "key"])]
    ndjson: Option<PathBuf>,
    /// Arguments of a command, after `--`
    #[arg(last = true)]
    args: Vec<String>,
}

/// When the task starts and starts again.
#[derive(Debug, clap::Args)]
struct LaterArgs {
    /// Start at the earliest after so many milliseconds
    #[arg(long, value_name = "MS", conflicts_with = "not_before", help_heading = "Time")]
    delay: Option<u64>,
    /// Start at the earliest at this time, like 2026-03-01T12:00:00Z
    #[arg(long, value_name = "TIME", help_heading = "Time")]
    not_before: Option<Time>,
    /// Fail when it could not start for so many milliseconds
    #[arg(long, value_name = "MS", help_heading = "Time")]
    expires: Option<u64>,
    /// Bound of the delay before the second attempt, in milliseconds; it doubles with each
    #[arg(long, value_name = "MS", help_heading = "Time")]
    backoff: Option<u64>,
    /// The bound that this grows to, in milliseconds
    #[arg(long, value_name = "MS", help_heading = "Time")]
    backoff_max: Option<u64>,
}

/// Prints the id of each task.
pub(crate) async fn run(client: &Client, json: bool, args: SubmitArgs) -> Outcome {
    let module = match args.module.as_deref() {
        Some(module) => Module::find(client, module).await?,
        None => Module::default(),
    };
    let input = args.input.read(client).await?;
    let mut task = args.task.task(module, input, args.args)?;
    task.delay_ms = args.later.delay;
    task.not_before = args.later.not_before;
    task.expires_ms = args.later.expires;
    task.backoff_ms = args.later.backoff;
    task.backoff_ms_max = args.later.backoff_max;
    task.idempotency_key = args.key;
    if let Some(file) = args.ndjson {
        return bulk::submit(client, json, &file, Defaults::of(&task)).await;
    }
    let answer = client.send_json(Method::POST, &Path::new("/v1/tasks"), &task).await?;
    if json {
        output::print_json(&answer.body)?;
    } else {
        output::print_line(&answer.json::<TaskDoc>()?.id.to_string())?;
    }
    Ok(Exit::Done)
}
