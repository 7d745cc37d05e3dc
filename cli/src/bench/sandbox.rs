//! The sandbox alone, without server, log and network.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::bench::module;
use crate::bench::report::Report;

/// How long each way is measured.
const TIME: Duration = Duration::from_secs(3);

/// Measures a warm no-op on one core, in our sandbox and in the bare runtime under it.
pub(super) async fn measure(report: &mut Report) -> Result<()> {
    let component = module::noop(0)?;
    let cost = wasmill_host::bench::noop_cost(&component, TIME).await.context("cannot measure the sandbox")?;
    report.add("sandbox_us", "warm no-op in the sandbox alone, one core", cost.sandbox_us, "us");
    report.add("bare_us", "the same in bare wasmtime", cost.bare_us, "us");
    report.add("sandbox_ratio", "the ratio of the two", cost.sandbox_us / cost.bare_us, "x");
    Ok(())
}
