use std::collections::BTreeSet;

use expect_test::expect;
use reqwest::Method;
use serde_json::json;

use crate::support::{COMMAND, Server, TASK, module};

#[tokio::test]
async fn a_task_is_answered_with_everything_filled_in() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, COMMAND).await;
    let submitted = json!({
        "module": digest, "input": {"a": [1, 2.50]}, "name": "n", "description": "d", "labels": {"x": "1"},
        "args": ["hello"], "env": {"K": "V"}, "limits": {"fuel": 1000}, "priority": -3, "attempts_max": 2,
        "backoff_ms": 5, "delay_ms": 3_600_000, "expires_ms": 1000, "idempotency_key": "k", "require": {"zone": "a"},
        "deterministic": true, "seed": 9,
    });
    let answer = server.admin.post("/v1/tasks", &submitted).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let task = answer.json();
    assert_eq!(answer.header("wasmill-task"), task["id"].as_str().unwrap());
    assert_eq!(answer.header("location"), format!("/v1/tasks/{}", task["id"].as_str().unwrap()));
    for field in submitted.as_object().unwrap().keys().filter(|field| !["limits", "delay_ms"].contains(&field.as_str()))
    {
        assert_eq!(task[field], submitted[field], "{field}");
    }
    assert_eq!(
        task["limits"],
        json!({"cpu_ms": 10000, "fuel": 1000, "memory_bytes": 268435456, "wall_ms": 60000, "output_bytes": 67108864})
    );
    assert_eq!(task["tenant"], "default");
    assert_eq!(task["state"], "waiting");
    assert!(task["waiting_for"].is_string() && task["not_before"].is_string());
    assert!(task["outcome"].is_null() && task["finished_at"].is_null() && task["output"].is_null());
    let id = task["id"].as_str().unwrap();
    let later = server.admin.get(&format!("/v1/tasks/{id}")).await.json();
    assert_eq!(later["created_at"], task["created_at"]);
    assert_eq!(id.as_bytes()[14], b'7');
}

#[tokio::test]
async fn payloads_come_back_as_they_were_submitted() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    for (field, value, output) in [
        ("input", json!({"b": 1, "a": null}), json!({"b": 1, "a": null})),
        ("input", json!(null), json!(null)),
        ("input_text", json!("héllo"), json!(null)),
        ("input_base64", json!("AAH/"), json!(null)),
    ] {
        let task = server.admin.submit(json!({"module": digest, field: value})).await;
        assert_eq!(task[field], value);
        let task = server.admin.ended(&task["id"]).await;
        assert_eq!((&task["state"], &task["output"]), (&json!("succeeded"), &output), "{field}");
        assert_eq!(task["outcome"]["kind"], "succeeded");
        assert_eq!(task["usage"]["cpu_us"], 7);
    }
    // Not parsed and written again: the guest gets the text.
    let text = format!(r#"{{"module":"{digest}","input": [1.50, "\u0041",  1e2] }}"#);
    let task = server.admin.post_text("/v1/tasks", &text).await.json();
    server.admin.ended(&task["id"]).await;
    let output = server.admin.get(&format!("/v1/tasks/{}/output", task["id"].as_str().unwrap())).await;
    assert_eq!(output.text(), r#"[1.50, "\u0041",  1e2]"#);
}

#[tokio::test]
async fn payloads_that_some_clients_could_not_read_are_not_echoed() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for (depth, shown) in [(64, true), (65, false), (10_000, false)] {
        let text = format!(r#"{{"module":"{digest}","input":{}}}"#, nested(depth));
        let task = server.admin.post_text("/v1/tasks", &text).await;
        assert_eq!((task.status, task.json()["input"].is_array()), (201, shown), "{depth}");
        let ended = server.admin.ended(&task.json()["id"]).await;
        assert_eq!((&ended["state"], ended["output"].is_array()), (&json!("succeeded"), shown), "{depth}");
        let output = server.admin.get(&format!("/v1/tasks/{}/output", ended["id"].as_str().unwrap())).await;
        assert_eq!(output.text(), nested(depth), "the guest got all of it, and gave it back");
    }
}

/// Fields that are refused beside a module that is a task component.
const WRONG_FIELDS: &[&str] = &[
    r#""id":"x""#,
    r#""tenant":"other""#,
    r#""state":"succeeded""#,
    r#""retry_of":"x""#,
    r#""limits":{"disk":1}"#,
    r#""limits":{"cpu_ms":0}"#,
    r#""limits":{"cpu_ms":-1}"#,
    r#""limits":{"cpu_ms":3600001}"#,
    r#""limits":{"cpu_ms":9223372036854775808}"#,
    r#""limits":{"memory_bytes":1e999}"#,
    r#""limits":{"memory_bytes":4294967297}"#,
    r#""limits":{"wall_ms":86400001}"#,
    r#""limits":{"fuel":-5}"#,
    r#""limits":{"output_bytes":67108865}"#,
    r#""limits":{"fuel":9223372036854775808}"#,
    r#""priority":101"#,
    r#""priority":-101"#,
    r#""priority":1.5"#,
    r#""attempts_max":0"#,
    r#""attempts_max":101"#,
    r#""backoff_ms":86400001"#,
    r#""input":1,"input_text":"x""#,
    r#""input_base64":"!""#,
    r#""not_before":"2030-01-01T00:00:00Z","delay_ms":5"#,
    r#""not_before":"tomorrow""#,
    r#""delay_ms":-1"#,
    r#""expires_ms":0"#,
    r#""name":7"#,
    r#""labels":{"a b":"c"}"#,
    r#""labels":[]"#,
    r#""args":["x"]"#,
    r#""env":{"A":"b"}"#,
    r#""idempotency_key":"""#,
    r#""idempotency_key":"a\nb""#,
    r#""seed":1"#,
    r#""deterministic":1"#,
    r#""require":{"zone":1}"#,
];

#[tokio::test]
async fn c04_c05_mistakes_are_refused_by_field_and_cap() {
    let server = Server::start().await;
    let task = server.upload(&server.admin, TASK).await;
    let command = server.upload(&server.admin, COMMAND).await;
    let labels: String = (0..65).map(|n| format!("\"k{n}\":\"v\",")).collect();
    let mut found = String::new();
    for field in WRONG_FIELDS.iter().map(|field| (*field).to_owned()).chain([
        format!(r#""name":"{}""#, "x".repeat(257)),
        format!(r#""labels":{{{}"z":"v"}}"#, &labels),
        format!(r#""idempotency_key":"{}""#, "k".repeat(129)),
    ]) {
        let answer = server.admin.post_text("/v1/tasks", &format!(r#"{{"module":"{task}",{field}}}"#)).await;
        let limit = answer.json()["limit"].as_i64().map(|limit| format!(" {limit}")).unwrap_or_default();
        found += &format!("{}{limit}\n", answer.problem());
    }
    expect![[r#"
        422 field_unknown id
        422 field_unknown tenant
        422 field_unknown state
        422 field_unknown retry_of
        422 field_unknown limits.disk
        422 field_invalid limits.cpu_ms 3600000
        422 field_invalid limits.cpu_ms 3600000
        422 limit_exceeded limits.cpu_ms 3600000
        422 limit_exceeded limits.cpu_ms 3600000
        422 field_invalid limits.memory_bytes 4294967296
        422 limit_exceeded limits.memory_bytes 4294967296
        422 limit_exceeded limits.wall_ms 86400000
        422 field_invalid limits.fuel 9223372036854775807
        422 limit_exceeded limits.output_bytes 67108864
        422 limit_exceeded limits.fuel 9223372036854775807
        422 limit_exceeded priority 100
        422 limit_exceeded priority -100
        422 field_invalid priority 100
        422 field_invalid attempts_max 100
        422 limit_exceeded attempts_max 100
        422 limit_exceeded backoff_ms 86400000
        422 field_invalid input_text
        422 field_invalid input_base64
        422 field_invalid delay_ms
        422 field_invalid not_before
        422 field_invalid delay_ms 315360000000
        422 field_invalid expires_ms 315360000000
        422 field_invalid name
        422 field_invalid labels.a b
        422 field_invalid labels
        422 field_invalid args
        422 field_invalid env
        422 field_invalid idempotency_key
        422 field_invalid idempotency_key
        422 field_invalid seed
        422 field_invalid deterministic
        422 field_invalid require.zone
        422 limit_exceeded name 256
        422 limit_exceeded labels 64
        422 limit_exceeded idempotency_key 128
    "#]]
    .assert_eq(&found);
    let args = json!({"module": command, "args": ["x"], "env": {"A": "b"}});
    assert_eq!(server.admin.post("/v1/tasks", &args).await.status, 201);
    let env = json!({"module": command, "env": {"A=B": "c"}});
    assert_eq!(server.admin.post("/v1/tasks", &env).await.problem(), "422 field_invalid env.A=B");
}

#[tokio::test]
async fn bodies_that_are_no_task_are_refused_for_what_they_are() {
    let server = Server::start_with(|config| config.caps.payload_bytes = 100_000).await;
    let digest = server.upload(&server.admin, TASK).await;
    for (body, problem) in [
        ("", "400 malformed_json"),
        ("{", "400 malformed_json"),
        ("{\"module\":\"\u{1}\"}", "400 malformed_json"),
        ("[]", "422 field_invalid"),
        ("7", "422 field_invalid"),
        ("{}", "422 field_missing module"),
        (r#"{"module":"nobody"}"#, "404 module_unknown module"),
        (r#"{"module":"No Name"}"#, "422 field_invalid module"),
        (r#"{"module":"sha256:00"}"#, "422 field_invalid module"),
    ] {
        assert_eq!(server.admin.post_text("/v1/tasks", body).await.problem(), problem, "{body}");
    }
    let broken = server.admin.post_text("/v1/tasks", "{\n  \"module\": nope\n}").await.json();
    assert!(broken["detail"].as_str().unwrap().contains("line 2 column"), "{broken}");
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/json-seq"] {
        let request = server.admin.request(Method::POST, "/v1/tasks").header("content-type", content_type).body("{}");
        assert_eq!(server.admin.send(request).await.problem(), "415 unsupported_media_type Content-Type");
    }
    let request =
        server.admin.request(Method::POST, "/v1/tasks").header("content-type", "application/json; charset=utf-8");
    let fine = server.admin.send(request.body(json!({"module": digest}).to_string())).await;
    assert_eq!(fine.status, 201);
    assert_eq!(
        server.admin.post("/v1/tasks?dry=1", &json!({"module": digest})).await.problem(),
        "422 field_unknown dry"
    );
}

#[tokio::test]
async fn c13_large_payloads_are_blobs_that_nobody_sees() {
    let server = Server::start_with(|config| config.caps.payload_bytes = 100_000).await;
    let digest = server.upload(&server.admin, TASK).await;
    let payload = "y".repeat(100_000);
    let task = server.admin.submit(json!({"module": digest, "input_text": payload})).await;
    assert!(task["input_text"].is_null(), "a payload that is a blob is not shown");
    let task = server.admin.ended(&task["id"]).await;
    assert_eq!(task["state"], "succeeded");
    let output = server.admin.get(&format!("/v1/tasks/{}/output", task["id"].as_str().unwrap())).await;
    assert_eq!(output.text(), payload);
    let over = server.admin.post("/v1/tasks", &json!({"module": digest, "input_text": payload + "y"})).await;
    assert_eq!(over.problem(), "413 payload_too_large input");
    assert_eq!(over.json()["limit"], 100_000);
    let far_over =
        server.admin.post("/v1/tasks", &json!({"module": digest, "input_text": "y".repeat(3_000_000)})).await;
    assert_eq!(far_over.problem(), "413 body_too_large");
}

#[tokio::test]
async fn c14_a_hundred_submissions_under_one_key_are_one_task() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let task = json!({"module": digest, "input_text": "x", "idempotency_key": "one"});
    let answers = futures::future::join_all((0..100).map(|_| server.admin.post("/v1/tasks", &task))).await;
    let ids: BTreeSet<_> = answers.iter().map(|answer| answer.json()["id"].to_string()).collect();
    assert_eq!(ids.len(), 1);
    let created = answers.iter().filter(|answer| answer.status == 201).count();
    let repeated = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!((created, repeated), (1, 99));
    assert_eq!(server.admin.get("/v1/tasks").await.json()["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn c15_a_key_belongs_to_one_submission() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let first = server.admin.submit(json!({"module": digest, "idempotency_key": "k", "delay_ms": 3_600_000})).await;
    let conflict = server.admin.post("/v1/tasks", &json!({"module": digest, "idempotency_key": "k"})).await;
    assert_eq!(conflict.problem(), "409 idempotency_conflict idempotency_key");
    assert_eq!(conflict.json()["task"], first["id"]);

    // The header means the same as the field, and time that passes makes no other task.
    let send = async |key: &str, body: serde_json::Value| {
        let request = server.admin.request(Method::POST, "/v1/tasks").header("Idempotency-Key", key).json(&body);
        server.admin.send(request).await
    };
    let again = send("k", json!({"module": digest, "delay_ms": 3_600_000})).await;
    assert_eq!((again.status, again.json()["id"].clone()), (200, first["id"].clone()));
    let both = send("k", json!({"module": digest, "delay_ms": 3_600_000, "idempotency_key": "k"})).await;
    assert_eq!(both.status, 200);
    let differing = send("k", json!({"module": digest, "idempotency_key": "other"})).await;
    assert_eq!(differing.problem(), "422 field_invalid idempotency_key");
    // Another tenant's key is another key.
    let other = server.tenant("other", "submit").await;
    let theirs = server.upload(&other, TASK).await;
    assert_eq!(other.post("/v1/tasks", &json!({"module": theirs, "idempotency_key": "k"})).await.status, 201);
}

#[tokio::test]
async fn c16_c25_a_key_names_its_task_after_a_restart_and_after_its_end() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let (done, waiting) = (
        json!({"module": digest, "input_text": "x", "idempotency_key": "done"}),
        json!({"module": digest, "delay_ms": 3_600_000, "idempotency_key": "waiting"}),
    );
    let first = server.admin.submit(done.clone()).await;
    server.admin.ended(&first["id"]).await;
    let second = server.admin.submit(waiting.clone()).await;
    assert_eq!(server.admin.post("/v1/tasks", &done).await.json()["id"], first["id"]);
    let server = Server::start_in(server.stop().await, |_| {}).await;
    for (task, expected) in [(&done, &first), (&waiting, &second)] {
        let again = server.admin.post("/v1/tasks", task).await;
        assert_eq!((again.status, &again.json()["id"]), (200, &expected["id"]));
    }
}

#[tokio::test]
async fn an_alias_is_pinned_when_the_task_is_submitted() {
    let server = Server::start().await;
    let old = server.upload(&server.admin, &module("old")).await;
    let new = server.upload(&server.admin, &module("new")).await;
    server.admin.put("/v1/aliases/app", &json!({"digest": old})).await;
    let keyed = json!({"module": "app", "idempotency_key": "k"});
    let first = server.admin.submit(keyed.clone()).await;
    server.admin.put("/v1/aliases/app", &json!({"digest": new})).await;
    assert_eq!(first["module"], old.as_str());
    assert_eq!(server.admin.submit(json!({"module": "app"})).await["module"], new.as_str());
    // A repeat is a repeat, wherever the alias points now.
    assert_eq!(server.admin.post("/v1/tasks", &keyed).await.json()["id"], first["id"]);
}

#[tokio::test]
async fn c05_limits_over_the_tenants_quota_are_refused() {
    let server = Server::start().await;
    let client = server.tenant("small", "submit").await;
    let quotas = json!({"quotas": {"memory_bytes": 1_000_000, "tasks_queued": 2}});
    assert_eq!(server.admin.patch("/v1/tenants/small", &quotas).await.status, 200);
    let digest = server.upload(&client, TASK).await;
    let over = client.post("/v1/tasks", &json!({"module": digest})).await;
    assert_eq!(over.problem(), "422 limit_exceeded limits.memory_bytes");
    assert_eq!(over.json()["limit"], 1_000_000);
    let fits = json!({"module": digest, "limits": {"memory_bytes": 1_000_000}, "delay_ms": 3_600_000});
    client.submit(fits.clone()).await;
    client.submit(fits.clone()).await;
    let full = client.post("/v1/tasks", &fits).await;
    assert_eq!(full.problem(), "429 quota_exceeded tasks_queued");
    assert_eq!(full.json()["limit"], 2);
    assert!(!full.header("retry-after").is_empty());
}
