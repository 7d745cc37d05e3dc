//! Several control nodes over one fabric, whose election a test holds in its hands.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::{Answer, Client, Cluster, TASK, until};

/// Submits until it is answered that it was done: with a key that is safe, whoever leads meanwhile.
async fn submit_until_accepted(client: &Client, task: &Value) -> Answer {
    loop {
        let answer = client.post("/v1/tasks", task).await;
        if answer.status != 503 {
            return answer;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_follows_forwards_and_shows_what_was_done() {
    let cluster = Cluster::start(3).await;
    cluster.elect(0).await;
    let [leader, second, third] = cluster.clients();
    let digest = cluster.upload(second, TASK).await;
    let made = second.post("/v1/tasks", &json!({"module": digest, "input_text": "echo"})).await;
    assert_eq!(made.status, 201, "{made:?}");
    let path = format!("/v1/tasks/{}", made.json()["id"].as_str().unwrap());
    // Here because it was answered here, there because it is asked for.
    for client in [second, third, leader] {
        assert_eq!(client.get(&path).await.status, 200, "{}", client.base);
    }
    let ended = third.get(&format!("{path}?wait_ms=20000")).await.json();
    assert_eq!(ended["state"], "succeeded", "{ended}");

    let missing = third.get("/v1/tasks/018f0000-0000-7000-8000-000000000000").await;
    assert_eq!(missing.problem(), "404 task_unknown");
    let token = second.post("/v1/tenants/default/tokens", &json!({"name": "t", "role": "read"})).await;
    let reader = Client { token: token.json()["token"].as_str().unwrap().to_owned(), ..third.clone() };
    assert_eq!(reader.get("/v1/tasks").await.status, 200, "a token is valid everywhere at once");

    let seen = second.get("/v1/hosts").await.json();
    assert_eq!(seen["items"][0]["state"], "ready", "{seen}");
    let drained = second.post("/v1/hosts/fake/drain", &json!({})).await;
    assert_eq!(drained.status, 204, "{drained:?}");
    for (index, client) in cluster.clients::<3>().into_iter().enumerate() {
        let status = client.get("/v1/status").await.json();
        assert_eq!(
            (&status["node"], &status["leader"]),
            (&json!(format!("node-{index}")), &json!("node-0")),
            "{status}"
        );
        assert_eq!(client.get("/readyz").await.status, 200);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_for_the_record_that_it_names() {
    let cluster = Cluster::start(2).await;
    cluster.elect(0).await;
    let [leader, follower] = cluster.clients();
    let digest = cluster.upload(leader, TASK).await;
    for _ in 0..20 {
        let made = leader.post("/v1/tasks", &json!({"module": digest, "input_text": "hang"})).await;
        let seq = made.header("wasmill-log-seq").to_owned();
        let listing = follower.request(reqwest::Method::GET, "/v1/tasks?limit=1").header("wasmill-log-seq", seq);
        let listed = follower.send(listing).await.json();
        assert_eq!(listed["items"][0]["id"], made.json()["id"], "a list misses nothing that was answered before");
    }
    let wrong = follower.request(reqwest::Method::GET, "/v1/tasks").header("wasmill-log-seq", "soon");
    assert_eq!(follower.send(wrong).await.problem(), "400 malformed_request wasmill-log-seq");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f05_a_leader_that_does_not_know_of_its_successor_changes_nothing() {
    let cluster = Cluster::start(2).await;
    cluster.elect(0).await;
    let [old, new] = cluster.clients();
    let digest = cluster.upload(old, TASK).await;
    let task = json!({"module": digest, "input_text": "echo", "idempotency_key": "once"});
    // Nobody tells the first one.
    cluster.elect(1).await;
    let refused = old.post("/v1/tasks", &task).await;
    assert_eq!(refused.problem(), "503 not_leader", "its append is refused by the log");
    let first = submit_until_accepted(old, &task).await;
    assert_eq!(first.status, 201, "it follows, and forwards: {first:?}");
    let again = new.post("/v1/tasks", &task).await;
    assert_eq!((again.status, &again.json()["id"]), (200, &first.json()["id"]));
    let status = old.get("/v1/status").await.json();
    assert_eq!(status["leader"], "node-1", "{status}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f50_leadership_moves_while_hundreds_are_in_flight() {
    const TASKS: usize = 600;
    let cluster = Arc::new(Cluster::start(3).await);
    cluster.elect(0).await;
    let clients = cluster.clients::<3>().map(Clone::clone);
    let digest = cluster.upload(&clients[0], TASK).await;
    let submitted = futures::stream::iter(0..TASKS)
        .map(|number| {
            let client = clients[number % 3].clone();
            let task =
                json!({"module": digest, "input_text": format!("{number}"), "idempotency_key": format!("{number}")});
            async move {
                let answer = submit_until_accepted(&client, &task).await;
                assert!(matches!(answer.status, 200 | 201), "{answer:?}");
                answer.json()["id"].as_str().unwrap().to_owned()
            }
        })
        .buffer_unordered(32)
        .collect::<Vec<_>>();
    let moving = async {
        for (round, next) in [1, 2, 0, 2, 1].into_iter().enumerate() {
            cluster.elect(next).await;
            if round % 2 == 0 {
                cluster.depose_all_but(next);
            }
        }
    };
    let (ids, ()) = tokio::join!(submitted, moving);
    let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
    assert_eq!(distinct.len(), TASKS);
    for client in &clients {
        for id in &ids {
            let path = format!("/v1/tasks/{id}?wait_ms=60000");
            let mut task = client.get(&path).await;
            while task.status == 503 {
                task = client.get(&path).await;
            }
            assert_eq!(task.json()["state"], "succeeded", "{task:?}");
        }
    }
    // Every node saw the same history.
    let path = format!("/v1/tasks/{}/events", ids[0]);
    let histories = futures::future::join_all(clients.iter().map(|client| client.get(&path))).await;
    assert!(histories.windows(2).all(|pair| pair[0].body == pair[1].body), "{histories:?}");
    Arc::into_inner(cluster).unwrap().stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_leader_writes_are_refused_and_reads_answered() {
    let cluster = Cluster::start(2).await;
    cluster.elect(0).await;
    let [leader, follower] = cluster.clients();
    let digest = cluster.upload(leader, TASK).await;
    assert_eq!(follower.get(&format!("/v1/modules/{digest}")).await.status, 200);
    cluster.depose_all();
    let refused = follower.post("/v1/tasks", &json!({"module": digest})).await;
    assert_eq!((refused.problem().as_str(), refused.header("retry-after")), ("503 not_leader", "1"));
    assert_eq!(follower.get(&format!("/v1/modules/{digest}")).await.status, 200);
    cluster.elect(1).await;
    until("writes are taken again", async || {
        leader.post("/v1/tasks", &json!({"module": digest, "input_text": "echo"})).await.status == 201
    })
    .await;
    tokio::time::timeout(Duration::from_secs(20), cluster.stop()).await.unwrap();
}
