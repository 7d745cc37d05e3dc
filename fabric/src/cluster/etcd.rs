//! Requests to etcd, on a thread of their own: a lease must not wait because everything else is
//! busy.

mod candidate;
mod error;
mod hosts;
mod keep_alive;
pub(super) mod mark;
mod name;
mod register;

use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, ResponseHeader, TlsOptions, WatchResponse};
use futures::future::LocalBoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::timeout;
use wasmill_fabric_core::candidacy::LeaseId;
use wasmill_metrics::Registry;

pub(super) use self::error::{EtcdError, MarkError};
pub(super) use self::hosts::Living;
pub(super) use self::name::HeldName;
pub(super) use self::register::{Claim, Registered};
use super::config::{ClusterConfig, EtcdConfig};
use super::error::{ConnectError, chain};
use super::metrics::EtcdMetrics;

/// How long a single request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the first request may take, which has to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that is silent is asked whether it is there after this, and is gone when it does not
/// answer in the same time again.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Jobs that wait for the thread, which only begins them.
const JOBS_WAITING_MAX: usize = 64;
/// How long what is being given back may keep the thread after nobody needs it any more.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Hands jobs to the thread. It ends with the last of these.
#[derive(Clone)]
pub(super) struct EtcdThread {
    jobs: mpsc::Sender<Job>,
    metrics: EtcdMetrics,
}

type Job = Box<dyn FnOnce(Rc<Etcd>) -> LocalBoxFuture<'static, ()> + Send>;

/// Connections, and what this cluster calls its keys.
struct Etcd {
    /// For what is answered at once.
    asking: Client,
    /// For what is waited for, as long as it takes: elections, watches, streams of keepalives. A
    /// client with a timeout for requests would give up an election that is waited for.
    waiting: Client,
    prefix: String,
    /// The user of this process for etcd, if there is one.
    user: Option<String>,
    /// The time to live of a lease, in seconds.
    ttl_s: i64,
    metrics: EtcdMetrics,
}

impl EtcdThread {
    /// Starts the thread, and waits until etcd has answered.
    pub(super) async fn start(config: &ClusterConfig) -> Result<Self, ConnectError> {
        let (options, metrics) = (Options::read(&config.etcd)?, EtcdMetrics::new());
        let measured = metrics.clone();
        let (jobs, receiver) = mpsc::channel(JOBS_WAITING_MAX);
        let (answer, answered) = oneshot::channel();
        let prefix = format!("/wasmill/{}", config.cluster);
        let member_key = format!("{prefix}/hosts/{}", config.member);
        let ttl_s = i64::try_from(config.lease_ms.div_ceil(1_000)).unwrap_or(i64::MAX);
        let system = |source| ConnectError::System { action: "start a thread for leases", source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
        let work = move || {
            LocalSet::new().block_on(&runtime, async move {
                match options.connect(prefix, ttl_s, &member_key, measured).await {
                    Ok(etcd) => {
                        let _ = answer.send(Ok(()));
                        serve(Rc::new(etcd), receiver).await;
                    }
                    Err(error) => drop(answer.send(Err(error))),
                }
            });
        };
        thread::Builder::new().name("leases".to_owned()).spawn(work).map_err(system)?;
        let connected = answered.await.unwrap_or(Err(EtcdError::ThreadEnded));
        connected.map_err(|error| ConnectError::Unreachable {
            action: "connect to etcd",
            urls: config.etcd.urls.clone(),
            reason: chain(&error),
        })?;
        Ok(Self { jobs, metrics })
    }

    /// Shows how etcd answers.
    pub(super) fn watch(&self, registry: &Registry) {
        self.metrics.register(registry);
    }

    /// Begins a job on the thread.
    async fn begin<F>(&self, job: impl FnOnce(Rc<Etcd>) -> F + Send + 'static)
    where
        F: Future<Output = ()> + 'static,
    {
        // When the thread is gone the job is dropped, which whoever waits for it notices.
        let _ = self.jobs.send(Box::new(move |etcd| Box::pin(job(etcd)))).await;
    }

    /// Runs a job on the thread to its end.
    async fn run<T, E, F>(&self, job: impl FnOnce(Rc<Etcd>) -> F + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<EtcdError> + Send + 'static,
        F: Future<Output = Result<T, E>> + 'static,
    {
        let (answer, answered) = oneshot::channel();
        self.begin(move |etcd| {
            let job = job(etcd);
            async move { drop(answer.send(job.await)) }
        })
        .await;
        answered.await.unwrap_or_else(|_| Err(EtcdError::ThreadEnded.into()))
    }
}

/// Runs jobs until nobody can begin one any more.
async fn serve(etcd: Rc<Etcd>, mut jobs: mpsc::Receiver<Job>) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            job = jobs.recv() => match job {
                Some(job) => drop(running.spawn_local(job(Rc::clone(&etcd)))),
                None => break,
            },
            Some(ended) = running.join_next(), if !running.is_empty() => {
                if let Err(error) = ended {
                    tracing::error!("a job of the thread for leases has failed: {error}");
                }
            }
        }
    }
    // A lease is given back, if it can be; else it ends by itself.
    let _ = timeout(LEAVE_TIMEOUT, async { while running.join_next().await.is_some() {} }).await;
}

impl Etcd {
    /// Asks for a lease; gives it with its time to live in microseconds.
    async fn grant(&self) -> Result<(LeaseId, u64), EtcdError> {
        let granted = self.asking.lease_client().grant(self.ttl_s, None).await?;
        Ok((LeaseId(granted.id()), ttl_us(granted.ttl())))
    }

    /// Gives a lease back; one that cannot be given back ends by itself.
    async fn revoke(&self, lease: LeaseId) {
        if let Err(error) = self.asking.lease_client().revoke(lease.0).await {
            tracing::debug!("cannot give lease {:x} back: {}", lease.0, chain(&EtcdError::from(error)));
        }
    }
}

impl Etcd {
    /// The failure of a request that reads or writes `key`.
    fn failed(&self, key: &str, error: etcd_client::Error) -> EtcdError {
        EtcdError::of_key(self.user.as_deref(), key, error)
    }
}

/// Seconds, as etcd says them; what is gone has none or less.
fn ttl_us(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000)
}

/// The configuration, with its files read.
struct Options {
    urls: Vec<String>,
    user: Option<String>,
    options: ConnectOptions,
}

impl Options {
    fn read(config: &EtcdConfig) -> Result<Self, ConnectError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_TIMEOUT)
            .with_keep_alive(PING_INTERVAL, PING_INTERVAL)
            .with_keep_alive_while_idle(true)
            // A member that is cut off from the others says so instead of keeping us waiting.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((user, password)) = &config.user {
            options = options.with_user(user, password);
        }
        if config.tls.is_wanted() || config.urls.iter().any(|url| url.starts_with("https://")) {
            options = options.with_tls(tls(&config.tls.ca_file, &config.tls.client)?);
        }
        let user = config.user.as_ref().map(|(user, _)| user.clone());
        Ok(Self { urls: config.urls.clone(), user, options })
    }

    async fn connect(
        self,
        prefix: String,
        ttl_s: i64,
        member_key: &str,
        metrics: EtcdMetrics,
    ) -> Result<Etcd, EtcdError> {
        let asking = self.options.clone().with_timeout(REQUEST_TIMEOUT);
        let connecting = async {
            let etcd = Etcd {
                asking: Client::connect(&self.urls, Some(asking)).await?,
                waiting: Client::connect(&self.urls, Some(self.options)).await?,
                prefix,
                user: self.user.clone(),
                ttl_s,
                metrics,
            };
            // Connections are made when they are needed; so something is asked that every member
            // may ask.
            let asked = etcd.asking.kv_client().get(member_key, None).await;
            asked.map_err(|error| etcd.failed(member_key, error))?;
            Ok(etcd)
        };
        timeout(CONNECT_TIMEOUT, Box::pin(connecting))
            .await
            .unwrap_or(Err(EtcdError::NoAnswer { timeout: CONNECT_TIMEOUT }))
    }
}

/// Where etcd was when it began a watch, if it had not come to where the watch is to begin: until
/// it does, changes are missed. It was restored after that revision was read, or the server is
/// behind the others.
fn began_before(changes: &WatchResponse, from: i64) -> Option<i64> {
    let revision = changes.header().map_or(0, ResponseHeader::revision);
    (changes.created() && revision + 1 < from).then_some(revision)
}

fn tls(ca_file: &Option<PathBuf>, client: &Option<(PathBuf, PathBuf)>) -> Result<TlsOptions, ConnectError> {
    let read = |path: &Path| fs::read(path).map_err(|source| ConnectError::File { path: path.to_owned(), source });
    let mut tls = TlsOptions::new();
    tls = match ca_file {
        Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
        None => tls.with_enabled_roots(),
    };
    if let Some((certificate, key)) = client {
        tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(tls)
}
