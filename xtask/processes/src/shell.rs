//! Running other programs: each is announced, and one that fails is named.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

/// The directory of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the package is two directories below the workspace")
}

/// Where cargo puts what it builds, and we put everything else that can be thrown away.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => workspace().join(dir),
        None => workspace().join("target"),
    }
}

/// Creates a directory and those above it.
pub fn create_dir(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))
}

/// Cargo, in the workspace.
pub fn cargo<Argument: AsRef<OsStr>>(arguments: impl IntoIterator<Item = Argument>) -> Command {
    let mut command = program("cargo");
    command.args(arguments);
    // The variables in which cargo describes our own package. Build scripts of dependencies watch
    // it: with it they would be run again, and half of everything built again, whenever a build of
    // ours follows one that was started by hand.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Any program, in the workspace.
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(workspace());
    command
}

/// This program once more. Not by the path of the running one: a build of the workspace links it
/// anew, and the old file is gone.
pub fn xtask() -> Command {
    program(target_dir().join("debug/xtask"))
}

/// Runs a command to its end with our stdout and stderr.
///
/// # Errors
///
/// It cannot be started, or does not exit with 0.
pub fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("\n$ {shown}");
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    ensure!(status.success(), "`{shown}` ended with {status}");
    Ok(())
}

/// Runs a command to its end and gives its stdout.
///
/// # Errors
///
/// It cannot be started, does not exit with 0, or writes something that is no UTF-8.
pub fn capture(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{shown}`"))?;
    ensure!(output.status.success(), "`{shown}` ended with {}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("`{shown}` did not write UTF-8"))
}

/// Runs a program that has nothing to say unless it fails.
///
/// # Errors
///
/// It cannot be started, or does not exit with 0; with what it has said.
pub fn quietly(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let output = command.output().with_context(|| format!("cannot start `{shown}`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{shown}` ended with {}: {said}", output.status);
    Ok(())
}

/// Whether a command can be run and exits with 0; its output is dropped.
pub fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A command as a user would type it.
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quote(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./=:,@+%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Named steps that are all run, also when one fails, so that one run shows everything that is
/// wrong.
pub struct Steps {
    started: Instant,
    rows: Vec<(String, f64, Option<anyhow::Error>)>,
    skipped: Vec<(String, String)>,
}

impl Steps {
    /// No step yet.
    #[allow(clippy::new_without_default, reason = "it begins to measure, which a default does not say")]
    pub fn new() -> Self {
        Self { started: Instant::now(), rows: Vec::new(), skipped: Vec::new() }
    }

    /// Runs a step; its failure is kept for the end.
    pub fn run(&mut self, name: &str, step: impl FnOnce() -> Result<()>) {
        eprintln!("\n== {name}");
        let started = Instant::now();
        let error = step().err();
        if let Some(error) = &error {
            eprintln!("\nfailed: {name}: {error:#}");
        }
        self.rows.push((name.to_owned(), started.elapsed().as_secs_f64(), error));
    }

    /// Leaves a step out, because this machine cannot run it; that is shown at the end.
    pub fn skip(&mut self, name: &str, why: impl Into<String>) {
        self.skipped.push((name.to_owned(), why.into()));
    }

    /// Shows what took how long.
    ///
    /// # Errors
    ///
    /// A step failed.
    pub fn finish(self) -> Result<()> {
        eprintln!("\n== all steps, {:.0} s", self.started.elapsed().as_secs_f64());
        for (name, seconds, error) in &self.rows {
            let result = if error.is_none() { "ok" } else { "FAILED" };
            eprintln!("{result:6} {seconds:6.0} s  {name}");
        }
        for (name, why) in &self.skipped {
            eprintln!("SKIPPED          {name}: {why}");
        }
        let failed: Vec<String> =
            self.rows.iter().filter_map(|(name, _, error)| Some(format!("{name}: {:#}", error.as_ref()?))).collect();
        if !failed.is_empty() {
            bail!("{} of {} steps failed:\n{}", failed.len(), self.rows.len(), failed.join("\n"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_they_would_be_typed() {
        let mut command = Command::new("wasmill");
        command.args(["run", "a.wasm", "--input", "{\"a\": 'b'}", ""]);
        assert_eq!(show(&command), r#"wasmill run a.wasm --input '{"a": '\''b'\''}' ''"#);
    }

    #[test]
    fn all_steps_run_and_the_failed_ones_are_named() {
        let mut steps = Steps::new();
        steps.run("first", || bail!("no luck"));
        steps.run("second", || Ok(()));
        let error = steps.finish().expect_err("a step failed").to_string();
        assert_eq!(error, "1 of 2 steps failed:\nfirst: no luck");
    }

    #[test]
    fn a_program_that_fails_is_no_success() {
        assert!(works(&mut Command::new("true")));
        assert!(!works(&mut Command::new("false")));
        assert!(!works(&mut Command::new("/no/such/program")));
        assert!(run(&mut Command::new("false")).is_err());
    }
}
