//! Prints what comes out of the core, one line each.

use wasmill_protocol::command::{Done, Refusal};
use wasmill_protocol::{OutcomeKind, Timestamp};
use wasmill_record::event::{EndReason, EventBody, Sequel};
use wasmill_scheduler_core::io::MessageOut;

use crate::names::Names;
use crate::world::START;

/// A time as the seconds since the test began.
pub(crate) fn time(at: Timestamp) -> String {
    format!("{:.3}s", (at.0 - START.0) as f64 / 1e6)
}

pub(crate) fn event(names: &Names, body: &EventBody) -> String {
    let task = |id: &_| names.task_name(*id).to_owned();
    match body {
        EventBody::TermStarted { term, node, .. } => format!("term {term} of {node} started"),
        EventBody::TenantPut { tenant } => {
            let class = if tenant.class == 0 { String::new() } else { format!(", class {}", tenant.class) };
            format!("tenant {} has weight {}{class}", tenant.name, tenant.weight)
        }
        EventBody::TenantRemoved { tenant } => format!("tenant {tenant} removed"),
        EventBody::TokenAdded { token } => format!("token {} of {} added", token.id, token.tenant),
        EventBody::TokenRemoved { tenant, id } => format!("token {id} of {tenant} removed"),
        EventBody::ModuleAdded { tenant, module } => {
            format!("module {} of {tenant} added", names.module_name(&module.digest))
        }
        EventBody::ModuleRemoved { tenant, digest } => {
            format!("module {} of {tenant} removed", names.module_name(digest))
        }
        EventBody::AliasSet { tenant, name, digest } => {
            format!("alias {name} of {tenant} points at {}", names.module_name(digest))
        }
        EventBody::AliasRemoved { tenant, name } => format!("alias {name} of {tenant} removed"),
        EventBody::TaskSubmitted { task: id, spec, edges, .. } => {
            let edges: Vec<_> =
                edges.iter().map(|edge| format!(" after {} ({:?})", task(&edge.predecessor), edge.on)).collect();
            format!("{} submitted, module {}{}", task(id), names.module_name(&spec.module), edges.concat())
        }
        EventBody::TaskQueued { task: id } => format!("{} queued", task(id)),
        EventBody::TaskPrioritized { task: id, priority } => format!("{} has priority {priority}", task(id)),
        EventBody::AttemptStarted { id, host, incarnation } => {
            format!("{} started on {host}/{incarnation}", names.attempt_name(*id))
        }
        EventBody::CheckpointSaved { id, number, .. } => {
            format!("{} saved checkpoint {number}", names.attempt_name(*id))
        }
        EventBody::AttemptEnded { id, outcome, next, .. } => {
            format!("{} ended: {}, {}", names.attempt_name(*id), self::outcome(outcome), after(next))
        }
        EventBody::CancelRequested { task: id, reason } => {
            format!("{} asked to stop{}", task(id), self::reason(reason.as_ref()))
        }
        EventBody::TaskEnded { task: id, state, reason } => {
            let why = match reason {
                EndReason::Cancelled { reason } => self::reason(reason.as_ref()),
                EndReason::Expired => ": expired".into(),
                EndReason::TenantRemoved => ": tenant removed".into(),
                EndReason::Skipped { predecessor } => format!(": it waited for {}", task(predecessor)),
            };
            format!("{} is {}{why}", task(id), format!("{state:?}").to_lowercase())
        }
        EventBody::ReportLate { id, host } => format!("late report of {} from {host}", names.attempt_name(*id)),
        EventBody::SnapshotTaken { snapshot } => format!("snapshot up to record {} taken", snapshot.seq),
        EventBody::ReadModelSaved { copy } => format!("read model up to record {} saved", copy.seq),
        EventBody::PolicyBenched { hook, policy, reason, .. } => {
            format!("policy {policy} is benched for {}: {reason}", hook.as_str())
        }
        EventBody::PolicyLifted { hook, policy, .. } => format!("policy {policy} may {} again", hook.as_str()),
        EventBody::HostDrained { host, draining: true } => format!("{host} drained"),
        EventBody::HostDrained { host, draining: false } => format!("{host} no longer drained"),
    }
}

fn reason(reason: Option<&String>) -> String {
    reason.map_or(String::new(), |reason| format!(": {reason}"))
}

fn outcome(outcome: &wasmill_protocol::Outcome) -> String {
    match (outcome.kind, outcome.message.as_str()) {
        (OutcomeKind::Succeeded, _) | (_, "") => outcome.kind.as_str().into(),
        (kind, message) => format!("{} ({message})", kind.as_str()),
    }
}

fn after(next: &Sequel) -> String {
    match next {
        Sequel::Final { state } => format!("task is {}", format!("{state:?}").to_lowercase()),
        Sequel::Retry { not_before } => format!("retry at {}", time(*not_before)),
        Sequel::Requeue => "queued again".into(),
    }
}

pub(crate) fn message(names: &Names, message: &MessageOut) -> String {
    let mut parts = Vec::new();
    if !message.assign.is_empty() {
        let run = message.assign.iter().map(|(id, queue_us)| {
            let waited = if *queue_us > 0 { format!(" (waited {} ms)", queue_us / 1000) } else { String::new() };
            names.attempt_name(*id) + &waited
        });
        parts.push(format!("run {}", run.collect::<Vec<_>>().join(", ")));
    }
    if !message.stop.is_empty() {
        let stop = message.stop.iter().map(|(id, cause)| format!("{} ({})", names.attempt_name(*id), cause.as_str()));
        let stop: Vec<_> = stop.collect();
        parts.push(format!("stop {}", stop.join(", ")));
    }
    if parts.is_empty() {
        parts.push("greeting".to_owned());
    }
    format!("{}/{} in term {}: {}", message.host, message.incarnation, message.term, parts.join("; "))
}

pub(crate) fn reply(names: &Names, result: &Result<Done, Refusal>) -> String {
    match result {
        Ok(Done::Accepted { .. }) => "accepted".into(),
        Ok(Done::Repeated { task }) => format!("is {}", names.task_name(*task)),
        Ok(done) => words(&format!("{done:?}")),
        Err(Refusal::KeyConflict { task }) => format!("refused: key conflict with {}", names.task_name(*task)),
        Err(Refusal::ModuleInUse { task }) => format!("refused: module in use by {}", names.task_name(*task)),
        Err(Refusal::Quota { quota, limit }) => format!("refused: quota {} is {limit}", quota.as_str()),
        Err(Refusal::Overloaded { what, retry_ms }) => format!("refused: full: {what}; retry in {retry_ms} ms"),
        Err(refusal) => format!("refused: {}", words(&format!("{refusal:?}"))),
    }
}

/// `CamelCase` as words.
fn words(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(letter.to_lowercase());
    }
    words
}
