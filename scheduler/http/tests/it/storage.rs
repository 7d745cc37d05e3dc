//! Stored bytes: how they count, and when they go.

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

pub(crate) async fn quota(server: &Server, tenant: &str, quotas: Value) {
    let changed = server.admin.patch(&format!("/v1/tenants/{tenant}"), &json!({"quotas": quotas})).await;
    assert_eq!(changed.status, 200, "{changed:?}");
}

async fn stored(server: &Server, tenant: &str) -> u64 {
    server.admin.get(&format!("/v1/tenants/{tenant}")).await.json()["usage"]["stored_bytes"].as_u64().unwrap()
}

pub(crate) fn large(letter: &str) -> String {
    letter.repeat(100_000)
}

pub(crate) async fn submit_many(client: &Client, lines: &[Value]) -> Vec<Value> {
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

/// A task that would go over it by its results waits; one that runs goes on.
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
        Sweep::new(Duration::ZERO).once(&server.handle, Duration::ZERO).await;
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
async fn b39_modules_that_no_tenant_has_any_more_go_at_once() {
    let server = Server::start().await;
    sweep(&server, Duration::from_secs(3_600));
    let (one, other) = (server.tenant("one", "submit").await, server.tenant("other", "submit").await);
    let before = blob_bytes(&server);
    let mut digests = Vec::new();
    for (client, letter) in [(&one, "a"), (&one, "b"), (&other, "c")] {
        digests.push(server.upload(client, &module(&large(letter))).await);
    }
    assert_eq!(one.delete(&format!("/v1/modules/{}", digests[0])).await.status, 204);
    until("the first is gone", async || blob_bytes(&server) < before + 300_000).await;
    assert_eq!(one.get(&format!("/v1/modules/{}", digests[1])).await.status, 200);
    assert_eq!(server.admin.delete("/v1/tenants/other").await.status, 204);
    until("what the tenant had is gone", async || blob_bytes(&server) < before + 200_000).await;
    assert!(blob_bytes(&server) > before + 100_000, "the second is needed");
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

/// Where only one of many that are asked for at once has room, the others are stored before they
/// are refused.
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
