//! A server of a test's own.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::request::{get, post};
use crate::{Ended, binary, guest, run, until};

/// `wasmill up` on an empty directory. Killed when dropped, and its data removed.
#[derive(Debug)]
pub struct Server {
    process: Process,
    data: tempfile::TempDir,
    options: Vec<String>,
}

/// Where the settings are, when there are any.
const SETTINGS_FILE: &str = "settings.toml";

#[derive(Debug)]
struct Process {
    child: Child,
    /// Kept open: a server that prints more must not be killed by it.
    _stdout: BufReader<ChildStdout>,
    url: String,
}

impl Server {
    /// Starts one and waits until it is ready.
    ///
    /// # Panics
    ///
    /// It does not get ready.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with more options, and waits until it is ready.
    ///
    /// # Panics
    ///
    /// It does not get ready.
    pub fn start_with(options: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a directory can be made");
        let options: Vec<_> = options.iter().map(ToString::to_string).collect();
        Self { process: Process::start(data.path(), &options), data, options }
    }

    /// One on a directory of mode `mode`, by a shell whose umask hides nothing.
    ///
    /// # Panics
    ///
    /// It does not get ready.
    pub fn start_in_the_open(mode: u32) -> Self {
        let data = tempfile::tempdir().expect("a directory can be made");
        std::fs::set_permissions(data.path(), Permissions::from_mode(mode)).expect("the mode can be set");
        let mut command = Command::new("sh");
        command.args(["-c", "umask 000; exec \"$@\"", "sh"]).arg(binary());
        Self { process: Process::start_by(command, data.path(), &[]), data, options: Vec::new() }
    }

    /// One with settings of its own, as a file in its data directory.
    ///
    /// # Panics
    ///
    /// It does not get ready.
    pub fn start_with_settings(settings: &str) -> Self {
        let data = tempfile::tempdir().expect("a directory can be made");
        std::fs::write(data.path().join(SETTINGS_FILE), settings).expect("a file can be written there");
        Self { process: Process::start(data.path(), &[]), data, options: Vec::new() }
    }

    /// `kill -9`, and a new start on the same data.
    ///
    /// # Panics
    ///
    /// The new one does not get ready.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// A new start on the same data, after [`Server::kill`] or [`Server::stop`].
    pub fn restart(&mut self) {
        self.process = Process::start(self.data.path(), &self.options);
    }

    /// Asks it to end, as an operator does, and waits for it.
    ///
    /// # Panics
    ///
    /// It does not end with 0.
    pub fn stop(&mut self) {
        self.ask_to_stop();
        let status = self.process.child.wait().expect("a child can be waited for");
        assert!(status.success(), "the server ended with {status}");
    }

    /// Asks it to end, and does not wait.
    pub fn ask_to_stop(&self) {
        signal(&self.process.child, "TERM");
    }

    /// Whether it has ended.
    ///
    /// # Panics
    ///
    /// The system cannot tell.
    pub fn has_ended(&mut self) -> bool {
        self.process.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Asks for `path` as the administrator; gives status and body.
    ///
    /// # Panics
    ///
    /// The server does not answer.
    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.url(), path, &[("authorization", &format!("Bearer {}", self.token()))])
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.process.url
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        self.data.path()
    }

    /// The administrator's token.
    ///
    /// # Panics
    ///
    /// There is none.
    pub fn token(&self) -> String {
        let text = std::fs::read_to_string(self.data().join("admin.token"));
        text.expect("the server has made a token").trim().to_owned()
    }

    /// Sends a JSON document with more headers; gives status and body.
    ///
    /// # Panics
    ///
    /// The server does not answer.
    pub fn post(&self, path: &str, headers: &[(&str, &str)], json: &str) -> (u16, String) {
        let authorization = format!("Bearer {}", self.token());
        let always = [("authorization", authorization.as_str()), ("content-type", "application/json")];
        post(self.url(), path, &[&always, headers].concat(), json)
    }

    /// A client command that finds this server by its data directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).env("WASMILL_DATA", self.data());
        // The settings of the developer's shell must not lead elsewhere.
        for variable in ["WASMILL_SERVER", "WASMILL_TOKEN", "WASMILL_TENANT", "WASMILL_CA"] {
            command.env_remove(variable);
        }
        command
    }

    /// Runs a client command.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.run_with(arguments, b"")
    }

    /// Runs a client command with `stdin`.
    pub fn run_with(&self, arguments: &[&str], stdin: &[u8]) -> Ended {
        run(&mut self.command(arguments), stdin)
    }

    /// Uploads an example under its own name.
    #[track_caller]
    pub fn push(&self, name: &str) {
        let file = guest(name);
        let _ = self.run(&["push", &file.to_string_lossy(), "--alias", name]).done();
    }

    /// Submits a task; gives its id.
    #[track_caller]
    pub fn submit(&self, arguments: &[&str]) -> String {
        self.run(&[&["submit"], arguments].concat()).done().text().to_owned()
    }

    /// All that is known of a task.
    #[track_caller]
    pub fn task(&self, id: &str) -> Value {
        self.run(&["get", "--json", id]).done().json()
    }

    /// Waits until a task is in this state.
    ///
    /// # Panics
    ///
    /// It does not get there.
    #[track_caller]
    pub fn wait_for(&self, id: &str, state: &str) -> Value {
        until(&format!("task {id} to be {state}"), || Some(self.task(id)).filter(|task| task["state"] == state))
    }

    /// All tasks, page by page, newest first.
    #[track_caller]
    pub fn tasks(&self) -> Vec<Value> {
        let mut tasks = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let mut arguments = vec!["ps", "--json", "--limit", "1000"];
            arguments.extend(cursor.iter().flat_map(|cursor| ["--cursor", cursor.as_str()]));
            let page = self.run(&arguments).done().json();
            tasks.extend(page["items"].as_array().expect("a page has items").iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = Some(next.to_owned()),
                None => return tasks,
            }
        }
    }

    /// Waits until no task is left to do.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        until("the queue to be empty", || {
            let queue = self.run(&["status", "--json"]).done().json()["queue"].clone();
            let left = ["waiting", "queued", "running"].iter().filter_map(|state| queue[state].as_u64()).sum::<u64>();
            (left == 0).then_some(())
        });
    }
}

impl Process {
    fn start(data: &Path, options: &[String]) -> Self {
        Self::start_by(Command::new(binary()), data, options)
    }

    fn start_by(mut command: Command, data: &Path, options: &[String]) -> Self {
        command.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(data).args(options);
        let settings = data.join(SETTINGS_FILE);
        if settings.exists() {
            command.arg("--config").arg(settings);
        }
        // The settings of the developer's shell must not lead elsewhere.
        command.env_remove("OTEL_EXPORTER_OTLP_ENDPOINT").env_remove("OTEL_SERVICE_NAME");
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the binary can be started");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("stdout can be read");
        match line.trim().strip_prefix("listening on ") {
            Some(url) => Self { child, _stdout: stdout, url: url.to_owned() },
            None => panic!("the server says `{line}` and ends with {:?}", child.wait()),
        }
    }

    fn kill(&mut self) {
        // Both fail when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a child.
///
/// # Panics
///
/// The child has ended.
pub fn signal(child: &Child, name: &str) {
    // The shell's own `kill`: a fresh machine may lack the program.
    let sent = Command::new("sh").args(["-c", "kill -s \"$1\" \"$2\"", "sh", name, &child.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "SIG{name} cannot be sent to {}", child.id());
}
