//! A cluster of a test's own: real NATS and etcd, control nodes and hosts.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;
use wasmill_fabric_testing::{EtcdOptions, EtcdServer, EtcdVersion, NatsOptions, NatsServer, NatsVersion, spawn};

use crate::{Ended, binary, guest, run, signal, until};

/// How long a process that falls silent keeps its place. Short, so that tests need not wait long;
/// etcd of these tests allows 1 s.
const LEASE_MS: &str = "2000";
/// The token of the administrator, on every node.
const TOKEN: &str = "an-administrator-of-the-end-to-end-tests";

/// Servers and processes. All of them end when this is dropped.
pub struct Cluster {
    /// The control nodes; those that a test has ended are still here.
    pub controls: Vec<Member>,
    /// The hosts.
    pub hosts: Vec<Member>,
    nats: NatsServer,
    etcd: EtcdServer,
    dir: tempfile::TempDir,
}

/// One process of the cluster.
#[derive(Debug)]
pub struct Member {
    /// Its data directory.
    pub data: PathBuf,
    /// Its line when it was ready: the URL of a control node, the id of a host.
    pub name: String,
    arguments: Vec<String>,
    child: Child,
    /// Kept open: a process that prints more must not be killed by it.
    _stdout: BufReader<ChildStdout>,
}

impl Cluster {
    /// Starts so many control nodes and hosts, and waits until all of them are ready.
    ///
    /// # Panics
    ///
    /// They do not get ready.
    pub fn start(controls: usize, hosts: usize) -> Self {
        let mut cluster = Self::empty();
        let token_file = cluster.dir.path().join("token");
        std::fs::write(&token_file, TOKEN).expect("a file can be written");
        let token_file = token_file.to_string_lossy().into_owned();
        for _ in 0..controls {
            cluster.add_control(&["--admin-token-file", &token_file]);
        }
        for _ in 0..hosts {
            cluster.add_host();
        }
        cluster
    }

    /// Servers, and nothing of ours yet.
    ///
    /// # Panics
    ///
    /// They cannot be started.
    pub fn empty() -> Self {
        Self {
            controls: Vec::new(),
            hosts: Vec::new(),
            nats: NatsServer::start(&NatsOptions::new(NatsVersion::V2_15)),
            etcd: EtcdServer::start(&EtcdOptions::new(EtcdVersion::V3_5)),
            dir: tempfile::tempdir().expect("a directory can be made"),
        }
    }

    /// Starts another control node.
    pub fn add_control(&mut self, options: &[&str]) {
        let data = self.dir.path().join(format!("control-{}", self.controls.len()));
        let mut arguments = self.arguments("control", &data);
        arguments.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
        arguments.extend(options.iter().map(ToString::to_string));
        self.controls.push(Member::start(data, arguments));
    }

    /// Starts another host.
    pub fn add_host(&mut self) {
        let data = self.dir.path().join(format!("host-{}", self.hosts.len()));
        let mut arguments = self.arguments("host", &data);
        arguments.extend(["--slots", "4", "--memory", "2GiB"].map(str::to_owned));
        self.hosts.push(Member::start(data, arguments));
    }

    fn arguments(&self, command: &str, data: &std::path::Path) -> Vec<String> {
        let (nats, etcd, data) = (self.nats.url(), self.etcd.url(), data.to_string_lossy().into_owned());
        let arguments = [command, "--nats", &nats, "--etcd", &etcd, "--lease-ms", LEASE_MS, "--data", &data];
        arguments.map(str::to_owned).to_vec()
    }

    /// Ends NATS as a crash does.
    pub fn kill_nats(&mut self) {
        self.nats.kill();
    }

    /// Starts NATS again on what it had stored.
    pub fn restart_nats(&mut self) {
        self.nats.restart();
    }

    /// A client command that asks one of the control nodes.
    pub fn command(&self, node: usize, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(arguments).env("WASMILL_SERVER", &self.controls[node].name).env("WASMILL_TOKEN", TOKEN);
        command.env("WASMILL_DATA", self.dir.path()).env_remove("WASMILL_TENANT");
        command
    }

    /// Runs a client command at one of the control nodes.
    pub fn run(&self, node: usize, arguments: &[&str]) -> Ended {
        run(&mut self.command(node, arguments), b"")
    }

    /// Runs a client command until it does not fail for want of a server or a leader.
    #[track_caller]
    pub fn run_patiently(&self, node: usize, arguments: &[&str]) -> Ended {
        until(&format!("{arguments:?} to be answered"), || {
            Some(self.run(node, arguments)).filter(|ended| ended.code != Some(3))
        })
    }

    /// Uploads an example under its own name.
    #[track_caller]
    pub fn push(&self, node: usize, name: &str) {
        let _ = self.run(node, &["push", &guest(name).to_string_lossy(), "--alias", name]).done();
    }

    /// All that is known of a task.
    #[track_caller]
    pub fn task(&self, node: usize, id: &str) -> Value {
        self.run_patiently(node, &["get", "--json", id]).done().json()
    }

    /// The status of the whole, by one node.
    #[track_caller]
    pub fn status(&self, node: usize) -> Value {
        self.run_patiently(node, &["status", "--json"]).done().json()
    }

    /// The control nodes that run, as far as these say, agree on this leader; its index.
    pub fn leader(&self) -> usize {
        until("the control nodes to agree on a leader", || {
            let running = (0..self.controls.len()).filter(|&node| self.controls[node].is_running());
            let said: Option<Vec<_>> = running
                .map(|node| {
                    let status = self.run(node, &["status", "--json"]);
                    let status = (status.code == Some(0)).then(|| status.json())?;
                    Some((node, status["node"].clone(), status["leader"].clone()))
                })
                .collect();
            let said = said?;
            let leader = said.first()?.2.clone();
            let agreed = said.iter().all(|(.., of)| *of == leader);
            said.iter().find(|(_, node, _)| agreed && *node == leader).map(|(index, ..)| *index)
        })
    }

    /// Control nodes that run and do not lead.
    pub fn followers(&self) -> Vec<usize> {
        let leader = self.leader();
        (0..self.controls.len()).filter(|&node| node != leader && self.controls[node].is_running()).collect()
    }

    /// The states of hosts by their ids.
    pub fn hosts_seen(&self, node: usize) -> Vec<(String, String)> {
        let listed = self.run(node, &["hosts", "--json"]);
        let listed = if listed.code == Some(0) { listed.json() } else { Value::Null };
        let text = |host: &Value, name: &str| host[name].as_str().unwrap_or_default().to_owned();
        let hosts = listed["items"].as_array().cloned().unwrap_or_default();
        hosts.iter().map(|host| (text(host, "id"), text(host, "state"))).collect()
    }
}

impl Member {
    fn start(data: PathBuf, arguments: Vec<String>) -> Self {
        let mut command = Command::new(binary());
        command.args(&arguments).stdin(Stdio::null()).stdout(Stdio::piped()).env("WASMILL_LOG", "warn,wasmill=info");
        for variable in ["WASMILL_SERVER", "WASMILL_TOKEN", "WASMILL_TENANT", "WASMILL_DATA"] {
            command.env_remove(variable);
        }
        let mut child = spawn(command).expect("the binary can be started");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("stdout can be read");
        let line = line.trim();
        let host = line.strip_prefix("host ").and_then(|line| line.strip_suffix(" ready"));
        match line.strip_prefix("listening on ").or(host) {
            Some(name) => Self { name: name.to_owned(), data, arguments, child, _stdout: stdout },
            None => panic!("`wasmill {}` says `{line}` and ends with {:?}", arguments.join(" "), child.wait()),
        }
    }

    /// Whether it has not been ended.
    pub fn is_running(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
            .is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or("Z").starts_with('Z'))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// Asks it to end, as an operator does, and waits for it.
    ///
    /// # Panics
    ///
    /// It does not end with 0.
    pub fn stop(&mut self) {
        self.signal("TERM");
        let status = self.child.wait().expect("a child can be waited for");
        assert!(status.success(), "`wasmill {}` ended with {status}", self.arguments.join(" "));
    }

    /// A new start with the same arguments on the same data.
    pub fn restart(&mut self) {
        *self = Self::start(self.data.clone(), self.arguments.clone());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // One that is stopped does not end before it goes on.
        self.kill();
    }
}
