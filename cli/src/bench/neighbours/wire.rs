//! Attacks below requests: connections that are held, bodies that do not end, answers that are not
//! read, frames without a request.

use std::time::Duration;

use anyhow::Result;
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::bench::http::Endpoint;

/// Bytes that are said to come, and that come at once.
const BODY_BYTES: u64 = 62_000_000;
const SENT_BYTES: usize = 41_000_000;
/// Connections with half a header, if this process may open as many.
const CONNECTIONS_MAX: u64 = 16_000;
/// Files that are left to the rest of this process.
const FILES_SPARE: u64 = 200;
/// The beginning of HTTP/2 with empty settings, and many pings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0abcdefgh";
const PINGS_AT_ONCE: usize = 4_000;

/// The bytes of an attack on the wire.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    SlowReaders,
    Bodies { digest: String },
    HalfHeaders,
    ControlFrames,
}

/// Goes on for ever; a connection that the server ends is opened again.
pub(super) async fn attack(kind: Kind, attacker: &Endpoint) {
    match kind {
        Kind::SlowReaders => drop(join_all((0..64).map(|_| again(|| read_nothing(attacker)))).await),
        Kind::Bodies { digest } => drop(join_all((0..12).map(|_| again(|| dribble(attacker, &digest)))).await),
        Kind::HalfHeaders => {
            let count = rlimit_files().saturating_sub(FILES_SPARE).min(CONNECTIONS_MAX);
            drop(join_all((0..count).map(|_| again(|| half_a_header(attacker)))).await);
        }
        Kind::ControlFrames => drop(join_all((0..2).map(|_| again(|| ping(attacker)))).await),
    }
}

async fn again<F: Future<Output = Result<()>>>(once: impl Fn() -> F) {
    loop {
        let _ = once().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn read_nothing(attacker: &Endpoint) -> Result<()> {
    let mut stream = attacker.open(Some(4_096)).await?;
    send_head(&mut stream, attacker, "GET", "/v1/tasks?state=waiting&limit=1000", "").await?;
    // Nothing is read; the server may end it.
    tokio::time::sleep(Duration::from_secs(30)).await;
    Ok(())
}

async fn dribble(attacker: &Endpoint, digest: &str) -> Result<()> {
    let mut stream = attacker.open(None).await?;
    let length = format!("Content-Type: application/octet-stream\r\nContent-Length: {BODY_BYTES}\r\n");
    send_head(&mut stream, attacker, "POST", &format!("/v1/run/{digest}"), &length).await?;
    stream.write_all(&vec![b'x'; SENT_BYTES]).await?;
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        stream.write_all(b"x").await?;
    }
}

async fn half_a_header(attacker: &Endpoint) -> Result<()> {
    let mut stream = attacker.open(None).await?;
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: a\r\nX-Slow: ").await?;
    until_closed(&mut stream).await;
    Ok(())
}

async fn ping(attacker: &Endpoint) -> Result<()> {
    let stream = attacker.open(None).await?;
    let (mut reading, mut writing) = stream.into_split();
    let pings = PING.repeat(PINGS_AT_ONCE);
    let write = async {
        writing.write_all(PREFACE).await?;
        loop {
            writing.write_all(&pings).await?;
        }
        #[expect(unreachable_code, reason = "names the type of the error")]
        anyhow::Ok(())
    };
    let mut buffer = vec![0; 64 * 1024];
    let read = async {
        while reading.read(&mut buffer).await? > 0 {}
        anyhow::Ok(())
    };
    tokio::select! {
        ended = write => ended,
        ended = read => ended,
    }
}

async fn send_head(stream: &mut TcpStream, attacker: &Endpoint, method: &str, path: &str, more: &str) -> Result<()> {
    let authorization = attacker.authorization();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: {authorization}\r\n{more}\r\n");
    Ok(stream.write_all(head.as_bytes()).await?)
}

async fn until_closed(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer).await, Ok(count) if count > 0) {}
}

/// How many files this process may have open.
fn rlimit_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives and is of the type that the call writes.
    #[allow(unsafe_code, reason = "std does not tell limits")]
    let code = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if code == 0 { limit.rlim_cur } else { 0 }
}
