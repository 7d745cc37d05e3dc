//! `cargo xtask fuzz`: looks for inputs that break what reads them.
//!
//! Each package is laid out as `cargo fuzz` has it, which works too where a nightly compiler is.
//! Here the compiler of the project does: counting branches is a pass of LLVM that it has as well.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use wasmill_processes::setup;
use wasmill_processes::shell::{self, Steps, cargo, program, target_dir, workspace};

/// Packages of fuzz targets, beside what they fuzz.
pub(crate) const PACKAGES: [&str; 5] =
    ["protocol/fuzz", "api/fuzz", "scheduler/record/fuzz", "scheduler/core/fuzz", "host/fuzz"];

/// Makes the program count which branches it takes and see what it compares, and check itself as
/// when it is tested.
const RUSTFLAGS: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
];

/// An input that takes longer is one that somebody can stop us with.
const INPUT_TIMEOUT_S: u32 = 20;
/// An input that takes more memory likewise.
const MEMORY_MIB_MAX: u32 = 1024;

/// The options of `fuzz`.
#[derive(Debug, clap::Args)]
pub(crate) struct FuzzArgs {
    /// The target; without it every target is run
    target: Option<String>,
    /// How long each target is run
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    seconds: u64,
    /// Runs one input once: what an earlier run has found
    #[arg(long, value_name = "FILE", requires = "target")]
    input: Option<PathBuf>,
}

/// A fuzz target.
struct Target {
    package: PathBuf,
    name: String,
}

/// Builds and runs one target, or all of them one after the other.
///
/// # Errors
///
/// An input was found that breaks a target; it is named.
pub(crate) fn run(args: &FuzzArgs) -> Result<()> {
    setup::cpp_compiler()?;
    let mut targets = targets()?;
    if let Some(name) = &args.target {
        let known: Vec<_> = targets.iter().map(|target| target.name.clone()).collect();
        targets.retain(|target| target.name == *name);
        ensure!(!targets.is_empty(), "there is no fuzz target `{name}`: {} are known", known.join(", "));
    }
    let mut steps = Steps::new();
    for target in targets {
        let name = target.name.clone();
        steps.run(&name, || target.run(args));
    }
    steps.finish()
}

/// Every target there is: a file each.
fn targets() -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for package in PACKAGES {
        let package = workspace().join(package);
        let files = package.join("fuzz_targets");
        for file in files.read_dir().with_context(|| format!("cannot list {}", files.display()))? {
            let path = file?.path();
            let name = path.file_stem().and_then(|name| name.to_str());
            let name = name.with_context(|| format!("{} is no target", path.display()))?.to_owned();
            targets.push(Target { package: package.clone(), name });
        }
    }
    targets.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(targets)
}

impl Target {
    fn run(&self, args: &FuzzArgs) -> Result<()> {
        let fuzzer = self.build()?;
        let mut command = program(fuzzer);
        if let Some(input) = &args.input {
            return shell::run(command.arg(std::path::absolute(input)?));
        }
        let (found, broken) = (self.dir("corpus")?, self.dir("artifacts")?);
        // New inputs go into the first directory; the others are only read.
        command.arg(&found).arg(self.package.join("corpus").join(&self.name));
        let guests = target_dir().join("guests");
        if self.package.ends_with("host/fuzz") && guests.is_dir() {
            command.arg(guests);
        }
        let dictionary = self.package.join("dict").join(&self.name).with_extension("dict");
        if dictionary.is_file() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        command
            .arg(format!("-artifact_prefix={}/", broken.display()))
            .arg(format!("-max_total_time={}", args.seconds))
            .arg(format!("-timeout={INPUT_TIMEOUT_S}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
            .arg("-print_final_stats=1");
        if shell::run(&mut command).is_err() {
            let (name, broken) = (&self.name, broken.display());
            bail!(
                "an input breaks `{name}`: it is in {broken}; run it with `cargo xtask fuzz {name} --input FILE`, repair what it \
                 breaks, and keep it in the corpus"
            );
        }
        Ok(())
    }

    /// Builds the target, and everything that it fuzzes, so that branches are counted; gives the
    /// program.
    fn build(&self) -> Result<PathBuf> {
        let host = host_triple()?;
        let target_dir = target_dir().join("fuzz");
        let mut build = cargo(["build", "--release", "--locked", "--bin", &self.name]);
        // With a target of their own, build scripts and macros are left as they are.
        build.args(["--target", &host, "--target-dir"]).arg(&target_dir);
        build.arg("--manifest-path").arg(self.package.join("Cargo.toml")).env("RUSTFLAGS", RUSTFLAGS.join(" "));
        shell::run(&mut build)?;
        Ok(target_dir.join(host).join("release").join(&self.name))
    }

    /// A directory for what a run leaves.
    fn dir(&self, kind: &str) -> Result<PathBuf> {
        let dir = target_dir().join("fuzz").join(kind).join(&self.name);
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        Ok(dir)
    }
}

fn host_triple() -> Result<String> {
    let version = shell::capture(program("rustc").arg("--version").arg("--verbose"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say for which machine it compiles")
}

/// Checks the format of the packages, which are no members of the workspace.
pub(crate) fn check_format() -> Result<()> {
    for package in PACKAGES {
        let manifest = Path::new(package).join("Cargo.toml");
        let mut format: Command = cargo(["fmt", "--check", "--manifest-path"]);
        shell::run(format.arg(manifest))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_declared_and_has_inputs_that_are_replayed() {
        let targets = targets().expect("the targets are there");
        assert!(targets.len() >= 5);
        for Target { package, name } in targets {
            let manifest = std::fs::read_to_string(package.join("Cargo.toml")).expect("a package has a manifest");
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "`{name}` is in its manifest");
            let corpus = package.join("corpus").join(&name);
            assert!(corpus.read_dir().is_ok_and(|mut files| files.next().is_some()), "{} has files", corpus.display());
        }
    }
}
