//! The server that is measured: one that runs already, or a private one.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::args::GlobalArgs;
use crate::bench::http::{Connection, Endpoint};
use crate::bench::machine;
use crate::data_dir::ADMIN_TOKEN_FILE;
use crate::failure::{Exit, Failure};

/// Where data is kept that must be on a disk: `/tmp` is often in memory, where fsync costs nothing.
const DIR_DEFAULT: &str = "/var/tmp";

/// A server to measure.
pub(super) struct Target {
    endpoint: Endpoint,
    private: Option<Private>,
}

/// A server of our own. Killed when dropped, and its data removed.
struct Private {
    child: Child,
    /// Kept open: a server that prints more must not be killed by it.
    _stdout: BufReader<ChildStdout>,
    data: tempfile::TempDir,
}

impl Target {
    /// The server that the user named, else a private one with its data under `dir`.
    pub(super) async fn open(global: &GlobalArgs, dir: Option<&Path>) -> Result<Self, Failure> {
        let target = if global.names_server() {
            let (server, token) = global.server_and_token()?;
            Self { endpoint: Endpoint::new(&server, &token)?, private: None }
        } else {
            Self::spawn(dir.unwrap_or(Path::new(DIR_DEFAULT)))?
        };
        target.connect().await.map_err(|error| Failure::from(error).exit(Exit::Server))?;
        Ok(target)
    }

    fn spawn(dir: &Path) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("wasmill-bench-").tempdir_in(dir);
        let data = data.with_context(|| format!("cannot make a data directory in {}", dir.display()))?;
        if machine::file_system(data.path()).as_deref() == Some("tmpfs") {
            crate::output::tell(&format!(
                "warning: {} is in memory, where durability costs nothing; name a disk with --dir",
                dir.display()
            ));
        }
        let (child, stdout, url) = start(data.path())?;
        let token =
            std::fs::read_to_string(data.path().join(ADMIN_TOKEN_FILE)).context("the server made no admin token")?;
        let endpoint = Endpoint::new(&url, token.trim())?;
        Ok(Self { endpoint, private: Some(Private { child, _stdout: stdout, data }) })
    }

    /// Where it is.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> Result<Connection> {
        self.endpoint.connect().await
    }

    /// Memory of the private server, in bytes: resident now, or with `VmHWM` at its highest.
    pub(super) fn memory_bytes(&self, name: &str) -> Result<u64> {
        let private = self.private.as_ref().context("memory is only measured of a private server")?;
        machine::memory_bytes(private.child.id(), name).context("the private server is gone")
    }

    /// Kills the private server in the middle of whatever it does and starts it again; answers how
    /// long it took from the start of the process until it was ready.
    pub(super) fn restart(&mut self) -> Result<Duration> {
        let private = self.private.as_mut().context("only a private server is restarted")?;
        private.child.kill().context("cannot kill the private server")?;
        private.child.wait().context("cannot wait for the private server")?;
        let token =
            std::fs::read_to_string(private.data.path().join(ADMIN_TOKEN_FILE)).context("the admin token is gone")?;
        let started = Instant::now();
        let (child, stdout, url) = start(private.data.path())?;
        let took = started.elapsed();
        (private.child, private._stdout) = (child, stdout);
        self.endpoint = Endpoint::new(&url, token.trim())?;
        Ok(took)
    }
}

/// Starts `wasmill up` and waits until it says that it listens.
fn start(data: &Path) -> Result<(Child, BufReader<ChildStdout>, String)> {
    let binary = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(binary);
    command.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(data);
    // The settings of the user's shell must not change the figures.
    command.env_remove("WASMILL_DATA").env_remove("WASMILL_SERVER").env_remove("RUST_LOG");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut stdout = BufReader::new(child.stdout.take().context("the server has no stdout")?);
    loop {
        let mut line = String::new();
        if stdout.read_line(&mut line)? == 0 {
            let status = child.wait()?;
            bail!("the private server ended with {status} before it was ready; `wasmill up` says why");
        }
        if let Some(url) = line.trim().strip_prefix("listening on ") {
            return Ok((child, stdout, url.to_owned()));
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
