//! Machines of our own: network namespaces on one switch that leads nowhere else.
//!
//! All of it lives in namespaces that this process is the first one of: when it ends, however it does, the kernel removes
//! every process, every namespace and the switch. No root is needed where users may make namespaces.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::fleet::Spot;
use crate::setup;
use crate::shell::{self, program};

/// Addresses for documentation (RFC 5737): nobody has them, and no packet leaves the switch.
const NETWORK: [u8; 3] = [192, 0, 2];
/// Where we are ourselves.
const OURS: u8 = 254;
/// A machine that does not exist: what is sent to it is lost, and nobody is told.
const NOBODY: &str = "02:00:00:00:00:01";
/// Where namespaces get their names. In a mount namespace of our own, so that nobody else sees them.
const NAMES: &str = "/run";

/// The machines.
pub(crate) struct Arena {
    /// How many faults have cut the way from one machine to another.
    cuts: Mutex<BTreeMap<(String, Ipv4Addr), u32>>,
}

/// Runs our own program again, as the first process of namespaces of its own.
pub(crate) fn enter(arguments: &[String]) -> Result<()> {
    setup::network_tools()?;
    let is_root = setup::packages::is_root();
    // `unshare` takes its child along when it is killed, and is killed itself when we are.
    let mut command = program("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]);
    if !is_root {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    let ours = std::env::current_exe().context("a running program has a path")?;
    let probe = |command: &Command| {
        let mut probe = program(command.get_program());
        probe.args(command.get_args()).arg("true");
        shell::works(&mut probe)
    };
    ensure!(
        probe(&command),
        "cannot make network namespaces: run as root, or allow it to users (sysctl kernel.unprivileged_userns_clone=1 or \
         kernel.apparmor_restrict_unprivileged_userns=0; in a container: --privileged)"
    );
    shell::run(command.arg(ours).args(arguments))
}

impl Arena {
    /// Makes a machine for each name.
    pub(crate) fn build(names: &[String]) -> Result<(Self, Vec<Spot>)> {
        quietly(program("mount").args(["-t", "tmpfs", "tmpfs", NAMES]))?;
        let [a, b, c] = NETWORK;
        let address = |last: u8| Ipv4Addr::new(a, b, c, last);
        ip(&["link", "set", "lo", "up"])?;
        ip(&["link", "add", "switch", "type", "bridge"])?;
        ip(&["address", "add", &format!("{}/24", address(OURS)), "dev", "switch"])?;
        ip(&["link", "set", "switch", "up"])?;
        let mut spots = Vec::new();
        for (name, last) in names.iter().zip(1..OURS) {
            let (port, ours) = (format!("port{last}"), format!("{}/24", address(last)));
            ip(&["netns", "add", name])?;
            ip(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", name])?;
            ip(&["link", "set", &port, "master", "switch", "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
            ip(&["-n", name, "address", "add", &ours, "dev", "eth0"])?;
            ip(&["-n", name, "link", "set", "eth0", "up"])?;
            spots.push(Spot::alone(name, address(last), Path::new(NAMES).join("netns").join(name)));
        }
        Ok((Self { cuts: Mutex::default() }, spots))
    }

    /// From now on nothing that `from` sends arrives at `to`. What comes the other way does.
    pub(crate) fn cut(&self, from: &str, to: Ipv4Addr) -> Result<()> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = cuts.entry((from.to_owned(), to)).or_default();
        *count += 1;
        let neighbour = ["neighbour", "replace", &to.to_string(), "lladdr", NOBODY, "dev", "eth0", "nud", "permanent"];
        ip(&[&["-n", from][..], &neighbour].concat())
    }

    /// Undoes one cut; the last one opens the way.
    pub(crate) fn heal(&self, from: &str, to: Ipv4Addr) -> Result<()> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = cuts.get_mut(&(from.to_owned(), to)).expect("only what was cut is healed");
        *count -= 1;
        if *count > 0 {
            return Ok(());
        }
        ip(&["-n", from, "neighbour", "delete", &to.to_string(), "dev", "eth0"])
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    quietly(program("ip").args(arguments))
}

/// Runs a program that has nothing to say unless it fails.
fn quietly(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start `{}`", shell::show(command)))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` ended with {}: {said}", shell::show(command), output.status);
    Ok(())
}
