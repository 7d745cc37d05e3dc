//! Promises to an operator: who can read the data, and how a server ends.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use wasmill_e2e::{Server, binary, run, until};

fn entries(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("it can be read") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            entries(&path, found);
        }
        found.push(path);
    }
}

#[test]
fn nobody_else_can_read_the_data_whatever_the_umask() {
    let mut server = Server::start_in_the_open(0o755);
    server.push("hello");
    let long = "x".repeat(100_000);
    let _ =
        server.run_with(&["run", "hello", "--input-file", "-"], format!("{{\"name\":\"{long}\"}}").as_bytes()).done();
    let mut found = vec![server.data().to_owned()];
    entries(server.data(), &mut found);
    for part in ["log.sqlite", "log.sqlite-wal", "read-model.sqlite", "term", "lock", "server.addr", "admin.token"] {
        assert!(found.iter().any(|path| path.ends_with(part)), "{part} is there");
    }
    for path in &found {
        // Some are there for a moment only.
        let Ok(metadata) = std::fs::symlink_metadata(path) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{} has mode {mode:03o}", path.display());
    }
    server.stop();
}

#[test]
fn a_directory_into_which_everybody_may_write_is_refused() {
    let data = tempfile::tempdir().expect("a directory can be made");
    std::fs::set_permissions(data.path(), Permissions::from_mode(0o777)).expect("the mode can be set");
    let mut command = Command::new(binary());
    command.args(["up", "--listen", "127.0.0.1:0", "--data"]).arg(data.path()).stdout(Stdio::null());
    let ended = run(&mut command, b"").with_code(2);
    assert!(ended.stderr.contains("everybody may write into it"), "{}", ended.stderr);
}

#[test]
fn a_server_that_stops_says_so_and_serves_until_what_runs_has_ended() {
    let mut server = Server::start_with(&["--drain-ms", "1000"]);
    server.push("hello");
    server.push("spin-forever");
    let done = server.submit(&["hello", "--input", r#"{"name": "Ada"}"#]);
    server.wait_for(&done, "succeeded");
    let running = server.submit(&["spin-forever", "--cpu-ms", "600000", "--wall-ms", "600000"]);
    server.wait_for(&running, "running");
    assert_eq!(server.get("/readyz").0, 200);
    server.ask_to_stop();
    until("it is not ready", || (server.get("/readyz").0 == 503).then_some(()));
    assert_eq!(server.get(&format!("/v1/tasks/{done}/output")).0, 200, "results can be fetched");
    let (status, _) = server.post(&format!("/v1/tasks/{running}/cancel?wait_ms=20000"), &[], "{}");
    assert_eq!(status, 200, "what runs can be cancelled");
    until("it has ended", || server.has_ended().then_some(()));
}
