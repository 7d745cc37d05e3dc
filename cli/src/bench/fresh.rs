//! The first result of a module that nobody has seen before.

use std::time::Instant;

use anyhow::Result;

use crate::bench::report::Report;
use crate::bench::server::Target;
use crate::bench::{http, module};

const SAMPLES: u32 = 20;

/// Measures upload, compilation and first run together, and from the end of the upload on.
pub(super) async fn measure(target: &Target, report: &mut Report) -> Result<()> {
    let mut connection = target.connect().await?;
    let (mut all, mut after_upload) = (Vec::new(), Vec::new());
    for number in 0..SAMPLES {
        let bytes = module::fresh(std::process::id().wrapping_add(number << 20))?;
        let started = Instant::now();
        let digest = connection.push(bytes).await?;
        let uploaded = Instant::now();
        connection.run(&http::run_path(&digest)).await?;
        all.push(started.elapsed());
        after_upload.push(uploaded.elapsed());
    }
    report.add_latency(["fresh_ms_p50", "fresh_ms_p99"], "fresh component of 40 KB, upload to first result", &mut all);
    report.add_latency(
        ["fresh_run_ms_p50", "fresh_run_ms_p99"],
        "the same, from the end of the upload on",
        &mut after_upload,
    );
    Ok(())
}
