//! A log that has no space.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;

use crate::support::{Cluster, TASK, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f26_a_single_machine_without_space_says_so_to_everybody_until_there_is_some() {
    let cluster = Cluster::start_with(1, None).await;
    cluster.elect(0).await;
    let [client] = cluster.clients();
    let digest = cluster.upload(client, TASK).await;
    let task = json!({"module": digest, "input_text": "echo"});
    let waits = client.submit(json!({"module": digest, "input_text": "echo", "delay_ms": 3_600_000})).await;
    let cancel = format!("/v1/tasks/{}/cancel", waits["id"].as_str().unwrap());
    let bulk = format!("{task}\n").repeat(50);

    cluster.nodes[0].log.fill();
    // Also while it tries to lead again, and fails.
    let tries = cluster.won(0) + 3;
    while cluster.won(0) < tries {
        for answer in [client.post("/v1/tasks", &task).await, client.post(&cancel, &json!({})).await] {
            assert_eq!(answer.problem(), "507 no_space", "{answer:?}");
        }
        let request = client.request(Method::POST, "/v1/tasks").header("content-type", "application/x-ndjson");
        let lines = client.send(request.body(bulk.clone())).await;
        assert_eq!(lines.text().matches("\"no_space\"").count(), 50, "{lines:?}");
    }
    let ready = client.get("/readyz").await;
    assert!(ready.status == 503 && ready.text().contains("the disk is full"), "{ready:?}");

    // A small record fits now and then, which is not what anybody can work with.
    cluster.nodes[0].log.fill_nearly();
    let won = cluster.won(0);
    for _ in 0..30 {
        let (ready, submitted) = tokio::join!(client.get("/readyz"), client.post("/v1/tasks", &task));
        assert_eq!((ready.status, submitted.problem().as_str()), (503, "507 no_space"), "{ready:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(cluster.won(0) <= won + 1, "it stands for election only when there is room");

    cluster.nodes[0].log.heal();
    until("there is space", async || client.post("/v1/tasks", &task).await.status == 201).await;
    let cancelled = client.post(&cancel, &json!({})).await;
    assert_eq!((cancelled.status, &cancelled.json()["state"]), (200, &json!("cancelled")));
    assert_eq!(client.get("/readyz").await.status, 200);
    cluster.stop().await;
}
