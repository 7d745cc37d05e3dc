//! The crate that `wasmill new` writes passes its tests and becomes a component, with nothing but
//! its own directory.

#[path = "../template/files.rs"]
mod files;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The first bytes of a component: magic number, version, layer.
const COMPONENT_HEADER: &[u8] = b"\0asm\x0d\0\x01\0";

fn sdk() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory of this test's own, empty, and outside of the workspace's members.
fn fresh_dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).expect("the directory of an earlier run can be removed");
    }
    fs::create_dir_all(&dir).expect("a directory can be made for temporary files");
    dir
}

fn cargo(dir: &Path, arguments: &[&str]) {
    let output = Command::new(env!("CARGO"))
        .current_dir(dir)
        .args(arguments)
        // Kept from run to run: the generator of the bindings takes a while to build.
        .env("CARGO_TARGET_DIR", Path::new(env!("CARGO_TARGET_TMPDIR")).join("template-target"))
        .env("RUSTFLAGS", "--deny warnings")
        .output()
        .expect("cargo can be started");
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {} failed:\n{shown}", arguments.join(" "));
}

#[test]
fn a_new_crate_is_tested_and_built() {
    let dir = fresh_dir("template");
    for (path, content) in files::files("new-task") {
        assert!(
            path.starts_with("vendor/") || !content.contains("{{"),
            "{path} has a placeholder that nobody fills in"
        );
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("a directory can be made");
        fs::write(path, content).expect("a file can be written");
    }
    // The versions that the workspace was tested with, which are there already.
    fs::copy(sdk().join("../Cargo.lock"), dir.join("Cargo.lock")).expect("the workspace has a lock file");

    cargo(&dir, &["test"]);
    cargo(&dir, &["build", "--release", "--target", "wasm32-wasip2"]);

    let module = format!("template-target/wasm32-wasip2/release/{}.wasm", files::module("new-task"));
    let module = fs::read(Path::new(env!("CARGO_TARGET_TMPDIR")).join(module)).expect("the module was built");
    assert!(module.starts_with(COMPONENT_HEADER), "the module is not a component");
}

#[test]
fn every_source_of_the_sdk_comes_along() {
    let listed: BTreeSet<_> = files::files("x")
        .filter_map(|(path, _)| path.strip_prefix("vendor/wasmill-guest/").map(PathBuf::from))
        .collect();
    let mut present = BTreeSet::from(["Cargo.toml", "README.md", "macros/Cargo.toml"].map(PathBuf::from));
    for dir in ["src", "macros/src", "wit"] {
        let entries = fs::read_dir(sdk().join(dir)).expect("the sources are there");
        present.extend(entries.map(|entry| Path::new(dir).join(entry.expect("a source can be listed").file_name())));
    }
    assert_eq!(listed, present);
}
