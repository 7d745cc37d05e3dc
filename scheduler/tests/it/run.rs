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
