//! `wasmill get`: all that is known of a task.

use wasmill_api::{TaskDoc, UsageDoc};

use crate::client::Client;
use crate::commands::task_path;
use crate::failure::{Exit, Failure, Outcome};
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
    print(answer.json()?)?;
    Ok(Exit::Done)
}

fn print(task: TaskDoc) -> Result<(), Failure> {
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        let text = map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
        Some(text).filter(|text| !text.is_empty())
    };
    let progress = task.progress.as_ref();
    let outcome = task.outcome.as_ref();
    let said = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    output::print_fields(&[
        ("id", Some(task.id.to_string())),
        ("name", task.name),
        ("tenant", Some(task.tenant.to_string())),
        ("module", Some(task.module.to_string())),
        ("labels", pairs(&task.labels)),
        ("requires", pairs(&task.require)),
        ("state", Some(task.state.as_str().to_owned())),
        ("reason", task.reason),
        ("cancelled for", task.cancel_reason),
        ("waiting for", task.waiting_for),
        ("attempt", Some(describe_attempt(task.attempt.0, task.attempts_max))),
        ("host", task.host.map(|host| host.to_string())),
        ("priority", Some(task.priority.to_string()).filter(|_| task.priority != 0)),
        ("progress", progress.map(|progress| format!("{}/{} {}", progress.done, progress.total, progress.message))),
        ("outcome", outcome.map(|outcome| outcome.kind.as_str().to_owned())),
        ("trap", outcome.and_then(|outcome| outcome.trap).map(|trap| trap.as_str().to_owned())),
        ("message", outcome.and_then(|outcome| said(&outcome.message))),
        ("exit code", outcome.and_then(|outcome| outcome.exit_code).map(|code| code.to_string())),
        ("backtrace", outcome.and_then(|outcome| said(&outcome.backtrace.as_ref()?.join(" < ")))),
        ("usage", task.usage.as_ref().map(|usage| describe_usage(usage, task.cached))),
        ("retry of", task.retry_of.map(|id| id.to_string())),
        ("created", Some(task.created_at.to_string())),
        ("started", task.started_at.map(|time| time.to_string())),
        ("finished", task.finished_at.map(|time| time.to_string())),
    ])
}

/// Which attempt it is, of how many. Only failures of its own count towards the most that there
/// are: a task that was handed back can be at a higher number.
fn describe_attempt(attempt: u32, attempts_max: u32) -> String {
    if attempt <= attempts_max {
        return format!("{attempt} of {attempts_max}");
    }
    format!("{attempt}; of at most {attempts_max} that count, attempts that were lost or handed back do not")
}

/// One line for people.
fn describe_usage(usage: &UsageDoc, cached: bool) -> String {
    let fuel = usage.fuel.map(|fuel| format!(", fuel {fuel}")).unwrap_or_default();
    let compiled =
        if usage.compile_us > 0 { format!(", compiled in {}", show_us(usage.compile_us)) } else { String::new() };
    let ran = if cached { "known from an earlier run that took" } else { "ran" };
    format!(
        "queued {}{compiled}, {ran} {}, CPU {}{fuel}, memory {}, in {}, out {}",
        show_us(usage.queue_us),
        show_us(usage.run_us),
        show_us(usage.cpu_us),
        show_bytes(usage.memory_peak_bytes),
        show_bytes(usage.input_bytes),
        show_bytes(usage.output_bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_that_was_handed_back_is_no_more_than_there_may_be() {
        assert_eq!(describe_attempt(0, 3), "0 of 3");
        assert_eq!(describe_attempt(3, 3), "3 of 3");
        assert!(describe_attempt(2, 1).starts_with("2; of at most 1 that count"));
    }
}
