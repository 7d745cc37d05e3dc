//! Stopping tasks that spin.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use hyper::Method;
use wasmill_protocol::TaskState;

use crate::bench::latency::TaskLine;
use crate::bench::module;
use crate::bench::report::Report;
use crate::bench::server::Target;

/// The pause between two looks at a task that is to start.
const LOOK_PAUSE: Duration = Duration::from_millis(1);
/// How long a task may take to start.
const START_MAX: Duration = Duration::from_secs(30);

/// Measures from asking to being told that the task has stopped.
pub(super) async fn measure(target: &Target, samples: u32, report: &mut Report) -> Result<()> {
    let mut connection = target.connect().await?;
    let digest = connection.push(module::spin()?).await?;
    let task = format!(r#"{{"module":"{digest}","limits":{{"cpu_ms":60000}}}}"#);
    let mut took = Vec::new();
    for number in 0..samples {
        let mut line: TaskLine = connection.post("/v1/tasks", task.clone()).await?;
        let submitted = Instant::now();
        while line.state != TaskState::Running {
            ensure!(submitted.elapsed() < START_MAX, "task {} is {} and does not start", line.id, line.state.as_str());
            tokio::time::sleep(LOOK_PAUSE).await;
            line = connection.get(&format!("/v1/tasks/{}", line.id)).await?;
        }
        // Spread over the ticks, so that no sample meets them always at the same moment.
        tokio::time::sleep(Duration::from_micros(u64::from(number) * 613 % 10_000)).await;
        let path = format!("/v1/tasks/{}/cancel?wait_ms=10000", line.id);
        let started = Instant::now();
        connection.call(Method::POST, &path, "application/json", Bytes::from_static(b"{}"), &[200]).await?;
        took.push(started.elapsed());
        let line: TaskLine = connection.get(&format!("/v1/tasks/{}", line.id)).await?;
        ensure!(line.state == TaskState::Cancelled, "task {} is {}", line.id, line.state.as_str());
    }
    report.add_latency(["cancel_ms_p50", "cancel_ms_p99"], "cancel of a spinning task, asked to stopped", &mut took);
    Ok(())
}
