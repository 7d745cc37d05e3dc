//! `POST /v1/run` on many connections.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::bench::report::Report;
use crate::bench::server::Target;
use crate::bench::{http, module};

const CONNECTIONS: usize = 32;
/// Not counted: connections open, caches fill.
const WARM_UP: Duration = Duration::from_secs(1);

/// Measures for `seconds`; every answer must be a success.
pub(super) async fn measure(target: &Target, seconds: u64, report: &mut Report) -> Result<()> {
    let digest = target.connect().await?.push(module::noop(0)?).await?;
    let run_path = http::run_path(&digest);
    let begin = Instant::now() + WARM_UP;
    let end = begin + Duration::from_secs(seconds);
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let mut connection = target.connect().await?;
        let run_path = run_path.clone();
        workers.spawn(async move {
            let mut took = Vec::new();
            loop {
                let started = Instant::now();
                connection.run(&run_path).await?;
                let finished = Instant::now();
                if finished >= end {
                    return anyhow::Ok(took);
                }
                if finished >= begin {
                    took.push(finished - started);
                }
            }
        });
    }
    let mut took = Vec::new();
    while let Some(worker) = workers.join_next().await {
        took.extend(worker??);
    }
    let rate = took.len() as f64 / seconds as f64;
    report.add("run_rate", format!("no-op over POST /v1/run, {CONNECTIONS} connections"), rate, "1/s");
    report.add_latency(["run_busy_ms_p50", "run_busy_ms_p99"], "the same, each", &mut took);
    Ok(())
}
