//! Requests of a node that follows to the leader, whose answers are lost, late, or about what the
//! node has not read yet.

use serde_json::json;
use wasmill_protocol::LogSeq;

use crate::support::{Answer, Client, Cluster, LogFaults, Node, TASK, until};

/// A follower is asked for everything while the leader hangs over it and another one takes over.
async fn hangs(fault: impl FnOnce(&LogFaults)) {
    let cluster = Cluster::start(3).await;
    cluster.elect(0).await;
    let [_, here, _] = cluster.clients();
    let digest = cluster.upload(here, TASK).await;
    let waits = json!({"module": digest, "input_text": "echo", "delay_ms": 3_600_000});
    let cancel = format!("/v1/tasks/{}/cancel", here.submit(waits).await["id"].as_str().unwrap());
    let keyed = json!({"module": digest, "input_text": "echo", "idempotency_key": "k"});
    let plain = json!({"module": digest, "input_text": "echo"});
    let (nothing, reader) = (json!({}), json!({"name": "t", "role": "read"}));
    fault(&cluster.nodes[0].log);
    let asked = async {
        tokio::join!(
            here.post("/v1/tasks", &plain),
            here.post("/v1/tasks", &keyed),
            here.post(&cancel, &nothing),
            here.post("/v1/tenants/default/tokens", &reader),
        )
    };
    let taken_over = async {
        cluster.nodes[0].log.unanswered().await;
        cluster.elect(2).await;
    };
    let ((plain, with_key, cancelled, token), ()) = tokio::join!(asked, taken_over);
    assert_eq!((plain.status, with_key.status, token.status), (201, 201, 201), "{plain:?} {with_key:?} {token:?}");
    assert_eq!((cancelled.status, &cancelled.json()["state"]), (200, &json!("cancelled")));
    let again = here.post("/v1/tasks", &keyed).await;
    assert_eq!((again.status, &again.json()["id"]), (200, &with_key.json()["id"]));
    cluster.nodes[0].log.heal();
    for client in cluster.clients::<3>() {
        assert_eq!(here.ended(&plain.json()["id"]).await["state"], "succeeded");
        until("it shows three tasks", async || {
            client.get("/v1/tasks").await.json()["items"].as_array().map(Vec::len) == Some(3)
        })
        .await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_what_a_leader_has_not_recorded_is_asked_of_the_next_one() {
    hangs(LogFaults::lose_appends).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_what_a_leader_has_recorded_without_saying_so_is_found_and_not_done_twice() {
    hangs(LogFaults::lose_acknowledgements).await;
}

/// The leader leads on, and has done what it was asked: it is asked for the answer again, and does
/// it once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f04_an_answer_that_was_lost_is_asked_for_again_of_the_same_leader() {
    let cluster = Cluster::start(2).await;
    cluster.elect(0).await;
    let [leader, follower] = cluster.clients();
    let digest = cluster.upload(leader, TASK).await;
    let bus = &cluster.nodes[1].bus;
    bus.lose_answers(3);
    let made = follower.post("/v1/tasks", &json!({"module": digest, "input_text": "echo"})).await;
    assert_eq!((made.status, bus.losing()), (201, 0), "{made:?}");
    let lines = format!("{{\"module\":\"{digest}\"}}\n{{\"module\":\"{digest}\"}}\n");
    bus.lose_answers(2);
    let request = follower.request(reqwest::Method::POST, "/v1/tasks").header("content-type", "application/x-ndjson");
    let bulk = follower.send(request.body(lines)).await;
    assert_eq!(bulk.text().matches(r#"{"id""#).count(), 2, "{}", bulk.text());
    bus.lose_answers(1);
    let tenant = follower.post("/v1/tenants", &json!({"name": "acme"})).await;
    assert_eq!(tenant.status, 201, "it was made once, and not found to be there: {tenant:?}");
    let listed = leader.get("/v1/tasks").await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(3), "each was submitted once: {listed}");
    assert_eq!(leader.get("/v1/status").await.json()["leader"], "node-0");
    cluster.stop().await;
}

/// The answer of a node that is held back: it may read on once it has asked the leader something,
/// or the log where it ends.
async fn answered_behind(node: &Node, request: impl Future<Output = Answer>) -> Answer {
    let asked = || node.handle.shared().calls_made() + node.log.glances();
    let before = asked();
    let reads_on = async {
        until("the leader or the log is asked", async || asked() > before).await;
        node.log.heal();
    };
    tokio::join!(request, reads_on).0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_behind_catches_up_before_it_says_that_there_is_no_such_thing() {
    let cluster = Cluster::start(2).await;
    cluster.elect(0).await;
    let [leader, follower] = cluster.clients();
    let behind = &cluster.nodes[1];
    let falls_behind = || behind.log.hold_after(LogSeq(0));
    let echo = json!({"module": "app", "input_text": "echo"});
    let token = json!({"name": "t", "role": "submit"});

    falls_behind();
    let module = leader.post_bytes("/v1/modules?alias=app", TASK).await.json();
    let submitted = answered_behind(behind, follower.post("/v1/tasks", &echo)).await;
    assert_eq!(submitted.status, 201, "{submitted:?}");

    falls_behind();
    let put = leader.put("/v1/aliases/other", &json!({"digest": module["digest"]})).await;
    assert_eq!(put.status, 201);
    let request = follower.request(reqwest::Method::POST, "/v1/tasks").header("content-type", "application/x-ndjson");
    let lines = answered_behind(behind, follower.send(request.body(r#"{"module":"other"}"#))).await;
    assert!(lines.text().starts_with(r#"{"id""#), "{}", lines.text());

    falls_behind();
    let rejected = leader.submit(json!({"module": "app", "input_text": "reject"})).await;
    assert_eq!(leader.ended(&rejected["id"]).await["state"], "failed");
    let path = format!("/v1/tasks/{}", rejected["id"].as_str().unwrap());
    let cancelled = answered_behind(behind, follower.post(&format!("{path}/cancel"), &json!({}))).await;
    assert_eq!(cancelled.problem(), "409 already_final");

    falls_behind();
    let rejected = leader.submit(json!({"module": "app", "input_text": "reject"})).await;
    assert_eq!(leader.ended(&rejected["id"]).await["state"], "failed");
    let path = format!("/v1/tasks/{}", rejected["id"].as_str().unwrap());
    let retried = answered_behind(behind, follower.post(&format!("{path}/retry"), &json!({}))).await;
    assert_eq!(retried.status, 201, "{retried:?}");

    falls_behind();
    assert_eq!(leader.post("/v1/tenants", &json!({"name": "acme"})).await.status, 201);
    let made = answered_behind(behind, follower.post("/v1/tenants/acme/tokens", &token)).await;
    assert_eq!(made.status, 201, "{made:?}");

    falls_behind();
    let made = leader.post("/v1/tenants/default/tokens", &token).await.json();
    let newcomer = Client { token: made["token"].as_str().unwrap().to_owned(), ..follower.clone() };
    let submitted = answered_behind(behind, newcomer.post("/v1/tasks", &echo)).await;
    assert_eq!(submitted.status, 201, "{submitted:?}");
    cluster.stop().await;
}
