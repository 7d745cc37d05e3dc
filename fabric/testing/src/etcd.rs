//! etcd.

use std::ffi::OsString;
use std::path::Path;

use tempfile::TempDir;

use crate::{Process, Release, http, port};

/// What a server is started with.
#[derive(Debug, Clone, Default)]
pub struct EtcdOptions {
    /// Whether clients must use TLS: the URL begins with `https`, and `arguments` name certificate and key.
    pub tls: bool,
    /// Further arguments, such as `--cert-file`.
    pub arguments: Vec<OsString>,
}

/// An etcd, alone or as a member of a cluster. Killed when dropped, and its data removed.
#[derive(Debug)]
pub struct Etcd {
    /// The process.
    pub process: Process,
    url: String,
    health: u16,
    dir: TempDir,
}

impl Etcd {
    /// Starts one server and waits until it is ready.
    pub fn start(release: Release, options: &EtcdOptions) -> Self {
        let mut servers = Self::start_cluster(release, options, 1);
        servers.pop().expect("one was started")
    }

    /// Starts a cluster and waits until all of its members are ready.
    pub fn start_cluster(release: Release, options: &EtcdOptions, members: usize) -> Vec<Self> {
        let peers: Vec<String> = (0..members).map(|_| format!("http://127.0.0.1:{}", port::free())).collect();
        let initial: Vec<String> =
            peers.iter().enumerate().map(|(index, peer)| format!("member-{index}={peer}")).collect();
        let initial = initial.join(",");
        let prepare = |(index, peer): (usize, &String)| {
            Self::prepare(release, options, &format!("member-{index}"), peer, &initial)
        };
        let mut servers: Vec<Self> = peers.iter().enumerate().map(prepare).collect();
        servers.iter_mut().for_each(|server| server.process.start());
        servers.iter_mut().for_each(Self::wait);
        servers
    }

    fn prepare(release: Release, options: &EtcdOptions, name: &str, peer: &str, initial: &str) -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let scheme = if options.tls { "https" } else { "http" };
        let (url, health) = (format!("{scheme}://127.0.0.1:{}", port::free()), port::free());
        let mut arguments: Vec<OsString> = vec!["--data-dir".into(), dir.path().join("data").into()];
        for (option, value) in [
            ("--name", name),
            ("--listen-client-urls", &url),
            ("--advertise-client-urls", &url),
            ("--listen-peer-urls", peer),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", initial),
            // Health is answered without TLS and without a user.
            ("--listen-metrics-urls", &format!("http://127.0.0.1:{health}")),
        ] {
            arguments.extend([option.into(), value.into()]);
        }
        arguments.extend(options.arguments.iter().cloned());
        let process = Process::new(release.etcd(), arguments, dir.path().join("log"));
        Self { process, url, health, dir }
    }

    /// Starts it again after it was killed or stopped, on the same data and ports, and waits until it is ready.
    pub fn restart(&mut self) {
        self.process.start();
        self.wait();
    }

    /// Waits until it is ready. For a member of a cluster that takes a majority.
    pub fn wait(&mut self) {
        let health = self.health;
        let healthy = || http::get(health, "/health").is_some_and(|answer| answer.contains("\"health\":\"true\""));
        self.process.wait_until("healthy", healthy);
    }

    /// The URL for clients.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}
