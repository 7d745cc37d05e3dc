//! Several control nodes over one fabric, whose election a test holds in its hands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use serde_json::{Value, json};
use wasmill_protocol::message::HostInfo;
use wasmill_protocol::{HostId, Term};
use wasmill_scheduler::driver::DriverError;

use crate::support::{Answer, Client, Cluster, SPRAWLING, TASK, until};

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
async fn a_node_that_was_elected_and_overtaken_stands_again() {
    let cluster = Cluster::start(2).await;
    cluster.elect_in(0, &[7]);
    cluster.leads_in(0, 7).await;
    // It stood for election before there was a term 7, and was slow.
    cluster.elect_in(1, &[3, 9]);
    cluster.leads_in(1, 9).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_that_the_log_had_seen_before_the_election_halts() {
    let mut cluster = Cluster::start(2).await;
    cluster.elect_in(0, &[7]);
    cluster.leads_in(0, 7).await;
    cluster.elect_in(1, &[3, 6]);
    let error = cluster.stopped_for(1).await;
    assert!(matches!(error, DriverError::TermRegressed { term: Term(6), seen: Term(7) }), "{error}");
    cluster.stop().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f54_while_nobody_leads_every_node_says_so_and_what_is_known_is_told() {
    let cluster = Cluster::start(3).await;
    cluster.elect(0).await;
    let clients: [&Client; 3] = cluster.clients();
    for client in clients {
        let status = client.get("/v1/status").await.json();
        assert_eq!((client.get("/readyz").await.status, &status["queue"]["running"]), (200, &json!(0)), "{status}");
    }
    cluster.depose_all();
    for client in clients {
        until("it is not ready", async || client.get("/readyz").await.status == 503).await;
        assert_eq!(client.get("/readyz").await.problem(), "503 not_leader");
        let asked = Instant::now();
        let status = client.get("/v1/status").await.json();
        // A leader that might still come is waited for no less than five seconds.
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
        assert_eq!(status["leader"], Value::Null, "{status}");
        for only_a_leader_knows in ["queue", "hosts", "policies_benched"] {
            assert_eq!(status.get(only_a_leader_knows), None, "{status}");
        }
        assert_eq!(client.get("/v1/hosts").await.problem(), "503 not_leader");
        // The log is whole: what is not in it is nowhere.
        let missing = client.get("/v1/tasks/018f0000-0000-7000-8000-000000000000").await;
        assert_eq!(missing.problem(), "404 task_unknown");
    }
    cluster.elect(1).await;
    for client in clients {
        until("it is ready", async || client.get("/readyz").await.status == 200).await;
        assert_eq!(client.get("/v1/status").await.json()["leader"], "node-1");
    }
    cluster.stop().await;
}

/// A node does not deny a thing that it cannot know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f54_a_node_that_cannot_ask_the_log_says_of_nothing_that_it_is_unknown() {
    let cluster = Cluster::start(2).await;
    cluster.elect(0).await;
    let [leader, follower] = cluster.clients();
    let digest = cluster.upload(leader, TASK).await;
    assert_eq!(follower.get(&format!("/v1/modules/{digest}")).await.status, 200);
    cluster.nodes[1].log.cut();
    let made = leader.post("/v1/tenants/default/tokens", &json!({"name": "t", "role": "read"})).await;
    let newcomer = Client { token: made.json()["token"].as_str().unwrap().to_owned(), ..follower.clone() };
    let task = leader.submit(json!({"module": digest, "input_text": "echo"})).await;
    let path = format!("/v1/tasks/{}", task["id"].as_str().unwrap());
    for _ in 0..2 {
        assert_eq!(newcomer.get("/v1/tasks").await.problem(), "503 overloaded", "its token is valid");
        assert_eq!(follower.get(&path).await.problem(), "503 overloaded", "the task was accepted");
        assert_eq!(follower.post(&format!("{path}/cancel"), &json!({})).await.problem(), "503 overloaded");
        assert_eq!(follower.get("/v1/aliases/none").await.problem(), "503 overloaded");
    }
    assert_eq!(follower.get(&format!("/v1/modules/{digest}")).await.status, 200, "what is known is told");
    cluster.nodes[1].log.heal();
    until("its token is known", async || newcomer.get("/v1/tasks").await.status == 200).await;
    assert_eq!(follower.get(&path).await.status, 200);
    cluster.stop().await;
}

/// Strangers cost the leader nothing, and the log little.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_that_are_wrong_ask_the_leader_nothing() {
    let cluster = Cluster::start(2).await;
    cluster.elect(0).await;
    let [_, follower] = cluster.clients();
    let (asked, node) = (|| cluster.nodes[1].handle.shared().calls_made(), &cluster.nodes[1]);
    let (before, glances) = (asked(), node.log.glances());
    let strangers = (0..200).map(|number| Client { token: format!("wm_{number}"), ..follower.clone() });
    let refused = stream::iter(strangers).map(async |stranger| stranger.get("/v1/tasks").await.status);
    let refused: Vec<u16> = refused.buffer_unordered(50).collect().await;
    assert_eq!(refused, [401; 200]);
    assert_eq!(asked(), before);
    let glances = node.log.glances() - glances;
    assert!((1..100).contains(&glances), "{glances}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f07_an_idle_leader_that_is_cut_off_from_the_log_gives_its_seat_up() {
    let cluster = Cluster::start(2).await;
    cluster.elect(0).await;
    let [old, new] = cluster.clients();
    let digest = cluster.upload(new, TASK).await;
    cluster.nodes[0].log.cut();
    cluster.gives_up(0).await;
    cluster.elect(1).await;
    let made = new.post("/v1/tasks", &json!({"module": digest, "input_text": "echo"})).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert_eq!(old.get("/readyz").await.status, 503);
    cluster.nodes[0].log.heal();
    until("it follows", async || old.get("/readyz").await.status == 200).await;
    let path = format!("/v1/tasks/{}", made.json()["id"].as_str().unwrap());
    assert_eq!(old.get(&path).await.status, 200);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_leader_notices_by_itself_that_somebody_else_leads() {
    let cluster = Cluster::start(2).await;
    cluster.elect(0).await;
    cluster.elect(1).await;
    cluster.gives_up(0).await;
    let [old, _] = cluster.clients();
    until("it follows", async || old.get("/v1/status").await.json()["leader"] == "node-1").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f19_a_node_that_loses_the_log_is_not_ready_and_stands_for_no_election() {
    let cluster = Cluster::start(2).await;
    cluster.elect(0).await;
    let [_, follower] = cluster.clients();
    assert_eq!(follower.get("/readyz").await.status, 200);
    cluster.nodes[1].log.cut();
    let mut standing = cluster.nodes[1].handle.shared().standing.subscribe();
    standing.wait_for(|standing| standing.log_silent).await.unwrap();
    assert_eq!(follower.get("/readyz").await.problem(), "503 overloaded");
    cluster.name(1);
    // Requests to it pass through the loop that would stand for election.
    assert!(cluster.nodes[1].handle.overview().await.is_some());
    assert_eq!(cluster.won(1), 0, "it would not be able to lead");
    cluster.nodes[1].log.heal();
    standing.wait_for(|standing| !standing.log_silent).await.unwrap();
    standing.wait_for(|standing| standing.leading).await.unwrap();
    assert_eq!(follower.get("/readyz").await.status, 200);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stands_for_election_once_it_has_read_the_log() {
    let mut cluster = Cluster::start(1).await;
    cluster.elect(0).await;
    let [client] = cluster.clients();
    let digest = cluster.upload(client, TASK).await;
    for number in 0..50 {
        let made = client.put(&format!("/v1/aliases/a{number}"), &json!({"digest": digest})).await;
        assert_eq!(made.status, 201, "{made:?}");
    }
    let joined = cluster.join().await;
    cluster.elect(joined).await;
    assert_eq!(cluster.early(), Vec::<String>::new());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f50_leadership_moves_while_hundreds_are_in_flight() {
    const TASKS: usize = 600;
    let cluster = Cluster::start(3).await;
    cluster.elect(0).await;
    let clients = cluster.clients::<3>();
    let digest = cluster.upload(clients[0], TASK).await;
    let begun = AtomicUsize::new(0);
    let submitted = stream::iter(0..TASKS).map(|number| {
        begun.fetch_add(1, Ordering::Relaxed);
        let task = json!({"module": digest, "input_text": "echo", "idempotency_key": number.to_string()});
        let client = clients[number % 3];
        async move {
            let answer = submit_until_accepted(client, &task).await;
            assert!(matches!(answer.status, 200 | 201), "{answer:?}");
            answer.json()["id"].as_str().unwrap().to_owned()
        }
    });
    let moved = async {
        for (round, next) in [1, 2, 0, 2, 1].into_iter().enumerate() {
            until("some more are under way", async || begun.load(Ordering::Relaxed) > 100 * round).await;
            if round % 2 == 0 {
                cluster.depose_all();
            }
            cluster.elect(next).await;
        }
    };
    let (ids, ()) = tokio::join!(submitted.buffer_unordered(32).collect::<Vec<_>>(), moved);
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), TASKS, "each key has a task of its own");
    for id in &ids {
        assert_eq!(clients[1].ended(&json!(id)).await["state"], "succeeded");
    }
    let mut histories = Vec::new();
    for client in clients {
        let mut of_node = BTreeMap::new();
        let mut page = client.get("/v1/tasks?limit=1000").await.json();
        for task in page["items"].as_array_mut().unwrap() {
            let id = task["id"].as_str().unwrap().to_owned();
            let history = client.get(&format!("/v1/tasks/{id}/events")).await;
            of_node.insert(id, (history.status, history.text()));
        }
        assert_eq!(
            of_node.keys().collect::<BTreeSet<_>>(),
            ids.iter().collect(),
            "none is lost and none was made twice"
        );
        histories.push(of_node);
    }
    assert!(histories.windows(2).all(|pair| pair[0] == pair[1]), "every node reads the same");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f41_what_no_record_could_hold_is_refused_at_the_door() {
    let cluster = Cluster::start(2).await;
    cluster.elect(0).await;
    for client in cluster.clients::<2>() {
        let refused = client.post_bytes("/v1/modules", SPRAWLING).await;
        assert_eq!(refused.problem(), "413 body_too_large", "{}", client.base);
        assert!(refused.json()["limit"].as_u64().is_some_and(|limit| limit < 1 << 20), "{refused:?}");
        assert_eq!(client.get("/readyz").await.status, 200);
        cluster.upload(client, TASK).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_follows_shows_more_hosts_than_a_message_holds() {
    const HOSTS: usize = 3_000;
    let cluster = Cluster::start(2).await;
    cluster.elect(0).await;
    let [leader, follower] = cluster.clients();
    let mut registrations = Vec::new();
    for number in 0..HOSTS {
        let labels = BTreeMap::from([("rack".to_owned(), "x".repeat(250))]);
        let host = HostInfo { id: HostId::from(&*format!("many-{number:04}")), labels, ..HostInfo::default() };
        registrations.push(cluster.fabric.membership.register(host).await.unwrap());
    }
    let count = async |client: &Client| client.get("/v1/status").await.json()["hosts"].as_u64();
    until("the leader knows all hosts", async || count(leader).await == Some(1 + HOSTS as u64)).await;
    assert_eq!(count(follower).await, Some(1 + HOSTS as u64));
    let mut seen = Vec::new();
    let mut next = json!("a");
    while let Some(cursor) = next.as_str() {
        let page = follower.get(&format!("/v1/hosts?limit=1000&cursor={cursor}")).await.json();
        seen.extend(page["items"].as_array().unwrap().iter().map(|host| host["id"].as_str().unwrap().to_owned()));
        next = page["next"].clone();
    }
    let expect: BTreeSet<_> = (0..HOSTS).map(|number| format!("many-{number:04}")).chain(["fake".to_owned()]).collect();
    assert_eq!(seen, expect.into_iter().collect::<Vec<_>>(), "all of them, in order");
    cluster.stop().await;
}
