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
