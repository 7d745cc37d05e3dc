use std::sync::Arc;

use serde_json::{Value, json};
use wasmill_fabric::embedded;
use wasmill_protocol::policy::PolicyHook;
use wasmill_protocol::{Digest, LogSeq, Timestamp};
use wasmill_record::Record;
use wasmill_record::event::{Event, EventBody};

use crate::support::{COMMAND, Client, Server, TASK, module, until};

/// Everything that can be asked for and does not change by itself.
pub(crate) async fn picture(server: &Server, clients: &[&Client], tasks: &[Value]) -> Vec<(String, u16, Vec<u8>)> {
    let mut seen = Vec::new();
    let listings = ["/v1/modules", "/v1/aliases", "/v1/tasks", "/v1/tenants", "/v1/tenants/acme/tokens"];
    let parts = ["", "/output", "/logs", "/events"];
    for client in clients {
        // The same token, at the address where the server is now.
        let client = Client::new(server.address, &client.token);
        let of_tasks =
            tasks.iter().flat_map(|id| parts.map(|part| format!("/v1/tasks/{}{part}", id.as_str().unwrap())));
        for path in listings.map(str::to_owned).into_iter().chain(of_tasks) {
            let answer = client.get(&path).await;
            seen.push((path, answer.status, answer.body));
        }
    }
    seen
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let server = Server::start().await;
    let (ours, theirs) = (server.admin.clone(), server.tenant("acme", "tenant_admin").await);
    server.admin.patch("/v1/tenants/acme", &json!({"weight": 3, "quotas": {"tasks_queued": 9}})).await;
    let mut tasks = Vec::new();
    for client in [&ours, &theirs] {
        let digest = server.upload(client, TASK).await;
        server.upload(client, COMMAND).await;
        client.post_bytes("/v1/modules?alias=app:v1", &module("app")).await;
        for input in ["echo", "log", "big", "reject", "trap"] {
            let task = client.submit(json!({"module": digest, "input_text": input, "labels": {"is": input}})).await;
            client.ended(&task["id"]).await;
            tasks.push(task["id"].clone());
        }
        let waiting = client.submit(json!({"module": "app:v1", "delay_ms": 3_600_000, "priority": 7})).await;
        let cancelled = client.submit(json!({"module": digest, "delay_ms": 3_600_000})).await;
        let path = format!("/v1/tasks/{}/cancel", cancelled["id"].as_str().unwrap());
        assert_eq!(client.post(&path, &json!({"reason": "no"})).await.status, 200);
        tasks.extend([waiting["id"].clone(), cancelled["id"].clone()]);
    }
    let before = picture(&server, &[&ours, &theirs], &tasks).await;
    assert!(before.iter().filter(|(_, status, _)| *status == 200).count() > before.len() / 3);
    let server = Server::start_in(server.stop().await, |_| {}).await;
    let after = picture(&server, &[&ours, &theirs], &tasks).await;
    for (before, after) in before.iter().zip(&after) {
        let text = |body: &[u8]| String::from_utf8_lossy(body).into_owned();
        assert_eq!((before.1, text(&before.2)), (after.1, text(&after.2)), "{}", before.0);
    }
}

#[tokio::test]
async fn what_waits_or_runs_goes_on_after_a_restart() {
    let server = Server::start().await;
    let digest = server.upload(&server.admin, TASK).await;
    let running = server.admin.submit(json!({"module": digest, "input_text": "hang"})).await;
    let nowhere = json!({"module": digest, "input_text": "later", "delay_ms": 3_600_000});
    let waiting = server.admin.submit(nowhere).await;
    let path = format!("/v1/tasks/{}", running["id"].as_str().unwrap());
    until("the task runs", async || server.admin.get(&path).await.json()["state"] == "running").await;
    let server = Server::start_in(server.stop().await, |_| {}).await;
    // The host has forgotten its attempt: the task runs again, as another attempt, and can be
    // stopped.
    until("it runs again", async || {
        let task = server.admin.get(&path).await.json();
        task["state"] == "running" && task["attempt"].as_u64() > Some(1)
    })
    .await;
    assert_eq!(server.admin.post(&format!("{path}/cancel?wait_ms=20000"), &json!({})).await.status, 200);
    let path = format!("/v1/tasks/{}", waiting["id"].as_str().unwrap());
    let waiting = server.admin.get(&path).await.json();
    assert_eq!((&waiting["state"], &waiting["attempt"]), (&json!("waiting"), &json!(0)));
}

/// E02
#[tokio::test]
async fn a_policy_that_was_benched_is_shown_by_whoever_leads_next() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let benched = EventBody::PolicyBenched {
        hook: PolicyHook::Place,
        policy: "mine".to_owned(),
        reason: "unreachable executed".to_owned(),
        digest: Digest::default(),
    };
    let events = vec![Event { at: Timestamp(1_772_366_400_000_000), body: benched }];
    let record = Record { version: Record::version_for(&events), events, ..Record::default() };
    embedded::open(dir.path()).unwrap().log.append(LogSeq(0), record.encode()).await.unwrap();

    let server = Server::start_in(dir, |_| {}).await;
    let expected = json!([{"hook": "place", "policy": "mine", "reason": "unreachable executed", "at": "2026-03-01T12:00:00.000Z"}]);
    assert_eq!(server.admin.get("/v1/status").await.json()["policies_benched"], expected);
    let metrics = server.admin.get("/metrics").await.text();
    assert!(metrics.contains("\nwasmill_policies_benched 1\n"), "{metrics}");
}
