//! NATS with JetStream.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::process::http_get;
use crate::{NatsVersion, ServerProcess, free_port, wait_until};

/// The settings of a server at its start.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// Which program.
    pub version: NatsVersion,
    /// When JetStream syncs.
    pub sync: SyncInterval,
    /// The largest message.
    pub max_payload_bytes: usize,
    /// Whether it keeps anything.
    pub has_jetstream: bool,
    /// More lines of its configuration.
    pub more: String,
}

/// When JetStream syncs what it writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncInterval {
    /// Before it answers; only where the version can do it.
    Always,
    /// As it does when nobody says anything: every two minutes.
    Default,
}

impl NatsOptions {
    /// Syncs before every answer where the version can, and its usual bounds.
    pub fn new(version: NatsVersion) -> Self {
        let sync = match version {
            NatsVersion::V2_9 => SyncInterval::Default,
            NatsVersion::V2_15 => SyncInterval::Always,
        };
        Self { version, sync, max_payload_bytes: 1024 * 1024, has_jetstream: true, more: String::new() }
    }
}

/// Where a server is.
#[derive(Debug, Clone)]
pub struct NatsLayout {
    /// Its directory, which is also its working directory.
    pub dir: PathBuf,
    /// For clients.
    pub port: u16,
    /// For looking at it.
    pub http_port: u16,
    /// For other servers.
    pub route_port: u16,
}

/// How a server is started with a configuration of the caller's.
#[derive(Debug, Clone, Default)]
pub struct NatsSetup {
    /// Its arguments.
    pub args: Vec<String>,
    /// The variables that its environment has beside those of this process.
    pub env: Vec<(String, String)>,
}

/// One server.
pub struct NatsServer {
    process: ServerProcess,
    layout: NatsLayout,
    /// One of three.
    clustered: bool,
}

impl NatsServer {
    /// Starts one that is alone.
    pub fn start(options: &NatsOptions) -> Self {
        let mut server = Self::new(options.version);
        server.configure(&options_text(options, &server.layout, "alone", ""));
        server.restart();
        server
    }

    fn new(version: NatsVersion) -> Self {
        let process = ServerProcess::new(version.program());
        let layout = NatsLayout {
            dir: process.dir().to_owned(),
            port: free_port(),
            http_port: free_port(),
            route_port: free_port(),
        };
        Self { process, layout, clustered: false }
    }

    fn configure(&mut self, text: &str) {
        let path = self.layout.dir.join("nats.conf");
        fs::write(&path, text).expect("the directory is ours");
        self.process.set_args(vec!["--config".to_owned(), path.display().to_string()]);
    }

    /// Where clients connect to.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.layout.port)
    }

    /// Where it is.
    pub fn layout(&self) -> &NatsLayout {
        &self.layout
    }

    /// The process itself: to pause it, and to see what it has printed.
    pub fn process(&self) -> &ServerProcess {
        &self.process
    }

    /// Ends it at once, as a crash does. Its storage stays.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends it as an operator does.
    pub fn terminate(&mut self) {
        self.process.terminate();
    }

    /// Starts it again, on the same ports and the same data. Whether one of three has caught up is
    /// another question: [`NatsCluster::wait_until_whole`].
    pub fn restart(&mut self) {
        let (layout, clustered) = (self.layout.clone(), self.clustered);
        // One of three is healthy only when the others are there.
        self.process.start(|| greets(layout.port) && (clustered || http_get(layout.http_port, "/healthz").is_some()));
    }
}

/// Three servers that keep everything three times.
pub struct NatsCluster {
    /// The servers.
    pub servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts them, and waits until they have found each other.
    pub fn start(options: &NatsOptions) -> Self {
        let mut cluster = Self::prepare(options);
        cluster.servers.iter_mut().for_each(NatsServer::restart);
        cluster.wait_until_whole();
        cluster
    }

    /// Three that were never started.
    pub fn prepare(options: &NatsOptions) -> Self {
        let mut servers: Vec<NatsServer> = (0..3).map(|_| NatsServer::new(options.version)).collect();
        let routes = servers.iter().fold(String::new(), |mut routes, server| {
            let _ = write!(routes, "nats://127.0.0.1:{}, ", server.layout.route_port);
            routes
        });
        for (number, server) in servers.iter_mut().enumerate() {
            let name = format!("n{number}");
            server.clustered = true;
            server.configure(&options_text(options, &server.layout, &name, &routes));
        }
        Self { servers }
    }

    /// Starts three with a configuration of the caller's: `write` puts files into the directory of
    /// one of them, and says how it is started. It must listen on the ports of its layout.
    pub fn start_with(version: NatsVersion, write: impl Fn(&NatsLayout, &[NatsLayout]) -> NatsSetup) -> Self {
        let mut servers: Vec<NatsServer> = (0..3).map(|_| NatsServer::new(version)).collect();
        let layouts: Vec<NatsLayout> = servers.iter().map(|server| server.layout.clone()).collect();
        for (server, layout) in servers.iter_mut().zip(&layouts) {
            let setup = write(layout, &layouts);
            server.clustered = true;
            server.process.set_args(setup.args);
            server.process.set_env(setup.env);
            server.restart();
        }
        let cluster = Self { servers };
        cluster.wait_until_whole();
        cluster
    }

    /// Where clients connect to.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(NatsServer::url).collect()
    }

    /// Waits until every server runs, knows the others, and has caught up with them.
    pub fn wait_until_whole(&self) {
        for server in &self.servers {
            let port = server.layout.http_port;
            wait_until("the servers find each other", || {
                let known = |body: &String| {
                    body.contains("\"meta_cluster\"")
                        && body.contains("\"leader\"")
                        && body.contains("\"cluster_size\": 3")
                };
                http_get(port, "/jsz").as_ref().is_some_and(known) && http_get(port, "/healthz").is_some()
            });
        }
    }
}

/// Whether a server accepts connections and says who it is.
fn greets(port: u16) -> bool {
    let greeting = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting).ok()?;
        Some(greeting)
    };
    greeting().is_some_and(|greeting| &greeting == b"INFO")
}

fn options_text(options: &NatsOptions, layout: &NatsLayout, name: &str, routes: &str) -> String {
    let NatsLayout { dir, port, http_port, route_port } = layout;
    let sync = match options.sync {
        SyncInterval::Always => "sync_interval: always",
        SyncInterval::Default => "",
    };
    let cluster = match routes {
        "" => String::new(),
        routes => format!("cluster {{ name: test, listen: \"127.0.0.1:{route_port}\", routes: [{routes}] }}"),
    };
    let jetstream = if options.has_jetstream {
        format!(
            "jetstream {{ store_dir: \"{}\", max_file_store: 8GB, max_memory_store: 64MB, {sync} }}",
            dir.join("data").display()
        )
    } else {
        String::new()
    };
    format!(
        "server_name: {name}\n\
         listen: \"127.0.0.1:{port}\"\n\
         http: \"127.0.0.1:{http_port}\"\n\
         max_payload: {}\n\
         {jetstream}\n\
         {cluster}\n\
         {}\n",
        options.max_payload_bytes, options.more
    )
}
