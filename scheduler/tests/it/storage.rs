//! What is stored, what it counts, and what goes again.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use wasmill_scheduler::sweep::{self, Sweep};

use crate::support::{Client, Server, TASK, module, until};

/// Sweeps until the test ends.
fn sweep(server: &Server, retention: Duration) {
    let stop = CancellationToken::new();
    tokio::spawn(sweep::run(server.handle.clone(), retention, stop));
}

/// Bytes of all blobs.
fn blob_bytes(server: &Server) -> u64 {
    fn below(path: &Path) -> u64 {
        let entries = std::fs::read_dir(path).unwrap().filter_map(Result::ok);
        // A file can go between the list and the look.
        entries
            .map(|entry| {
                if entry.path().is_dir() { below(&entry.path()) } else { entry.metadata().map_or(0, |file| file.len()) }
            })
            .sum()
    }
    below(&server.dir.path().join("blobs"))
}

async fn quota(server: &Server, tenant: &str, quotas: Value) {
    let changed = server.admin.patch(&format!("/v1/tenants/{tenant}"), &json!({"quotas": quotas})).await;
    assert_eq!(changed.status, 200, "{changed:?}");
}

async fn stored(server: &Server, tenant: &str) -> u64 {
    server.admin.get(&format!("/v1/tenants/{tenant}")).await.json()["usage"]["stored_bytes"].as_u64().unwrap()
}

fn large(letter: &str) -> String {
    letter.repeat(100_000)
}

async fn submit_many(client: &Client, lines: &[Value]) -> Vec<Value> {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let request = client.request(reqwest::Method::POST, "/v1/tasks").header("content-type", "application/x-ndjson");
    let answer = client.send(request.body(body)).await;
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn b39_a_tenant_stores_as_much_as_it_may() {
    let server = Server::start().await;
    let acme = server.tenant("acme", "submit").await;
    let digest = server.upload(&acme, TASK).await;
    quota(&server, "acme", json!({"stored_bytes": 250_000})).await;
    assert_eq!(stored(&server, "acme").await, 0);
    let task = |letter: &str| json!({"module": digest, "input_text": large(letter), "delay_ms": 3_600_000});
    acme.submit(task("a")).await;
    acme.submit(task("b")).await;
    let used = stored(&server, "acme").await;
    assert!((200_000..205_000).contains(&used), "{used}");
    let before = blob_bytes(&server);
    let over = acme.post("/v1/tasks", &task("c")).await;
    assert_eq!(over.problem(), "429 quota_exceeded stored_bytes");
    assert_eq!((&over.json()["limit"], over.header("retry-after")), (&json!(250_000), "1"));
    let run = acme.post_bytes(&format!("/v1/run/{digest}"), large("d").as_bytes()).await;
    assert_eq!(run.problem(), "429 quota_exceeded stored_bytes");
    // Every way in, and what is small as well.
    let lines = submit_many(
        &acme,
        &[task("e"), json!({"module": digest}), json!({"module": digest, "labels": {"x": "y".repeat(200)}})],
    )
    .await;
    assert_eq!(lines[0]["code"], "quota_exceeded");
    assert!(lines[1]["id"].is_string() && lines[2]["id"].is_string(), "{lines:?}");
    assert_eq!(blob_bytes(&server), before, "nothing of what was refused was stored");
    let args: Vec<_> = (0..100).map(|_| "x".repeat(250)).collect();
    let mut accepted = 0;
    while acme
        .post(
            "/v1/tasks",
            &json!({"module": digest, "labels": {"a": "b".repeat(200)}, "description": args.concat()[..900]}),
        )
        .await
        .status
        == 201
    {
        accepted += 1;
        assert!(accepted < 100, "small tasks are counted too");
    }
    // Another tenant does not notice, and a higher quota is one at once.
    let other = server.tenant("other", "submit").await;
    let theirs = server.upload(&other, TASK).await;
    other.submit(json!({"module": theirs, "input_text": large("c")})).await;
    quota(&server, "acme", json!({"stored_bytes": null})).await;
    acme.submit(task("c")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b39_submissions_at_once_do_not_go_over_together() {
    let server = Server::start().await;
    let acme = server.tenant("acme", "submit").await;
    let digest = server.upload(&acme, TASK).await;
    quota(&server, "acme", json!({"stored_bytes": 350_000})).await;
    let submissions = (0..20).map(|number| {
        let task = json!({"module": digest, "input_text": large(&"abcdefghijklmnopqrst"[number..=number]), "delay_ms": 3_600_000});
        let acme = acme.clone();
        async move { acme.post("/v1/tasks", &task).await.status }
    });
    let statuses = futures::future::join_all(submissions).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 3, "{statuses:?}");
    assert!(statuses.iter().all(|status| matches!(status, 201 | 429)), "{statuses:?}");
    until("nothing of the others is left", async || blob_bytes(&server) <= 300_000 + TASK.len() as u64).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b39_a_repeat_is_answered_also_when_the_quota_is_used_up() {
    let server = Server::start().await;
    let acme = server.tenant("acme", "submit").await;
    let digest = server.upload(&acme, TASK).await;
    let task = json!({"module": digest, "input_text": large("a"), "idempotency_key": "k", "delay_ms": 3_600_000});
    let first = acme.submit(task.clone()).await;
    quota(&server, "acme", json!({"stored_bytes": 1})).await;
    let again = acme.post("/v1/tasks", &task).await;
    assert_eq!((again.status, &again.json()["id"]), (200, &first["id"]));
}

/// What would go over it by its results waits; what runs goes on.
#[tokio::test(flavor = "multi_thread")]
async fn b39_what_is_queued_waits_while_the_quota_is_used_up() {
    let server = Server::start().await;
    let acme = server.tenant("acme", "submit").await;
    let digest = server.upload(&acme, TASK).await;
    quota(&server, "acme", json!({"stored_bytes": 50_000})).await;
    let big = acme.submit(json!({"module": digest, "input_text": "big"})).await;
    assert_eq!(acme.ended(&big["id"]).await["state"], "succeeded");
    assert!(stored(&server, "acme").await > 100_000);
    quota(&server, "acme", json!({"stored_bytes": 90_000, "tasks_running": 0})).await;
    quota(&server, "acme", json!({"stored_bytes": 200_000})).await;
    let waiting = acme.submit(json!({"module": digest, "input_text": "small"})).await;
    quota(&server, "acme", json!({"stored_bytes": 90_000})).await;
    let id = waiting["id"].as_str().unwrap().to_owned();
    let waits_for = async |text: &str| {
        acme.get(&format!("/v1/tasks/{id}")).await.json()["waiting_for"]
            .as_str()
            .is_some_and(|found| found.contains(text))
    };
    until("the core is told", async || {
        quota(&server, "acme", json!({"tasks_running": null})).await;
        waits_for("stored_bytes").await
    })
    .await;
    quota(&server, "acme", json!({"stored_bytes": null})).await;
    assert_eq!(acme.ended(&waiting["id"]).await["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn b39_replaced_checkpoints_go_at_once() {
    let server = Server::start().await;
    sweep(&server, Duration::from_secs(3600));
    let acme = server.tenant("acme", "submit").await;
    let digest = server.upload(&acme, TASK).await;
    let before = blob_bytes(&server);
    let task = acme.submit(json!({"module": digest, "input_text": "save 60"})).await;
    until("all are saved", async || {
        let events = acme.get(&format!("/v1/tasks/{}/events", task["id"].as_str().unwrap())).await.json();
        events["items"].as_array().unwrap().iter().any(|event| event["times"] == 60)
    })
    .await;
    until("the last one is left", async || blob_bytes(&server) - before < 200_000).await;
    assert!(blob_bytes(&server) - before > 90_000, "the last one is needed");
    let used = stored(&server, "acme").await;
    assert!(used < 200_000, "{used}");
    let cancelled =
        acme.post(&format!("/v1/tasks/{}/cancel?wait_ms=20000", task["id"].as_str().unwrap()), &json!({})).await;
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    until("nothing is left", async || blob_bytes(&server) == before).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b39_a_checkpoint_over_the_quota_is_dropped_and_the_guest_goes_on() {
    let server = Server::start().await;
    sweep(&server, Duration::from_secs(3600));
    let acme = server.tenant("acme", "submit").await;
    let digest = server.upload(&acme, TASK).await;
    let before = blob_bytes(&server);
    quota(&server, "acme", json!({"stored_bytes": 40_000})).await;
    let task = acme
        .submit(
            json!({"module": digest, "input_text": "resume", "attempts_max": 2, "backoff_ms": 0, "backoff_ms_max": 0}),
        )
        .await;
    let ended = acme.ended(&task["id"]).await;
    assert_eq!((&ended["state"], &ended["attempt"]), (&json!("failed"), &json!(2)), "it began anew: {ended}");
    let task = acme.submit(json!({"module": digest, "input_text": "save 3"})).await;
    let path = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    until("all were stored", async || acme.get(&path).await.json()["progress"].is_object()).await;
    until("the second attempt's is left, which was stored again", async || blob_bytes(&server) <= before + 50_000)
        .await;
    let cancelled = acme.post(&format!("{path}/cancel?wait_ms=20000"), &json!({})).await;
    assert_eq!(cancelled.json()["state"], "cancelled", "it went on");
}

/// Two tasks with the same state: what one has let go of is there for the other.
#[tokio::test(flavor = "multi_thread")]
async fn b39_what_others_need_stays() {
    let server = Server::start().await;
    sweep(&server, Duration::ZERO);
    let (one, other) = (server.tenant("one", "submit").await, server.tenant("other", "submit").await);
    let mut digests = Vec::new();
    for client in [&one, &other] {
        digests.push(server.upload(client, TASK).await);
    }
    let first = one.submit(json!({"module": digests[0], "input_text": large("a")})).await;
    let kept = other.submit(json!({"module": digests[1], "input_text": large("a"), "delay_ms": 3_600_000})).await;
    one.ended(&first["id"]).await;
    let is_swept = async |id: &Value| {
        // An end that is not written yet is not seen by a sweep.
        Sweep::default().once(&server.handle, Duration::ZERO, Duration::ZERO).await;
        one.get(&format!("/v1/tasks/{}", id.as_str().unwrap())).await.status == 404
    };
    until("the first is swept", async || is_swept(&first["id"]).await).await;
    // As long as it takes for what is not needed to go: a blob that was stored afterwards.
    let second = one.submit(json!({"module": digests[0], "input_text": "big"})).await;
    one.ended(&second["id"]).await;
    until("the second is swept", async || is_swept(&second["id"]).await).await;
    until("what nobody needs is gone", async || blob_bytes(&server) < 150_000).await;
    let input = other.get(&format!("/v1/tasks/{}/input", kept["id"].as_str().unwrap())).await;
    assert_eq!((input.status, input.body.len()), (200, 100_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn c26_what_is_refused_leaves_nothing_on_the_disk() {
    let server = Server::start().await;
    let acme = server.tenant("acme", "submit").await;
    let digest = server.upload(&acme, TASK).await;
    let keyed = |letter: &str| json!({"module": digest, "input_text": large(letter), "idempotency_key": "k", "delay_ms": 3_600_000});
    acme.submit(keyed("a")).await;
    let before = blob_bytes(&server);
    assert_eq!(acme.post("/v1/tasks", &keyed("b")).await.problem(), "409 idempotency_conflict idempotency_key");
    let lines = submit_many(&acme, &[keyed("c"), keyed("d")]).await;
    assert!(lines.iter().all(|line| line["code"] == "idempotency_conflict"), "{lines:?}");
    quota(&server, "acme", json!({"tasks_queued": 0, "modules": 1})).await;
    let task = json!({"module": digest, "input_text": large("e")});
    assert_eq!(acme.post("/v1/tasks", &task).await.problem(), "429 quota_exceeded tasks_queued");
    let run = acme.post_bytes(&format!("/v1/run/{digest}"), large("f").as_bytes()).await;
    assert_eq!(run.problem(), "429 quota_exceeded tasks_queued");
    let lines = submit_many(&acme, &[task.clone(), json!({"module": digest, "input_text": large("g")})]).await;
    assert!(lines.iter().all(|line| line["code"] == "quota_exceeded"), "{lines:?}");
    let asked = server.gate.asked.load(std::sync::atomic::Ordering::SeqCst);
    let modules = acme.post_bytes("/v1/modules", &module(&large("h"))).await;
    assert_eq!(modules.problem(), "422 module_quota_exceeded modules");
    quota(&server, "acme", json!({"modules": null, "module_bytes": 1_000})).await;
    let bytes = acme.post_bytes("/v1/modules", &module(&large("i"))).await;
    assert_eq!(bytes.problem(), "422 module_quota_exceeded module_bytes");
    assert_eq!(server.gate.asked.load(std::sync::atomic::Ordering::SeqCst), asked, "nor is it compiled");
    assert_eq!(blob_bytes(&server), before);
    assert_eq!(server.unfinished_blobs(), Vec::<std::path::PathBuf>::new());
}

/// Where only one of many that are asked for at once has room, the others are stored before they are refused.
#[tokio::test(flavor = "multi_thread")]
async fn c26_what_is_refused_in_a_race_goes_again() {
    let server = Server::start().await;
    sweep(&server, Duration::from_secs(3600));
    let acme = server.tenant("acme", "submit").await;
    let digest = server.upload(&acme, TASK).await;
    quota(&server, "acme", json!({"tasks_queued": 1, "tasks_running": 0})).await;
    let before = blob_bytes(&server);
    let submissions = (0..20).map(|number| {
        let task = json!({"module": digest, "input_text": large(&"abcdefghijklmnopqrst"[number..=number])});
        let acme = acme.clone();
        async move { acme.post("/v1/tasks", &task).await.status }
    });
    let statuses = futures::future::join_all(submissions).await;
    assert_eq!(statuses.iter().filter(|status| **status == 201).count(), 1, "{statuses:?}");
    until("one is left", async || blob_bytes(&server) == before + 100_000).await;
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
    // What it has already may come again, and what fits may come.
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
    let received = async || {
        let files = server.unfinished_blobs();
        files.iter().map(|file| file.metadata().map_or(0, |file| file.len())).sum::<u64>()
    };
    until("both are received", async || received().await == 500_000).await;
    let over = refusal(endless_upload(&server, &acme, 250_000).await).await;
    assert!(over.starts_with("HTTP/1.1 429") && over.contains("too_many_requests"), "{over}");
    until("it holds its share", async || received().await == 500_000).await;
    // What is small passes, and so do others.
    server.upload(&acme, &module("small")).await;
    server.upload(&other, &module(&large("o"))).await;
    drop(held);
    until("it is given back", async || acme.post_bytes("/v1/modules", &module(&large("a"))).await.status == 201).await;
    assert_eq!(server.unfinished_blobs(), Vec::<std::path::PathBuf>::new());
}

/// Pages as large as the rules allow, asked for by many and read by nobody.
#[tokio::test(flavor = "multi_thread")]
async fn c27_answers_that_nobody_reads_are_bounded() {
    let server = Server::start_with(|config| config.answer_memory_bytes = 24_000_000).await;
    let acme = server.tenant("acme", "submit").await;
    let digest = server.upload(&acme, crate::support::COMMAND).await;
    let args: Vec<_> = (0..30).map(|_| "x".repeat(1_000)).collect();
    let lines: Vec<_> = (0..300).map(|_| json!({"module": digest, "args": args, "delay_ms": 3_600_000})).collect();
    assert!(submit_many(&acme, &lines).await.iter().all(|line| line["id"].is_string()));
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
    // What is small passes, and so do others.
    assert_eq!(acme.get("/v1/tasks?limit=1").await.status, 200);
    let other = server.tenant("other", "submit").await;
    let digest = server.upload(&other, crate::support::COMMAND).await;
    let lines: Vec<_> = (0..50).map(|_| json!({"module": digest, "args": args, "delay_ms": 3_600_000})).collect();
    submit_many(&other, &lines).await;
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
    let digest = server.upload(&acme, crate::support::COMMAND).await;
    let args: Vec<_> = (0..30).map(|_| "x".repeat(1_000)).collect();
    let lines: Vec<_> = (0..300).map(|_| json!({"module": digest, "args": args, "delay_ms": 3_600_000})).collect();
    assert!(submit_many(&acme, &lines).await.iter().all(|line| line["id"].is_string()));
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
    // Pages are made one after the other: most of them have not begun when the first one is ready, so they hold nothing.
    let ready = || answers.iter().map(|(_, ready)| *ready);
    let (first, last) = (ready().min().unwrap(), ready().max().unwrap());
    assert!(first * 3 < last, "the first after {first:?}, the last after {last:?}");

    assert_eq!(acme.get("/v1/tasks?limit=1000").await.status, 429);
    drop(answers);
    until("it is given back", async || acme.get("/v1/tasks?limit=1000").await.status == 200).await;
}
