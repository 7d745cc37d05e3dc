//! Which servers, and where their programs are.

use std::path::PathBuf;

/// Names the directory of the programs.
const VARIABLE: &str = "WASMILL_SERVERS";

/// A pair of releases that is supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// The oldest: nats-server 2.9 and etcd 3.4, as Debian 12 has them.
    Old,
    /// Current ones: nats-server 2.15 and etcd 3.5.
    New,
}

impl Release {
    pub(crate) fn nats(self) -> PathBuf {
        match self {
            Self::Old => program("nats-2.9/nats-server"),
            Self::New => program("nats-2.15/nats-server"),
        }
    }

    pub(crate) fn etcd(self) -> PathBuf {
        match self {
            Self::Old => program("etcd-3.4/etcd"),
            Self::New => program("etcd-3.5/etcd"),
        }
    }
}

fn program(name: &str) -> PathBuf {
    let path = directory().join(name);
    assert!(path.is_file(), "`{}` is missing: `cargo xtask setup` installs it", path.display());
    path
}

/// The directory that is named, else `servers` in cargo's target directory, below which every test program lies.
fn directory() -> PathBuf {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return named.into();
    }
    let program = std::env::current_exe().expect("a running program has a path");
    let profile = program.ancestors().find(|dir| dir.join("deps").is_dir());
    let target = profile.and_then(|profile| profile.parent()).expect("tests are run by cargo, in its target directory");
    target.join("servers")
}
