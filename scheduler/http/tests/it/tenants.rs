use serde_json::json;

use crate::support::{Client, Server, TASK, until};

#[tokio::test]
async fn tenants_are_created_changed_and_deleted() {
    let server = Server::start().await;
    let made = server.admin.post("/v1/tenants", &json!({"name": "acme", "weight": 3, "quotas": {"modules": 2}})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let quotas = |queued: Option<u64>, modules: Option<u64>| json!({"tasks_queued": queued, "tasks_running": null, "memory_bytes": null, "modules": modules, "module_bytes": null, "compile_ms_per_s": null, "stored_bytes": null});
    assert_eq!(made.json()["weight"], 3);
    assert_eq!(made.json()["quotas"], quotas(None, Some(2)));
    assert_eq!(server.admin.get("/v1/tenants/acme").await.json(), made.json());
    assert_eq!(server.admin.post("/v1/tenants", &json!({"name": "acme"})).await.problem(), "409 tenant_exists name");

    // A quota that is absent stays, null is unlimited.
    let changed = server.admin.patch("/v1/tenants/acme", &json!({"quotas": {"tasks_queued": 9}})).await.json();
    assert_eq!((&changed["weight"], &changed["quotas"]), (&json!(3), &quotas(Some(9), Some(2))));
    let changed =
        server.admin.patch("/v1/tenants/acme", &json!({"weight": 5, "quotas": {"modules": null}})).await.json();
    assert_eq!((&changed["weight"], &changed["quotas"]), (&json!(5), &quotas(Some(9), None)));

    // The class is the operator's, and stays what it is until it is named.
    assert_eq!((&changed["class"], &made.json()["class"]), (&json!(0), &json!(0)));
    let changed = server.admin.patch("/v1/tenants/acme", &json!({"class": -100})).await.json();
    assert_eq!((&changed["class"], &changed["weight"]), (&json!(-100), &json!(5)));
    let changed = server.admin.patch("/v1/tenants/acme", &json!({"weight": 6})).await.json();
    assert_eq!((&changed["class"], &changed["weight"]), (&json!(-100), &json!(6)));
    let vip = server.admin.post("/v1/tenants", &json!({"name": "vip", "class": 7})).await;
    assert_eq!((vip.status, &vip.json()["class"]), (201, &json!(7)));
    assert_eq!(server.admin.delete("/v1/tenants/vip").await.status, 204);
    let own = server.tenant("acme", "tenant_admin").await;
    assert_eq!(own.patch("/v1/tenants/acme", &json!({"class": 100})).await.status, 403, "no tenant raises itself");

    let names: Vec<_> = server.admin.get("/v1/tenants").await.json()["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tenant| tenant["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["acme", "default"]);
    assert_eq!(server.admin.delete("/v1/tenants/acme").await.status, 204);
    assert_eq!(server.admin.get("/v1/tenants/acme").await.code(), "tenant_unknown");
    assert_eq!(server.admin.delete("/v1/tenants/acme").await.code(), "tenant_unknown");
    assert_eq!(server.admin.delete("/v1/tenants/default").await.problem(), "409 tenant_permanent");
}

#[tokio::test]
async fn mistakes_about_tenants_and_tokens_name_their_field() {
    let server = Server::start().await;
    for (body, problem) in [
        (json!({}), "422 field_missing name"),
        (json!({"name": "No Name"}), "422 field_invalid name"),
        (json!({"name": "a", "weight": 0}), "422 field_invalid weight"),
        (json!({"name": "a", "weight": 1001}), "422 limit_exceeded weight"),
        (json!({"name": "a", "class": 101}), "422 limit_exceeded class"),
        (json!({"name": "a", "class": -101}), "422 limit_exceeded class"),
        (json!({"name": "a", "class": 0.5}), "422 field_invalid class"),
        (json!({"name": "a", "class": "high"}), "422 field_invalid class"),
        (json!({"name": "a", "quotas": {"disk": 1}}), "422 field_unknown quotas.disk"),
        (json!({"name": "a", "quotas": {"modules": -1}}), "422 field_invalid quotas.modules"),
        (json!({"name": "a", "quotas": []}), "422 field_invalid quotas"),
    ] {
        assert_eq!(server.admin.post("/v1/tenants", &body).await.problem(), problem, "{body}");
    }
    for (body, problem) in [
        (json!({"name": "x"}), "422 field_missing role"),
        (json!({"name": "x", "role": "king"}), "422 field_invalid role"),
        (json!({"name": "", "role": "read"}), "422 field_invalid name"),
    ] {
        assert_eq!(server.admin.post("/v1/tenants/default/tokens", &body).await.problem(), problem, "{body}");
    }
    let body = json!({"name": "x", "role": "read"});
    assert_eq!(server.admin.post("/v1/tenants/nobody/tokens", &body).await.code(), "tenant_unknown");
    assert_eq!(server.admin.post("/v1/tenants/No%20Name/tokens", &body).await.code(), "tenant_unknown");
    assert_eq!(server.admin.delete("/v1/tenants/default/tokens/tok_x").await.code(), "token_unknown");
}

#[tokio::test]
async fn a_token_is_shown_once() {
    let server = Server::start().await;
    let made = server.admin.post("/v1/tenants/default/tokens", &json!({"name": "ci", "role": "submit"})).await.json();
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert!(token.starts_with("wm_") && token.len() == 46);
    let listed = server.admin.get("/v1/tenants/default/tokens").await;
    assert!(!listed.text().contains(token));
    let listed = listed.json();
    let shown = listed["items"].as_array().unwrap().iter().find(|shown| shown["id"] == id).unwrap();
    assert_eq!((&shown["name"], &shown["role"], &shown["tenant"]), (&json!("ci"), &json!("submit"), &json!("default")));
    assert_eq!(&server.admin.get(&format!("/v1/tenants/default/tokens/{id}")).await.json(), shown);
}

#[tokio::test]
async fn module_quotas_are_kept() {
    let server = Server::start().await;
    let client = server.tenant("acme", "submit").await;
    server.admin.patch("/v1/tenants/acme", &json!({"quotas": {"modules": 1}})).await;
    server.upload(&client, TASK).await;
    let over = client.post_bytes("/v1/modules", b"\0asm command").await;
    assert_eq!(over.problem(), "422 module_quota_exceeded modules");
    assert_eq!(over.json()["limit"], 1);
    assert_eq!(client.post_bytes("/v1/modules", TASK).await.status, 200, "what is there may come again");
}

#[tokio::test]
async fn d12_a_deleted_tenant_takes_everything_with_it() {
    let server = Server::start().await;
    let client = server.tenant("acme", "submit").await;
    let digest = server.upload(&client, TASK).await;
    let running = client.submit(json!({"module": digest, "input_text": "hang"})).await;
    client.submit(json!({"module": digest, "delay_ms": 3_600_000})).await;
    let path = format!("/v1/tasks/{}", running["id"].as_str().unwrap());
    until("the task runs", async || client.get(&path).await.json()["state"] == "running").await;
    assert_eq!(server.admin.delete("/v1/tenants/acme").await.status, 204);
    assert_eq!(client.get(&path).await.problem(), "401 unauthorized");
    until("its tasks have stopped", async || {
        server.admin.get("/v1/status").await.json()["queue"] == json!({"waiting": 0, "queued": 0, "running": 0})
    })
    .await;
    // A new tenant of the name begins with nothing.
    let heir = server.tenant("acme", "submit").await;
    assert_eq!(heir.get(&path).await.code(), "task_unknown");
    assert_eq!(heir.get(&format!("/v1/modules/{digest}")).await.code(), "module_unknown");
    assert_eq!(heir.get("/v1/tasks").await.json(), json!({"items": [], "next": null}));
}

#[tokio::test]
async fn tenants_and_tokens_are_listed_page_by_page() {
    let server = Server::start().await;
    for name in ["a", "b", "c", "e"] {
        server.tenant(name, "read").await;
        server.token("a", "read").await;
    }
    // `default` is one more, and `a` has the token of its first client too.
    for path in ["/v1/tenants", "/v1/tenants/a/tokens"] {
        assert_eq!(pages(&server.admin, path).await, [2, 2, 1], "{path}");
    }
    let hosts = server.admin.get("/v1/hosts?limit=1").await.json();
    assert_eq!((hosts["items"].as_array().unwrap().len(), &hosts["next"]), (1, &json!(null)));
}

/// How many entries each page of two has. No entry comes twice.
async fn pages(client: &Client, path: &str) -> Vec<usize> {
    let (mut sizes, mut found, mut cursor) = (Vec::new(), Vec::new(), String::new());
    loop {
        let page = client.get(&format!("{path}?limit=2{cursor}")).await.json();
        let items = page["items"].as_array().unwrap();
        sizes.push(items.len());
        found.extend(items.iter().map(ToString::to_string));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    let all = found.len();
    found.sort();
    found.dedup();
    assert_eq!(found.len(), all, "{path}");
    sizes
}
