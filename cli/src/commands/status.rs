//! `wasmill status`: the server as a whole.

use wasmill_protocol::api::StatusDoc;

use crate::client::{Client, Path};
use crate::failure::{Exit, Outcome};
use crate::output;
use crate::units::show_us;

/// Prints version, leader and queue.
pub(crate) async fn run(client: &Client, json: bool) -> Outcome {
    let answer = client.get(&Path::new("/v1/status")).await?;
    if json {
        output::print_json(&answer.body)?;
        return Ok(Exit::Done);
    }
    let status: StatusDoc = answer.json()?;
    let queue = status.queue;
    let benched = status.policies_benched.iter().map(|benched| format!("{} for {}", benched.policy, benched.hook));
    let benched = benched.collect::<Vec<_>>().join(", ");
    output::print_fields(&[
        ("server", Some(client.server().to_owned())),
        ("version", Some(status.version)),
        ("mode", Some(status.mode)),
        ("node", Some(status.node)),
        ("leader", status.leader),
        ("term", Some(status.term.to_string())),
        ("log", Some(format!("record {}", status.log_seq))),
        ("tasks", Some(format!("{} waiting, {} queued, {} running", queue.waiting, queue.queued, queue.running))),
        ("hosts", Some(status.hosts.to_string())),
        ("benched", Some(benched).filter(|benched| !benched.is_empty())),
        ("up for", Some(show_us(status.uptime_ms.saturating_mul(1000)))),
    ])?;
    Ok(Exit::Done)
}
