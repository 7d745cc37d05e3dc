//! A server to test against.

mod client;
mod cluster;
mod faults;
mod gate;
mod host;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::{Fabric, embedded};
use wasmill_scheduler::Handle;
use wasmill_scheduler::driver::{Driver, DriverConfig, SnapshotConfig};
use wasmill_scheduler::read_model::ReadModel;
use wasmill_scheduler_core::CoreConfig;
use wasmill_scheduler_http::{HttpConfig, bootstrap_admin, listen, serve};

pub(crate) use client::{Answer, Client, raw};
pub(crate) use cluster::{Cluster, Node};
pub(crate) use faults::LogFaults;
pub(crate) use gate::{COMMAND, FakeGate, SPRAWLING, TASK, module};
pub(crate) use host::FakeHost;

/// A control node with one host in this process; everything ends when it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Handle,
    pub(crate) gate: Arc<FakeGate>,
    pub(crate) admin: Client,
    pub(crate) dir: Arc<TempDir>,
    stop_http: CancellationToken,
    stop_driver: CancellationToken,
    http: JoinHandle<()>,
    driver: JoinHandle<()>,
    host: FakeHost,
    pub(crate) fabric: Fabric,
}

impl Server {
    /// With settings as they are by default.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// With other settings.
    pub(crate) async fn start_with(change: impl FnOnce(&mut HttpConfig)) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::start_in(dir, change).await
    }

    /// On a data directory that may have been used before.
    pub(crate) async fn start_in(dir: Arc<TempDir>, change: impl FnOnce(&mut HttpConfig)) -> Self {
        Self::start_keeping(dir, SnapshotConfig::default(), change).await
    }

    /// With other snapshots.
    pub(crate) async fn start_keeping(
        dir: Arc<TempDir>,
        snapshots: SnapshotConfig,
        change: impl FnOnce(&mut HttpConfig),
    ) -> Self {
        let (driver, handle, fabric) = open(dir.path(), snapshots).await;
        let (stop_http, stop_driver) = (CancellationToken::new(), CancellationToken::new());
        let stop = stop_driver.clone();
        let driver = tokio::spawn(async move { driver.run(stop).await.unwrap() });
        handle.shared().standing.subscribe().wait_for(|standing| standing.leading).await.unwrap();
        let host = FakeHost::start(fabric.clone(), handle.clone()).await;

        let token_file = dir.path().join("admin.token");
        bootstrap_admin(&handle, &token_file).await.unwrap();
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = HttpConfig::default();
        change(&mut config);
        let gate = Arc::new(FakeGate::default());
        let serving =
            serve(listener, config, handle.clone(), Arc::clone(&gate) as _, stop_http.clone().cancelled_owned());
        let http = tokio::spawn(async move { serving.await.unwrap() });
        let token = std::fs::read_to_string(token_file).unwrap();
        let admin = Client::new(address, token.trim());
        Self { address, handle, gate, admin, dir, stop_http, stop_driver, http, driver, host, fabric }
    }

    /// Asks the HTTP interface to stop, and nothing else.
    pub(crate) fn stop_http(&self) {
        self.stop_http.cancel();
    }

    /// Stops everything in order, and gives back the data directory.
    pub(crate) async fn stop(self) -> Arc<TempDir> {
        self.stop_http.cancel();
        self.http.await.unwrap();
        self.host.stop().await;
        self.stop_driver.cancel();
        self.driver.await.unwrap();
        drop(self.handle);
        self.dir
    }

    /// A client of a new tenant with a token of `role`.
    pub(crate) async fn tenant(&self, name: &str, role: &str) -> Client {
        let made = self.admin.post("/v1/tenants", &serde_json::json!({"name": name})).await;
        assert!(matches!(made.status, 201 | 409), "{made:?}");
        self.token(name, role).await
    }

    /// A client with a new token.
    pub(crate) async fn token(&self, tenant: &str, role: &str) -> Client {
        let body = serde_json::json!({"name": "test", "role": role});
        let made = self.admin.post(&format!("/v1/tenants/{tenant}/tokens"), &body).await;
        assert_eq!(made.status, 201, "{made:?}");
        Client::new(self.address, made.json()["token"].as_str().unwrap())
    }

    /// Uploads a module for tasks and gives back its digest.
    pub(crate) async fn upload(&self, client: &Client, bytes: &[u8]) -> String {
        let made = client.post_bytes("/v1/modules", bytes).await;
        assert!(matches!(made.status, 200 | 201), "{made:?}");
        made.json()["digest"].as_str().unwrap().to_owned()
    }

    /// Files that uploads have begun and not ended.
    pub(crate) fn unfinished_blobs(&self) -> Vec<PathBuf> {
        let dir = std::fs::read_dir(self.dir.path().join("blobs/tmp")).unwrap();
        dir.map(|entry| entry.unwrap().path()).collect()
    }
}

/// A driver on a data directory, as soon as nobody has it any more.
pub(crate) async fn open(dir: &Path, snapshots: SnapshotConfig) -> (Driver, Handle, Fabric) {
    // The threads of an earlier server end a moment after it.
    until("the data directory is free", async || embedded::open(dir).is_ok()).await;
    let fabric = embedded::open(dir).unwrap();
    let read_model = Arc::new(ReadModel::open(dir).unwrap());
    let config = DriverConfig { node: "test".to_owned(), core: CoreConfig::default(), snapshots, seed: 7 };
    let (driver, handle) = Driver::new(config, fabric.clone(), read_model);
    (driver, handle, fabric)
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
