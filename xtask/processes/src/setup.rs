//! Installs what is missing where this user may, else says by which command it is installed.

pub mod packages;
mod protoc;
mod servers;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};

pub use protoc::protoc;
pub use servers::{promtool, servers};

use crate::shell::{self, program, target_dir, works};

/// The targets that guests are built for.
const GUEST_TARGETS: [&str; 2] = ["wasm32-wasip1", "wasm32-wasip2"];
/// The property-based HTTP client that is run against the OpenAPI document.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";
/// The tool that checks licences and bans.
const CARGO_DENY: [&str; 3] = ["cargo-deny", "--version", "=0.20.2"];

/// Installs everything that `cargo xtask test` and `cargo xtask check` need.
pub fn everything() -> Result<()> {
    guest_targets()?;
    protoc()?;
    servers()?;
    promtool()?;
    namespace_tools()?;
    file_system_tools()?;
    schemathesis()?;
    cargo_deny()?;
    Ok(())
}

/// Adds the WebAssembly targets to the toolchain. rustup does so by itself only when it installs
/// the toolchain.
pub fn guest_targets() -> Result<()> {
    for target in GUEST_TARGETS {
        let libraries = shell::capture(program("rustc").args(["--print", "target-libdir", "--target", target]))?;
        if !PathBuf::from(libraries.trim()).is_dir() {
            shell::run(program("rustup").args(["target", "add", target]))?;
        }
    }
    Ok(())
}

/// Installs schemathesis into a virtual environment under the target directory; gives the program.
pub fn schemathesis() -> Result<PathBuf> {
    let installed = venv().join("bin/schemathesis");
    if !works(program(&installed).arg("--version")) {
        shell::run(pip()?.arg(SCHEMATHESIS))?;
    }
    Ok(installed)
}

/// A compiler for the part of the fuzzer that is written in C++.
pub fn cpp_compiler() -> Result<()> {
    let has_one = || works(program("c++").arg("--version"));
    if !has_one() {
        packages::install(&["g++"])?;
        ensure!(has_one(), "there still is no `c++`, although g++ is installed");
    }
    Ok(())
}

/// `pip install` of the virtual environment, which is made if it is not there.
fn pip() -> Result<Command> {
    let pip = venv().join("bin/pip");
    if !works(program(&pip).arg("--version")) {
        python()?;
        shell::run(program("python3").args(["-m", "venv", "--clear"]).arg(venv()))?;
    }
    let mut command = program(pip);
    command.args(["install", "--quiet", "--disable-pip-version-check"]);
    Ok(command)
}

fn venv() -> PathBuf {
    target_dir().join("venv")
}

/// Python with `venv`, which Debian and Ubuntu package apart.
fn python() -> Result<()> {
    let has_venv = || works(program("python3").args(["-c", "import venv, ensurepip"]));
    if !has_venv() {
        packages::install(&["python3", "python3-venv"])?;
        ensure!(has_venv(), "python3 still has no venv and ensurepip, although python3-venv is installed");
    }
    Ok(())
}

/// The tools that make a file system in a file.
pub fn file_system_tools() -> Result<()> {
    let has_tools = || works(program("mkfs.ext4").arg("-V"));
    if !has_tools() {
        packages::install(&["e2fsprogs"])?;
        ensure!(has_tools(), "mkfs.ext4 still does not work, although e2fsprogs is installed");
    }
    Ok(())
}

/// The tools that make namespaces and networks, and enter them.
pub fn namespace_tools() -> Result<()> {
    let has_tools = || ["ip", "unshare", "nsenter", "setpriv"].iter().all(|tool| works(program(tool).arg("-V")));
    if !has_tools() {
        packages::install(&["iproute2", "util-linux"])?;
        ensure!(
            has_tools(),
            "ip, unshare, nsenter or setpriv still do not work, although iproute2 and util-linux are installed"
        );
    }
    Ok(())
}

/// Installs `cargo deny` under the target directory unless it is there; gives the program.
pub fn cargo_deny() -> Result<PathBuf> {
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
