use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use wasmill_scheduler_http::{HttpConfig, Pace};

use crate::support::{Client, Server, TASK, until};

/// Long enough for a slow machine, short enough for a test.
const QUICK: Duration = Duration::from_millis(500);

fn impatient(config: &mut HttpConfig) {
    config.header_timeout = QUICK;
    config.idle_timeout = QUICK;
    config.body_pace = Pace { idle: QUICK, bytes_per_second: 100_000 };
}

/// Reads until the server closes. Panics when it does not.
async fn closed(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection is still open");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn c06_slow_headers_end() {
    let server = Server::start_with(impatient).await;
    for beginning in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n", b"GET /v1/status HTTP/1.1\r\nHost: x\r\n"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        closed(&mut stream).await;
    }
    // A byte now and then does not help.
    let (mut reading, mut writing) = TcpStream::connect(server.address).await.unwrap().into_split();
    let trickle = tokio::spawn(async move {
        for byte in b"GET /livez HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'x')) {
            if writing.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), reading.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the connection is still open");
    trickle.abort();
}

#[tokio::test]
async fn c06_slow_bodies_end() {
    let server = Server::start_with(impatient).await;
    let digest = server.upload(&server.admin, TASK).await;
    let token = &server.admin.token;
    let run = format!("/v1/run/{digest}");
    for (path, content_type) in
        [("/v1/modules", "application/wasm"), ("/v1/tasks", "application/json"), (&run, "application/octet-stream")]
    {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: {content_type}\r\nContent-Length: 100000\r\n\r\n"
        );
        let (mut reading, mut writing) = TcpStream::connect(server.address).await.unwrap().into_split();
        writing.write_all(head.as_bytes()).await.unwrap();
        // One byte at a time, far below the pace that is asked for.
        let trickle = tokio::spawn(async move {
            while writing.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        let mut answer = [0; 12];
        let read = tokio::time::timeout(Duration::from_secs(20), reading.read_exact(&mut answer)).await;
        assert!(read.is_ok_and(|read| read.is_ok()), "{path}");
        assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 408", "{path}");
        trickle.abort();
    }
    until("nothing is left", async || server.unfinished_blobs().is_empty()).await;
}

#[tokio::test]
async fn c08_idle_connections_are_closed() {
    let server = Server::start_with(impatient).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let answer = closed(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"));
    assert!(!answer.contains("408"), "politely: {answer}");
    // The same for HTTP/2: a client that asks nothing.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    closed(&mut stream).await;
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PRIORITY: u8 = 2;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

/// `GET /livez`, from HPACK's static table.
fn get_livez() -> Vec<u8> {
    [&[0x82, 0x86, 0x44, 6][..], b"/livez", &[0x41, 1], b"x"].concat()
}

async fn flood(server: &Server, frames: impl Iterator<Item = Vec<u8>>) {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let read = tokio::spawn(async move {
        let mut sink = vec![0; 64 * 1024];
        while reading.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    });
    let mut sent = 0;
    for frame in frames {
        if writing.write_all(&frame).await.is_err() {
            break;
        }
        sent += 1;
        if read.is_finished() {
            break;
        }
    }
    let ended = tokio::time::timeout(Duration::from_secs(20), read).await;
    assert!(ended.is_ok(), "still open after {sent} frames");
    assert_eq!(Client::new(server.address, "").get("/livez").await.status, 200);
}

#[tokio::test]
async fn c10_rapid_resets_end_the_connection() {
    let server = Server::start().await;
    let resets = (0..100_000_u32).map(|n| {
        let stream = 2 * n + 1;
        [frame(HEADERS, 4, stream, &get_livez()), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    flood(&server, resets).await;
}

#[tokio::test]
async fn c10_a_flood_of_continuations_ends_the_connection() {
    let server = Server::start().await;
    let begin = std::iter::once(frame(HEADERS, 0, 1, &get_livez()));
    // Literal headers that are never indexed, and never an end of them.
    let field = [&[0x10, 1][..], b"a", &[100], &[b'b'; 100]].concat();
    let more = (0..100_000).map(move |_| frame(CONTINUATION, 0, 1, &field));
    flood(&server, begin.chain(more)).await;
}

#[tokio::test]
async fn c28_frames_that_ask_for_nothing_end_the_connection() {
    let server = Server::start().await;
    for (kind, payload) in [
        (PING, &[0; 8][..]),
        (SETTINGS, &[]),
        (WINDOW_UPDATE, &[0, 0, 0, 1]),
        (PRIORITY, &[0, 0, 0, 0, 1]),
        (0xfa, b"?"),
    ] {
        let stream = u32::from(kind == PRIORITY);
        flood(&server, (0..1_000_000).map(|_| frame(kind, 0, stream, payload))).await;
    }
}

#[tokio::test]
async fn c28_half_sent_headers_of_one_address_leave_room() {
    let server = Server::start_with(|config| config.connections_max = Some(64)).await;
    let mut half_sent = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        half_sent.push(stream);
        if half_sent.len() % 20 == 0 {
            // A new connection each time, from the same address.
            let client = Client::new(server.address, &server.admin.token);
            assert_eq!(client.get("/v1/status").await.status, 200);
        }
    }
}

#[tokio::test]
async fn clients_are_told_how_long_a_connection_may_be_idle() {
    let server = Server::start().await;
    assert_eq!(server.admin.get("/livez").await.header("keep-alive"), "timeout=120");
    let http = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let client = Client { http, ..server.admin.clone() };
    assert_eq!(client.get("/livez").await.header("keep-alive"), "", "HTTP/2 has no such header");
}

/// A request as bytes, with the token of the administrator.
fn request(server: &Server, method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        server.admin.token,
        body.len()
    )
}

async fn half_closed(server: &Server, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    stream
}

#[tokio::test]
async fn c29_a_client_that_half_closes_gets_its_answer() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let task = json!({"module": digest, "input_text": "x"}).to_string();
    for (method, path, body, status) in [
        ("GET", "/livez", "", "200"),
        ("GET", "/v1/tasks", "", "200"),
        ("POST", "/v1/tasks", &task, "201"),
        ("POST", &format!("/v1/run/{digest}"), "echo", "200"),
    ] {
        for _ in 0..20 {
            let mut stream = half_closed(&server, &request(&server, method, path, body)).await;
            let answer = closed(&mut stream).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{method} {path}: {answer}");
        }
    }
}

async fn first_state(server: &Server) -> serde_json::Value {
    server.admin.get("/v1/tasks").await.json()["items"][0]["state"].clone()
}

#[tokio::test]
async fn c29_a_client_that_half_closes_is_waited_for_however_long_it_takes() {
    let server = Server::start_with(|config| config.doubt = Duration::from_millis(20)).await;
    let digest = server.upload(&server.admin, TASK).await;
    let run = format!("/v1/run/{digest}");
    let mut stream = half_closed(&server, &request(&server, "POST", &run, "hang")).await;
    until("the task runs", async || first_state(&server).await == "running").await;
    // Asked whether it is there, more than once.
    let mut seen = [0; 50];
    stream.read_exact(&mut seen).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&seen), "HTTP/1.1 100 Continue\r\n\r\n".repeat(2));
    let id = server.admin.get("/v1/tasks").await.json()["items"][0]["id"].as_str().unwrap().to_owned();
    server.admin.post(&format!("/v1/tasks/{id}/cancel"), &json!({})).await;
    let answer = closed(&mut stream).await;
    assert!(answer.contains("HTTP/1.1 422") && answer.contains(&id), "{answer}");
}

#[tokio::test]
async fn c29_a_client_that_resets_cancels_its_run() {
    let server = Server::start_with(|config| config.doubt = Duration::from_secs(3600)).await;
    let digest = server.upload(&server.admin, TASK).await;
    let run = format!("/v1/run/{digest}");
    for half_close in [false, true] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(request(&server, "POST", &run, "hang").as_bytes()).await.unwrap();
        until("the task runs", async || first_state(&server).await == "running").await;
        if half_close {
            stream.shutdown().await.unwrap();
        }
        stream.set_zero_linger().unwrap();
        drop(stream);
        until("the task is cancelled", async || first_state(&server).await == "cancelled").await;
    }
}

#[tokio::test]
async fn c29_a_client_that_resets_in_http_2_cancels_its_run() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let http = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let client = Client { http, ..server.admin.clone() };
    let running = tokio::spawn(async move { client.post_bytes(&format!("/v1/run/{digest}"), b"hang").await });
    until("the task runs", async || first_state(&server).await == "running").await;
    running.abort();
    until("the task is cancelled", async || first_state(&server).await == "cancelled").await;
}

#[tokio::test]
async fn c10_empty_data_frames_are_no_progress() {
    let server = Server::start_with(impatient).await;
    let digest = server.upload(&server.admin, TASK).await;
    let path = format!("/v1/run/{digest}");
    let authorization = format!("Bearer {}", server.admin.token);
    let literal = |index: u8, value: &str| {
        let length = u8::try_from(value.len()).unwrap();
        // Seven bits hold lengths up to 126 only; these are all shorter.
        assert!(length < 127);
        [&[0x40 | index, length][..], value.as_bytes()].concat()
    };
    let name = "authorization";
    let header = [
        &[0x83, 0x86][..],
        &literal(4, &path),
        &literal(1, "x"),
        &[0x40, u8::try_from(name.len()).unwrap()],
        name.as_bytes(),
        &[u8::try_from(authorization.len()).unwrap()],
        authorization.as_bytes(),
    ]
    .concat();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, 4, 1, &header)].concat()).await.unwrap();
    let (mut reading, mut writing) = stream.into_split();
    let flood = tokio::spawn(async move {
        while writing.write_all(&frame(DATA, 0, 1, &[])).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    let mut seen: Vec<u8> = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    // The answer is a problem, whatever frames are around it; or the connection is closed.
    loop {
        let mut buffer = [0; 4096];
        match tokio::time::timeout_at(deadline, reading.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => break,
            Ok(Ok(count)) => seen.extend(&buffer[..count]),
            Err(_) => panic!("still open"),
        }
        if seen.windows(13).any(|window| window == b"body_too_slow") {
            break;
        }
    }
    flood.abort();
    assert_eq!(server.admin.get("/v1/status").await.status, 200);
}

#[tokio::test]
async fn http_2_works_for_those_who_know_it() {
    let server = Server::start().await;
    let http = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let client = Client { http, ..server.admin.clone() };
    let digest = server.upload(&client, TASK).await;
    let runs = (0..50).map(|n| {
        let (client, path) = (client.clone(), format!("/v1/run/{digest}"));
        async move { client.post_bytes(&path, format!("{n}").as_bytes()).await.text() == n.to_string() }
    });
    assert!(futures::future::join_all(runs).await.into_iter().all(|right| right));
}

#[tokio::test]
async fn c17_a_flood_of_one_tenant_is_told_to_wait() {
    let server = Server::start_with(|config| {
        config.requests_per_tenant = 4;
        config.body_pace = Pace { idle: Duration::from_secs(60), bytes_per_second: 1 };
    })
    .await;
    let (noisy, quiet) = (server.tenant("noisy", "submit").await, server.tenant("quiet", "submit").await);
    let head = format!(
        "POST /v1/modules HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 100000\r\n\r\nx",
        noisy.token
    );
    // Uploads that do not end hold their places.
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        held.push(stream);
    }
    until("the tenant has as much under way as it may", async || noisy.get("/v1/status").await.status == 429).await;
    let refused = noisy.get("/v1/status").await;
    assert_eq!(refused.problem(), "429 too_many_requests");
    assert!(!refused.header("retry-after").is_empty());
    assert_eq!(quiet.get("/v1/status").await.status, 200);
    drop(held);
    until("the tenant is served again", async || noisy.get("/v1/status").await.status == 200).await;
}

#[tokio::test]
async fn a_server_that_leaves_is_not_ready_and_still_serves() {
    let leaving = tokio_util::sync::CancellationToken::new();
    let told = leaving.clone();
    let server = Server::start_with(|config| config.leaving = told).await;
    assert_eq!(server.admin.get("/readyz").await.status, 200);
    leaving.cancel();
    assert_eq!(server.admin.get("/readyz").await.problem(), "503 shutting_down");
    let digest = server.upload(&server.admin, TASK).await;
    let task = server.admin.submit(json!({"module": digest, "input_text": "hang"})).await;
    let path = format!("/v1/tasks/{}/cancel?wait_ms=20000", task["id"].as_str().unwrap());
    assert_eq!(Client::new(server.address, &server.admin.token).post(&path, &json!({})).await.status, 200);
    assert_eq!(server.admin.get("/livez").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn stopping_answers_those_who_wait_and_finishes_what_was_begun() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let task = server.admin.submit(json!({"module": digest, "input_text": "hang"})).await;
    let waiting = {
        let (client, path) =
            (server.admin.clone(), format!("/v1/tasks/{}?wait_ms=60000", task["id"].as_str().unwrap()));
        tokio::spawn(async move { client.get(&path).await })
    };
    until("it waits", async || server.admin.get("/metrics").await.text().contains("wasmill_http_requests_now 2")).await;
    server.stop_http();
    let answer = waiting.await.unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.json()["finished_at"].is_null());
    let gone = server.admin.request(Method::GET, "/livez").send().await;
    assert!(gone.is_err(), "nobody is let in any more");
    server.stop().await;
}
