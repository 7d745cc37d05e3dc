//! Where a process runs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use wasmill_fabric_testing::free_port;

/// A place for one process: the loopback of this machine, or a network namespace.
#[derive(Debug)]
pub struct Spot {
    /// Of the process, such as `nats-2`.
    pub name: String,
    /// Its address.
    pub ip: Ipv4Addr,
    namespace: Option<PathBuf>,
    /// On loopback: which port stands for which usual one.
    ports: RefCell<BTreeMap<u16, u16>>,
}

impl Spot {
    /// On loopback, beside others: no port is the usual one.
    pub fn loopback(name: &str) -> Self {
        Self { name: name.to_owned(), ip: Ipv4Addr::LOCALHOST, namespace: None, ports: RefCell::default() }
    }

    /// In a network namespace, alone.
    pub fn alone(name: &str, ip: Ipv4Addr, namespace: PathBuf) -> Self {
        Self { name: name.to_owned(), ip, namespace: Some(namespace), ports: RefCell::default() }
    }

    /// The URL of what usually listens on this port.
    pub fn url(&self, scheme: &str, usual_port: u16) -> String {
        let port = match self.namespace {
            Some(_) => usual_port,
            None => *self.ports.borrow_mut().entry(usual_port).or_insert_with(free_port),
        };
        format!("{scheme}://{}:{port}", self.ip)
    }

    /// A program and its arguments, so that it runs here.
    pub fn inside(&self, program: &Path, arguments: Vec<OsString>) -> (PathBuf, Vec<OsString>) {
        let Some(namespace) = &self.namespace else { return (program.to_owned(), arguments) };
        let mut net = OsString::from("--net=");
        net.push(namespace);
        ("nsenter".into(), [vec![net, program.into()], arguments].concat())
    }
}
