//! `wasmill events`: what happened to a task, in order.

use wasmill_api::{TaskEventDoc, TaskEventsDoc};

use crate::client::Client;
use crate::commands::task_path;
use crate::failure::{Exit, Outcome};
use crate::output::{self, Table};
use crate::units::show_bytes;

/// The options of `events`.
#[derive(Debug, clap::Args)]
pub(crate) struct EventsArgs {
    /// The task's id
    id: String,
}

/// Prints a line for each event.
pub(crate) async fn run(client: &Client, json: bool, args: &EventsArgs) -> Outcome {
    let answer = client.get(&task_path(&args.id).segment("events")).await?;
    if json {
        output::print_json(&answer.body)?;
        return Ok(Exit::Done);
    }
    let history: TaskEventsDoc = answer.json()?;
    let mut table = Table::new(["TIME", "RECORD", "EVENT", "DETAILS"]);
    for event in history.items {
        table.row([event.at.to_string(), event.seq.to_string(), event.event.clone(), details(&event)]);
    }
    table.print()?;
    if history.left_out > 0 {
        output::tell(&format!("{} events after the submission are left out", history.left_out));
    }
    Ok(Exit::Done)
}

/// The details of an event beyond its name.
fn details(event: &TaskEventDoc) -> String {
    let parts = [
        event.attempt.map(|attempt| format!("attempt {attempt}")),
        event.host.as_ref().map(|host| format!("on {host}")),
        event.outcome.map(|kind| kind.as_str().to_owned()),
        event.message.clone(),
        event.state.map(|state| format!("now {}", state.as_str())),
        event.not_before.map(|time| format!("not before {time}")),
        event.fuel.map(|fuel| format!("fuel {fuel}")),
        event.cached.map(|_| "known from an earlier run".to_owned()),
        event.priority.map(|priority| format!("priority {priority}")),
        event.bytes.map(show_bytes),
        event.times.map(|times| format!("{times} times")),
        event.reason.clone(),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
