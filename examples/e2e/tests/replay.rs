//! An attempt is run again on one's own machine, and a deterministic result is not computed twice.

use serde_json::Value;
use wasmill_e2e::Server;

/// Enough that three in a row come up, whatever the seed.
const BREAKS: &str = r#"{"throws": 100000}"#;
/// Two throws cannot be three in a row.
const HOLDS: &str = r#"{"throws": 2}"#;

fn replay(server: &Server, arguments: &[&str], code: i32) -> Value {
    server.run(&[&["replay", "--json"], arguments].concat()).with_code(code).json()
}

#[test]
fn a_trap_is_replayed_to_the_same_place_with_the_same_fuel() {
    let server = Server::start();
    server.push("dice");
    // The seed is drawn from the task's id.
    let id = server.submit(&["dice", "--input", BREAKS, "--deterministic", "--fuel", "1000000000"]);
    let _ = server.run(&["wait", &id]).with_code(1);
    let task = server.task(&id);
    assert_eq!((&task["outcome"]["kind"], &task["outcome"]["trap"]), (&"trapped".into(), &"unreachable".into()));

    let again = replay(&server, &[&id], 0);
    assert_eq!((&again["same"], &again["attempt"]), (&true.into(), &1.into()));
    assert_eq!(again["outcome"], task["outcome"], "kind, message and backtrace");
    assert_eq!(again["usage"]["fuel"], task["usage"]["fuel"]);
    assert!(again["usage"]["fuel"].as_u64() > Some(0));
    let frames = again["outcome"]["backtrace"].as_array().expect("a trap has a backtrace");
    assert!(frames.iter().any(|frame| frame.as_str().is_some_and(|frame| frame.contains("play"))), "{frames:?}");

    let told = server.run(&["replay", &id]).done();
    assert!(told.stdout.is_empty(), "there is no result");
    for expected in ["three times", "trapped (unreachable)", "same as recorded"] {
        assert!(told.stderr.contains(expected), "{expected}: {}", told.stderr);
    }
    let logs = server.run(&["logs", &id]).done();
    assert!(told.stderr.contains(logs.text()), "what the guest wrote is the same: {}", told.stderr);
}

#[test]
fn a_result_is_replayed_to_the_same_bytes() {
    let server = Server::start();
    server.push("dice");
    let id = server.submit(&["dice", "--input", HOLDS, "--deterministic", "--seed", "7"]);
    let _ = server.run(&["wait", &id]).done();
    let output = server.run(&["get", "--output", &id]).done();
    let again = server.run(&["replay", &id]).done();
    assert_eq!(again.stdout, output.stdout);
    assert!(again.stderr.contains("same as recorded: succeeded"), "{}", again.stderr);
}

#[test]
fn chance_is_told_from_a_fault() {
    let server = Server::start();
    server.push("dice");
    // The result has the time in it.
    let id = server.submit(&["dice", "--input", HOLDS]);
    let _ = server.run(&["wait", &id]).done();
    let again = server.run(&["replay", &id]).with_code(1);
    assert!(again.stderr.contains("output differs"), "{}", again.stderr);
    assert!(again.stderr.contains("not deterministic"), "{}", again.stderr);
}

#[test]
fn an_attempt_continues_from_the_checkpoint_that_it_had() {
    let server = Server::start();
    server.push("resumable");
    let input = r#"{"steps": 10, "rounds_per_step": 1000, "interrupt_after": 4}"#;
    let id = server.submit(&["resumable", "--attempts", "5", "--input", input, "--deterministic", "--backoff", "0"]);
    let _ = server.run(&["wait", &id]).done();
    let last = replay(&server, &[&id], 0);
    assert_eq!((&last["attempt"], &last["same"]), (&3.into(), &true.into()));
    for attempt in ["1", "2"] {
        let earlier = replay(&server, &["--attempt", attempt, &id], 0);
        assert_eq!(earlier["outcome"]["kind"], "errored", "{earlier}");
    }
    let _ = server.run(&["replay", "--attempt", "4", &id]).with_code(4);
}

#[test]
fn what_cannot_be_replayed_says_why() {
    let server = Server::start();
    server.push("hello");
    let name = r#"{"name": "Ada"}"#;
    let later = server.submit(&["hello", "--input", name, "--delay", "600000"]);
    assert!(server.run(&["replay", &later]).with_code(4).stderr.contains("was never tried"));
    let _ = server.run(&["cancel", &later]).done();
    let _ = server.run(&["replay", "01890a5d-ac96-774b-bcce-b302099a8057"]).with_code(4);

    server.push("spin-forever");
    let running = server.submit(&["spin-forever", "--cpu-ms", "600000", "--wall-ms", "600000"]);
    server.wait_for(&running, "running");
    assert!(server.run(&["replay", &running]).with_code(4).stderr.contains("has not ended yet"));
    let _ = server.run(&["cancel", &running]).done();

    let done = server.submit(&["hello", "--input", name]);
    let _ = server.run(&["wait", &done]).done();
    let digest = server.task(&done)["module"].as_str().expect("a task has a module").to_owned();
    let _ = server.run(&["modules", "rm", &digest]).done();
    assert!(server.run(&["replay", &done]).with_code(4).stderr.contains("upload the same file again"));
}

/// The task, once it has succeeded.
fn succeeded(server: &Server, arguments: &[&str]) -> (String, Value) {
    let id = server.submit(arguments);
    let _ = server.run(&["wait", &id]).done();
    (id.clone(), server.task(&id))
}

#[test]
fn a_deterministic_result_is_computed_once() {
    let server = Server::start();
    server.push("dice");
    let seeded = ["dice", "--input", HOLDS, "--deterministic", "--seed", "7", "--fuel", "1000000"];
    let (_, first) = succeeded(&server, &seeded);
    assert_eq!(first["cached"], false);
    let (id, again) = succeeded(&server, &seeded);
    assert_eq!(again["cached"], true);
    assert_eq!((&again["output"], &again["outcome"]), (&first["output"], &first["outcome"]));
    assert_eq!(
        (&again["usage"]["fuel"], &again["usage"]["run_us"]),
        (&first["usage"]["fuel"], &first["usage"]["run_us"])
    );
    let events = server.run(&["events", "--json", &id]).done().json();
    let ended = events["items"].as_array().into_iter().flatten().find(|event| event["event"] == "attempt_ended");
    assert_eq!(ended.map(|event| &event["cached"]), Some(&true.into()));
    assert!(server.run(&["get", &id]).done().text().contains("known from an earlier run"));
    let replayed = replay(&server, &[&id], 0);
    assert_eq!(replayed["same"], true, "and it is what a run gives");

    for other in [
        &["dice", "--input", HOLDS, "--deterministic", "--seed", "8", "--fuel", "1000000"][..],
        &["dice", "--input", HOLDS, "--deterministic", "--seed", "7", "--fuel", "1000001"],
        &["dice", "--input", HOLDS, "--deterministic", "--seed", "7"],
        &["dice", "--input", HOLDS, "--deterministic", "--fuel", "1000000"],
        &["dice", "--input", HOLDS, "--fuel", "1000000"],
    ] {
        assert_eq!(succeeded(&server, other).1["cached"], false, "{other:?}");
    }
    let _ = server.run(&["tenant", "create", "acme"]).done();
    let dice = wasmill_e2e::guest("dice");
    let _ = server.run(&["--tenant", "acme", "push", &dice.to_string_lossy(), "--alias", "dice"]).done();
    let of_acme = server.run(&[&["--tenant", "acme", "submit"], &seeded[..]].concat()).done().text().to_owned();
    let _ = server.run(&["--tenant", "acme", "wait", &of_acme]).done();
    let of_acme = server.run(&["--tenant", "acme", "get", "--json", &of_acme]).done().json();
    assert_eq!((&of_acme["state"], &of_acme["cached"]), (&"succeeded".into(), &false.into()));
}

#[test]
fn a_guest_that_asks_which_attempt_it_is_is_run_every_time() {
    let server = Server::start();
    server.push("hello");
    let seeded = ["hello", "--input", r#"{"name": "Ada"}"#, "--deterministic", "--seed", "7"];
    for _ in 0..2 {
        assert_eq!(succeeded(&server, &seeded).1["cached"], false);
    }
}
