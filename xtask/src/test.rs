//! `cargo xtask test`: every test there is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::server::Server;
use wasmill_processes::namespaces::Private;
use wasmill_processes::shell::{self, Steps, cargo, program, target_dir};
use wasmill_processes::{guests, setup};

use crate::monitoring;

/// The options of `test`.
#[derive(Debug, clap::Args)]
pub(crate) struct TestArgs {
    /// How long the simulator runs seeds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    sim_seconds: u64,
    /// How many requests are drawn for each operation of the HTTP interface
    #[arg(long, value_name = "N", default_value_t = 50)]
    http_examples: u32,
    /// How long the processes of a cluster are killed, paused and cut off under load; a server
    /// alone for a quarter of it
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    fire_minutes: f64,
    /// Where the seeds of the simulator and of the fire begin; of the checked-out sources when
    /// absent, so that whoever tests the same tests the same
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How often the power is taken from a NATS server
    #[arg(long, value_name = "N", default_value_t = 2)]
    power_rounds: u32,
}

/// Builds once, then runs every test, also when some fail.
pub(crate) fn run(args: &TestArgs) -> Result<()> {
    setup::guest_targets()?;
    setup::protoc()?;
    let servers = setup::servers()?;
    let seed = args.seed.unwrap_or_else(seed_of_sources);
    let guest_dir = target_dir().join("guests");
    let mut steps = Steps::new();
    steps.run("guests", || guests::build_all(&guest_dir).map(drop));
    // One selection of packages for all that follows: another one would unify features differently
    // and build wasmtime again.
    steps.run("build", || shell::run(&mut cargo(["build", "--workspace", "--all-targets", "--locked"])));
    let binary = target_dir().join("debug/wasmill");
    steps.run("tests", || {
        let mut tests = cargo(["test", "--workspace", "--locked", "--no-fail-fast"]);
        tests.env("WASMILL_BIN", &binary).env("WASMILL_GUESTS", &guest_dir).env("WASMILL_SERVERS", &servers);
        shell::run(&mut tests)
    });
    steps.run("simulation", || simulate(args.sim_seconds, seed));
    steps.run("metrics, rules and dashboard", || monitoring::run(&binary));
    steps.run("HTTP by properties", || http(&binary, args.http_examples));
    // Tests that no container without privileges allows are left out there, and listed.
    let needs = "needs root and namespaces; in a container: --privileged";
    if Private::Network.is_possible()? {
        steps.run("one machine under fire", || fire(args.fire_minutes / 4.0, seed, &["--alone"]));
        steps.run("a cluster under fire", || fire(args.fire_minutes, seed.wrapping_add(1), &[]));
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

/// Names the sources that are checked out, by their tree in git; what is not committed changes
/// nothing. Without git it is the same for all.
fn seed_of_sources() -> u64 {
    let tree = shell::capture(program("git").args(["rev-parse", "HEAD^{tree}"])).unwrap_or_default();
    tree.get(..8).and_then(|digits| u64::from_str_radix(digits, 16).ok()).unwrap_or(1)
}

fn fire(minutes: f64, seed: u64, options: &[&str]) -> Result<()> {
    let (minutes, seed) = (minutes.to_string(), seed.to_string());
    shell::run(shell::xtask().args(["fire", "--minutes", &minutes, "--seed", &seed]).args(options))
}

fn simulate(seconds: u64, seed: u64) -> Result<()> {
    let (seconds, seed) = (seconds.to_string(), seed.to_string());
    shell::run(program(target_dir().join("debug/wasmill-sim")).args(["--seconds", &seconds, "--seed", &seed]))
}

/// Draws requests from the OpenAPI document and checks that every answer is one that the document
/// allows, and none is a 5xx.
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
