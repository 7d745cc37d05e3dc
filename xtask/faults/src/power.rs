//! `cargo xtask power`: takes the power from a NATS server, and looks for what it had acknowledged.
//!
//! The server's disk is an ext4 file system in a file, mounted through a loop device. Unsynced
//! writes of the server are in the page cache of that file system only, so a copy of the file at
//! the moment of the kill is what a disk has after a power failure. The stream itself is older than
//! that: nats-server does not sync what it writes down of a stream when it makes it.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fastrand::Rng;

use wasmill_processes::fleet::{Fleet, Plan, ServerPrograms, Servers, Spot};
use wasmill_processes::http::Http;
use wasmill_processes::namespaces::{Private, enter};
use wasmill_processes::setup;
use wasmill_processes::shell::{self, program, target_dir};

/// The disk of a server.
const DISK_BYTES: u64 = 256 << 20;
/// The file system writes nothing by itself for so long.
const COMMIT_S: u32 = 3600;
/// Records that are acknowledged before the power goes, at least and at most.
const ACKNOWLEDGED: std::ops::Range<u64> = 20..2000;

/// The options of `power`.
#[derive(Debug, Clone, clap::Args)]
pub struct PowerArgs {
    /// How often the power goes, with syncs and without them
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: u32,
    /// Run here: the namespaces are entered already
    #[arg(long, hide = true)]
    inside: bool,
}

/// Runs it all, in namespaces of its own.
pub fn run(args: &PowerArgs) -> Result<()> {
    if !args.inside {
        setup::protoc()?;
        setup::servers()?;
        setup::file_system_tools()?;
        shell::run(&mut shell::cargo([
            "build",
            "--locked",
            // The whole workspace unifies features as `cargo xtask test` does: nothing is built
            // twice.
            "--workspace",
            "--example",
            "acknowledged",
        ]))?;
        ensure!(
            setup::packages::is_root(),
            "only root can mount a disk of its own; run: sudo env \"PATH=$PATH\" cargo xtask power"
        );
        let words = ["power", "--inside", "--rounds", &args.rounds.to_string()].map(str::to_owned);
        return enter(Private::Mounts, &words);
    }
    let mut rng = Rng::new();
    let mut lost_without_sync = 0;
    for round in 1..=args.rounds {
        let synced = Round::new(Sync::Always, round)?.play(rng.u64(ACKNOWLEDGED))?;
        eprintln!("sync_interval: always   {synced}");
        ensure!(synced.lost() == 0, "with `sync_interval: always` {} acknowledged records are lost", synced.lost());
        let unsynced = Round::new(Sync::Default, round)?.play(rng.u64(ACKNOWLEDGED))?;
        eprintln!("the server's default    {unsynced}");
        lost_without_sync += unsynced.lost();
    }
    ensure!(lost_without_sync > 0, "nothing is lost without syncs either: this test proves nothing");
    eprintln!("with syncs nothing that was acknowledged is lost; without them {lost_without_sync} records are");
    Ok(())
}

/// When the server syncs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    Always,
    Default,
}

/// The result of a round.
struct Found {
    acknowledged: u64,
    there: u64,
}

impl Found {
    fn lost(&self) -> u64 {
        self.acknowledged.saturating_sub(self.there)
    }
}

impl std::fmt::Display for Found {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} records acknowledged, {} there after the power failure", self.acknowledged, self.there)
    }
}

/// One server, one power failure.
struct Round {
    dir: PathBuf,
    sync: Sync,
}

impl Round {
    fn new(sync: Sync, number: u32) -> Result<Self> {
        let dir = target_dir().join("power").join(format!("{sync:?}-{number}").to_lowercase());
        if dir.exists() {
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        shell::create_dir(&dir)?;
        Ok(Self { dir, sync })
    }

    fn play(&self, acknowledged_min: u64) -> Result<Found> {
        let (disk, after) = (self.dir.join("disk"), self.dir.join("disk-after"));
        let file = File::create(&disk).with_context(|| format!("cannot create {}", disk.display()))?;
        file.set_len(DISK_BYTES).context("cannot make a disk")?;
        shell::quietly(program("mkfs.ext4").arg("-q").arg(&disk))?;

        let mount = self.mount(&disk, "before")?;
        let mut fleet = self.server(&mount)?;
        let mut appender = self.client("append", &fleet)?;
        let mut numbers = BufReader::new(appender.stdout.take().expect("stdout is a pipe")).lines();
        let mut acknowledged = number(numbers.next().context("the server acknowledges nothing")?)?;
        // A stream that has just been made is on the disk only after a while, whatever the server
        // is told: it is older than the failure.
        shell::quietly(program("sync").arg("--file-system").arg(&mount))?;
        while acknowledged < acknowledged_min {
            acknowledged = number(numbers.next().context("the server acknowledges nothing more")?)?;
        }
        fleet.nats[0].kill();
        shell::quietly(program("cp").arg("--sparse=always").arg(&disk).arg(&after))?;
        // An answer that had arrived at the client before the kill counts too.
        for line in numbers {
            acknowledged = number(line)?;
        }
        appender.wait().context("cannot wait for the client")?;
        shell::quietly(program("umount").arg(&mount))?;

        let mount = self.mount(&after, "after")?;
        let mut fleet = self.server(&mount)?;
        let output = self.client("count", &fleet)?.wait_with_output().context("cannot wait for the client")?;
        let there = number(Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()))?;
        fleet.nats[0].kill();
        shell::quietly(program("umount").arg(&mount))?;
        Ok(Found { acknowledged, there })
    }

    fn mount(&self, disk: &Path, name: &str) -> Result<PathBuf> {
        let mount = self.dir.join(name);
        shell::create_dir(&mount)?;
        let options = format!("loop,noatime,commit={COMMIT_S}");
        shell::quietly(program("mount").args(["-t", "ext4", "-o", &options]).arg(disk).arg(&mount))?;
        Ok(mount)
    }

    /// A server with its data on this disk.
    fn server(&self, mount: &Path) -> Result<Fleet> {
        let mut programs = ServerPrograms::of(Servers::New, &setup::servers()?);
        programs.has_sync_interval = self.sync == Sync::Always;
        let mut fleet = Fleet::new(&Plan {
            dir: mount,
            binary: Path::new("wasmill"),
            servers: programs,
            lease_ms: 0,
            slots: 0,
            etcd: Vec::new(),
            nats: vec![Spot::loopback("nats")],
            control: Vec::new(),
            hosts: Vec::new(),
        })?;
        fleet.start_servers(&Http::new(None, Duration::from_secs(2)))?;
        Ok(fleet)
    }

    fn client(&self, what: &str, fleet: &Fleet) -> Result<Child> {
        let mut command = program(target_dir().join("debug/examples/acknowledged"));
        // It says that the server has gone, which is no news.
        command.args([what, &fleet.addresses.nats[0]]).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().context("cannot start the client")
    }
}

fn number(line: std::io::Result<String>) -> Result<u64> {
    let line = line.context("cannot read what the client says")?;
    match line.parse() {
        Ok(number) => Ok(number),
        Err(_) => bail!("the client says `{line}`, which is no number"),
    }
}
