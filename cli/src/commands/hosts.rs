//! `wasmill hosts`: lists hosts, and drains them.

use reqwest::Method;
use wasmill_api::{HostDoc, Page};

use crate::client::{Client, Path};
use crate::commands::tell_next;
use crate::failure::{Exit, Outcome};
use crate::output::{self, Table};
use crate::units::{show_age, show_bytes, wall_clock};

/// Lists hosts, or drains one
#[derive(Debug, clap::Args)]
pub(crate) struct HostsArgs {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Give a host no new attempts; those that it has go on
    Drain(HostArgs),
    /// Let a host take attempts again
    Undrain(HostArgs),
}

#[derive(Debug, clap::Args)]
struct HostArgs {
    /// Which host, as `wasmill hosts` lists it
    #[arg(value_name = "ID")]
    id: String,
}

/// Does what is asked; lists hosts when nothing else is.
pub(crate) async fn run(client: &Client, json: bool, args: &HostsArgs) -> Outcome {
    match &args.action {
        None => list(client, json).await,
        Some(Action::Drain(host)) => set(client, &host.id, "drain").await,
        Some(Action::Undrain(host)) => set(client, &host.id, "undrain").await,
    }
}

async fn set(client: &Client, id: &str, action: &str) -> Outcome {
    client.answer(client.request(Method::POST, &Path::new("/v1/hosts").segment(id).segment(action))).await?;
    Ok(Exit::Done)
}

/// Slots in use of all, and attempts that wait for their module without one.
fn slots(host: &HostDoc) -> String {
    let unready = if host.unready > 0 { format!(" (+{} unready)", host.unready) } else { String::new() };
    format!("{}/{}{unready}", host.slots_used, host.slots)
}

/// Prints a line for each host.
async fn list(client: &Client, json: bool) -> Outcome {
    let answer = client.get(&Path::new("/v1/hosts").query("limit", 1000)).await?;
    if json {
        output::print_json(&answer.body)?;
        return Ok(Exit::Done);
    }
    let page: Page<HostDoc> = answer.json()?;
    let now = wall_clock();
    let mut table =
        Table::new(["ID", "STATE", "ADDRESS", "SLOTS", "CORES", "LOAD", "MEMORY", "VERSION", "SEEN", "LABELS"]);
    for host in page.items {
        let slots = slots(&host);
        let labels = host.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
        table.row([
            host.id,
            host.state,
            host.address,
            slots,
            host.cores.to_string(),
            format!("{:.2}", f64::from(host.load_millicores) / 1e3),
            show_bytes(host.memory_bytes),
            host.version,
            show_age(host.last_seen, now),
            labels,
        ]);
    }
    table.print()?;
    tell_next(page.next.as_deref());
    Ok(Exit::Done)
}
