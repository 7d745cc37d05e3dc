//! Clocks that are wrong.

use std::time::Duration;

use futures::StreamExt;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use wasmill_protocol::{Digest, Term, Timestamp, Uptime};
use wasmill_record::Record;
use wasmill_record::event::{Event, EventBody};
use wasmill_scheduler::driver::SnapshotConfig;
use wasmill_scheduler::sweep::Sweep;

use crate::support::{Cluster, Server, TASK, open, until};

const DAY_MS: u64 = 24 * 3_600_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f52_a_node_whose_clock_the_servers_contradict_does_not_lead_and_says_why() {
    let cluster = Cluster::start_with(1, Some(-8 * 24 * 3_600)).await;
    cluster.name(0);
    let stranger = cluster.nodes[0].stranger();
    let wrong = "this machine's clock is 8 d 0 h ahead of the servers that keep the log";
    until("it says why", async || stranger.get("/readyz").await.text().contains(wrong)).await;
    assert_eq!(stranger.get("/readyz").await.status, 503);
    assert_eq!(cluster.won(0), 0, "it stands for no election");

    cluster.nodes[0].log.set_clocks();
    cluster.elect(0).await;
    let [client] = cluster.clients();
    let status = client.get("/v1/status").await.json();
    assert_eq!(status["clock_warning"], json!(null), "{status}");
    let page = client.get("/metrics").await.text();
    assert!(page.contains("wasmill_clock_believed 1") && page.contains("wasmill_clock_difference_seconds"), "{page}");
    assert_eq!(client.get("/readyz").await.status, 200);
    cluster.stop().await;
}

/// Appends a term as a leader would that began `ahead_ms` from now.
async fn lead_ahead(server: Server, ahead_ms: u64) -> Server {
    let now = server.handle.shared().clock.now();
    let dir = server.stop().await;
    let (driver, handle, fabric) = open(dir.path(), SnapshotConfig::default()).await;
    let last = fabric.log.last_seq().await.unwrap();
    let mut tail = fabric.log.tail(last);
    let (_, bytes) = tail.next().await.unwrap().unwrap();
    let prev_hash = Digest(Sha256::digest(&bytes).into());
    let term = Term(Record::decode(last, &bytes).unwrap().term.0 + 1);
    let body = EventBody::TermStarted { term, node: "wrong".to_owned(), passed_us: 0, uptime: Uptime::default() };
    let events = vec![Event { at: now.plus_ms(ahead_ms), body }];
    let record = Record { version: 1, term, prev_hash, events, decided: None };
    fabric.log.append(last, record.encode()).await.unwrap();
    // The next election gives a later term.
    drop(fabric.membership.campaign("wrong").await.unwrap());
    drop((tail, driver, handle, fabric));
    Server::start_in(dir, |_| {}).await
}

#[tokio::test]
async fn f52_a_leader_that_was_a_month_ahead_destroys_nothing_and_moves_no_time_for_good() {
    let server = Server::start().await;
    let client = server.admin.clone();
    let digest = server.upload(&client, TASK).await;
    let done = client.submit(json!({"module": digest, "input_text": "echo"})).await;
    assert_eq!(client.ended(&done["id"]).await["state"], "succeeded");
    let delayed = client.submit(json!({"module": digest, "input_text": "echo", "delay_ms": 3 * DAY_MS})).await;

    let server = lead_ahead(server, 31 * DAY_MS).await;
    let client = server.admin.clone();
    Sweep::new(Duration::from_secs(7 * 24 * 3_600)).once(&server.handle, Duration::ZERO).await;
    let kept = client.get(&format!("/v1/tasks/{}", done["id"].as_str().unwrap())).await.json();
    assert_eq!(kept["state"], "succeeded", "its retention is not over: {kept}");
    let waits = client.get(&format!("/v1/tasks/{}", delayed["id"].as_str().unwrap())).await.json();
    assert_eq!(waits["state"], "waiting", "{waits}");

    // A task for a time of the clock starts by the clock.
    let status = client.get("/v1/status").await.json();
    let now: Timestamp = status["now"].as_str().unwrap().parse().unwrap();
    let later =
        client.submit(json!({"module": digest, "input_text": "echo", "not_before": now.plus_ms(DAY_MS).to_string()}));
    let soon =
        client.submit(json!({"module": digest, "input_text": "echo", "not_before": now.plus_ms(1_500).to_string()}));
    let (later, soon) = (later.await, soon.await);
    assert_eq!(soon["state"], "waiting", "{soon}");
    assert_eq!(client.ended(&soon["id"]).await["state"], "succeeded");
    let later = client.get(&format!("/v1/tasks/{}", later["id"].as_str().unwrap())).await.json();
    assert_eq!(later["state"], "waiting", "{later}");
    server.stop().await;
}
