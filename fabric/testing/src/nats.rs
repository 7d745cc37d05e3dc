//! nats-server.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use crate::{Process, Release, http, port};

/// What a server is started with.
#[derive(Debug, Clone, Default)]
pub struct NatsOptions {
    /// When a message is synced, such as `always`, which is what Wasmill asks operators for; nats-server's own default when empty. Version 2.9
    /// does not know this setting and always goes by its own default.
    pub sync_interval: String,
    /// Further lines of its configuration, such as `max_payload`, `authorization { … }` or `tls { … }`.
    pub lines: String,
    /// Where it keeps its streams; a directory that goes with the server when there is none.
    pub store: Option<PathBuf>,
}

impl NatsOptions {
    /// With every message synced before it is acknowledged.
    pub fn durable() -> Self {
        Self { sync_interval: "always".to_owned(), ..Self::default() }
    }
}

/// A nats-server with JetStream, alone or as a member of a cluster. Killed when dropped, and its data removed.
#[derive(Debug)]
pub struct Nats {
    /// The process.
    pub process: Process,
    port: u16,
    monitor: u16,
    dir: Arc<TempDir>,
}

impl Nats {
    /// Starts one server and waits until it is ready.
    pub fn start(release: Release, options: &NatsOptions) -> Self {
        let mut server = Self::prepare(release, options, "alone", "");
        server.process.start();
        server.wait();
        server
    }

    /// Starts a cluster and waits until all of its members are ready.
    pub fn start_cluster(release: Release, options: &NatsOptions, members: usize) -> Vec<Self> {
        let ports: Vec<u16> = (0..members).map(|_| port::free()).collect();
        let routes: Vec<String> = ports.iter().map(|port| format!("nats-route://127.0.0.1:{port}")).collect();
        let routes = routes.join(", ");
        let prepare = |(index, port): (usize, &u16)| {
            let cluster = format!(
                "cluster {{ name: wasmill, listen: \"127.0.0.1:{port}\", routes: [{routes}], no_advertise: true }}"
            );
            Self::prepare(release, options, &format!("member-{index}"), &cluster)
        };
        let mut servers: Vec<Self> = ports.iter().enumerate().map(prepare).collect();
        servers.iter_mut().for_each(|server| server.process.start());
        servers.iter_mut().for_each(Self::wait);
        servers
    }

    fn prepare(release: Release, options: &NatsOptions, name: &str, cluster: &str) -> Self {
        let dir = Arc::new(tempfile::tempdir().expect("a directory can be made"));
        let (port, monitor) = (port::free(), port::free());
        let store = options.store.clone().unwrap_or_else(|| dir.path().join("store"));
        let mut config = format!(
            "server_name: {name}\nlisten: \"127.0.0.1:{port}\"\nhttp: \"127.0.0.1:{monitor}\"\njetstream {{\n  store_dir: \"{}\"\n",
            store.display()
        );
        if release != Release::Old && !options.sync_interval.is_empty() {
            writeln!(config, "  sync_interval: {}", options.sync_interval).expect("a string takes everything");
        }
        write!(config, "}}\n{cluster}\n{}\n", options.lines).expect("a string takes everything");
        let file = dir.path().join("nats.conf");
        std::fs::write(&file, config).expect("a configuration can be written");
        let arguments = vec!["--config".into(), file.into()];
        let process = Process::new(release.nats(), arguments, dir.path().join("log"));
        Self { process, port, monitor, dir }
    }

    /// Starts it again after it was killed or stopped, on the same data and ports, and waits until it is ready.
    pub fn restart(&mut self) {
        self.process.start();
        self.wait();
    }

    /// Waits until it is ready. For a member of a cluster that takes a majority.
    pub fn wait(&mut self) {
        let monitor = self.monitor;
        self.process
            .wait_until("ready", || http::get(monitor, "/healthz").is_some_and(|answer| answer.contains(" 200 ")));
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL without credentials.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// What its monitoring says, such as `/jsz`; `None` when it does not answer.
    pub fn monitoring(&self, path: &str) -> Option<String> {
        http::get(self.monitor, path)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}
