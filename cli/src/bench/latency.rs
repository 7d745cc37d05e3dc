//! From submission to result, one task at a time.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Deserialize;
use wasmill_protocol::TaskState;

use crate::bench::report::Report;
use crate::bench::server::Target;
use crate::bench::{http, module};

/// The fields of a task that are looked at.
#[derive(Debug, Deserialize)]
pub(super) struct TaskLine {
    pub(super) id: String,
    #[serde(default)]
    pub(super) state: TaskState,
}

/// Measures both ways to get a result.
pub(super) async fn measure(target: &Target, samples: u32, report: &mut Report) -> Result<()> {
    let mut connection = target.connect().await?;
    let digest = connection.push(module::noop(0)?).await?;
    let run_path = http::run_path(&digest);
    let task = format!(r#"{{"module":"{digest}"}}"#);

    let warm_up = samples / 10 + 1;
    let mut took: Vec<Duration> = Vec::with_capacity(samples as usize);
    for number in 0..warm_up + samples {
        let started = Instant::now();
        connection.run(&run_path).await?;
        if number >= warm_up {
            took.push(started.elapsed());
        }
    }
    report.add_latency(["run_ms_p50", "run_ms_p99"], "no-op over POST /v1/run, one at a time", &mut took);

    took.clear();
    for number in 0..warm_up + samples {
        let started = Instant::now();
        let mut line: TaskLine = connection.post("/v1/tasks", task.clone()).await?;
        while !line.state.is_final() {
            line = connection.get(&format!("/v1/tasks/{}?wait_ms=10000", line.id)).await?;
        }
        if number >= warm_up {
            took.push(started.elapsed());
        }
        ensure!(line.state == TaskState::Succeeded, "the no-op {} is {}", line.id, line.state.as_str());
    }
    report.add_latency(
        ["task_ms_p50", "task_ms_p99"],
        "no-op over POST /v1/tasks and ?wait_ms, one at a time",
        &mut took,
    );
    Ok(())
}
