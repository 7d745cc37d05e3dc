//! `wasmill status`: the server as a whole.

use wasmill_api::StatusDoc;

use crate::client::{Client, Path};
use crate::failure::{Exit, Outcome};
use crate::output;
use crate::units::show_us;

/// Prints version, leader and queue. Without a leader nothing is decided, which the exit code tells
/// too.
pub(crate) async fn run(client: &Client, json: bool) -> Outcome {
    let answer = client.get(&Path::new("/v1/status")).await?;
    let status: StatusDoc = answer.json()?;
    let exit = if status.leader.is_some() { Exit::Done } else { Exit::Server };
    if json {
        output::print_json(&answer.body)?;
        return Ok(exit);
    }
    let tasks = status
        .queue
        .map(|queue| format!("{} waiting, {} queued, {} running", queue.waiting, queue.queued, queue.running));
    let benched = status.policies_benched.unwrap_or_default();
    let benched = benched.iter().map(|benched| format!("{} for {}", benched.policy, benched.hook));
    let benched = benched.collect::<Vec<_>>().join(", ");
    output::print_fields(&[
        ("server", Some(client.server().to_owned())),
        ("version", Some(status.version)),
        ("mode", Some(status.mode)),
        ("node", Some(status.node)),
        ("leader", Some(status.leader.unwrap_or_else(|| "none that answers this node: nothing is decided".to_owned()))),
        ("term", Some(status.term.to_string())),
        ("log", Some(format!("record {}", status.log_seq))),
        ("tasks", tasks),
        ("hosts", status.hosts.map(|hosts| hosts.to_string())),
        ("benched", Some(benched).filter(|benched| !benched.is_empty())),
        ("up for", Some(show_us(status.uptime_ms.saturating_mul(1000)))),
    ])?;
    Ok(exit)
}
