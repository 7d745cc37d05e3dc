use reqwest::Method;
use serde_json::json;

use crate::support::{Client, Server, TASK, raw};

#[tokio::test]
async fn status_and_hosts_are_shown() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    server.admin.submit(json!({"module": digest, "delay_ms": 3_600_000})).await;
    let status = server.admin.get("/v1/status").await.json();
    assert_eq!(
        (&status["node"], &status["leader"], &status["mode"]),
        (&json!("test"), &json!("test"), &json!("standalone"))
    );
    assert_eq!(status["term"], 1);
    assert!(status["log_seq"].as_u64().unwrap() >= 3, "{status}");
    assert_eq!(status["queue"], json!({"waiting": 1, "queued": 0, "running": 0}));
    assert_eq!(status["hosts"], 1);
    let hosts = server.admin.get("/v1/hosts").await.json();
    let host = &hosts["items"][0];
    assert_eq!((&host["id"], &host["state"]), (&json!("fake"), &json!("ready")));
    assert_eq!((&host["slots"], &host["slots_free"], &host["modules_cached"]), (&json!(64), &json!(64), &json!(3)));
    assert_eq!(host["labels"], json!({"zone": "a"}));

    assert_eq!(server.admin.post_bytes("/v1/hosts/fake/drain", b"").await.status, 204);
    assert_eq!(server.admin.get("/v1/hosts").await.json()["items"][0]["state"], "draining");
    assert_eq!(server.admin.post_bytes("/v1/hosts/fake/undrain", b"").await.status, 204);
    assert_eq!(server.admin.get("/v1/hosts").await.json()["items"][0]["state"], "ready");
    assert_eq!(server.admin.post_bytes("/v1/hosts/nobody/drain", b"").await.problem(), "404 host_unknown");
}

#[tokio::test]
async fn health_needs_no_token_and_the_rest_does() {
    let server = Server::start().await;
    let nobody = Client::new(server.address, "");
    for path in ["/livez", "/readyz"] {
        let answer = nobody.get(path).await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "ok\n"));
    }
    for path in ["/metrics", "/openapi.json", "/v1/status", "/v1/hosts"] {
        assert_eq!(nobody.get(path).await.code(), "unauthorized", "{path}");
    }
    server.stop_http();
    // A client that is connected still is told; one that comes now is not let in.
    assert!(nobody.http.get(format!("{}/livez", nobody.base)).send().await.is_err());
}

#[tokio::test]
async fn metrics_are_text_that_prometheus_reads() {
    let server = Server::start().await;
    let reader = server.tenant("acme", "read").await;
    let metrics = reader.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = metrics.text();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        assert!(name.starts_with("wasmill_") || name.starts_with("process_"), "{line}");
    }
    for name in [
        "wasmill_leading 1",
        "wasmill_ready 1",
        "wasmill_build_info{version=",
        "wasmill_tasks{state=\"queued\"} 0",
        "wasmill_commands_total ",
        "wasmill_http_requests_total{class=\"2xx\",route=\"POST /v1/tenants\"} ",
        "wasmill_log_append_seconds_count ",
    ] {
        assert!(text.contains(name), "{name} is not in\n{text}");
    }
    assert!(!text.contains("acme"), "metrics are for the operator and name no tenant");
}

#[tokio::test]
async fn routes_are_counted_apart_and_waits_are_not_timed() {
    let server = Server::start().await;
    for _ in 0..3 {
        server.admin.get("/v1/status").await;
    }
    server.admin.get("/v1/nothing/here").await;
    server.admin.get("/v1/tasks/01890a5d-ac96-774b-bcce-b302099a8057?wait_ms=1").await;
    let text = server.admin.get("/metrics").await.text();
    for line in [
        "wasmill_http_requests_total{class=\"2xx\",route=\"GET /v1/status\"} 3",
        "wasmill_http_request_seconds_count{route=\"GET /v1/status\"} 3",
        "wasmill_http_requests_total{class=\"4xx\",route=\"none\"} 1",
        "wasmill_http_requests_total{class=\"4xx\",route=\"GET /v1/tasks/{id}\"} 1",
    ] {
        assert!(text.lines().any(|told| told == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("wasmill_http_request_seconds_count{route=\"GET /v1/tasks/{id}\"}"), "{text}");
}

#[tokio::test]
async fn tenants_are_named_to_the_operator_alone() {
    let server = Server::start().await;
    let acme = server.tenant("acme", "submit").await;
    let digest = server.upload(&acme, TASK).await;
    acme.submit(json!({"module": digest, "delay_ms": 3_600_000})).await;
    let operator = server.admin.get("/metrics").await.text();
    assert!(operator.contains("wasmill_tenant_tasks{tenant=\"acme\",state=\"waiting\"} 1\n"), "{operator}");
    assert!(!acme.get("/metrics").await.text().contains("acme"));
}

#[tokio::test]
async fn c22_wrong_methods_and_paths_are_problems() {
    let server = Server::start().await;
    for (method, path, allow) in [
        (Method::TRACE, "/v1/tasks", "GET,HEAD,POST"),
        (Method::PUT, "/v1/tasks", "GET,HEAD,POST"),
        (Method::DELETE, "/v1/status", "GET,HEAD"),
        (Method::OPTIONS, "/livez", "GET,HEAD"),
        (Method::GET, "/v1/run/x", "POST"),
    ] {
        let answer = server.admin.send(server.admin.request(method.clone(), path)).await;
        assert_eq!(answer.problem(), "405 method_not_allowed", "{method} {path}");
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
    for path in ["/", "/v1", "/v1/task", "/v1/tasks/", "/v2/tasks"] {
        assert_eq!(server.admin.get(path).await.problem(), "404 not_found", "{path}");
    }
    let long = server.admin.get(&format!("/v1/tasks?name={}", "x".repeat(9_000))).await;
    assert_eq!(long.problem(), "414 uri_too_long");
    let head = server.admin.send(server.admin.request(Method::HEAD, "/v1/status")).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    let connect = raw(server.address, b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(connect.starts_with("HTTP/1.1 40"), "{connect}");
}

#[tokio::test]
async fn the_description_is_served() {
    let server = Server::start().await;
    let api = server.admin.get("/openapi.json").await;
    assert_eq!((api.status, api.header("content-type")), (200, "application/json"));
    assert_eq!(api.json()["openapi"], "3.1.0");
    assert!(api.json()["paths"]["/v1/run/{module}"]["post"].is_object());
}
