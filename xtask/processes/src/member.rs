//! One process of a cluster of ours.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use wasmill_fabric_testing::spawn;

/// Between two looks at a process that is to end.
const LOOK: Duration = Duration::from_millis(10);
/// Lines of what a process has said that are shown when it fails.
const SAID_LINES: usize = 30;

/// A process that can be started again and again. It ends with us, however we end.
#[derive(Debug)]
pub struct Member {
    /// Such as `control-1`.
    pub name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
    dies_of_signals: bool,
}

impl Member {
    /// A process that was not started yet; what it prints is appended to `LOGS/NAME.log`.
    pub fn new(name: &str, program: PathBuf, arguments: Vec<OsString>, logs: &Path) -> Self {
        let log = logs.join(name).with_extension("log");
        Self { name: name.to_owned(), program, arguments, log, child: None, dies_of_signals: false }
    }

    /// It sends itself the signal that asked it to end, once everything is closed, as etcd does.
    pub fn dying_of_signals(mut self) -> Self {
        self.dies_of_signals = true;
        self
    }

    /// Starts it. It need not be ready then.
    pub fn start(&mut self) -> Result<()> {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let open = || OpenOptions::new().create(true).append(true).open(&self.log);
        let open = || open().with_context(|| format!("cannot write {}", self.log.display()));
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(open()?).stderr(open()?);
        // The settings of the present shell must not lead elsewhere.
        for variable in ["WASMILL_SERVER", "WASMILL_TOKEN", "WASMILL_TENANT", "WASMILL_DATA"] {
            command.env_remove(variable);
        }
        // In a group of its own: an interrupt from the terminal is for us, and we decide in which
        // order things end.
        command.process_group(0);
        self.child = Some(spawn(command).with_context(|| format!("cannot start {}", self.name))?);
        Ok(())
    }

    /// `kill -9`, and waits until it is gone. One that is not running is fine.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGSTOP: it stays as it is and does nothing.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// SIGTERM.
    pub fn ask_to_end(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Asks it to end, and waits until it has. One that is not running is fine.
    ///
    /// # Errors
    ///
    /// It does not end in time, or not well.
    pub fn stop(&mut self, patience: Duration) -> Result<()> {
        if self.child.is_none() {
            return Ok(());
        }
        self.ask_to_end()?;
        let begun = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                let is_good =
                    status.success() || self.dies_of_signals && status.signal() == Some(Signal::TERM.as_raw());
                ensure!(is_good, "{} ended with {status} when it was asked to:\n{}", self.name, self.said());
                return Ok(());
            }
            ensure!(begun.elapsed() < patience, "{} does not end in {patience:?}:\n{}", self.name, self.said());
            std::thread::sleep(LOOK);
        }
    }

    /// How it has ended by itself; `None` while it runs. Says so once, and then it can be started
    /// again.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("a child can be waited for")?;
        self.child = None;
        Some(status)
    }

    /// Whether it was started, and not seen to end.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The end of what it has said.
    pub fn said(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SAID_LINES)..].join("\n")
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} is not running", self.name))?;
        kill_process(Pid::from_child(child), signal).with_context(|| format!("cannot send a signal to {}", self.name))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}
