//! Control nodes and hosts as processes of their own, on real NATS and etcd: what users and
//! operators see when some of them go.

use std::collections::BTreeSet;
use std::process::Stdio;

use serde_json::Value;
use wasmill_e2e::{Cluster, until};

/// Runs until it is stopped.
const SPIN: [&str; 8] = ["submit", "spin-forever", "--attempts", "1", "--cpu-ms", "600000", "--wall-ms", "600000"];

/// The hosts that are ready, as a node sees them.
fn ready(cluster: &Cluster, node: usize) -> BTreeSet<String> {
    let seen = cluster.hosts_seen(node).into_iter();
    seen.filter(|(_, state)| state == "ready").map(|(id, _)| id).collect()
}

/// Waits until a task runs on a host, and says on which.
fn runs_on(cluster: &Cluster, node: usize, task: &str, not_on: Option<&str>) -> String {
    until("the task to run", || {
        let task = cluster.task(node, task);
        let host = task["host"].as_str().filter(|host| task["state"] == "running" && Some(*host) != not_on);
        host.map(str::to_owned)
    })
}

#[test]
fn every_node_of_a_cluster_serves_alike() {
    let mut cluster = Cluster::start(3, 2);
    let leader = cluster.leader();
    let follower = cluster.followers()[0];
    for node in 0..3 {
        let status = cluster.status(node);
        assert_eq!(status["mode"], "cluster", "{status}");
        assert_eq!(status["leader"], cluster.status(leader)["node"], "{status}");
        assert!(status["term"].as_u64() > Some(0) && status["log_seq"].as_u64() > Some(0), "{status}");
        until("both hosts to be ready", || (ready(&cluster, node).len() == 2).then_some(()));
    }

    cluster.push(follower, "hello");
    for node in 0..3 {
        // A module made on one node is there on every other.
        let ran = cluster.run(node, &["run", "hello", "--input", r#"{"name": "Ada"}"#]).done();
        assert!(ran.text().contains("Ada"), "{ran:?}");
        let bulk = cluster.run(node, &["ps", "--json"]).done().json();
        assert_eq!(bulk["items"].as_array().map(Vec::len), Some(node + 1), "{bulk}");
    }
    // A file is uploaded, submitted, waited for and read: a request each, and each may go to
    // another node.
    let file = wasmill_e2e::guest_file("word-count");
    let ran = cluster.run(follower, &["run", &file, "--input-text", "one two"]).done();
    assert!(ran.text().contains(r#""words":2"#), "{ran:?}");

    let host = cluster.hosts[0].name.clone();
    let _ = cluster.run(follower, &["hosts", "drain", &host]).done();
    let drains = |node: usize| cluster.hosts_seen(node).iter().any(|(id, state)| *id == host && state == "draining");
    assert!((0..3).all(drains), "{:?}", cluster.hosts_seen(leader));
    // An operator's word outlives the leader.
    cluster.controls[leader].stop();
    let next = cluster.leader();
    assert_ne!(next, leader);
    until("the new leader to know the host", || {
        cluster.hosts_seen(next).iter().any(|(id, _)| *id == host).then_some(())
    });
    let seen = cluster.hosts_seen(next);
    assert!(seen.iter().any(|(id, state)| *id == host && state == "draining"), "{seen:?}");
    let _ = cluster.run_patiently(next, &["hosts", "undrain", &host]).done();
    until("the host to be ready", || ready(&cluster, next).contains(&host).then_some(()));
}

#[test]
fn f04_c16_a_killed_leader_loses_nothing_and_keys_keep_naming_their_tasks() {
    const TASKS: usize = 1_500;
    let mut cluster = Cluster::start(3, 2);
    let (leader, follower) = (cluster.leader(), cluster.followers()[0]);
    cluster.push(follower, "prime-sieve");
    let task = |number| {
        format!(
            "{{\"module\": \"prime-sieve\", \"input\": {{\"below\": 1000}}, \"idempotency_key\": \"flood-{number}\"}}\n"
        )
    };
    let flood: String = (0..TASKS).map(task).collect();
    let file = cluster.controls[follower].data.join("flood");
    std::fs::write(&file, &flood).expect("a file can be written");
    let submit = ["submit", "--ndjson", &file.to_string_lossy()];
    let client = cluster.command(follower, &submit).stdout(Stdio::piped()).spawn().expect("the client can be started");
    let before = cluster.status(follower)["log_seq"].as_u64();
    until("tasks to be accepted", || (cluster.status(follower)["log_seq"].as_u64() > before).then_some(()));
    cluster.controls[leader].kill();
    let _ = client.wait_with_output().expect("the client ends");

    // The same keys give each task once, whatever it was told.
    let again = until("everything to be accepted", || {
        Some(cluster.run(follower, &submit)).filter(|ended| ended.code == Some(0))
    });
    let ids: BTreeSet<&str> = again.text().lines().collect();
    assert_eq!(ids.len(), TASKS);
    until("the queue to be empty", || {
        let queue = cluster.run(follower, &["status", "--json"]);
        let queue = (queue.code == Some(0)).then(|| queue.json()["queue"].clone())?;
        ["waiting", "queued", "running"].iter().all(|state| queue[state] == 0).then_some(())
    });
    let (mut listed, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let mut arguments = vec!["ps", "--json", "--limit", "1000"];
        arguments.extend(cursor.iter().flat_map(|cursor| ["--cursor", cursor.as_str()]));
        let page = cluster.run_patiently(follower, &arguments).done().json();
        listed.extend(page["items"].as_array().expect("a page has items").iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    let unfinished: Vec<&Value> = listed.iter().filter(|task| task["state"] != "succeeded").collect();
    assert!(unfinished.is_empty(), "{} did not succeed, the first is {}", unfinished.len(), unfinished[0]);
    assert_eq!(listed.iter().filter_map(|task| task["id"].as_str()).collect::<BTreeSet<_>>(), ids);

    // The one that was killed comes back as a follower, and says the same.
    cluster.controls[leader].restart();
    assert_ne!(cluster.leader(), leader);
    let one = cluster.task(leader, ids.first().expect("there are tasks"));
    assert_eq!(one["state"], "succeeded");
}

#[test]
fn f01_f02_what_a_lost_host_ran_runs_elsewhere_and_a_host_that_wakes_up_stops_its_own() {
    let mut cluster = Cluster::start(1, 2);
    cluster.push(0, "spin-forever");
    until("both hosts to be ready", || (ready(&cluster, 0).len() == 2).then_some(()));
    let submit = || cluster.run(0, &SPIN).done().text().to_owned();
    let (first, second) = (submit(), submit());

    // Stopped past its lease: its attempt goes to the other one, and it stops its own when it wakes
    // up.
    let lost = runs_on(&cluster, 0, &first, None);
    let sleeper = cluster.hosts.iter().position(|host| host.name == lost).expect("it is one of ours");
    cluster.hosts[sleeper].signal("STOP");
    let elsewhere = runs_on(&cluster, 0, &first, Some(&lost));
    cluster.hosts[sleeper].signal("CONT");
    until("the host to be ready in a new life", || ready(&cluster, 0).contains(&lost).then_some(()));
    until("it to run nothing any more", || {
        let hosts = cluster.run(0, &["hosts", "--json"]).done().json();
        let hosts = hosts["items"].as_array().cloned().unwrap_or_default();
        let woken = hosts.iter().find(|host| host["id"] == lost.as_str())?;
        let idle = cluster.task(0, &second)["host"] != lost.as_str();
        (!idle || woken["load_millicores"] == 0).then_some(())
    });
    assert_eq!(cluster.task(0, &first)["host"], elsewhere.as_str(), "what it had is not its own any more");

    // Killed: the same for the other one.
    let victim = cluster.hosts.iter().position(|host| host.name == elsewhere).expect("it is one of ours");
    cluster.hosts[victim].kill();
    assert_eq!(runs_on(&cluster, 0, &first, Some(&elsewhere)), lost);
    assert_eq!(runs_on(&cluster, 0, &second, Some(&elsewhere)), lost);
    let attempts = cluster.task(0, &first)["attempt"].as_u64();
    assert!(attempts >= Some(3), "lost hosts do not use up the only attempt: {attempts:?}");
    let _ = cluster.run(0, &["cancel", &first, &second]).done();
}

#[test]
fn an_orderly_stop_hands_back_what_runs_and_gives_the_lead_away() {
    let mut cluster = Cluster::start(2, 2);
    let (leader, follower) = (cluster.leader(), cluster.followers()[0]);
    cluster.push(follower, "spin-forever");
    until("both hosts to be ready", || (ready(&cluster, follower).len() == 2).then_some(()));
    let task = cluster.run(follower, &SPIN).done().text().to_owned();
    let host = runs_on(&cluster, follower, &task, None);
    let draining = cluster.hosts.iter().position(|member| member.name == host).expect("it is one of ours");
    cluster.hosts[draining].stop();
    let next = runs_on(&cluster, follower, &task, Some(&host));
    assert_ne!(next, host);

    cluster.controls[leader].stop();
    // Nobody waits for a lease to end: the next command is answered, not refused.
    let _ = cluster.run(follower, &["cancel", &task]).done();
    assert_eq!(cluster.leader(), follower);
    until("the task to have stopped", || (cluster.task(follower, &task)["state"] == "cancelled").then_some(()));
}

#[test]
fn of_nodes_that_start_together_one_makes_the_admin_token() {
    let mut cluster = Cluster::empty();
    cluster.add_control(&[]);
    cluster.add_control(&[]);
    let holders: Vec<_> = cluster
        .controls
        .iter()
        .filter(|member| member.data.join("admin.token").exists())
        .map(|member| &member.data)
        .collect();
    assert_eq!(holders.len(), 1);
    let token = std::fs::read_to_string(holders[0].join("admin.token")).expect("it can be read");
    for node in 0..2 {
        let mut status = cluster.command(node, &["status", "--json"]);
        let status = wasmill_e2e::run(status.env("WASMILL_TOKEN", token.trim()), b"").done().json();
        assert_eq!(status["mode"], "cluster");
    }
}

#[test]
fn f19_nodes_answer_503_while_nats_is_away_and_go_on_by_themselves() {
    let mut cluster = Cluster::start(2, 1);
    cluster.push(0, "hello");
    cluster.kill_nats();
    for node in 0..2 {
        let refused = cluster.run(node, &["submit", "hello", "--input", "{}"]);
        assert_eq!(refused.code, Some(3), "{refused:?}");
        assert!(refused.stderr.contains("HTTP 503"), "{refused:?}");
    }
    cluster.restart_nats();
    for node in 0..2 {
        let ran = cluster.run_patiently(node, &["run", "hello", "--input", r#"{"name": "Ada"}"#]).done();
        assert!(ran.text().contains("Ada"));
    }
    assert!(cluster.controls.iter().all(|member| member.is_running()));
}
