//! `cargo xtask test`: every test there is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::namespaces::Private;
use crate::server::Server;
use crate::shell::{self, Steps, cargo, program, target_dir};
use crate::{guests, setup};

/// The options of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// How long the simulator draws new seeds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    sim_seconds: u64,
    /// How many requests are drawn for each operation of the HTTP interface
    #[arg(long, value_name = "N", default_value_t = 50)]
    http_examples: u32,
    /// How long the processes of a cluster are killed, paused and cut off under load; a server alone for a quarter of it
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    fire_minutes: f64,
    /// How often the power is taken from a NATS server
    #[arg(long, value_name = "N", default_value_t = 2)]
    power_rounds: u32,
}

/// Builds once, then runs every test, also when some fail.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    setup::guest_targets()?;
    setup::protoc()?;
    let servers = setup::servers()?;
    let guest_dir = target_dir().join("guests");
    let mut steps = Steps::new();
    steps.run("guests", || guests::build_all(&guest_dir).map(drop));
    // One selection of packages for all that follows: another one would unify features differently and build wasmtime again.
    steps.run("build", || shell::run(&mut cargo(["build", "--workspace", "--all-targets", "--locked"])));
    let binary = target_dir().join("debug/wasmill");
    steps.run("tests", || {
        let mut tests = cargo(["test", "--workspace", "--locked", "--no-fail-fast"]);
        tests.env("WASMILL_BIN", &binary).env("WASMILL_GUESTS", &guest_dir).env("WASMILL_SERVERS", &servers);
        shell::run(&mut tests)
    });
    steps.run("simulation", || simulate(args.sim_seconds));
    steps.run("HTTP by properties", || http(&binary, args.http_examples));
    // What no container without privileges lets us do is left out there, and said.
    let needs = "needs root and namespaces; in a container: --privileged";
    if Private::Network.is_possible()? {
        steps.run("one machine under fire", || fire(args.fire_minutes / 4.0, &["--alone"]));
        steps.run("a cluster under fire", || fire(args.fire_minutes, &[]));
    } else {
        steps.skip("one machine and a cluster under fire", needs);
    }
    if Private::Mounts.is_possible()? {
        let rounds = args.power_rounds.to_string();
        steps.run("power loss", || shell::run(shell::xtask().args(["power", "--rounds", &rounds])));
    } else {
        steps.skip("power loss", needs);
    }
    steps.finish()
}

fn fire(minutes: f64, options: &[&str]) -> Result<()> {
    shell::run(shell::xtask().args(["fire", "--minutes", &minutes.to_string()]).args(options))
}

fn simulate(seconds: u64) -> Result<()> {
    shell::run(program(target_dir().join("debug/wasmill-sim")).args(["--seconds", &seconds.to_string()]))
}

/// Draws requests from the OpenAPI document and checks that every answer is one that the document allows, and none is a 5xx.
fn http(binary: &Path, examples: u32) -> Result<()> {
    let schemathesis = setup::schemathesis()?;
    let dir: PathBuf = target_dir().join("http-test");
    let server = Server::start(binary, &dir)?;
    let token = server.admin_token().context("the server made no admin token")?;
    let mut command = program(schemathesis);
    // It keeps notes where it is started.
    command
        .current_dir(&dir)
        .args(["run", &format!("{}/openapi.json", server.url)])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args([
            "--checks",
            "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance",
        ])
        .args(["--max-examples", &examples.to_string(), "--seed", "1", "--workers", "1", "--request-timeout", "70"])
        .args(["--generation-database", "none", "--report", "junit", "--report-dir"])
        .arg(dir.join("report"));
    shell::run(&mut command)?;
    server.stop()
}
