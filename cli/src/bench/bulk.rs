//! Many tasks in one request, until the last result is recorded.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::Method;
use serde_json::value::RawValue;
use wasmill_api::{NDJSON, Page, QueueDoc, StatusDoc};

use crate::bench::http::Connection;
use crate::bench::module;
use crate::bench::report::Report;
use crate::bench::server::Target;

/// The pause between two looks at the queue.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How long nothing may change before we give up.
const STALL_MAX: Duration = Duration::from_secs(60);

/// Submits `tasks` no-ops and waits for all results.
pub(super) async fn measure(target: &Target, tasks: u64, report: &mut Report) -> Result<()> {
    let mut connection = target.connect().await?;
    // A module of its own makes these tasks countable.
    let digest = connection.push(module::noop(std::process::id())?).await?;
    connection.run(&super::http::run_path(&digest)).await?;
    let body = lines(&format!(r#"{{"module":"{digest}"}}"#), tasks);

    let started = Instant::now();
    submit(&mut connection, body, tasks).await?;
    let accepted = started.elapsed();
    drain(&mut connection).await?;
    let finished = started.elapsed();

    // The one that warmed up is counted too.
    verify(&mut connection, &digest, tasks + 1).await?;
    let rate = |took: Duration| tasks as f64 / took.as_secs_f64();
    report.add("bulk_accept_rate", format!("bulk submission of {tasks} no-ops, accepted"), rate(accepted), "1/s");
    report.add("bulk_rate", "the same, to the last recorded result", rate(finished), "1/s");
    Ok(())
}

/// The same task `count` times.
pub(super) fn lines(task: &str, count: u64) -> Bytes {
    format!("{task}\n").repeat(count as usize).into()
}

/// Submits lines in one request; each must be answered with an id.
pub(super) async fn submit(connection: &mut Connection, body: Bytes, count: u64) -> Result<()> {
    let response = connection.send(Method::POST, "/v1/tasks", NDJSON, body).await?;
    let status = response.status().as_u16();
    ensure!((200..300).contains(&status), "the bulk submission was answered with {status}");
    let mut answers = response.into_body();
    let (mut rest, mut ids) = (Vec::new(), 0);
    while let Some(frame) = answers.frame().await {
        let Ok(chunk) = frame.context("the answer to the bulk submission broke off")?.into_data() else { continue };
        for part in chunk.split_inclusive(|byte| *byte == b'\n') {
            rest.extend_from_slice(part);
            if part.ends_with(b"\n") {
                ensure!(rest.starts_with(b"{\"id\":"), "a line was refused: {}", String::from_utf8_lossy(&rest));
                ids += 1;
                rest.clear();
            }
        }
    }
    ensure!(ids == count, "{ids} of {count} lines were answered");
    Ok(())
}

/// Waits until nothing is left to do.
pub(super) async fn drain(connection: &mut Connection) -> Result<()> {
    let mut last = (QueueDoc::default(), Instant::now());
    loop {
        let queue = connection.get::<StatusDoc>("/v1/status").await?.queue;
        let queue = queue.context("the server counts no tasks: it has no leader")?;
        if queue == QueueDoc::default() {
            return Ok(());
        }
        if queue != last.0 {
            last = (queue, Instant::now());
        }
        ensure!(last.1.elapsed() < STALL_MAX, "nothing has happened for {STALL_MAX:?} with {queue:?}");
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Counts the tasks of a module that succeeded, page by page, until there are `expected`.
async fn verify(connection: &mut Connection, digest: &str, expected: u64) -> Result<()> {
    let started = Instant::now();
    loop {
        let mut count = 0;
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/tasks?module={digest}&state=succeeded&limit=1000{cursor}");
            let page: Page<Box<RawValue>> = connection.get(&path).await?;
            count += page.items.len() as u64;
            match page.next {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        if count == expected {
            return Ok(());
        }
        // Listings may follow the log with a delay.
        ensure!(started.elapsed() < STALL_MAX, "{count} of {expected} tasks succeeded");
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}
