//! `cargo xtask cluster`: a whole cluster on this machine, to try things with.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use wasmill_processes::fleet::{Addresses, Fleet, Plan, ServerPrograms, Servers, Spot};
use wasmill_processes::shell::{self, cargo, target_dir};
use wasmill_processes::{guests, setup};

/// Guests at a time on each host.
const SLOTS: u32 = 16;
/// The pause before a process that has ended is started again: one that cannot start must not take
/// the whole machine.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// The options of `cluster`.
#[derive(Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    /// How many control nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=9))]
    control: u8,
    /// How many hosts
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
    hosts: u8,
    /// How long a process that has died is believed to live
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    lease_ms: u64,
    /// Optimise the binary, which takes long to build
    #[arg(long)]
    release: bool,
}

/// Runs until it is interrupted.
pub(crate) fn run(args: &ClusterArgs) -> Result<()> {
    setup::guest_targets()?;
    setup::protoc()?;
    let servers = ServerPrograms::of(Servers::New, &setup::servers()?);
    let guests = guests::build_all(&target_dir().join("guests"))?;
    let guest = guests.iter().find(|guest| guest.name == "hello").context("there is no guest `hello`")?;
    let binary = build(args.release)?;
    // From here on an interrupt does not end us, but leads to the end of this function.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGCHLD]).context("cannot wait for signals")?;
    let dir = Directory::create()?;
    let mut fleet = Fleet::new(&Plan {
        dir: &dir.0,
        binary: &binary,
        servers,
        lease_ms: args.lease_ms,
        slots: SLOTS,
        etcd: spots("etcd", 1),
        nats: spots("nats", 1),
        control: spots("control", args.control),
        hosts: spots("host", args.hosts),
    })?;
    let token = fleet.start()?;
    println!("{}", introduction(&fleet.addresses, &token, &binary, &guest.path, &dir.0));
    for signal in signals.forever() {
        if signal != SIGCHLD {
            break;
        }
        start_again(&mut fleet)?;
    }
    eprintln!("\nstopping");
    fleet.stop()
}

/// Places on loopback, such as `host-1`.
pub(crate) fn spots(kind: &str, count: u8) -> Vec<Spot> {
    (1..=count).map(|number| Spot::loopback(&format!("{kind}-{number}"))).collect()
}

/// Gives the binary.
pub(crate) fn build(is_release: bool) -> Result<PathBuf> {
    // As the demo builds it, or as the tests do: features are unified alike, and nothing is built
    // twice.
    shell::run(&mut match is_release {
        true => cargo(["build", "--locked", "--package", "wasmill", "--release"]),
        false => cargo(["build", "--locked", "--workspace", "--bin", "wasmill"]),
    })?;
    Ok(target_dir().join(if is_release { "release/wasmill" } else { "debug/wasmill" }))
}

/// The introduction for a user.
fn introduction(addresses: &Addresses, token: &str, binary: &Path, guest: &Path, dir: &Path) -> String {
    let binary = binary.display();
    format!(
        "\netcd           {etcd}\nnats           {nats}\ncontrol nodes  {control}\ndata and logs  {dir}\n\n\
         try in another terminal:\n\n\
         export WASMILL_SERVER={first} WASMILL_TOKEN={token}\n\
         {binary} status\n\
         {binary} hosts\n\
         {binary} run {guest} --input '{{\"name\": \"cluster\"}}'\n\
         {binary} --server {last} ps\n\n\
         Kill any process: it is started again. Ctrl-C stops all of them.",
        etcd = addresses.etcd.join(" "),
        nats = addresses.nats.join(" "),
        control = addresses.control.join(" "),
        first = addresses.control.first().expect("there is a control node"),
        last = addresses.control.last().expect("there is a control node"),
        guest = guest.display(),
        dir = dir.display(),
    )
}

/// Does what a supervisor does.
fn start_again(fleet: &mut Fleet) -> Result<()> {
    for member in fleet.members() {
        if let Some(status) = member.ended() {
            eprintln!("{} has ended with {status}; it is started again", member.name);
            std::thread::sleep(RESTART_PAUSE);
            member.start()?;
        }
    }
    Ok(())
}

/// A directory of this run. Removed at the end, whatever that is.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn create() -> Result<Self> {
        let dir = target_dir().join("cluster").join(std::process::id().to_string());
        shell::create_dir(&dir)?;
        Ok(Self(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}
