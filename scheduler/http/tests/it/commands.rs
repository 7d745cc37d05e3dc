//! The special parts of commands: a name, exit codes, and a result whatever the code; and modules
//! by their aliases.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{COMMAND, Server, TASK};

fn command(name: &str) -> Vec<u8> {
    [COMMAND, name.as_bytes()].concat()
}

/// A command that exits with 0 and gives its own name.
async fn name_of(server: &Server, mut task: Value) -> Value {
    task["args"] = json!(["exit", "0"]);
    let task = server.admin.submit(task).await;
    let ended = server.admin.ended(&task["id"]).await;
    assert_eq!(ended["state"], "succeeded", "{ended}");
    let output = server.admin.get(&format!("/v1/tasks/{}/output", task["id"].as_str().unwrap())).await;
    assert_eq!(ended["program"], output.text(), "it is shown as the guest finds it");
    ended["program"].clone()
}

#[tokio::test]
async fn a_command_is_called_by_what_it_was_submitted_as() {
    let server = Server::start().await;
    let made = server.admin.post_bytes("/v1/modules?alias=wc&name=coreutils.wasm", &command("a")).await.json();
    assert_eq!(made["name"], "coreutils.wasm");
    server.admin.put("/v1/aliases/cat:v2", &json!({"digest": made["digest"]})).await;
    let digest = made["digest"].as_str().unwrap();
    let unnamed = server.upload(&server.admin, &command("b")).await;
    for (task, name) in [
        (json!({"module": "wc"}), "wc"),
        (json!({"module": "cat:v2"}), "cat:v2"),
        (json!({"module": digest}), "coreutils.wasm"),
        (json!({"module": unnamed}), "module"),
        (json!({"module": "wc", "program": "/usr/bin/größe"}), "/usr/bin/größe"),
        (json!({"module": unnamed, "program": "x"}), "x"),
    ] {
        assert_eq!(name_of(&server, task.clone()).await, name, "{task}");
    }
    // In bulk, where modules are remembered from line to line, and in one request.
    let lines = format!(
        "{{\"module\":\"wc\",\"args\":[\"exit\",\"0\"]}}\n{{\"module\":\"wc\",\"args\":[\"exit\",\"0\"]}}\n\
         {{\"module\":\"{digest}\",\"args\":[\"exit\",\"0\"]}}\n"
    );
    let request = server.admin.request(Method::POST, "/v1/tasks").header("content-type", "application/x-ndjson");
    let answers = server.admin.send(request.body(lines)).await.text();
    for (answer, name) in answers.lines().zip(["wc", "wc", "coreutils.wasm"]) {
        let answer: Value = serde_json::from_str(answer).unwrap();
        assert_eq!(server.admin.ended(&answer["id"]).await["program"], name, "{answer}");
    }
    for (path, name) in [
        ("/v1/run/wc?arg=exit&arg=0".to_owned(), "wc"),
        (format!("/v1/run/{digest}?arg=exit&arg=0"), "coreutils.wasm"),
        ("/v1/run/wc?arg=exit&arg=0&program=sort".to_owned(), "sort"),
    ] {
        assert_eq!(server.admin.post_bytes(&path, b"").await.text(), name, "{path}");
    }
    // A retry is the same task again.
    let failed =
        server.admin.submit(json!({"module": "wc", "args": ["exit", "1"], "program": "p", "attempts_max": 1})).await;
    server.admin.ended(&failed["id"]).await;
    let again =
        server.admin.post(&format!("/v1/tasks/{}/retry", failed["id"].as_str().unwrap()), &json!({})).await.json();
    assert_eq!((&again["program"], &again["ok_exit"]), (&json!("p"), &json!([0])));
}

#[tokio::test]
async fn exit_codes_that_are_answers_are_success() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, COMMAND).await;
    for (ok, code, state, kind) in [
        (Value::Null, 0, "succeeded", "succeeded"),
        (Value::Null, 10, "failed", "errored"),
        (json!([0, 10, 20]), 10, "succeeded", "succeeded"),
        (json!([0, 10, 20]), 1, "failed", "errored"),
        (json!([1]), 0, "failed", "errored"),
    ] {
        let mut task =
            json!({"module": digest, "args": ["exit", code.to_string()], "program": "sat", "attempts_max": 1});
        if !ok.is_null() {
            task["ok_exit"] = ok.clone();
        }
        let task = server.admin.submit(task).await;
        assert_eq!(task["ok_exit"], if ok.is_null() { json!([0]) } else { ok.clone() });
        let ended = server.admin.ended(&task["id"]).await;
        assert_eq!((&ended["state"], &ended["outcome"]["kind"]), (&json!(state), &json!(kind)), "{ok} {code}");
        assert_eq!(ended["outcome"]["exit_code"], code);
        let output = server.admin.get(&format!("/v1/tasks/{}/output", task["id"].as_str().unwrap())).await;
        assert_eq!((output.status, output.text()), (200, "sat".to_owned()), "the output is there at every code");
    }
    let run = |query: &str| format!("/v1/run/{digest}?arg=exit&arg=10&program=sat{query}");
    assert_eq!(server.admin.post_bytes(&run("&ok_exit=0,10"), b"").await.text(), "sat");
    assert_eq!(server.admin.post_bytes(&run(""), b"").await.problem(), "422 errored");
}

#[tokio::test]
async fn a_failed_attempt_that_is_tried_again_leaves_no_result() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, COMMAND).await;
    let task = json!({"module": digest, "args": ["exit", "1"], "attempts_max": 100, "backoff_ms": 3_600_000, "backoff_ms_max": 3_600_000});
    let task = server.admin.submit(task).await;
    let path = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    crate::support::until("it failed once", async || server.admin.get(&path).await.json()["outcome"].is_object()).await;
    assert_eq!(server.admin.get(&format!("{path}/output")).await.problem(), "409 not_final");
    server.admin.post(&format!("{path}/cancel"), &json!({})).await;
    assert_eq!(server.admin.get(&format!("{path}/output")).await.problem(), "404 no_output");
    assert_eq!(server.admin.get(&path).await.json()["output"], Value::Null);
}

#[tokio::test]
async fn what_only_commands_have_is_refused_for_tasks_and_checked() {
    let server = Server::start().await;
    let (task, command) = (server.upload(&server.admin, TASK).await, server.upload(&server.admin, COMMAND).await);
    for (module, field, value, problem) in [
        (&task, "program", json!("x"), "422 field_invalid program"),
        (&task, "ok_exit", json!([0]), "422 field_invalid ok_exit"),
        (&command, "program", json!(""), "422 field_invalid program"),
        (&command, "program", json!("a\0b"), "422 field_invalid program"),
        (&command, "program", json!("x".repeat(257)), "422 limit_exceeded program"),
        (&command, "ok_exit", json!([]), "422 field_invalid ok_exit"),
        (&command, "ok_exit", json!([0, 0]), "422 field_invalid ok_exit[1]"),
        (&command, "ok_exit", json!([256]), "422 limit_exceeded ok_exit[0]"),
    ] {
        let answer = server.admin.post("/v1/tasks", &json!({"module": module, field: value})).await;
        assert_eq!(answer.problem(), problem, "{field} {value}");
    }
    for wrong in [json!([-1]), json!(["0"]), json!("0"), json!([0.5])] {
        let answer = server.admin.post("/v1/tasks", &json!({"module": command, "ok_exit": wrong})).await;
        assert_eq!(answer.status, 422, "{wrong}: {answer:?}");
    }
    for (query, problem) in [
        ("program=", "422 field_invalid program"),
        ("ok_exit=", "422 field_invalid ok_exit"),
        ("ok_exit=1,1", "422 field_invalid ok_exit[1]"),
        ("ok_exit=300", "422 field_invalid ok_exit"),
    ] {
        assert_eq!(
            server.admin.post_bytes(&format!("/v1/run/{command}?{query}"), b"").await.problem(),
            problem,
            "{query}"
        );
    }
    for (query, problem) in [("name=", "422 field_invalid name"), ("name=a%00b", "422 field_invalid name")] {
        assert_eq!(
            server.admin.post_bytes(&format!("/v1/modules?{query}"), COMMAND).await.problem(),
            problem,
            "{query}"
        );
    }
    // A task component shows neither.
    let shown = server.admin.submit(json!({"module": task})).await;
    assert_eq!((&shown["program"], &shown["ok_exit"]), (&Value::Null, &Value::Null));
}

#[tokio::test]
async fn modules_are_found_by_their_aliases_wherever_a_digest_is_taken() {
    let server = Server::start().await;
    let other = server.tenant("other", "submit").await;
    let digest = server.upload(&server.admin, COMMAND).await;
    server.admin.put("/v1/aliases/tool:v1", &json!({"digest": digest})).await;
    let by_digest = server.admin.get(&format!("/v1/modules/{digest}")).await.json();
    assert_eq!(server.admin.get("/v1/modules/tool:v1").await.json(), by_digest);
    assert_eq!(server.admin.get("/v1/modules/tool:v1/content").await.body, COMMAND);
    assert_eq!(server.admin.get("/v1/tasks?module=tool:v1").await.status, 200);
    for client in [&server.admin, &other] {
        let name = if client.token == other.token { "tool:v1" } else { "nobody" };
        for path in [format!("/v1/modules/{name}"), format!("/v1/modules/{name}/content")] {
            assert_eq!(client.get(&path).await.problem(), "404 module_unknown", "{path}");
        }
        assert_eq!(client.delete(&format!("/v1/modules/{name}")).await.problem(), "404 module_unknown");
    }
    for malformed in ["sha256:1", "Tool", "SHA256:00"] {
        assert_eq!(
            server.admin.get(&format!("/v1/modules/{malformed}")).await.problem(),
            "400 malformed_digest digest"
        );
    }
    assert_eq!(server.admin.delete("/v1/modules/tool:v1").await.status, 204);
    assert_eq!(server.admin.get(&format!("/v1/modules/{digest}")).await.problem(), "404 module_unknown");
}
