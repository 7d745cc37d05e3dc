//! Measures how long the embedded log takes to make records durable: `cargo run --release --example append [DIR]`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use wasmill_fabric::Log;
use wasmill_fabric::embedded::{Embedded, OpenError};
use wasmill_protocol::LogSeq;

/// A small event takes about this many bytes.
const EVENT_BYTES: usize = 150;
/// How long each row is measured.
const ROW: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/append"), PathBuf::from);
    let log = open(&dir)?.log();
    println!("events/record  in flight  records/s  events/s   p50 us   p99 us   max us");
    for events in [1, 64, 1024] {
        for in_flight in [1, 8, 64] {
            measure(log.as_ref(), events, in_flight).await?;
        }
    }
    Ok(())
}

fn open(dir: &std::path::Path) -> Result<Embedded, OpenError> {
    Embedded::open(dir)
}

async fn measure(log: &dyn Log, events: usize, in_flight: usize) -> Result<(), Box<dyn std::error::Error>> {
    let record = Bytes::from(vec![7; events * EVENT_BYTES]);
    let mut last = log.last_seq().await?;
    let mut appends = FuturesOrdered::new();
    let mut latencies = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < ROW {
        while appends.len() < in_flight {
            let called = Instant::now();
            let append = log.append(last, record.clone());
            last = last.next();
            appends.push_back(async move { append.await.map(|_: LogSeq| called.elapsed()) });
        }
        if let Some(latency) = appends.next().await {
            latencies.push(latency?);
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    while let Some(latency) = appends.next().await {
        latency?;
    }
    log.trim(last).await?;
    latencies.sort_unstable();
    let quantile = |q: f64| latencies[((latencies.len() - 1) as f64 * q) as usize].as_micros();
    let records = latencies.len() as f64 / seconds;
    println!(
        "{events:13}  {in_flight:9}  {records:9.0}  {:8.0}  {:7}  {:7}  {:7}",
        records * events as f64,
        quantile(0.5),
        quantile(0.99),
        quantile(1.0)
    );
    Ok(())
}
