//! Control nodes that share a fabric, and an election that the test decides.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::embedded::Embedded;
use wasmill_fabric::{HostEvent, HostRegistration, Leadership, Lease, Membership, MembershipError};
use wasmill_protocol::Term;
use wasmill_protocol::message::HostInfo;
use wasmill_scheduler::Handle;
use wasmill_scheduler::driver::{Driver, DriverConfig, Ground, SnapshotConfig};
use wasmill_scheduler::http::{HttpConfig, bootstrap_admin, serve};
use wasmill_scheduler::read_model::ReadModel;
use wasmill_scheduler_core::CoreConfig;

use super::{Client, FakeGate, FakeHost};

/// Several control nodes and one host.
pub(crate) struct Cluster {
    election: Arc<Election>,
    nodes: Vec<Node>,
    host: Mutex<Option<FakeHost>>,
    ground: Ground,
    _dir: TempDir,
}

struct Node {
    name: String,
    handle: Handle,
    address: SocketAddr,
    client: tokio::sync::OnceCell<Client>,
    stop: CancellationToken,
    driver: JoinHandle<()>,
    http: JoinHandle<()>,
    dir: TempDir,
}

impl Cluster {
    /// Nodes named `node-0` and so on. Nobody leads.
    pub(crate) async fn start(count: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let embedded = Embedded::open(dir.path()).unwrap();
        let election = Arc::new(Election::new(embedded.membership()));
        let ground = Ground {
            log: embedded.log(),
            blobs: embedded.blobs(),
            bus: embedded.bus(),
            membership: Arc::clone(&election) as _,
        };
        let mut nodes = Vec::new();
        for index in 0..count {
            nodes.push(Node::start(format!("node-{index}"), index as u64, ground.clone()).await);
        }
        Self { election, nodes, host: Mutex::default(), ground, _dir: dir }
    }

    /// Lets a node win, and waits until it leads and every other one knows. Whoever led before is not told.
    pub(crate) async fn elect(&self, index: usize) {
        let node = &self.nodes[index];
        self.election.elect(&node.name);
        node.handle.shared().standing.subscribe().wait_for(|standing| standing.leading).await.unwrap();
        for other in &self.nodes {
            let mut standing = other.handle.shared().standing.subscribe();
            let knows = |leader: &Option<String>| leader.as_deref() == Some(node.name.as_str());
            // One that still believes to lead learns it from the log.
            standing.wait_for(|standing| standing.leading || knows(&standing.leader)).await.unwrap();
        }
        let first = self.host.lock().unwrap().is_none();
        if first {
            let host = FakeHost::start(self.ground.clone(), node.handle.clone()).await;
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
        self.election.depose(None);
    }

    /// Ends the leases of everybody else.
    pub(crate) fn depose_all_but(&self, index: usize) {
        self.election.depose(Some(&self.nodes[index].name));
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
            node.driver.await.unwrap();
        }
    }
}

impl Node {
    async fn start(name: String, seed: u64, ground: Ground) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let read_model = Arc::new(ReadModel::open(dir.path()).unwrap());
        let config = DriverConfig {
            node: name.clone(),
            core: CoreConfig::default(),
            snapshots: SnapshotConfig::default(),
            seed,
        };
        let (driver, handle) = Driver::new(config, ground, read_model);
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let driver = tokio::spawn(async move { driver.run(stopped).await.unwrap() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Arc::new(FakeGate::default());
        let serving = serve(listener, HttpConfig::default(), handle.clone(), gate as _, stop.clone().cancelled_owned());
        let http = tokio::spawn(async move { serving.await.unwrap() });
        Self { name, handle, address, client: tokio::sync::OnceCell::new(), stop, driver, http, dir }
    }
}

/// Gives the seat to whom the test names.
struct Election {
    hosts: Arc<dyn Membership>,
    /// Who was named last, and the how-manieth that was.
    named: watch::Sender<(String, u64)>,
    /// Which of these each node has taken.
    granted: Mutex<BTreeMap<String, u64>>,
    leases: Mutex<BTreeMap<String, Vec<watch::Sender<bool>>>>,
}

impl Election {
    fn new(hosts: Arc<dyn Membership>) -> Self {
        Self {
            hosts,
            named: watch::Sender::new((String::new(), 0)),
            granted: Mutex::default(),
            leases: Mutex::default(),
        }
    }

    fn elect(&self, name: &str) {
        self.named.send_modify(|(named, number)| (*named, *number) = (name.to_owned(), *number + 1));
    }

    fn depose(&self, spared: Option<&str>) {
        let mut leases = self.leases.lock().unwrap();
        for (_, leases) in leases.iter_mut().filter(|(name, _)| spared != Some(name.as_str())) {
            leases.drain(..).for_each(|lease| drop(lease.send_replace(true)));
        }
    }
}

impl Membership for Election {
    fn campaign(&self, node: &str) -> BoxFuture<'_, Result<Leadership, MembershipError>> {
        let node = node.to_owned();
        async move {
            let mut named = self.named.subscribe();
            let since = self.granted.lock().unwrap().get(&node).copied().unwrap_or(0);
            let number = named.wait_for(|(name, number)| *name == node && *number > since).await.unwrap().1;
            self.granted.lock().unwrap().insert(node.clone(), number);
            let (lease, lost) = watch::channel(false);
            self.leases.lock().unwrap().entry(node).or_default().push(lease);
            Ok(Leadership { term: Term(number), lost, lease: Box::new(Seat) })
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

struct Seat;

impl Lease for Seat {
    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}
