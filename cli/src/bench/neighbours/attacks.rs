//! Each way to attack: what is prepared for it, and what its clients do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use hyper::Method;
use wasmill_api::NDJSON;

use super::{bodies, payloads, wire};
use crate::bench::bulk::{drain, lines};
use crate::bench::http::{Connection, Endpoint};
use crate::bench::module;

/// How a neighbour can be harmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Attack {
    /// Memory instructions of gigabytes
    BulkMemory,
    /// Backtraces with names that take long to read
    Backtraces,
    /// Tasks whose modules must be compiled for another profile first
    Compilations,
    /// Uploads of modules that take seconds to compile
    Uploads,
    /// Large checkpoints, one after the other
    Checkpoints,
    /// Results of 60 MiB
    Results,
    /// Tasks at the highest priority
    Priorities,
    /// Tasks that sleep
    Sleepers,
    /// Pages of large listings, again and again
    Listings,
    /// Large pages that are asked for and not read
    SlowReaders,
    /// Large bodies that do not end
    Bodies,
    /// Connections with half a header
    Connections,
    /// Control frames of HTTP/2 without end
    ControlFrames,
}

impl Attack {
    pub(crate) const ALL: [Self; 13] = [
        Self::BulkMemory,
        Self::Backtraces,
        Self::Compilations,
        Self::Uploads,
        Self::Checkpoints,
        Self::Results,
        Self::Priorities,
        Self::Sleepers,
        Self::Listings,
        Self::SlowReaders,
        Self::Bodies,
        Self::Connections,
        Self::ControlFrames,
    ];

    /// For people and programs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::BulkMemory => "memory instructions of 4 GiB",
            Self::Backtraces => "backtraces of mangled names",
            Self::Compilations => "compilations for attempts",
            Self::Uploads => "uploads of laborious modules",
            Self::Checkpoints => "checkpoints of 60 MiB",
            Self::Results => "results of 60 MiB",
            Self::Priorities => "20,000 tasks at priority 100",
            Self::Sleepers => "200 sleepers",
            Self::Listings => "listings on 50 connections",
            Self::SlowReaders => "64 readers of large pages that do not read",
            Self::Bodies => "12 bodies of 62 MB that do not end",
            Self::Connections => "connections with half a header",
            Self::ControlFrames => "control frames of HTTP/2",
        }
    }
}

/// An attack with everything that it needs on the server.
#[derive(Debug, Clone)]
pub(super) enum Prepared {
    /// The same tasks in bulk, again as soon as half a second has passed.
    Tasks { lines: Bytes, again: bool },
    /// One upload after the other, on this many connections.
    Uploads { connections: usize },
    /// The same page, on this many connections.
    Listings { connections: usize },
    /// On the wire.
    Wire(wire::Kind),
}

/// Puts modules and tasks in place.
pub(super) async fn prepare(attack: Attack, attacker: &Endpoint) -> Result<Prepared> {
    let mut connection = attacker.connect().await?;
    let tasks = |text: String| Prepared::Tasks { lines: text.into(), again: true };
    let repeated = |task: &str, count: u64, again| Prepared::Tasks { lines: lines(task, count), again };
    let prepared = match attack {
        Attack::BulkMemory => {
            let digest = connection.push(payloads::fill()?).await?;
            let limits = r#"{"cpu_ms":200,"memory_bytes":4294967296}"#;
            repeated(&format!(r#"{{"module":"{digest}","limits":{limits}}}"#), 4, true)
        }
        Attack::Backtraces => {
            let digest = connection.push(payloads::bomb()?).await?;
            repeated(&format!(r#"{{"module":"{digest}","limits":{{"cpu_ms":10,"wall_ms":50}}}}"#), 60, true)
        }
        Attack::Compilations => {
            let mut text = String::new();
            for salt in 0..4 {
                let digest = connection.push(payloads::laborious(400, salt)).await?;
                text.push_str(&bodies::of_every_profile(&digest, 12));
            }
            tasks(text)
        }
        Attack::Uploads => Prepared::Uploads { connections: 4 },
        Attack::Checkpoints => {
            let digest = connection.push(payloads::checkpoints()?).await?;
            let limits = r#"{"cpu_ms":1000,"memory_bytes":167772160}"#;
            repeated(&format!(r#"{{"module":"{digest}","limits":{limits}}}"#), 32, true)
        }
        Attack::Results => {
            let digest = connection.push(payloads::large_result()?).await?;
            repeated(&format!(r#"{{"module":"{digest}","limits":{{"cpu_ms":1000}}}}"#), 32, true)
        }
        Attack::Priorities => {
            let digest = connection.push(payloads::burn()?).await?;
            let limits = r#"{"cpu_ms":1000}"#;
            repeated(&format!(r#"{{"module":"{digest}","priority":100,"limits":{limits}}}"#), 20_000, false)
        }
        Attack::Sleepers => {
            let digest = connection.push(payloads::sleep()?).await?;
            let limits = r#"{"cpu_ms":10,"memory_bytes":65536}"#;
            repeated(&format!(r#"{{"module":"{digest}","limits":{limits}}}"#), 200, false)
        }
        Attack::Listings => {
            let digest = connection.push(module::noop(1)?).await?;
            submit(&mut connection, lines(&format!(r#"{{"module":"{digest}"}}"#), 20_000)).await?;
            drain(&mut connection).await?;
            Prepared::Listings { connections: 50 }
        }
        Attack::SlowReaders => {
            let digest = connection.push(module::noop(1)?).await?;
            submit(&mut connection, bodies::large_tasks(&digest, 500)).await?;
            Prepared::Wire(wire::Kind::SlowReaders)
        }
        Attack::Bodies => {
            let digest = connection.push(module::noop(1)?).await?;
            Prepared::Wire(wire::Kind::Bodies { digest })
        }
        Attack::Connections => Prepared::Wire(wire::Kind::HalfHeaders),
        Attack::ControlFrames => Prepared::Wire(wire::Kind::ControlFrames),
    };
    Ok(prepared)
}

/// An attack that goes on, on threads of its own, until it is stopped.
pub(super) struct Attacking {
    over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Attacking {
    /// Starts it.
    pub(super) fn start(prepared: Prepared, attacker: Endpoint) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("attacker".to_owned()).spawn(move || {
            runtime.block_on(async {
                let attack = attack(prepared, attacker);
                let stopped = async {
                    while !stop.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                };
                tokio::select! {
                    () = attack => {}
                    () = stopped => {}
                }
            });
            // The attack is dropped, and so are its connections.
            runtime.shutdown_background();
        });
        Ok(Self { over, thread: thread.context("there is no thread for the attacker")? })
    }

    /// Ends it.
    pub(super) fn stop(self) {
        self.over.store(true, Ordering::Relaxed);
        // It does not panic, and if it did there is nothing to stop.
        let _ = self.thread.join();
    }
}

/// Goes on for ever; what the server refuses is tried again, as an attacker does.
async fn attack(prepared: Prepared, attacker: Endpoint) {
    match prepared {
        Prepared::Tasks { lines, again } => loop {
            if let Ok(mut connection) = attacker.connect().await {
                let submitted = submit(&mut connection, lines.clone()).await;
                if submitted.is_ok() && !again {
                    std::future::pending::<()>().await;
                }
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        },
        Prepared::Uploads { connections } => {
            static SALT: AtomicU32 = AtomicU32::new(1_000);
            let upload = async || loop {
                let Ok(mut connection) = attacker.connect().await else { continue };
                let module = payloads::laborious(300, SALT.fetch_add(1, Ordering::Relaxed));
                let _ = connection.push(module).await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            futures::future::join_all((0..connections).map(|_| upload())).await;
        }
        Prepared::Listings { connections } => {
            let list = async || loop {
                let Ok(mut connection) = attacker.connect().await else { continue };
                let path = "/v1/tasks?limit=1000";
                while let Ok(_page) = connection.call(Method::GET, path, "application/json", Bytes::new(), &[200]).await
                {
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            futures::future::join_all((0..connections).map(|_| list())).await;
        }
        Prepared::Wire(kind) => wire::attack(kind, &attacker).await,
    }
}

/// Submits lines; how many were taken is the server's to say.
async fn submit(connection: &mut Connection, lines: Bytes) -> Result<()> {
    connection.call(Method::POST, "/v1/tasks", NDJSON, lines, &[200, 201]).await.map(drop)
}
