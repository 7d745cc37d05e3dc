//! `wasmill run`: one task from submission to its result on stdout.

use std::path::Path as FilePath;
use std::time::Duration;

use reqwest::Method;
use wasmill_api::{CancelTask, TaskDoc};
use wasmill_protocol::{TaskId, TaskState};

use crate::client::{Answer, Client, ClientError, Path};
use crate::commands::task_args::{InputArgs, Module, TaskArgs};
use crate::commands::{describe, push, task_path, wait};
use crate::failure::{Exit, Failure, Outcome};
use crate::interrupt::Interrupts;
use crate::output;

mod progress;

/// How long a cancelled task may take to stop before we no longer wait for it.
const CANCEL_WAIT_MS: u64 = 5_000;
/// The same, for a server that does not answer at all.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one request waits when nobody watches.
const POLL_MS: u64 = 25_000;
/// How long one request waits while a progress bar is shown.
const POLL_WATCHED_MS: u64 = 250;

/// The options of `run`.
#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Digest or alias of a module, or a .wasm file that is uploaded first
    module: String,
    #[command(flatten)]
    input: InputArgs,
    #[command(flatten)]
    task: TaskArgs,
    /// Arguments of a command, after `--`
    #[arg(last = true)]
    args: Vec<String>,
}

/// Submits, waits, prints. Ctrl-C cancels the task; a second one gives up on that too.
pub(crate) async fn run(client: &Client, json: bool, mut args: RunArgs) -> Outcome {
    let mut interrupts = Interrupts::listen()?;
    // A user who watches sees each failure at once and decides by himself.
    args.task.attempts.get_or_insert(1);
    let task = tokio::select! {
        task = submit(client, args) => task?,
        () = interrupts.next() => return Ok(Exit::Interrupted),
    };
    tokio::select! {
        outcome = finish(client, json, task.id) => outcome,
        () = interrupts.next() => {
            output::tell(&format!("cancelling task {}; press Ctrl-C again to leave it", task.id));
            tokio::select! {
                () = cancel(client, task.id) => {}
                () = interrupts.next() => output::tell(&format!("left task {}: stop it with `wasmill cancel`", task.id)),
            }
            Ok(Exit::Interrupted)
        }
    }
}

async fn submit(client: &Client, args: RunArgs) -> Result<TaskDoc, Failure> {
    let named_file = push::is_file_name(&args.module);
    let module = Module::find(client, &args.module).await?;
    let input = args.input.read(client).await?;
    let task = args.task.task(module, input, args.args)?;
    match client.send_json(Method::POST, &Path::new("/v1/tasks"), &task).await {
        Ok(answer) => Ok(answer.json()?),
        Err(error) if !named_file && FilePath::new(&args.module).is_file() => {
            Err(Failure::from(error).hint(format!("to run the file, write `wasmill run ./{}`", args.module)))
        }
        Err(error) => Err(error.into()),
    }
}

async fn finish(client: &Client, json: bool, id: TaskId) -> Outcome {
    let mut progress = output::has_watcher().then(progress::Progress::new);
    let poll_ms = if progress.is_some() { POLL_WATCHED_MS } else { POLL_MS };
    let (task, answer) = wait::until_final(client, &id.to_string(), poll_ms, |task| {
        if let Some(progress) = &mut progress {
            progress.show(task);
        }
    })
    .await?;
    drop(progress);
    let (logs, output) = tokio::join!(fetch(client, id, "logs"), fetch(client, id, "output"));
    if let Some(logs) = logs? {
        output::pass_on(&logs.body);
    }
    if json {
        output::print_json(&answer.body)?;
    } else if let Some(output) = output? {
        output::print_bytes(&output.body)?;
    }
    if task.state == TaskState::Succeeded {
        return Ok(Exit::Done);
    }
    output::tell(&describe_failure(&task));
    Ok(Exit::TaskFailed)
}

/// The logs or the output of a task; `None` when there is none.
async fn fetch(client: &Client, id: TaskId, what: &str) -> Result<Option<Answer>, ClientError> {
    match client.get(&task_path(&id.to_string()).segment(what)).await {
        Ok(answer) => Ok(Some(answer)),
        Err(ClientError::Problem(problem)) if problem.status == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

async fn cancel(client: &Client, id: TaskId) {
    let path = task_path(&id.to_string()).segment("cancel").query("wait_ms", CANCEL_WAIT_MS);
    let body = CancelTask { reason: Some("interrupted".into()) };
    let request = client.send_json(Method::POST, &path, &body);
    match tokio::time::timeout(CANCEL_TIMEOUT, request).await {
        Ok(Ok(answer)) if answer.status == 200 => output::tell(&format!("cancelled task {id}")),
        Ok(Ok(_)) => output::tell(&format!("task {id} will be cancelled")),
        Ok(Err(error)) if error.code() == Some("already_final") => {
            output::tell(&format!("task {id} had ended already"))
        }
        Ok(Err(error)) => output::tell(&Failure::from(error).to_string()),
        Err(_) => output::tell(&format!("error: the server did not say whether task {id} was cancelled")),
    }
}

/// Says on stderr why there is no result.
fn describe_failure(task: &TaskDoc) -> String {
    let mut text = format!("error: task {} {}", task.id, task.state.as_str());
    // Where an attempt decided, the reason is only the name of its outcome.
    let decided = task.outcome.as_ref().map(|outcome| outcome.kind.as_str());
    if let Some(reason) = task.reason.as_deref().filter(|reason| Some(*reason) != decided) {
        text.push_str(&format!(": {}", output::printable(reason)));
    }
    if let Some(outcome) = &task.outcome {
        text.push_str(&format!(": {}", describe::outcome(outcome)));
    }
    let id = task.id;
    text.push_str(&format!(
        "\n  what to do: see what happened with `wasmill events {id}`, or run it here with `wasmill replay {id}`"
    ));
    text
}

#[cfg(test)]
mod tests {
    use wasmill_api::OutcomeDoc;
    use wasmill_protocol::{OutcomeKind, TrapCode};

    use super::*;

    #[test]
    fn failures_name_outcome_message_and_place() {
        let outcome = OutcomeDoc {
            kind: OutcomeKind::Trapped,
            message: "wasm `unreachable` instruction executed".into(),
            trap: Some(TrapCode::Unreachable),
            backtrace: Some(vec!["boom".into(), "main\u{7}".into()]),
            ..OutcomeDoc::default()
        };
        let task = TaskDoc {
            state: TaskState::Failed,
            reason: Some("trapped".into()),
            outcome: Some(outcome),
            ..TaskDoc::default()
        };
        assert_eq!(
            describe_failure(&task),
            "error: task 00000000-0000-0000-0000-000000000000 failed: trapped (unreachable): wasm `unreachable` instruction \
             executed\n  at boom\n  at main?\n  \
             what to do: see what happened with `wasmill events 00000000-0000-0000-0000-000000000000`, or run it here with \
             `wasmill replay 00000000-0000-0000-0000-000000000000`"
        );
        let task = TaskDoc { state: TaskState::Failed, reason: Some("expired".into()), ..TaskDoc::default() };
        assert!(describe_failure(&task).contains(" failed: expired\n"));
    }
}
