//! `cargo xtask bench`: measures a cluster, with everything on this machine: etcd, a NATS that
//! syncs before it acknowledges, control nodes and hosts.
//!
//! `wasmill bench` measures the cost of one request and of many, as with one process. Here are the
//! figures that only a cluster has: who has died, and how long nobody notices.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::{Directory, build, spots};
use wasmill_processes::fleet::{Fleet, Plan, STOP_MAX, ServerPrograms, Servers};
use wasmill_processes::http::{Body, Http};
use wasmill_processes::member::Member;
use wasmill_processes::shell::{self, program, target_dir};
use wasmill_processes::{guests, setup};

/// The lease of every process.
const LEASE_MS: u64 = 5_000;
/// Guests at a time on each host, where only little is run.
const SLOTS: u32 = 16;
/// Between two requests of the client that meets a failure.
const PROBE_PAUSE: Duration = Duration::from_millis(20);
/// Results after a failure, until it counts as over.
const RESULTS_AFTER: usize = 50;
/// After this time nothing gets well any more.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a state.
const LOOK: Duration = Duration::from_millis(5);

/// The options of `bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// How often each process is stopped or killed
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Tasks of the bulk submission
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    tasks: u64,
}

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs) -> Result<()> {
    setup::guest_targets()?;
    setup::protoc()?;
    let bench = Bench {
        servers: ServerPrograms::of(Servers::New, &setup::servers()?),
        guests: target_dir().join("guests"),
        binary: {
            guests::build_all(&target_dir().join("guests"))?;
            build(true)?
        },
    };
    println!("== one control node, one host");
    let one = bench.cluster(1, 1)?;
    one.measure(&bench.binary, 0, &["--only", "bulk", "--tasks", &args.tasks.to_string()])?;
    one.stop()?;

    println!("== two control nodes, one host; through the one that follows");
    let two = bench.cluster(2, 1)?;
    let follower = two.follower()?;
    two.measure(&bench.binary, follower, &["--only", "latency", "--only", "cancel", "--samples", "1000"])?;
    two.stop()?;

    println!("== three control nodes, two hosts, leases of {LEASE_MS} ms; the longest time without a result");
    let mut three = bench.cluster(3, 2)?;
    let noop = three.upload(&bench.guests.join("noop.wasm"))?;
    let spin = three.upload(&bench.guests.join("spin-forever.wasm"))?;
    let mut rows = [
        ("leader stopped politely, until the next result", Vec::new()),
        ("leader killed, until the next result", Vec::new()),
        ("host killed, until its task runs elsewhere", Vec::new()),
    ];
    for _ in 0..args.rounds {
        rows[0].1.push(three.lose_leader(&noop, |member| member.stop(STOP_MAX))?);
        rows[1].1.push(three.lose_leader(&noop, |member| {
            member.kill();
            Ok(())
        })?);
        rows[2].1.push(three.lose_host(&spin)?);
    }
    three.stop()?;
    for (what, mut took) in rows {
        took.sort_unstable();
        let ms = |took: &Duration| format!("{:.0}", took.as_secs_f64() * 1e3);
        let all: Vec<String> = took.iter().map(ms).collect();
        println!("{what:<48} median {:>6} ms of {}", ms(&took[took.len() / 2]), all.join(", "));
    }
    Ok(())
}

/// The parts of every cluster.
struct Bench {
    servers: ServerPrograms,
    guests: PathBuf,
    binary: PathBuf,
}

impl Bench {
    fn cluster(&self, control: u8, hosts: u8) -> Result<Measured> {
        let dir = Directory::create()?;
        let mut fleet = Fleet::new(&Plan {
            dir: dir.path(),
            binary: &self.binary,
            servers: self.servers.clone(),
            lease_ms: LEASE_MS,
            slots: SLOTS,
            etcd: spots("etcd", 1),
            nats: spots("nats", 1),
            control: spots("control", control),
            hosts: spots("host", hosts),
        })?;
        let token = fleet.start()?;
        let http = Http::new(Some(&token), PATIENCE);
        Ok(Measured { fleet, token, http, _dir: dir })
    }
}

/// A cluster that runs.
struct Measured {
    // Ends before its directory is removed.
    fleet: Fleet,
    token: String,
    http: Http,
    _dir: Directory,
}

impl Measured {
    fn url(&self, node: usize) -> &str {
        &self.fleet.addresses.control[node]
    }

    fn measure(&self, binary: &Path, node: usize, arguments: &[&str]) -> Result<()> {
        let mut command = program(binary);
        command.args(["--server", self.url(node), "bench"]).args(arguments).env("WASMILL_TOKEN", &self.token);
        shell::run(&mut command)
    }

    /// The node that leads, as all nodes that run say it.
    fn leader(&self) -> Result<usize> {
        let begun = Instant::now();
        loop {
            let status = |node: &usize| self.http.get(&format!("{}/v1/status", self.url(*node))).ok();
            let count = self.fleet.control.len();
            let running = (0..count).filter(|node| self.fleet.control[*node].is_running());
            let said: Vec<(usize, Value)> = running.filter_map(|node| Some((node, status(&node)?))).collect();
            let leaders: Vec<usize> =
                said.iter().filter(|(_, status)| status["leader"] == status["node"]).map(|(node, _)| *node).collect();
            if let [leader] = leaders[..]
                && said.iter().all(|(_, status)| status["leader"] == said_name(&said, leader))
            {
                return Ok(leader);
            }
            ensure!(begun.elapsed() < PATIENCE, "no leader that all nodes know of: {said:?}");
            thread::sleep(LOOK);
        }
    }

    fn follower(&self) -> Result<usize> {
        Ok((self.leader()? + 1) % self.fleet.control.len())
    }

    /// Uploads a module and gives its digest.
    fn upload(&self, file: &Path) -> Result<String> {
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let url = format!("{}/v1/modules", self.url(0));
        let response = self.http.call("POST", &url, &[], Body::Bytes(&bytes))?;
        ensure!(response.is_success(), "{url} answers {}: {}", response.status, response.text());
        let digest = response.json().and_then(|doc| doc["digest"].as_str().map(str::to_owned));
        digest.context("the answer to an upload has no digest")
    }

    /// Ends the leader in some way; gives the longest time without a result that a client of
    /// another node sees. The node is back at the end.
    fn lose_leader(&mut self, noop: &str, end: impl FnOnce(&mut Member) -> Result<()>) -> Result<Duration> {
        let leader = self.leader()?;
        let survivor = (leader + 1) % self.fleet.control.len();
        let url = format!("{}/v1/run/{noop}", self.url(survivor));
        let (sender, results) = mpsc::channel();
        let http = self.http.clone();
        // Requests go on whatever becomes of those before them, as those of many clients do.
        let (stop, stopped) = mpsc::channel::<()>();
        let probing = thread::spawn(move || {
            while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(PROBE_PAUSE) {
                let (http, url, sender) = (http.clone(), url.clone(), sender.clone());
                thread::spawn(move || {
                    let answer = http.call("POST", &url, &[], Body::Bytes(b""));
                    if answer.is_ok_and(|answer| answer.status == 200) {
                        // Nobody listens any more when enough was seen.
                        let _ = sender.send(Instant::now());
                    }
                });
            }
        });
        for _ in 0..RESULTS_AFTER {
            results.recv_timeout(PATIENCE).context("no result before the failure")?;
        }
        let lost_at = Instant::now();
        end(&mut self.fleet.control[leader])?;
        let (mut last, mut longest) = (lost_at, Duration::ZERO);
        let mut after = 0;
        // Results that were on their way when the leader ended, and then those of the next one.
        while after < RESULTS_AFTER {
            let at = results.recv_timeout(PATIENCE).context("no result after the failure")?;
            longest = longest.max(at.saturating_duration_since(last));
            last = at.max(last);
            let is_led = || {
                let status = self.http.get(&format!("{}/v1/status", self.url(survivor))).ok()?;
                Some(!status["leader"].is_null())
            };
            after = if after > 0 || is_led() == Some(true) { after + 1 } else { 0 };
        }
        drop(stop);
        probing.join().expect("asking does not panic");
        let next = self.leader()?;
        ensure!(next != leader, "the node that has ended leads");
        self.fleet.control[leader].start()?;
        self.wait("the node is back", |cluster| cluster.http.is_good(&format!("{}/readyz", cluster.url(leader))))?;
        Ok(longest)
    }

    /// Kills the host that runs a task; gives how long it takes until the task runs on another one.
    /// The host is back at the end.
    fn lose_host(&mut self, spin: &str) -> Result<Duration> {
        let node = self.follower()?;
        let spec = json!({ "module": spin, "limits": { "cpu_ms": 3_600_000, "wall_ms": 3_600_000 } });
        let response = self.http.call("POST", &format!("{}/v1/tasks", self.url(node)), &[], Body::Json(&spec))?;
        ensure!(response.is_success(), "the task is refused with {}: {}", response.status, response.text());
        let task = response.json().context("the answer to a submission is no JSON")?;
        let task = format!("{}/v1/tasks/{}", self.url(node), task["id"].as_str().context("a task has an id")?);
        let runs_on = |cluster: &Self| {
            let task = cluster.http.get(&task).ok()?;
            (task["state"] == "running").then(|| task["host"].as_str().map(str::to_owned))?
        };
        self.wait("the task runs", |cluster| runs_on(cluster).is_some())?;
        let host = runs_on(self).context("the task does not run any more")?;
        let index = self.fleet.hosts.iter().position(|member| member.name == host);
        let index = index.with_context(|| format!("`{host}` is no host of ours"))?;
        let lost_at = Instant::now();
        self.fleet.hosts[index].kill();
        self.wait("the task runs elsewhere", |cluster| runs_on(cluster).is_some_and(|now| now != host))?;
        let took = lost_at.elapsed();
        let cancelled = self.http.call("POST", &format!("{task}/cancel?wait_ms=10000"), &[], Body::Json(&json!({})))?;
        ensure!(cancelled.is_success(), "the task cannot be cancelled: {}", cancelled.text());
        self.fleet.hosts[index].start()?;
        self.wait("the host is back", |cluster| {
            let hosts = cluster.http.get(&format!("{}/v1/hosts", cluster.url(node))).ok();
            let items = hosts.and_then(|hosts| hosts["items"].as_array().cloned()).unwrap_or_default();
            items.iter().filter(|host| host["state"] == "ready").count() == cluster.fleet.hosts.len()
        })?;
        Ok(took)
    }

    fn wait(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        let begun = Instant::now();
        while !is_so(self) {
            ensure!(begun.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain until {what}");
            thread::sleep(LOOK);
        }
        Ok(())
    }

    fn stop(mut self) -> Result<()> {
        self.fleet.stop()
    }
}

/// The name of a node.
fn said_name(said: &[(usize, Value)], node: usize) -> Value {
    said.iter().find(|(index, _)| *index == node).map(|(_, status)| status["node"].clone()).unwrap_or_default()
}
