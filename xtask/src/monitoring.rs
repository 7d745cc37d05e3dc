//! The files in `deploy` for Prometheus and Grafana, checked against what a running server tells.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::server::Server;
use wasmill_processes::http::{Body, Http};
use wasmill_processes::setup;
use wasmill_processes::shell::{self, program, target_dir};

/// Where the rules and the dashboard are, from the root of the repository.
const RULES: &str = "deploy/prometheus/alerts.yml";
const RULES_TEST: &str = "deploy/prometheus/alerts_test.yml";
const SCRAPING: &str = "deploy/prometheus/prometheus.yml";
const DASHBOARD: &str = "deploy/grafana/wasmill.json";

/// How long the server may take for a page.
const PATIENCE: Duration = Duration::from_secs(30);

/// Metrics that only appear once something has gone wrong, or only in a cluster.
const SELDOM: [&str; 6] = [
    "wasmill_certificate_expires_timestamp_seconds",
    "wasmill_nats_connected",
    "wasmill_etcd_keep_alive_seconds",
    "wasmill_upkeep_seconds",
    "wasmill_tenant_tasks",
    "wasmill_queued_tasks",
];

/// Checks the rules by themselves, plays their tests, and looks every metric that is used up on the
/// page of `binary` as a server.
pub(crate) fn run(binary: &Path) -> Result<()> {
    let promtool = setup::promtool()?;
    shell::run(program(&promtool).args(["check", "rules", "--lint-fatal", RULES]))?;
    shell::run(program(&promtool).args(["check", "config", "--syntax-only", SCRAPING]))?;
    shell::run(program(&promtool).args(["test", "rules", RULES_TEST]))?;

    let server = Server::start(binary, &target_dir().join("metrics-test"))?;
    let token = server.admin_token().context("the server made no admin token")?;
    let client = Http::new(Some(&token), PATIENCE);
    // The route of this request is counted when it is answered.
    client.get(&format!("{}/v1/status", server.url))?;
    let page = client.call("GET", &format!("{}/metrics", server.url), &[], Body::None)?.text();
    lint(&promtool, &page)?;
    let told: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for file in [RULES, DASHBOARD] {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
        let unknown: Vec<_> = names(&text).filter(|name| !told.contains(name) && !SELDOM.contains(name)).collect();
        ensure!(unknown.is_empty(), "{file} names metrics that the server does not have: {}", unknown.join(", "));
    }
    server.stop()
}

/// Lets promtool read a page as Prometheus does.
fn lint(promtool: &Path, page: &str) -> Result<()> {
    let mut child = program(promtool).args(["check", "metrics"]).stdin(Stdio::piped()).spawn().context("promtool")?;
    child.stdin.take().expect("it is piped").write_all(page.as_bytes()).context("cannot write to promtool")?;
    let ended = child.wait().context("cannot wait for promtool")?;
    ensure!(ended.success(), "promtool does not like the metrics: {ended}");
    Ok(())
}

/// The metrics that a text names, without the suffixes of a histogram.
fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_')
        .filter(|word| word.starts_with("wasmill_"))
        .map(|word| ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix)).unwrap_or(word))
}
