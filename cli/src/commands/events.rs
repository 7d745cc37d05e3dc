//! `wasmill events`: what happened to a task, in order.

use serde_json::{Map, Value};

use crate::client::Client;
use crate::client::wire::Page;
use crate::commands::{PageArgs, task_path, tell_next};
use crate::failure::{Exit, Outcome};
use crate::output::{self, Table};

/// The options of `events`.
#[derive(Debug, clap::Args)]
pub(crate) struct EventsArgs {
    /// The task's id
    id: String,
    #[command(flatten)]
    page: PageArgs,
}

/// Prints a line for each event.
pub(crate) async fn run(client: &Client, json: bool, args: &EventsArgs) -> Outcome {
    let answer = client.get(&args.page.apply(task_path(&args.id).segment("events"))).await?;
    if json {
        output::print_json(&answer.body)?;
        return Ok(Exit::Done);
    }
    let page: Page<Map<String, Value>> = answer.json()?;
    let mut table = Table::new(["TIME", "EVENT", "DETAILS"]);
    for mut event in page.items {
        let mut take = |names: &[&str]| names.iter().find_map(|name| event.remove(*name)).map(|value| text(&value));
        let (time, kind) = (take(&["time", "at"]), take(&["event", "type", "kind"]));
        event.remove("task");
        let details: Vec<String> = event
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| format!("{key}={}", text(value)))
            .collect();
        table.row([time.unwrap_or_default(), kind.unwrap_or_default(), details.join(" ")]);
    }
    table.print()?;
    tell_next(page.next.as_deref());
    Ok(Exit::Done)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
