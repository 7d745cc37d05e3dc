//! A cluster of ours: etcd, NATS, control nodes and hosts, on loopback or each on a machine of its
//! own.

mod spot;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

pub use spot::Spot;

use crate::http::Http;
use crate::member::Member;
use crate::shell;

/// How long a cluster may take until it can be used.
const READY_MAX: Duration = Duration::from_secs(60);
/// Between two looks at something that starts.
const LOOK: Duration = Duration::from_millis(20);
/// Everything ends in this time when it is asked to.
pub const STOP_MAX: Duration = Duration::from_secs(45);

/// The parts of a cluster.
#[derive(Debug)]
pub struct Plan<'a> {
    /// Data and logs go here.
    pub dir: &'a Path,
    /// `wasmill`.
    pub binary: &'a Path,
    /// NATS and etcd.
    pub servers: ServerPrograms,
    /// How long a process that is silent is believed to live.
    pub lease_ms: u64,
    /// Guests at a time on each host.
    pub slots: u32,
    /// Where each etcd runs.
    pub etcd: Vec<Spot>,
    /// Where each NATS runs. Without servers one process `wasmill up` is everything.
    pub nats: Vec<Spot>,
    /// Where each control node runs.
    pub control: Vec<Spot>,
    /// Where each host runs.
    pub hosts: Vec<Spot>,
}

/// The servers' programs.
#[derive(Debug, Clone)]
pub struct ServerPrograms {
    /// `nats-server`.
    pub nats: PathBuf,
    /// `etcd`.
    pub etcd: PathBuf,
    /// Whether this NATS can be told to sync before it acknowledges.
    pub has_sync_interval: bool,
}

/// Which servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Servers {
    /// The oldest that are supported: NATS 2.9 and etcd 3.4
    Old,
    /// Recent ones: NATS 2.15 and etcd 3.5
    New,
}

impl ServerPrograms {
    /// The servers below the directory that `setup` fills.
    pub fn of(servers: Servers, dir: &Path) -> Self {
        let (nats, etcd) = match servers {
            Servers::Old => ("nats-2.9", "etcd-3.4"),
            Servers::New => ("nats-2.15", "etcd-3.5"),
        };
        Self {
            nats: dir.join(nats).join("nats-server"),
            etcd: dir.join(etcd).join("etcd"),
            has_sync_interval: servers == Servers::New,
        }
    }
}

/// The processes, and where they are reached.
#[derive(Debug)]
pub struct Fleet {
    /// Each etcd.
    pub etcd: Vec<Member>,
    /// Each NATS.
    pub nats: Vec<Member>,
    /// Each control node.
    pub control: Vec<Member>,
    /// Each host.
    pub hosts: Vec<Member>,
    /// Where they are reached.
    pub addresses: Addresses,
    data: PathBuf,
}

/// Where the parts are reached, in the order of the members.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Each etcd, as `http://…`.
    pub etcd: Vec<String>,
    /// Each NATS, as `nats://…`.
    pub nats: Vec<String>,
    /// Where a NATS says how it is.
    pub nats_monitors: Vec<String>,
    /// Control nodes, as `http://…`.
    pub control: Vec<String>,
}

impl Fleet {
    /// Prepares everything; nothing runs yet.
    pub fn new(plan: &Plan<'_>) -> Result<Self> {
        let (data, logs) = (plan.dir.join("data"), plan.dir.join("logs"));
        shell::create_dir(&data)?;
        shell::create_dir(&logs)?;
        let mut fleet = Self {
            etcd: Vec::new(),
            nats: Vec::new(),
            control: Vec::new(),
            hosts: Vec::new(),
            addresses: Addresses {
                etcd: plan.etcd.iter().map(|spot| spot.url("http", 2379)).collect(),
                nats: plan.nats.iter().map(|spot| spot.url("nats", 4222)).collect(),
                nats_monitors: plan.nats.iter().map(|spot| spot.url("http", 8222)).collect(),
                control: plan.control.iter().map(|spot| spot.url("http", 7700)).collect(),
            },
            data,
        };
        let member = |spot: &Spot, program: &Path, arguments: Vec<OsString>| {
            let (program, arguments) = spot.inside(program, arguments);
            Member::new(&spot.name, program, arguments, &logs)
        };
        for (index, spot) in plan.etcd.iter().enumerate() {
            let arguments = fleet.etcd_arguments(plan, index);
            fleet.etcd.push(member(spot, &plan.servers.etcd, arguments).dying_of_signals());
        }
        for (index, spot) in plan.nats.iter().enumerate() {
            fleet.nats.push(member(spot, &plan.servers.nats, fleet.nats_arguments(plan, index)?));
        }
        for (spot, url) in plan.control.iter().zip(&fleet.addresses.control) {
            let listen = url.trim_start_matches("http://");
            // Without servers it is everything in one process.
            let command = if plan.nats.is_empty() { "up" } else { "control" };
            let mut arguments = fleet.common_arguments(plan, spot, command);
            arguments.extend(["--listen".into(), listen.into()]);
            fleet.control.push(member(spot, plan.binary, arguments));
        }
        for spot in &plan.hosts {
            let mut arguments = fleet.common_arguments(plan, spot, "host");
            arguments.extend(["--slots".into(), plan.slots.to_string().into()]);
            fleet.hosts.push(member(spot, plan.binary, arguments));
        }
        Ok(fleet)
    }

    fn etcd_arguments(&self, plan: &Plan<'_>, index: usize) -> Vec<OsString> {
        let spot = &plan.etcd[index];
        let peer = |spot: &Spot| spot.url("http", 2380);
        let peers: Vec<String> = plan.etcd.iter().map(|spot| format!("{}={}", spot.name, peer(spot))).collect();
        let (client, peer, peers) = (&self.addresses.etcd[index], peer(spot), peers.join(","));
        let mut arguments = vec!["--data-dir".into(), self.data.join(&spot.name).into()];
        for (option, value) in [
            ("--name", &spot.name),
            ("--listen-client-urls", client),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &peers),
        ] {
            arguments.extend([option.into(), value.into()]);
        }
        arguments
    }

    /// Writes the configuration, in the words of `deploy/nats.conf`.
    fn nats_arguments(&self, plan: &Plan<'_>, index: usize) -> Result<Vec<OsString>> {
        let spot = &plan.nats[index];
        let at = |url: &str| url.split("://").last().unwrap_or_default().to_owned();
        let store = self.data.join(&spot.name);
        let mut config = format!(
            "server_name: {}\nlisten: \"{}\"\nhttp: \"{}\"\njetstream {{\n  store_dir: {:?}\n",
            spot.name,
            at(&self.addresses.nats[index]),
            at(&self.addresses.nats_monitors[index]),
            store.display().to_string(),
        );
        if plan.servers.has_sync_interval {
            config += "  sync_interval: always\n";
        }
        config += "}\n";
        if plan.nats.len() > 1 {
            let routes: Vec<String> = plan.nats.iter().map(|spot| spot.url("nats-route", 6222)).collect();
            let (listen, routes) = (at(&routes[index]), routes.join(", "));
            writeln!(config, "cluster {{ name: wasmill, listen: \"{listen}\", routes: [{routes}] }}")?;
        }
        let file = self.data.join(&spot.name).with_extension("conf");
        std::fs::write(&file, config).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(vec!["--config".into(), file.into()])
    }

    fn common_arguments(&self, plan: &Plan<'_>, spot: &Spot, command: &str) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![command.into(), "--data".into(), self.data.join(&spot.name).into()];
        if plan.nats.is_empty() {
            return arguments;
        }
        for (option, value) in [
            ("--nats", self.addresses.nats.join(",")),
            ("--etcd", self.addresses.etcd.join(",")),
            ("--lease-ms", plan.lease_ms.to_string()),
            ("--id", spot.name.clone()),
        ] {
            arguments.extend([option.into(), value.into()]);
        }
        arguments
    }

    /// Starts everything and waits until it can be used; gives an administrator's token.
    pub fn start(&mut self) -> Result<String> {
        let http = Http::new(None, Duration::from_secs(2));
        self.start_servers(&http)?;
        // The first one makes the token.
        let readies: Vec<String> = self.addresses.control.iter().map(|url| format!("{url}/readyz")).collect();
        start(&mut self.control[..1])?;
        wait(&mut self.control[..1], readies[..1].to_vec(), &http)?;
        start(&mut self.control[1..])?;
        start(&mut self.hosts)?;
        wait(&mut self.control[1..], readies[1..].to_vec(), &http)?;
        let file = self.data.join(&self.control[0].name).join("admin.token");
        let token = std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let token = token.trim().to_owned();
        self.wait_for_hosts(&token)?;
        Ok(token)
    }

    /// Starts etcd and NATS and waits until they can be used.
    pub fn start_servers(&mut self, http: &Http) -> Result<()> {
        start(&mut self.etcd)?;
        start(&mut self.nats)?;
        let healths = self.addresses.etcd.iter().map(|url| format!("{url}/health"));
        wait(&mut self.etcd, healths.collect(), http)?;
        let healths = self.addresses.nats_monitors.iter().map(|url| format!("{url}/healthz"));
        wait(&mut self.nats, healths.collect(), http)
    }

    fn wait_for_hosts(&mut self, token: &str) -> Result<()> {
        let http = Http::new(Some(token), Duration::from_secs(2));
        let url = format!("{}/v1/hosts", self.addresses.control[0]);
        // One process alone is its own host.
        let wanted = self.hosts.len().max(1);
        let ready = || {
            let hosts = http.get(&url).ok()?["items"].as_array()?.clone();
            (hosts.iter().filter(|host| host["state"] == "ready").count() == wanted).then_some(())
        };
        until(&mut self.hosts, || ready().is_some())
    }

    /// Everything, in the order in which it is stopped.
    pub fn members(&mut self) -> impl Iterator<Item = &mut Member> {
        self.hosts.iter_mut().chain(&mut self.control).chain(&mut self.nats).chain(&mut self.etcd)
    }

    /// Asks everything to end, one after the other, and waits for it.
    pub fn stop(&mut self) -> Result<()> {
        let failed: Vec<String> =
            self.members().filter_map(|member| Some(format!("{:#}", member.stop(STOP_MAX).err()?))).collect();
        ensure!(failed.is_empty(), "{}", failed.join("\n"));
        Ok(())
    }
}

fn start(members: &mut [Member]) -> Result<()> {
    members.iter_mut().try_for_each(Member::start)
}

/// Waits until every one of these URLs answers with 200.
fn wait(members: &mut [Member], mut urls: Vec<String>, http: &Http) -> Result<()> {
    until(members, || {
        urls.retain(|url| !http.is_good(url));
        urls.is_empty()
    })
}

fn until(members: &mut [Member], mut is_ready: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !is_ready() {
        for member in &mut *members {
            let ended = member.ended();
            ensure!(ended.is_none(), "{} has ended ({ended:?}):\n{}", member.name, member.said());
        }
        let said: Vec<String> = members.iter().map(|member| format!("{}:\n{}", member.name, member.said())).collect();
        ensure!(begun.elapsed() < READY_MAX, "not ready after {READY_MAX:?}:\n{}", said.join("\n"));
        std::thread::sleep(LOOK);
    }
    Ok(())
}
