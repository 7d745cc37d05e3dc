use serde_json::{Value, json};

use crate::support::{Client, Server, TASK, module, until};

async fn task(server: &Server, input: &str) -> Value {
    let digest = server.upload(&server.admin, TASK).await;
    server.admin.submit(json!({"module": digest, "input_text": input, "labels": {"is": input}})).await
}

fn path(task: &Value, rest: &str) -> String {
    format!("/v1/tasks/{}{rest}", task["id"].as_str().unwrap())
}

async fn running(server: &Server, task: &Value) {
    until("the task runs", async || server.admin.get(&path(task, "")).await.json()["progress"]["total"] == 4).await;
}

#[tokio::test]
async fn failures_are_told_as_they_were() {
    let server = Server::start().await;
    let rejected = task(&server, "reject").await;
    let rejected = server.admin.ended(&rejected["id"]).await;
    assert_eq!(rejected["state"], "failed");
    assert_eq!(rejected["reason"], "rejected");
    assert_eq!(rejected["outcome"], json!({"kind": "rejected", "message": "as the payload said"}));
    let trapped = task(&server, "trap").await;
    let trapped = server.admin.ended(&trapped["id"]).await;
    assert_eq!(trapped["outcome"]["trap"], "unreachable");
    assert_eq!(trapped["outcome"]["backtrace"], json!(["main"]));
    assert_eq!(trapped["attempt"], 1, "traps are not tried again unless asked");
    assert_eq!(server.admin.get(&path(&trapped, "/output")).await.problem(), "404 no_output");
}

#[tokio::test]
async fn c20_output_is_never_taken_for_a_page() {
    let server = Server::start().await;
    let html = task(&server, "html").await;
    let ended = server.admin.ended(&html["id"]).await;
    assert!(ended["output"].is_null(), "it is no JSON");
    let output = server.admin.get(&path(&html, "/output")).await;
    assert_eq!(output.text(), "<script>alert(1)</script>");
    assert_eq!(output.header("content-type"), "application/octet-stream");
    assert_eq!(output.header("x-content-type-options"), "nosniff");
    assert_eq!(output.header("content-disposition"), "attachment");
    let big = task(&server, "big").await;
    server.admin.ended(&big["id"]).await;
    let output = server.admin.get(&path(&big, "/output")).await;
    assert_eq!((output.body.len(), output.header("content-type")), (100_000, "application/octet-stream"));
}

#[tokio::test]
async fn what_a_task_said_last_is_kept() {
    let server = Server::start().await;
    let said = task(&server, "say").await;
    let expected = json!({"done": 2, "total": 2, "message": "said"});
    assert_eq!(server.admin.ended(&said["id"]).await["progress"], expected);
    let server = Server::start_in(server.stop().await, |_| {}).await;
    assert_eq!(server.admin.get(&path(&said, "")).await.json()["progress"], expected);
}

#[tokio::test]
async fn the_payload_can_be_read_again_as_the_guest_gets_it() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let long = "long ".repeat(20_000);
    for (field, value, bytes) in [
        ("input", json!({"a": [1, 2]}), &br#"{"a":[1,2]}"#[..]),
        ("input_text", json!("größe"), "größe".as_bytes()),
        ("input_text", json!(long), long.as_bytes()),
        ("input_base64", json!("/wA="), &[0xff, 0]),
        ("name", json!("none"), b""),
    ] {
        let task = server.admin.submit(json!({"module": digest, field: value})).await;
        let input = server.admin.get(&path(&task, "/input")).await;
        assert_eq!((input.status, &input.body[..]), (200, bytes), "{field}");
        assert_eq!(input.header("content-type"), "application/octet-stream");
        assert_eq!(input.header("content-disposition"), "attachment");
        server.admin.ended(&task["id"]).await;
        assert_eq!(server.admin.get(&path(&task, "/input")).await.body, bytes, "when it is final, too");
    }
}

#[tokio::test]
async fn the_checkpoint_that_an_attempt_began_with_can_be_read() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let resumed = server.admin.submit(json!({"module": digest, "input_text": "resume", "backoff_ms": 0})).await;
    let ended = server.admin.ended(&resumed["id"]).await;
    assert_eq!((&ended["state"], &ended["attempt"]), (&json!("succeeded"), &json!(2)));
    let state = vec![b's'; 50_000];
    assert_eq!(server.admin.get(&path(&resumed, "/output")).await.body, state);
    for query in ["", "?attempt=2"] {
        let checkpoint = server.admin.get(&path(&resumed, &format!("/checkpoint{query}"))).await;
        assert_eq!((checkpoint.status, &checkpoint.body), (200, &state), "{query}");
        assert_eq!(checkpoint.header("content-type"), "application/octet-stream");
    }
    for (query, problem) in [
        ("?attempt=1", "404 no_checkpoint"),
        ("?attempt=3", "404 attempt_unknown"),
        ("?attempt=0", "422 field_invalid attempt"),
        ("?attempt=4294967296", "422 limit_exceeded attempt"),
        ("?number=1", "422 field_unknown number"),
    ] {
        let answer = server.admin.get(&path(&resumed, &format!("/checkpoint{query}"))).await;
        assert_eq!(answer.problem(), problem, "{query}");
    }
    let hour = json!({"module": digest, "delay_ms": 3_600_000});
    let waiting = server.admin.submit(hour).await;
    assert_eq!(server.admin.get(&path(&waiting, "/checkpoint")).await.problem(), "404 attempt_unknown");
}

#[tokio::test]
async fn payload_and_checkpoint_are_shown_to_whom_the_output_is() {
    let server = Server::start().await;
    let (other, reader) = (server.tenant("other", "submit").await, server.tenant("reader", "read").await);
    let resumed = task(&server, "resume").await;
    let unknown = json!({"id": "01890a5d-ac96-774b-bcce-b302099a8057"});
    for part in ["/input", "/checkpoint", "/output"] {
        for client in [&other, &reader] {
            let (foreign, unknown) = (client.get(&path(&resumed, part)).await, client.get(&path(&unknown, part)).await);
            assert_eq!(foreign.problem(), "404 task_unknown", "{part}");
            assert_eq!(foreign.body, unknown.body, "c02: {part}");
        }
        assert_eq!(Client { token: "no".to_owned(), ..other.clone() }.get(&path(&resumed, part)).await.status, 401);
    }
}

#[tokio::test]
async fn logs_are_the_bytes_that_were_written() {
    let server = Server::start().await;
    let logged = task(&server, "log").await;
    server.admin.ended(&logged["id"]).await;
    let logs = server.admin.get(&path(&logged, "/logs")).await;
    assert_eq!(logs.body, b"one line\n\xff\n");
    assert_eq!(logs.header("content-type"), "text/plain");
}

#[tokio::test]
async fn logs_are_said_to_be_utf8_only_when_they_are() {
    let server = Server::start().await;
    // Kept inline and as blobs, of which characters lie across the pieces that are looked at.
    for (input, content_type) in [
        ("fine", "text/plain; charset=utf-8"),
        ("log", "text/plain"),
        ("logs", "text/plain; charset=utf-8"),
        ("logs?", "text/plain"),
    ] {
        let logged = task(&server, input).await;
        server.admin.ended(&logged["id"]).await;
        let logs = server.admin.get(&path(&logged, "/logs")).await;
        assert_eq!(logs.header("content-type"), content_type, "{input}");
        assert_eq!(std::str::from_utf8(&logs.body).is_ok(), content_type.contains("utf-8"), "{input}");
    }
}

#[tokio::test]
async fn a_running_task_is_waited_for_cancelled_and_told() {
    let server = Server::start().await;
    let hanging = task(&server, "hang").await;
    running(&server, &hanging).await;
    let shown = server.admin.get(&path(&hanging, "?wait_ms=1")).await.json();
    assert_eq!((&shown["state"], &shown["host"]), (&json!("running"), &json!("fake")));
    assert_eq!(shown["progress"], json!({"done": 1, "total": 4, "message": "hanging"}));
    assert_eq!(server.admin.get(&path(&hanging, "/output")).await.problem(), "409 not_final");

    let waiting = server.admin.clone();
    let wait = {
        let path = path(&hanging, "?wait_ms=30000");
        tokio::spawn(async move { waiting.get(&path).await.json() })
    };
    let asked = server.admin.post(&path(&hanging, "/cancel"), &json!({"reason": "enough"})).await;
    assert!(matches!(asked.status, 200 | 202), "{asked:?}");
    let stopped = wait.await.unwrap();
    assert_eq!(stopped["state"], "cancelled");
    assert_eq!((&stopped["reason"], &stopped["cancel_reason"]), (&json!("cancelled"), &json!("enough")));
    assert_eq!(stopped["outcome"]["kind"], "cancelled");
    let again = server.admin.post(&path(&hanging, "/cancel"), &json!({})).await;
    assert_eq!(again.problem(), "409 already_final");
    let events = server.admin.get(&path(&hanging, "/events")).await.json();
    let names: Vec<_> =
        events["items"].as_array().unwrap().iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["submitted", "attempt_started", "cancel_requested", "attempt_ended"]);
}

#[tokio::test]
async fn a_task_that_does_not_stop_yet_was_asked_to() {
    let server = Server::start().await;
    let deaf = task(&server, "deaf").await;
    running(&server, &deaf).await;
    let cancel = path(&deaf, "/cancel?wait_ms=1");
    for reason in ["first", "second"] {
        let asked = server.admin.post(&cancel, &json!({"reason": reason})).await;
        assert_eq!(asked.status, 202, "{asked:?}");
        let asked = asked.json();
        assert_eq!((&asked["state"], &asked["cancel_requested"]), (&json!("running"), &json!(true)));
        assert_eq!(asked["cancel_reason"], "first", "the first who asks says why");
    }
    // A priority may still be changed: nothing is final.
    assert_eq!(server.admin.patch(&path(&deaf, ""), &json!({"priority": 1})).await.status, 200);
}

#[tokio::test]
async fn a_waiting_task_is_cancelled_at_once_and_has_an_outcome() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let waiting = server.admin.submit(json!({"module": digest, "delay_ms": 3_600_000})).await;
    // No body and no type will do, so that curl -X POST does.
    let request = server.admin.request(reqwest::Method::POST, &path(&waiting, "/cancel"));
    let cancelled = server.admin.send(request).await;
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    assert_eq!(cancelled.json()["state"], "cancelled");
    assert_eq!(cancelled.json()["outcome"]["kind"], "cancelled");
    let unknown = server.admin.post(&path(&waiting, "/cancel"), &json!({"why": 1})).await;
    assert_eq!(unknown.problem(), "422 field_unknown why");
}

#[tokio::test]
async fn failed_tasks_are_submitted_again_as_new_ones() {
    let server = Server::start().await;
    let failed = task(&server, "reject").await;
    server.admin.ended(&failed["id"]).await;
    let retried = server.admin.post(&path(&failed, "/retry"), &json!({})).await;
    assert_eq!(retried.status, 201, "{retried:?}");
    let retried = retried.json();
    assert_eq!(retried["retry_of"], failed["id"]);
    assert_ne!(retried["id"], failed["id"]);
    assert_eq!(retried["labels"], failed["labels"]);
    assert_eq!(server.admin.get(&path(&failed, "")).await.json()["state"], "failed");

    let fine = task(&server, "fine").await;
    server.admin.ended(&fine["id"]).await;
    assert_eq!(server.admin.post(&path(&fine, "/retry"), &json!({})).await.problem(), "409 not_retryable");
    let hanging = task(&server, "hang").await;
    assert_eq!(server.admin.post(&path(&hanging, "/retry"), &json!({})).await.problem(), "409 not_final");
    let keyed = async || {
        let request =
            server.admin.request(reqwest::Method::POST, &path(&failed, "/retry")).header("Idempotency-Key", "r");
        server.admin.send(request).await
    };
    let (first, second) = (keyed().await, keyed().await);
    assert_eq!((first.status, second.status), (201, 200));
    assert_eq!(first.json()["id"], second.json()["id"]);
}

#[tokio::test]
async fn priorities_change_until_the_end() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let waiting = server.admin.submit(json!({"module": digest, "delay_ms": 3_600_000})).await;
    let changed = server.admin.patch(&path(&waiting, ""), &json!({"priority": 7})).await;
    assert_eq!((changed.status, &changed.json()["priority"]), (200, &json!(7)));
    for (body, problem) in [
        (json!({}), "422 field_missing priority"),
        (json!({"priority": null}), "422 field_missing priority"),
        (json!({"priority": 1000}), "422 limit_exceeded priority"),
        (json!({"priority": "high"}), "422 field_invalid priority"),
        (json!({"name": "x"}), "422 field_unknown name"),
    ] {
        assert_eq!(server.admin.patch(&path(&waiting, ""), &body).await.problem(), problem);
    }
    server.admin.post(&path(&waiting, "/cancel"), &json!({})).await;
    assert_eq!(server.admin.patch(&path(&waiting, ""), &json!({"priority": 1})).await.problem(), "409 already_final");
}

#[tokio::test]
async fn tasks_are_listed_newest_first_and_filtered() {
    let server = Server::start().await;
    let other = server.upload(&server.admin, &module("other")).await;
    server.admin.put("/v1/aliases/other", &json!({"digest": other})).await;
    let mut ids = Vec::new();
    for input in ["a", "b", "reject"] {
        let made = task(&server, input).await;
        server.admin.ended(&made["id"]).await;
        ids.push(made["id"].clone());
    }
    let named = server.admin.submit(json!({"module": "other", "name": "n", "delay_ms": 3_600_000})).await;
    ids.push(named["id"].clone());

    let found = async |query: &str| {
        let page = server.admin.get(&format!("/v1/tasks?{query}")).await;
        assert_eq!(page.status, 200, "{query}: {page:?}");
        let page = page.json();
        page["items"].as_array().unwrap().iter().map(|task| task["id"].clone()).collect::<Vec<_>>()
    };
    let newest_first: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(found("").await, newest_first);
    assert_eq!(found("state=failed").await, [ids[2].clone()]);
    assert_eq!(found("state=failed&state=waiting").await, [ids[3].clone(), ids[2].clone()]);
    assert_eq!(found("label=is%3Db").await, [ids[1].clone()]);
    assert_eq!(found("module=other").await, [ids[3].clone()]);
    assert_eq!(found(&format!("module={other}&name=n")).await, [ids[3].clone()]);
    assert_eq!(found("name=m").await, [] as [Value; 0]);
    assert_eq!(found("module=nobody").await, [] as [Value; 0]);
    assert_eq!(found("created_before=2020-01-01T00:00:00Z").await, [] as [Value; 0]);
    assert_eq!(found("created_after=2020-01-01T00:00:00Z").await, newest_first);
    let first = server.admin.get("/v1/tasks?limit=3").await.json();
    let next = first["next"].as_str().unwrap();
    assert_eq!(found(&format!("limit=3&cursor={next}")).await, [ids[0].clone()]);
    assert!(first["items"][0]["waiting_for"].is_string());
    for (query, problem) in [
        ("state=done", "422 field_invalid state"),
        ("label=x", "422 field_invalid label"),
        ("created_after=now", "422 field_invalid created_after"),
        ("cursor=x", "422 field_invalid cursor"),
        ("wait_ms=1", "422 field_unknown wait_ms"),
    ] {
        assert_eq!(server.admin.get(&format!("/v1/tasks?{query}")).await.problem(), problem);
    }
}
