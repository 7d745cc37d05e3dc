//! `cargo xtask check`: what a reviewer should not have to look for.

use anyhow::Result;

use wasmill_processes::setup;
use wasmill_processes::shell::{self, Steps, cargo, program};

use crate::fuzz;

/// Runs every check, also when one fails.
pub(crate) fn run() -> Result<()> {
    setup::protoc()?;
    let mut steps = Steps::new();
    steps.run("format", || {
        shell::run(&mut cargo(["fmt", "--all", "--check"]))?;
        fuzz::check_format()
    });
    steps.run("lints", || {
        shell::run(&mut cargo(["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"]))
    });
    steps.run("documentation", || {
        shell::run(cargo(["doc", "--workspace", "--no-deps", "--locked"]).env("RUSTDOCFLAGS", "--deny warnings"))
    });
    steps.run("licences, bans and sources", || {
        let deny = setup::cargo_deny()?;
        shell::run(program(deny).args(["--all-features", "check", "licenses", "bans", "sources"]))
    });
    steps.finish()
}
