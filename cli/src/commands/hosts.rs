//! `wasmill hosts`: lists hosts.

use crate::client::wire::{Host, Page};
use crate::client::{Client, Path};
use crate::commands::tell_next;
use crate::failure::{Exit, Outcome};
use crate::output::{self, Table};
use crate::units::{show_age, show_bytes, wall_clock};

/// Prints a line for each host.
pub(crate) async fn run(client: &Client, json: bool) -> Outcome {
    let answer = client.get(&Path::new("/v1/hosts").query("limit", 1000)).await?;
    if json {
        output::print_json(&answer.body)?;
        return Ok(Exit::Done);
    }
    let page: Page<Host> = answer.json()?;
    let now = wall_clock();
    let mut table = Table::new(["ID", "STATE", "ADDRESS", "SLOTS", "CORES", "MEMORY", "VERSION", "SEEN", "LABELS"]);
    for host in page.items {
        let slots = match (host.slots_used, host.slots_free, host.slots) {
            (Some(used), Some(free), _) => format!("{used}/{}", used + free),
            (Some(used), None, Some(all)) => format!("{used}/{all}"),
            _ => "-".into(),
        };
        let seen = host.last_seen.map_or_else(|| "-".into(), |time| show_age(&time, now));
        let labels = host.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
        table.row([
            host.id,
            host.state,
            host.address.unwrap_or_else(|| "-".into()),
            slots,
            host.cores.to_string(),
            show_bytes(host.memory_bytes),
            host.version.unwrap_or_else(|| "-".into()),
            seen,
            labels,
        ]);
    }
    table.print()?;
    tell_next(page.next.as_deref());
    Ok(Exit::Done)
}
