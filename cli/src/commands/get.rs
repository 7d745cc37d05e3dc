//! `wasmill get`: all that is known of a task.

use crate::client::Client;
use crate::client::wire::{Task, Usage};
use crate::commands::task_path;
use crate::failure::{Exit, Outcome};
use crate::output;
use crate::units::{show_bytes, show_us};

/// The options of `get`.
#[derive(Debug, clap::Args)]
pub(crate) struct GetArgs {
    /// The task's id
    id: String,
    /// Write its result to stdout, and nothing else
    #[arg(long)]
    output: bool,
}

/// Prints the task, or its result.
pub(crate) async fn run(client: &Client, json: bool, args: &GetArgs) -> Outcome {
    if args.output {
        output::print_bytes(&client.get(&task_path(&args.id).segment("output")).await?.body)?;
        return Ok(Exit::Done);
    }
    let answer = client.get(&task_path(&args.id)).await?;
    if json {
        output::print_json(&answer.body)?;
        return Ok(Exit::Done);
    }
    let task: Task = answer.json()?;
    let labels = task.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
    let outcome = task.outcome.clone().unwrap_or_default();
    let progress = task.progress.as_ref().map(|progress| {
        let message = progress.message.as_deref().unwrap_or_default();
        format!("{}/{} {message}", progress.done, progress.total).trim_end().to_owned()
    });
    let attempts = match task.attempts_max {
        Some(max) => format!("{} of {max}", task.attempt),
        None => task.attempt.to_string(),
    };
    output::print_fields(&[
        ("id", Some(task.id)),
        ("name", task.name),
        ("tenant", Some(task.tenant)),
        ("module", Some(task.module)),
        ("labels", Some(labels).filter(|labels| !labels.is_empty())),
        ("state", Some(task.state.as_str().to_owned())),
        ("waiting for", task.waiting_for),
        ("attempt", Some(attempts)),
        ("host", task.host),
        ("priority", Some(task.priority.to_string()).filter(|_| task.priority != 0)),
        ("progress", progress),
        ("outcome", Some(outcome.kind).filter(|kind| !kind.is_empty())),
        ("message", outcome.message.filter(|message| !message.is_empty())),
        ("exit code", outcome.exit_code.map(|code| code.to_string())),
        ("backtrace", outcome.backtrace.filter(|frames| !frames.is_empty()).map(|frames| frames.join(" < "))),
        ("usage", task.usage.as_ref().map(describe_usage)),
        ("retry of", task.retry_of),
        ("created", Some(task.created_at)),
        ("started", task.started_at),
        ("finished", task.finished_at),
    ])?;
    Ok(Exit::Done)
}

/// One line for people.
pub(crate) fn describe_usage(usage: &Usage) -> String {
    let fuel = usage.fuel.map(|fuel| format!(", fuel {fuel}")).unwrap_or_default();
    format!(
        "queued {}, ran {}, CPU {}{fuel}, memory {}, in {}, out {}",
        show_us(usage.queue_us),
        show_us(usage.run_us),
        show_us(usage.cpu_us),
        show_bytes(usage.memory_peak_bytes),
        show_bytes(usage.input_bytes),
        show_bytes(usage.output_bytes),
    )
}
