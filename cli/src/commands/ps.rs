//! `wasmill ps`: lists tasks.

use wasmill_api::{Page, TaskDoc};
use wasmill_protocol::OutcomeKind;

use crate::client::{Client, Path};
use crate::commands::filter::FilterArgs;
use crate::commands::{PageArgs, tell_next};
use crate::failure::{Exit, Outcome};
use crate::output::{self, Table};
use crate::units::{short_digest, show_age, show_us, wall_clock};

/// The options of `ps`.
#[derive(Debug, clap::Args)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    filter: FilterArgs,
    #[command(flatten)]
    page: PageArgs,
}

/// Prints one page.
pub(crate) async fn run(client: &Client, json: bool, args: &PsArgs) -> Outcome {
    let path = args.filter.apply(Path::new("/v1/tasks"));
    let answer = client.get(&args.page.apply(path)).await?;
    if json {
        output::print_json(&answer.body)?;
        return Ok(Exit::Done);
    }
    let page: Page<TaskDoc> = answer.json()?;
    let now = wall_clock();
    let mut table = Table::new(["ID", "NAME", "MODULE", "STATE", "ATTEMPT", "AGE", "RAN", "NOTE"]);
    for task in &page.items {
        table.row([
            task.id.to_string(),
            task.name.clone().unwrap_or_else(|| "-".into()),
            short_digest(&task.module),
            task.state.as_str().to_owned(),
            task.attempt.to_string(),
            show_age(task.created_at, now),
            task.usage.as_ref().map_or_else(|| "-".into(), |usage| show_us(usage.run_us)),
            note(task),
        ]);
    }
    table.print()?;
    tell_next(page.next.as_deref());
    Ok(Exit::Done)
}

/// Why it is not running, how far it is, or how it failed.
fn note(task: &TaskDoc) -> String {
    const CHARS_MAX: usize = 60;
    let progress = || {
        let progress = task.progress.as_ref()?;
        let percent = (progress.total > 0).then(|| format!("{}% ", progress.done.saturating_mul(100) / progress.total));
        Some(format!("{}{}", percent.unwrap_or_default(), progress.message))
    };
    let failure = || {
        let outcome = task.outcome.as_ref().filter(|outcome| outcome.kind != OutcomeKind::Succeeded)?;
        // Listings may leave the message out.
        let separator = if outcome.message.is_empty() { "" } else { ": " };
        Some(format!("{}{separator}{}", outcome.kind.as_str(), outcome.message))
    };
    let text =
        task.waiting_for.clone().or_else(failure).or_else(|| task.reason.clone()).or_else(progress).unwrap_or_default();
    match text.char_indices().nth(CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
