//! The command line as scripts use it: exit codes, stdout, names and tokens.

use std::process::Stdio;

use wasmill_e2e::{Server, guest, run, signal, until};

#[test]
fn exit_codes_tell_what_happened() {
    let server = Server::start();
    server.push("hello");
    server.push("spin-forever");
    let hello = r#"{"name": "Ada"}"#;
    for (arguments, code) in [
        (&["run", "hello", "--input", hello][..], 0),
        (&["run", "hello", "--input", r#"{"name": ""}"#], 1),
        (&["run", "spin-forever", "--fuel", "1000"], 1),
        (&["run", "hello", "--input", "{"], 2),
        (&["run", "./missing.wasm"], 2),
        (&["dance"], 2),
        (&["--server", "http://127.0.0.1:1", "--token", "t", "status"], 3),
        (&["run", "nobody"], 4),
        (&["--token", "wrong", "status"], 4),
        (&["get", "01890a5d-ac96-774b-bcce-b302099a8057"], 4),
    ] {
        let ended = server.run(arguments).with_code(code);
        if code != 0 {
            assert!(ended.stdout.is_empty(), "{arguments:?} writes to stdout");
            assert!(ended.stderr.starts_with("error: ") || code == 1, "{arguments:?}: {}", ended.stderr);
        }
    }
}

#[test]
fn json_is_what_http_answers_also_when_that_is_a_problem() {
    let server = Server::start();
    let refused = server.run(&["--json", "get", "01890a5d-ac96-774b-bcce-b302099a8057"]).with_code(4);
    assert_eq!(refused.json()["code"], "task_unknown");
    assert!(refused.stderr.starts_with("error: "), "{}", refused.stderr);
    let unreachable = server.run(&["--json", "--server", "http://127.0.0.1:1", "status"]).with_code(3);
    assert!(unreachable.stdout.is_empty());
}

#[test]
fn an_interrupted_run_cancels_its_task() {
    let server = Server::start();
    server.push("spin-forever");
    let mut command = server.command(&["run", "spin-forever", "--cpu-ms", "600000", "--wall-ms", "600000"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the client can be started");
    let id = until("the task to run", || {
        let running = server.run(&["ps", "--state", "running", "--json"]).done().json();
        running["items"][0]["id"].as_str().map(str::to_owned)
    });
    signal(&child, "INT");
    let status = child.wait().expect("a child can be waited for");
    assert_eq!(status.code(), Some(130));
    assert_eq!(server.task(&id)["state"], "cancelled");
}

#[test]
fn stdout_has_the_result_and_nothing_else() {
    let server = Server::start();
    let file = guest("csv-sum");
    let bytes = b"a\n1\n2\n";
    let ended = server.run_with(&["run", &file.to_string_lossy(), "--input-file", "-"], bytes).done();
    assert_eq!(ended.stdout, b"a,3\n");
    assert_eq!(ended.stderr, "");
    // A second time nothing is uploaded, and nothing changes.
    let again = server.run_with(&["run", &file.to_string_lossy(), "--input-file", "-"], bytes).done();
    assert_eq!(again, ended);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let server = Server::start();
    let mut command = server.command(&["ps"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the client can be started");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("a child can be waited for");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn aliases_move_and_tasks_keep_their_module() {
    let server = Server::start();
    server.push("hello");
    let digest = server.run(&["alias", "ls", "--json"]).done().json()["items"][0]["digest"].as_str().map(str::to_owned);
    let digest = digest.expect("the alias is listed");
    let waiting = server.submit(&["hello", "--delay", "600000"]);
    let other = server.run(&["push", &guest("noop").to_string_lossy()]).done().text().to_owned();
    let _ = server.run(&["alias", "set", "hello", &other]).done();
    assert_eq!(server.task(&waiting)["module"], digest.as_str());
    assert_eq!(server.task(&server.submit(&["hello"]))["module"], other.as_str());
    let _ = server.run(&["modules", "rm", &digest]).with_code(4);
    let _ = server.run(&["cancel", &waiting]).done();
    let _ = server.run(&["modules", "rm", &digest]).done();
    let _ = server.run(&["alias", "set", "hello:v2", "hello"]).done();
    let names = server.run(&["alias", "ls", "--json"]).done().json();
    let same = names["items"].as_array().into_iter().flatten().filter(|alias| alias["digest"] == other.as_str());
    assert_eq!(same.count(), 2, "a name of a name points at its module: {names}");
    let _ = server.run(&["alias", "set", "hello:v3", "nobody"]).with_code(4);
    let _ = server.run(&["alias", "rm", "hello"]).done();
    let _ = server.run(&["run", "hello"]).with_code(4);
}

#[test]
fn tenants_do_not_see_each_other() {
    let server = Server::start();
    server.push("hello");
    let id = server.submit(&["hello", "--input", r#"{"name": "Ada"}"#]);
    let _ = server.run(&["tenant", "create", "acme", "--weight", "2", "--tasks-queued", "1"]).done();
    let token =
        |role| server.run(&["token", "create", "test", "--role", role, "--tenant", "acme"]).done().text().to_owned();
    let (submit, read) = (token("submit"), token("read"));
    let _ = server.run(&["--token", &submit, "get", &id]).with_code(4);
    let _ = server.run(&["--token", &submit, "run", "hello"]).with_code(4);
    let noop = guest("noop");
    let _ = server.run(&["--token", &read, "push", &noop.to_string_lossy()]).with_code(4);
    let _ = server.run(&["--token", &submit, "push", &noop.to_string_lossy(), "--alias", "noop"]).done();
    let _ = server.run(&["--token", &submit, "submit", "noop", "--delay", "600000"]).done();
    let over = server.run(&["--token", &submit, "submit", "noop", "--delay", "600000"]).with_code(4);
    assert!(over.stderr.contains("tasks_queued"), "the message names the quota: {}", over.stderr);
    assert_eq!(
        server.run(&["--token", &submit, "ps", "--json"]).done().json()["items"].as_array().map(Vec::len),
        Some(1)
    );
    let _ = server.run(&["tenant", "rm", "acme"]).done();
    let _ = server.run(&["--token", &submit, "ps"]).with_code(4);
}

#[test]
fn tasks_can_be_looked_at_from_all_sides() {
    let server = Server::start();
    server.push("hello");
    let name = r#"{"name": "Ada"}"#;
    let id = server.submit(&["hello", "--input", name, "--name", "first", "--label", "team=blue", "--priority", "-7"]);
    let _ = server.run(&["wait", &id]).done();
    let task = server.task(&id);
    assert_eq!(
        (&task["name"], &task["labels"]["team"], &task["priority"]),
        (&"first".into(), &"blue".into(), &(-7).into())
    );
    assert_eq!(task["input"]["name"], "Ada");
    assert!(server.run(&["ps", "--label", "team=blue"]).done().text().contains(&id));
    assert!(!server.run(&["ps", "--label", "team=red"]).done().text().contains(&id));
    assert!(server.run(&["get", &id]).done().text().contains("succeeded"));
    assert_eq!(server.run(&["logs", &id]).done().text(), "greeting Ada");
    let events = server.run(&["events", &id]).done();
    for event in ["submitted", "attempt_started", "ended"] {
        assert!(events.text().contains(event), "{event} is missing:\n{}", events.text());
    }
    assert!(server.run(&["hosts"]).done().text().contains("ready"));
    assert!(server.run(&["status"]).done().text().contains("standalone"));
    let failed = server.submit(&["hello", "--input", r#"{"name": ""}"#]);
    let _ = server.run(&["wait", &failed]).with_code(1);
    let retried = server.run(&["retry", &failed]).done().text().to_owned();
    assert_eq!(server.task(&retried)["retry_of"], failed.as_str());
}

/// A file of the certificate that tests have, which is of `127.0.0.1`.
fn certificate(name: &str) -> String {
    format!("{}/../../scheduler/http/tests/tls/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn https_needs_no_proxy() {
    let (cert, key, ca) = (certificate("cert.pem"), certificate("key.pem"), certificate("ca.pem"));
    let mut server = Server::start_with(&["--tls-cert", &cert, "--tls-key", &key]);
    assert!(server.url().starts_with("https://127.0.0.1:"), "{}", server.url());
    let distrusted = server.run(&["status"]).with_code(3);
    assert!(distrusted.stderr.contains("--ca"), "{}", distrusted.stderr);
    let hello = guest("hello");
    let run = ["--ca", &ca, "run", &hello.to_string_lossy(), "--input", r#"{"name": "Ada"}"#];
    assert_eq!(server.run(&run).done().json()["greeting"], "Hello, Ada!");
    let _ = run_in_environment(&server, &ca).done();
    let _ = server.run(&["--ca", &key, "status"]).with_code(2);
    server.stop();
    let alone = server.run(&["up", "--listen", "127.0.0.1:0", "--tls-cert", &cert]).with_code(2);
    assert!(alone.stderr.contains("--tls-key"), "{}", alone.stderr);
    let swapped = server.run(&["up", "--listen", "127.0.0.1:0", "--tls-cert", &key, "--tls-key", &cert]).with_code(3);
    assert!(swapped.stderr.contains("cannot read a certificate"), "{}", swapped.stderr);
}

fn run_in_environment(server: &Server, ca: &str) -> wasmill_e2e::Ended {
    run(server.command(&["status"]).env("WASMILL_CA", ca), b"")
}

#[test]
fn without_a_server_the_message_says_what_to_do() {
    let empty = tempfile::tempdir().expect("a directory can be made");
    let mut command = std::process::Command::new(wasmill_e2e::binary());
    command.args(["ps", "--data"]).arg(empty.path()).env_remove("WASMILL_SERVER").env_remove("WASMILL_TOKEN");
    let ended = run(&mut command, b"").with_code(3);
    assert!(ended.stderr.contains("wasmill up"), "{}", ended.stderr);
}
