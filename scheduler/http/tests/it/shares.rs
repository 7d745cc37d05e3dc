//! The memory and the disk that one tenant can hold with requests that do not end.

use serde_json::{Value, json};

use crate::storage::{large, quota, submit_many};
use crate::support::{COMMAND, Client, Server, module, until};

/// Submits tasks so large that a page of them ends after 4 MB.
async fn submit_large(server: &Server, client: &Client, count: usize) {
    let digest = server.upload(client, COMMAND).await;
    let args: Vec<_> = (0..30).map(|_| "x".repeat(1_000)).collect();
    let line = json!({"module": digest, "args": args, "delay_ms": 3_600_000});
    let lines: Vec<Value> = vec![line; count];
    assert!(submit_many(client, &lines).await.iter().all(|line| line["id"].is_string()));
}

/// An upload of no known length that does not end, of which `bytes` have come.
async fn endless_upload(server: &Server, client: &Client, bytes: usize) -> tokio::net::TcpStream {
    let head = format!(
        "POST /v1/modules HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/wasm\r\ntransfer-encoding: chunked\r\n\r\n",
        client.token
    );
    let chunk = format!("{bytes:x}\r\n{}\r\n", "x".repeat(bytes));
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, format!("{head}{chunk}").as_bytes()).await.unwrap();
    stream
}

/// The answer to an upload that does not end.
async fn refusal(mut stream: tokio::net::TcpStream) -> String {
    let (mut answer, mut part) = (String::new(), vec![0; 4_096]);
    while !answer.contains("\r\n\r\n{") || !answer.ends_with('}') {
        let read = tokio::io::AsyncReadExt::read(&mut stream, &mut part).await.unwrap();
        assert!(read > 0, "{answer}");
        answer.push_str(std::str::from_utf8(&part[..read]).unwrap());
    }
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn c26_an_upload_is_cut_at_what_is_left_of_the_quota() {
    let server = Server::start().await;
    let acme = server.tenant("acme", "submit").await;
    let kept = module(&"k".repeat(40_000));
    server.upload(&acme, &kept).await;
    quota(&server, "acme", json!({"module_bytes": 60_000})).await;
    for _ in 0..3 {
        let cut = refusal(endless_upload(&server, &acme, 100_000).await).await;
        assert!(cut.starts_with("HTTP/1.1 422") && cut.contains("module_quota_exceeded"), "{cut}");
        assert!(cut.contains("\"field\":\"module_bytes\"") && cut.contains("60000"), "{cut}");
    }
    until("nothing of them is left", async || server.unfinished_blobs().is_empty()).await;
    let announced = acme.post_bytes("/v1/modules", &module(&large("a"))).await;
    assert_eq!(announced.problem(), "422 module_quota_exceeded module_bytes");
    // A module that it has already may come again, and one that fits may come.
    assert_eq!(acme.post_bytes("/v1/modules", &kept).await.status, 200);
    assert_eq!(acme.post_bytes("/v1/modules", &module(&"s".repeat(10_000))).await.status, 201);
    quota(&server, "acme", json!({"modules": 2, "module_bytes": null})).await;
    let one_too_many = refusal(endless_upload(&server, &acme, 100_000).await).await;
    assert!(one_too_many.contains("\"field\":\"modules\""), "{one_too_many}");
    assert_eq!(acme.post_bytes("/v1/modules", &kept).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn c26_uploads_that_do_not_end_hold_a_share_of_the_disk() {
    let server = Server::start_with(|config| config.upload_room_bytes = 1_000_000).await;
    let (acme, other) = (server.tenant("acme", "submit").await, server.tenant("other", "submit").await);
    let held = [endless_upload(&server, &acme, 250_000).await, endless_upload(&server, &acme, 250_000).await];
    let whole = module(&large("a"));
    until("its share is used up", async || acme.post_bytes("/v1/modules", &whole).await.status == 429).await;
    let over = refusal(endless_upload(&server, &acme, 250_000).await).await;
    assert!(over.starts_with("HTTP/1.1 429") && over.contains("too_many_requests"), "{over}");
    until("nothing of it is left", async || server.unfinished_blobs().len() == held.len()).await;
    // A small one passes, and so do those of others.
    server.upload(&acme, &module("small")).await;
    server.upload(&other, &module(&large("o"))).await;
    drop(held);
    until("it is given back", async || matches!(acme.post_bytes("/v1/modules", &whole).await.status, 200 | 201)).await;
    until("nothing is left", async || server.unfinished_blobs().is_empty()).await;
}

/// Pages as large as the rules allow, asked for by many and read by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn c27_answers_that_nobody_reads_are_bounded() {
    let server = Server::start_with(|config| config.answer_memory_bytes = 24_000_000).await;
    let acme = server.tenant("acme", "submit").await;
    submit_large(&server, &acme, 300).await;
    let page = acme.get("/v1/tasks?limit=1000").await;
    assert!(page.body.len() < 5_000_000, "{}", page.body.len());
    assert!(page.json()["next"].is_string());

    let asked = format!("GET /v1/tasks?limit=1000 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n", acme.token);
    let mut connections = Vec::new();
    for _ in 0..12 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4_096).unwrap();
        let mut stream = socket.connect(server.address).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, asked.as_bytes()).await.unwrap();
        connections.push(stream);
    }
    until("the tenant's share is used up", async || acme.get("/v1/tasks?limit=1000").await.status == 429).await;
    let refused = acme.get("/v1/tasks?limit=1000").await;
    assert_eq!((refused.code().as_str(), refused.header("retry-after")), ("too_many_requests", "1"));
    // A small one passes, and so do those of others.
    assert_eq!(acme.get("/v1/tasks?limit=1").await.status, 200);
    let other = server.tenant("other", "submit").await;
    submit_large(&server, &other, 50).await;
    assert_eq!(other.get("/v1/tasks?limit=1000").await.status, 200);
    drop(connections);
    until("it is given back", async || acme.get("/v1/tasks?limit=1000").await.status == 200).await;
}

/// Over HTTP/2 one connection asks for many pages at once, and gives none of them a window.
#[tokio::test(flavor = "multi_thread")]
async fn c27_pages_asked_for_at_once_over_http2_are_bounded() {
    const ASKED: usize = 24;
    let server = Server::start_with(|config| config.answer_memory_bytes = 24_000_000).await;
    let acme = server.tenant("acme", "submit").await;
    submit_large(&server, &acme, 300).await;
    assert_eq!(acme.get("/v1/tasks?limit=1").await.status, 200);

    let http2 = reqwest::Client::builder().no_proxy().http2_prior_knowledge().http2_initial_stream_window_size(0);
    let unread = Client { http: http2.build().unwrap(), ..acme.clone() };
    let begun = tokio::time::Instant::now();
    let asked = (0..ASKED).map(|_| {
        let request = unread.request(reqwest::Method::GET, "/v1/tasks?limit=1000");
        async move { (request.send().await.unwrap(), begun.elapsed()) }
    });
    let answers = futures::future::join_all(asked).await;
    let held = answers.iter().filter(|(answer, _)| answer.status() == 200).count();
    assert!((1..=3).contains(&held), "{held} pages of 4 MB have a share of 12 MB");
    assert!(answers.iter().all(|(answer, _)| matches!(answer.status().as_u16(), 200 | 429)));
    // Pages are made one after the other: most of them have not begun when the first one is ready,
    // so they hold nothing.
    let ready = || answers.iter().map(|(_, ready)| *ready);
    let (first, last) = (ready().min().unwrap(), ready().max().unwrap());
    assert!(first * 3 < last, "the first after {first:?}, the last after {last:?}");

    assert_eq!(acme.get("/v1/tasks?limit=1000").await.status, 429);
    drop(answers);
    until("it is given back", async || acme.get("/v1/tasks?limit=1000").await.status == 200).await;
}
