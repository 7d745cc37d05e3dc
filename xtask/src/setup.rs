//! Installs what is missing where this user may, else says by which command it is installed.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::shell::{self, program, target_dir, works};

/// The targets that guests are built for.
const GUEST_TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-wasip2"];
/// The property-based HTTP client that is run against the OpenAPI document.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// What checks licences and bans.
const CARGO_DENY: [&str; 3] = ["cargo-deny", "--version", "=0.20.2"];

/// Installs everything that `cargo xtask test` and `cargo xtask check` need.
pub(crate) fn everything() -> Result<()> {
    guest_targets()?;
    schemathesis()?;
    cargo_deny()?;
    Ok(())
}

/// Adds the WebAssembly targets to the toolchain. rustup does so by itself only when it installs the toolchain.
pub(crate) fn guest_targets() -> Result<()> {
    for target in GUEST_TARGETS {
        let libraries = shell::capture(program("rustc").args(["--print", "target-libdir", "--target", target]))?;
        if !PathBuf::from(libraries.trim()).is_dir() {
            shell::run(program("rustup").args(["target", "add", target]))?;
        }
    }
    Ok(())
}

/// Installs schemathesis into a virtual environment under the target directory; gives the program.
pub(crate) fn schemathesis() -> Result<PathBuf> {
    let venv = target_dir().join("venv");
    let installed = venv.join("bin/schemathesis");
    if !works(program(&installed).arg("--version")) {
        python()?;
        shell::run(program("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
        shell::run(program(venv.join("bin/pip")).args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            SCHEMATHESIS,
        ]))?;
    }
    Ok(installed)
}

/// A compiler for the part of the fuzzer that is written in C++.
pub(crate) fn cpp_compiler() -> Result<()> {
    let has_one = || works(program("c++").arg("--version"));
    if !has_one() {
        apt_install(&["g++"])?;
        ensure!(has_one(), "there still is no `c++`, although g++ is installed");
    }
    Ok(())
}

/// Python with `venv`, which Debian and Ubuntu package apart.
fn python() -> Result<()> {
    let has_venv = || works(program("python3").args(["-c", "import venv, ensurepip"]));
    if !has_venv() {
        apt_install(&["python3", "python3-venv"])?;
        ensure!(has_venv(), "python3 still has no venv and ensurepip, although python3-venv is installed");
    }
    Ok(())
}

/// Installs `cargo deny` under the target directory unless it is there; gives the program.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    if works(program("cargo-deny").arg("--version")) {
        return Ok("cargo-deny".into());
    }
    let root = target_dir().join("tools");
    let installed = root.join("bin/cargo-deny");
    if !works(program(&installed).arg("--version")) {
        shell::run(program("cargo").args(["install", "--locked", "--root"]).arg(&root).args(CARGO_DENY))?;
    }
    Ok(installed)
}

/// Installs packages of Debian or Ubuntu.
fn apt_install(packages: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get install --yes --no-install-recommends {}", packages.join(" "));
    let apt_get = |arguments: &[&str]| {
        let mut command = program("apt-get");
        shell::run(command.env("DEBIAN_FRONTEND", "noninteractive").args(arguments)).is_ok()
    };
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    let is_installed = is_root() && apt_get(&["update", "--quiet"]) && apt_get(&install);
    ensure!(is_installed, "{} missing; run as root: {by_hand}", packages.join(" and "));
    Ok(())
}

fn is_root() -> bool {
    shell::capture(program("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}
