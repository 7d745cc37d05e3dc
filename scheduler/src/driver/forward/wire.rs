//! Between what handlers ask of the driver and what travels.

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use wasmill_protocol::HostId;
use wasmill_protocol::command::Reply;
use wasmill_protocol::message::control::{ControlAnswer, ControlRequest, Explained, HostSeen, LeaderOverview};
use wasmill_protocol::policy::BenchedRow;
use wasmill_scheduler_core::io::{BenchedPolicy, HostView, QueueDepth, Waiting};

use crate::driver::dispatch::encode;
use crate::handle::{Answer, Overview, Request};

/// A question of another node, and its answer of at most `bytes_max`; none when leadership ends before, or when it is no question.
pub(in crate::driver) fn question(
    request: ControlRequest,
    bytes_max: usize,
) -> Option<(Request, BoxFuture<'static, Option<ControlAnswer>>)> {
    match request {
        ControlRequest::Commands(_) => None,
        ControlRequest::Check(command) => {
            let (answer, answered) = oneshot::channel();
            let answered = answered.map(|refusal| refusal.ok().map(ControlAnswer::Checked));
            Some((Request::Check(command, answer), answered.boxed()))
        }
        ControlRequest::Explain(tasks) => {
            let (answer, answered) = oneshot::channel();
            let explained = |waiting: Vec<Waiting>| waiting.into_iter().map(explained).collect();
            let answered = answered.map(move |waiting| waiting.ok().map(explained).map(ControlAnswer::Explained));
            Some((Request::Explain(tasks, answer), answered.boxed()))
        }
        ControlRequest::Overview => Some(overview_after(None, bytes_max)),
        ControlRequest::OverviewAfter(host) => Some(overview_after(Some(host), bytes_max)),
    }
}

fn overview_after(after: Option<HostId>, bytes_max: usize) -> (Request, BoxFuture<'static, Option<ControlAnswer>>) {
    let (answer, answered) = oneshot::channel();
    let cut = move |overview| page(leader_overview(overview), after.as_ref(), bytes_max);
    let answered = answered.map(move |overview: Result<Overview, _>| overview.ok().map(cut));
    (Request::Overview(answer), answered.boxed())
}

/// The hosts of an overview after one of them, as many as a message holds.
fn page(mut overview: LeaderOverview, after: Option<&HostId>, bytes_max: usize) -> ControlAnswer {
    overview.hosts.retain(|host| after.is_none_or(|after| host.info.id > *after));
    overview.hosts.sort_by(|left, right| left.info.id.cmp(&right.info.id));
    let mut answer = ControlAnswer::Overview(Box::new(overview));
    while encode(&answer).len() > bytes_max
        && let ControlAnswer::Overview(overview) = &mut answer
        && overview.hosts.len() > 1
    {
        overview.hosts.truncate(overview.hosts.len() / 2);
        overview.hosts_follow = true;
    }
    answer
}

/// The answers to the commands of a call, as they travel.
pub(in crate::driver) fn replies(answers: Vec<Answer>) -> ControlAnswer {
    let reply = |answer: Answer| match answer {
        Ok((seq, done)) => Reply::Done { seq, done },
        Err(refusal) => Reply::Refused(refusal),
    };
    ControlAnswer::Replies(answers.into_iter().map(reply).collect())
}

fn explained(waiting: Waiting) -> Explained {
    let Waiting { task, tenant, waiting_for } = waiting;
    Explained { task, tenant, waiting_for }
}

/// See [`explained`].
pub(super) fn waiting(explained: Explained) -> Waiting {
    let Explained { task, tenant, waiting_for } = explained;
    Waiting { task, tenant, waiting_for }
}

fn leader_overview(overview: Overview) -> LeaderOverview {
    let hosts = overview.hosts.into_iter().map(|view| HostSeen {
        info: view.info,
        heard: view.heard,
        slots: view.slots,
        load_millicores: view.load_millicores,
        modules_cached: view.modules_cached,
        state: view.state.to_owned(),
        attempts: view.attempts,
        unready: view.unready,
        last_seen: view.last_seen,
    });
    LeaderOverview {
        hosts: hosts.collect(),
        hosts_follow: false,
        waiting: overview.queue.waiting,
        queued: overview.queue.queued,
        running: overview.queue.running,
        counters: overview.counters,
        policies_benched: overview.policies_benched.into_iter().map(benched_row).collect(),
        at: overview.at,
        log_seq: overview.log_seq,
    }
}

fn benched_row(benched: BenchedPolicy) -> BenchedRow {
    let BenchedPolicy { hook, policy, digest, reason, at } = benched;
    BenchedRow { hook, policy, reason, at, digest }
}

fn benched(row: BenchedRow) -> BenchedPolicy {
    let BenchedRow { hook, policy, reason, at, digest } = row;
    BenchedPolicy { hook, policy, digest, reason, at }
}

/// See [`leader_overview`].
pub(super) fn overview(overview: LeaderOverview) -> Overview {
    let hosts = overview.hosts.into_iter().map(|seen| HostView {
        info: seen.info,
        heard: seen.heard,
        slots: seen.slots,
        load_millicores: seen.load_millicores,
        modules_cached: seen.modules_cached,
        state: match seen.state.as_str() {
            "ready" => "ready",
            "draining" => "draining",
            _ => "lost",
        },
        attempts: seen.attempts,
        unready: seen.unready,
        last_seen: seen.last_seen,
    });
    Overview {
        hosts: hosts.collect(),
        queue: QueueDepth { waiting: overview.waiting, queued: overview.queued, running: overview.running },
        counters: overview.counters,
        policies_benched: overview.policies_benched.into_iter().map(benched).collect(),
        at: overview.at,
        log_seq: overview.log_seq,
    }
}
