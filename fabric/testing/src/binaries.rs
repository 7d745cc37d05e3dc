//! Where the servers' programs are.

use std::env;
use std::path::{Path, PathBuf};

/// Names another directory of servers.
const SERVERS_VARIABLE: &str = "WASMILL_SERVERS";

/// Which NATS. The oldest one that works, and a recent one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NatsVersion {
    /// As in Debian 12. It cannot be told to sync before it answers.
    V2_9,
    /// A recent one.
    V2_15,
}

/// Which etcd. The oldest one that works, and a recent one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EtcdVersion {
    /// As in Debian 12.
    V3_4,
    /// A recent one.
    V3_5,
}

impl NatsVersion {
    /// Its program.
    pub fn program(self) -> PathBuf {
        match self {
            Self::V2_9 => installed("nats-2.9/nats-server"),
            Self::V2_15 => installed("nats-2.15/nats-server"),
        }
    }
}

impl EtcdVersion {
    /// Its program.
    pub fn program(self) -> PathBuf {
        match self {
            Self::V3_4 => installed("etcd-3.4/etcd"),
            Self::V3_5 => installed("etcd-3.5/etcd"),
        }
    }
}

/// The directory with one directory for each version: `WASMILL_SERVERS`, else `servers` in the
/// target directory.
pub fn servers_dir() -> PathBuf {
    if let Some(dir) = env::var_os(SERVERS_VARIABLE) {
        return dir.into();
    }
    let target = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"));
    target.join("servers")
}

fn installed(name: &str) -> PathBuf {
    let program = servers_dir().join(name);
    assert!(
        program.is_file(),
        "there is no `{}`: `cargo xtask setup` installs it, or set {SERVERS_VARIABLE} to a directory that has it",
        program.display()
    );
    program
}
