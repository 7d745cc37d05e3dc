//! Control nodes that share a fabric, and an election that the test decides.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::{Fabric, HostEvent, HostRegistration, Leadership, Lease, Membership, MembershipError, embedded};
use wasmill_protocol::Term;
use wasmill_protocol::message::HostInfo;
use wasmill_scheduler::Handle;
use wasmill_scheduler::driver::{Driver, DriverConfig, DriverError, SnapshotConfig};
use wasmill_scheduler::handle::Standing;
use wasmill_scheduler::read_model::ReadModel;
use wasmill_scheduler_core::CoreConfig;
use wasmill_scheduler_http::{HttpConfig, bootstrap_admin, serve};

use super::faults::{LogFaults, SmallBus};
use super::{Client, FakeGate, FakeHost};

/// Several control nodes and one host.
pub(crate) struct Cluster {
    election: Arc<Election>,
    pub(crate) nodes: Vec<Node>,
    host: Mutex<Option<FakeHost>>,
    pub(crate) fabric: Fabric,
    _dir: TempDir,
}

/// One of them.
pub(crate) struct Node {
    name: String,
    pub(crate) handle: Handle,
    /// Its way to the log.
    pub(crate) log: Arc<LogFaults>,
    /// Its way to the others.
    pub(crate) bus: Arc<SmallBus>,
    address: SocketAddr,
    client: tokio::sync::OnceCell<Client>,
    stop: CancellationToken,
    driver: JoinHandle<Result<(), DriverError>>,
    http: JoinHandle<()>,
    dir: TempDir,
}

impl Cluster {
    /// Nodes named `node-0` and so on. Nobody leads.
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(count, Some(0)).await
    }

    /// Where the clocks of the servers that keep the log are so many seconds ahead of this
    /// machine's, or where each process keeps it itself.
    pub(crate) async fn start_with(count: usize, servers_ahead_s: Option<i64>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let embedded = embedded::open(dir.path()).unwrap();
        let election = Arc::new(Election::new(Arc::clone(&embedded.membership)));
        let fabric = Fabric { membership: Arc::clone(&election) as _, ..embedded };
        let mut nodes = Vec::new();
        for index in 0..count {
            nodes.push(Node::start(index, fabric.clone(), &election, servers_ahead_s).await);
        }
        Self { election, nodes, host: Mutex::default(), fabric, _dir: dir }
    }

    /// One more node; which one it is.
    pub(crate) async fn join(&mut self) -> usize {
        let index = self.nodes.len();
        self.nodes.push(Node::start(index, self.fabric.clone(), &self.election, Some(0)).await);
        index
    }

    /// Nodes that stood for election before they had read the log.
    pub(crate) fn early(&self) -> Vec<String> {
        self.election.early.lock().unwrap().clone()
    }

    /// Lets a node win as soon as it stands for election.
    pub(crate) fn name(&self, index: usize) {
        self.election.elect(&self.nodes[index].name);
    }

    /// How often a node has won.
    pub(crate) fn won(&self, index: usize) -> u64 {
        self.election.won.lock().unwrap().get(&self.nodes[index].name).copied().unwrap_or(0)
    }

    /// Waits until a node that leads stops doing so, by itself.
    pub(crate) async fn gives_up(&self, index: usize) {
        let mut standing = self.nodes[index].handle.shared().standing.subscribe();
        standing.wait_for(|standing| !standing.leading).await.unwrap();
    }

    /// Lets a node win, and waits until it leads and every other one knows. The former leader is
    /// not told.
    pub(crate) async fn elect(&self, index: usize) {
        let node = &self.nodes[index];
        self.election.elect(&node.name);
        node.handle.shared().standing.subscribe().wait_for(|standing| standing.leading).await.unwrap();
        for other in &self.nodes {
            let mut standing = other.handle.shared().standing.subscribe();
            let knows = |leader: &Option<String>| leader.as_deref() == Some(node.name.as_str());
            // One that still believes to lead learns it from the log, and so does one that cannot
            // read it.
            let ends = |standing: &Standing| standing.leading || standing.log_silent || knows(&standing.leader);
            standing.wait_for(ends).await.unwrap();
        }
        let first = self.host.lock().unwrap().is_none();
        if first {
            let host = FakeHost::start(self.fabric.clone(), node.handle.clone()).await;
            *self.host.lock().unwrap() = Some(host);
        }
        node.client
            .get_or_init(async || {
                let file = node.dir.path().join("admin.token");
                bootstrap_admin(&node.handle, &file).await.unwrap();
                Client::new(node.address, std::fs::read_to_string(file).unwrap().trim())
            })
            .await;
    }

    /// Ends the leases of everybody.
    pub(crate) fn depose_all(&self) {
        self.election.depose();
    }

    /// A client of each node, all with the token of the first leader.
    pub(crate) fn clients<const COUNT: usize>(&self) -> [&Client; COUNT] {
        let token = self.nodes.iter().find_map(|node| node.client.get()).unwrap().token.clone();
        for node in &self.nodes {
            let _ = node.client.set(Client::new(node.address, &token));
        }
        std::array::from_fn(|index| self.nodes[index].client.get().unwrap())
    }

    /// Uploads a module and gives back its digest.
    pub(crate) async fn upload(&self, client: &Client, bytes: &[u8]) -> String {
        let made = client.post_bytes("/v1/modules", bytes).await;
        assert!(matches!(made.status, 200 | 201), "{made:?}");
        made.json()["digest"].as_str().unwrap().to_owned()
    }

    /// Stops everything in order.
    pub(crate) async fn stop(self) {
        let host = self.host.lock().unwrap().take();
        if let Some(host) = host {
            host.stop().await;
        }
        for node in self.nodes {
            node.stop.cancel();
            node.http.await.unwrap();
            node.driver.await.unwrap().unwrap();
        }
    }

    /// Lets a node win with one term after the other, for as long as it gives them back.
    pub(crate) fn elect_in(&self, index: usize, terms: &[u64]) {
        self.election.terms.lock().unwrap().extend(terms);
        self.election.elect(&self.nodes[index].name);
    }

    /// Waits until a node leads in a term.
    pub(crate) async fn leads_in(&self, index: usize, term: u64) {
        let mut standing = self.nodes[index].handle.shared().standing.subscribe();
        standing.wait_for(|standing| standing.leading && standing.term == Term(term)).await.unwrap();
    }

    /// Why a node has stopped by itself.
    pub(crate) async fn stopped_for(&mut self, index: usize) -> DriverError {
        let node = self.nodes.remove(index);
        let error = node.driver.await.unwrap().unwrap_err();
        node.stop.cancel();
        node.http.await.unwrap();
        error
    }
}

impl Node {
    /// A client without a token.
    pub(crate) fn stranger(&self) -> Client {
        Client::new(self.address, "")
    }

    async fn start(index: usize, fabric: Fabric, election: &Election, servers_ahead_s: Option<i64>) -> Self {
        let (name, seed) = (format!("node-{index}"), index as u64);
        let dir = tempfile::tempdir().unwrap();
        let read_model = Arc::new(ReadModel::open(dir.path()).unwrap());
        let config = DriverConfig {
            node: name.clone(),
            core: CoreConfig::default(),
            snapshots: SnapshotConfig::default(),
            seed,
        };
        let log = Arc::new(LogFaults::new(Arc::clone(&fabric.log), servers_ahead_s));
        let bus = Arc::new(SmallBus::new(Arc::clone(&fabric.bus)));
        let fabric = Fabric { log: Arc::clone(&log) as _, bus: Arc::clone(&bus) as _, ..fabric };
        let (driver, handle) = Driver::new(config, fabric, read_model);
        election.handles.lock().unwrap().insert(name.clone(), handle.clone());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let driver = tokio::spawn(driver.run(stopped));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(FakeGate::default());
        let serving = serve(listener, HttpConfig::default(), handle.clone(), gate as _, stop.clone().cancelled_owned());
        let http = tokio::spawn(async move { serving.await.unwrap() });
        Self { name, handle, log, bus, address, client: tokio::sync::OnceCell::new(), stop, driver, http, dir }
    }
}

/// Gives the seat to whom the test names.
struct Election {
    hosts: Arc<dyn Membership>,
    /// The node that was named last, and how many were named so far.
    named: watch::Sender<(String, u64)>,
    /// Which of these each node has taken.
    granted: Arc<Mutex<BTreeMap<String, u64>>>,
    handles: Mutex<BTreeMap<String, Handle>>,
    /// See [`Cluster::early`].
    early: Mutex<Vec<String>>,
    /// How often each node has won.
    won: Mutex<BTreeMap<String, u64>>,
    /// The last term.
    term: AtomicU64,
    /// Terms to be given before those that are counted.
    terms: Mutex<VecDeque<u64>>,
    leases: Mutex<BTreeMap<String, Vec<watch::Sender<bool>>>>,
}

impl Election {
    fn new(hosts: Arc<dyn Membership>) -> Self {
        Self {
            hosts,
            named: watch::Sender::new((String::new(), 0)),
            granted: Arc::default(),
            handles: Mutex::default(),
            early: Mutex::default(),
            won: Mutex::default(),
            term: AtomicU64::new(0),
            terms: Mutex::default(),
            leases: Mutex::default(),
        }
    }

    fn elect(&self, name: &str) {
        self.named.send_modify(|(named, number)| (*named, *number) = (name.to_owned(), *number + 1));
    }

    fn depose(&self) {
        self.elect("");
        for leases in self.leases.lock().unwrap().values_mut() {
            leases.drain(..).for_each(|lease| {
                lease.send_replace(true);
            });
        }
    }
}

impl Membership for Election {
    fn campaign(&self, node: &str) -> BoxFuture<'_, Result<Leadership, MembershipError>> {
        let node = node.to_owned();
        async move {
            if !self.handles.lock().unwrap()[&node].standing().caught_up {
                self.early.lock().unwrap().push(node.clone());
            }
            let mut named = self.named.subscribe();
            let since = self.granted.lock().unwrap().get(&node).copied().unwrap_or(0);
            let number = named.wait_for(|(name, number)| *name == node && *number > since).await.unwrap().1;
            self.granted.lock().unwrap().insert(node.clone(), number);
            *self.won.lock().unwrap().entry(node.clone()).or_default() += 1;
            let (lease, lost) = watch::channel(false);
            self.leases.lock().unwrap().entry(node.clone()).or_default().push(lease);
            let chosen = self.terms.lock().unwrap().pop_front();
            let term = Term(chosen.unwrap_or_else(|| self.term.fetch_add(1, Ordering::Relaxed) + 1));
            let seat = Seat { granted: Arc::clone(&self.granted), node, number };
            Ok(Leadership { term, lost, lease: Box::new(seat) })
        }
        .boxed()
    }

    fn register(&self, host: HostInfo) -> BoxFuture<'_, Result<HostRegistration, MembershipError>> {
        async move { self.hosts.register(host).await }.boxed()
    }

    fn hosts(&self) -> BoxStream<'static, HostEvent> {
        self.hosts.hosts()
    }
}

/// A node that gives it back and is still the one that is named may have it again.
struct Seat {
    granted: Arc<Mutex<BTreeMap<String, u64>>>,
    node: String,
    number: u64,
}

impl Lease for Seat {
    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        self.granted.lock().unwrap().insert(self.node, self.number - 1);
        async {}.boxed()
    }
}
