//! The compiler for protocol buffers: the client of etcd is built with it.

use std::ffi::OsString;

use anyhow::{Context, Result, bail, ensure};

use super::packages;
use crate::shell::{self, program, target_dir, works};

/// The compiler, and the definitions that come with it.
const PACKAGES: [&str; 2] = ["protobuf-compiler", "libprotobuf-dev"];
/// A definition that only compiles when both are there.
const PROBE: &str =
    "syntax = \"proto3\";\nimport \"google/protobuf/descriptor.proto\";\nmessage Probe { optional int32 it = 1; }\n";

/// Sees to it that there is a compiler that cargo's build scripts find: the program that `PROTOC`
/// names, else `protoc`.
///
/// # Errors
///
/// There is none and it cannot be installed; the command that installs it is named.
pub fn protoc() -> Result<()> {
    let dir = target_dir().join("probe");
    shell::create_dir(&dir)?;
    let probe = dir.join("probe.proto");
    std::fs::write(&probe, PROBE).with_context(|| format!("cannot write {}", probe.display()))?;
    let compiler = std::env::var_os("PROTOC");
    let compiles = || {
        let mut command = program(compiler.clone().unwrap_or_else(|| OsString::from("protoc")));
        command.arg("--proto_path").arg(&dir).arg("--descriptor_set_out=/dev/null");
        if let Some(include) = std::env::var_os("PROTOC_INCLUDE") {
            command.arg("--proto_path").arg(include);
        }
        works(command.arg(&probe))
    };
    if compiles() {
        return Ok(());
    }
    if let Some(compiler) = &compiler {
        bail!("PROTOC names `{}`, which cannot compile {}", compiler.to_string_lossy(), probe.display());
    }
    packages::install(&PACKAGES)?;
    ensure!(
        compiles(),
        "protoc still cannot compile {}, although {} are installed",
        probe.display(),
        PACKAGES.join(" and ")
    );
    Ok(())
}
