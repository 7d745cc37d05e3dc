//! `cargo xtask fire`: a real cluster under load while its processes are killed, paused and cut
//! off; then everything that clients were told is held against what is there.

mod arena;
mod checker;
mod client;
mod ending;
mod history;
mod nemesis;
mod orders;
mod stage;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;

use arena::Arena;
use checker::{Violation, plant};
use client::{Client, Node};
use history::{Clock, Line, Writer};
use nemesis::{Crowd, Kind, Nemesis, Who};
use stage::Stage;
use wasmill_processes::fleet::{Fleet, Plan, ServerPrograms, Servers, Spot};
use wasmill_processes::http::{Body, Http};
use wasmill_processes::namespaces::{Private, enter};
use wasmill_processes::shell::{self, cargo, target_dir};
use wasmill_processes::{guests, setup};

/// Clients that ask at the same time.
const CLIENTS: u64 = 4;
/// Guests at a time on each host.
const SLOTS: u32 = 4;
/// After the last fault everything is final in this time, however much there is.
const HEAL_MAX: Duration = Duration::from_secs(120);
/// Violations that are printed.
const SHOWN_MAX: usize = 40;

/// The options of `fire`.
#[derive(Debug, Clone, clap::Args)]
pub struct FireArgs {
    /// How long processes are killed and cut off
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    minutes: f64,
    /// The seed of faults and load; another one each time when absent
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Which NATS and etcd
    #[arg(long, value_enum, default_value_t = Servers::New)]
    servers: Servers,
    /// How long a process that is silent is believed to live
    #[arg(long, value_name = "MS", default_value_t = 2000)]
    lease_ms: u64,
    /// One process `wasmill up` instead of a cluster
    #[arg(long)]
    alone: bool,
    /// Only check the history of an earlier run again
    #[arg(long, value_name = "DIR")]
    check: Option<PathBuf>,
    /// Run here: the namespaces are entered already
    #[arg(long, hide = true)]
    inside: bool,
}

/// Builds what is needed, and runs it all in namespaces of its own.
pub fn run(args: &FireArgs) -> Result<()> {
    if let Some(dir) = &args.check {
        return judge(dir);
    }
    let Some(seed) = args.seed.filter(|_| args.inside) else {
        let seed = args.seed.unwrap_or_else(|| Rng::new().u64(0..1 << 32));
        setup::protoc()?;
        setup::servers()?;
        guests::build_all(&guest_dir())?;
        // The whole workspace unifies features as `cargo xtask test` does: nothing is built twice.
        shell::run(&mut cargo(["build", "--locked", "--workspace", "--bin", "wasmill"]))?;
        return enter(Private::Network, &args.words(seed));
    };
    let dir = target_dir().join("fire").join(seed.to_string());
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    shell::create_dir(&dir)?;
    let commit = shell::capture(shell::program("git").args(["rev-parse", "HEAD"])).unwrap_or_default();
    let again = format!("seed {seed}, commit {}, everything is in {}", commit.trim(), dir.display());
    eprintln!("{again}");
    play(args, seed, &dir).and_then(|()| judge(&dir)).with_context(|| again)?;
    // The data of the processes are worth nothing when all is well; the history is kept.
    std::fs::remove_dir_all(dir.join("data")).context("cannot remove the data of the processes")
}

impl FireArgs {
    /// The arguments of the same run inside of namespaces.
    fn words(&self, seed: u64) -> Vec<String> {
        let mut words: Vec<String> = ["fire", "--inside", "--seed"].map(str::to_owned).into();
        let servers = if self.servers == Servers::Old { "old" } else { "new" };
        words.extend([seed.to_string(), "--minutes".to_owned(), self.minutes.to_string()]);
        words.extend(["--servers".to_owned(), servers.to_owned(), "--lease-ms".to_owned(), self.lease_ms.to_string()]);
        words.extend(self.alone.then(|| "--alone".to_owned()));
        words
    }

    fn crowd(&self) -> Crowd {
        if self.alone {
            Crowd { etcd: 0, nats: 0, control: 1, hosts: 0 }
        } else {
            Crowd { etcd: 3, nats: 3, control: 3, hosts: 3 }
        }
    }
}

fn guest_dir() -> PathBuf {
    target_dir().join("guests")
}

/// Everything but the verdict.
fn play(args: &FireArgs, seed: u64, dir: &Path) -> Result<()> {
    let crowd = args.crowd();
    let names: Vec<String> = crowd.all().map(|who| who.to_string()).collect();
    let (arena, spots) = Arena::build(&names)?;
    let addresses: BTreeMap<Who, _> = crowd.all().zip(spots.iter().map(|spot| spot.ip)).collect();
    let mut places = crowd.all().zip(spots).fold(BTreeMap::<Kind, Vec<Spot>>::new(), |mut places, (who, spot)| {
        places.entry(who.kind).or_default().push(spot);
        places
    });
    let mut of_kind = |kind| places.remove(&kind).unwrap_or_default();
    let mut fleet = Fleet::new(&Plan {
        dir,
        binary: &target_dir().join("debug/wasmill"),
        servers: ServerPrograms::of(args.servers, &setup::servers()?),
        lease_ms: args.lease_ms,
        slots: SLOTS,
        etcd: of_kind(Kind::Etcd),
        nats: of_kind(Kind::Nats),
        control: of_kind(Kind::Control),
        hosts: of_kind(Kind::Host),
    })?;
    let token = fleet.start()?;
    let named = fleet.control.iter().zip(&fleet.addresses.control);
    let nodes: Vec<Node> = named.map(|(member, url)| Node { name: member.name.clone(), url: url.clone() }).collect();
    let http = Http::new(Some(&token), Duration::from_secs(30));
    upload(&http, &nodes)?;

    let clock = Clock(Instant::now());
    let diary = Writer::create(dir, "diary")?;
    let mut stage = Stage::new(fleet, arena, addresses, diary, clock)?;
    let mut clients: Vec<Client> =
        (1..=CLIENTS).map(|number| Client::new(number, seed, &token, &nodes, clock, dir)).collect::<Result<_>>()?;
    let mut nemesis = Nemesis::new(seed, crowd, args.lease_ms);
    burn(&mut stage, &mut clients, &mut nemesis, Duration::from_secs_f64(args.minutes * 60.0))?;
    stage.note("quiet".to_owned())?;
    settle(&mut stage, &mut clients, &http, &nodes)?;
    ending::write(&http, &nodes, &mut Rng::with_seed(seed), dir)?;
    stage.close()?;
    ending::panics(&dir.join("logs"), dir)
}

/// Load and faults at the same time.
fn burn(stage: &mut Stage, clients: &mut [Client], nemesis: &mut Nemesis, time: Duration) -> Result<()> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = clients.iter_mut().map(|client| scope.spawn(|| client.run(&stop))).collect();
        let played = stage.play(nemesis, time);
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("a client does not panic")?;
        }
        played
    })
}

/// Until every answer is clear and every task is final, while what dies is still started again.
fn settle(stage: &mut Stage, clients: &mut [Client], http: &Http, nodes: &[Node]) -> Result<()> {
    let begun = Instant::now();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            clients.iter_mut().try_for_each(|client| client.settle(HEAL_MAX))?;
            ending::wait_until_idle(http, nodes, HEAL_MAX.saturating_sub(begun.elapsed()))
        });
        while !waiting.is_finished() {
            stage.supervise()?;
            thread::sleep(Duration::from_millis(20));
        }
        waiting.join().expect("waiting does not panic")
    })?;
    stage.note(format!("everything is final after {:.1} s", begun.elapsed().as_secs_f64()))
}

/// Uploads what is used, and waits until every node knows it.
fn upload(http: &Http, nodes: &[Node]) -> Result<()> {
    for module in orders::MODULES {
        let file = guest_dir().join(module).with_extension("wasm");
        let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let url = format!("{}/v1/modules?alias={module}", nodes[0].url);
        let response = http.call("POST", &url, &[], Body::Bytes(&bytes))?;
        ensure!(response.is_success(), "{url} answers {}: {}", response.status, response.text());
    }
    let begun = Instant::now();
    let aliases = |node: &Node| -> Option<usize> {
        Some(http.get(&format!("{}/v1/aliases", node.url)).ok()?["items"].as_array()?.len())
    };
    while !nodes.iter().all(|node| aliases(node) == Some(orders::MODULES.len())) {
        ensure!(begun.elapsed() < HEAL_MAX, "the modules are not known everywhere after {HEAL_MAX:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Checks the history, and that a history with a bug in it would not pass.
fn judge(dir: &Path) -> Result<()> {
    let lines: Vec<Line> = history::read(dir)?.into_values().flatten().collect();
    eprintln!("{}", checker::summary(&lines));
    let violations = checker::check(&lines);
    if !violations.is_empty() {
        let shown: Vec<String> = violations.iter().take(SHOWN_MAX).map(Violation::to_string).collect();
        bail!("{} promises are broken:\n{}", violations.len(), shown.join("\n"));
    }
    let missed = plant::control(&lines);
    ensure!(missed.is_empty(), "the checker would not notice everything:\n{}", missed.join("\n"));
    eprintln!("no promise is broken; all of {} planted bugs are noticed", plant::PLANTS.len());
    Ok(())
}
