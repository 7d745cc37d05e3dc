//! Measures how long a log takes to make records durable.
//!
//! ```sh
//! cargo run --release --package wasmill-fabric --example append                 # the embedded log, in target/append
//! cargo run --release --package wasmill-fabric --example append -- DIR          # the same, on another disk
//! cargo run --release --package wasmill-fabric --example append -- --cluster    # JetStream, on a private server that syncs before it answers
//! ```
//!
//! Beside the log of a cluster it measures the bare client on the same server: the same messages
//! without anything that a log promises.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_nats::jetstream;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use wasmill_fabric::Log;
use wasmill_fabric::cluster::{Cluster, ClusterConfig, ControlConfig, EtcdConfig, NatsConfig};
use wasmill_fabric::embedded;
use wasmill_fabric_testing::{EtcdOptions, EtcdServer, EtcdVersion, NatsOptions, NatsServer, NatsVersion};
use wasmill_protocol::LogSeq;

/// A small event takes about this many bytes.
const EVENT_BYTES: usize = 150;
/// How long each row is measured.
const ROW: Duration = Duration::from_secs(3);
/// Events in a record.
const EVENTS: [usize; 3] = [1, 64, 1024];
/// Appends under way.
const IN_FLIGHT: [usize; 4] = [1, 2, 8, 64];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args_os().nth(1) {
        Some(arg) if arg == "--cluster" => cluster().await,
        dir => embedded(dir.map_or_else(|| PathBuf::from("target/append"), PathBuf::from)).await,
    }
}

async fn embedded(dir: PathBuf) -> Result<()> {
    let log = embedded::open(&dir)?.log;
    println!("{HEADER}");
    for events in EVENTS {
        for in_flight in IN_FLIGHT {
            measure_log(log.as_ref(), "embedded", events, in_flight).await?;
        }
    }
    Ok(())
}

async fn cluster() -> Result<()> {
    let nats = NatsServer::start(&NatsOptions::new(NatsVersion::V2_15));
    let etcd = EtcdServer::start(&EtcdOptions::new(EtcdVersion::V3_5));
    let dir = tempfile::tempdir()?;
    let config = ClusterConfig {
        cluster: "append".parse()?,
        member: "node-1".parse()?,
        nats: NatsConfig { urls: vec![nats.url()], ..NatsConfig::default() },
        etcd: EtcdConfig { urls: vec![etcd.url()], ..EtcdConfig::default() },
        lease_ms: 5_000,
    };
    let mut control = ControlConfig::new(dir.path().join("blobs"));
    control.nats_monitors = vec![format!("127.0.0.1:{}", nats.layout().http_port)];
    let cluster = Cluster::connect(&config, &control).await?;
    for warning in cluster.warnings() {
        println!("warning: {warning}");
    }
    let bare = bare_stream(&nats.url()).await?;
    println!("{HEADER}");
    for events in [1, 64, 1024] {
        for in_flight in IN_FLIGHT {
            measure_log(cluster.fabric.log.as_ref(), "cluster", events, in_flight).await?;
            measure_bare(&bare, events, in_flight).await?;
        }
    }
    Ok(())
}

/// A stream as the log's, without anything else.
async fn bare_stream(url: &str) -> Result<jetstream::Context> {
    let context = jetstream::new(async_nats::connect(url).await?);
    let config = jetstream::stream::Config {
        name: "bare".to_owned(),
        subjects: vec!["bare".to_owned()],
        storage: jetstream::stream::StorageType::File,
        ..jetstream::stream::Config::default()
    };
    context.create_stream(config).await?;
    Ok(context)
}

const HEADER: &str = "log        events/record  in flight  records/s  events/s   p50 us   p99 us   max us";

async fn measure_log(log: &dyn Log, name: &str, events: usize, in_flight: usize) -> Result<()> {
    let record = Bytes::from(vec![7; events * EVENT_BYTES]);
    let mut last = log.last_seq().await?;
    let writer = log.writer();
    let mut appends = FuturesOrdered::new();
    let mut row = Row::begin(name, events, in_flight);
    while row.goes_on() {
        while appends.len() < in_flight {
            let called = Instant::now();
            let append = writer.append(last, record.clone());
            last = last.next();
            appends.push_back(async move { append.await.map(|_: LogSeq| called.elapsed()) });
        }
        if let Some(latency) = appends.next().await {
            row.latencies.push(latency?);
        }
    }
    row.end();
    while let Some(latency) = appends.next().await {
        latency?;
    }
    log.trim(last).await?;
    Ok(())
}

async fn measure_bare(context: &jetstream::Context, events: usize, in_flight: usize) -> Result<()> {
    let record = Bytes::from(vec![7; events * EVENT_BYTES]);
    let mut acks = FuturesOrdered::new();
    let mut row = Row::begin("bare", events, in_flight);
    while row.goes_on() {
        while acks.len() < in_flight {
            let called = Instant::now();
            let ack = context.publish("bare", record.clone()).await?;
            acks.push_back(async move { ack.await.map(|_| called.elapsed()) });
        }
        if let Some(latency) = acks.next().await {
            row.latencies.push(latency?);
        }
    }
    row.end();
    while let Some(latency) = acks.next().await {
        latency?;
    }
    context.get_stream("bare").await?.purge().await?;
    Ok(())
}

struct Row {
    name: String,
    events: usize,
    in_flight: usize,
    begun: Instant,
    latencies: Vec<Duration>,
}

impl Row {
    fn begin(name: &str, events: usize, in_flight: usize) -> Self {
        Self { name: name.to_owned(), events, in_flight, begun: Instant::now(), latencies: Vec::new() }
    }

    fn goes_on(&self) -> bool {
        self.begun.elapsed() < ROW
    }

    fn end(&mut self) {
        let seconds = self.begun.elapsed().as_secs_f64();
        self.latencies.sort_unstable();
        let quantile = |q: f64| self.latencies[((self.latencies.len() - 1) as f64 * q) as usize].as_micros();
        let records = self.latencies.len() as f64 / seconds;
        println!(
            "{:9}  {:13}  {:9}  {:9.0}  {:8.0}  {:7}  {:7}  {:7}",
            self.name,
            self.events,
            self.in_flight,
            records,
            records * self.events as f64,
            quantile(0.5),
            quantile(0.99),
            quantile(1.0)
        );
    }
}
