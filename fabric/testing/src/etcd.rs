//! etcd.

use crate::process::http_get;
use crate::{EtcdVersion, ServerProcess, free_port};

/// The settings of a server at its start.
#[derive(Debug, Clone)]
pub struct EtcdOptions {
    /// Which program.
    pub version: EtcdVersion,
    /// More arguments.
    pub more: Vec<String>,
}

impl EtcdOptions {
    /// Usual but for its election timeout, a fifth of the usual one: it bounds from below how short
    /// a lease can be, here 1 s.
    pub fn new(version: EtcdVersion) -> Self {
        Self { version, more: Vec::new() }
    }
}

/// One server.
pub struct EtcdServer {
    process: ServerProcess,
    name: String,
    port: u16,
    peer_port: u16,
    /// Without TLS, whatever the other ports have.
    metrics_port: u16,
    more: Vec<String>,
}

impl EtcdServer {
    /// Starts one that is alone.
    pub fn start(options: &EtcdOptions) -> Self {
        let mut server = Self::new(options, "alone");
        let members = server.member();
        server.configure(&members);
        server.restart();
        server
    }

    fn new(options: &EtcdOptions, name: &str) -> Self {
        Self {
            process: ServerProcess::new(options.version.program()),
            name: name.to_owned(),
            port: free_port(),
            peer_port: free_port(),
            metrics_port: free_port(),
            more: options.more.clone(),
        }
    }

    fn member(&self) -> String {
        format!("{}=http://127.0.0.1:{}", self.name, self.peer_port)
    }

    fn configure(&mut self, members: &str) {
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer_port));
        let metrics = format!("http://127.0.0.1:{}", self.metrics_port);
        let usual = [
            ("--name", self.name.as_str()),
            ("--data-dir", "data"),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", members),
            ("--listen-metrics-urls", &metrics),
            ("--heartbeat-interval", "20"),
            ("--election-timeout", "200"),
            ("--log-level", "warn"),
            ("--logger", "zap"),
        ];
        let mut args: Vec<String> =
            usual.iter().flat_map(|(name, value)| [name.to_string(), value.to_string()]).collect();
        args.extend_from_slice(&self.more);
        self.process.set_args(args);
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        let scheme = if self.more.iter().any(|arg| arg == "--cert-file") { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// For clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process itself: to pause it, and to see what it has printed.
    pub fn process(&self) -> &ServerProcess {
        &self.process
    }

    /// Ends it at once, as a crash does. Its storage stays.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, on the same ports and the same data, and waits until it can be used.
    pub fn restart(&mut self) {
        let port = self.metrics_port;
        self.process.start(|| is_healthy(port));
    }

    /// Starts it, and does not wait: of three, the first is not healthy before the second.
    fn begin(&mut self) {
        self.process.start(|| true);
    }

    fn wait_until_healthy(&self) {
        crate::wait_until("etcd is healthy", || is_healthy(self.metrics_port));
    }
}

fn is_healthy(metrics_port: u16) -> bool {
    http_get(metrics_port, "/health").is_some_and(|health| health.contains("true"))
}

/// Three servers.
pub struct EtcdCluster {
    /// The servers.
    pub servers: Vec<EtcdServer>,
}

impl EtcdCluster {
    /// Starts them, and waits until they have found each other.
    pub fn start(options: &EtcdOptions) -> Self {
        let mut servers: Vec<EtcdServer> =
            (0..3).map(|number| EtcdServer::new(options, &format!("e{number}"))).collect();
        let members: Vec<String> = servers.iter().map(EtcdServer::member).collect();
        for server in &mut servers {
            server.configure(&members.join(","));
            server.begin();
        }
        servers.iter().for_each(EtcdServer::wait_until_healthy);
        Self { servers }
    }

    /// Where clients connect to.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(EtcdServer::url).collect()
    }
}
