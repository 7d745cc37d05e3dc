//! A server of our own: started on an empty data directory, stopped at the end.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};

use wasmill_processes::shell::{self, program};

/// A running `wasmill up`. Killed when dropped, and its data removed; [`Server::stop`] ends it as
/// an operator would.
pub(crate) struct Server {
    child: Child,
    /// Kept open: a server whose stdout is closed might die of it.
    _stdout: BufReader<ChildStdout>,
    binary: PathBuf,
    data: PathBuf,
    /// Like `http://127.0.0.1:40123`.
    pub(crate) url: String,
}

impl Server {
    /// Starts `binary up` on an empty directory inside of `dir`, and waits until it is ready.
    pub(crate) fn start(binary: &Path, dir: &Path) -> Result<Self> {
        // Another process in the same checkout must not find, let alone empty, the data of this
        // one.
        let data = dir.join(format!("data-{}", std::process::id()));
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        std::fs::create_dir(&data).with_context(|| format!("cannot create {}", data.display()))?;
        let mut command = program(binary);
        command.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(&data);
        eprintln!("\n$ {}", shell::show(&command));
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the server")?;
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let url = loop {
            let mut line = String::new();
            if stdout.read_line(&mut line).context("cannot read what the server prints")? == 0 {
                bail!("the server ended before it was ready: {}", child.wait()?);
            }
            if let Some(url) = line.trim().strip_prefix("listening on ") {
                break url.to_owned();
            }
        };
        eprintln!("listening on {url}");
        Ok(Self { child, _stdout: stdout, binary: binary.to_owned(), data, url })
    }

    /// A client command for this server.
    pub(crate) fn client<const COUNT: usize>(&self, arguments: [&str; COUNT]) -> Command {
        let mut command = program(&self.binary);
        command.args(arguments).env("WASMILL_DATA", &self.data);
        // The settings of the user's shell must not lead to another server.
        for variable in ["WASMILL_SERVER", "WASMILL_TOKEN", "WASMILL_TENANT"] {
            command.env_remove(variable);
        }
        command
    }

    /// The token of its administrator.
    pub(crate) fn admin_token(&self) -> Result<String> {
        let file = self.data.join("admin.token");
        let text = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        Ok(text.trim().to_owned())
    }

    /// Asks the server to end and waits for it.
    pub(crate) fn stop(mut self) -> Result<()> {
        let pid = self.child.id().to_string();
        // The shell's own `kill`: a fresh machine may lack the program.
        shell::run(program("sh").args(["-c", "kill -TERM \"$1\"", "sh", &pid]))?;
        let status: ExitStatus = self.child.wait().context("cannot wait for the server")?;
        ensure!(status.success(), "the server ended with {status} when it was asked to stop");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Err(error) = std::fs::remove_dir_all(&self.data) {
            eprintln!("cannot remove {}: {error}", self.data.display());
        }
    }
}
