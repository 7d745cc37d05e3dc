//! The results of many tasks in one request, and values that not every reader of JSON can read.

use reqwest::Method;
use reqwest::header::ACCEPT;
use serde_json::{Value, json};
use wasmill_api::NDJSON;

use crate::support::{Answer, Client, Server, TASK, until};

async fn lines(client: &Client, query: &str) -> Answer {
    client.send(client.request(Method::GET, &format!("/v1/tasks?{query}")).header(ACCEPT, NDJSON)).await
}

fn parsed(answer: &Answer) -> Vec<Value> {
    assert_eq!((answer.status, answer.header("content-type")), (200, NDJSON), "{answer:?}");
    answer.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Submits tasks that give their payload back, and waits for them.
async fn echoed(server: &Server, inputs: &[(&str, Value)]) -> Vec<Value> {
    let module = server.upload(&server.admin, TASK).await;
    let mut tasks = Vec::new();
    for (field, input) in inputs {
        let task = server.admin.submit(json!({"module": module, "labels": {"of": "echo"}, *field: input})).await;
        tasks.push(server.admin.ended(&task["id"]).await);
    }
    tasks
}

#[tokio::test]
async fn every_result_comes_in_one_request_oldest_first() {
    let server = Server::start().await;
    let long_json = json!({"n": vec!["é\n"; 40_000]});
    let long_text = "größe \"\\\n\u{0}".repeat(20_000);
    let pretty = serde_json::to_string_pretty(&long_json).unwrap();
    let tasks = echoed(
        &server,
        &[
            ("input", json!({"a": [1, 2]})),
            ("input_text", json!("just text")),
            ("input_base64", json!("/wA=")),
            ("input", long_json.clone()),
            ("input_text", json!(pretty)),
            ("input_text", json!(long_text)),
            ("input_text", json!("big")),
            ("input_text", json!("reject")),
            ("input_text", json!("[1e400]")),
        ],
    )
    .await;
    let answer = lines(&server.admin, "output=true&label=of%3Decho").await;
    let lines_of = parsed(&answer);
    assert_eq!(
        lines_of.iter().map(|line| &line["id"]).collect::<Vec<_>>(),
        tasks.iter().map(|task| &task["id"]).collect::<Vec<_>>()
    );
    let shown: Vec<_> = lines_of
        .iter()
        .map(|line| (line["output"].clone(), line["output_text"].clone(), line["output_base64"].clone()))
        .collect();
    let expected = [
        (json!({"a": [1, 2]}), Value::Null, Value::Null),
        (Value::Null, json!("just text"), Value::Null),
        (Value::Null, Value::Null, json!("/wA=")),
        (long_json.clone(), Value::Null, Value::Null),
        (long_json, Value::Null, Value::Null),
        (Value::Null, json!(long_text), Value::Null),
        (Value::Null, json!("x".repeat(100_000)), Value::Null),
        (Value::Null, Value::Null, Value::Null),
        (Value::Null, json!("[1e400]"), Value::Null),
    ];
    assert!(shown == expected, "{lines_of:?}");
    assert_eq!((&lines_of[7]["state"], &lines_of[7]["reason"]), (&json!("failed"), &json!("rejected")));
}

#[tokio::test]
async fn lines_without_results_are_the_documents_of_a_listing() {
    let server = Server::start().await;
    echoed(&server, &[("input", json!(1)), ("input_text", json!("two"))]).await;
    let hanging = server.upload(&server.admin, TASK).await;
    let hanging = server.admin.submit(json!({"module": hanging, "input_text": "hang", "delay_ms": 3_600_000})).await;
    let mut page = server.admin.get("/v1/tasks").await.json()["items"].as_array().unwrap().clone();
    page.reverse();
    let mut found = parsed(&lines(&server.admin, "").await);
    // Fields that are true only for a moment may differ.
    page.iter_mut().chain(&mut found).for_each(|task| task["waiting_for"] = Value::Null);
    assert_eq!(found, page);
    assert_eq!(found.len(), 3);
    assert_eq!(found[2]["id"], hanging["id"]);
    assert_eq!(parsed(&lines(&server.admin, "state=succeeded&output=1").await).len(), 2);
    assert_eq!(parsed(&lines(&server.admin, "module=nobody&output=true").await), [] as [Value; 0]);
    let other = server.tenant("other", "read").await;
    assert_eq!(parsed(&lines(&other, "output=true").await), [] as [Value; 0], "c02");
}

#[tokio::test]
async fn pages_and_lines_do_not_mix() {
    let server = Server::start().await;
    for (query, problem) in [
        ("limit=10", "422 field_invalid limit"),
        ("cursor=0000000000000001", "422 field_invalid cursor"),
        ("output=maybe", "422 field_invalid output"),
        ("output=true&output=true", "422 field_invalid output"),
        ("colour=red", "422 field_unknown colour"),
    ] {
        assert_eq!(lines(&server.admin, query).await.problem(), problem, "{query}");
    }
    assert_eq!(server.admin.get("/v1/tasks?output=true").await.problem(), "422 field_invalid output");
    assert_eq!(server.admin.get("/v1/tasks?output=false").await.status, 200);
}

#[tokio::test]
async fn many_tasks_come_in_lines_and_a_client_may_leave_in_the_middle() {
    const TASKS: usize = 3_000;
    let server = Server::start().await;
    let module = server.upload(&server.admin, TASK).await;
    let body: String = (0..TASKS)
        .map(|number| format!("{{\"module\":\"{module}\",\"input\":{number},\"name\":\"n{number}\"}}\n"))
        .collect();
    let request = server.admin.request(Method::POST, "/v1/tasks").header("content-type", NDJSON).body(body);
    assert_eq!(server.admin.send(request).await.text().lines().count(), TASKS);
    until("all are done", async || {
        let status = server.admin.get("/v1/status").await.json();
        status["queue"]["queued"] == 0 && status["queue"]["running"] == 0
    })
    .await;
    let found = parsed(&lines(&server.admin, "output=true").await);
    assert_eq!(found.len(), TASKS);
    for (number, line) in found.iter().enumerate() {
        assert_eq!((&line["output"], &line["name"]), (&json!(number), &json!(format!("n{number}"))));
    }
    let request = server.admin.request(Method::GET, "/v1/tasks?output=true").header(ACCEPT, NDJSON);
    let mut response = request.send().await.unwrap();
    assert!(response.chunk().await.unwrap().is_some());
    drop(response);
    assert_eq!(server.admin.get("/v1/tasks?limit=1").await.status, 200);
}

#[tokio::test]
async fn c30_every_document_can_be_read_by_strict_readers() {
    let server = Server::start().await;
    let module = server.upload(&server.admin, TASK).await;
    for (value, shown) in [
        (r#"{"x":1e400}"#, false),
        (r#"{"x":-1e309}"#, false),
        (r#"{"x":"\ud83d"}"#, false),
        (r#"{"\udc00":1}"#, false),
        (r#"{"x":1,"x":2}"#, false),
        (r#"{"x":1.7976931348623157e308,"y":-0,"z":12345678901234567890123}"#, true),
        (r#"{"x":"\ud83d\ude00\u0000"}"#, true),
    ] {
        let task = server
            .admin
            .post_text("/v1/tasks", &format!(r#"{{"module":"{module}","input":{value},"labels":{{"of":"odd"}}}}"#))
            .await;
        assert_eq!(task.status, 201, "{value}: {task:?}");
        let id = task.json()["id"].clone();
        server.admin.ended(&id).await;
        let path = format!("/v1/tasks/{}", id.as_str().unwrap());
        let found = server.admin.get(&path).await.json();
        assert_eq!((found["input"].is_null(), found["output"].is_null()), (!shown, !shown), "{value}");
        for part in ["input", "output"] {
            assert_eq!(server.admin.get(&format!("{path}/{part}")).await.text(), value, "the bytes are there");
        }
    }
    for line in parsed(&lines(&server.admin, "label=of%3Dodd&output=true").await) {
        assert_eq!(line["output"].is_null(), line["output_text"].is_string(), "{line}");
    }
}
