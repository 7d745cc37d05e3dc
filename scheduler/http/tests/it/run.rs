use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::support::{COMMAND, Server, TASK, until};

#[tokio::test]
async fn the_body_goes_in_and_the_output_comes_out() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    server.admin.put("/v1/aliases/echo:v1", &json!({"digest": digest})).await;
    let answer = server.admin.post_bytes("/v1/run/echo:v1?cpu_ms=100&priority=-5", b"\0\xff").await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"\0\xff"[..]), "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/octet-stream");
    let task = server.admin.get(&format!("/v1/tasks/{}", answer.header("wasmill-task"))).await.json();
    assert_eq!(task["state"], "succeeded");
    assert_eq!((&task["limits"]["cpu_ms"], &task["priority"]), (&json!(100), &json!(-5)));
    assert_eq!(task["attempts_max"], 1);

    let large = vec![b'z'; 200_000];
    assert_eq!(server.admin.post_bytes(&format!("/v1/run/{digest}"), &large).await.body, large);
    assert_eq!(server.admin.post_bytes(&format!("/v1/run/{digest}"), b"").await.body, b"");
}

#[tokio::test]
async fn what_does_not_succeed_is_a_problem_with_the_outcome() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    for (input, code) in [("fail", "errored"), ("reject", "rejected"), ("trap", "trapped")] {
        let answer = server.admin.post_bytes(&format!("/v1/run/{digest}"), input.as_bytes()).await;
        assert_eq!(answer.problem(), format!("422 {code}"));
        assert_eq!(answer.json()["task"], answer.header("wasmill-task"));
        let task = server.admin.get(&format!("/v1/tasks/{}", answer.header("wasmill-task"))).await.json();
        assert_eq!((&task["state"], &task["attempt"]), (&json!("failed"), &json!(1)), "one attempt only");
    }
}

#[tokio::test]
async fn parameters_are_checked_by_name() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    for (query, problem) in [
        ("cpu_ms=0", "422 field_invalid cpu_ms"),
        ("cpu_ms=99999999999", "422 limit_exceeded cpu_ms"),
        ("fuel=-1", "422 field_invalid fuel"),
        ("memory_bytes=1e9", "422 field_invalid memory_bytes"),
        ("priority=200", "422 limit_exceeded priority"),
        ("priority=high", "422 field_invalid priority"),
        ("arg=x", "422 field_invalid args"),
        ("verbose=1", "422 field_unknown verbose"),
    ] {
        assert_eq!(server.admin.post_bytes(&format!("/v1/run/{digest}?{query}"), b"").await.problem(), problem);
    }
    assert_eq!(server.admin.post_bytes("/v1/run/nobody", b"").await.problem(), "404 module_unknown module");
    assert_eq!(server.admin.post_bytes("/v1/run/sha256:1", b"").await.problem(), "422 field_invalid module");
    let command = server.upload(&server.admin, COMMAND).await;
    let answer = server.admin.post_bytes(&format!("/v1/run/{command}?arg=a&arg=b%20c"), b"").await;
    assert_eq!(answer.text(), "a b c");
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_task() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let request = format!(
        "POST /v1/run/{digest} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 4\r\n\r\nhang",
        server.admin.token
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let state = async || server.admin.get("/v1/tasks").await.json()["items"][0]["state"].clone();
    until("the task runs", async || state().await == "running").await;
    drop(stream);
    until("the task is cancelled", async || state().await == "cancelled").await;
    assert_eq!(server.admin.get("/v1/tasks").await.json()["items"][0]["cancel_reason"], "the client went away");
}

#[tokio::test]
async fn c14_a_run_with_a_key_is_one_task_whose_answer_is_given_again() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let run = async |key: &str, query: &str, body: &str| {
        let request = server.admin.request(Method::POST, &format!("/v1/run/{digest}{query}"));
        server.admin.send(request.header("idempotency-key", key).body(body.to_owned())).await
    };
    let first = run("k", "", "echo").await;
    assert_eq!((first.status, first.text()), (200, "echo".to_owned()));
    for query in ["", "?priority=0"] {
        let again = run("k", query, "echo").await;
        assert_eq!((again.status, again.text()), (200, "echo".to_owned()));
        assert_eq!(again.header("wasmill-task"), first.header("wasmill-task"));
    }
    for (query, body) in [("", "other"), ("?cpu_ms=1", "echo"), ("?priority=1", "echo")] {
        assert_eq!(
            run("k", query, body).await.problem(),
            "409 idempotency_conflict idempotency_key",
            "c15: {query} {body}"
        );
    }
    let failed = run("f", "", "reject").await;
    assert_eq!((failed.status, failed.code()), (422, "rejected".to_owned()));
    let again = run("f", "", "reject").await;
    assert_eq!((again.status, &again.body), (422, &failed.body));
    assert_eq!(again.header("wasmill-task"), failed.header("wasmill-task"));
    let big = run("big", "", "big").await;
    assert_eq!(run("big", "", "big").await.body, big.body);
    let task = json!({"module": digest, "input_text": "echo", "idempotency_key": "k"});
    assert_eq!(server.admin.post("/v1/tasks", &task).await.problem(), "409 idempotency_conflict idempotency_key");
    assert_eq!(server.admin.get("/v1/tasks").await.json()["items"].as_array().unwrap().len(), 3);
    for key in ["", "a\u{1}b"] {
        let request = server.admin.request(Method::POST, &format!("/v1/run/{digest}"));
        let Ok(value) = reqwest::header::HeaderValue::from_str(key) else { continue };
        let answer = server.admin.send(request.header("idempotency-key", value)).await;
        assert_eq!(answer.problem(), "422 field_invalid idempotency_key");
    }
}

#[tokio::test]
async fn c29_a_run_with_a_key_goes_on_when_its_client_goes_away() {
    let server = Server::start_with(|config| config.doubt = Duration::from_millis(20)).await;
    let digest = server.upload(&server.admin, TASK).await;
    let request = format!(
        "POST /v1/run/{digest} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nIdempotency-Key: k\r\nContent-Length: 4\r\n\r\nhang",
        server.admin.token
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let item = async || server.admin.get("/v1/tasks").await.json()["items"][0].clone();
    until("the task runs", async || item().await["state"] == "running").await;
    stream.set_zero_linger().unwrap();
    drop(stream);
    until("nobody waits", async || server.admin.get("/metrics").await.text().contains("wasmill_http_requests_now 1"))
        .await;
    let id = item().await["id"].as_str().unwrap().to_owned();
    let again = {
        let request = server.admin.request(Method::POST, &format!("/v1/run/{digest}"));
        let (client, request) = (server.admin.clone(), request.header("idempotency-key", "k").body("hang"));
        tokio::spawn(async move { client.send(request).await })
    };
    until("it waits", async || server.admin.get("/metrics").await.text().contains("wasmill_http_requests_now 2")).await;
    assert_eq!(item().await["state"], "running", "it was not cancelled");
    server.admin.post(&format!("/v1/tasks/{id}/cancel"), &json!({"reason": "enough"})).await;
    let answer = again.await.unwrap();
    assert_eq!((answer.status, answer.code()), (422, "cancelled".to_owned()));
    assert_eq!(answer.header("wasmill-task"), id);
}

#[tokio::test]
async fn c30_what_is_not_utf8_in_a_query_is_refused_by_name() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let answer = server.admin.post_bytes(&format!("/v1/run/{digest}?arg=%FF"), b"").await;
    assert_eq!(answer.problem(), "400 malformed_request arg");
    assert_eq!(server.admin.get("/v1/tasks?label=a%3D%C3").await.problem(), "400 malformed_request label");
}

/// The request is dropped while nobody has said yet whether the task is accepted.
#[tokio::test]
async fn a_client_that_goes_away_before_its_task_is_accepted_cancels_it_too() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let request = format!(
        "POST /v1/run/{digest} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 4\r\n\r\nhang",
        server.admin.token
    );
    let states = async || -> Vec<String> {
        let items = server.admin.get("/v1/tasks?limit=1000").await.json()["items"].as_array().unwrap().clone();
        items.iter().map(|item| item["state"].as_str().unwrap().to_owned()).collect()
    };
    // Some are gone before the request is read: then there is no task.
    for _ in 0..500 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.set_zero_linger().unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        drop(stream);
        if states().await.len() >= 10 {
            break;
        }
    }
    assert!(!states().await.is_empty());
    until("all are cancelled", async || states().await.iter().all(|state| state == "cancelled")).await;
}
