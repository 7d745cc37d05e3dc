use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use reqwest::Method;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use wasmill_scheduler_http::HttpConfig;

use crate::support::{COMMAND, Server, TASK, module, raw, until};

fn small_modules(config: &mut HttpConfig) {
    config.caps.module_bytes = 100_000;
}

/// Chunks of 50,000 bytes.
fn zeroes(count: usize) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    let chunk = Bytes::from(vec![0; 50_000]);
    stream::repeat(chunk).take(count).map(Ok)
}

#[tokio::test]
async fn a_module_is_stored_described_and_given_back() {
    let server = Server::start().await;
    let client = server.tenant("acme", "submit").await;
    let made = client.post_bytes("/v1/modules?alias=resize:v3", COMMAND).await;
    assert_eq!(made.status, 201, "{made:?}");
    let module = made.json();
    let digest = module["digest"].as_str().unwrap();
    assert_eq!(module["kind"], "command");
    assert_eq!(module["bytes"], COMMAND.len());
    assert_eq!(module["exports"], serde_json::json!(["run"]));
    assert!(module["created_at"].as_str().unwrap().ends_with('Z'));

    let again = client.post_bytes("/v1/modules", COMMAND).await;
    assert_eq!((again.status, again.json()), (200, module.clone()));
    assert_eq!(client.get(&format!("/v1/modules/{digest}")).await.json(), module);
    let content = client.get(&format!("/v1/modules/{digest}/content")).await;
    assert_eq!(content.body, COMMAND);
    assert_eq!(content.header("content-type"), "application/wasm");
    assert_eq!(content.header("x-content-type-options"), "nosniff");
    assert_eq!(client.get("/v1/aliases/resize:v3").await.json()["digest"], digest);

    client.put("/v1/aliases/resize", &serde_json::json!({"digest": digest})).await;
    assert_eq!(client.delete("/v1/aliases/resize").await.status, 204);
    assert_eq!(client.delete("/v1/aliases/resize").await.code(), "alias_unknown");
    assert_eq!(client.delete(&format!("/v1/modules/{digest}")).await.status, 204);
    assert_eq!(client.get("/v1/aliases/resize:v3").await.code(), "alias_unknown", "an alias goes with its module");
    assert_eq!(client.get(&format!("/v1/modules/{digest}")).await.code(), "module_unknown");
}

#[tokio::test]
async fn a_module_in_use_is_not_deleted() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let task = server.admin.submit(serde_json::json!({"module": digest, "input_text": "hang"})).await;
    let refused = server.admin.delete(&format!("/v1/modules/{digest}")).await;
    assert_eq!(refused.code(), "module_in_use");
    assert_eq!(refused.json()["task"], task["id"]);
    let id = task["id"].as_str().unwrap();
    let cancelled = server.admin.post(&format!("/v1/tasks/{id}/cancel?wait_ms=20000"), &serde_json::json!({})).await;
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    assert_eq!(server.admin.delete(&format!("/v1/modules/{digest}")).await.status, 204);
}

#[tokio::test]
async fn modules_and_aliases_are_listed_page_by_page() {
    let server = Server::start().await;
    for name in ["a", "b", "c", "d", "e"] {
        let made = server.admin.post_bytes(&format!("/v1/modules?alias={name}"), &module(name)).await;
        assert_eq!(made.status, 201);
    }
    for path in ["/v1/modules", "/v1/aliases"] {
        let (mut cursor, mut found, mut pages) = (String::new(), Vec::new(), 0);
        loop {
            let page = server.admin.get(&format!("{path}?limit=2{cursor}")).await.json();
            found.extend(page["items"].as_array().unwrap().iter().map(|item| item["digest"].clone()));
            pages += 1;
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        found.sort_by_key(ToString::to_string);
        found.dedup();
        assert_eq!((found.len(), pages), (5, 3), "{path}");
    }
    for (query, problem) in [
        ("limit=0", "422 field_invalid limit"),
        ("limit=1001", "422 limit_exceeded limit"),
        ("cursor=x", "422 field_invalid cursor"),
        ("colour=red", "422 field_unknown colour"),
    ] {
        assert_eq!(server.admin.get(&format!("/v1/modules?{query}")).await.problem(), problem);
    }
}

#[tokio::test]
async fn what_cannot_be_run_is_refused_and_not_stored() {
    let server = Server::start().await;
    for garbage in [&b""[..], b"garbage", b"\x7fELF", b"(module)"] {
        let refused = server.admin.post_bytes("/v1/modules", garbage).await;
        assert_eq!(refused.problem(), "422 module_invalid");
    }
    let busy = server.admin.post_bytes("/v1/modules", b"busy").await;
    assert_eq!((busy.problem().as_str(), busy.header("retry-after")), ("503 compiler_busy", "3"));
    // D03
    let over_budget = server.admin.post_bytes("/v1/modules", b"laborious").await;
    assert_eq!(over_budget.problem(), "429 quota_exceeded compile_ms_per_s");
    assert_eq!((&over_budget.json()["limit"], over_budget.header("retry-after")), (&serde_json::json!(100), "7"));
    let quota = serde_json::json!({"quotas": {"compile_ms_per_s": 5}});
    assert_eq!(server.admin.patch("/v1/tenants/default", &quota).await.status, 200);
    let over_quota = server.admin.post_bytes("/v1/modules", b"laborious").await;
    assert_eq!(over_quota.json()["limit"], 5);
    for fault in [&b"fault"[..], b"panic"] {
        let failed = server.admin.post_bytes("/v1/modules", fault).await;
        assert_eq!(failed.code(), "internal");
        assert!(!failed.text().contains("secret"), "{failed:?}");
    }
    assert_eq!(server.admin.get("/v1/modules").await.json()["items"], serde_json::json!([]));
    assert!(server.unfinished_blobs().is_empty());
    // The server lives.
    assert_eq!(server.admin.post_bytes("/v1/modules", TASK).await.status, 201);
}

#[tokio::test]
async fn a05_a_body_over_the_limit_is_cut_off() {
    let server = Server::start_with(small_modules).await;
    let exact = [TASK, &vec![0; 100_000 - TASK.len()]].concat();
    assert_eq!(server.admin.post_bytes("/v1/modules", &exact).await.status, 201);
    let announced = server.admin.post_bytes("/v1/modules", &[exact.clone(), vec![0]].concat()).await;
    assert_eq!(announced.code(), "module_too_large");
    assert_eq!(announced.json()["limit"], 100_000);

    let chunks = zeroes(20);
    let request = server.admin.request(Method::POST, "/v1/modules").body(reqwest::Body::wrap_stream(chunks));
    assert_eq!(server.admin.send(request).await.code(), "module_too_large");

    // A client that announces less than it sends: the rest is no request.
    let head = format!(
        "POST /v1/modules HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabcdef",
        server.admin.token
    );
    assert!(raw(server.address, head.as_bytes()).await.starts_with("HTTP/1.1 422"));
    until("nothing is left", async || server.unfinished_blobs().is_empty()).await;
}

#[tokio::test]
async fn a05_endless_chunks_end() {
    let server = Server::start_with(small_modules).await;
    let endless = zeroes(1_000);
    let request = server.admin.request(Method::POST, "/v1/modules").body(reqwest::Body::wrap_stream(endless));
    assert_eq!(server.admin.send(request).await.code(), "module_too_large");
}

#[tokio::test]
async fn a06_encoded_bodies_are_refused() {
    let server = Server::start().await;
    for encoding in ["gzip", "br", "deflate, gzip", "zstd"] {
        let request = server.admin.request(Method::POST, "/v1/modules").header("content-encoding", encoding).body(TASK);
        assert_eq!(server.admin.send(request).await.problem(), "415 unsupported_encoding Content-Encoding");
    }
    let request = server.admin.request(Method::POST, "/v1/modules").header("content-encoding", "identity").body(TASK);
    assert_eq!(server.admin.send(request).await.status, 201);
}

#[tokio::test]
async fn a21_the_server_computes_digests_itself() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let claim = async |claimed: &str| {
        let request = server.admin.request(Method::POST, "/v1/modules").header("Wasmill-Digest", claimed);
        server.admin.send(request.body(TASK)).await
    };
    assert_eq!(claim(&digest).await.status, 200);
    let other = format!("sha256:{}", "0".repeat(64));
    assert_eq!(claim(&other).await.problem(), "422 digest_mismatch wasmill-digest");
    for wrong in [&digest.to_uppercase(), &digest[..70], &digest[7..], "sha256:../../etc/passwd"] {
        assert_eq!(claim(wrong).await.problem(), "400 malformed_digest wasmill-digest");
    }
    for path in ["/v1/modules/sha256:00", "/v1/modules/Resize", "/v1/modules/..%2F..%2Fetc"] {
        assert_eq!(server.admin.get(path).await.problem(), "400 malformed_digest digest");
    }
    let upper = digest.to_uppercase().replace("SHA256", "sha256");
    assert_eq!(server.admin.get(&format!("/v1/modules/{upper}")).await.problem(), "400 malformed_digest digest");
}

#[tokio::test]
async fn a22_uploading_tells_nothing_about_other_tenants() {
    let server = Server::start().await;
    let (ours, theirs) = (server.tenant("ours", "submit").await, server.tenant("theirs", "submit").await);
    server.upload(&theirs, TASK).await;
    let asked = server.gate.asked.load(Ordering::SeqCst);
    let made = ours.post_bytes("/v1/modules", TASK).await;
    assert_eq!(made.status, 201, "a module of another tenant is as good as new");
    assert_eq!(server.gate.asked.load(Ordering::SeqCst), asked + 1, "and costs the same work");
}

#[tokio::test]
async fn a24_an_upload_that_is_cut_off_leaves_nothing() {
    let server = Server::start().await;
    let head = format!(
        "POST /v1/modules HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 1000000\r\n\r\n",
        server.admin.token
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![0; 300_000]).await.unwrap();
    until("the upload has begun", async || !server.unfinished_blobs().is_empty()).await;
    drop(stream);
    until("nothing is left", async || server.unfinished_blobs().is_empty()).await;
    assert_eq!(server.admin.get("/v1/modules").await.json()["items"], serde_json::json!([]));
}

#[tokio::test]
async fn a24_two_uploads_of_the_same_bytes_both_succeed() {
    let server = Server::start().await;
    let uploads = (0..16).map(|_| server.admin.post_bytes("/v1/modules", TASK));
    let answers = futures::future::join_all(uploads).await;
    let mut digests: Vec<_> = answers.iter().map(|answer| answer.json()["digest"].to_string()).collect();
    digests.dedup();
    assert_eq!(digests.len(), 1);
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
}

#[tokio::test]
async fn forms_and_wrong_aliases_are_refused_with_advice() {
    let server = Server::start().await;
    let request =
        server.admin.request(Method::POST, "/v1/modules").header("content-type", "multipart/form-data; boundary=x");
    assert_eq!(server.admin.send(request.body("--x")).await.problem(), "415 unsupported_media_type");
    let refused = server.admin.post_bytes("/v1/modules?alias=No%20Name", TASK).await;
    assert_eq!(refused.problem(), "422 field_invalid alias");
    let digest = server.upload(&server.admin, TASK).await;
    let put = async |name: &str| {
        server.admin.put(&format!("/v1/aliases/{name}"), &serde_json::json!({"digest": digest})).await
    };
    assert_eq!(put("resize").await.status, 201);
    assert_eq!(put("resize").await.status, 200);
    assert_eq!(put("resize%3Av1").await.status, 201);
    assert_eq!(put("sha256:x").await.problem(), "422 field_invalid name");
    let unknown = serde_json::json!({"digest": format!("sha256:{}", "1".repeat(64))});
    assert_eq!(server.admin.put("/v1/aliases/resize", &unknown).await.code(), "module_unknown");
    assert_eq!(
        server.admin.put("/v1/aliases/resize", &serde_json::json!({})).await.problem(),
        "422 field_missing digest"
    );
}
