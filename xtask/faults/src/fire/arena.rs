//! Machines of our own: network namespaces on one switch that leads nowhere else.
//!
//! All of it lives in the namespaces of this process ([`wasmill_processes::namespaces`]), and goes
//! with it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;

use wasmill_processes::fleet::Spot;
use wasmill_processes::shell::{self, program};

/// Addresses for documentation (RFC 5737): nobody has them, and no packet leaves the switch.
const NETWORK: [u8; 3] = [192, 0, 2];
/// Where we are ourselves.
const OURS: u8 = 254;
/// A machine that does not exist: what is sent to it is lost, and nobody is told.
const NOBODY: &str = "02:00:00:00:00:01";
/// Where namespaces get their names. In a mount namespace of our own, so that nobody else sees
/// them.
const NAMES: &str = "/run";

/// The machines.
pub(crate) struct Arena {
    /// How many faults have cut the way from one machine to another.
    cuts: Mutex<BTreeMap<(String, Ipv4Addr), u32>>,
}

impl Arena {
    /// Makes a machine for each name.
    pub(crate) fn build(names: &[String]) -> Result<(Self, Vec<Spot>)> {
        shell::quietly(program("mount").args(["-t", "tmpfs", "tmpfs", NAMES]))?;
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

    /// From now on nothing that `from` sends arrives at `to`. The other direction is open.
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
    shell::quietly(program("ip").args(arguments))
}
