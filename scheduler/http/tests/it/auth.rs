use crate::support::{Client, Server, module};

#[tokio::test]
async fn c01_wrong_tokens_are_refused_in_one_shape() {
    let server = Server::start().await;
    let reader = server.tenant("acme", "read").await;
    let revoked = server.token("acme", "read").await;
    let tokens = server.admin.get("/v1/tenants/acme/tokens").await.json();
    let id = tokens["items"].as_array().unwrap().iter().map(|token| token["id"].as_str().unwrap());
    assert_eq!(reader.get("/v1/status").await.status, 200);
    for id in id {
        assert_eq!(server.admin.delete(&format!("/v1/tenants/acme/tokens/{id}")).await.status, 204);
    }

    let mut answers = Vec::new();
    for token in [reader.token.as_str(), &revoked.token, "garbled", "wm_", "é", &server.admin.token[1..]] {
        let answer = Client::new(server.address, token).get("/v1/status").await;
        assert_eq!(answer.code(), "unauthorized", "{token}");
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"wasmill\"");
        answers.push(answer.body);
    }
    let url = format!("http://{}/v1/status", server.address);
    let none = server.admin.send(server.admin.http.get(url)).await;
    assert_eq!(none.status, 401);
    answers.push(none.body);
    answers.dedup();
    assert_eq!(answers.len(), 1);
}

#[tokio::test]
async fn c02_what_belongs_to_others_looks_unknown() {
    let server = Server::start().await;
    let (ours, theirs) = (server.tenant("ours", "submit").await, server.tenant("theirs", "tenant_admin").await);
    let digest = server.upload(&theirs, &module("private")).await;
    let task = theirs.submit(serde_json::json!({"module": digest})).await;
    let id = task["id"].as_str().unwrap();
    let unknown_digest = format!("sha256:{}", "0".repeat(64));
    let unknown_id = "01890a5d-ac96-774b-bcce-b302099a8057";
    for path in ["/v1/tasks/{}", "/v1/tasks/{}/output", "/v1/tasks/{}/logs", "/v1/tasks/{}/events"] {
        let (foreign, unknown) =
            (ours.get(&path.replace("{}", id)).await, ours.get(&path.replace("{}", unknown_id)).await);
        assert_eq!(foreign.code(), "task_unknown", "{path}");
        assert_eq!(foreign.body, unknown.body, "{path}");
        assert_eq!(ours.get(&path.replace("{}", "no-id")).await.body, unknown.body, "{path}");
    }
    for path in ["/v1/tasks/{}/cancel", "/v1/tasks/{}/retry"] {
        let nothing = serde_json::json!({});
        let foreign = ours.post(&path.replace("{}", id), &nothing).await;
        assert_eq!(foreign.code(), "task_unknown", "{path}");
        assert_eq!(foreign.body, ours.post(&path.replace("{}", unknown_id), &nothing).await.body, "{path}");
    }
    for path in ["/v1/modules/{}", "/v1/modules/{}/content"] {
        let foreign = ours.get(&path.replace("{}", &digest)).await;
        assert_eq!(foreign.code(), "module_unknown", "{path}");
        assert_eq!(foreign.body, ours.get(&path.replace("{}", &unknown_digest)).await.body, "{path}");
    }
    assert_eq!(ours.post_bytes(&format!("/v1/run/{digest}"), b"").await.problem(), "404 module_unknown module");
    assert_eq!(ours.delete(&format!("/v1/modules/{digest}")).await.code(), "module_unknown");
    // A tenant's own admin knows of no other tenant either.
    let (foreign, unknown) =
        (theirs.get("/v1/tenants/ours/tokens").await, theirs.get("/v1/tenants/nobody/tokens").await);
    assert_eq!(foreign.code(), "tenant_unknown");
    assert_eq!(foreign.body, unknown.body);
}

#[tokio::test]
async fn roles_may_do_what_they_are_for() {
    let server = Server::start().await;
    let reader = server.tenant("acme", "read").await;
    let submitter = server.token("acme", "submit").await;
    let head = server.token("acme", "tenant_admin").await;
    let digest = server.upload(&submitter, &module("m")).await;
    let task = serde_json::json!({"module": digest});
    let (quiet, token) = (serde_json::json!({"name": "x"}), serde_json::json!({"name": "x", "role": "admin"}));

    assert_eq!(reader.get("/v1/tasks").await.status, 200);
    assert_eq!(reader.post("/v1/tasks", &task).await.problem(), "403 forbidden");
    assert_eq!(reader.post_bytes("/v1/modules", b"\0asm").await.problem(), "403 forbidden");
    assert_eq!(submitter.post("/v1/tasks", &task).await.status, 201);
    assert_eq!(submitter.get("/v1/tenants/acme/tokens").await.problem(), "403 forbidden");
    assert_eq!(head.get("/v1/tenants/acme/tokens").await.status, 200);
    assert_eq!(head.post("/v1/tenants", &quiet).await.problem(), "403 forbidden");
    // Nobody gives what they do not have.
    assert_eq!(head.post("/v1/tenants/acme/tokens", &token).await.problem(), "403 forbidden");
    assert_eq!(server.admin.post("/v1/tenants/acme/tokens", &token).await.status, 201);
}

#[tokio::test]
async fn an_admin_acts_for_the_tenant_of_the_header() {
    let server = Server::start().await;
    let acme = server.tenant("acme", "read").await;
    let digest = server.upload(&acme_admin(&server).await, &module("m")).await;
    assert_eq!(acme.get(&format!("/v1/modules/{digest}")).await.status, 200);
    assert_eq!(server.admin.get(&format!("/v1/modules/{digest}")).await.status, 404);
    let request = server.admin.request(reqwest::Method::GET, &format!("/v1/modules/{digest}"));
    assert_eq!(server.admin.send(request.header("Wasmill-Tenant", "acme")).await.status, 200);
    let request = server.admin.request(reqwest::Method::GET, "/v1/modules").header("Wasmill-Tenant", "nobody");
    assert_eq!(server.admin.send(request).await.code(), "tenant_unknown");
}

async fn acme_admin(server: &Server) -> Client {
    server.token("acme", "submit").await
}

#[tokio::test]
async fn the_first_admin_token_is_kept_while_it_is_valid() {
    let server = Server::start().await;
    let file = server.dir.path().join("admin.token");
    let first = std::fs::read_to_string(&file).unwrap();
    let dir = server.stop().await;
    let server = Server::start_in(dir, |_| {}).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), first);
    let dir = server.stop().await;
    std::fs::write(&file, "wm_something-else").unwrap();
    let server = Server::start_in(dir, |_| {}).await;
    assert_ne!(std::fs::read_to_string(&file).unwrap(), first);
    assert_eq!(server.admin.get("/v1/status").await.status, 200);
}
