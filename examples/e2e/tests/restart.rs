//! Nothing that was accepted is lost, whatever happens to the server.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use serde_json::Value;
use wasmill_e2e::{Server, run, until};

/// Tasks of the flood.
const TASKS: usize = 3_000;
/// Of which so many are accepted before the server is killed.
const ACCEPTED_BEFORE_KILL: usize = 500;

/// Tasks that take a moment, each with a key by which it is submitted only once.
fn flood() -> String {
    let task = |number| {
        format!(
            "{{\"module\": \"prime-sieve\", \"input\": {{\"below\": 20000}}, \"idempotency_key\": \"flood-{number}\"}}\n"
        )
    };
    (0..TASKS).map(task).collect()
}

#[test]
fn a_kill_under_load_loses_nothing_and_repeats_nothing() {
    let mut server = Server::start();
    server.push("prime-sieve");
    let flood = flood();
    let mut client = server
        .command(&["submit", "--ndjson", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the client can be started");
    let mut stdin = client.stdin.take().expect("stdin is a pipe");
    let mut answers = BufReader::new(client.stdout.take().expect("stdout is a pipe")).lines();
    let writer = {
        let flood = flood.clone();
        // The client dies with the server in the middle of it.
        std::thread::spawn(move || drop(stdin.write_all(flood.as_bytes())))
    };
    let mut accepted: Vec<String> = answers.by_ref().take(ACCEPTED_BEFORE_KILL).map_while(Result::ok).collect();
    server.kill();
    accepted.extend(answers.map_while(Result::ok));
    let _ = client.wait();
    writer.join().expect("the writer does not panic");
    assert!(accepted.len() >= ACCEPTED_BEFORE_KILL, "only {} were accepted", accepted.len());

    server.restart();
    let again = server.run_with(&["submit", "--ndjson", "-"], flood.as_bytes()).done();
    let ids: Vec<&str> = again.text().lines().collect();
    assert_eq!(ids.len(), TASKS);
    assert_eq!(ids[..accepted.len()], accepted, "a repeated key gives the same task");
    server.kill_and_restart();
    server.wait_until_idle();

    let tasks = until("the listing to be complete", || Some(server.tasks()).filter(|tasks| tasks.len() == TASKS));
    let unfinished: Vec<&Value> = tasks.iter().filter(|task| task["state"] != "succeeded").collect();
    assert!(unfinished.is_empty(), "{} tasks did not succeed, the first is {}", unfinished.len(), unfinished[0]);
    let listed: BTreeSet<&str> = tasks.iter().filter_map(|task| task["id"].as_str()).collect();
    assert_eq!(listed, ids.into_iter().collect());
}

/// Snapshots and copies of the read model all the time, and everything trimmed that can be.
const SNAPSHOTS_ALL_THE_TIME: &str = "\
    [snapshot]\nrecords = 4\nlog_bytes = 4096\nkeep_records = 0\ncopy_log_bytes = 4096\ncopy_percent = 0\n";

#[test]
fn f32_kills_while_snapshots_are_taken_lose_nothing() {
    const ROUNDS: usize = 6;
    const TASKS_PER_ROUND: usize = 400;
    let mut server = Server::start_with_settings(SNAPSHOTS_ALL_THE_TIME);
    server.push("prime-sieve");
    let mut expected = BTreeSet::new();
    for round in 0..ROUNDS {
        let flood: String = flood()
            .lines()
            .skip(round * TASKS_PER_ROUND)
            .take(TASKS_PER_ROUND)
            .fold(String::new(), |text, line| text + line + "\n");
        let submitted = server.run_with(&["submit", "--ndjson", "-"], flood.as_bytes()).done();
        expected.extend(submitted.text().lines().map(str::to_owned));
        server.kill();
        if round % 2 == 1 {
            // A node without a read model begins with its copy.
            for file in ["read-model.sqlite", "read-model.sqlite-wal", "read-model.sqlite-shm"] {
                let _ = std::fs::remove_file(server.data().join(file));
            }
        }
        server.restart();
    }
    server.wait_until_idle();
    let count = ROUNDS * TASKS_PER_ROUND;
    let tasks = until("the listing to be complete", || Some(server.tasks()).filter(|tasks| tasks.len() == count));
    assert!(tasks.iter().all(|task| task["state"] == "succeeded"));
    let listed: BTreeSet<String> = tasks.iter().filter_map(|task| task["id"].as_str().map(str::to_owned)).collect();
    assert_eq!(listed, expected);
    let again = server.run_with(&["submit", "--ndjson", "-"], flood().as_bytes()).done();
    let repeated = again.text().lines().filter(|id| expected.contains(*id)).count();
    assert_eq!(repeated, count, "keys of all times are known");
}

#[test]
fn a_killed_task_continues_from_its_checkpoint() {
    let mut server = Server::start();
    server.push("resumable");
    // Long enough to be met in the middle on any machine.
    let id = server.submit(&[
        "resumable",
        "--attempts",
        "1",
        "--cpu-ms",
        "600000",
        "--wall-ms",
        "600000",
        "--input",
        r#"{"steps": 100}"#,
    ]);
    until("the task to get on", || Some(server.task(&id)).filter(|task| task["progress"]["done"].as_u64() >= Some(3)));
    server.kill_and_restart();
    let _ = server.run(&["wait", &id]).done();
    let output = server.run(&["get", "--output", &id]).done().json();
    assert_eq!(output["attempt"], 2, "a lost host does not use up the only attempt");
    assert!(output["resumed_at"].as_u64() >= Some(1), "{output}");
}

#[test]
fn an_orderly_stop_hands_back_what_runs() {
    let mut server = Server::start();
    server.push("hello");
    server.push("spin-forever");
    let spinning = server.submit(&["spin-forever", "--attempts", "1", "--cpu-ms", "600000", "--wall-ms", "600000"]);
    let later = server.submit(&["hello", "--input", r#"{"name": "Ada"}"#, "--delay", "600000"]);
    server.wait_for(&spinning, "running");
    server.stop();
    server.restart();
    assert_eq!(server.task(&later)["state"], "waiting");
    server.wait_for(&spinning, "running");
    let _ = server.run(&["cancel", &spinning, &later]).done();
}

#[test]
fn two_servers_do_not_share_their_data() {
    let server = Server::start();
    let data = server.data().to_string_lossy().into_owned();
    let second = run(&mut server.command(&["up", "--listen", "127.0.0.1:0", "--data", &data]), b"").with_code(3);
    assert!(second.stdout.is_empty());
    assert!(second.stderr.contains(&data), "the message names the directory: {}", second.stderr);
    let _ = server.run(&["status"]).done();
}
