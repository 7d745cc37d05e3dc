//! Crowds: of connections that say nothing, and of requests that wait.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use wasmill_scheduler_http::HttpConfig;

use crate::support::{Client, Server, TASK, raw, until};

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
}

/// A request that waits for the end of a task, and holds its connection.
async fn waiting(server: &Server, task: &Value) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n",
        path(task, "?wait_ms=60000"),
        server.admin.token
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn c08_busy_connections_are_bounded_and_health_still_answers() {
    let server = Server::start_with(|config| {
        config.connections_max = Some(16);
        config.connections_per_address = Some(16);
    })
    .await;
    let hanging = hanging_task(&server).await;
    let mut busy = Vec::new();
    for _ in 0..16 {
        busy.push(waiting(&server, &hanging).await);
    }
    until("all places are taken", async || {
        raw(server.address, request("/v1/status").as_bytes()).await.contains("connections_exhausted")
    })
    .await;
    assert!(raw(server.address, request("/livez").as_bytes()).await.starts_with("HTTP/1.1 200"));
    assert!(raw(server.address, request("/readyz").as_bytes()).await.starts_with("HTTP/1.1 200"));
    // Far more than there are places for, the reserve included: they are closed, and nothing else
    // suffers.
    let mut idle = Vec::new();
    for _ in 0..500 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert!(busy.iter().all(is_open), "whoever waits keeps its place");
    drop((busy, idle));
    until("places are free again", async || server.admin.get("/v1/status").await.status == 200).await;
}

#[tokio::test]
async fn c28_connections_of_one_address_are_bounded() {
    let server = Server::start_with(|config| config.connections_per_address = Some(8)).await;
    let hanging = hanging_task(&server).await;
    let mut busy = Vec::new();
    for _ in 0..8 {
        busy.push(waiting(&server, &hanging).await);
    }
    until("the address has its share", async || {
        raw(server.address, request("/v1/status").as_bytes()).await.contains("connections_exhausted")
    })
    .await;
    let mut other = connect(Ipv4Addr::new(127, 0, 0, 9), server.address).await;
    other.write_all(request("/v1/status").as_bytes()).await.unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "others are let in: {answer}");
}

#[tokio::test]
async fn c08_the_connection_that_is_idle_for_longest_makes_room() {
    let server = Server::start_with(|config| config.connections_max = Some(16)).await;
    let mut idle = Vec::new();
    for _ in 0..100 {
        idle.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert_eq!(server.admin.get("/v1/status").await.status, 200, "it is let in at once");
    until("the oldest have made room", async || idle.iter().filter(|stream| is_open(stream)).count() < 16).await;
    assert!(!is_open(&idle[0]) && is_open(&idle[99]));
}

/// Connections of the flood.
const CONNECTIONS: usize = 50_000;
/// The connections that the server lets in. Both ends are in this process, whose files are limited,
/// so it is less than the default of 16,384.
const CONNECTIONS_MAX: usize = 4096;
/// The connections beyond that, for health.
const RESERVE: usize = 64;
/// Connections that are made at the same time.
const AT_ONCE: usize = 250;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c08_fifty_thousand_idle_connections_leave_room_for_health() {
    let server = Server::start_with(|config| {
        config.connections_max = Some(CONNECTIONS_MAX);
        // On a slow machine the first would be closed for their silence before the last has come.
        config.header_timeout = Duration::from_secs(3600);
    })
    .await;
    let address = server.address;
    let mut idle: Vec<TcpStream> = Vec::new();
    for batch in 0..CONNECTIONS / AT_ONCE {
        // One address has fewer ports than there are connections.
        let from = Ipv4Addr::new(127, 0, 0, 2 + (batch % 8) as u8);
        idle.extend(futures::future::join_all((0..AT_ONCE).map(|_| connect(from, address))).await);
        // As clients do whose server has closed.
        idle.retain(is_open);
        if batch % 20 == 19 {
            for path in ["/livez", "/readyz"] {
                until("health is answered", async || {
                    raw(address, request(path).as_bytes()).await.starts_with("HTTP/1.1 200")
                })
                .await;
            }
        }
    }
    until("what is too much is closed", async || {
        idle.iter().filter(|stream| is_open(stream)).count() <= CONNECTIONS_MAX + RESERVE
    })
    .await;
    assert!(
        idle.iter().filter(|stream| is_open(stream)).count() >= CONNECTIONS_MAX / 2,
        "no more than needed make room"
    );
    drop(idle);
    until("places are free again", async || server.admin.get("/v1/status").await.status == 200).await;
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

fn is_open(stream: &TcpStream) -> bool {
    matches!(stream.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

async fn hanging_task(server: &Server) -> Value {
    let digest = server.upload(&server.admin, TASK).await;
    server.admin.submit(json!({"module": digest, "input_text": "hang"})).await
}

fn path(task: &Value, rest: &str) -> String {
    format!("/v1/tasks/{}{rest}", task["id"].as_str().unwrap())
}

#[tokio::test]
async fn c18_waits_of_one_tenant_are_bounded() {
    let server = Server::start_with(|config| config.waits_per_tenant = 8).await;
    let other = server.tenant("other", "submit").await;
    let hanging = hanging_task(&server).await;
    let waits: Vec<_> = (0..40)
        .map(|_| {
            let (client, path) = (server.admin.clone(), path(&hanging, "?wait_ms=60000"));
            tokio::spawn(async move { client.get(&path).await })
        })
        .collect();
    // All but eight are refused at once; only then is there an end.
    until("32 are refused", async || waits.iter().filter(|wait| wait.is_finished()).count() == 32).await;
    assert_eq!(server.admin.get(&path(&hanging, "")).await.status, 200, "others of the tenant are served");
    let theirs = server.upload(&other, TASK).await;
    let quick = other.submit(json!({"module": theirs})).await;
    other.ended(&quick["id"]).await;
    server.admin.post(&path(&hanging, "/cancel"), &json!({})).await;
    let mut refused = 0;
    for wait in waits {
        let answer = wait.await.unwrap();
        if answer.status == 429 {
            assert_eq!(answer.code(), "too_many_waits");
            assert!(!answer.header("retry-after").is_empty());
            refused += 1;
        } else {
            assert_eq!(answer.json()["state"], "cancelled");
        }
    }
    assert_eq!(refused, 32);
}

/// Requests of one tenant that want to wait.
const WAITS: usize = 10_000;
/// On so many connections: each takes 128 at the same time.
const WAITERS: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c18_ten_thousand_long_polls_of_one_tenant_are_bounded() {
    let server = Server::start().await;
    let other = server.tenant("other", "submit").await;
    let hanging = hanging_task(&server).await;
    let mut waits = Vec::with_capacity(WAITS);
    for _ in 0..WAITERS {
        let http = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
        let client = Client { http, ..server.admin.clone() };
        for _ in 0..WAITS / WAITERS {
            let (client, path) = (client.clone(), path(&hanging, "?wait_ms=60000"));
            waits.push(tokio::spawn(async move { client.get(&path).await }));
        }
    }
    let waiting = || waits.iter().filter(|wait| !wait.is_finished()).count();
    let bound = HttpConfig::default().waits_per_tenant;
    until("all but those who may wait are refused", async || waiting() <= bound).await;
    let theirs = server.upload(&other, TASK).await;
    let quick = other.submit(json!({"module": theirs})).await;
    other.ended(&quick["id"]).await;
    assert!(waiting() > 0, "the others were served while there was a crowd");
    server.admin.post(&path(&hanging, "/cancel"), &json!({})).await;
    let (mut answered, mut refused) = (0, 0);
    for wait in waits {
        let answer = wait.await.unwrap();
        if answer.status == 200 {
            assert_eq!(answer.json()["state"], "cancelled");
            answered += 1;
        } else {
            assert!(matches!(answer.code().as_str(), "too_many_waits" | "too_many_requests"), "{answer:?}");
            assert!(!answer.header("retry-after").is_empty());
            refused += 1;
        }
    }
    println!("{answered} waited, {refused} were refused");
    assert!((1..=bound).contains(&answered));
}
