//! Very many tasks that wait, and restarts with them.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use wasmill_api::StatusDoc;

use crate::bench::report::Report;
use crate::bench::server::Target;
use crate::bench::{bulk, module};

/// Tasks of one request.
const BATCH: u64 = 100_000;
const BATCHES: u64 = 10;

/// Queues a million tasks that no host may run; measures memory, and whether accepting gets slower;
/// then restarts.
pub(super) async fn million(target: &mut Target, report: &mut Report) -> Result<()> {
    let mut connection = target.connect().await?;
    let digest = connection.push(module::noop(0)?).await?;
    let body = bulk::lines(&stuck(&digest), BATCH);
    let mut rates = Vec::new();
    for _ in 0..BATCHES {
        let started = Instant::now();
        bulk::submit(&mut connection, body.clone(), BATCH).await?;
        rates.push(BATCH as f64 / started.elapsed().as_secs_f64());
    }
    check_queue(target, BATCH * BATCHES).await?;
    report.add("queue_rate_first", "a million queued tasks: accepted, first 100,000", rates[0], "1/s");
    report.add("queue_rate_fifth", "the same, fifth 100,000", rates[4], "1/s");
    report.add("queue_rate_last", "the same, last 100,000", rates[rates.len() - 1], "1/s");
    for (name, field, what) in [
        ("queue_memory_mb", "VmRSS", "memory with a million queued tasks"),
        ("queue_memory_peak_mb", "VmHWM", "the same, highest"),
    ] {
        report.add(name, what, target.memory_bytes(field)? as f64 / 1e6, "MB");
    }
    let took = target.restart()?;
    check_queue(target, BATCH * BATCHES).await?;
    report.add("queue_restart_s", "kill and restart with a million queued tasks", took.as_secs_f64(), "s");
    Ok(())
}

/// Kills a server that has 100,000 unfinished tasks and measures how long it takes to be ready
/// again.
pub(super) async fn restart(target: &mut Target, report: &mut Report) -> Result<()> {
    let mut connection = target.connect().await?;
    let digest = connection.push(module::noop(0)?).await?;
    bulk::submit(&mut connection, bulk::lines(&stuck(&digest), BATCH), BATCH).await?;
    let took = target.restart()?;
    check_queue(target, BATCH).await?;
    report.add("restart_s", "kill and restart with 100,000 unfinished tasks", took.as_secs_f64(), "s");
    Ok(())
}

/// A task that stays queued: no host has this label.
fn stuck(digest: &str) -> String {
    format!(r#"{{"module":"{digest}","require":{{"bench":"no-host-has-this"}}}}"#)
}

async fn check_queue(target: &Target, expected: u64) -> Result<()> {
    let queue = target.connect().await?.get::<StatusDoc>("/v1/status").await?.queue;
    let queue = queue.context("the server counts no tasks: it has no leader")?;
    let unfinished = queue.waiting + queue.queued + queue.running;
    ensure!(unfinished == expected, "{unfinished} of {expected} tasks are unfinished");
    Ok(())
}
