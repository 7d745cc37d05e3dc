//! Builds the guests under `examples/`.
//!
//! The Rust ones take one cargo invocation for each WebAssembly target, the one in C takes clang.
//! A missing tool is installed where this user may, else the error is the command that
//! installs it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::setup::packages;
use crate::shell::workspace;

/// Components that export the task world.
const TASKS: &[&str] =
    &["dice", "hello", "memory-hog", "noop", "prime-sieve", "resumable", "spin-forever", "word-count"];
/// Components that are WASI 0.2 commands.
const COMMANDS_P2: &[&str] = &["thumbnail"];
/// Core modules that are WASI 0.1 commands.
const COMMANDS_P1: &[&str] = &["csv-sum"];
/// The command in C, and where its source is.
const COMMAND_C: (&str, &str) = ("c-wordfreq", "examples/c-wordfreq/wordfreq.c");
/// Packages that compile C to WASI on Debian and Ubuntu.
const C_PACKAGES: &[&str] = &["clang", "lld", "wasi-libc", "libclang-rt-dev-wasm32"];

/// A guest that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// The directory under `examples/`, such as `word-count`.
    pub name: &'static str,
    /// How it takes its payload.
    pub kind: GuestKind,
    /// The module, `OUT_DIR/NAME.wasm`.
    pub path: PathBuf,
}

/// How a guest takes its payload; the `kind` that a server reports for the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestKind {
    /// As an argument of the task world's `run`.
    Task,
    /// On stdin.
    Command,
}

/// Builds every example and puts the modules into `out_dir`, which is created.
///
/// # Errors
///
/// A toolchain that is missing and cannot be installed, with the command that would; or the
/// compiler's failure.
pub fn build_all(out_dir: &Path) -> Result<Vec<Guest>> {
    std::fs::create_dir_all(out_dir).with_context(|| format!("cannot create {}", out_dir.display()))?;
    let p2: Vec<_> = TASKS.iter().chain(COMMANDS_P2).copied().collect();
    let mut built = cargo_build("wasm32-wasip2", &p2)?;
    built.extend(cargo_build("wasm32-wasip1", COMMANDS_P1)?);

    let mut guests = Vec::new();
    for (name, artifact) in built {
        let path = out_dir.join(format!("{name}.wasm"));
        std::fs::copy(&artifact, &path)
            .with_context(|| format!("cannot copy {} to {}", artifact.display(), path.display()))?;
        let kind = if TASKS.contains(&name) { GuestKind::Task } else { GuestKind::Command };
        guests.push(Guest { name, kind, path });
    }
    let (name, source) = COMMAND_C;
    let path = out_dir.join(format!("{name}.wasm"));
    clang_build(&workspace().join(source), &path)?;
    guests.push(Guest { name, kind: GuestKind::Command, path });
    guests.sort_by_key(|guest| guest.name);
    Ok(guests)
}

/// Builds packages for a target; gives the module of each.
fn cargo_build(target: &str, packages: &[&'static str]) -> Result<Vec<(&'static str, PathBuf)>> {
    ensure_target(target)?;
    let mut cargo = Command::new("cargo");
    cargo.current_dir(workspace()).args(["build", "--profile", "guest", "--target", target]);
    // The path of a module depends on settings that only cargo knows, so cargo is asked for it.
    cargo.arg("--message-format=json-render-diagnostics");
    cargo.args(packages.iter().flat_map(|package| ["--package", package]));
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    ensure!(output.status.success(), "cargo cannot build the guests for {target}");
    let messages = String::from_utf8(output.stdout).context("cargo's messages are not UTF-8")?;
    packages
        .iter()
        .map(|package| {
            let path = module_of(package, &messages)
                .with_context(|| format!("cargo built `{package}` for {target} but names no module"))?;
            Ok((*package, path))
        })
        .collect()
}

/// The module of a package, in cargo's messages: one JSON object a line.
fn module_of(package: &str, messages: &str) -> Option<PathBuf> {
    let artifacts = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    artifacts
        .filter(|message| message["reason"] == "compiler-artifact")
        // The name of a library has underscores where its package has hyphens.
        .filter(|message| message["target"]["name"].as_str().is_some_and(|name| name.replace('_', "-") == package))
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default())
        .filter_map(|file| file.as_str().map(PathBuf::from))
        .find(|file| file.extension().is_some_and(|extension| extension == "wasm"))
}

/// Installs the standard library for a target. rustup does so by itself only when it installs the
/// toolchain.
fn ensure_target(target: &str) -> Result<()> {
    let output = Command::new("rustc")
        .current_dir(workspace())
        .args(["--print", "target-libdir", "--target", target])
        .output()
        .context("cannot start rustc")?;
    let library_dir = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && Path::new(library_dir.trim()).is_dir() {
        return Ok(());
    }
    eprintln!("adding the target {target}");
    let added = Command::new("rustup").current_dir(workspace()).args(["target", "add", target]).status();
    if !added.is_ok_and(|status| status.success()) {
        bail!("the target {target} is missing and cannot be added; run: rustup target add {target}");
    }
    Ok(())
}

fn clang_build(source: &Path, module: &Path) -> Result<()> {
    if !clang_works() {
        eprintln!("installing what compiles C to WASI");
        packages::install(C_PACKAGES).context("the example in C cannot be compiled")?;
        ensure!(clang_works(), "clang still cannot compile for WASI, although {} are installed", C_PACKAGES.join(", "));
    }
    // As in the Makefile beside the source; make itself may be missing.
    let status = clang(module).args(["-O2", "-Wall", "-Wextra", "-Werror", "-Wl,--strip-debug"]).arg(source).status();
    ensure!(status.is_ok_and(|status| status.success()), "clang cannot compile {}", source.display());
    Ok(())
}

fn clang(module: &Path) -> Command {
    let mut clang = Command::new("clang");
    clang.arg("--target=wasm32-wasi").arg("-o").arg(module);
    clang
}

/// Whether clang, the linker, the C library and the compiler's runtime are all there: only linking
/// a program tells.
fn clang_works() -> bool {
    let link = || -> std::io::Result<bool> {
        let mut clang = clang(Path::new("/dev/null"))
            .args(["-x", "c", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut source = clang.stdin.take().expect("stdin is a pipe");
        // clang that cannot start compiling closes the pipe; its exit status says so below.
        let _ = source.write_all(b"#include <stdio.h>\nint main(void) { return puts(\"\") < 0; }\n");
        drop(source);
        Ok(clang.wait()?.success())
    };
    link().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_built() {
        let mut listed = [TASKS, COMMANDS_P2, COMMANDS_P1, &[COMMAND_C.0]].concat();
        listed.sort_unstable();
        let examples = std::fs::read_dir(workspace().join("examples")).expect("the examples are there");
        let mut present: Vec<_> = examples
            .map(|entry| entry.expect("a directory can be listed").path())
            .filter(|path| path.join("Cargo.toml").exists() || path.join("Makefile").exists())
            .map(|path| path.file_name().expect("an entry has a name").to_string_lossy().into_owned())
            // The crate that runs the guests is none itself.
            .filter(|name| name != "tests" && name != "e2e")
            .collect();
        present.sort_unstable();
        assert_eq!(listed, present);
    }

    #[test]
    fn the_module_is_found_among_cargos_messages() {
        let messages = [
            r#"{"reason":"compiler-artifact","target":{"name":"serde"},"filenames":["/t/libserde.rlib"]}"#,
            r#"{"reason":"compiler-message","target":{"name":"word_count"},"message":{}}"#,
            r#"{"reason":"compiler-artifact","target":{"name":"word_count"},"filenames":["/t/word_count.d","/t/word_count.wasm"]}"#,
            r#"{"reason":"build-finished","success":true}"#,
        ]
        .join("\n");
        assert_eq!(module_of("word-count", &messages), Some(PathBuf::from("/t/word_count.wasm")));
        assert_eq!(module_of("serde", &messages), None);
    }
}
