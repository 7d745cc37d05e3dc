//! `wasmill wait`, and the waiting that other commands do.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use wasmill_api::TaskDoc;
use wasmill_protocol::TaskState;

use crate::client::{Answer, Client, ClientError};
use crate::commands::filter::FilterArgs;
use crate::commands::task_path;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// How long one request may wait; the server's bound is 60 s, and proxies often have one of 30 s.
const POLL_MS: u64 = 25_000;
/// How long a server may be away, restarting, before waiting is given up.
const ABSENCE_MAX: Duration = Duration::from_secs(10);
/// The pause between two tries while the server is away.
const ABSENCE_PAUSE: Duration = Duration::from_millis(200);

/// Tasks that are waited for at the same time: a server gives each tenant so many requests that
/// wait.
const AT_ONCE: usize = 16;

/// The options of `wait`.
#[derive(Debug, clap::Args)]
pub(crate) struct WaitArgs {
    /// The tasks' ids
    #[arg(required_unless_present = "filter", conflicts_with = "filter")]
    ids: Vec<String>,
    #[command(flatten)]
    filter: Option<FilterArgs>,
}

/// Waits for every task, named or found by the filter at this moment; prints a line for each in
/// their order, oldest first.
pub(crate) async fn run(client: &Client, json: bool, args: &WaitArgs) -> Outcome {
    let ids = match &args.filter {
        Some(filter) => filter.tasks(client, &[]).await?.into_iter().map(|(id, _)| id).collect(),
        None => args.ids.clone(),
    };
    let mut exit = Exit::Done;
    let ended = |id: String| async move { until_final(client, &id, POLL_MS, |_| {}).await.map(|ended| (id, ended)) };
    let mut waits = futures::stream::iter(ids.into_iter().map(ended)).buffered(AT_ONCE);
    while let Some(ended) = waits.next().await {
        let (id, (task, answer)) = ended?;
        if json {
            output::print_json(&answer.body)?;
        } else {
            output::print_line(&format!("{id} {}", task.state.as_str()))?;
        }
        if task.state != TaskState::Succeeded {
            exit = Exit::TaskFailed;
        }
    }
    Ok(exit)
}

/// Polls a task, each time for at most `poll_ms`, until it is final; `seen` is shown every answer.
/// A server that restarts meanwhile is waited for.
pub(crate) async fn until_final(
    client: &Client,
    id: &str,
    poll_ms: u64,
    mut seen: impl FnMut(&TaskDoc),
) -> Result<(TaskDoc, Answer), Failure> {
    let path = task_path(id).query("wait_ms", poll_ms);
    let mut absent_since: Option<Instant> = None;
    loop {
        match client.get(&path).await {
            Ok(answer) => {
                absent_since = None;
                let task: TaskDoc = answer.json()?;
                seen(&task);
                if task.state.is_final() {
                    return Ok((task, answer));
                }
            }
            Err(error) if error.is_passing() && may_wait(&mut absent_since, &error) => {
                tokio::time::sleep(ABSENCE_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn may_wait(absent_since: &mut Option<Instant>, error: &ClientError) -> bool {
    if absent_since.is_none() {
        output::tell(&format!("waiting for the server: {error}"));
    }
    absent_since.get_or_insert_with(Instant::now).elapsed() < ABSENCE_MAX
}
